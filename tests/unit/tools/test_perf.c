/* sapid perf without a server: the verdicts, stacks as Linux perf prints them, flame graphs. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "test.h"
#include "tools/perf_int.h"

/* --- change or noise -------------------------------------------------------------------------- */

static uint64_t state = 1;

static double uniform(void)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (double)((state * UINT64_C(2685821657736338717)) >> 11) / 9007199254740992.0;
}

/* Blocks with that effect, noise of +-10 % each and one block in ten far out, as machines do it. */
static enum perf_verdict judge(double effect, int better)
{
    double ratios[12];
    struct perf_ratio r;

    for (size_t i = 0; i < ARRAY_LENGTH(ratios); i++) {
        ratios[i] = effect * (1 + 0.2 * (uniform() - 0.5));
        if (uniform() < 0.1)
            ratios[i] *= uniform() < 0.5 ? 1.6 : 1 / 1.6;
    }
    perf_judge(ratios, ARRAY_LENGTH(ratios), better, &r);
    return r.verdict;
}

static int count_of(enum perf_verdict wanted, double effect, int better)
{
    int n = 0;

    for (int i = 0; i < 100; i++)
        n += judge(effect, better) == wanted;
    return n;
}

TEST(equal_builds_are_noise_and_changed_ones_are_not)
{
    EXPECT(count_of(PERF_NOISE, 1, -1) >= 97);
    EXPECT(count_of(PERF_REGRESS, 1.25, -1) >= 80);
    EXPECT(count_of(PERF_ACCEPT, 1.25, 1) >= 80);
    EXPECT(count_of(PERF_ACCEPT, 0.8, -1) >= 80);
    EXPECT(count_of(PERF_REGRESS, 0.8, 1) >= 80);
}

TEST(a_change_that_is_certain_but_not_notable_is_noise)
{
    const double ratios[] = { 1.01, 1.01, 1.01, 1.01, 1.01, 1.01 };
    struct perf_ratio r;

    perf_judge(ratios, ARRAY_LENGTH(ratios), -1, &r);
    EXPECT_INT(r.verdict, PERF_NOISE);
    EXPECT(r.low > 1.009 && r.high < 1.011);
}

TEST(figures_that_are_missing_prove_nothing)
{
    const double ratios[] = { NAN, INFINITY, 0, -1, 2, 2 };
    struct perf_ratio r;

    perf_judge(ratios, ARRAY_LENGTH(ratios), 1, &r);
    EXPECT_INT(r.verdict, PERF_NOISE);
    EXPECT(isinf(r.high));
    perf_judge(ratios, 0, 1, &r);
    EXPECT_INT(r.verdict, PERF_NOISE);
}

TEST(the_same_figures_give_the_same_interval)
{
    const double ratios[] = { 1.1, 1.3, 0.9, 1.2, 1.15, 1.05, 1.4 };
    struct perf_ratio first, second;

    perf_judge(ratios, ARRAY_LENGTH(ratios), 1, &first);
    perf_judge(ratios, ARRAY_LENGTH(ratios), 1, &second);
    EXPECT(first.low == second.low && first.high == second.high && first.low < first.ratio);
    EXPECT(fabs(first.ratio - 1.15) < 0.02);
}

TEST(median_of_even_and_odd_numbers)
{
    double odd[] = { 3, 1, 2 }, even[] = { 4, 1, 3, 2 };

    EXPECT(perf_median(odd, 3) == 2);
    EXPECT(perf_median(even, 4) == 2.5);
    EXPECT(perf_median(even, 0) == 0);
}

/* --- stacks ----------------------------------------------------------------------------------- */

static void read_script(const char *text, struct perf_stacks *ret)
{
    FILE *in = fmemopen((char *)(uintptr_t)text, strlen(text), "r");

    EXPECT(in);
    *ret = (struct perf_stacks){ .n = 0 };
    EXPECT_INT(perf_stacks_read_script(in, ret), 0);
    fclose(in);
    perf_stacks_settle(ret);
}

