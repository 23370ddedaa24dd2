/*
 * What images have learned (channel/report.h), by pool and, for images of entry scripts, by script:
 * the reports of the generations that served last. The next generation of that pool or script is
 * given one to read before its image. They outlive a seat that another script has got meanwhile.
 *
 * An upgrade hands them on to the next program, and [server] state_dir keeps them over a stop, both
 * as this text (fields are separated by tabs), which the next program reads as it would a
 * stranger's:
 *
 *   sapid-state 1
 *   pool    NAME  USER  SCRIPT        SCRIPT: of an image ("/index.php"), else nothing
 *   name    KIND  FLAGS  COUNT  TEXT  of that pool; as in the report
 *   image   POOL  SCRIPT  HOST  HTTPS  PORT  ADDRESS    serves; only for an upgrade
 *   end     LINES                     before this one
 *
 * What stands in a report was written by processes of the application's user. It is read with the
 * checks of its readers, and all that can come of it is a name that is tried in vain.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "channel/report.h"
#include "supervisor/supervisor_int.h"

enum { KEPT_MAX = 64, TEXT_BYTES_MAX = 16 << 20 };

struct names {
    struct list link;
    char *pool, *script; /* script: "" of a worker script's pool */
    uid_t user;          /* whose processes wrote it */
    int report;
};

/* --- by pool and script ----------------------------------------------------------------------- */

static struct names *find(struct supervisor *s, const char *pool, const char *script)
{
    LIST_FOR_EACH(it, &s->names) {
        struct names *n = LIST_ENTRY(it, struct names, link);
        if (strcmp(n->pool, pool) == 0 && strcmp(n->script, script) == 0)
            return n;
    }
    return NULL;
}

static void drop(struct supervisor *s, struct names *n)
{
    list_remove(&n->link);
    s->n_names--;
    fd_close(&n->report);
    mem_free(n->pool);
    mem_free(n->script);
    mem_free(n);
}

void names_forget(struct supervisor *s)
{
    LIST_FOR_EACH_SAFE(it, &s->names)
        drop(s, LIST_ENTRY(it, struct names, link));
}

/* Takes `report`. Where there are too many, those that were kept first go. */
static void keep(struct supervisor *s, const char *pool, const char *script, uid_t user, int report)
{
    struct names *n = find(s, pool, script);

    if (n)
        drop(s, n);
    if (s->n_names == KEPT_MAX)
        drop(s, LIST_ENTRY(s->names.next, struct names, link));
    n = mem_zalloc(sizeof(*n));
    n->pool = mem_strdup(pool);
    n->script = mem_strdup(script);
    n->user = user;
    n->report = report;
    list_push_back(&s->names, &n->link);
    s->n_names++;
}

/* The pool by which they are kept: of an image, that of its script. NULL: it has gone. */
static const char *pool_of(const struct generation *g)
{
    return g->order ? image_pool_of(g->pool) : g->pool->name;
}

int names_of(const struct generation *g)
{
    const char *pool = pool_of(g);
    const struct names *n = pool ? find(g->pool->sup, pool, g->order ? g->order->script_name : "")
                                 : NULL;

    return n && n->user == g->plan->pools[g->index].user.uid ? n->report : -1;
}

void names_keep(const struct generation *g)
{
    const char *pool = pool_of(g);
    int fd = g->report < 0 || !pool ? -1 : fcntl(g->report, F_DUPFD_CLOEXEC, 0);

    if (fd >= 0)
        keep(g->pool->sup, pool, g->order ? g->order->script_name : "",
             g->plan->pools[g->index].user.uid, fd);
}

/* --- as text ---------------------------------------------------------------------------------- */

/* So that it stands in one field of one line. */
static bool is_plain(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] < ' ' || s.p[i] == 0x7F)
            return false;
    return true;
}

