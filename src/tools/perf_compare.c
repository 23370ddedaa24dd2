/*
 * A against B, and `sapid perf compare`. Machines drift by more than a change is worth, within
 * minutes and more so within hours; so both run now, and every block loads them in the order A B B
 * A, which a steady drift does not favour. The order of the starts changes from block to block.
 *
 * Server and load generator get processors of their own. Where the kernel moves both as it likes, a
 * request costs a fifth more or less CPU from one second to the next, by which of them happen to
 * share a cache and how many requests a wake-up finds (docs/performance.md has figures).
 */
#include <errno.h>
#include <math.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tools/perf_int.h"

struct duel {
    const struct perf_options *o;
    const char *programs[2];
    struct perf_row *rows[2]; /* 2 slices a turn, `turns` of them a block */
    uint32_t *turns;          /* of each block */
    uint32_t done;
    cpu_set_t server_cpus; /* none: anywhere */
};

static int run_block(struct duel *d, uint32_t block, char **ret_message)
{
    struct perf_server servers[2] = { { .cpus = d->server_cpus }, { .cpus = d->server_cpus } };
    static const int order[4] = { 0, 1, 1, 0 };
    int first = (int)(block % 2), rc = 0;
    struct perf_row warm;

    for (int i = 0; i < 2 && rc == 0; i++) {
        int which = first ^ i;
        rc = perf_server_start(d->o, d->programs[which], &servers[which], ret_message);
        if (rc == 0 && d->o->warmup_ns)
            rc = perf_slice(&servers[which], d->o->verdict_load, d->o->warmup_ns, 0, &warm);
    }
    uint64_t until = clock_monotonic_ns() + 2 * (uint64_t)d->o->turns * 4 * d->o->slice_ns;
    d->turns[block] = d->o->turns;
    for (size_t i = 0; i < 4 * (size_t)d->turns[block] && rc == 0; i++) {
        int which = first ^ order[i % 4];
        struct perf_row *row = &d->rows[which][2 * (size_t)d->o->turns * block + i / 2];
        rc = perf_slice(&servers[which], d->o->verdict_load, d->o->slice_ns, 0, row);
        if (rc == 0 && row->errors && !*ret_message) {
            *ret_message = mem_printf("%s: %llu of %llu answers were wrong; a verdict on speed "
                                      "would mean nothing",
                                      d->programs[which], (unsigned long long)row->errors,
                                      (unsigned long long)row->requests);
            rc = -EPROTO;
        }
        /* A slice lasts until its last request is answered: where that takes longer than the slice,
         * fewer turns tell as much. */
        if (i % 4 == 3 && clock_monotonic_ns() > until)
            d->turns[block] = (uint32_t)(i / 4) + 1;
    }
    for (int i = 0; i < 2; i++)
        perf_server_stop(&servers[i]);
    return rc;
}

/* One ratio of B to A for each block: the centre of those of its turns, each from two slices of
 * either. What else ran on the machine in a turn or two has no say then. */
static void judge_metric(const struct duel *d, size_t m, struct perf_ratio *ret)
{
    size_t turns = d->o->turns;
    double *ratios = mem_alloc((d->done + 1) * sizeof(*ratios));
    double *of_turns = mem_alloc(turns * sizeof(*of_turns));

    for (uint32_t b = 0; b < d->done; b++) {
        for (size_t t = 0; t < d->turns[b]; t++) {
            const struct perf_row *x = &d->rows[0][2 * (turns * b + t)],
                                  *y = &d->rows[1][2 * (turns * b + t)];
            of_turns[t] = (y[0].value[m] + y[1].value[m]) / (x[0].value[m] + x[1].value[m]);
        }
        ratios[b] = perf_centre(of_turns, d->turns[b]);
    }
    perf_judge(ratios, d->done, perf_metrics[m].better, ret);
    mem_free(of_turns);
    mem_free(ratios);
}

/* Row of medians over all slices. */
static void median_of(const struct duel *d, int which, struct perf_row *ret)
{
    size_t room = 2 * (size_t)d->o->turns, n = 0;
    struct perf_row *rows = mem_alloc((room * d->done + 1) * sizeof(*rows));

    for (uint32_t b = 0; b < d->done; b++)
        for (size_t i = 0; i < 2 * (size_t)d->turns[b]; i++)
            rows[n++] = d->rows[which][room * b + i];
    perf_median_row(rows, n, ret);
    mem_free(rows);
}

static void judge(const struct duel *d, struct perf_comparison *ret)
{
    ret->blocks = d->done;
    for (size_t m = 0; m < PERF_METRICS; m++) {
        judge_metric(d, m, &ret->of[m]);
        if (perf_metrics[m].decides && ret->of[m].verdict > ret->verdict)
            ret->verdict = ret->of[m].verdict;
    }
    median_of(d, 0, &ret->a);
    median_of(d, 1, &ret->b);
}

bool perf_split_cpus(const cpu_set_t *all, cpu_set_t *ret_client, cpu_set_t *ret_server)
{
    int n = CPU_COUNT(all), seen = 0;

    CPU_ZERO(ret_client);
    CPU_ZERO(ret_server);
    if (n < 2)
        return false;
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, all))
            CPU_SET(i, seen++ < n / 2 ? ret_client : ret_server);
    return true;
}

/* Whether more blocks are needed. That looks at how sure the figures are, never at what they say:
 * to stop when the verdict pleases would find changes that are not there. */
