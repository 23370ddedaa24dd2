/* Memory: whatever a job does to it is gone after the rollback. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snapshot/snapshot.h"
#include "test.h"

TEST(goes_back)
{
    static int counter;
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;
    alarm(0);
    close_range(3, ~0u, 0);
    EXPECT_INT(snapshot_prepare(&o), 0);
    int *kept = snapshot_keep_alloc(4096);
    char *heap = malloc(100000);
    char *map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(heap, 'h', 100000);
    memset(map, 'm', 1 << 20);
    int local = 5;
    int rc = snapshot_take(NULL, &no);
    if (rc < 0)
        printf("%s\n", no.text);
    EXPECT(rc > 0);
    if (*kept == 0)
        EXPECT_INT(rc, SNAPSHOT_FROZEN);
    else
        EXPECT_INT(rc, SNAPSHOT_RESUMED);
    EXPECT_INT(counter, 0);
    EXPECT_INT(local, 5);
    EXPECT(heap[777] == 'h' && map[100000] == 'm');
    counter++;
    local++;
    memset(heap, *kept, 100000);
    memset(map, *kept, 1 << 20);
    char *more = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(more[12345] == 0);
    memset(more, 7, 1 << 20);
    char *big = malloc(20 << 20);
    memset(big, 7, 20 << 20);
    if (++*kept < 50) {
        int failed = snapshot_rollback(&no);
        printf("%d %s\n", failed, no.text);
        EXPECT(!"rolled back");
    }
    struct snapshot_stats st;
    snapshot_stats(&st);
    printf("rollbacks %lu scans %lu hot %lu last %lu ns\n", st.rollbacks, st.scans, st.hot_pages,
           st.last_ns);
}

TEST(forked_workers)
{
    static int counter;
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;
    alarm(0);
    close_range(3, ~0u, 0);
    EXPECT_INT(snapshot_prepare(&o), 0);
    int *kept = snapshot_keep_alloc(4096);
    int rc = snapshot_take(NULL, &no);
    if (rc < 0)
        printf("%s\n", no.text);
    EXPECT(rc > 0);
    if (rc == SNAPSHOT_FROZEN) {
        counter = 77;
        for (int i = 0; i < 20; i++) {
            pid_t pid = snapshot_fork(false);
            if (pid == 0) {
                kept[1] = i;
                int failed = snapshot_rollback(&no);
                printf("%d %s\n", failed, no.text);
                EXPECT(!"rolled back");
            }
            int status;
            EXPECT(waitpid(pid, &status, 0) == pid);
            EXPECT_INT(status, 0);
        }
        return;
    }
    EXPECT_INT(counter, 0);
    counter++;
    if (++*kept < 50) {
        int failed = snapshot_rollback(&no);
        printf("%d %s\n", failed, no.text);
        EXPECT(!"rolled back");
    }
    _exit(0);
}
