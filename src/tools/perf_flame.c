/*
 * Collapsed stacks, as every flame graph tool knows them ("root;caller;callee 12"), the table of
 * what is often on the stack, and our own flame graph: an SVG of nested boxes, widths by samples,
 * with the whole name and share as each box's tooltip. It needs no script and can be opened alone.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tools/html.h"
#include "tools/perf_int.h"

enum {
    DEPTH_MAX = 512,
    FRAMES_MAX = 16 << 10, /* bytes of one collapsed stack */
    WIDTH = 1200,
    BAR = 17,
    MARGIN = 10,
    TITLE = 30,
    LETTER_TENTHS = 65, /* width of a letter, tenths of a pixel */
};

/* --- stacks ----------------------------------------------------------------------------------- */

void perf_stacks_add(struct perf_stacks *s, const char *frames, uint64_t count)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 256;
        s->v = mem_realloc(s->v, s->cap * sizeof(*s->v));
    }
    s->v[s->n++] = (struct perf_stack){ mem_strdup(frames), count };
    s->total += count;
}

static int by_frames(const void *a, const void *b)
{
    return strcmp(((const struct perf_stack *)a)->frames, ((const struct perf_stack *)b)->frames);
}

void perf_stacks_settle(struct perf_stacks *s)
{
    size_t kept = 0;

    if (s->n == 0)
        return;
    qsort(s->v, s->n, sizeof(*s->v), by_frames);
    for (size_t i = 1; i < s->n; i++) {
        if (strcmp(s->v[kept].frames, s->v[i].frames) == 0) {
            s->v[kept].count += s->v[i].count;
            mem_free(s->v[i].frames);
        } else {
            s->v[++kept] = s->v[i];
        }
    }
    s->n = kept + 1;
}

void perf_stacks_fini(struct perf_stacks *s)
{
    for (size_t i = 0; i < s->n; i++)
        mem_free(s->v[i].frames);
    mem_free(s->v);
    *s = (struct perf_stacks){ .n = 0 };
}

int perf_stacks_write(const struct perf_stacks *s, const char *path)
{
    FILE *out = fopen(path, "we");

    if (!out)
        return -errno;
    for (size_t i = 0; i < s->n; i++)
        fprintf(out, "%s %llu\n", s->v[i].frames, (unsigned long long)s->v[i].count);
    return fclose(out) == 0 ? 0 : -errno;
}

/* --- what perf script prints ------------------------------------------------------------------ */

/* "  55d0c1 zend_execute_ex+0x1f (/usr/lib/libphp.so)" -> "zend_execute_ex" */
static struct str frame_name(struct str line)
{
    line = str_trim(line);
    (void)str_cut(&line, ' '); /* the address */
    line = str_trim(line);
    for (size_t i = line.n; i > 2; i--) /* the offset; C++ names may hold a plus themselves */
        if (line.p[i - 3] == '+' && line.p[i - 2] == '0' && line.p[i - 1] == 'x') {
            line.n = i - 3;
            break;
        }
    return line.n ? line : STR("[unknown]");
}

struct sample {
    char process[64];
    struct str frames[DEPTH_MAX]; /* leaf first; into `names` */
    size_t depth;
    char names[FRAMES_MAX];
    size_t used;
};

static void push_frame(struct sample *s, struct str name)
{
    if (s->depth == DEPTH_MAX || s->used + name.n > sizeof(s->names))
        return;
    char *at = s->names + s->used;
    for (size_t i = 0; i < name.n; i++)
        at[i] = name.p[i] == ';' ? ':' : name.p[i];
    s->used += name.n;
    s->frames[s->depth++] = (struct str){ at, name.n };
}

