/*
 * Guards of an image: what of a request its boot has read (audit.c), and with what value. A worker
 * that has taken a request looks whether it agrees in all of that, before any PHP of the request
 * runs and without making superglobals; if it does not, another worker of the pool, in classic
 * mode, gets the request.
 *
 * The list is made in the process that is to be frozen, so it is part of the image. Where comparing
 * exactly would take PHP itself (arrays in a query), a request does not hold: that is only slower.
 */
#include "php/engine/audit_int.h"

#include <errno.h>
#include <inttypes.h>
#include <regex.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "php/params.h"

enum { LIMIT_MS = 30000, REGEX_TEXT_MAX = 8192 };

enum predicate { SAME, ANY, SET, ABSENT, REGEX };

struct guard {
    enum audit_global global;
    enum predicate predicate;
    struct str key;   /* NULL: all of it */
    struct str value; /* of SAME; NULL: absent */
    bool is_array;
    regex_t *regex;
};

static struct {
    struct guard *v;
    uint32_t n, max;
    bool never;       /* nobody knows what the boot reads */
    struct str query; /* of the boot's own request */
} guards;

/* --- what a request has ----------------------------------------------------------------------- */

struct found {
    bool present, unclear; /* unclear: a value that cannot be compared here */
    struct str raw;        /* encoded where it is a parameter */
    bool is_param;
    struct params params;
};

static struct params query_params(void)
{
    return (struct params){ .text = request.view.query,
                            .separators = COMPAT_ARG_SEPARATORS(),
                            .max = (uint32_t)PG(max_input_vars) };
}

static struct params cookie_params(void)
{
    return (struct params){ .text = request.cookie,
                            .separators = ";",
                            .cookies = true,
                            .max = (uint32_t)PG(max_input_vars) };
}

/* PHP would make $_POST and $_FILES of it. */
static bool has_form(void)
{
    static const struct str types[] = { STR("application/x-www-form-urlencoded"),
                                        STR("multipart/form-data") };

    for (size_t i = 0; i < ARRAY_LENGTH(types); i++)
        if (request.content_type.n >= types[i].n &&
            str_eq_nocase(str_take(request.content_type, types[i].n), types[i]))
            return request.view.body_kind != CHANNEL_BODY_NONE;
    return false;
}

static struct found find_param(struct params p, struct str key)
{
    struct found f = { .is_param = true, .params = p };
    struct param one = params_find(&p, key);

    f.present = one.kind != PARAM_ABSENT;
    f.unclear = one.kind == PARAM_OTHER;
    f.raw = one.raw;
    return f;
}

/* request_order: later ones win. */
static struct found find_in_request(struct str key)
{
    const char *order = PG(request_order) ? PG(request_order) : PG(variables_order);
    struct found f = { 0 }, one;

    for (; order && *order; order++) {
        switch (*order) {
        case 'g':
        case 'G': one = find_param(query_params(), key); break;
        case 'c':
        case 'C': one = find_param(cookie_params(), key); break;
        case 'p':
        case 'P': one = (struct found){ .present = has_form(), .unclear = true }; break;
        default: continue;
        }
        if (one.present)
            f = one;
        if (one.present && one.unclear)
            break;
    }
    return f;
}

/* Of the credentials only whether there are any is known before PHP has looked at them. */
static bool is_of_credentials(struct str key)
{
    return str_has_prefix(key, STR("PHP_AUTH_")) || str_eq(key, STR("REMOTE_USER")) ||
           str_eq(key, STR("AUTH_TYPE"));
}

static struct found find_in_server(struct str key)
{
    struct found f = { 0 };

    if (is_of_credentials(key)) {
        f.present = f.unclear = request.authorization.n > 0;
    } else if (str_eq(key, STR("argv")) || str_eq(key, STR("argc"))) {
        f.present = true; /* PHP makes them of the query */
        f.raw = request.view.query;
    } else {
        f.present = variables_look(key, &f.raw);
    }
    return f;
}

/* Of one of those letters, in what $_REQUEST is made of. */
static bool order_has(const char *letters)
{
    const char *order = PG(request_order) ? PG(request_order) : PG(variables_order);

    return order && strpbrk(order, letters);
}

static struct found find_all(enum audit_global global)
{
    struct params p = global == AUDIT_COOKIE ? cookie_params() : query_params();
    struct found f = { .present = !params_is_empty(&p), .raw = p.text };

    switch (global) {
    case AUDIT_GET:
    case AUDIT_COOKIE: return f;
    case AUDIT_REQUEST:
        f.unclear = has_form() || (request.cookie.n && order_has("Cc"));
        f.present |= f.unclear;
        return f;
    case AUDIT_POST:
    case AUDIT_FILES: return (struct found){ .present = has_form(), .unclear = true };
    case AUDIT_INPUT:
        return (struct found){ .present = request.view.body_kind != CHANNEL_BODY_NONE,
                               .unclear = true };
    default: return (struct found){ .present = true, .unclear = true };
    }
}