TEST(stacks_of_perf_script_are_collapsed_root_first)
{
    struct perf_stacks s;

    read_script("sapid-worker \n"
                "\t ffffffff81565d54 do_sys+0x1f ([kernel.kallsyms])\n"
                "\t           f8011 open64\n"
                "\t            a7e0 std::vector<int;2>::operator+\n"
                "\n"
                "sapid-worker \n"
                "\t           f8011 open64\n"
                "\t            a7e0 std::vector<int;2>::operator+\n"
                "\n\n"
                "sapid: gateway\n"
                "\tffffffffffffffff \n"
                "sapid-worker\n"
                "\t f8011 open64+0x10\n"
                "\t a7e0 std::vector<int;2>::operator+\n",
                &s);
    EXPECT_INT(s.n, 3);
    EXPECT_INT(s.total, 4);
    EXPECT_TEXT(str_from(s.v[0].frames), "sapid-worker;std::vector<int:2>::operator+;open64");
    EXPECT_INT(s.v[0].count, 2);
    EXPECT_TEXT(str_from(s.v[1].frames),
                "sapid-worker;std::vector<int:2>::operator+;open64;do_sys");
    EXPECT_TEXT(str_from(s.v[2].frames), "sapid: gateway;[unknown]");
    perf_stacks_fini(&s);
}

TEST(a_stack_deeper_than_we_keep_is_cut_and_not_lost)
{
    struct perf_stacks s;
    char *text = mem_alloc(1 << 20), *at = text;

    at += sprintf(at, "worker\n");
    for (int i = 0; i < 2000; i++)
        at += sprintf(at, "\t %x recursive_function_with_a_long_name_%d\n", i, i);
    read_script(text, &s);
    EXPECT_INT(s.n, 1);
    EXPECT_INT(s.total, 1);
    perf_stacks_fini(&s);
    mem_free(text);
}

static char *table_of(const struct perf_stacks *s, double percent)
{
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);

    EXPECT(out);
    perf_stacks_table(s, percent, out);
    fclose(out);
    return text;
}

TEST(recursion_counts_once_in_the_table)
{
    struct perf_stacks s = { .n = 0 };

    perf_stacks_add(&s, "main;f;f;f;g", 3);
    perf_stacks_add(&s, "main;f", 1);
    perf_stacks_add(&s, "main;rare", 1);
    perf_stacks_settle(&s);
    char *text = table_of(&s, 25);
    EXPECT(strstr(text, "  100.0%    0.0%  main\n"));
    EXPECT(strstr(text, "   80.0%   20.0%  f\n"));
    EXPECT(strstr(text, "   60.0%   60.0%  g\n"));
    EXPECT(!strstr(text, "rare"));
    free(text);
    perf_stacks_fini(&s);
}

TEST(flame_graph_nests_boxes_and_escapes_names)
{
    struct perf_stacks s = { .n = 0 };
    char path[] = "/tmp/sapid-test-flame-XXXXXX", text[8192];
    int fd = mkstemp(path);

    perf_stacks_add(&s, "main;a<b>", 3);
    perf_stacks_add(&s, "main;a<b>;c", 1);
    perf_stacks_settle(&s);
    EXPECT_INT(perf_flame_write(&s, "t & t", path), 0);
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    unlink(path);
    EXPECT(n > 0);
    text[n] = '\0';
    EXPECT(strstr(text, "t &amp; t: 4 samples"));
    EXPECT(strstr(text, "<title>main: 4 samples, 100.00 %</title>"));
    EXPECT(strstr(text, "<title>a&lt;b&gt;: 4 samples, 100.00 %</title>"));
    EXPECT(strstr(text, "<title>c: 1 samples, 25.00 %</title>"));
    EXPECT(!strstr(text, "a<b>"));
    perf_stacks_fini(&s);
}

/* --- what is asked for ------------------------------------------------------------------------ */

static void expect_refused(char **argv, const char *why)
{
    struct perf_options o;
    char *message;
    int argc = 0;

    while (argv[argc])
        argc++;
    EXPECT_INT(perf_options_parse(argc, argv, &o, &message), -EINVAL);
    EXPECT_STR(str_from(message), str_from(why));
    mem_free(message);
    perf_options_fini(&o);
}

TEST(wrong_usage_is_refused_with_what_was_expected)
{
    expect_refused((char *[]){ NULL }, "perf: expected run, track, compare or profile");
    expect_refused((char *[]){ "walk", NULL },
                   "perf: expected run, track, compare or profile, found walk");
    expect_refused((char *[]){ "run", "--rounds", "0", NULL },
                   "--rounds: expected a whole number from 1 to 1000, found \"0\"");
    expect_refused((char *[]){ "run", "--loads=light,tiny", NULL },
                   "--loads: expected some of light,medium,heavy,extreme, found \"light,tiny\"");
    expect_refused((char *[]){ "run", "--duration", NULL },
                   "--duration needs a value: a time above 0 such as 3s");
    expect_refused((char *[]){ "compare", "a", NULL },
                   "compare needs two programs or commits: sapid perf compare A B");
    expect_refused((char *[]){ "track", "--url=http://127.0.0.1/", NULL },
                   "--url names a server that runs already; track and compare start their own");
    expect_refused((char *[]){ "run", "x", NULL },
                   "unexpected argument x; `sapid perf --help` lists what is understood");
}

