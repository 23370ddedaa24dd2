/* What images have learned, as text: for the next program and for the file in state_dir. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "channel/report.h"
#include "server.h"

#define POOL_A "pool\twww\t33\t/index.php\n"
#define NAME_A "name\t1\t1\t12\tApp\\Foo\n"
#define POOL_B "pool\twww-worker\t0\t\n"
#define NAME_B "name\t3\t4\t4294967295\t@/a file.php\n"
#define WHOLE "sapid-state 1\n" POOL_A NAME_A POOL_B NAME_B "end\t5\n"

static struct supervisor s;

/* 0 or the line that is wrong. */
static int read_text(const char *text)
{
    return -names_read(&s, str_from(text));
}

static void expect_text(const char *expected)
{
    struct buf b;

    buf_init(&b, 1 << 20);
    EXPECT_INT(names_write(&s, true, &b), 0);
    EXPECT_STR(buf_view(&b), str_from(expected));
    buf_fini(&b);
}

TEST(what_is_written_is_read_again)
{
    supervisor_init(&s);
    expect_text("sapid-state 1\nend\t1\n");
    EXPECT_INT(read_text(WHOLE), 0);
    EXPECT_INT(s.n_names, 2);
    expect_text(WHOLE);
    names_forget(&s);
    expect_text("sapid-state 1\nend\t1\n");
}

TEST(images_of_the_program_before_are_kept_apart)
{
    supervisor_init(&s);
    EXPECT_INT(
        read_text("sapid-state 1\nimage\twww\t/a.php\texample.org:80\t1\t443\t::1\nend\t2\n"), 0);
    EXPECT_INT(s.n_heirs, 1);
    images_unread(&s);
    EXPECT_INT(s.n_heirs, 0);
    expect_text("sapid-state 1\nend\t1\n");
}

TEST(a_line_that_is_wrong_is_named_and_nothing_is_kept)
{
    static const struct {
        const char *text;
        int line;
    } cases[] = {
        { "", 1 },
        { "hello\n", 1 },
        { "sapid-state 2\nend\t1\n", 1 },
        { "sapid-state 1\n", 1 },
        { "sapid-state 1\nend\t2\n", 2 },
        { "sapid-state 1\nend\t1\nend\t2\n", 2 },
        { "sapid-state 1\nend\t1\t\n", 2 },
        { "sapid-state 1\nfile\t1\nend\t2\n", 2 },
        { "sapid-state 1\n" NAME_A "end\t2\n", 2 },
        { "sapid-state 1\n" POOL_A "name\t0\t1\t12\tFoo\nend\t3\n", 3 },
        { "sapid-state 1\n" POOL_A "name\t6\t1\t12\tFoo\nend\t3\n", 3 },
        { "sapid-state 1\n" POOL_A "name\t1\t8\t12\tFoo\nend\t3\n", 3 },
        { "sapid-state 1\n" POOL_A "name\t1\t1\t0\tFoo\nend\t3\n", 3 },
        { "sapid-state 1\n" POOL_A "name\t1\t1\t12\t\nend\t3\n", 3 },
        { "sapid-state 1\n" POOL_A "name\t1\t1\t12\n", 3 },
        { "sapid-state 1\n" POOL_A "name\t1\t1\t-1\tFoo\nend\t3\n", 3 },
        { "sapid-state 1\n" POOL_A "name\t1\t1\t12\tFoo\x01\nend\t3\n", 3 },
        { "sapid-state 1\npool\t\t33\t\nend\t2\n", 2 },
        { "sapid-state 1\npool\twww\t33\nend\t2\n", 2 },
        { "sapid-state 1\nimage\twww\t/a.php\th\t2\t443\t::1\nend\t2\n", 2 },
        { "sapid-state 1\nimage\twww\t/a.php\th\t1\t65536\t::1\nend\t2\n", 2 },
    };

    supervisor_init(&s);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        EXPECT_INT(read_text(cases[i].text), cases[i].line);
        EXPECT_INT(s.n_names, 0);
        EXPECT_INT(s.n_heirs, 0);
    }
}

TEST(a_name_that_is_too_long)
{
    char text[1024];

    supervisor_init(&s);
    snprintf(text, sizeof(text), "sapid-state 1\n" POOL_A "name\t1\t1\t12\t%0*d\nend\t3\n",
             REPORT_TEXT_BYTES + 1, 0);
    EXPECT_INT(read_text(text), 3);
    EXPECT_INT(s.n_names, 0);
}

TEST(whatever_is_damaged_is_kept_whole_or_not_at_all)
{
    static const char in_place[] = { '\0', '\t', '\n', '0', '9', 'x', '\x7f', '\xff' };
    char text[] = WHOLE;
    size_t n = strlen(text);

    supervisor_init(&s);
    for (size_t i = 0; i < n; i++) { /* cut */
        EXPECT(names_read(&s, (struct str){ text, i }) < 0);
        EXPECT_INT(s.n_names, 0);
    }
    for (size_t i = 0; i < n; i++) /* a byte that is another one */
        for (size_t k = 0; k < sizeof(in_place); k++) {
            char was = text[i];
            text[i] = in_place[k];
            int r = names_read(&s, (struct str){ text, n });
            EXPECT(r == 0 ? s.n_names > 0 : s.n_names == 0);
            text[i] = was;
            names_forget(&s);
        }
}

TEST(no_more_than_there_is_room_for)
{
    enum { POOLS = 200 };
    char *text = mem_alloc(POOLS * 64);
    size_t at = (size_t)snprintf(text, 64, "sapid-state 1\n");

    supervisor_init(&s);
    for (unsigned i = 0; i < POOLS; i++)
        at += (size_t)snprintf(text + at, 64, "pool\twww\t33\t/%u.php\n", i);
    snprintf(text + at, 64, "end\t%u\n", POOLS + 1);
    EXPECT_INT(read_text(text), 0);
    EXPECT_INT(s.n_names, 64);
    mem_free(text);
    names_forget(&s);
}

/* --- in a server ------------------------------------------------------------------------------ */

static struct server v;

/* Its state_dir is ROOT/state. */
static void prepare(void)
{
    char override[128];
    const char *const extra[] = { override, NULL };

    snprintf(override, sizeof(override), "server.state_dir=%s", "state");
    server_prepare(&v, extra);
    char path[160];
    snprintf(path, sizeof(path), "%s/state", v.root);
    EXPECT_INT(mkdir(path, 0700), 0);
}

TEST(a_stop_writes_a_file_that_only_we_can_read)
{
    struct stat st;
    char path[160];

    prepare();
    EXPECT_INT(supervisor_start(&v.s), 0);
    server_await(&v, "gateway listen", 1);
    EXPECT_INT(names_read(&v.s, STR(WHOLE)), 0);
    server_signal(&v, SIGTERM);
    while (!list_empty(&v.s.roles))
        loop_turn(v.s.loop, 5 * NS_PER_MS);
    EXPECT_INT(supervisor_run(&v.s), 0);
    snprintf(path, sizeof(path), "%s/state/learned", v.root);
    EXPECT_INT(stat(path, &st), 0);
    EXPECT_INT(st.st_mode & 0777, 0600);
    names_forget(&v.s);
    names_load(&v.s);
    EXPECT_INT(v.s.n_names, 2);
    names_forget(&v.s);
    EXPECT_INT(chmod(path, 0622), 0); /* anybody may have written it */
    names_load(&v.s);
    EXPECT_INT(v.s.n_names, 0);
    EXPECT_INT(server_finish(&v), 0);
}
