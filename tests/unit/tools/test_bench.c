/* sapid bench without a network: what is asked for, how threads add up, and reports of odd runs. */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "test.h"
#include "tools/bench_int.h"

/* --- the timeline ----------------------------------------------------------------------------- */

static struct bench_slice total_of(const struct bench_timeline *t)
{
    struct bench_slice sum = { .done = 0 };
    for (size_t i = 0; i < BENCH_SLICES; i++) {
        sum.done += t->slices[i].done;
        sum.errors += t->slices[i].errors;
        sum.latency_ns += t->slices[i].latency_ns;
        if (t->slices[i].max_ns > sum.max_ns)
            sum.max_ns = t->slices[i].max_ns;
    }
    return sum;
}

TEST(timeline_of_a_day_loses_nothing)
{
    static struct bench_timeline t = { .slice_ns = BENCH_SLICE_NS };

    for (uint64_t s = 0; s < 86400; s++)
        bench_timeline_note(&t, s * NS_PER_S, s % 10 ? BENCH_OK : BENCH_READ, s + 1);
    struct bench_slice sum = total_of(&t);
    EXPECT_INT(sum.done, 77760);
    EXPECT_INT(sum.errors, 8640);
    EXPECT_INT(sum.max_ns, 86400);
    EXPECT(t.slice_ns * BENCH_SLICES >= 86400 * NS_PER_S);
    EXPECT(t.slice_ns * BENCH_SLICES < 2 * 86400 * NS_PER_S);
    /* The first half of the time is the first half of the requests. */
    uint64_t half = 0;
    for (uint64_t i = 0; i < 43200 * NS_PER_S / t.slice_ns; i++)
        half += t.slices[i].done + t.slices[i].errors;
    EXPECT(half > 43000 && half <= 43200);
}

TEST(results_of_threads_add_up_whatever_their_slices)
{
    struct bench_result *sum = mem_zalloc(3 * sizeof(*sum)), *a = sum + 1, *b = sum + 2;

    for (size_t i = 0; i < 3; i++)
        bench_result_init(&sum[i]);
    bench_timeline_note(&a->timeline, NS_PER_S, BENCH_OK, 5);
    bench_timeline_note(&b->timeline, 1000 * NS_PER_S, BENCH_OK, 7);
    hist_record(&a->latency, 5);
    hist_record(&b->latency, 7);
    a->outcomes[BENCH_OK] = b->outcomes[BENCH_OK] = 1;
    b->outcomes[BENCH_TIMEOUT] = 2;
    a->elapsed_ns = 4 * NS_PER_S;
    b->elapsed_ns = 3 * NS_PER_S;
    a->ok_in_time = b->ok_in_time = 1;
    b->busiest = 0.5;
    bench_result_merge(sum, b);
    bench_result_merge(sum, a);
    EXPECT_INT(total_of(&sum->timeline).done, 2);
    EXPECT_INT(total_of(&sum->timeline).latency_ns, 12);
    EXPECT_INT(sum->timeline.slices[NS_PER_S / sum->timeline.slice_ns].done, 1);
    EXPECT_INT(bench_result_total(sum), 4);
    EXPECT_INT(bench_result_errors(sum), 2);
    EXPECT(bench_result_success(sum) == 50);
    EXPECT(bench_result_rps(sum) == 0.5);
    EXPECT(sum->busiest == 0.5);
    mem_free(sum);
}

/* --- reports ---------------------------------------------------------------------------------- */

static void print_everything(const struct bench_options *o, const struct bench_result *r)
{
    struct bench_options each = *o;

    for (each.format = BENCH_TEXT; each.format <= BENCH_JSON; each.format++) {
        char *text;
        size_t n;
        FILE *out = open_memstream(&text, &n);
        CHECK(out);
        bench_result_print(&each, r, out);
        fclose(out);
        EXPECT(n > 100);
        EXPECT(strstr(text, "nan") == NULL && strstr(text, "inf") == NULL);
        free(text);
    }
    EXPECT_INT(bench_html_write(o, r, "/dev/null"), 0);
}

