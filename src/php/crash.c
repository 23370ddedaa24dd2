/*
 * The record of a worker that died: what killed it, the request it had, where PHP and C were, and
 * the requests before. Its sources are its slot in the channel, which nobody has taken back yet,
 * its black box, the last sample of its stack, and what the kernel says. One line goes to the error
 * log, the whole to the supervisor, which keeps it in a file.
 */
#include <dlfcn.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/mem.h"
#include "php/pool_int.h"

enum { ROUTES_MAX = 256 };

/* Everything known of one death. */
struct death {
    const struct pool *pool;
    uint32_t worker;
    int status;
    const struct seat *seat;
    const struct rusage *usage;
    uint64_t now_ns;
    bool out_of_memory;
    bool has_request;
    struct channel_worker_info info;
    struct channel_request request;
    uint32_t route_crashes;
    const struct php_stack *stack; /* NULL: none */
    uint64_t stack_age_ns;         /* 0: of the moment of the crash */
    struct box_crash crash;        /* phase BOX_NOTHING: it could not say anything */
    char texts[CHANNEL_LOOK_BYTES];
};

/* --- what happened ---------------------------------------------------------------------------- */

static const char *describe_fault(const struct box_crash *c)
{
    if (c->is_overflow)
        return "stack overflow";
    if (c->signal == SIGSEGV && c->code == SEGV_MAPERR)
        return "nothing is mapped there";
    if (c->signal == SIGSEGV && c->code == SEGV_ACCERR)
        return "access is forbidden there";
    return "";
}

/* What the worker's own handler saw. */
static void put_detail(struct buf *b, const struct death *d, int signo)
{
    const struct box_crash *c = &d->crash;
    bool is_fault = signo == SIGSEGV || signo == SIGBUS;

    if (c->signal != signo)
        return; /* killed by another one after it */
    if (signo == 0)
        (void)!buf_printf(b, ", in exit() called by C code");
    else if (c->sender == d->seat->pid)
        (void)!buf_printf(b, ", sent by itself");
    else if (c->sender)
        (void)!buf_printf(b, ", sent by process %d", c->sender);
    else if (is_fault && c->code == SI_KERNEL)
        (void)!buf_printf(b, " at an address that cannot be: a wild pointer");
    else if (is_fault || c->address)
        (void)!buf_printf(b, " at address 0x%" PRIx64, c->address);
    const char *fault = describe_fault(c);
    if (*fault)
        (void)!buf_printf(b, ": %s", fault);
}

static void put_what(struct buf *b, const struct death *d)
{
    int signo = WIFSIGNALED(d->status) ? WTERMSIG(d->status) : 0;
    const char *name = signo ? sigabbrev_np(signo) : NULL;
    uint32_t phase = atomic_load_explicit(&d->crash.phase, memory_order_relaxed);

    if (d->seat->cause == CONTROL_CAUSE_TIMEOUT)
        (void)!buf_printf(b, "killed because its request ran longer than request_timeout and did "
                             "not end within request_timeout_grace");
    else if (d->seat->cause == CONTROL_CAUSE_GATEWAY)
        (void)!buf_printf(b, "killed for the gateway, which could not read its answer");
    else if (d->out_of_memory)
        (void)!buf_printf(b, "killed by the kernel because memory ran out (OOM killer)");
    else if (signo == SIGKILL)
        (void)!buf_printf(b, "killed by SIGKILL, not by sapid");
    else if (signo)
        (void)!buf_printf(b, "killed by signal %d (SIG%s)", signo, name ? name : "?");
    else
        (void)!buf_printf(b, "ended by itself with exit status %d", WEXITSTATUS(d->status));
    if (phase)
        put_detail(b, d, signo);
}

static void put_place(struct buf *b, const struct php_stack *s)
{
    char name[2 * PHP_STACK_NAME + 4];
    unsigned at = php_stack_user_frame(s, 0);

    if (s->n_frames == 0)
        return;
    php_frame_name(s, &s->frames[0], name, sizeof(name));
    (void)!buf_printf(b, " in ");
    record_put(b, str_from(name), false);
    (void)!buf_printf(b, "()");
    if (at < s->n_frames) {
        (void)!buf_printf(b, ", ");
        record_put(b, str_from(php_stack_text(s, s->frames[at].file)), false);
        (void)!buf_printf(b, ":%" PRIu32, s->frames[at].line);
    }
}

