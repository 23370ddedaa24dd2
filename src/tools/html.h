/*
 * Reports for the browser: one file that needs nothing else (no script, no font, no network), with
 * plots as inline SVG, drawn in light and dark.
 */
#ifndef SAPID_TOOLS_HTML_H
#define SAPID_TOOLS_HTML_H

#include <stddef.h>
#include <stdio.h>

enum { HTML_PLOT_WIDTH = 760, HTML_PLOT_HEIGHT = 220, HTML_PLOT_LEFT = 70, HTML_PLOT_RIGHT = 30 };

void html_begin(FILE *out, const char *title);
void html_end(FILE *out); /* says which version wrote it; does not close */
/* Escaped. */
void html_text(FILE *out, const char *text);

/* Both axes begin at 0. */
struct html_plot {
    FILE *out;
    double x_max, y_max;
};
struct html_plot html_plot_begin(FILE *out, const char *title, double x_max, double y_max);
void html_plot_end(const struct html_plot *p);
double html_plot_x(const struct html_plot *p, double x);
double html_plot_y(const struct html_plot *p, double y);
void html_plot_label(const struct html_plot *p, double x, const char *text);
/* `style`: "a" or "b", the two colours of the page. */
void html_plot_line(const struct html_plot *p, const char *style, const double *x, const double *y,
                    size_t n);
double html_largest(const double *v, size_t n);

#endif