static void end_sample(struct sample *s, struct perf_stacks *stacks)
{
    char text[FRAMES_MAX + DEPTH_MAX + 128];
    size_t n;

    if (s->depth == 0)
        return;
    n = (size_t)snprintf(text, sizeof(text), "%s", s->process);
    for (size_t i = s->depth; i-- > 0;)
        n += (size_t)snprintf(text + n, sizeof(text) - n, ";%.*s", STR_ARG(s->frames[i]));
    perf_stacks_add(stacks, text, 1);
    s->depth = s->used = 0;
}

int perf_stacks_read_script(FILE *in, struct perf_stacks *stacks)
{
    struct sample *s = mem_zalloc(sizeof(*s));
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;

    while ((n = getline(&line, &cap, in)) >= 0) {
        struct str text = { line, n && line[n - 1] == '\n' ? (size_t)n - 1 : (size_t)n };
        if (str_trim(text).n == 0) {
            end_sample(s, stacks);
        } else if (line[0] != ' ' && line[0] != '\t') {
            end_sample(s, stacks);
            text = str_trim(text);
            snprintf(s->process, sizeof(s->process), "%.*s", STR_ARG(text));
        } else {
            push_frame(s, frame_name(text));
        }
    }
    end_sample(s, stacks);
    int rc = ferror(in) ? -EIO : 0;
    free(line);
    mem_free(s);
    return rc;
}

/* --- the table -------------------------------------------------------------------------------- */

struct share {
    struct str name;
    uint64_t inside, self; /* samples with it on the stack, and on top */
    size_t last;           /* stack it was counted in last: recursion counts once */
};

static int by_name(const void *a, const void *b)
{
    struct str x = ((const struct share *)a)->name, y = ((const struct share *)b)->name;
    int order = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);
    return order ? order : (x.n > y.n) - (x.n < y.n);
}

static int by_inside(const void *a, const void *b)
{
    uint64_t x = ((const struct share *)a)->inside, y = ((const struct share *)b)->inside;
    return x < y ? 1 : x > y ? -1 : by_name(a, b);
}

/* One entry for each frame of each stack, then equal names joined. Returns how many are left. */
static size_t count_shares(const struct perf_stacks *s, struct share **ret)
{
    size_t n = 0, cap = 1024, kept = 0;
    struct share *v = mem_alloc(cap * sizeof(*v));

    for (size_t i = 0; i < s->n; i++)
        for (struct str rest = str_from(s->v[i].frames); rest.p;) {
            struct str name = str_cut(&rest, ';');
            if (n == cap)
                v = mem_realloc(v, (cap *= 2) * sizeof(*v));
            v[n++] = (struct share){ name, s->v[i].count, rest.p ? 0 : s->v[i].count, i };
        }
    qsort(v, n, sizeof(*v), by_name); /* glibc's sort is stable: a stack's frames stay together */
    for (size_t i = 1; i < n; i++) {
        if (!str_eq(v[kept].name, v[i].name)) {
            v[++kept] = v[i];
            continue;
        }
        v[kept].self += v[i].self;
        if (v[kept].last != v[i].last)
            v[kept].inside += v[i].inside;
        v[kept].last = v[i].last;
    }
    qsort(v, n ? kept + 1 : 0, sizeof(*v), by_inside);
    *ret = v;
    return n ? kept + 1 : 0;
}

void perf_stacks_table(const struct perf_stacks *s, double percent, FILE *out)
{
    struct share *v;
    size_t n = count_shares(s, &v);

    fprintf(out, "  %7s %7s  %s\n", "total", "self", "function");
    for (size_t i = 0; i < n; i++) {
        double inside = 100 * (double)v[i].inside / (double)s->total;
        if (inside < percent)
            break;
        fprintf(out, "  %6.1f%% %6.1f%%  %.*s\n", inside,
                100 * (double)v[i].self / (double)s->total, STR_ARG(v[i].name));
    }
    mem_free(v);
}

/* --- the graph -------------------------------------------------------------------------------- */

struct flame {
    const struct perf_stacks *stacks;
    FILE *out;
    size_t height; /* in bars */
};

