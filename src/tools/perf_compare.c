/*
 * A against B, and `sapid perf compare`. Machines drift by more than a change is worth, within
 * minutes and more so within hours; so both run now, and every block loads them in the order A B B
 * A, which a steady drift does not favour. The order of the starts changes from block to block.
 */
#include <errno.h>
#include <math.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tools/perf_int.h"

struct duel {
    const struct perf_options *o;
    const char *programs[2];
    struct perf_row *rows[2]; /* 2 slices a block */
    uint32_t done;
};

static int run_block(struct duel *d, uint32_t block, char **ret_message)
{
    struct perf_server servers[2] = { { .pid = 0 }, { .pid = 0 } };
    static const int order[4] = { 0, 1, 1, 0 };
    int first = (int)(block % 2), rc = 0;
    struct perf_row warm;

    for (int i = 0; i < 2 && rc == 0; i++) {
        int which = first ^ i;
        rc = perf_server_start(d->o, d->programs[which], &servers[which], ret_message);
        if (rc == 0 && d->o->warmup_ns)
            rc = perf_slice(&servers[which], d->o->verdict_load, d->o->warmup_ns, 0, &warm);
    }
    for (int i = 0; i < 4 && rc == 0; i++) {
        int which = first ^ order[i];
        struct perf_row *row = &d->rows[which][2 * block + (uint32_t)i / 2];
        rc = perf_slice(&servers[which], d->o->verdict_load, d->o->slice_ns, 0, row);
        if (rc == 0 && row->errors && !*ret_message) {
            *ret_message = mem_printf("%s: %llu of %llu answers were wrong; a verdict on speed "
                                      "would mean nothing",
                                      d->programs[which], (unsigned long long)row->errors,
                                      (unsigned long long)row->requests);
            rc = -EPROTO;
        }
    }
    for (int i = 0; i < 2; i++)
        perf_server_stop(&servers[i]);
    return rc;
}

/* One ratio of B to A for each block: sums of its two slices each. */
static void judge_metric(const struct duel *d, size_t m, struct perf_ratio *ret)
{
    double *ratios = mem_alloc((d->done + 1) * sizeof(*ratios));

    for (uint32_t b = 0; b < d->done; b++) {
        const struct perf_row *x = &d->rows[0][2 * (size_t)b], *y = &d->rows[1][2 * (size_t)b];
        ratios[b] = (y[0].value[m] + y[1].value[m]) / (x[0].value[m] + x[1].value[m]);
    }
    perf_judge(ratios, d->done, perf_metrics[m].better, ret);
    mem_free(ratios);
}

static void judge(const struct duel *d, struct perf_comparison *ret)
{
    ret->blocks = d->done;
    for (size_t m = 0; m < PERF_METRICS; m++) {
        judge_metric(d, m, &ret->of[m]);
        if (perf_metrics[m].decides && ret->of[m].verdict > ret->verdict)
            ret->verdict = ret->of[m].verdict;
    }
    perf_median_row(d->rows[0], 2 * (size_t)d->done, &ret->a);
    perf_median_row(d->rows[1], 2 * (size_t)d->done, &ret->b);
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
    int rc = 0;

    memset(ret, 0, sizeof(*ret));
    *ret_message = NULL;
    for (int i = 0; i < 2; i++)
        d.rows[i] = mem_zalloc(2 * (size_t)o->max_blocks * sizeof(*d.rows[i]));
    while (rc == 0 && d.done < o->max_blocks && (d.done < o->blocks || is_vague(&d))) {
        fprintf(stderr, "block %u of %u to %u: %s, A B B A\n", d.done + 1, o->blocks, o->max_blocks,
                o->verdict_load->name);
        rc = run_block(&d, d.done, ret_message);
        d.done += rc == 0;
    }
    if (rc == 0)
        judge(&d, ret);
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
        fprintf(out,
                "\nB against A: %u blocks of A B B A, %.3g s each, %s (%u threads, %u "
                "connections)\n  %-30s %12s %12s\n",
                c->blocks, (double)o->slice_ns / (double)NS_PER_S, o->verdict_load->name,
                o->verdict_load->threads, o->verdict_load->connections, "", "A", "B");
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
