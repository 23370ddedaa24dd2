/*
 * Slices and rounds: `sapid perf run`. One slice is a closed-loop load by the generator of `sapid
 * bench`, in this process, with samples of server and machine before and after it. The rounds
 * take the load profiles in turns, so that a slow spell of the machine does not fall on one of
 * them alone; a figure is the median of the rounds.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tools/perf_int.h"

const struct perf_load perf_loads[PERF_LOADS] = {
    { "light", 1, 10 }, { "medium", 2, 100 }, { "heavy", 4, 500 }, { "extreme", 8, 1000 }
};

const struct perf_metric perf_metrics[PERF_METRICS] = {
    [PERF_RPS] = { "requests_per_sec", "", 1, true },
    [PERF_MEAN] = { "mean", "ms", -1, false },
    [PERF_P50] = { "p50", "ms", -1, false },
    [PERF_P90] = { "p90", "ms", -1, false },
    [PERF_P99] = { "p99", "ms", -1, false },
    [PERF_P999] = { "p99.9", "ms", -1, false },
    [PERF_MAX] = { "max", "ms", -1, false },
    [PERF_SUCCESS] = { "success_rate", "%", 1, false },
    [PERF_CPU] = { "cpu_us_per_request", "us", -1, true },
    [PERF_SWITCHES] = { "context_switches_per_request", "", -1, false },
    [PERF_PSS] = { "server_pss", "MB", -1, false },
    [PERF_CLIENT] = { "client_cpu", "%", 0, false },
    [PERF_OTHER] = { "other_cpu", "%", 0, false },
    [PERF_IOWAIT] = { "io_wait", "%", 0, false },
};

/* --- one slice -------------------------------------------------------------------------------- */

/* The options of `sapid bench` that mean this slice. */
static int make_options(const struct perf_server *s, const struct perf_load *load,
                        uint64_t duration_ns, uint64_t warmup_ns, struct bench_options *o)
{
    char threads[16], connections[16], duration[32], warmup[32], timeout[32];
    char *message = NULL;
    char *argv[] = { "bench",     s->url,       "--threads",       threads,    "--concurrency",
                     connections, "--duration", duration,          "--warmup", warmup,
                     "--timeout", timeout,      "--expect-sha256", s->digest,  NULL };
    int argc = ARRAY_LENGTH(argv) - 1 - (s->digest ? 0 : 2);

    snprintf(threads, sizeof(threads), "%u", load->threads);
    snprintf(connections, sizeof(connections), "%u", load->connections);
    snprintf(duration, sizeof(duration), "%.3fms", (double)duration_ns / (double)NS_PER_MS);
    snprintf(warmup, sizeof(warmup), "%.3fms", (double)warmup_ns / (double)NS_PER_MS);
    snprintf(timeout, sizeof(timeout), "%.3fms", (double)s->timeout_ns / (double)NS_PER_MS);
    int rc = bench_options_parse(argc, argv, o, &message);
    CHECKF(rc == 0, "sapid bench does not understand its own options: %s", message);
    return rc;
}

static double percentile_ms(const struct bench_result *r, double percent)
{
    return (double)hist_percentile(&r->latency, percent) / (double)NS_PER_MS;
}

/* To the last answer: a slice may be shorter than one, and what comes after its end is work, too.
 */
static double rate_of(const struct bench_result *r)
{
    uint64_t ns = r->last_ns > r->elapsed_ns ? r->last_ns : r->elapsed_ns;
    return ns ? (double)r->outcomes[BENCH_OK] * (double)NS_PER_S / (double)ns : 0;
}

static void fill_load(const struct bench_result *r, struct perf_row *row)
{
    double *v = row->value;

    row->errors = bench_result_errors(r);
    row->requests = bench_result_total(r);
    v[PERF_RPS] = rate_of(r);
    v[PERF_MEAN] = hist_mean(&r->latency) / (double)NS_PER_MS;
    v[PERF_P50] = percentile_ms(r, 50);
    v[PERF_P90] = percentile_ms(r, 90);
    v[PERF_P99] = percentile_ms(r, 99);
    v[PERF_P999] = percentile_ms(r, 99.9);
    v[PERF_MAX] = (double)r->latency.max / (double)NS_PER_MS;
    v[PERF_SUCCESS] = bench_result_success(r);
}

/* A counter that fell: a process of the tree is gone that was not waited for. */
static double grown(uint64_t before, uint64_t after)
{
    return after > before ? (double)(after - before) : 0;
}

static void fill_usage(const struct perf_sample *a, const struct perf_sample *b, bool counted,
                       struct perf_row *row)
{
    double wall = grown(a->at_ns, b->at_ns) + 1,
           requests = row->requests ? (double)row->requests : 1;
    double server = grown(a->server_cpu_ns, b->server_cpu_ns);
    double client = grown(a->client_cpu_ns, b->client_cpu_ns), busy = 0;
    double *v = row->value;

