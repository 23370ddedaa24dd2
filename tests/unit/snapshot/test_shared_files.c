/* Files of the image in several processes forked from the frozen one: an offset of one of them is
 * not the offset of the others. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snapshot/snapshot.h"
#include "test.h"

static void read_and_leave(int fd)
{
    char text[4];

    EXPECT_INT(lseek(fd, 0, SEEK_CUR), 2);
    EXPECT_INT(read(fd, text, 4), 4);
    EXPECT_STR(((struct str){ text, 4 }), STR("cdef"));
    EXPECT_INT(flock(fd, LOCK_EX | LOCK_NB), 0);
    _exit(0); /* without a rollback: the offset stays where it is */
}

TEST(forked_workers_have_offsets_of_their_own)
{
    char name[] = "/tmp/snapshot-file-XXXXXX";
    struct snapshot_refusal no = { 0 };
    struct snapshot_options o = { .verify = true };

    alarm(0);
    close_range(3, ~0u, 0);
    EXPECT_INT(snapshot_prepare(&o), 0);
    int fd = mkstemp(name);
    EXPECT(fd >= 0);
    EXPECT_INT(write(fd, "abcdefgh", 8), 8);
    EXPECT_INT(lseek(fd, 2, SEEK_SET), 2);
    unlink(name); /* opened again all the same */
    int rc = snapshot_take(NULL, &no);
    if (rc == SNAPSHOT_RESUMED)
        read_and_leave(fd);
    EXPECT_INT(rc, SNAPSHOT_FROZEN);
    for (int i = 0; i < 3; i++) {
        pid_t pid = snapshot_fork(false);
        int status = -1;
        if (pid == 0) {
            rc = snapshot_rollback(&no);
            test_fail(__FILE__, __LINE__, "no rollback: %d %s", rc, no.text);
        }
        EXPECT(waitpid(pid, &status, 0) == pid);
        EXPECT_INT(status, 0);
        EXPECT_INT(lseek(fd, 0, SEEK_CUR), 2);
    }
}
