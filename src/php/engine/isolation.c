/*
 * The isolation report: what requests would leave behind if their worker were not rolled back. Now
 * and then (the first requests of a route, then one in SAMPLE_EVERY) the state of PHP at the end of
 * a request is compared with that of the image, behind the answer, and what differs is noted by
 * route: its name, types and sizes, never a value. It makes the leaks of an application visible
 * before they are anybody's bug, as they would be in worker mode without rollback.
 *
 * Classes and functions are the business of late.c.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    SAMPLE_FIRST = 2, /* requests of each route */
    SAMPLE_EVERY = 4096,
    LOGGED_BYTES = 2048,
    COMPARE_S = 10,
};

static struct state *image; /* what the image holds; NULL: there is no report */
static bool logs, is_script;

struct finding_log {
    struct report *report;
    uint32_t route;
    size_t n;
    char text[LOGGED_BYTES];
};

void isolation_record(const struct engine_worker *w)
{
    if (!late_report())
        return;
    logs = w->loop && w->loop->report_leaks;
    is_script = seed_is_on();
    image = state_new(false);
    state_list(image);
}

/* "array(3)" -> "array" and 3. */
static struct str cut_size(const char *shown, uint64_t *ret)
{
    struct str text = str_from(shown);
    ptrdiff_t at = str_find(text, '(');

    *ret = 0;
    if (at <= 0 || !str_has_suffix(text, STR(")")) ||
        !str_to_u64(str_take(str_skip(text, (size_t)at + 1), text.n - (size_t)at - 2),
                    UINT32_MAX - 1, ret))
        return text;
    ++*ret; /* 0: none */
    return str_take(text, (size_t)at);
}

static bool is_noise(const char *what, const char *was)
{
    return strncmp(what, "class ", 6) == 0 || strncmp(what, "function ", 9) == 0 ||
           strcmp(what, "shutdown functions") == 0 ||               /* have been called */
           (is_script && !was && strncmp(what, "global ", 7) == 0); /* a script's own variables */
}

PRINTF_LIKE(2, 3)
static void log_more(struct finding_log *l, const char *fmt, ...)
{
    va_list ap;

    if (l->n + 300 > sizeof(l->text))
        return;
    va_start(ap, fmt);
    int n = vsnprintf(l->text + l->n, sizeof(l->text) - l->n, fmt, ap);
    va_end(ap);
    l->n += MIN((size_t)n, sizeof(l->text) - l->n - 1);
}

/* The size at the end changes with each request: it is kept apart from the name. */
static void found(void *context, const char *what, const char *was, const char *is)
{
    struct finding_log *l = context;
    struct report *r = l->report;
    char text[REPORT_TEXT_BYTES + 1];
    uint64_t size = 0;
    bool made = false;
    struct str now = is ? cut_size(is, &size) : STR("gone");

    if (is_noise(what, was))
        return;
    bool counted = strncmp(what, "objects ", 8) == 0 || strncmp(what, "resources ", 10) == 0;
    if (counted || strcmp(what, "memory") == 0) {
        const char *number = is + (is[0] == '+');
        (void)str_to_u64(str_take(str_from(number), strspn(number, "0123456789")), UINT32_MAX - 1,
                         &size);
        size++;
    }
    if (counted)
        snprintf(text, sizeof(text), "%s: %s in the image, then ", what, was ? was : "none");
    else if (size && !was && is[0] == '+')
        snprintf(text, sizeof(text), "%s: more, KiB ", what);
    else if (was && is && was[0])
        snprintf(text, sizeof(text), "%s: %s -> %.*s", what, was, STR_ARG(now));
    else if (was || !now.n)
        snprintf(text, sizeof(text), "%s: %s", what, !is ? "gone" : was ? "changed" : "new");
    else
        snprintf(text, sizeof(text), "%s: new, %.*s", what, STR_ARG(now));
    struct report_entry *e =
        report_note(r->findings, REPORT_FINDINGS, REPORT_FINDING, l->route, str_from(text), &made);
    if (!e) {
        report_add(&r->count.dropped_findings, 1);
        return;
    }
    atomic_store_explicit(&e->flags, (uint32_t)size, memory_order_relaxed);
    if (!made)
        return;
    report_add(&r->count.findings, 1);
    if (size)
        log_more(l, "%s%s(%" PRIu64 ")", l->n ? "; " : "", text, size - 1);
    else
        log_more(l, "%s%s", l->n ? "; " : "", text);
}

static void compare(struct report *r, uint32_t route)
{
    static struct finding_log l;
    struct report_view name;
    struct state *now = state_new(false);

    state_list(now);
    l = (struct finding_log){ .report = r, .route = route };
    state_compare(image, now, found, &l);
    if (l.n && logs && report_read(&r->route_names[route], &name))
        log_notice("%.*s left behind (and rollback has put right): %s", STR_ARG(name.text), l.text);
}

/* In a process of its own: listing writes all over the memory (garbage collection, hashes of
 * strings), and pages that this worker wrote twice would burden its next rollbacks. */
bool isolation_sample(uint32_t route)
{
    struct report *r = late_report();
    int status;

    if (!image || route >= REPORT_ROUTES || CG(unclean_shutdown))
        return false;
    struct report_route *numbers = &r->routes[route];
    if (report_get(&numbers->sampled) >= SAMPLE_FIRST &&
        report_get(&r->count.rollbacks) % SAMPLE_EVERY != 0)
        return false;
    report_add(&numbers->sampled, 1);
    report_add(&r->count.sampled, 1);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(COMPARE_S);
        compare(r, route);
        _exit(0);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return true;
}