/* --- the parts of the record ------------------------------------------------------------------ */

static void put_pair(struct buf *b, const char *key, struct str value)
{
    if (value.n == 0)
        return;
    (void)!buf_printf(b, "%s: ", key);
    record_put(b, value, false);
    (void)!buf_append(b, "\n", 1);
}

static void put_request(struct buf *b, const struct death *d)
{
    const struct channel_request *r = &d->request;

    if (!d->has_request) {
        (void)!buf_printf(b, "request: none\n");
        return;
    }
    (void)!buf_printf(b, "request: ");
    record_put(b, r->method, false);
    (void)!buf_append(b, " ", 1);
    record_put(b, r->target, false);
    (void)!buf_append(b, "\n", 1);
    put_pair(b, "request id", r->request_id);
    put_pair(b, "host", r->host);
    put_pair(b, "client", r->remote_addr);
    put_pair(b, "script", r->script_filename);
    put_pair(b, "route", r->route.n ? r->route : STR("none (default rules)"));
    (void)!buf_printf(b, "crashes on this route in this generation: %" PRIu32 "\n",
                      d->route_crashes);
    if (d->now_ns > d->info.since_ns)
        (void)!buf_printf(b, "running for: %" PRIu64 " ms\n",
                          (d->now_ns - d->info.since_ns) / NS_PER_MS);
}

static void put_memory(struct buf *b, const struct death *d)
{
    (void)!buf_printf(b, "largest RSS: %ld KiB\n", d->usage->ru_maxrss);
    if (d->seat->watch.rss_bytes)
        (void)!buf_printf(
            b, "RSS at the last sample: %" PRIu64 " KiB, at the first: %" PRIu64 " KiB\n",
            d->seat->watch.rss_bytes / 1024, d->seat->watch.rss_first_bytes / 1024);
    (void)!buf_printf(b, "processor time: %ld.%03ld s user, %ld.%03ld s system\n",
                      d->usage->ru_utime.tv_sec, d->usage->ru_utime.tv_usec / 1000,
                      d->usage->ru_stime.tv_sec, d->usage->ru_stime.tv_usec / 1000);
}

static void put_php_stack(struct buf *b, const struct death *d)
{
    char name[2 * PHP_STACK_NAME + 4];

    if (!d->stack) {
        (void)!buf_printf(b, "\nPHP stack: unknown (it died before its first sample)\n");
        return;
    }
    if (d->stack_age_ns)
        (void)!buf_printf(b, "\nPHP stack, as it was %" PRIu64 " ms before the end:\n",
                          d->stack_age_ns / NS_PER_MS);
    else
        (void)!buf_printf(b, "\nPHP stack:\n");
    for (uint32_t i = 0; i < d->stack->n_frames; i++) {
        const struct php_frame *f = &d->stack->frames[i];
        php_frame_name(d->stack, f, name, sizeof(name));
        (void)!buf_printf(b, "  #%" PRIu32 " ", i);
        record_put(b, str_from(name), false);
        (void)!buf_printf(b, "()");
        if (f->file) {
            (void)!buf_append(b, " ", 1);
            record_put(b, str_from(php_stack_text(d->stack, f->file)), false);
            (void)!buf_printf(b, ":%" PRIu32, f->line);
        }
        (void)!buf_append(b, "\n", 1);
    }
    if (d->stack->is_cut)
        (void)!buf_printf(b, "  ... (cut)\n");
    if (d->stack->is_broken)
        (void)!buf_printf(b, "  ... (what follows is no frame: the memory may be damaged)\n");
}

/* In the code of opcache or APCu, or in PHP code that they have called. */
static bool was_in_shared_memory(const struct death *d)
{
    static const char *const owners[] = { "opcache.so", "apcu.so" };
    const struct engine_module *engine = d->pool->engine;
    uint32_t n = d->crash.n_addresses < BOX_ADDRESSES ? d->crash.n_addresses : BOX_ADDRESSES;
    Dl_info info;

    for (uint32_t i = 0; i < n; i++) {
        void *address = (void *)(uintptr_t)d->crash.addresses[i];
        if (!address || !dladdr(address, &info) || !info.dli_fname)
            continue;
        if (engine->is_opcache((uintptr_t)address))
            return true;
        const char *slash = strrchr(info.dli_fname, '/');
        for (size_t k = 0; k < ARRAY_LENGTH(owners); k++)
            if (strcmp(slash ? slash + 1 : info.dli_fname, owners[k]) == 0)
                return true;
    }
    return false;
}

