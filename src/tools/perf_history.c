/*
 * Former runs: `sapid perf track`. One file a run in the history's folder, name=value lines with
 * the commit, the machine and the settings, and history.html with a chart of all. The figures of
 * another hour are shown and charted, never judged: the verdict comes from the baseline's program,
 * kept here as a copy, which runs against this one within the same minutes.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "tools/html.h"
#include "tools/perf_int.h"
#include "version.h"

enum { ENTRY_BYTES_MAX = 1 << 20, TEXT_MAX = 256 };

static const char suffix[] = ".perf";

/* --- reading ---------------------------------------------------------------------------------- */

struct str perf_entry_value(const struct perf_entry *e, const char *name)
{
    struct str rest = str_from(e->text);

    while (rest.n) {
        struct str line = str_cut(&rest, '\n');
        if (str_eq(str_cut(&line, '='), str_from(name)))
            return line;
    }
    return STR_NONE;
}

static bool entry_number(const struct perf_entry *e, const char *name, double *ret)
{
    struct str text = perf_entry_value(e, name);
    char *copy = mem_strndup(text), *end = copy;
    double value = strtod(copy, &end);
    bool found = end != copy;

    mem_free(copy);
    if (found)
        *ret = value;
    return found;
}

static int is_entry(const struct dirent *e)
{
    return str_has_suffix(str_from(e->d_name), str_from(suffix));
}

int perf_history_read(const char *folder, struct perf_history *ret, char **ret_message)
{
    struct dirent **names = NULL;
    int n = scandir(folder, &names, is_entry, alphasort), rc = 0; /* names begin with the time */

    *ret = (struct perf_history){ .n = 0 };
    if (n < 0)
        return errno == ENOENT ? 0 : -errno;
    ret->entries = mem_zalloc(((size_t)n + 1) * sizeof(*ret->entries));
    for (int i = 0; i < n; i++) {
        struct perf_entry *e = &ret->entries[ret->n];
        size_t bytes;
        e->path = mem_printf("%s/%s", folder, names[i]->d_name);
        int fd = open(e->path, O_RDONLY | O_CLOEXEC);
        int one = fd < 0 ? -errno : fd_read_all(fd, ENTRY_BYTES_MAX, &e->text, &bytes);
        fd_close(&fd);
        if (one == 0) {
            ret->n++;
        } else {
            if (rc == 0)
                *ret_message = mem_printf("%s: %s; this is no run that was kept here, move it out "
                                          "of the history",
                                          e->path, strerror(-one));
            rc = one;
            mem_free(e->path);
        }
        free(names[i]);
    }
    free(names);
    return rc;
}

void perf_history_fini(struct perf_history *h)
{
    for (size_t i = 0; i < h->n; i++) {
        mem_free(h->entries[i].path);
        mem_free(h->entries[i].text);
    }
    mem_free(h->entries);
    *h = (struct perf_history){ .n = 0 };
}

/* --- writing ---------------------------------------------------------------------------------- */

/* The first line a command prints; "" when it prints none. */
static void command_line(const char *command, char ret[TEXT_MAX])
{
    FILE *in = popen(command, "re");

    if (!in || !fgets(ret, TEXT_MAX, in))
        ret[0] = '\0';
    if (in)
        pclose(in);
    ret[strcspn(ret, "\n")] = '\0';
}

static void machine_name(char ret[TEXT_MAX])
{
    command_line("sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo", ret);
    if (!*ret)
        snprintf(ret, TEXT_MAX, "unknown processor");
}

static void write_settings(const struct perf_options *o, const char *time, const char *commit,
                           FILE *out)
{
    char text[TEXT_MAX];
    struct utsname system;

    fprintf(out, "time=%s\ncommit=%s\nsapid=" SAPID_VERSION "\n", time, commit);
    machine_name(text);
    uname(&system);
    fprintf(out, "machine=%s\ncpus=%ld\nkernel=%s\n", text, sysconf(_SC_NPROCESSORS_ONLN),
            system.release);
    fprintf(out, "program=%s\nroot=%s\npath=%s\nrounds=%u\nduration=%.3fs\n", o->program,
            o->root ? o->root : "", o->path, o->rounds, (double)o->duration_ns / (double)NS_PER_S);
}