TEST(runs_without_a_request_or_with_one_of_any_latency_can_be_printed)
{
    struct bench_target target = { .url = (char *)(uintptr_t) "http://x/\"<" };
    struct bench_options o = { .targets = &target, .n_targets = 1, .threads = 1, .connections = 1 };
    struct bench_result *r = mem_zalloc(sizeof(*r));

    bench_result_init(r);
    print_everything(&o, r);
    for (uint64_t latency = 1; latency < UINT64_C(1) << 60; latency *= 3) {
        bench_result_init(r);
        r->outcomes[BENCH_OK] = r->ok_in_time = 1;
        r->elapsed_ns = latency;
        hist_record(&r->latency, latency);
        bench_timeline_note(&r->timeline, latency, BENCH_OK, latency);
        print_everything(&o, r);
        hist_record(&r->latency, 1);
        print_everything(&o, r);
    }
    mem_free(r);
}

/* What it prints as `format`; free(). */
static char *printed(struct bench_options *o, const struct bench_result *r,
                     enum bench_format format)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);

    o->format = format;
    bench_result_print(o, r, out);
    fclose(out);
    return text;
}

TEST(one_error_of_a_milliard_is_no_full_success)
{
    struct bench_target target = { .url = (char *)(uintptr_t) "http://x/" };
    struct bench_options o = { .targets = &target, .n_targets = 1, .threads = 1, .connections = 1 };
    struct bench_result *r = mem_zalloc(sizeof(*r));

    bench_result_init(r);
    r->outcomes[BENCH_OK] = 999999999;
    r->outcomes[BENCH_READ] = 1;
    hist_record(&r->latency, 1000);
    for (int format = BENCH_TEXT; format <= BENCH_JSON; format++) {
        char *text = printed(&o, r, (enum bench_format)format);
        EXPECT(strstr(text, "99.999999") != NULL && strstr(text, "100%") == NULL);
        free(text);
    }
    r->outcomes[BENCH_READ] = 0;
    EXPECT(bench_result_success(r) == 100);
    mem_free(r);
}

TEST(the_histogram_parts_what_is_close_together_and_what_is_far_apart)
{
    struct bench_target target = { .url = (char *)(uintptr_t) "http://x/" };
    struct bench_options o = { .targets = &target, .n_targets = 1, .threads = 1, .connections = 1 };
    struct bench_result *r = mem_zalloc(sizeof(*r));

    bench_result_init(r);
    for (uint64_t i = 0; i < 1000; i++)
        hist_record(&r->latency, 10000000 + i * 10000); /* 10 to 20 ms, even */
    char *even = printed(&o, r, BENCH_TEXT);
    EXPECT(strstr(even, "\nLatency\n") && strstr(even, "   10.000 ms ") &&
           strstr(even, "   19.500 ms "));
    free(even);
    bench_result_init(r);
    for (uint64_t i = 0; i < 1000; i++)
        hist_record(&r->latency, i < 600   ? 20000 + 20 * i        /* 20 to 32 us */
                                 : i < 990 ? 60000                 /* 60 us */
                                           : 50000000 + i * 1000); /* 51 ms */
    char *skewed = printed(&o, r, BENCH_TEXT);
    EXPECT(strstr(skewed, "rows of growing width") && strstr(skewed, "    0.050 ms       390 |") &&
           strstr(skewed, "   50.000 ms        10 |"));
    free(skewed);
    mem_free(r);
}

/* Whether a report has a warning with these words in it. */
static bool warns(const struct bench_options *o, const struct bench_result *r, const char *words)
{
    char *warnings[BENCH_WARNINGS_MAX];
    size_t n = bench_result_warn(o, r, warnings);
    bool found = false;

    for (size_t i = 0; i < n; i++) {
        found |= strstr(warnings[i], words) != NULL;
        mem_free(warnings[i]);
    }
    return found;
}

TEST(a_saturated_generator_is_warned_of)
{
    struct bench_options o = { .threads = 1, .connections = 1 };
    struct bench_result *r = mem_zalloc(2 * sizeof(*r));

    bench_result_init(&r[0]);
    bench_result_init(&r[1]);
    r[0].outcomes[BENCH_OK] = r[1].outcomes[BENCH_OK] = 1;
    hist_record(&r[0].latency, 1000);
    EXPECT(!warns(&o, r, "saturated"));
    r[0].busiest = 0.6;
    r[0].kept_waiting = 0.2;
    EXPECT(!warns(&o, r, "saturated"));
    r[1].busiest = 0.5; /* of another thread: it did less, since it had to wait more */
    r[1].kept_waiting = 0.45;
    bench_result_merge(&r[0], &r[1]);
    EXPECT(warns(&o, r, "used 50 % of a core and waited for one 45 % of the time"));
    r[0].busiest = 0.95;
    EXPECT(warns(&o, r, "use --threads"));
    mem_free(r);
}

