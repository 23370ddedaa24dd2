/*
 * What came out of a run: adding up threads, the derived figures, and three ways to print them. A
 * latency is always that of a correct answer; wrong answers and failures are counted by their kind.
 */
#include <math.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tools/bench_int.h"

const struct bench_percentile bench_percentiles[BENCH_PERCENTILES] = {
    { "p50", 50 }, { "p75", 75 },     { "p90", 90 },       { "p95", 95 },
    { "p99", 99 }, { "p99.9", 99.9 }, { "p99.99", 99.99 },
};

static const char *const error_names[BENCH_OUTCOMES] = {
    [BENCH_OK] = "none",     [BENCH_CONNECT] = "connect", [BENCH_READ] = "read",
    [BENCH_WRITE] = "write", [BENCH_STATUS] = "status",   [BENCH_TIMEOUT] = "timeout",
    [BENCH_BODY] = "body",
};

const char *bench_error_name(enum bench_error e)
{
    CHECKF(e < BENCH_OUTCOMES, "outcome %d", (int)e);
    return error_names[e];
}

/* --- adding up -------------------------------------------------------------------------------- */

static void join_slice(struct bench_slice *into, const struct bench_slice *from)
{
    into->done += from->done;
    into->errors += from->errors;
    into->latency_ns += from->latency_ns;
    if (from->max_ns > into->max_ns)
        into->max_ns = from->max_ns;
}

/* Slices become twice as long. */
static void coarsen(struct bench_timeline *t)
{
    for (size_t i = 0; i < BENCH_SLICES; i++) {
        struct bench_slice s = t->slices[i];
        t->slices[i] = (struct bench_slice){ .done = 0 };
        join_slice(&t->slices[i / 2], &s);
    }
    t->slice_ns *= 2;
}

void bench_timeline_note(struct bench_timeline *t, uint64_t at_ns, enum bench_error outcome,
                         uint64_t latency_ns)
{
    while (at_ns / t->slice_ns >= BENCH_SLICES)
        coarsen(t);
    struct bench_slice *s = &t->slices[at_ns / t->slice_ns];
    if (outcome != BENCH_OK) {
        s->errors++;
        return;
    }
    s->done++;
    s->latency_ns += latency_ns;
    if (latency_ns > s->max_ns)
        s->max_ns = latency_ns;
}

void bench_result_blame(struct bench_result *r, enum bench_error kind, const char *text, uint64_t n)
{
    struct bench_cause *cause = r->causes;

    for (size_t i = 0; i < r->n_causes; i++, cause++)
        if (cause->kind == kind && strncmp(cause->text, text, BENCH_CAUSE_BYTES - 1) == 0) {
            cause->n += n;
            return;
        }
    if (r->n_causes == BENCH_CAUSES) {
        r->causes[BENCH_CAUSES - 1].n += n;
        return;
    }
    if (++r->n_causes == BENCH_CAUSES)
        *cause = (struct bench_cause){ .n = n, .text = "other causes" };
    else
        *cause = (struct bench_cause){ .kind = kind, .n = n };
    if (cause->text[0] == '\0')
        snprintf(cause->text, sizeof(cause->text), "%s", text);
}

void bench_result_init(struct bench_result *r)
{
    memset(r, 0, sizeof(*r));
    hist_init(&r->latency);
    hist_init(&r->lag);
    r->timeline.slice_ns = BENCH_SLICE_NS;
}