static void write_figures(const struct perf_figures *f, FILE *out)
{
    for (size_t p = 0; p < PERF_LOADS; p++) {
        if (!f->rows[p])
            continue;
        for (size_t m = 0; m < PERF_METRICS; m++)
            if (isfinite(f->median[p].value[m]))
                fprintf(out, "%s.%s=%.4f\n", perf_loads[p].name, perf_metrics[m].name,
                        f->median[p].value[m]);
        fprintf(out, "%s.errors=%llu\n", perf_loads[p].name,
                (unsigned long long)f->median[p].errors);
    }
}

static void write_verdict(const struct perf_options *o, const struct perf_comparison *c, FILE *out)
{
    fprintf(out, "verdict=%s\nverdict.load=%s\nverdict.blocks=%u\n", perf_verdict_name(c->verdict),
            o->verdict_load->name, c->blocks);
    for (size_t m = 0; m < PERF_METRICS; m++)
        if (perf_metrics[m].decides && isfinite(c->of[m].high))
            fprintf(out, "verdict.%s=%.4f (%.4f .. %.4f)\n", perf_metrics[m].name, c->of[m].ratio,
                    c->of[m].low, c->of[m].high);
}

int perf_history_add(const struct perf_options *o, const struct perf_figures *f,
                     const struct perf_comparison *c, char **ret_path, char **ret_message)
{
    char stamp[32], commit[TEXT_MAX];
    time_t now = time(NULL);
    struct tm utc;

    gmtime_r(&now, &utc);
    strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &utc);
    command_line("git describe --always --dirty --exclude='*' 2>/dev/null", commit);
    char *path = mem_printf("%s/%s-%s%s", o->history, stamp, *commit ? commit : "none", suffix);
    FILE *out = fopen(path, "wxe");
    if (!out) {
        int rc = -errno;
        *ret_message = mem_printf("%s: %s", path, strerror(errno));
        mem_free(path);
        return rc;
    }
    write_settings(o, stamp, commit, out);
    write_figures(f, out);
    if (c)
        write_verdict(o, c, out);
    bool failed = ferror(out);
    failed |= fclose(out) != 0;
    if (failed) {
        *ret_message = mem_printf("%s: %s", path, strerror(errno));
        mem_free(path);
        return -EIO;
    }
    *ret_path = path;
    return perf_history_chart(o->history, ret_message);
}

/* --- the chart -------------------------------------------------------------------------------- */

/* One metric of one load over all entries that have it. */
static void chart_metric(const struct perf_history *h, size_t load, size_t metric, FILE *out)
{
    char name[64], title[96];
    double *x = mem_alloc((h->n + 1) * sizeof(*x)), *y = mem_alloc((h->n + 1) * sizeof(*y));
    size_t n = 0;

    snprintf(name, sizeof(name), "%s.%s", perf_loads[load].name, perf_metrics[metric].name);
    for (size_t i = 0; i < h->n; i++)
        if (entry_number(&h->entries[i], name, &y[n])) {
            x[n] = (double)n;
            n++;
        }
    if (n > 1) {
        snprintf(title, sizeof(title), "%s%s%s", name, *perf_metrics[metric].unit ? ", " : "",
                 perf_metrics[metric].unit);
        fprintf(out, "<h2>%s</h2>\n", title);
        struct html_plot p = html_plot_begin(out, title, x[n - 1], html_largest(y, n));
        html_plot_label(&p, x[0], "oldest");
        html_plot_label(&p, x[n - 1], "newest");
        html_plot_line(&p, "a", x, y, n);
        html_plot_end(&p);
    }
    mem_free(x);
    mem_free(y);
}

static bool has_load(const struct perf_history *h, const char *load)
{
    char name[64];
    double value;

    snprintf(name, sizeof(name), "%s.%s", load, perf_metrics[PERF_RPS].name);
    for (size_t i = 0; i < h->n; i++)
        if (entry_number(&h->entries[i], name, &value))
            return true;
    return false;
}

/* Of the load profiles that were measured the one that a verdict would be of: medium, else the
 * lightest. */
static const char *tabled_load(const struct perf_history *h)
{
    if (has_load(h, "medium"))
        return "medium";
    for (size_t p = 0; p < PERF_LOADS; p++)
        if (has_load(h, perf_loads[p].name))
            return perf_loads[p].name;
    return "medium";
}

