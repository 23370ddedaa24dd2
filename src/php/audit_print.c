/*
 * The report of `sapid audit`, for people and as JSON, and its verdict. What an image refuses at
 * run time is refused here with the same reasons; what it only fixes is listed, and the reader
 * decides.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/param.h>

#include "base/buf.h"
#include "base/clock.h"
#include "php/audit_int.h"
#include "php/pool_int.h"

enum { STATUS_GOOD = 0, STATUS_NOT = 3, PROBLEMS_MAX = 16, VALUE_SHOWN = 60 };

struct problem {
    char text[600];
};

struct verdict {
    struct problem problems[PROBLEMS_MAX];
    uint32_t n;
    /* events: AUDIT_FILE_END before anything of a request was read, and before anything that no
     * guard helps against; -1: there is none */
    int64_t unread_at, guarded_at;
};

/* --- small things ----------------------------------------------------------------------------- */

static const struct audit_event *event(const struct audit_log *log, uint32_t i)
{
    CHECK(i < AUDIT_EVENTS_MAX);
    return &log->events[i];
}

static uint32_t n_events(const struct audit_log *log)
{
    return MIN(log->n_events, (uint32_t)AUDIT_EVENTS_MAX);
}

static struct str value_of(const struct audit_log *log, const struct audit_event *e)
{
    if (!e->value || e->value >= AUDIT_TEXTS_MAX || e->value_n > AUDIT_TEXTS_MAX - e->value)
        return STR_NONE;
    return (struct str){ log->texts + e->value, e->value_n };
}

/* Without the document root, or the folder that this is in: as include:FILE understands it. */
static const char *short_path(const struct audit_report *r, const char *path)
{
    struct str root = str_from(r->audit->document_root);

    for (int i = 0; i < 2 && root.n > 1; i++) {
        if (strncmp(path, root.p, root.n) == 0 && path[root.n] == '/')
            return path + root.n + 1;
        while (root.n && root.p[root.n - 1] != '/')
            root.n--;
        root.n -= root.n > 0;
    }
    return path;
}