TEST(sampled_stacks_are_read_line_by_line)
{
    struct perf_stacks s = { .n = 0 };

    CHECK(perf_stacks_read(
              STR("www;{main} /a b.php;f 3\nwww;[engine] 2\nwww;{main} /a b.php;f 1\n"), &s) == 0);
    perf_stacks_settle(&s);
    CHECK(s.total == 6 && s.n == 2);
    CHECK(strcmp(s.v[1].frames, "www;{main} /a b.php;f") == 0 && s.v[1].count == 4);
    perf_stacks_fini(&s);
}

/* A pool process runs as the application's user: what it wrote may be anything. */
TEST(sampled_stacks_that_are_none_are_refused)
{
    static const char *const wrong[] = { "\n",   " ",      " 3",
                                         "a",    "a ",     "a -1",
                                         "a 1x", "\1\2\3", "a 99999999999999999999" };

    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        struct perf_stacks s = { .n = 0 };
        CHECKF(perf_stacks_read(str_from(wrong[i]), &s) == -EPROTO, "line %zu", i);
        perf_stacks_fini(&s);
    }
}

/* --- /proc, where other processes choose what stands in it ------------------------------------ */

#define STAT(name, rest) "17 (" name ") S " rest
#define NUMBERS "5 17 17 0 -1 4194560 100 0 0 0 11 22 33 44 20 0 1 0 99 1000 50\n"

TEST(a_process_is_read_whatever_it_calls_itself)
{
    static const char *const texts[] = {
        STAT("php", NUMBERS),
        STAT("a b", NUMBERS),
        STAT("", NUMBERS),
        STAT(")", NUMBERS),
        STAT("x) R 1 2 3 (", NUMBERS),
        STAT("17 (php) S 6 6 6", NUMBERS),
        STAT("\n\t\x01\xff", NUMBERS),
        STAT("%s%n%d", NUMBERS),
    };

    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        struct perf_process p = { .in_tree = true };
        EXPECT(perf_parse_process(texts[i], 17, &p));
        EXPECT_INT(p.pid, 17);
        EXPECT_INT(p.parent, 5);
        EXPECT_INT(p.own_ticks, 33);
        EXPECT_INT(p.children_ticks, 77);
        EXPECT(!p.in_tree);
    }
}

TEST(what_is_no_stat_of_a_process_is_refused)
{
    static const char *const texts[] = {
        "",
        ")",
        "17",
        "17 (php",
        "17 (php)",
        "17 (php) S",
        "17 (php) S five 17 17",
        STAT("php", "5 17 17 0 -1 4194560 100 0 0 0 11 22 33"), /* cut off */
        STAT("php", "5 17 17 0 -1 4194560 100 0 0 0 a b c d"),
    };
    struct perf_process p = { .pid = 1 };

    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
        EXPECT(!perf_parse_process(texts[i], 17, &p));
    EXPECT_INT(p.pid, 1); /* left alone */
    /* Every prefix of a right one: read whole or refused, never misread. */
    static const char whole[] = STAT("p) S (", NUMBERS);
    for (size_t n = 0; n < sizeof(whole); n++) {
        char *prefix = mem_strndup((struct str){ whole, n });
        if (perf_parse_process(prefix, 17, &p))
            EXPECT_INT(p.parent, 5);
        mem_free(prefix);
    }
}

TEST(a_tree_of_processes_ends_whatever_their_parents_are)
{
    /* 7 is its own parent, 8 and 9 each other's; 3 is below 2 although it is listed before it. */
    struct perf_process all[] = {
        { .pid = 3, .parent = 2 }, { .pid = 7, .parent = 7 },  { .pid = 8, .parent = 9 },
        { .pid = 9, .parent = 8 }, { .pid = 2, .parent = 1 },  { .pid = 1, .parent = 0 },
        { .pid = 4, .parent = 3 }, { .pid = 0, .parent = -1 },
    };

    perf_mark_tree(all, ARRAY_LENGTH(all), 1);
    for (size_t i = 0; i < ARRAY_LENGTH(all); i++)
        EXPECT_INT(all[i].in_tree, all[i].pid >= 1 && all[i].pid <= 4);
    perf_mark_tree(all, 0, 1);
    struct perf_process alone = { .pid = 9, .parent = 9 };
    perf_mark_tree(&alone, 1, 9);
    EXPECT(alone.in_tree);
}