static struct found find(const struct guard *g)
{
    if (!g->key.p)
        return find_all(g->global);
    switch (g->global) {
    case AUDIT_GET: return find_param(query_params(), g->key);
    case AUDIT_COOKIE: return find_param(cookie_params(), g->key);
    case AUDIT_REQUEST: return find_in_request(g->key);
    case AUDIT_POST:
    case AUDIT_FILES: return (struct found){ .present = has_form(), .unclear = true };
    default: return find_in_server(g->key);
    }
}

/* --- does it hold? ---------------------------------------------------------------------------- */

static bool is_same(const struct guard *g, const struct found *f)
{
    if (!f->present)
        return !g->value.p || (!g->key.p && g->value.n == 0);
    if (!g->value.p || f->unclear || g->is_array)
        return false;
    if (f->is_param)
        return params_value_is(&f->params, f->raw, g->value);
    return str_eq(f->raw, g->value);
}

static bool matches(const struct guard *g, const struct found *f)
{
    char text[REGEX_TEXT_MAX];
    struct str value = f->raw;

    if (!f->present || f->unclear || f->raw.n >= sizeof(text))
        return false;
    if (f->is_param)
        value = params_decode(&f->params, f->raw, text);
    else if (value.n)
        memcpy(text, value.p, value.n);
    text[value.n] = '\0';
    return regexec(g->regex, text, 0, NULL, 0) == 0;
}

static bool holds(const struct guard *g)
{
    struct found f = find(g);

    switch (g->predicate) {
    case ANY: return true;
    case SET: return f.present;
    case ABSENT: return !f.present;
    case REGEX: return matches(g, &f);
    case SAME: break;
    }
    return is_same(g, &f);
}

/* For status pages. */
static void note_miss(const struct guard *g)
{
    char text[REPORT_TEXT_BYTES] = "what the boot reads is not known";

    if (g)
        snprintf(text, sizeof(text), "%s.%.*s", audit_global_name(g->global),
                 g->key.p ? (int)MIN(g->key.n, 200u) : 1, g->key.p ? g->key.p : "*");
    if (late_report())
        report_reason(late_report(), REPORT_GUARD, str_from(text));
}

bool guards_hold(void)
{
    CHECK(request.active);
    if (guards.never) {
        note_miss(NULL);
        return false;
    }
    for (uint32_t i = 0; i < guards.n; i++)
        if (!holds(&guards.v[i])) {
            note_miss(&guards.v[i]);
            log_debug("request %.*s: not one of this image: %s%s%.*s is another",
                      STR_ARG(request.view.request_id), audit_global_name(guards.v[i].global),
                      guards.v[i].key.p ? "." : "", STR_ARG(guards.v[i].key));
            return false;
        }
    return true;
}

static bool covers(const struct guard *g, const char *global, const zend_string *key)
{
    return g->predicate == SAME && strcmp(audit_global_name(g->global), global) == 0 &&
           (!g->key.p || (key && str_eq(g->key, (struct str){ ZSTR_VAL(key), ZSTR_LEN(key) })));
}

bool guards_cover(const char *global, const zend_string *key)
{
    for (uint32_t i = 0; i < guards.n; i++)
        if (covers(&guards.v[i], global, key))
            return true;
    return false;
}

/* --- the list --------------------------------------------------------------------------------- */

static struct str copy(struct str s)
{
    return s.p ? (struct str){ mem_strndup(s), s.n } : STR_NONE;
}

static struct guard *add(enum audit_global global, struct str key)
{
    if (guards.n == guards.max) {
        guards.max = guards.max ? guards.max * 2 : 16;
        guards.v = mem_realloc(guards.v, guards.max * sizeof(*guards.v));
    }
    guards.v[guards.n] = (struct guard){ .global = global, .key = copy(key) };
    return &guards.v[guards.n++];
}

/* "_SERVER.HTTP_HOST", "_COOKIE.*"; checked by the configuration. */
static enum audit_global parse_key(const char *text, struct str *ret_key)
{
    struct str key = str_from(text), name = str_cut(&key, '.');

    *ret_key = str_eq(key, STR("*")) ? STR_NONE : key;
    for (unsigned g = 0; g < AUDIT_GLOBALS; g++)
        if (str_eq(name, str_from(audit_global_name(g))))
            return g;
    return AUDIT_GLOBALS;
}

/* What the configuration's word for "_SERVER.*" means for getallheaders(), too. */
static enum audit_global configured_as(enum audit_global global)
{
    return global == AUDIT_HEADERS ? AUDIT_SERVER : global == AUDIT_INPUT ? AUDIT_POST : global;
}