/* The frame at `depth` of a collapsed stack; p == NULL below its leaf. */
static struct str frame_at(const char *frames, size_t depth)
{
    struct str rest = str_from(frames), name = STR_NONE;

    for (size_t i = 0; i <= depth; i++) {
        if (!rest.p)
            return STR_NONE;
        name = str_cut(&rest, ';');
    }
    return name;
}

static void put_cut(FILE *out, struct str name)
{
    char *copy = mem_strndup(name);

    html_text(out, copy);
    mem_free(copy);
}

static void put_box(const struct flame *f, struct str name, size_t depth, uint64_t at,
                    uint64_t count)
{
    double scale = (double)(WIDTH - 2 * MARGIN) / (double)f->stacks->total;
    double x = MARGIN + (double)at * scale, width = (double)count * scale;
    size_t y = TITLE + (f->height - depth) * BAR, letters = (size_t)(width * 10 / LETTER_TENTHS);
    unsigned colour = str_hash(name); /* the same name has it in every graph */

    if (width < 0.2)
        return;
    fprintf(f->out, "<g><title>");
    put_cut(f->out, name);
    fprintf(f->out,
            ": %llu samples, %.2f %%</title><rect x=\"%.1f\" y=\"%zu\" width=\"%.1f\" "
            "height=\"%d\" fill=\"hsl(%u,%u%%,%u%%)\"/>",
            (unsigned long long)count, 100 * (double)count / (double)f->stacks->total, x, y, width,
            BAR - 1, 15 + colour % 40, 70 + (colour >> 8) % 25, 58 + (colour >> 16) % 14);
    if (letters > 3) {
        fprintf(f->out, "<text x=\"%.1f\" y=\"%zu\">", x + 3, y + BAR - 5);
        put_cut(f->out, letters - 1 < name.n ? str_take(name, letters - 2) : name);
        fprintf(f->out, "%s</text>", letters - 1 < name.n ? "…" : "");
    }
    fputs("</g>\n", f->out);
}

/* Stacks [from, to) have the same frames above `depth`: equal neighbours at it are one box. */
static void put_level(const struct flame *f, size_t from, size_t to, size_t depth, uint64_t at)
{
    while (from < to && depth <= f->height) {
        struct str name = frame_at(f->stacks->v[from].frames, depth);
        uint64_t count = f->stacks->v[from].count;
        size_t end = from + 1;

        for (; end < to && name.p; end++) {
            struct str next = frame_at(f->stacks->v[end].frames, depth);
            if (!next.p || !str_eq(name, next))
                break;
            count += f->stacks->v[end].count;
        }
        if (name.p) {
            put_box(f, name, depth, at, count);
            put_level(f, from, end, depth + 1, at);
        }
        at += count;
        from = end;
    }
}

int perf_flame_write(const struct perf_stacks *s, const char *title, const char *path)
{
    struct flame f = { .stacks = s, .out = fopen(path, "we") };

    if (!f.out)
        return -errno;
    for (size_t i = 0; i < s->n; i++) {
        size_t depth = 0;
        for (const char *p = s->v[i].frames; *p; p++)
            depth += *p == ';';
        if (depth > f.height)
            f.height = depth < DEPTH_MAX ? depth : DEPTH_MAX;
    }
    fprintf(f.out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %zu\" "
            "font-family=\"monospace\" font-size=\"11\">\n<style>g:hover rect{stroke:#000}"
            "text{pointer-events:none}</style>\n<rect width=\"100%%\" height=\"100%%\" "
            "fill=\"#fff\"/>\n<text x=\"%d\" y=\"20\" font-size=\"14\">",
            WIDTH, TITLE + (f.height + 2) * BAR, MARGIN);
    html_text(f.out, title);
    fprintf(f.out, ": %llu samples</text>\n", (unsigned long long)s->total);
    put_level(&f, 0, s->n, 0, 0);
    fputs("</svg>\n", f.out);
    return fclose(f.out) == 0 ? 0 : -errno;
}