static int put_names(struct buf *b, const struct names *n, uint64_t *lines)
{
    struct report *report;
    int r = is_plain(str_from(n->script)) ? report_map(n->report, false, &report) : -EINVAL;

    if (r < 0)
        return 0; /* nothing to hand on */
    r = buf_printf(b, "pool\t%s\t%u\t%s\n", n->pool, (unsigned)n->user, n->script);
    ++*lines;
    for (uint32_t i = 0; i < REPORT_NAMES && r >= 0; i++) {
        struct report_view v;
        if (!report_read(&report->names[i], &v) || v.count == 0 || v.kind > REPORT_LOCALE ||
            v.text.n == 0 || !is_plain(v.text))
            continue;
        r = buf_printf(b, "name\t%u\t%u\t%" PRIu32 "\t%.*s\n", (unsigned)v.kind,
                       (unsigned)(v.flags & REPORT_FLAGS), v.count, STR_ARG(v.text));
        ++*lines;
    }
    report_unmap(report);
    return r;
}

int names_write(struct supervisor *s, bool images, struct buf *b)
{
    uint64_t lines = 1;
    int r = buf_printf(b, "sapid-state 1\n");

    LIST_FOR_EACH(it, &s->names)
        if (r >= 0)
            r = put_names(b, LIST_ENTRY(it, struct names, link), &lines);
    if (r >= 0 && images)
        r = images_write(s, b, &lines);
    return r < 0 ? r : buf_printf(b, "end\t%" PRIu64 "\n", lines);
}

/* A line that is being read. */
struct line {
    struct str rest;
    bool bad;
};

static struct str text_field(struct line *l)
{
    l->bad = l->bad || !l->rest.p;
    ptrdiff_t tab = l->rest.p ? str_find(l->rest, '\t') : -1;
    struct str field = tab < 0 ? l->rest : str_take(l->rest, (size_t)tab);

    l->rest = tab < 0 ? STR_NONE : str_skip(l->rest, (size_t)tab + 1);
    l->bad = l->bad || !is_plain(field);
    return field;
}

static uint64_t number_field(struct line *l, uint64_t max)
{
    uint64_t n = 0;

    l->bad = !str_to_u64(text_field(l), max, &n) || l->bad;
    return n;
}

static bool line_is_good(const struct line *l)
{
    return !l->bad && !l->rest.p;
}

struct reader {
    struct supervisor *s;
    struct report *report; /* of the pool that is being read */
    uint64_t lines;
    bool ended;
};

static bool read_pool(struct reader *r, struct line *l)
{
    struct str pool = text_field(l);
    uid_t user = (uid_t)number_field(l, UINT32_MAX - 1);
    struct str script = text_field(l);

    report_unmap(r->report);
    r->report = NULL;
    if (!line_is_good(l) || pool.n == 0)
        return false;
    int fd = report_create(), e = fd < 0 ? fd : report_map(fd, true, &r->report);
    if (e < 0) {
        fd_close(&fd);
        return false;
    }
    char *name = mem_strndup(pool), *of = mem_strndup(script);
    keep(r->s, name, of, user, fd);
    mem_free(name);
    mem_free(of);
    return true;
}

static bool read_name(struct reader *r, struct line *l)
{
    struct report_view v = { .kind = (enum report_kind)number_field(l, REPORT_LOCALE) };

    v.flags = (uint32_t)number_field(l, REPORT_FLAGS);
    v.count = (uint32_t)number_field(l, UINT32_MAX);
    v.text = text_field(l);
    if (!line_is_good(l) || !r->report || v.kind == REPORT_FREE || v.count == 0 || v.text.n == 0 ||
        v.text.n > REPORT_TEXT_BYTES)
        return false;
    report_put_name(r->report, &v);
    return true;
}

static bool read_image(struct reader *r, struct line *l)
{
    struct str pool = text_field(l);
    struct control_image image = { .script_name = text_field(l), .host = text_field(l) };

    image.https = number_field(l, 1) != 0;
    image.port = (uint16_t)number_field(l, UINT16_MAX);
    image.address = text_field(l);
    if (!line_is_good(l))
        return false;
    images_read(r->s, pool, &image);
    return true;
}