void bench_result_merge(struct bench_result *into, struct bench_result *from)
{
    hist_merge(&into->latency, &from->latency);
    hist_merge(&into->lag, &from->lag);
    for (size_t i = 0; i < BENCH_OUTCOMES; i++)
        into->outcomes[i] += from->outcomes[i];
    for (size_t i = 0; i < from->n_causes; i++)
        bench_result_blame(into, from->causes[i].kind, from->causes[i].text, from->causes[i].n);
    into->handshakes += from->handshakes;
    into->resumed += from->resumed;
    if (!into->tls[0])
        memcpy(into->tls, from->tls, sizeof(into->tls));
    for (size_t i = 0; i < ARRAY_LENGTH(into->statuses); i++)
        into->statuses[i] += from->statuses[i];
    into->bytes += from->bytes;
    into->ok_in_time += from->ok_in_time;
    into->waited += from->waited;
    if (from->last_ns > into->last_ns)
        into->last_ns = from->last_ns;
    if (from->elapsed_ns > into->elapsed_ns)
        into->elapsed_ns = from->elapsed_ns;
    if (from->busiest + from->kept_waiting > into->busiest + into->kept_waiting) {
        into->busiest = from->busiest;
        into->kept_waiting = from->kept_waiting;
    }
    into->gave_up |= from->gave_up;
    into->interrupted |= from->interrupted;
    while (into->timeline.slice_ns < from->timeline.slice_ns)
        coarsen(&into->timeline);
    while (from->timeline.slice_ns < into->timeline.slice_ns)
        coarsen(&from->timeline);
    for (size_t i = 0; i < BENCH_SLICES; i++)
        join_slice(&into->timeline.slices[i], &from->timeline.slices[i]);
}

/* --- figures ---------------------------------------------------------------------------------- */

uint64_t bench_result_errors(const struct bench_result *r)
{
    uint64_t n = 0;
    for (size_t i = BENCH_OK + 1; i < BENCH_OUTCOMES; i++)
        n += r->outcomes[i];
    return n;
}

uint64_t bench_result_total(const struct bench_result *r)
{
    return r->outcomes[BENCH_OK] + bench_result_errors(r);
}

#define ALMOST_ALL 99.999999

double bench_result_success(const struct bench_result *r)
{
    uint64_t total = bench_result_total(r);
    double percent = total ? 100.0 * (double)r->outcomes[BENCH_OK] / (double)total : 0;

    /* One error of many millions must not be rounded away. */
    return percent > ALMOST_ALL && bench_result_errors(r) ? ALMOST_ALL : percent;
}

static double seconds_of(const struct bench_result *r)
{
    return (double)r->elapsed_ns / (double)NS_PER_S;
}

double bench_result_rps(const struct bench_result *r)
{
    return r->elapsed_ns ? (double)r->ok_in_time / seconds_of(r) : 0;
}

static double megabytes_per_second(const struct bench_result *r)
{
    return r->elapsed_ns ? (double)r->bytes / 1e6 / seconds_of(r) : 0;
}

static double ms(double ns)
{
    return ns / (double)NS_PER_MS;
}

static double percentile_ms(const struct bench_result *r, size_t i)
{
    return ms((double)hist_percentile(&r->latency, bench_percentiles[i].percent));
}

static uint64_t min_ns(const struct bench_result *r)
{
    return r->latency.count ? r->latency.min : 0;
}

