/*
 * The report of a run as one HTML file that needs nothing else: no script, no font, no network.
 * Figures in a table, plots as inline SVG, drawn in light and dark.
 */
#include <errno.h>
#include <math.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tools/bench_int.h"
#include "version.h"

enum {
    WIDTH = 760,
    HEIGHT = 220,
    LEFT = 70,
    RIGHT = 30,
    TOP = 10,
    BOTTOM = 30,
    MAX_POINTS = BENCH_SLICES
};

static const char head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n"
    "<title>sapid bench</title>\n<style>\n"
    ":root{color-scheme:light dark;--ink:#1c2733;--line:#c9d1d9;--a:#1f6feb;--b:#cf5b16}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#dde4ec;--line:#3b4652;--a:#58a6ff;"
    "--b:#f0883e}}\n"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);max-width:800px;margin:2em auto;"
    "padding:0 1em}\n"
    "h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}\n"
    "table{border-collapse:collapse}td,th{padding:.15em 1em .15em 0;text-align:left}\n"
    "td{font-variant-numeric:tabular-nums}\n"
    "svg{width:100%;height:auto}svg text{fill:var(--ink);font:11px system-ui,sans-serif}\n"
    ".grid{stroke:var(--line)}.a{stroke:var(--a)}.b{stroke:var(--b)}\n"
    ".a,.b{fill:none;stroke-width:1.5}.bar{fill:var(--a)}.ka{color:var(--a)}.kb{color:var(--b)}\n"
    ".warning{border-left:4px solid var(--b);padding-left:.7em}\n"
    "</style></head><body>\n";

static void put_text(FILE *out, const char *text)
{
    for (const char *p = text; *p; p++)
        switch (*p) {
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '&': fputs("&amp;", out); break;
        case '"': fputs("&quot;", out); break;
        default: putc(*p, out);
        }
}

static double ms(double ns)
{
    return ns / (double)NS_PER_MS;
}

/* --- plots ------------------------------------------------------------------------------------ */

struct plot {
    FILE *out;
    double x_max, y_max; /* both axes begin at 0 */
};

static double x_at(const struct plot *p, double x)
{
    return LEFT + x / p->x_max * (WIDTH - LEFT - RIGHT);
}

static double y_at(const struct plot *p, double y)
{
    return HEIGHT - BOTTOM - y / p->y_max * (HEIGHT - TOP - BOTTOM);
}

/* The next of 1, 2, 5, 10, 20... that is not below `value`. */
static double round_up(double value)
{
    static const double steps[] = { 1, 2, 5, 10 };
    double decade = value > 0 ? pow(10, floor(log10(value))) : 1;

    for (size_t i = 0; i < ARRAY_LENGTH(steps); i++)
        if (value <= steps[i] * decade)
            return steps[i] * decade;
    return 10 * decade;
}

static void label_x(const struct plot *p, double x, const char *text)
{
    fprintf(p->out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x_at(p, x),
            HEIGHT - BOTTOM + 16, text);
}

static struct plot begin_plot(FILE *out, const char *title, double x_max, double y_max)
{
    struct plot p = { out, x_max > 0 ? x_max : 1, round_up(y_max) };

    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n", WIDTH, HEIGHT,
            title);
    for (int i = 0; i <= 4; i++) {
        double y = p.y_max * i / 4;
        fprintf(out,
                "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
                "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                LEFT, WIDTH - RIGHT, y_at(&p, y), y_at(&p, y), LEFT - 6, y_at(&p, y) + 4, y);
    }
    return p;
}

static void label_seconds(const struct plot *p)
{
    char text[32];
    for (int i = 0; i <= 4; i++) {
        snprintf(text, sizeof(text), "%.3g s", p->x_max * i / 4);
        label_x(p, p->x_max * i / 4, text);
    }
}

static void draw_line(const struct plot *p, const char *style, const double *x, const double *y,
                      size_t n)
{
    fprintf(p->out, "<polyline class=\"%s\" points=\"", style);
    for (size_t i = 0; i < n; i++)
        fprintf(p->out, "%.1f,%.1f ", x_at(p, x[i]), y_at(p, y[i]));
    fputs("\"/>\n", p->out);
}

static double largest(const double *v, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        if (v[i] > most)
            most = v[i];
    return most;
}