TEST(causes_of_errors_are_counted_and_have_an_end)
{
    struct bench_result *r = mem_zalloc(2 * sizeof(*r));
    char text[300];

    bench_result_init(&r[0]);
    bench_result_init(&r[1]);
    memset(text, 'x', sizeof(text));
    text[299] = '\0';
    bench_result_blame(r, BENCH_READ, text, 1); /* longer than it may be, twice the same */
    bench_result_blame(r, BENCH_READ, text, 1);
    bench_result_blame(r, BENCH_CONNECT, text, 1); /* another kind */
    EXPECT_INT(r->n_causes, 2);
    EXPECT_INT(r->causes[0].n, 2);
    for (int i = 0; i < 1000; i++) {
        snprintf(text, sizeof(text), "cause %d", i);
        bench_result_blame(&r[1], BENCH_READ, text, 1);
    }
    bench_result_merge(&r[0], &r[1]);
    EXPECT_INT(r->n_causes, BENCH_CAUSES);
    uint64_t sum = 0;
    for (size_t i = 0; i < r->n_causes; i++)
        sum += r->causes[i].n;
    EXPECT_INT(sum, 1003);
    EXPECT_TEXT(str_from(r->causes[BENCH_CAUSES - 1].text), "other causes");
    mem_free(r);
}

/* --- options ---------------------------------------------------------------------------------- */

/* Parses with a URL in front; 0 or -EINVAL. */
static int parse_with(const char *option, const char *value, struct bench_options *o)
{
    char *argv[] = { (char *)(uintptr_t) "bench", (char *)(uintptr_t) "http://127.0.0.1:1/",
                     (char *)(uintptr_t)option, (char *)(uintptr_t)value, NULL };
    char *message = NULL;
    int rc = bench_options_parse(4, argv, o, &message);

    EXPECT(rc == 0 || message != NULL);
    mem_free(message);
    return rc;
}

TEST(times_have_units)
{
    static const struct {
        const char *text;
        int64_t ns; /* -1: refused */
    } times[] = {
        { "1", 1000000000 },
        { "1s", 1000000000 },
        { "1.5s", 1500000000 },
        { "250ms", 250000000 },
        { "2m", 120000000000 },
        { "1h", 3600000000000 },
        { "0", -1 },
        { "-1s", -1 },
        { "1 s", -1 },
        { "s", -1 },
        { "1.2.3", -1 },
        { "", -1 },
        { "1e3", -1 },
        { "99999h", -1 },
        { "10000000000000000000000000000000000", -1 },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(times); i++) {
        struct bench_options o;
        int rc = parse_with("--duration", times[i].text, &o);
        if (rc != (times[i].ns < 0 ? -EINVAL : 0))
            test_fail(__FILE__, __LINE__, "\"%s\": %d", times[i].text, rc);
        if (rc == 0)
            EXPECT_INT(o.duration_ns, times[i].ns);
        bench_options_fini(&o);
    }
}

TEST(every_option_refuses_what_it_does_not_mean)
{
    static const char *const refused[][2] = {
        { "--rps", "0" },
        { "--rps", "inf" },
        { "--rps", "5x" },
        { "--concurrency", "0" },
        { "--concurrency", "1.5" },
        { "--threads", "257" },
        { "--requests", "-1" },
        { "--expect-status", "99" },
        { "--expect-status", "1000" },
        { "--expect-length", "x" },
        { "--expect-sha256", "zz" },
        { "--expect-text", "" },
        { "--format", "xml" },
        { "--header", "no colon" },
        { "--header", ": x" },
        { "--header", "A: \x01" },
        { "--header", "Content-Length: 5" },
        { "--method", "A B" },
        { "--method", "CONNECT" },
        { "--header", "Transfer-Encoding: chunked" },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(refused); i++) {
        struct bench_options o;
        if (parse_with(refused[i][0], refused[i][1], &o) == 0)
            test_fail(__FILE__, __LINE__, "%s %s was taken", refused[i][0], refused[i][1]);
        bench_options_fini(&o);
    }
}

TEST(borders_of_the_expected_text)
{
    static const uint32_t want[] = { 0, 1, 0, 1, 2, 2, 3 };
    struct bench_options o;

    EXPECT_INT(parse_with("--expect-text", "aabaaab", &o), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(want); i++)
        EXPECT_INT(o.text_borders[i], want[i]);
    bench_options_fini(&o);
}