size_t bench_result_warn(const struct bench_options *o, const struct bench_result *r,
                         char *ret[BENCH_WARNINGS_MAX])
{
    uint64_t total = bench_result_total(r);
    double mean = hist_mean(&r->latency), rps = bench_result_rps(r);
    double p99 = (double)hist_percentile(&r->latency, 99);
    size_t n = 0;

    if (total == 0)
        ret[n++] = mem_strdup("no request came to an end; there is nothing to measure");
    if (r->gave_up)
        ret[n++] = mem_strdup("gave up: no answer for twice the time limit of a request");
    if (r->interrupted)
        ret[n++] = mem_strdup("interrupted: requests on their way are not counted");
    if (r->latency.count && bench_result_errors(r) * 100 >= total)
        ret[n++] = mem_printf("%.3g %% of the requests are errors and in no latency: for all who "
                              "asked, the high percentiles are worse than these",
                              100 - bench_result_success(r));
    if (mean > 0 && p99 > 10 * mean)
        ret[n++] = mem_printf("p99 is %.1f times the mean: a few requests are much slower than the "
                              "others",
                              p99 / mean);
    if (r->latency.max > 500 * NS_PER_MS)
        ret[n++] = mem_printf("the slowest answer took %.0f ms, more than 500 ms",
                              ms((double)r->latency.max));
    if (r->busiest > 0.9)
        ret[n++] =
            mem_printf("the load generator is saturated (a thread used %.0f %% of its core): "
                       "it may be what is measured; use --threads",
                       100 * r->busiest);
    else if (r->busiest + r->kept_waiting > 0.9)
        ret[n++] = mem_printf("the load generator is saturated (a thread used %.0f %% of a core "
                              "and waited for one %.0f %% of the time): what else runs here is "
                              "part of the figures",
                              100 * r->busiest, 100 * r->kept_waiting);
    else if (r->lag.count && hist_percentile(&r->lag, 90) > 2 * NS_PER_MS)
        ret[n++] = mem_printf("the load generator is late: a tenth of the requests started more "
                              "than %.1f ms after their time; this machine is too busy",
                              ms((double)hist_percentile(&r->lag, 90)));
    if (o->rps > 0 && r->waited * 100 > total)
        ret[n++] = mem_printf("%llu requests waited for a free connection: the server is slower "
                              "than the rate, or --concurrency %u is too low for it",
                              (unsigned long long)r->waited, o->connections);
    if (o->rps > 0 && rps < 0.95 * o->rps && !r->interrupted)
        ret[n++] = mem_printf("the target rate was not reached: %.0f of %.0f requests a second",
                              rps, o->rps);
    DCHECK(n <= BENCH_WARNINGS_MAX);
    return n;
}

/* --- text ------------------------------------------------------------------------------------- */

enum { BARS_MAX = 24, BAR_COLUMNS = 50 };

bool bench_result_is_skewed(const struct bench_result *r)
{
    uint64_t low = r->latency.min, high = hist_percentile(&r->latency, 99.9);
    return hist_percentile(&r->latency, 50) < low + (high - low) / BARS_MAX;
}

/* Where the rows begin, and where the last one ends: equal steps of 1, 2 or 5 from the minimum to
 * p99.9, or growing ones where equal steps would put half of all answers into the first. */
static size_t choose_rows(const struct bench_result *r, uint64_t ret[BARS_MAX + 2])
{
    static const unsigned equal[] = { 2, 5, 10 };
    static const unsigned growing[] = { 10, 15, 20, 30, 50, 70 }, coarse[] = { 10, 20, 50 };
    uint64_t low = r->latency.min ? r->latency.min : 1;
    uint64_t high = hist_percentile(&r->latency, 99.9), step = 1;
    size_t n = 0;

    if (!bench_result_is_skewed(r)) {
        for (uint64_t decade = 1; (high - low) / step >= BARS_MAX; decade *= 10)
            for (size_t i = 0; i < 3 && (high - low) / step >= BARS_MAX; i++)
                step = decade * equal[i];
        for (uint64_t at = low / step * step; n == 0 || ret[n - 1] <= high; at += step)
            ret[n++] = at;
        return n - 1;
    }
    bool wide = (double)high / (double)low > 1e3;
    const unsigned *series = wide ? coarse : growing;
    size_t n_series = wide ? ARRAY_LENGTH(coarse) : ARRAY_LENGTH(growing);
    for (uint64_t decade = 1; n == 0 || ret[n - 1] <= high; decade *= 10)
        for (size_t i = 0; i < n_series && (n == 0 || ret[n - 1] <= high); i++) {
            if (n && decade * series[i] / 10 <= low)
                n = 0; /* the row before holds nothing */
            if (n < BARS_MAX + 2)
                ret[n++] = decade * series[i] / 10;
            else
                return n - 1;
        }
    return n - 1;
}

