/*
 * [worker] report_leaks: what did this request leave behind? The state of PHP that lives on between
 * requests (state.c) is listed before and after each of them, and what differs is logged with the
 * request's method and path. A development tool: it costs milliseconds. With isolation by rollback,
 * isolation.c does that.
 */
#include "php/engine/engine_int.h"

#include <stdarg.h>

enum { ITEMS_LOGGED_MAX = 12 }; /* of one request */

static struct state *before, *after;
static HashTable told; /* "GET /path: what" -> how often */

/* Once, twice, four times, ...: a leak of every request must not fill the log. */
static bool is_news(struct str route, const char *what, unsigned long *ret_times)
{
    char key[512];
    int n = snprintf(key, sizeof(key), "%.*s: %s", STR_ARG(route), what);
    size_t length = n < (int)sizeof(key) ? (size_t)n : sizeof(key) - 1;
    zval *v = zend_hash_str_find(&told, key, length), one;

    if (!v) {
        ZVAL_LONG(&one, 0);
        v = zend_hash_str_update(&told, key, length, &one);
    }
    *ret_times = (unsigned long)++Z_LVAL_P(v);
    return (*ret_times & (*ret_times - 1)) == 0;
}

struct leak_report {
    char text[4096];
    size_t n;
    unsigned items, more;
    struct str route;
};

PRINTF_LIKE(3, 4)
static void tell(struct leak_report *r, const char *what, const char *fmt, ...)
{
    unsigned long times;
    va_list ap;

    if (!is_news(r->route, what, &times))
        return;
    if (r->items >= ITEMS_LOGGED_MAX || r->n + 400 > sizeof(r->text)) {
        r->more++;
        return;
    }
    size_t room = sizeof(r->text) - r->n;
    va_start(ap, fmt);
    int n = snprintf(r->text + r->n, room, "%s%s ", r->items ? "; " : "", what);
    n += vsnprintf(r->text + r->n + n, room - (size_t)n, fmt, ap);
    va_end(ap);
    if (times > 1)
        n += snprintf(r->text + r->n + n, room - (size_t)n, " (%lu times now)", times);
    r->n += (size_t)n;
    r->items++;
}

static void tell_difference(void *context, const char *what, const char *was, const char *is)
{
    if (strcmp(what, "memory") == 0)
        tell(context, what, "%s", is);
    else if (!was && is[0])
        tell(context, what, "is new: %s", is);
    else if (!was)
        tell(context, what, "is new");
    else if (!is)
        tell(context, what, "is gone");
    else if (was[0] || is[0])
        tell(context, what, "%s -> %s", was, is);
    else
        tell(context, what, "changed");
}

void leaks_before(void)
{
    if (!before) {
        before = state_new(true);
        after = state_new(true);
        zend_hash_init(&told, 64, NULL, NULL, 1);
    }
    state_list(before);
}

/* The texts of the request are still there: they are overwritten when the next one is taken. */
void leaks_after(void)
{
    static struct leak_report r;
    struct str path = request.view.target;
    char route[256];

    state_list(after);
    path = str_cut(&path, '?');
    snprintf(route, sizeof(route), "%.*s %.*s", STR_ARG(request.view.method), STR_ARG(path));
    r = (struct leak_report){ .route = str_from(route) };
    state_compare(before, after, tell_difference, &r);
    if (r.items)
        log_notice("%s left behind: %s%s", route, r.text,
                   r.more ? "; and more (see the next requests)" : "");
}