/* Libraries stand where they stand in this process: the worker was forked from it. What it loaded
 * later has only its address. */
static void put_c_stack(struct buf *b, const struct death *d)
{
    uint32_t n = d->crash.n_addresses < BOX_ADDRESSES ? d->crash.n_addresses : BOX_ADDRESSES;
    Dl_info info;

    if (n == 0)
        return;
    (void)!buf_printf(b, "\nC stack%s:\n",
                      d->seat->cause == CONTROL_CAUSE_TIMEOUT ? " at the last interrupt" : "");
    for (uint32_t i = 0; i < n; i++) {
        uint64_t address = d->crash.addresses[i];
        (void)!buf_printf(b, "  #%" PRIu32 " 0x%012" PRIx64, i, address);
        if (address && dladdr((void *)(uintptr_t)address, &info) && info.dli_fname) {
            const char *slash = strrchr(info.dli_fname, '/');
            (void)!buf_printf(b, " %s", slash ? slash + 1 : info.dli_fname);
            if (info.dli_sname)
                (void)!buf_printf(b, "(%s+0x%" PRIx64 ")", info.dli_sname,
                                  address - (uint64_t)(uintptr_t)info.dli_saddr);
            else
                (void)!buf_printf(b, "(+0x%" PRIx64 ")",
                                  address - (uint64_t)(uintptr_t)info.dli_fbase);
        }
        (void)!buf_append(b, "\n", 1);
    }
}

static void put_last_requests(struct buf *b, const struct box *box)
{
    uint64_t begun = box ? atomic_load_explicit(&box->begun, memory_order_acquire) : 0;
    uint64_t n = begun < BOX_REQUESTS ? begun : BOX_REQUESTS;

    if (n == 0)
        return;
    (void)!buf_printf(b, "\nlast requests of this worker, newest first:\n");
    for (uint64_t i = 0; i < n; i++) {
        struct box_request r = box->requests[(begun - 1 - i) % BOX_REQUESTS]; /* hostile: copied */
        r.method[BOX_METHOD - 1] = r.id[BOX_ID - 1] = r.target[BOX_TARGET - 1] = '\0';
        (void)!buf_printf(b, "  ");
        record_put_time(b, r.began_ns);
        if (r.duration_ns)
            (void)!buf_printf(b, " %3u %8.1f ms ", r.status, (double)r.duration_ns / 1e6);
        else
            (void)!buf_printf(b, "   -   running  ");
        record_put(b, str_from(r.id), false);
        (void)!buf_append(b, " ", 1);
        record_put(b, str_from(r.method), false);
        (void)!buf_append(b, " ", 1);
        record_put(b, str_from(r.target), false);
        (void)!buf_append(b, "\n", 1);
    }
}

static void put_record(struct buf *b, const struct death *d)
{
    const struct pool *p = d->pool;
    uint32_t phase = atomic_load_explicit(&d->crash.phase, memory_order_relaxed);

    (void)!buf_printf(b, "time: ");
    record_put_time(b, clock_realtime_ns());
    (void)!buf_printf(b, "\nwhat: ");
    put_what(b, d);
    (void)!buf_printf(b,
                      "\nworker: %" PRIu32 " [%d] of pool %.*s, generation %" PRIu32
                      ", after %" PRIu64 " requests\n",
                      d->worker, (int)d->seat->pid, STR_ARG(p->conf->name), p->boot.generation,
                      d->info.requests);
    put_request(b, d);
    put_memory(b, d);
    if (phase && d->crash.instruction)
        (void)!buf_printf(b, "instruction: 0x%" PRIx64 ", stack pointer: 0x%" PRIx64 "\n",
                          d->crash.instruction, d->crash.stack_pointer);
    if (phase && d->crash.second_signal)
        (void)!buf_printf(
            b, "the crash handler crashed too (signal %" PRIu32 "): the stacks may be incomplete\n",
            d->crash.second_signal);
    put_php_stack(b, d);
    put_c_stack(b, d);
    put_last_requests(b, d->seat->box);
    if (d->out_of_memory || (WIFSIGNALED(d->status) && WTERMSIG(d->status) == SIGKILL))
        oom_put(b);
}