static bool read_line(struct reader *r, struct str text)
{
    struct line l = { text, false };
    struct str what = text_field(&l);

    if (r->ended)
        return false;
    if (r->lines++ == 0)
        return str_eq(text, STR("sapid-state 1"));
    if (str_eq(what, STR("pool")))
        return read_pool(r, &l);
    if (str_eq(what, STR("name")))
        return read_name(r, &l);
    if (str_eq(what, STR("image")))
        return read_image(r, &l);
    r->ended = str_eq(what, STR("end")) && number_field(&l, UINT64_MAX) == r->lines - 1 &&
               line_is_good(&l);
    return r->ended;
}

int names_read(struct supervisor *s, struct str text)
{
    struct reader r = { .s = s };
    bool good = text.n > 0 && text.p[text.n - 1] == '\n';

    while (good && text.n)
        good = read_line(&r, str_cut(&text, '\n'));
    report_unmap(r.report);
    if (good && r.ended)
        return 0;
    names_forget(s);
    images_unread(s);
    return r.lines ? -(int)(r.lines < INT32_MAX ? r.lines : INT32_MAX) : -1;
}

/* --- in a file -------------------------------------------------------------------------------- */

/* NULL: nothing is kept. */
static char *state_path(const struct supervisor *s, const char *name)
{
    struct str dir = s->plan->config->server.state_dir;
    const char *given = getenv("STATE_DIRECTORY"); /* of the service manager: a list */

    if (dir.n == 0 && given) {
        struct str list = str_from(given);
        dir = str_cut(&list, ':');
    }
    return dir.n ? mem_printf("%.*s/%s", STR_ARG(dir), name) : NULL;
}

/* Nobody else could have written it. */
static bool is_ours(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
           !(st.st_mode & (S_IWGRP | S_IWOTH));
}

void names_load(struct supervisor *s)
{
    char *path = state_path(s, "learned"), *text = NULL;
    size_t n = 0;

    if (!path)
        return;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    int r = fd < 0 ? -errno : is_ours(fd) ? fd_read_all(fd, TEXT_BYTES_MAX, &text, &n) : -EPERM;
    if (r == -EPERM)
        log_warn("%s is ignored: expected a file of ours (user %d) that nobody else may write; it "
                 "is written anew at the next stop",
                 path, (int)geteuid());
    else if (r < 0 && r != -ENOENT)
        log_warn("%s, with what was learned before the stop, cannot be read: %s", path,
                 strerror(-r));
    else if (r == 0 && (r = names_read(s, (struct str){ text, n })) < 0)
        log_warn("%s is ignored: line %d is not as this version of sapid writes it; it is written "
                 "anew at the next stop",
                 path, -r);
    else if (r == 0)
        log_info("%s: what was learned by images of %u pools and scripts", path, s->n_names);
    fd_close(&fd);
    mem_free(text);
    mem_free(path);
}

static int write_file(const char *path, struct str text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return -errno;
    while (text.n) {
        ssize_t n = write(fd, text.p, text.n);
        if (n < 0 && errno != EINTR)
            break;
        text = str_skip(text, n > 0 ? (size_t)n : 0);
    }
    int r = text.n ? -errno : 0;
    fd_close(&fd);
    return r;
}

void names_save(struct supervisor *s)
{
    char *path = s->plan ? state_path(s, "learned") : NULL, *new = NULL;
    struct buf b;

    if (!path || s->handed_over)
        goto out; /* the program that took over knows more */
    new = state_path(s, "learned.new");
    buf_init(&b, TEXT_BYTES_MAX);
    int r = names_write(s, false, &b);
    if (r >= 0) {
        unlink(new); /* of a program that was killed here */
        r = write_file(new, buf_view(&b));
    }
    if (r >= 0 && rename(new, path) < 0)
        r = -errno;
    if (r < 0)
        log_warn("%s, with what images have learned, cannot be written: %s; see state_dir", path,
                 strerror(-r));
    buf_fini(&b);
out:
    mem_free(new);
    mem_free(path);
}
