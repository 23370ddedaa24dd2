/*
 * The report of a run as one HTML file that needs nothing else: no script, no font, no network.
 * Figures in a table, plots as inline SVG, drawn in light and dark.
 */
#include <errno.h>
#include <math.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tools/bench_int.h"
#include "tools/html.h"

enum { MAX_POINTS = BENCH_SLICES, MAX_LABELS = 8, BARS = 60 };

static double ms(double ns)
{
    return ns / (double)NS_PER_MS;
}

/* --- plots ------------------------------------------------------------------------------------ */

/* At round times: steps of 1, 2 or 5. */
static void label_seconds(const struct html_plot *p)
{
    static const double steps[] = { 1, 2, 5 };
    double decade = pow(10, floor(log10(p->x_max)) - 1), step = decade;
    char text[32];

    for (size_t i = 0; p->x_max / step > MAX_LABELS; i++) {
        step = decade * steps[i % 3];
        decade *= i % 3 == 2 ? 10 : 1;
    }
    for (int i = 0; i * step <= p->x_max * 1.001; i++) {
        snprintf(text, sizeof(text), "%.6g s", i * step);
        html_plot_label(p, i * step, text);
    }
}

static void plot_two(FILE *out, const char *title, double x_max, const double *x, const double *a,
                     const double *b, size_t n)
{
    double most = html_largest(a, n), other = html_largest(b, n);
    struct html_plot p = html_plot_begin(out, title, x_max, most > other ? most : other);

    label_seconds(&p);
    html_plot_line(&p, "b", x, b, n);
    html_plot_line(&p, "a", x, a, n);
    html_plot_end(&p);
}

/* Rate, errors and latency over the time of the run. */
static void plot_timeline(FILE *out, const struct bench_result *r)
{
    const struct bench_timeline *t = &r->timeline;
    double x[MAX_POINTS], done[MAX_POINTS], errors[MAX_POINTS], mean[MAX_POINTS], max[MAX_POINTS];
    double slice_s = (double)t->slice_ns / (double)NS_PER_S;
    size_t n = 0;

    for (size_t i = 0; i < BENCH_SLICES; i++)
        if (t->slices[i].done || t->slices[i].errors)
            n = i + 1;
    for (size_t i = 0; i < n; i++) {
        const struct bench_slice *s = &t->slices[i];
        x[i] = ((double)i + 0.5) * slice_s;
        done[i] = (double)s->done / slice_s;
        errors[i] = (double)s->errors / slice_s;
        mean[i] = s->done ? ms((double)s->latency_ns / (double)s->done) : 0;
        max[i] = ms((double)s->max_ns);
    }
    if (n == 0)
        return;
    fputs("<h2>Answers a second: <span class=\"ka\">correct</span>, <span class=\"kb\">errors"
          "</span></h2>\n",
          out);
    plot_two(out, "Answers a second over time", (double)n * slice_s, x, done, errors, n);
    if (r->latency.count == 0)
        return;
    fputs("<h2>Latency over time, ms: <span class=\"ka\">mean</span>, <span class=\"kb\">maximum"
          "</span></h2>\n",
          out);
    plot_two(out, "Latency over time", (double)n * slice_s, x, mean, max, n);
}

/* Latency over the percentile, each nine as wide as the one before it. */
static void plot_percentiles(FILE *out, const struct bench_result *r)
{
    static const struct {
        double nines;
        const char *name;
    } marks[] = { { 0, "0 %" }, { 1, "90 %" }, { 2, "99 %" }, { 3, "99.9 %" }, { 4, "99.99 %" } };
    double x[MAX_POINTS], y[MAX_POINTS];

    for (size_t i = 0; i < MAX_POINTS; i++) {
        x[i] = 4.0 * (double)i / (MAX_POINTS - 1);
        double percent = 100 * (1 - pow(10, -x[i]));
        y[i] = ms((double)hist_percentile(&r->latency, percent > 0.001 ? percent : 0.001));
    }
    fputs("<h2>Latency by percentile, ms</h2>\n", out);
    struct html_plot p = html_plot_begin(out, "Latency by percentile", 4, y[MAX_POINTS - 1]);
    for (size_t i = 0; i < ARRAY_LENGTH(marks); i++)
        html_plot_label(&p, marks[i].nines, marks[i].name);
    html_plot_line(&p, "a", x, y, MAX_POINTS);
    html_plot_end(&p);
}

/* Where bar `i` begins: in equal steps from the minimum to p99.9, or where most answers are close
 * to the minimum in equal ratios. */
static double bar_begin(const struct bench_result *r, double i)
{
    double low = r->latency.min ? (double)r->latency.min : 1;
    double high = (double)hist_percentile(&r->latency, 99.9) + 1;

    if (bench_result_is_skewed(r))
        return low * pow(high / low, i / BARS);
    return low + (high - low + BARS) * i / BARS;
}