static void print_histogram(const struct bench_result *r, FILE *out)
{
    uint64_t begins[BARS_MAX + 2], counts[BARS_MAX + 2] = { 0 }, most = 1, before = 0;
    size_t rows = choose_rows(r, begins);

    for (size_t i = 0; i <= rows; i++) {
        uint64_t upto = i == rows ? r->latency.count
                                  : hist_count_to(&r->latency, begins[i + 1] - 1);
        counts[i] = upto - before;
        before = upto;
        if (counts[i] > most)
            most = counts[i];
    }
    fprintf(out, "\nLatency%s\n", bench_result_is_skewed(r) ? " (rows of growing width)" : "");
    for (size_t i = 0; i <= rows; i++) {
        int width = (int)((counts[i] * BAR_COLUMNS + most - 1) / most);
        if (i == rows && counts[i] == 0)
            break;
        fprintf(out, "  %s %10.3f ms %9llu |%.*s\n", i == rows ? ">=" : "  ", ms((double)begins[i]),
                (unsigned long long)counts[i], width,
                "##################################################");
    }
}

/* The row of all that found no room is of no kind. */
static const char *cause_kind(const struct bench_cause *cause)
{
    return cause->kind == BENCH_OK ? "various" : error_names[cause->kind];
}

static void print_errors(const struct bench_result *r, FILE *out)
{
    if (bench_result_errors(r) == 0)
        return;
    fprintf(out, "errors by kind:       ");
    for (size_t i = BENCH_OK + 1; i < BENCH_OUTCOMES; i++)
        if (r->outcomes[i])
            fprintf(out, " %s %llu", error_names[i], (unsigned long long)r->outcomes[i]);
    putc('\n', out);
    for (size_t i = 0; i < r->n_causes; i++)
        fprintf(out, "  %8llu %s: %s\n", (unsigned long long)r->causes[i].n,
                cause_kind(&r->causes[i]), r->causes[i].text);
}

static void print_latency(const struct bench_result *r, FILE *out)
{
    if (r->latency.count == 0) {
        fputs("latency, ms:  none: no request was answered correctly\n", out);
        return;
    }
    fprintf(out, "latency, ms:  min %.3f  mean %.3f  stdev %.3f\n", ms((double)min_ns(r)),
            ms(hist_mean(&r->latency)), ms(hist_stdev(&r->latency)));
    for (size_t i = 0; i < BENCH_PERCENTILES; i++) {
        double slower = (double)r->latency.count * (1 - bench_percentiles[i].percent / 100);
        fprintf(out, "  %-7s %10.3f%s\n", bench_percentiles[i].name, percentile_ms(r, i),
                slower < 1 ? "  (too few answers for it: the slowest)" : "");
    }
    fprintf(out, "  %-7s %10.3f\n", "max", ms((double)r->latency.max));
    print_histogram(r, out);
}

static void print_text(const struct bench_options *o, const struct bench_result *r, FILE *out)
{
    fprintf(out, "%s%s\n", o->targets[0].url, o->n_targets > 1 ? " and others" : "");
    fprintf(out, "%s, %u connection%s, %u thread%s, %.3f s\n\n",
            o->rps <= 0  ? "closed loop"
            : o->poisson ? "open loop, Poisson"
                         : "open loop, constant rate",
            o->connections, o->connections == 1 ? "" : "s", o->threads, o->threads == 1 ? "" : "s",
            seconds_of(r));
    if (o->rps > 0)
        fprintf(out, "Target RPS:            %.2f\n", o->rps);
    else
        fprintf(out, "Target RPS:            as many as possible\n");
    fprintf(out, "Actual RPS:            %.2f\n", bench_result_rps(r));
    fprintf(out, "requests_per_sec:      %.2f\n", bench_result_rps(r));
    fprintf(out, "total_requests:        %llu\n", (unsigned long long)bench_result_total(r));
    fprintf(out, "errors:                %llu\n", (unsigned long long)bench_result_errors(r));
    fprintf(out, "success_rate:          %.8g%%\n", bench_result_success(r));
    fprintf(out, "throughput_mb_per_sec: %.3f\n", megabytes_per_second(r));
    print_errors(r, out);
    fprintf(out, "status codes:         ");
    for (size_t i = 0; i < ARRAY_LENGTH(r->statuses); i++)
        if (r->statuses[i])
            fprintf(out, " %zu: %llu", i, (unsigned long long)r->statuses[i]);
    if (o->https)
        fprintf(out, "\nTLS:                   %s; %llu handshakes, %llu of them resumed",
                r->tls[0] ? r->tls : "no connection", (unsigned long long)r->handshakes,
                (unsigned long long)r->resumed);
    fputs("\n\n", out);
    print_latency(r, out);
}