static bool is_about(const struct engine_setting *s, enum audit_global global, struct str key)
{
    struct str its;

    if (parse_key(s->name, &its) != configured_as(global))
        return false;
    return its.p ? key.p && str_eq(its, key) : !key.p;
}

static const struct engine_setting *configured(const struct engine_image *image,
                                               enum audit_global global, struct str key)
{
    for (size_t i = 0; i < image->n_guards; i++)
        if (is_about(&image->guards[i], global, key))
            return &image->guards[i];
    return NULL;
}

bool guards_promise(const struct engine_image *image, const char *global, const char *key)
{
    for (size_t i = 0; i < image->n_guards; i++) {
        struct str its;
        const char *name = audit_global_name(parse_key(image->guards[i].name, &its));
        if (strcmp(name, global) == 0 && (!its.p || str_eq(its, str_from(key))) &&
            strcmp(image->guards[i].value, "any") == 0)
            return true;
    }
    return false;
}

static int set_predicate(struct guard *g, const char *word, char *text, size_t size)
{
    static const char *const words[] = {
        [SAME] = "same", [ANY] = "any", [SET] = "set", [ABSENT] = "absent"
    };

    for (size_t i = 0; i < ARRAY_LENGTH(words); i++)
        if (strcmp(word, words[i]) == 0) {
            g->predicate = (enum predicate)i;
            return 0;
        }
    CHECK(strncmp(word, "regex:", 6) == 0);
    g->predicate = REGEX;
    g->regex = mem_alloc(sizeof(*g->regex));
    int rc = regcomp(g->regex, word + 6, REG_EXTENDED | REG_NOSUB);
    if (rc == 0)
        return 0;
    size_t n =
        (size_t)snprintf(text, size, "snapshot_guards: \"%s\" is no regular expression: ", word);
    regerror(rc, g->regex, text + MIN(n, size - 1), size - MIN(n, size - 1));
    return -EINVAL;
}

static struct str value_of(const struct audit_log *log, const struct audit_event *e)
{
    if (!e->value || e->value_n > AUDIT_VALUE_MAX || e->value >= AUDIT_TEXTS_MAX - e->value_n)
        return STR_NONE;
    return (struct str){ log->texts + e->value, e->value_n };
}

static void refuse(const struct audit_log *log, const struct audit_event *e, char *text,
                   size_t size)
{
    const char *name = audit_global_name(e->global), *key = audit_text(log, e->name);
    const char *config = audit_global_name(configured_as(e->global));

    snprintf(text, size,
             "the boot reads %s%s%s%s%s%s at %s:%u, in which no two requests agree, so none would "
             "get the image. What to do: %s; or, if nothing of it stays in what the boot makes, "
             "snapshot_guards = { \"%s.%s\" = \"any\" }",
             e->name                      ? "$"
             : e->global == AUDIT_HEADERS ? "all "
                                          : "all of $",
             name, e->name ? "['" : "", key, e->name ? "']" : "",
             e->flags & AUDIT_COPY ? ", of which it keeps a copy," : "", audit_text(log, e->file),
             e->line,
             e->name ? "read it behind the freeze point"
                     : "read the keys that are needed one by one, or do it behind the freeze point",
             config, e->name ? key : "*");
}

/* By an audit before. */
static bool is_known(enum audit_global global, struct str key)
{
    for (uint32_t i = 0; i < guards.n; i++)
        if (guards.v[i].predicate == SAME && guards.v[i].global == global &&
            !guards.v[i].key.p == !key.p && str_eq(guards.v[i].key, key))
            return true;
    return false;
}

/* One thing that the boot read. */
static int learn(const struct engine_image *image, const struct audit_log *log,
                 const struct audit_event *e, char *text, size_t size)
{
    struct str key = e->name ? str_from(audit_text(log, e->name)) : STR_NONE;
    const struct engine_setting *s = configured(image, e->global, key);

    if (e->kind != AUDIT_READ || e->global >= AUDIT_GLOBALS_ALL || (e->flags & AUDIT_NOT_GUARDED) ||
        (s && strcmp(s->value, "same") != 0))
        return 0; /* those of the configuration come by themselves */
    if (e->flags & AUDIT_HOPELESS) {
        refuse(log, e, text, size);
        return -EPERM;
    }
    if (is_known(e->global, key))
        return 0;
    struct guard *g = add(e->global, key);
    g->value = copy(value_of(log, e));
    g->is_array = e->flags & (AUDIT_IS_ARRAY | AUDIT_CUT);
    if (!key.p) { /* the text that all of it is made from: the boot has no cookies and no form */
        bool of_query = e->global == AUDIT_GET || e->global == AUDIT_REQUEST;
        g->is_array = false;
        g->value = of_query && guards.query.n ? guards.query : STR("");
    } else if (str_eq(key, STR("argv")) || str_eq(key, STR("argc"))) {
        g->is_array = false;
        g->value = guards.query;
    }
    return 0;
}

