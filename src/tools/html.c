/*
 * Pages and plots of the reports: see html.h.
 */
#include <math.h>

#include "base/check.h"
#include "tools/html.h"
#include "version.h"

enum { TOP = 10, BOTTOM = 30 };

static const char head[] = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                           "<meta name=\"viewport\" content=\"width=device-width\">\n";

static const char css[] =
    "</title>\n<style>\n"
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

void html_text(FILE *out, const char *text)
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

void html_begin(FILE *out, const char *title)
{
    fputs(head, out);
    fputs("<title>", out);
    html_text(out, title);
    fputs(css, out);
}

void html_end(FILE *out)
{
    fputs("<p>sapid " SAPID_VERSION "</p></body></html>\n", out);
}

/* --- plots ------------------------------------------------------------------------------------ */

double html_plot_x(const struct html_plot *p, double x)
{
    return HTML_PLOT_LEFT + x / p->x_max * (HTML_PLOT_WIDTH - HTML_PLOT_LEFT - HTML_PLOT_RIGHT);
}

double html_plot_y(const struct html_plot *p, double y)
{
    return HTML_PLOT_HEIGHT - BOTTOM - y / p->y_max * (HTML_PLOT_HEIGHT - TOP - BOTTOM);
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

void html_plot_label(const struct html_plot *p, double x, const char *text)
{
    fprintf(p->out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
            html_plot_x(p, x), HTML_PLOT_HEIGHT - BOTTOM + 16, text);
}

struct html_plot html_plot_begin(FILE *out, const char *title, double x_max, double y_max)
{
    struct html_plot p = { out, x_max > 0 ? x_max : 1, round_up(y_max) };

    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n", HTML_PLOT_WIDTH,
            HTML_PLOT_HEIGHT, title);
    for (int i = 0; i <= 4; i++) {
        double y = p.y_max * i / 4;
        fprintf(out,
                "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
                "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                HTML_PLOT_LEFT, HTML_PLOT_WIDTH - HTML_PLOT_RIGHT, html_plot_y(&p, y),
                html_plot_y(&p, y), HTML_PLOT_LEFT - 6, html_plot_y(&p, y) + 4, y);
    }
    return p;
}

void html_plot_line(const struct html_plot *p, const char *style, const double *x, const double *y,
                    size_t n)
{
    fprintf(p->out, "<polyline class=\"%s\" points=\"", style);
    for (size_t i = 0; i < n; i++)
        fprintf(p->out, "%.1f,%.1f ", html_plot_x(p, x[i]), html_plot_y(p, y[i]));
    fputs("\"/>\n", p->out);
}

double html_largest(const double *v, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        if (v[i] > most)
            most = v[i];
    return most;
}

void html_plot_end(const struct html_plot *p)
{
    fputs("</svg>\n", p->out);
}