static void print_key_values(const struct bench_options *o, const struct bench_result *r, FILE *out)
{
    if (o->rps > 0)
        fprintf(out, "target_rps=%.2f\n", o->rps);
    fprintf(out, "actual_rps=%.2f\nrequests_per_sec=%.2f\n", bench_result_rps(r),
            bench_result_rps(r));
    fprintf(out, "total_requests=%llu\n", (unsigned long long)bench_result_total(r));
    fprintf(out, "errors=%llu\n", (unsigned long long)bench_result_errors(r));
    for (size_t i = BENCH_OK + 1; i < BENCH_OUTCOMES; i++)
        fprintf(out, "errors_%s=%llu\n", error_names[i], (unsigned long long)r->outcomes[i]);
    fprintf(out, "success_rate=%.8g%%\n", bench_result_success(r));
    if (r->latency.count) {
        fprintf(out, "min=%.3fms\nmean=%.3fms\nstdev=%.3fms\n", ms((double)min_ns(r)),
                ms(hist_mean(&r->latency)), ms(hist_stdev(&r->latency)));
        for (size_t i = 0; i < BENCH_PERCENTILES; i++)
            fprintf(out, "%s=%.3fms\n", bench_percentiles[i].name, percentile_ms(r, i));
        fprintf(out, "max=%.3fms\n", ms((double)r->latency.max));
    }
    fprintf(out, "throughput_mb_per_sec=%.3f\nduration=%.3fs\n", megabytes_per_second(r),
            seconds_of(r));
    for (size_t i = 0; i < ARRAY_LENGTH(r->statuses); i++)
        if (r->statuses[i])
            fprintf(out, "status_%zu=%llu\n", i, (unsigned long long)r->statuses[i]);
    if (o->https)
        fprintf(out, "tls=%s\ntls_handshakes=%llu\ntls_resumed=%llu\n", r->tls,
                (unsigned long long)r->handshakes, (unsigned long long)r->resumed);
    for (size_t i = 0; i < r->n_causes; i++)
        fprintf(out, "cause=%llu %s: %s\n", (unsigned long long)r->causes[i].n,
                cause_kind(&r->causes[i]), r->causes[i].text);
}

/* --- JSON ------------------------------------------------------------------------------------- */

/* URLs are ASCII and messages are ours; bytes above it come from the command line as UTF-8. */
static void print_json_text(const char *text, FILE *out)
{
    putc('"', out);
    for (const char *p = text; *p; p++)
        if (*p == '"' || *p == '\\')
            fprintf(out, "\\%c", *p);
        else if ((unsigned char)*p < ' ')
            fprintf(out, "\\u%04x", (unsigned)*p);
        else
            putc(*p, out);
    putc('"', out);
}

static void print_json_latency(const struct bench_result *r, FILE *out)
{
    if (r->latency.count == 0) {
        fputs("  \"latency_ms\": {\"min\": null, \"mean\": null, \"stdev\": null", out);
        for (size_t i = 0; i < BENCH_PERCENTILES; i++)
            fprintf(out, ", \"%s\": null", bench_percentiles[i].name);
        fputs(", \"max\": null},\n", out);
        return;
    }
    fprintf(out, "  \"latency_ms\": {\"min\": %.6f, \"mean\": %.6f, \"stdev\": %.6f",
            ms((double)min_ns(r)), ms(hist_mean(&r->latency)), ms(hist_stdev(&r->latency)));
    for (size_t i = 0; i < BENCH_PERCENTILES; i++)
        fprintf(out, ", \"%s\": %.6f", bench_percentiles[i].name, percentile_ms(r, i));
    fprintf(out, ", \"max\": %.6f},\n", ms((double)r->latency.max));
}