static void plot_two(FILE *out, const char *title, const double *x, const double *a,
                     const double *b, size_t n)
{
    double most = largest(a, n), other = largest(b, n);
    struct plot p = begin_plot(out, title, x[n - 1], most > other ? most : other);

    label_seconds(&p);
    draw_line(&p, "b", x, b, n);
    draw_line(&p, "a", x, a, n);
    fputs("</svg>\n", out);
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
    plot_two(out, "Answers a second over time", x, done, errors, n);
    fputs("<h2>Latency over time, ms: <span class=\"ka\">mean</span>, <span class=\"kb\">maximum"
          "</span></h2>\n",
          out);
    plot_two(out, "Latency over time", x, mean, max, n);
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
    struct plot p = begin_plot(out, "Latency by percentile", 4, y[MAX_POINTS - 1]);
    for (size_t i = 0; i < ARRAY_LENGTH(marks); i++)
        label_x(&p, marks[i].nines, marks[i].name);
    draw_line(&p, "a", x, y, MAX_POINTS);
    fputs("</svg>\n", out);
}

static void plot_histogram(FILE *out, const struct bench_result *r)
{
    enum { BARS = 60 };
    double low = (double)r->latency.min;
    double step = ((double)hist_percentile(&r->latency, 99.9) - low) / BARS + 1;
    double counts[BARS];
    uint64_t before = 0;
    char text[32];

    for (size_t i = 0; i < BARS; i++) {
        uint64_t upto = hist_count_to(&r->latency, (uint64_t)(low + step * ((double)i + 1)));
        counts[i] = (double)(upto - before);
        before = upto;
    }
    fputs("<h2>Answers by latency, ms (up to p99.9)</h2>\n", out);
    struct plot p = begin_plot(out, "Answers by latency", BARS, largest(counts, BARS));
    for (size_t i = 0; i < BARS; i++)
        fprintf(out, "<rect class=\"bar\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
                x_at(&p, (double)i), y_at(&p, counts[i]), (double)(WIDTH - LEFT - RIGHT) / BARS - 1,
                y_at(&p, 0) - y_at(&p, counts[i]));
    for (int i = 0; i <= 4; i++) {
        snprintf(text, sizeof(text), "%.4g", ms(low + step * BARS * i / 4));
        label_x(&p, BARS * i / 4.0, text);
    }
    fputs("</svg>\n", out);
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

static void put_figures(FILE *out, const struct bench_options *o, const struct bench_result *r)
{
    char name[32];

    fputs("<table>\n", out);
    if (o->rps > 0)
        put_row(out, "Target RPS", o->rps, o->poisson ? ", Poisson" : ", constant");
    put_row(out, "Actual RPS", bench_result_rps(r), "");
    put_row(out, "Success", bench_result_success(r), " %");
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
    for (size_t i = 0; i < ARRAY_LENGTH(r->statuses); i++) {
        snprintf(name, sizeof(name), "Status %zu", i);
        if (r->statuses[i])
            put_count(out, name, r->statuses[i]);
    }
    put_row(out, "Mean", ms(hist_mean(&r->latency)), " ms");
    put_row(out, "Standard deviation", ms(hist_stdev(&r->latency)), " ms");
    put_row(out, "Minimum", r->latency.count ? ms((double)r->latency.min) : 0, " ms");
    for (size_t i = 0; i < BENCH_PERCENTILES; i++)
        put_row(out, bench_percentiles[i].name,
                ms((double)hist_percentile(&r->latency, bench_percentiles[i].percent)), " ms");
    put_row(out, "Maximum", ms((double)r->latency.max), " ms");
    fputs("</table>\n", out);
}

int bench_html_write(const struct bench_options *o, const struct bench_result *r, const char *path)
{
    char *warnings[BENCH_WARNINGS_MAX];
    FILE *out = fopen(path, "we");

    if (!out)
        return -errno;
    fputs(head, out);
    fputs("<h1>sapid bench: ", out);
    put_text(out, o->targets[0].url);
    fprintf(out, "%s</h1>\n", o->n_targets > 1 ? " and others" : "");
    size_t n = bench_result_warn(o, r, warnings);
    for (size_t i = 0; i < n; i++) {
        fputs("<p class=\"warning\">", out);
        put_text(out, warnings[i]);
        fputs("</p>\n", out);
        mem_free(warnings[i]);
    }
    put_figures(out, o, r);
    plot_timeline(out, r);
    if (r->latency.count) {
        plot_percentiles(out, r);
        plot_histogram(out, r);
    }
    fputs("<p>sapid " SAPID_VERSION "</p></body></html>\n", out);
    bool failed = ferror(out);
    if (fclose(out) != 0)
        return -errno;
    return failed ? -EIO : 0;
}