static int learn_configured(const struct engine_image *image, char *text, size_t size)
{
    for (size_t i = 0; i < image->n_guards; i++) {
        const struct engine_setting *s = &image->guards[i];
        struct str key;
        enum audit_global global = parse_key(s->name, &key);
        if (strcmp(s->value, "any") == 0 || strcmp(s->value, "same") == 0)
            continue;
        int rc = set_predicate(add(global, key), s->value, text, size);
        if (rc < 0)
            return rc;
    }
    return 0;
}

void guards_read_configured(const struct engine_setting *v, size_t n,
                            void (*read)(enum audit_global global, struct str key))
{
    for (size_t i = 0; i < n; i++) {
        struct str key;
        enum audit_global global = parse_key(v[i].name, &key);
        if (strcmp(v[i].value, "same") == 0)
            read(global, key);
    }
}

static int learn_reads(const struct engine_image *image, const struct audit_log *log, char *text,
                       size_t size)
{
    int rc = 0;

    for (uint32_t i = 0; i < MIN(log->n_events, (uint32_t)AUDIT_EVENTS_MAX) && rc == 0; i++)
        rc = learn(image, log, &log->events[i], text, size);
    if (rc == 0 && log->n_dropped) {
        snprintf(text, size,
                 "the boot does more than can be written down (%u things more), so what it reads "
                 "of the request is not known",
                 log->n_dropped);
        rc = -EOVERFLOW;
    }
    if (rc == 0 && log->preloaded) {
        snprintf(text, size,
                 "what %u preloaded functions read of the request is not known; images need "
                 "opcache.preload switched off here",
                 log->preloaded);
        rc = -ENOTSUP;
    }
    return rc;
}

/* So that people see why requests do not get the image. */
static void tell(void)
{
    enum { SHOWN_MAX = 12 };
    char text[1024];
    size_t n = 0;

    for (uint32_t i = 0; i < guards.n && i < SHOWN_MAX && n < sizeof(text) - 1; i++) {
        const struct guard *g = &guards.v[i];
        int more = snprintf(text + n, sizeof(text) - n, "%s%s.%.*s", i ? ", " : "",
                            audit_global_name(g->global), g->key.p ? (int)MIN(g->key.n, 64u) : 1,
                            g->key.p ? g->key.p : "*");
        n += more > 0 ? (size_t)more : 0;
    }
    if (guards.n == 0)
        log_info("the boot reads nothing of its request: every request may have the image");
    else
        log_notice("the image is for requests that agree with its boot's in %s%s",
                   guards.n > SHOWN_MAX ? "more than " : "", text);
}

/* The boot left something behind, in files or elsewhere: the next one may find it and go another
 * way. */
static bool leaves_something(const struct audit_log *log)
{
    for (uint32_t i = 0; i < MIN(log->n_events, (uint32_t)AUDIT_EVENTS_MAX); i++)
        if (log->events[i].kind == AUDIT_WRITTEN || log->events[i].kind == AUDIT_CONNECTED ||
            log->events[i].kind == AUDIT_PROCESS)
            return true;
    return false;
}

/* One audit, and what is learned from it. */
static int look(const struct engine_image *image, const struct audit_run *run, bool *ret_again,
                char *text, size_t size)
{
    struct audit_log *log = mmap(NULL, sizeof(*log), PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (log == MAP_FAILED) {
        snprintf(text, size, "no memory for an audit of the boot: %s", strerror(errno));
        return -ENOMEM;
    }
    int rc = audit_fork(log, run, text, size);
    if (rc == 0 && atomic_load_explicit(&log->state, memory_order_acquire) == AUDIT_FROZEN)
        rc = learn_reads(image, log, text, size);
    else if (rc == 0)
        guards.never = true; /* the real boot will fail as well, and say why */
    *ret_again = leaves_something(log);
    munmap(log, sizeof(*log));
    return rc;
}

int guards_make(const struct engine_image *image, bool (*boot)(void *context), void *context,
                char *text, size_t size)
{
    const struct audit_run run = { .boot = boot,
                                   .context = context,
                                   .at = image->at,
                                   .guards = image->guards,
                                   .n_guards = image->n_guards,
                                   .limit_ms = LIMIT_MS };
    struct str query = str_from(image->url ? image->url : "");
    bool again = true;

    (void)str_cut(&query, '?');
    guards.query = query.p ? copy(query) : STR("");
    int rc = learn_configured(image, text, size);
    for (int i = 0; i < 2 && again && rc == 0 && !guards.never; i++)
        rc = look(image, &run, &again, text, size);
    if (rc == 0 && !guards.never)
        tell();
    return rc;
}