static void print_json_causes(const struct bench_options *o, const struct bench_result *r,
                              FILE *out)
{
    fputs("  \"causes\": [", out);
    for (size_t i = 0; i < r->n_causes; i++) {
        fprintf(out, "%s{\"kind\": \"%s\", \"count\": %llu, \"text\": ", i ? ", " : "",
                cause_kind(&r->causes[i]), (unsigned long long)r->causes[i].n);
        print_json_text(r->causes[i].text, out);
        putc('}', out);
    }
    fputs("],\n  \"tls\": ", out);
    if (o->https) {
        fputs("{\"protocol\": ", out);
        print_json_text(r->tls, out);
        fprintf(out, ", \"handshakes\": %llu, \"resumed\": %llu},\n",
                (unsigned long long)r->handshakes, (unsigned long long)r->resumed);
    } else {
        fputs("null,\n", out);
    }
}

static void print_json(const struct bench_options *o, const struct bench_result *r, FILE *out)
{
    char *warnings[BENCH_WARNINGS_MAX];
    size_t n = bench_result_warn(o, r, warnings);
    const char *comma = "";

    fputs("{\n  \"urls\": [", out);
    for (size_t i = 0; i < o->n_targets; i++) {
        fputs(i ? ", " : "", out);
        print_json_text(o->targets[i].url, out);
    }
    fprintf(out, "],\n  \"threads\": %u, \"concurrency\": %u, \"poisson\": %s,\n", o->threads,
            o->connections, o->poisson ? "true" : "false");
    if (o->rps > 0)
        fprintf(out, "  \"target_rps\": %.3f,\n", o->rps);
    else
        fputs("  \"target_rps\": null,\n", out);
    fprintf(out, "  \"actual_rps\": %.3f,\n  \"requests_per_sec\": %.3f,\n", bench_result_rps(r),
            bench_result_rps(r));
    fprintf(out, "  \"total_requests\": %llu,\n", (unsigned long long)bench_result_total(r));
    fprintf(out, "  \"errors\": {\"total\": %llu", (unsigned long long)bench_result_errors(r));
    for (size_t i = BENCH_OK + 1; i < BENCH_OUTCOMES; i++)
        fprintf(out, ", \"%s\": %llu", error_names[i], (unsigned long long)r->outcomes[i]);
    fprintf(out, "},\n  \"success_rate\": %.6f,\n", bench_result_success(r));
    print_json_latency(r, out);
    fprintf(out,
            "  \"throughput_mb_per_sec\": %.6f,\n  \"duration_s\": %.6f,\n"
            "  \"last_answer_s\": %.6f,\n  \"status\": {",
            megabytes_per_second(r), seconds_of(r), (double)r->last_ns / (double)NS_PER_S);
    for (size_t i = 0; i < ARRAY_LENGTH(r->statuses); i++) {
        if (!r->statuses[i])
            continue;
        fprintf(out, "%s\"%zu\": %llu", comma, i, (unsigned long long)r->statuses[i]);
        comma = ", ";
    }
    fputs("},\n", out);
    print_json_causes(o, r, out);
    fputs("  \"warnings\": [", out);
    for (size_t i = 0; i < n; i++) {
        fputs(i ? ", " : "", out);
        print_json_text(warnings[i], out);
        mem_free(warnings[i]);
    }
    fputs("]\n}\n", out);
}

void bench_result_print(const struct bench_options *o, const struct bench_result *r, FILE *out)
{
    char *warnings[BENCH_WARNINGS_MAX];

    if (o->format == BENCH_JSON) {
        print_json(o, r, out);
        return;
    }
    if (o->format == BENCH_KEY_VALUE)
        print_key_values(o, r, out);
    else
        print_text(o, r, out);
    size_t n = bench_result_warn(o, r, warnings);
    if (n && o->format == BENCH_TEXT)
        putc('\n', out);
    for (size_t i = 0; i < n; i++) {
        fprintf(out, "%s%s\n", o->format == BENCH_TEXT ? "Warning: " : "warning=", warnings[i]);
        mem_free(warnings[i]);
    }
}