    row->cpus = b->cpus;
    for (unsigned i = 0; i < b->cpus; i++) {
        double one = grown(a->busy_ns[i], b->busy_ns[i]);
        row->core_percent[i] = fmin(100, 100 * one / wall); /* the kernel counts in ticks */
        busy += one;
    }
    v[PERF_CPU] = counted ? server / 1000 / requests : NAN;
    v[PERF_SWITCHES] = counted ? grown(a->server_switches, b->server_switches) / requests : NAN;
    v[PERF_PSS] = counted ? (double)b->server_pss_bytes / 1e6 : NAN;
    v[PERF_CLIENT] = 100 * client / wall;
    v[PERF_OTHER] = counted && busy > server + client ? 100 * (busy - server - client) / wall : 0;
    v[PERF_IOWAIT] = 100 * grown(a->iowait_ns, b->iowait_ns) / wall;
}

/* The figures only count errors. */
static void tell_causes(const struct bench_result *r)
{
    for (size_t i = 0; i < r->n_causes; i++)
        fprintf(stderr, "  %llu errors: %s: %s\n", (unsigned long long)r->causes[i].n,
                bench_error_name(r->causes[i].kind), r->causes[i].text);
}

int perf_slice(const struct perf_server *s, const struct perf_load *load, uint64_t duration_ns,
               uint64_t warmup_ns, struct perf_row *ret)
{
    struct bench_options o;
    struct perf_sample before, after;
    struct bench_result *r = mem_zalloc(sizeof(*r));
    int rc = 0;

    memset(ret, 0, sizeof(*ret));
    if (warmup_ns) { /* a load of its own: what it costs is not to be counted */
        rc = make_options(s, load, warmup_ns, 0, &o);
        rc = rc < 0 ? rc : bench_load(&o, r);
        bench_options_fini(&o);
    }
    if (rc == 0 && !r->interrupted) {
        rc = make_options(s, load, duration_ns, 0, &o);
        perf_sample_take(s->counted, &before);
        rc = rc < 0 ? rc : bench_load(&o, r);
        perf_sample_take(s->counted, &after);
        perf_sample_pss(s->counted, &after);
        bench_options_fini(&o);
    }
    if (rc == 0 && r->interrupted)
        rc = -EINTR;
    if (rc == 0) {
        tell_causes(r);
        fill_load(r, ret);
        fill_usage(&before, &after, s->counted > 0, ret);
    }
    mem_free(r);
    return rc;
}

void perf_median_row(const struct perf_row *rows, size_t n, struct perf_row *ret)
{
    double *values = mem_alloc((n + 1) * sizeof(*values));

    memset(ret, 0, sizeof(*ret));
    for (size_t m = 0; m < PERF_METRICS; m++) {
        for (size_t i = 0; i < n; i++)
            values[i] = rows[i].value[m];
        ret->value[m] = perf_median(values, n);
    }
    ret->cpus = n ? rows[0].cpus : 0;
    for (unsigned cpu = 0; cpu < ret->cpus; cpu++) {
        for (size_t i = 0; i < n; i++)
            values[i] = rows[i].core_percent[cpu];
        ret->core_percent[cpu] = perf_median(values, n);
    }
    for (size_t i = 0; i < n; i++) {
        ret->requests += rows[i].requests;
        ret->errors += rows[i].errors;
    }
    mem_free(values);
}

/* --- rounds ----------------------------------------------------------------------------------- */

int perf_run_rounds(const struct perf_options *o, const struct perf_server *s,
                    struct perf_figures *ret)
{
    int rc = 0;

    memset(ret, 0, sizeof(*ret));
    ret->rounds = o->rounds;
    for (size_t p = 0; p < PERF_LOADS; p++)
        if (o->loads[p])
            ret->rows[p] = mem_zalloc(o->rounds * sizeof(*ret->rows[p]));
    for (uint32_t round = 0; round < o->rounds && rc == 0; round++)
        for (size_t p = 0; p < PERF_LOADS && rc == 0; p++) {
            if (!o->loads[p])
                continue;
            fprintf(stderr, "round %u of %u: %s (%u thread%s, %u connections)\n", round + 1,
                    o->rounds, perf_loads[p].name, perf_loads[p].threads,
                    perf_loads[p].threads == 1 ? "" : "s", perf_loads[p].connections);
            rc = perf_slice(s, &perf_loads[p], o->duration_ns, round ? 0 : o->warmup_ns,
                            &ret->rows[p][round]);
            ret->errors += ret->rows[p][round].errors;
        }
    for (size_t p = 0; p < PERF_LOADS && rc == 0; p++)
        if (ret->rows[p])
            perf_median_row(ret->rows[p], o->rounds, &ret->median[p]);
    return rc;
}

void perf_figures_fini(struct perf_figures *f)
{
    for (size_t p = 0; p < PERF_LOADS; p++)
        mem_free(f->rows[p]);
    memset(f, 0, sizeof(*f));
}