/* --- counts and the line ---------------------------------------------------------------------- */

static uint32_t count_route(struct pool *p, struct str route)
{
    char name[sizeof(p->crash_routes->route)];
    uint32_t i = 0;

    snprintf(name, sizeof(name), "%.*s", STR_ARG(route.n ? route : STR("none")));
    while (i < p->n_crash_routes && strcmp(p->crash_routes[i].route, name) != 0)
        i++;
    if (i == p->n_crash_routes) {
        if (i == ROUTES_MAX)
            return 0;
        p->crash_routes = mem_realloc(p->crash_routes, (i + 1) * sizeof(*p->crash_routes));
        memcpy(p->crash_routes[i].route, name, sizeof(name));
        p->crash_routes[i].crashes = 0;
        p->n_crash_routes++;
    }
    return ++p->crash_routes[i].crashes;
}

static void log_line(const struct death *d)
{
    struct buf b;

    buf_init(&b, 16 << 10);
    put_what(&b, d);
    if (d->stack)
        put_place(&b, d->stack);
    if (d->has_request) {
        (void)!buf_printf(&b, "; request %.*s ", STR_ARG(d->request.request_id));
        record_put(&b, d->request.method, false);
        (void)!buf_append(&b, " ", 1);
        record_put(&b, d->request.target, false);
        (void)!buf_printf(&b, ", script ");
        record_put(&b, d->request.script_filename, false);
    } else {
        (void)!buf_printf(&b, "; it had no request");
    }
    log_write(d->has_request ? LOG_ERR : LOG_WARN, "worker %u [%d] died: %.*s", d->worker,
              (int)d->seat->pid, STR_ARG(buf_view(&b)));
    buf_fini(&b);
}

/* The worker's own account if it could give one, else the last sample of this request. */
static void find_stack(struct death *d)
{
    const struct seat_watch *w = &d->seat->watch;
    uint32_t phase = atomic_load_explicit(&d->crash.phase, memory_order_relaxed);

    if (phase >= BOX_SIGNAL && d->crash.php.n_frames) {
        php_stack_check(&d->crash.php);
        d->stack = &d->crash.php;
    } else if (d->has_request && w->since_ns && w->sampled_ns &&
               w->ticket.seq == d->info.ticket.seq && w->ticket.slot == d->info.ticket.slot) {
        d->stack = w->sample;
        d->stack_age_ns = d->now_ns - w->sampled_ns + 1;
    }
}

void crash_record(struct pool *p, uint32_t worker, int status, const struct rusage *usage)
{
    struct death *d = mem_zalloc(sizeof(*d));
    uint64_t oom_kills = oom_count();
    struct buf text;

    d->pool = p;
    d->worker = worker;
    d->status = status;
    d->seat = &p->seats[worker];
    d->usage = usage;
    d->now_ns = clock_monotonic_ns();
    d->out_of_memory = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL &&
                       d->seat->cause == CONTROL_CAUSE_ITS_OWN && oom_kills > p->oom_kills;
    p->oom_kills = oom_kills;
    channel_worker_look(p->channel, worker, &d->info);
    if (d->info.incarnation != d->seat->incarnation)
        d->info = (struct channel_worker_info){ 0 };
    d->has_request = d->info.state == CHANNEL_WORKER_BUSY &&
                     channel_request_look(p->channel, d->info.ticket, d->texts, &d->request);
    if (d->seat->box)
        memcpy(&d->crash, &d->seat->box->crash, sizeof(d->crash));
    find_stack(d);
    p->count.crashes++;
    if (d->has_request)
        d->route_crashes = count_route(p, d->request.route);
    log_line(d);
    buf_init(&text, 256 << 10);
    put_record(&text, d);
    record_send(p, CONTROL_RECORD_CRASH, buf_view(&text));
    buf_fini(&text);
    if (was_in_shared_memory(d))
        pool_renew_memory(
            p, "a worker died within opcache or APCu; their shared memory may be damaged");
    mem_free(d);
}