static bool is_vague(const struct duel *d)
{
    struct perf_ratio cpu;

    judge_metric(d, PERF_CPU, &cpu);
    return !isfinite(cpu.high) || cpu.high > cpu.low * (1 + PERF_SHARP_PERCENT / 100.0);
}

int perf_compare_programs(const struct perf_options *o, const char *a, const char *b,
                          struct perf_comparison *ret, char **ret_message)
{
    struct duel d = { .o = o, .programs = { a, b } };
    cpu_set_t all, client;
    int rc = 0;

    memset(ret, 0, sizeof(*ret));
    *ret_message = NULL;
    for (int i = 0; i < 2; i++)
        d.rows[i] = mem_zalloc(2 * (size_t)o->turns * o->max_blocks * sizeof(*d.rows[i]));
    d.turns = mem_zalloc(o->max_blocks * sizeof(*d.turns));
    bool pinned = !o->no_pinning && sched_getaffinity(0, sizeof(all), &all) == 0 &&
                  perf_split_cpus(&all, &client, &d.server_cpus) &&
                  sched_setaffinity(0, sizeof(client), &client) == 0;
    while (rc == 0 && d.done < o->max_blocks && (d.done < o->blocks || is_vague(&d))) {
        fprintf(stderr, "block %u of %u to %u: %s, A B B A %u times\n", d.done + 1, o->blocks,
                o->max_blocks, o->verdict_load->name, o->turns);
        rc = run_block(&d, d.done, ret_message);
        d.done += rc == 0;
    }
    if (pinned)
        sched_setaffinity(0, sizeof(all), &all);
    if (rc == 0)
        judge(&d, ret);
    mem_free(d.turns);
    mem_free(d.rows[0]);
    mem_free(d.rows[1]);
    return rc;
}

/* --- report ----------------------------------------------------------------------------------- */

static void print_metric(enum bench_format format, size_t m, const struct perf_comparison *c,
                         const char *comma, FILE *out)
{
    const struct perf_metric *metric = &perf_metrics[m];
    const struct perf_ratio *r = &c->of[m];
    double a = c->a.value[m], b = c->b.value[m];
    const char *verdict = metric->better ? perf_verdict_name(r->verdict) : "-";

    if (format == BENCH_JSON)
        fprintf(out,
                "%s\n  \"%s\": {\"a\": %.6f, \"b\": %.6f, \"ratio\": %.5f, \"low\": %.5f, "
                "\"high\": %.5f, \"verdict\": \"%s\"}",
                comma, metric->name, a, b, r->ratio, r->low, r->high, verdict);
    else if (format == BENCH_KEY_VALUE)
        fprintf(out, "%s=%.4f%s (%+.1f%%) %s\n", metric->name, b, metric->unit,
                100 * (r->ratio - 1), verdict);
    else
        fprintf(out, "  %-30s %12.3f %12.3f %-3s %+7.1f%%  (%+.1f%% .. %+.1f%%)  %s%s\n",
                metric->name, a, b, metric->unit, 100 * (r->ratio - 1), 100 * (r->low - 1),
                100 * (r->high - 1), verdict, metric->decides ? " *" : "");
}

void perf_comparison_print(const struct perf_options *o, const struct perf_comparison *c, FILE *out)
{
    const char *comma = "";

    if (o->format == BENCH_JSON)
        fputs("{", out);
    if (o->format == BENCH_TEXT)
        fprintf(
            out,
            "\nB against A: %u blocks of up to %u times A B B A, %.3g s each, %s (%u thread%s, %u "
            "connections)\n  %-30s %12s %12s\n",
            c->blocks, o->turns, (double)o->slice_ns / (double)NS_PER_S, o->verdict_load->name,
            o->verdict_load->threads, o->verdict_load->threads == 1 ? "" : "s",
            o->verdict_load->connections, "", "A", "B");
    for (size_t m = 0; m < PERF_METRICS; m++) {
        if (!isfinite(c->a.value[m]) || !isfinite(c->b.value[m]) || !isfinite(c->of[m].high))
            continue;
        print_metric(o->format, m, c, comma, out);
        comma = ",";
    }
    if (o->format == BENCH_JSON)
        fprintf(out, "%s\n  \"verdict\": \"%s\"\n}\n", comma, perf_verdict_name(c->verdict));
    else if (o->format == BENCH_KEY_VALUE)
        fprintf(out, "verdict=%s\n", perf_verdict_name(c->verdict));
    else
        fprintf(out,
                "verdict: %s\n(by the metrics marked *: changed when the %d %% bootstrap interval "
                "of the ratio excludes 1\nand the change is at least %d %%)\n",
                perf_verdict_name(c->verdict), PERF_CONFIDENCE_PERCENT, PERF_NOTABLE_PERCENT);
}

int perf_compare_main(struct perf_options *o)
{
    struct perf_comparison c = { .verdict = PERF_NOISE };
    char *programs[2] = { NULL, NULL }, *message = NULL;
    int rc = 0;

    for (int i = 0; i < 2 && rc == 0; i++)
        rc = perf_candidate(o, o->candidates[i], o->history, &programs[i], &message);
    if (rc == 0)
        rc = perf_compare_programs(o, programs[0], programs[1], &c, &message);
    if (rc == 0)
        perf_comparison_print(o, &c, stdout);
    else
        perf_say_failure(rc, message);
    mem_free(programs[0]);
    mem_free(programs[1]);
    mem_free(message);
    return rc < 0 ? 1 : c.verdict == PERF_REGRESS ? 3 : 0;
}