/* --- report ----------------------------------------------------------------------------------- */

static void range_of(const struct perf_row *rows, uint32_t n, size_t metric, double *ret_low,
                     double *ret_high)
{
    *ret_low = INFINITY;
    *ret_high = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        *ret_low = fmin(*ret_low, rows[i].value[metric]);
        *ret_high = fmax(*ret_high, rows[i].value[metric]);
    }
}

static void print_text(const struct perf_options *o, const struct perf_figures *f, size_t p,
                       FILE *out)
{
    const struct perf_row *median = &f->median[p];
    double low, high;

    fprintf(out,
            "\n%s: %u thread%s, %u connections; median of %u rounds of %.3g s (lowest .. "
            "highest)\n",
            perf_loads[p].name, perf_loads[p].threads, perf_loads[p].threads == 1 ? "" : "s",
            perf_loads[p].connections, f->rounds, (double)o->duration_ns / (double)NS_PER_S);
    for (size_t m = 0; m < PERF_METRICS; m++) {
        if (!isfinite(median->value[m]))
            continue;
        range_of(f->rows[p], f->rounds, m, &low, &high);
        fprintf(out, "  %-30s %12.3f %-3s (%.3f .. %.3f)\n", perf_metrics[m].name, median->value[m],
                perf_metrics[m].unit, low, high);
    }
    fprintf(out, "  %-30s", "cores, busy");
    for (unsigned i = 0; i < median->cpus; i++)
        fprintf(out, " %5.1f%%", median->core_percent[i]);
    fprintf(out, "\n  %-30s %12llu, errors %llu\n", "requests",
            (unsigned long long)median->requests, (unsigned long long)median->errors);
}

static void print_key_values(const struct perf_figures *f, size_t p, FILE *out)
{
    for (size_t m = 0; m < PERF_METRICS; m++)
        if (isfinite(f->median[p].value[m]))
            fprintf(out, "%s.%s=%.4f%s\n", perf_loads[p].name, perf_metrics[m].name,
                    f->median[p].value[m], perf_metrics[m].unit);
    for (unsigned i = 0; i < f->median[p].cpus; i++)
        fprintf(out, "%s.core%u_busy=%.1f%%\n", perf_loads[p].name, i,
                f->median[p].core_percent[i]);
    fprintf(out, "%s.errors=%llu\n", perf_loads[p].name, (unsigned long long)f->median[p].errors);
}

static void print_json(const struct perf_figures *f, FILE *out)
{
    const char *comma = "";

    fprintf(out, "{\"rounds\": %u, \"loads\": {", f->rounds);
    for (size_t p = 0; p < PERF_LOADS; p++) {
        if (!f->rows[p])
            continue;
        fprintf(out, "%s\n  \"%s\": {\"threads\": %u, \"connections\": %u, \"errors\": %llu", comma,
                perf_loads[p].name, perf_loads[p].threads, perf_loads[p].connections,
                (unsigned long long)f->median[p].errors);
        for (size_t m = 0; m < PERF_METRICS; m++) {
            fprintf(out, ",\n    \"%s\": [", perf_metrics[m].name);
            for (uint32_t i = 0; i < f->rounds; i++)
                if (isfinite(f->rows[p][i].value[m]))
                    fprintf(out, "%s%.6f", i ? ", " : "", f->rows[p][i].value[m]);
                else
                    fprintf(out, "%snull", i ? ", " : "");
            fputs("]", out);
        }
        fputs(",\n    \"cores_busy\": [", out);
        for (unsigned i = 0; i < f->median[p].cpus; i++)
            fprintf(out, "%s%.1f", i ? ", " : "", f->median[p].core_percent[i]);
        fputs("]}", out);
        comma = ",";
    }
    fputs("\n}}\n", out);
}

void perf_figures_print(const struct perf_options *o, const struct perf_figures *f, FILE *out)
{
    if (o->format == BENCH_JSON) {
        print_json(f, out);
        return;
    }
    for (size_t p = 0; p < PERF_LOADS; p++) {
        if (!f->rows[p])
            continue;
        if (o->format == BENCH_KEY_VALUE)
            print_key_values(f, p, out);
        else
            print_text(o, f, p, out);
    }
}

int perf_run_main(struct perf_options *o)
{
    struct perf_server server = { .pid = 0 };
    struct perf_figures figures = { .rounds = 0 };
    char *message = NULL;
    int rc = perf_server_start(o, o->program, &server, &message);

    if (rc == 0)
        rc = perf_run_rounds(o, &server, &figures);
    perf_server_stop(&server);
    if (rc == 0)
        perf_figures_print(o, &figures, stdout);
    else
        perf_say_failure(rc, message);
    bool well = rc == 0 && figures.errors == 0;
    perf_figures_fini(&figures);
    mem_free(message);
    return well ? 0 : 1;
}