static void put_cell(const struct perf_entry *e, const char *load, const char *column, FILE *out)
{
    char name[64];

    snprintf(name, sizeof(name), "%s%s%s", load, *load ? "." : "", column);
    char *value = mem_strndup(perf_entry_value(e, name));
    fputs("<td>", out);
    html_text(out, value);
    fputs("</td>", out);
    mem_free(value);
}

static void put_entries(const struct perf_history *h, FILE *out)
{
    const char *load = tabled_load(h);

    fprintf(out,
            "<h2>All runs; figures of %s</h2>\n<table>\n<tr><th>time</th><th>commit</th>"
            "<th>page</th><th>requests/s</th><th>p99, ms</th><th>CPU, us</th><th>verdict</th>"
            "</tr>\n",
            load);
    for (size_t i = h->n; i-- > 0;) {
        const struct perf_entry *e = &h->entries[i];
        if (!perf_entry_value(e, "time").n)
            continue; /* damaged */
        fputs("<tr>", out);
        put_cell(e, "", "time", out);
        put_cell(e, "", "commit", out);
        put_cell(e, "", "path", out);
        put_cell(e, load, perf_metrics[PERF_RPS].name, out);
        put_cell(e, load, perf_metrics[PERF_P99].name, out);
        put_cell(e, load, perf_metrics[PERF_CPU].name, out);
        put_cell(e, "", "verdict", out);
        fputs("</tr>\n", out);
    }
    fputs("</table>\n", out);
}

int perf_history_chart(const char *folder, char **ret_message)
{
    static const size_t charted[] = { PERF_RPS, PERF_CPU, PERF_P99, PERF_PSS };
    struct perf_history h;
    int rc = perf_history_read(folder, &h, ret_message);

    if (rc < 0)
        return rc;
    char *path = mem_printf("%s/history.html", folder);
    FILE *out = fopen(path, "we");
    if (!out) {
        rc = -errno;
        *ret_message = mem_printf("%s: %s", path, strerror(errno));
    } else {
        html_begin(out, "sapid perf");
        fputs("<h1>sapid perf: history</h1>\n<p>Runs of different hours: the machine's mood is in "
              "these lines. Verdicts come from runs in turns.</p>\n",
              out);
        for (size_t p = 0; p < PERF_LOADS; p++)
            for (size_t k = 0; k < ARRAY_LENGTH(charted); k++)
                chart_metric(&h, p, charted[k], out);
        put_entries(&h, out);
        html_end(out);
        rc = fclose(out) == 0 ? 0 : -errno;
    }
    mem_free(path);
    perf_history_fini(&h);
    return rc;
}

void perf_history_print_change(const struct perf_figures *f, const struct perf_entry *before,
                               const char *label, FILE *out)
{
    struct str time = perf_entry_value(before, "time"), commit = perf_entry_value(before, "commit");
    char name[64];
    double then;

    fprintf(out, "\nagainst %s (%.*s%s%.*s):\n", label, STR_ARG(time), commit.n ? ", " : "",
            STR_ARG(commit));
    for (size_t p = 0; p < PERF_LOADS; p++)
        for (size_t m = 0; m < PERF_METRICS && f->rows[p]; m++) {
            double now = f->median[p].value[m];
            snprintf(name, sizeof(name), "%s.%s", perf_loads[p].name, perf_metrics[m].name);
            if (perf_metrics[m].better == 0 || !isfinite(now) ||
                !entry_number(before, name, &then) || then <= 0)
                continue;
            fprintf(out, "%s=%.2f%s (%+.1f%%)\n", name, now, perf_metrics[m].unit,
                    100 * (now / then - 1));
        }
}

static bool is_same(struct str found, const char *text)
{
    return str_eq(found, str_from(text));
}

/* The last run of the same page on the same machine: any other would be compared in vain. */
static const struct perf_entry *last_alike(const struct perf_options *o,
                                           const struct perf_history *h)
{
    char machine[TEXT_MAX];

    machine_name(machine);
    for (size_t i = h->n; i-- > 0;) {
        const struct perf_entry *e = &h->entries[i];
        if (is_same(perf_entry_value(e, "machine"), machine) &&
            is_same(perf_entry_value(e, "root"), o->root ? o->root : "") &&
            is_same(perf_entry_value(e, "path"), o->path))
            return e;
    }
    return NULL;
}

/* --- track ------------------------------------------------------------------------------------ */