static void put(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void put(struct buf *b, const char *fmt, ...)
{
    char text[8192];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    (void)!buf_append(b, text, MIN((size_t)n, sizeof(text) - 1));
}

static void put_place(struct buf *b, const struct audit_report *r, const struct audit_event *e)
{
    put(b, "%s:%u", short_path(r, audit_text(r->log, e->file)), e->line);
}

/* "$_SERVER['HTTP_HOST']", "all of $_GET" */
static void put_what(struct buf *b, const struct audit_report *r, const struct audit_event *e)
{
    const char *name = audit_global_name(e->global);

    if (e->global == AUDIT_INPUT)
        put(b, "the request's body (php://input)");
    else if (e->global == AUDIT_HEADERS)
        put(b, "all headers of the request (getallheaders)");
    else if (!e->name)
        put(b, "all of $%s%s", name, e->flags & AUDIT_COPY ? " (a copy of it is kept)" : "");
    else {
        put(b, "$%s['", name);
        record_put(b, str_from(audit_text(r->log, e->name)), false);
        put(b, "']");
    }
}

static bool is_read(const struct audit_event *e)
{
    return e->kind == AUDIT_READ;
}

static bool is_guarded(const struct audit_event *e)
{
    return is_read(e) && !(e->flags & AUDIT_NOT_GUARDED);
}

/* --- the verdict ------------------------------------------------------------------------------ */

/* snapshot_guards says "any" of it: the boot may read what it wants there. */
static bool is_excused(const struct audit_report *r, const struct audit_event *e)
{
    char key[256];

    snprintf(key, sizeof(key), "%s.%s",
             e->global == AUDIT_HEADERS ? "_SERVER"
             : e->global == AUDIT_INPUT ? "_POST"
                                        : audit_global_name(e->global),
             e->name ? audit_text(r->log, e->name) : "*");
    for (uint32_t i = 0; i < r->pool->snapshot_guards.n; i++)
        if (str_eq(r->pool->snapshot_guards.v[i].key, str_from(key)) &&
            !str_eq(r->pool->snapshot_guards.v[i].value, STR("same")))
            return true;
    return false;
}

/* Nothing of the session that the boot began is needed behind the freeze. */
static bool is_promised(const struct audit_report *r)
{
    char key[256];

    snprintf(key, sizeof(key), "_COOKIE.%s", audit_text(r->log, r->log->session_left));
    for (uint32_t i = 0; i < r->pool->snapshot_guards.n; i++)
        if ((str_eq(r->pool->snapshot_guards.v[i].key, str_from(key)) ||
             str_eq(r->pool->snapshot_guards.v[i].key, STR("_COOKIE.*"))) &&
            str_eq(r->pool->snapshot_guards.v[i].value, STR("any")))
            return true;
    return false;
}

static bool is_hopeless(const struct audit_report *r, const struct audit_event *e)
{
    return is_read(e) && (e->flags & AUDIT_HOPELESS) && !is_excused(r, e);
}

static bool stands_against(const struct audit_report *r, const struct audit_event *e)
{
    return is_hopeless(r, e) || e->kind == AUDIT_SESSION || e->kind == AUDIT_OUTPUT ||
           (e->kind == AUDIT_CONNECTED && r->pool->snapshot_sockets == CONFIG_SOCKETS_REFUSE);
}

static void add(struct verdict *v, struct buf *b)
{
    if (v->n < PROBLEMS_MAX)
        snprintf(v->problems[v->n].text, sizeof(v->problems[v->n].text), "%.*s",
                 STR_ARG(buf_view(b)));
    v->n = MIN(v->n + 1, (uint32_t)PROBLEMS_MAX);
    buf_consume(b, buf_length(b));
}

/* Which of them the descriptor is cannot be told. */
static void name_connections(const struct audit_report *r, struct buf *b)
{
    const char *before = " (opened before: ";

    for (uint32_t i = 0; i < n_events(r->log); i++) {
        const struct audit_event *e = event(r->log, i);
        if (e->kind != AUDIT_CONNECTED)
            continue;
        put(b, "%s%s at ", before, audit_text(r->log, e->name));
        put_place(b, r, e);
        before = ", ";
    }
    if (*before == ',')
        put(b, ")");
}

static void judge_event(struct verdict *v, const struct audit_report *r,
                        const struct audit_event *e, struct buf *b)
{
    if (is_hopeless(r, e)) {
        put_what(b, r, e);
        put(b, " is read at ");
        put_place(b, r, e);
        put(b, e->name ? ", which differs from request to request: read it after the freeze"
                       : ": no two requests agree on it. Read the keys that are needed, one by "
                         "one, or do this after the freeze");
        put(b,
            "; or snapshot_guards = { \"%s.%s\" = \"any\" } if nothing of it stays in what the "
            "boot makes",
            e->global == AUDIT_HEADERS ? "_SERVER" : audit_global_name(e->global),
            e->name ? audit_text(r->log, e->name) : "*");
        add(v, b);
    } else if (e->kind == AUDIT_SESSION && r->log->session_active) {
        put(b, "a session is active, which was started at ");
        put_place(b, r, e);
        put(b, ": start it after the freeze");
        add(v, b);
    } else if (e->kind == AUDIT_SESSION && r->log->session_left && !is_promised(r)) {
        put(b, "a session was begun, or its id set, which all visitors would share, at ");
        put_place(b, r, e);
        put(b,
            ": do it after the freeze, or snapshot_guards = { \"_COOKIE.%s\" = \"any\" } if "
            "nothing of it is needed there",
            audit_text(r->log, r->log->session_left));
        add(v, b);
    } else if (e->kind == AUDIT_KEPT && r->pool->snapshot_sockets == CONFIG_SOCKETS_REFUSE) {
        put(b, "%.*s is open at the freeze", STR_ARG(value_of(r->log, e)));
        name_connections(r, b);
        put(b, ": close it, open it after the freeze, or see snapshot_sockets");
        add(v, b);
    }
}

static void judge_output(struct verdict *v, const struct audit_report *r, struct buf *b)
{
    if (!r->log->output_bytes && !r->log->headers_sent)
        return;
    put(b, "%" PRIu32 " bytes of output come before the freeze", r->log->output_bytes);
    for (uint32_t i = 0; i < n_events(r->log); i++)
        if (event(r->log, i)->kind == AUDIT_OUTPUT) {
            put(b, ", from ");
            put_place(b, r, event(r->log, i));
            break;
        }
    put(b, ": print after it");
    add(v, b);
}

static void judge_end(struct verdict *v, const struct audit_report *r, struct buf *b)
{
    if (r->failure)
        put(b, "%s", r->failure);
    else if (r->log->script_missing)
        put(b, "%s cannot be opened", r->audit->script);
    else if (r->log->state != AUDIT_FROZEN && r->audit->at)
        put(b,
            "the script ended (exit status %d) without %s being reached: name one of the files "
            "listed above, as it is spelled there",
            r->log->exit_status, r->audit->at);
    else if (r->log->state != AUDIT_FROZEN)
        put(b,
            "the script ended (exit status %d) without a freeze point: call snapshot_state() "
            "when the boot is done, or say where with --at include:FILE or function:NAME",
            r->log->exit_status);
    else
        return;
    add(v, b);
}

static void find_points(struct verdict *v, const struct audit_report *r)
{
    bool unread = true, good = true;

    v->unread_at = v->guarded_at = -1;
    for (uint32_t i = 0; i < n_events(r->log) && good; i++) {
        const struct audit_event *e = event(r->log, i);
        unread &= !is_guarded(e);
        good = !stands_against(r, e);
        unread &= good;
        if (e->kind != AUDIT_FILE_END)
            continue;
        if (unread)
            v->unread_at = i;
        v->guarded_at = i;
    }
}

static void judge(struct verdict *v, const struct audit_report *r)
{
    struct buf b;

    buf_init(&b, 0);
    v->n = 0;
    judge_end(v, r, &b);
    for (uint32_t i = 0; i < n_events(r->log); i++)
        judge_event(v, r, event(r->log, i), &b);
    if (r->log->state == AUDIT_FROZEN)
        judge_output(v, r, &b);
    find_points(v, r);
    buf_fini(&b);
}

/* --- for people ------------------------------------------------------------------------------- */

static void put_value(struct buf *b, const struct audit_report *r, const struct audit_event *e)
{
    struct str value = value_of(r->log, e);
    bool cut = value.n > VALUE_SHOWN || (e->flags & AUDIT_CUT);

    if (!value.p) {
        put(b, e->flags & AUDIT_HIDDEN ? " is set" : " absent");
        return;
    }
    put(b, e->flags & AUDIT_IS_ARRAY ? " = " : " = \"");
    record_put(b, str_take(value, MIN(value.n, (size_t)VALUE_SHOWN)), false);
    put(b, "%s%s", cut ? "..." : "", e->flags & AUDIT_IS_ARRAY ? "" : "\"");
}

static void put_line(struct buf *b, const struct audit_report *r, const struct audit_event *e,
                     struct buf *what)
{
    put(b, "  %-48.*s  ", STR_ARG(buf_view(what)));
    buf_consume(what, buf_length(what));
    put_place(b, r, e);
    if (e->times > 1 && !is_read(e))
        put(b, " (%u times)", e->times);
    put(b, "\n");
}

/* Before the first line of a part. */
static void put_title(struct buf *b, const char *title, bool *any)
{
    if (!*any)
        put(b, "\n%s\n", title);
    *any = true;
}

static void print_reads(struct buf *b, const struct audit_report *r, bool guarded,
                        const char *title)
{
    struct buf what;
    bool any = false;

    buf_init(&what, 0);
    for (uint32_t i = 0; i < n_events(r->log); i++) {
        const struct audit_event *e = event(r->log, i);
        if (!is_read(e) || is_guarded(e) != guarded)
            continue;
        put_title(b, title, &any);
        put_what(&what, r, e);
        if (e->name || value_of(r->log, e).p)
            put_value(&what, r, e);
        put_line(b, r, e, &what);
    }
    buf_fini(&what);
}

static void print_kinds(struct buf *b, const struct audit_report *r, uint32_t kinds,
                        const char *title)
{
    struct buf what;
    bool any = false;

    buf_init(&what, 0);
    for (uint32_t i = 0; i < n_events(r->log); i++) {
        const struct audit_event *e = event(r->log, i);
        if (!(kinds & (1u << e->kind)))
            continue;
        put_title(b, title, &any);
        record_put(&what, str_from(short_path(r, audit_text(r->log, e->name))), false);
        if (value_of(r->log, e).n) {
            struct str value = value_of(r->log, e);
            put(&what, "  ");
            record_put(&what, str_take(value, MIN(value.n, (size_t)VALUE_SHOWN)), false);
        }
        put_line(b, r, e, &what);
    }
    buf_fini(&what);
}

static void print_files(struct buf *b, const struct audit_report *r, const struct verdict *v)
{
    bool any = false;

    for (uint32_t i = 0; i < n_events(r->log); i++) {
        const struct audit_event *e = event(r->log, i);
        if (e->kind != AUDIT_FILE_END)
            continue;
        if (!any)
            put(b,
                "\nFiles in the order in which they returned, with the time since the beginning\n");
        any = true;
        put(b, "  %9.3f ms  %s%s\n", (double)e->at_ns / NS_PER_MS,
            short_path(r, audit_text(r->log, e->name)),
            (int64_t)i == v->unread_at    ? "   <- nothing of the request was read until here"
            : (int64_t)i == v->guarded_at ? "   <- the last point that guards can hold"
                                          : "");
    }
}

static void print_point(struct buf *b, const struct audit_report *r, int64_t at, const char *what)
{
    if (at < 0)
        return;
    const struct audit_event *e = event(r->log, (uint32_t)at);
    put(b, "  %s: include:%s (%.3f of %.3f ms)\n", what, short_path(r, audit_text(r->log, e->name)),
        (double)e->at_ns / NS_PER_MS, (double)r->log->end_ns / NS_PER_MS);
}

static void print_verdict(struct buf *b, const struct audit_report *r, const struct verdict *v)
{
    uint32_t guards = 0;

    for (uint32_t i = 0; i < n_events(r->log); i++)
        guards += is_guarded(event(r->log, i)) && !is_excused(r, event(r->log, i));
    put(b, "\nVerdict\n");
    if (v->n == 0) {
        put(b, "  It can be frozen at %s:%u, %.3f ms after its beginning.\n",
            short_path(r, audit_text(r->log, r->log->end_file)), r->log->end_line,
            (double)r->log->end_ns / NS_PER_MS);
        put(b,
            guards ? "  Requests that differ from this one in any of the %u things above run in "
                     "classic mode.\n"
                   : "  It read nothing of the request: every request may have the image.\n",
            guards);
        return;
    }
    put(b, "  It cannot be frozen%s:\n", r->log->state == AUDIT_FROZEN ? " there" : "");
    for (uint32_t i = 0; i < v->n; i++)
        put(b, "  - %s\n", v->problems[i].text);
    print_point(b, r, v->unread_at, "Before anything of the request is read");
    if (v->guarded_at != v->unread_at)
        print_point(b, r, v->guarded_at, "The last point that guards can hold");
}

static void print_text(struct buf *b, const struct audit_report *r, const struct verdict *v)
{
    const struct audit_log *log = r->log;

    put(b, "sapid audit %s\nGET %s, no cookies, no body; PHP %s\n", r->audit->script, r->audit->url,
        r->php_version);
    if (log->preloaded)
        put(b,
            "%u preloaded functions were compiled before: what their code reads is "
            "not seen\n",
            log->preloaded);
    print_reads(b, r, true, "Read of the request: an image is only for requests that agree");
    print_reads(b, r, false, "Read of the environment or the time: an image keeps what it was");
    print_kinds(b, r, 1u << AUDIT_CONNECTED | 1u << AUDIT_KEPT, "Connections");
    print_kinds(b, r, 1u << AUDIT_PROCESS, "Child processes");
    print_kinds(b, r, 1u << AUDIT_WRITTEN, "Files and shared memory written");
    print_kinds(b, r, 1u << AUDIT_OPENED, "Files read");
    print_kinds(b, r, 1u << AUDIT_CONSTANT, "Constants with values that are computed");
    print_kinds(b, r, 1u << AUDIT_SETTING | 1u << AUDIT_ENVIRONMENT, "Settings");
    print_kinds(b, r, 1u << AUDIT_HANDLER, "Handlers");
    print_kinds(b, r,
                1u << AUDIT_OUTPUT | 1u << AUDIT_BUFFER | 1u << AUDIT_HEADER | 1u << AUDIT_SESSION,
                "Output and headers");
    print_kinds(b, r, 1u << AUDIT_TIME | 1u << AUDIT_RANDOM | 1u << AUDIT_HOST,
                "Time, chance, this machine: an image keeps what they were");
    print_files(b, r, v);
    if (log->n_dropped)
        put(b, "\n%u more things were not written down\n", log->n_dropped);
    if (v->n && *audit_text(log, log->said))
        put(b, "\nIt printed:\n%s\n", audit_text(log, log->said));
    print_verdict(b, r, v);
}

/* --- JSON ------------------------------------------------------------------------------------- */

static const char *const kind_names[AUDIT_KINDS] = {
    [AUDIT_READ] = "read",
    [AUDIT_FILE] = "include",
    [AUDIT_FILE_END] = "include_end",
    [AUDIT_OPENED] = "opened",
    [AUDIT_WRITTEN] = "written",
    [AUDIT_CONNECTED] = "connected",
    [AUDIT_PROCESS] = "process",
    [AUDIT_CONSTANT] = "constant",
    [AUDIT_SETTING] = "setting",
    [AUDIT_ENVIRONMENT] = "environment",
    [AUDIT_HANDLER] = "handler",
    [AUDIT_OUTPUT] = "output",
    [AUDIT_BUFFER] = "buffer",
    [AUDIT_HEADER] = "header",
    [AUDIT_SESSION] = "session",
    [AUDIT_TIME] = "time",
    [AUDIT_RANDOM] = "random",
    [AUDIT_HOST] = "host",
    [AUDIT_KEPT] = "kept",
};

static void put_string(struct buf *b, const char *key, struct str value)
{
    put(b, "\"%s\":", key);
    if (!value.p) {
        put(b, "null");
        return;
    }
    put(b, "\"");
    record_put(b, value, true);
    put(b, "\"");
}

static void put_event(struct buf *b, const struct audit_report *r, const struct audit_event *e)
{
    const struct audit_log *log = r->log;

    put(b, "{\"kind\":\"%s\",", e->kind < AUDIT_KINDS ? kind_names[e->kind] : "?");
    if (is_read(e))
        put(b, "\"global\":\"%s\",\"guarded\":%s,\"copy\":%s,", audit_global_name(e->global),
            is_guarded(e) ? "true" : "false", e->flags & AUDIT_COPY ? "true" : "false");
    put_string(b, "name", e->name ? str_from(audit_text(log, e->name)) : STR_NONE);
    put(b, ",");
    if (e->flags & AUDIT_HIDDEN)
        put(b, "\"hidden\":true,");
    put_string(b, "value", value_of(log, e));
    put(b, ",");
    put_string(b, "file", str_from(audit_text(log, e->file)));
    put(b, ",\"line\":%u,\"times\":%u,\"at_us\":%" PRIu64 "}", e->line, e->times,
        e->at_ns / NS_PER_US);
}

static void put_point(struct buf *b, const struct audit_report *r, const char *key, int64_t at)
{
    const struct audit_event *e = at < 0 ? NULL : event(r->log, (uint32_t)at);

    put_string(b, key, e ? str_from(audit_text(r->log, e->name)) : STR_NONE);
    put(b, ",");
}

static void print_json(struct buf *b, const struct audit_report *r, const struct verdict *v)
{
    const struct audit_log *log = r->log;

    put(b, "{");
    put_string(b, "script", str_from(r->audit->script));
    put(b, ",");
    put_string(b, "url", str_from(r->audit->url));
    put(b, ",");
    put_string(b, "at", r->audit->at ? str_from(r->audit->at) : STR_NONE);
    put(b, ",\"freezable\":%s,\"reached\":%s,", v->n ? "false" : "true",
        log->state == AUDIT_FROZEN ? "true" : "false");
    put_string(b, "end_file", str_from(audit_text(log, log->end_file)));
    put(b, ",\"end_line\":%u,\"end_us\":%" PRIu64 ",\"preloaded\":%u,\"dropped\":%u,",
        log->end_line, log->end_ns / NS_PER_US, log->preloaded, log->n_dropped);
    put(b, "\"output_bytes\":%u,", log->output_bytes);
    put_point(b, r, "last_unread", v->unread_at);
    put_point(b, r, "last_guarded", v->guarded_at);
    put(b, "\"problems\":[");
    for (uint32_t i = 0; i < v->n; i++) {
        put(b, i ? ",\"" : "\"");
        record_put(b, str_from(v->problems[i].text), true);
        put(b, "\"");
    }
    put(b, "],\"events\":[");
    for (uint32_t i = 0; i < n_events(log); i++) {
        put(b, i ? ",\n" : "\n");
        put_event(b, r, event(log, i));
    }
    put(b, "]}\n");
}

int audit_print(const struct audit_report *r, bool json)
{
    struct verdict v;
    struct buf b;

    buf_init(&b, 0);
    judge(&v, r);
    if (json)
        print_json(&b, r, &v);
    else
        print_text(&b, r, &v);
    struct str text = buf_view(&b);
    fwrite(text.p, 1, text.n, stdout);
    buf_fini(&b);
    return v.n ? STATUS_NOT : STATUS_GOOD;
}
