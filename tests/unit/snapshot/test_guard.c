/* Guard pages that no table of mappings shows: they are what they were, in the image and in each
 * job, and what is beside them is restored. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "scene.h"

enum {
    PAGE = 4096,
    PAGES = 64,
    FIRST = 20, /* the guard's */
    BEHIND = 23,
    GUARD_INSTALL = 102, /* MADV_GUARD_INSTALL of Linux 6.13 */
};

/* One from the arena; one behind the room's back, as glibc maps the stacks of threads. */
static char *area[2];

static void make_guards(void)
{
    area[0] = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    area[1] = (char *)syscall(SYS_mmap, 0L, (long)PAGES * PAGE, (long)PROT_READ | PROT_WRITE,
                              (long)MAP_PRIVATE | MAP_ANONYMOUS, -1L, 0L);
    for (int i = 0; i < 2; i++) {
        EXPECT((void *)area[i] != MAP_FAILED);
        memset(area[i], 'g', PAGES * PAGE);
        char *guard = area[i] + FIRST * PAGE;
        if (madvise(guard, (BEHIND - FIRST) * PAGE, GUARD_INSTALL) == 0)
            continue;
        EXPECT_INT(errno, EINVAL); /* an older kernel, where glibc does this */
        EXPECT_INT(mprotect(guard, (BEHIND - FIRST) * PAGE, PROT_NONE), 0);
    }
}

static void check_guards(unsigned turn)
{
    (void)turn;
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < PAGES; k++) {
            const char *p = area[i] + k * PAGE;
            bool guard = k >= FIRST && k < BEHIND;
            EXPECT_INT(scene_is_readable(p), !guard);
            EXPECT(guard || (p[0] == 'g' && memcmp(p, p + 1, PAGE - 1) == 0));
        }
}

static void write_beside_guards(unsigned turn)
{
    for (int i = 0; i < 2; i++) {
        memset(area[i] + (FIRST - 1 - turn % FIRST) * PAGE, 'x', PAGE);
        memset(area[i] + (BEHIND + turn % (PAGES - BEHIND)) * PAGE, 'x', PAGE);
    }
}

TEST(guard_pages_inside_of_a_mapping)
{
    struct scene s = { .before = make_guards, .check = check_guards, .job = write_beside_guards };
    scene_run(&s);
}