static void plot_histogram(FILE *out, const struct bench_result *r)
{
    double counts[BARS];
    uint64_t before = 0;
    char text[32];

    for (size_t i = 0; i < BARS; i++) {
        uint64_t upto = hist_count_to(&r->latency, (uint64_t)bar_begin(r, (double)i + 1));
        counts[i] = (double)(upto - before);
        before = upto;
    }
    fprintf(out, "<h2>Answers by latency, ms (up to p99.9%s)</h2>\n",
            bench_result_is_skewed(r) ? "; logarithmic" : "");
    struct html_plot p =
        html_plot_begin(out, "Answers by latency", BARS, html_largest(counts, BARS));
    for (size_t i = 0; i < BARS; i++)
        fprintf(out, "<rect class=\"bar\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
                html_plot_x(&p, (double)i), html_plot_y(&p, counts[i]),
                (double)(HTML_PLOT_WIDTH - HTML_PLOT_LEFT - HTML_PLOT_RIGHT) / BARS - 1,
                html_plot_y(&p, 0) - html_plot_y(&p, counts[i]));
    for (int i = 0; i <= 4; i++) {
        snprintf(text, sizeof(text), "%.3g", ms(bar_begin(r, BARS * i / 4.0)));
        html_plot_label(&p, BARS * i / 4.0, text);
    }
    html_plot_end(&p);
}

/* --- the page --------------------------------------------------------------------------------- */

static void put_row(FILE *out, const char *name, double value, const char *unit)
{
    fprintf(out, "<tr><th>%s</th><td>%.3f%s</td></tr>\n", name, value, unit);
}

static void put_count(FILE *out, const char *name, uint64_t n)
{
    fprintf(out, "<tr><th>%s</th><td>%llu</td></tr>\n", name, (unsigned long long)n);
}

static void put_latency(FILE *out, const struct bench_result *r)
{
    put_row(out, "Mean", ms(hist_mean(&r->latency)), " ms");
    put_row(out, "Standard deviation", ms(hist_stdev(&r->latency)), " ms");
    put_row(out, "Minimum", ms((double)r->latency.min), " ms");
    for (size_t i = 0; i < BENCH_PERCENTILES; i++)
        put_row(out, bench_percentiles[i].name,
                ms((double)hist_percentile(&r->latency, bench_percentiles[i].percent)), " ms");
    put_row(out, "Maximum", ms((double)r->latency.max), " ms");
}

static void put_figures(FILE *out, const struct bench_options *o, const struct bench_result *r)
{
    char name[32];

    fputs("<table>\n", out);
    if (o->rps > 0)
        put_row(out, "Target RPS", o->rps, o->poisson ? ", Poisson" : ", constant");
    else
        fputs("<tr><th>Target RPS</th><td>as many as possible (closed loop)</td></tr>\n", out);
    put_row(out, "Actual RPS", bench_result_rps(r), "");
    fprintf(out, "<tr><th>Success</th><td>%.8g %%</td></tr>\n", bench_result_success(r));
    put_row(out, "Measured", (double)r->elapsed_ns / (double)NS_PER_S, " s");
    if (r->elapsed_ns)
        put_row(out, "Received", (double)r->bytes * 1e3 / (double)r->elapsed_ns, " MB/s");
    put_count(out, "Connections", o->connections);
    put_count(out, "Threads", o->threads);
    put_count(out, "Requests", bench_result_total(r));
    for (int e = BENCH_OK + 1; e < BENCH_OUTCOMES; e++) {
        snprintf(name, sizeof(name), "Errors: %s", bench_error_name((enum bench_error)e));
        if (r->outcomes[e])
            put_count(out, name, r->outcomes[e]);
    }
    if (o->https) {
        put_count(out, "TLS handshakes", r->handshakes);
        put_count(out, "TLS handshakes resumed", r->resumed);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(r->statuses); i++) {
        snprintf(name, sizeof(name), "Status %zu", i);
        if (r->statuses[i])
            put_count(out, name, r->statuses[i]);
    }
    if (r->latency.count)
        put_latency(out, r);
    fputs("</table>\n", out);
}

static void put_causes(FILE *out, const struct bench_result *r)
{
    if (!r->n_causes)
        return;
    fputs("<h2>What the errors were</h2>\n<table>\n", out);
    for (size_t i = 0; i < r->n_causes; i++) {
        fputs("<tr><th>", out);
        html_text(out, r->causes[i].text);
        fprintf(out, "</th><td>%llu</td></tr>\n", (unsigned long long)r->causes[i].n);
    }
    fputs("</table>\n", out);
}

static void put_date(FILE *out)
{
    time_t now = time(NULL);
    struct tm tm;
    char text[32];

    strftime(text, sizeof(text), "%F %H:%M UTC", gmtime_r(&now, &tm));
    fprintf(out, "<p>%s</p>\n", text);
}

int bench_html_write(const struct bench_options *o, const struct bench_result *r, const char *path)
{
    char *warnings[BENCH_WARNINGS_MAX];
    FILE *out = fopen(path, "we");

    if (!out)
        return -errno;
    html_begin(out, "sapid bench");
    fputs("<h1>sapid bench: ", out);
    html_text(out, o->targets[0].url);
    fprintf(out, "%s</h1>\n", o->n_targets > 1 ? " and others" : "");
    put_date(out);
    size_t n = bench_result_warn(o, r, warnings);
    for (size_t i = 0; i < n; i++) {
        fputs("<p class=\"warning\">", out);
        html_text(out, warnings[i]);
        fputs("</p>\n", out);
        mem_free(warnings[i]);
    }
    put_figures(out, o, r);
    put_causes(out, r);
    plot_timeline(out, r);
    if (r->latency.count) {
        plot_percentiles(out, r);
        plot_histogram(out, r);
    }
    html_end(out);
    bool failed = ferror(out);
    if (fclose(out) != 0)
        return -errno;
    return failed ? -EIO : 0;
}