TEST(processors_are_read_and_all_other_lines_passed_over)
{
    struct perf_sample s = { .cpus = 0 };
    uint64_t tick = NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK);

    perf_parse_machine("cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"
                       "cpu1 10 0 0 0 1 0 0 0 0 0\nintr 1 2 3\nctxt 5\n",
                       &s);
    EXPECT_INT(s.cpus, 2);
    EXPECT_INT(s.busy_ns[0], 27 * tick);
    EXPECT_INT(s.busy_ns[1], 10 * tick);
    EXPECT_INT(s.iowait_ns, 6 * tick);
}

TEST(hostile_lines_of_processors_touch_nothing)
{
    static const char *const texts[] = {
        "",
        "\n\n\n",
        "cpu",
        "cpu0",
        "cpu0 1 2 3",
        "cpu64 1 1 1 1 1 1 1 1",
        "cpu-1 1 1 1 1 1 1 1 1",
        "cpu4294967295 1 1 1 1 1 1 1 1",
        "cpu99999999999999999999 1 1 1 1 1 1 1 1",
        "cpux 1 1 1 1 1 1 1 1",
        "cpu0 a b c d e f g h",
        "no line ends here",
    };

    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        struct perf_sample s = { .cpus = 0 }, none = { .cpus = 0 };
        perf_parse_machine(texts[i], &s);
        EXPECT(memcmp(&s, &none, sizeof(s)) == 0);
    }
}

TEST(a_process_with_a_hostile_name_is_counted_with_its_parents)
{
    struct perf_sample before, after;
    int ready[2], end[2];
    char byte;

    CHECK(pipe(ready) == 0 && pipe(end) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_NAME, ") R 1 1 (x");
        for (uint64_t until = clock_cpu_ns() + 50 * NS_PER_MS; clock_cpu_ns() < until;)
            continue;
        CHECK(write(ready[1], "x", 1) == 1);
        close(end[1]);
        _exit(read(end[0], &byte, 1) < 0);
    }
    perf_sample_take(getpid(), &before);
    CHECK(read(ready[0], &byte, 1) == 1);
    perf_sample_take(getpid(), &after);
    perf_sample_pss(getpid(), &after);
    char *list = perf_tree_list(getpid()), number[16];
    snprintf(number, sizeof(number), ",%d", (int)pid);
    EXPECT(strstr(list, number) != NULL);
    EXPECT(after.server_cpu_ns - before.server_cpu_ns >= 40 * NS_PER_MS);
    EXPECT(after.server_pss_bytes > 100000);
    mem_free(list);
    close(end[1]);
    CHECK(waitpid(pid, NULL, 0) == pid);
    /* One that is gone is nothing, and no mistake. */
    perf_sample_take(pid, &after);
    perf_sample_pss(pid, &after);
    EXPECT_INT(after.server_cpu_ns, 0);
    EXPECT_INT(after.server_pss_bytes, 0);
}

TEST(processors_are_parted_between_generator_and_server)
{
    cpu_set_t all, client, server;

    CPU_ZERO(&all);
    EXPECT(!perf_split_cpus(&all, &client, &server));
    CPU_SET(3, &all);
    EXPECT(!perf_split_cpus(&all, &client, &server));
    CPU_SET(5, &all);
    CPU_SET(64, &all);
    EXPECT(perf_split_cpus(&all, &client, &server));
    EXPECT(CPU_COUNT(&client) == 1 && CPU_ISSET(3, &client));
    EXPECT(CPU_COUNT(&server) == 2 && CPU_ISSET(5, &server) && CPU_ISSET(64, &server));
}

TEST(the_centre_of_the_turns_is_not_moved_by_a_few_odd_ones)
{
    const double even[] = { 1.0, 1.02, 0.98, 1.01, 0.99 };
    const double odd[] = { 1.0, 1.02, 0.98, 1.01, 3.0 }, missing[] = { NAN, 0, -1 };

    EXPECT(fabs(perf_centre(even, 5) - 1) < 0.001);
    EXPECT(perf_centre(odd, 5) < 1.1);
    EXPECT(isnan(perf_centre(missing, 3)));
    EXPECT(perf_centre(even, 1) == 1);
}