static char *kept_baseline(const struct perf_options *o)
{
    return mem_printf("%s/baseline/sapid", o->history);
}

/* A copy of the program, with the engine modules that belong to it beside it. */
static int keep_baseline(const struct perf_options *o, char **ret_message)
{
    char *folder = mem_printf("%s/baseline", o->history);
    char *command = mem_printf(
        "set -e; from=$(dirname '%s'); rm -rf '%s'; mkdir -p '%s'; cp '%s' '%s/sapid'; "
        "for m in \"$from\"/sapid-php-*.so \"$from\"/src/php/sapid-php-*.so "
        "\"$from\"/../lib/sapid/sapid-php-*.so \"$from\"/../lib/*/sapid/sapid-php-*.so; do "
        "if [ -e \"$m\" ]; then cp \"$m\" '%s/'; fi; done",
        o->program, folder, folder, o->program, folder, folder);
    int rc = strchr(o->program, '\'') || strchr(folder, '\'') ? -EINVAL : 0;

    if (rc < 0)
        *ret_message = mem_printf("the baseline cannot be kept: a path has a quote in it: %s, %s",
                                  o->program, folder);
    else
        rc = perf_shell("keeping the baseline", command, NULL, ret_message);
    if (rc == 0)
        fprintf(stderr, "%s/sapid is the baseline from now on\n", folder);
    mem_free(folder);
    mem_free(command);
    return rc;
}

/* Against the baseline, when there is one: `ret_judged`. */
static int judge(const struct perf_options *o, struct perf_comparison *c, bool *ret_judged,
                 char **ret_message)
{
    char *name = o->baseline ? mem_strdup(o->baseline) : kept_baseline(o), *program = NULL;
    int rc = 0;

    *ret_judged = false;
    if (o->baseline || access(name, X_OK) == 0) {
        rc = perf_candidate(o, name, o->history, &program, ret_message);
        if (rc == 0)
            rc = perf_compare_programs(o, program, o->program, c, ret_message);
        *ret_judged = rc == 0;
    } else {
        fprintf(stderr, "no baseline yet: this program becomes it\n");
    }
    mem_free(name);
    mem_free(program);
    return rc;
}

static int track(struct perf_options *o, struct perf_figures *f, struct perf_comparison *c,
                 bool *ret_judged, char **ret_message)
{
    struct perf_server server = { .pid = 0 };
    struct perf_history before = { .n = 0 };
    char *path = NULL;
    int rc = perf_make_folder(o->history, ret_message);

    if (rc == 0)
        rc = perf_history_read(o->history, &before, ret_message);
    if (rc == 0)
        rc = perf_server_start(o, o->program, &server, ret_message);
    if (rc == 0)
        rc = perf_run_rounds(o, &server, f);
    perf_server_stop(&server);
    if (rc == 0)
        rc = judge(o, c, ret_judged, ret_message);
    if (rc == 0)
        rc = perf_history_add(o, f, *ret_judged ? c : NULL, &path, ret_message);
    if (rc == 0 && f->errors > 0)
        fputs("answers were wrong: this program does not become the baseline\n", stderr);
    else if (rc == 0 && (o->set_baseline || (!*ret_judged && !o->baseline)))
        rc = keep_baseline(o, ret_message);
    if (rc == 0) {
        perf_figures_print(o, f, stdout);
        const struct perf_entry *last = last_alike(o, &before);
        if (last && o->format != BENCH_JSON)
            perf_history_print_change(f, last, "the last run", stdout);
        else if (!last && before.n)
            fputs("the history has no run of this page on this machine to compare with\n", stderr);
        if (*ret_judged)
            perf_comparison_print(o, c, stdout);
        fprintf(stderr, "kept in %s; chart: %s/history.html\n", path, o->history);
    }
    mem_free(path);
    perf_history_fini(&before);
    return rc;
}

int perf_track_main(struct perf_options *o)
{
    struct perf_figures figures = { .rounds = 0 };
    struct perf_comparison c = { .verdict = PERF_NOISE };
    char *message = NULL;
    bool judged = false;
    int rc = track(o, &figures, &c, &judged, &message);

    if (rc < 0)
        perf_say_failure(rc, message);
    bool well = rc == 0 && figures.errors == 0;
    perf_figures_fini(&figures);
    mem_free(message);
    if (!well)
        return 1;
    return judged && c.verdict == PERF_REGRESS ? 3 : 0;
}
