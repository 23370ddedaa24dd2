/*
 * Worker mode with isolation by rollback. One process of the pool boots the worker script, lets it
 * answer the warm-up requests, and is frozen in the middle of frankenphp_handle_request(): its
 * memory becomes an image (src/snapshot). From then on it only forks workers. A worker returns from
 * that same call with a request; when the script asks for the next one, or ends, the memory goes
 * back to the image and the call returns again. So nothing that a request left in memory is there
 * for the next, whatever extension it lives in, and exit() or a fatal error need no new boot.
 *
 * Three kinds of memory: ordinary memory is the image's; what a worker must know across rollbacks
 * (its seat, the channel, counters) is in *live, kept memory, as are the handles of the channel;
 * the channel itself is mapped by the frozen process and exempt. State of this file in ordinary
 * memory (rolled) therefore always says what it said when the image was made, or since this
 * request.
 *
 * A worker that cannot go back says why and exits; its successor is forked in less than a
 * millisecond.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "channel/control.h"

enum {
    WARMUP_ROUNDS = 2, /* the second one runs what the first one only compiled or cached */
    FDS_MAX = 2 + CHANNEL_THREADS_MAX,
    REST_AFTER_MS = 2000, /* without a request a worker gives its memory back */
    FD_LEAST = 300,       /* the server's own descriptors stand where no script expects any */
};

static struct {
    const struct engine_worker *worker; /* NULL: no rollback in this process */
    const struct engine_image *image;
    int pool_pid;
    size_t warmed; /* warm-up requests begun, over all rounds */
    bool passed;   /* they were runs of a whole script (seed.c) */
    bool serves;   /* from the image on */
    bool used;     /* a request was taken since: the memory has to go back */
    uint64_t began_ns, warmup_ns;
} rolled OF_REQUEST;

/* Of the frozen process and its workers: kept memory. */
static struct {
    struct channel *channel;
    int eventfds[CHANNEL_THREADS_MAX];
    uint32_t n_eventfds;
    struct iovec boxes; /* of all workers; NULL: none */
} * link_;

bool rollback_is_on(void)
{
    return rolled.worker != NULL;
}

const struct channel *rollback_channel(void)
{
    return link_ ? link_->channel : NULL;
}

bool rollback_serves(void)
{
    return rolled.serves;
}

static void *keep(size_t bytes)
{
    return snapshot_keep_alloc(bytes);
}

/* --- the frozen process ----------------------------------------------------------------------- */

static void tell_pool(const struct control_message *m)
{
    int rc = control_send(rolled.image->pool, m, NULL, 0);

    if (rc < 0) /* it has gone, and this process with it in a moment */
        log_warn("cannot tell the pool process: %s", strerror(-rc));
}

static void leave_channel(void)
{
    if (!link_->channel)
        return;
    struct iovec map = channel_mapping(link_->channel);
    channel_unmap(link_->channel);
    snapshot_keep_range_end(map.iov_base, map.iov_len);
    link_->channel = NULL;
    if (link_->boxes.iov_base) {
        munmap(link_->boxes.iov_base, link_->boxes.iov_len);
        snapshot_keep_range_end(link_->boxes.iov_base, link_->boxes.iov_len);
        link_->boxes.iov_base = NULL;
    }
    for (uint32_t i = 0; i < link_->n_eventfds; i++) {
        snapshot_keep_fd_end(link_->eventfds[i]);
        fd_close(&link_->eventfds[i]);
    }
}

/* To a high number, exempt from rollback. */
static int keep_fd(int fd)
{
    int high = fcntl(fd, F_DUPFD_CLOEXEC, FD_LEAST);

    if (high >= 0) {
        close(fd);
        fd = high;
    }
    snapshot_keep_fd(fd);
    return fd;
}

static void map_boxes(int *fd)
{
    size_t bytes = BOX_SPAN * (size_t)channel_geometry(link_->channel)->workers;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);

    fd_close(fd);
    if (at == MAP_FAILED || snapshot_keep_range(at, bytes) < 0) {
        log_warn("no memory for black boxes: crash records will have no stacks");
        return;
    }
    link_->boxes = (struct iovec){ at, bytes };
}

static int adopt_channel(int *fds, size_t n_fds, bool has_boxes)
{
    leave_channel();
    int rc = n_fds < 2 ? -EPROTO : channel_map_kept(fds[0], keep, &link_->channel);

    if (rc == 0) {
        struct iovec map = channel_mapping(link_->channel);
        rc = snapshot_keep_range(map.iov_base, map.iov_len);
    }
    if (rc < 0)
        return rc;
    fd_close(&fds[0]);
    if (has_boxes)
        map_boxes(&fds[--n_fds]);
    link_->n_eventfds = (uint32_t)(n_fds - 1);
    for (uint32_t i = 0; i < link_->n_eventfds; i++)
        link_->eventfds[i] = keep_fd(fds[i + 1]);
    return 0;
}

void rollback_leave(int status)
{
    if (live->channel)
        channel_worker_detach(live->channel);
    _exit(status);
}

static void tell_reason(enum report_kind kind, const char *text)
{
    if (late_report())
        report_reason(late_report(), kind, str_from(text));
}

static void go_back(void)
{
    struct snapshot_refusal refusal = { 0 };

    if (rolled.used && !sockets_reset())
        return;
    int rc = snapshot_rollback(&refusal);
    log_warn("this worker cannot go back to its image and is forked anew: %s (%s)", refusal.text,
             strerror(-rc));
    tell_reason(REPORT_RESPAWN, refusal.text);
}

uint64_t rollback_patience_ns(void)
{
    return rolled.serves && !live->rests ? REST_AFTER_MS * NS_PER_MS : UINT64_MAX;
}

/* Nothing has run since the last rollback, so the databases' sessions are as they were. */
void rollback_rest(void)
{
    struct snapshot_refusal refusal = { 0 };

    live->rests = true;
    int rc = snapshot_rest(&refusal);
    log_warn("this idle worker cannot go back to its image and is forked anew: %s (%s)",
             refusal.text, strerror(-rc));
    rollback_leave(ENGINE_EXIT_RENEW);
}

/* In a process forked from the frozen one: takes its seat and begins where the image was made. */
NORETURN static void become_worker(const struct control_message *m, int *ends)
{
    int pool = rolled.image->pool, rc;
    char *boxes = link_->boxes.iov_base;

    control_die_with_parent(rolled.pool_pid, SIGKILL);
    prctl(PR_SET_NAME, "sapid-worker");
    snapshot_keep_fd_end(pool);
    fd_close(&pool);
    if (ends[1] >= 0)
        rolled.image->offer_memory(ends[1]);
    live->sock = keep_fd(ends[0]);
    live->pid = getpid();
    live->box = boxes ? (struct box *)(boxes + (size_t)m->worker * BOX_SPAN) : NULL;
    live->index = m->worker;
    live->incarnation = m->incarnation;
    live->max_requests = m->requests;
    snprintf(live->role, sizeof(live->role), "%.*s w%u",
             (int)(strlen(rolled.worker->role) - strlen(" image")), rolled.worker->role, m->worker);
    log_init(live->role, 2, rolled.worker->log_least);
    sockets_connect();
    do {
        rc = channel_worker_attach(link_->channel, live->index, live->incarnation, link_->eventfds,
                                   &live->channel);
    } while (rc == -EINTR);
    if (rc < 0) {
        if (rc != -ESHUTDOWN)
            log_error("cannot attach to the channel: %s", strerror(-rc));
        _exit(rc == -ESHUTDOWN ? ENGINE_EXIT_OK : ENGINE_EXIT_CHANNEL);
    }
    /* Until it is back: /proc/self of a process that is not dumpable belongs to root. */
    prctl(PR_SET_DUMPABLE, 1);
    go_back();
    rollback_leave(ENGINE_EXIT_UNHEALTHY);
}

static void fork_worker(const struct control_message *m, int *ends)
{
    struct control_message answer;
    pid_t pid = -EPROTO;

    if (link_->channel && ends[0] >= 0) {
        pid = snapshot_fork(true);
        if (pid == 0)
            become_worker(m, ends);
    }
    fd_close(&ends[0]);
    fd_close(&ends[1]);
    control_message_init(&answer, CONTROL_WORKER_START);
    answer.worker = m->worker;
    answer.incarnation = m->incarnation;
    answer.pid = pid > 0 ? pid : 0;
    answer.status = pid > 0 ? 0 : pid;
    tell_pool(&answer);
}

static void report_made(const struct snapshot_stats *s)
{
    struct report_image *i = &late_report()->image;

    atomic_fetch_add(&i->made, 1);
    atomic_store(&i->warmed, (uint32_t)rolled.warmed);
    atomic_store(&i->made_ns, clock_realtime_ns());
    atomic_store(&i->boot_ns, clock_monotonic_ns() - rolled.began_ns);
    atomic_store(&i->bytes, s->image_bytes);
    atomic_store(&i->regions, s->regions);
    atomic_store(&i->scratch_bytes, s->scratch_bytes);
}

static void describe_image(struct control_message *m)
{
    struct snapshot_stats stats;
    char text[256];

    snapshot_stats(&stats);
    if (late_report())
        report_made(&stats);
    snprintf(text, sizeof(text),
             "%s: frozen %" PRIu64 " ms after its start (%" PRIu64 " ms for %zu warm-up requests); "
             "%" PRIu64 " KiB in %" PRIu64 " regions",
             rolled.worker->role, (clock_monotonic_ns() - rolled.began_ns) / NS_PER_MS,
             rolled.warmup_ns / NS_PER_MS, rolled.warmed, stats.image_bytes >> 10, stats.regions);
    control_message_set_text(m, str_from(text));
}

/* Not part of freeze(), whose frame every rollback puts back. */
NORETURN __attribute__((noinline)) static void serve_forks(void)
{
    struct control_message m;
    int fds[FDS_MAX];
    size_t n_fds;

    prctl(PR_SET_DUMPABLE, 0);
    rolled.image->on_frozen();
    control_message_init(&m, CONTROL_READY);
    describe_image(&m);
    tell_pool(&m);
    for (;;) {
        n_fds = 0;
        int rc = control_receive(rolled.image->pool, &m, fds, FDS_MAX, &n_fds);
        if (rc == -EINTR)
            continue;
        if (rc <= 0)
            _exit(ENGINE_EXIT_OK);
        if (m.type == CONTROL_WORKER_START && (n_fds == 1 || n_fds == 2)) {
            fork_worker(&m, (int[2]){ fds[0], n_fds == 2 ? fds[1] : -1 });
            continue;
        }
        rc = m.type == CONTROL_CHANNEL ? adopt_channel(fds, n_fds, m.status) : -EPROTO;
        if (rc == 0)
            continue;
        log_error("message %u of the pool process cannot be used: %s", m.type, strerror(-rc));
        for (size_t i = 0; i < n_fds; i++)
            fd_close(&fds[i]);
    }
}

/* --- making the image ------------------------------------------------------------------------- */

NORETURN __attribute__((noinline)) static void fail(const char *reason)
{
    struct str said = loop_boot_output();
    size_t n = MIN(said.n, rolled.image->said_bytes - 1);
    struct control_message m;

    tell_reason(REPORT_REFUSAL, reason);
    memcpy(rolled.image->said, said.p, n);
    rolled.image->said[n] = '\0';
    control_message_init(&m, CONTROL_FAILED);
    control_message_set_text(&m, str_from(reason));
    tell_pool(&m);
    _exit(ENGINE_EXIT_BOOT);
}

/* Everything on the way to the image that can still be refused or undone has been done. */
static void freeze(void)
{
    struct snapshot_plan plan = { .scratch = memory_scratch,
                                  .accept = refusal_accept,
                                  .raw_calls = refusal_has_raw_calls() };
    struct snapshot_refusal refusal = { 0 };
    char text[1024];

    learned_load();
    if (!refusal_check(text, sizeof(text)) || !locks_freeze(text, sizeof(text)) ||
        !sockets_freeze(rolled.image, text, sizeof(text)))
        fail(text);
    timeout_worker_stop();
    opened_end();
    late_record();
    isolation_record(rolled.worker);
    if (snapshot_detect_by_pid("libcrypto.so") < 0)
        fail("too many copies of libcrypto are loaded");
    memory_tidy();
    fresh_record();
    ending_record();
    opcache_find_lock();
    rolled.serves = true;
    int rc = snapshot_take(&plan, &refusal);
    if (rc == SNAPSHOT_FROZEN)
        serve_forks();
    if (rc == SNAPSHOT_RESUMED)
        return;
    rolled.serves = false;
    if (!*refusal.text) /* what every such process needs is missing */
        snprintf(refusal.text, sizeof(refusal.text),
                 "%s; /proc has to be mounted, in a chroot too (proc /srv/jail/proc proc)",
                 strerror(-rc));
    refusal_explain(&refusal, text, sizeof(text));
    fail(text);
}

static void note_cost(void)
{
    struct snapshot_stats s;

    snapshot_stats(&s);
    if (live->rests) { /* no request has caused that one */
        live->first_ns += s.last_ns;
        return;
    }
    /* The first one only took the place of the fork. */
    struct channel_rollbacks r = { .n = s.rollbacks - s.rests - 1,
                                   .ns = s.total_ns - live->first_ns,
                                   .pages_last = (uint32_t)(s.last_hot + s.last_cold),
                                   .pages_of_image = (uint32_t)(s.image_bytes >> 12) };
    if (s.rollbacks == 1) {
        live->first_ns = s.total_ns;
        return;
    }
    channel_worker_note_rollbacks(live->channel, &r);
    const struct report_cost cost = { live->route, live->compared, s.last_ns,
                                      s.last_hot + s.last_cold, s.hot_pages };
    if (late_report())
        report_rollback(late_report(), &cost);
}

/* Behind every rollback. */
static void resume(void)
{
    log_init(live->role, 2, rolled.worker->log_least);
    body_set_socket(live->sock, live->index, live->incarnation);
    blackbox_resume(live->box, live->pid);
    if (!live->resumed) {
        prctl(PR_SET_DUMPABLE, 0);
        timeout_worker_start();
        opcache_hold();
    }
    live->resumed = true;
    note_cost();
    fresh_make();
    rolled.used = true; /* as soon as something runs */
}

/* --- warm-up ---------------------------------------------------------------------------------- */

static void report_warmup(void)
{
    const char *url = rolled.image->warmup[(rolled.warmed - 1) % rolled.image->n_warmup];

    if (rolled.warmed > rolled.image->n_warmup && request.status < 500)
        return;
    if (request.status >= 400)
        log_warn("warm-up GET %s: status %u; the image is made all the same", url, request.status);
    else
        log_info("warm-up GET %s: status %u", url, request.status);
}

/* Of the next warm-up request. */
static struct str next_url(void)
{
    struct str url = str_from(rolled.image->warmup[rolled.warmed++ % rolled.image->n_warmup]);
    char absolute[4096];

    if (url.n && url.p[0] == '/' &&
        snprintf(absolute, sizeof(absolute), "http://localhost%.*s", STR_ARG(url)) <
            (int)sizeof(absolute))
        url = str_from(mem_strdup(absolute));
    return url;
}

bool rollback_wants_warmup(void)
{
    return rolled.image->n_warmup && !rolled.passed;
}

/* Warm-up of a script without a loop: whole runs of it. */
static void pass(void)
{
    size_t n = WARMUP_ROUNDS * rolled.image->n_warmup;

    rolled.passed = true;
    rolled.warmup_ns = clock_monotonic_ns();
    rolled.warmed = 0;
    while (rolled.warmed < n) {
        if (!seed_pass(rolled.worker, next_url()))
            fail("the engine is in doubt after a warm-up request");
        report_warmup();
    }
    rolled.warmup_ns = clock_monotonic_ns() - rolled.warmup_ns;
}

static bool warm_up(void)
{
    const struct engine_image *image = rolled.image;

    if (rolled.warmed == 0)
        rolled.warmup_ns = clock_monotonic_ns();
    else
        report_warmup();
    if (rolled.warmed >= WARMUP_ROUNDS * image->n_warmup) {
        rolled.warmup_ns = clock_monotonic_ns() - rolled.warmup_ns;
        return false;
    }
    if (rolled.warmed == (WARMUP_ROUNDS - 1) * image->n_warmup)
        memory_gather();
    loop_pretend_request(next_url(), "warm-up");
    return true;
}

void rollback_freeze(void)
{
    freeze();
    resume();
}

void rollback_refuse(const char *reason)
{
    fail(reason);
}

const struct engine_image *rollback_image(void)
{
    return rolled.image;
}

/* A request has run to its end, whatever that was. */
static void report_request(void)
{
    live->route = late_note();
    learned_judge_error();
    live->compared = isolation_sample(live->route);
}

bool rollback_boundary(void)
{
    if (worker_is_copy())
        _exit(EG(exit_status));
    if (rolled.used) {
        report_request();
        ending_run(NULL);
        go_back();
        rollback_leave(ENGINE_EXIT_RENEW);
    }
    if (warm_up())
        return true;
    rollback_freeze();
    return false;
}

/* --- the end of a request --------------------------------------------------------------------- */

void rollback_after_handler(void)
{
    ending_after_handler();
}

void rollback_after_script(void)
{
    report_request();
    ending_run(loop_end_unwound);
    opcache_end_write();
    go_back();
    rollback_leave(ENGINE_EXIT_RENEW);
}

/* --- the process that is to be frozen --------------------------------------------------------- */

static void prepare(const struct engine_worker *w, const struct engine_image *image)
{
    live = keep(sizeof(*live));
    link_ = keep(sizeof(*link_));
    CHECKF(live && link_, "no kept memory");
    rolled.worker = w;
    rolled.image = image;
    rolled.pool_pid = getppid();
    rolled.began_ns = clock_monotonic_ns();
    snapshot_keep_fd(image->pool);
    snapshot_keep_fd(STDOUT_FILENO);
    snapshot_keep_fd(STDERR_FILENO);
    refusal_record();
    late_begin(w, image);
    learned_begin(image);
}

/* Loops collect garbage between two requests, for what would pile up. Here nothing does, and the
 * search costs more than the rollback. */
static zif_handler collect_cycles;

static ZEND_NAMED_FUNCTION(collect_cycles_of_script)
{
    if (rolled.serves && !request.active)
        RETURN_LONG(0);
    collect_cycles(INTERNAL_FUNCTION_PARAM_PASSTHRU);
}

static void spare_collections(void)
{
    zend_function *f = zend_hash_str_find_ptr(CG(function_table), "gc_collect_cycles", 17);

    if (f && f->type == ZEND_INTERNAL_FUNCTION) {
        collect_cycles = f->internal_function.handler;
        f->internal_function.handler = collect_cycles_of_script;
    }
}

/* What the cache of paths holds is as old as the image; with a time limit every request would look
 * again, and forget it again. Not by ini_set(): the end of a request would undo that. */
static void keep_realpaths(void)
{
    zend_ini_entry *e = zend_hash_str_find_ptr(EG(ini_directives), "realpath_cache_ttl", 18);
    zend_string *forever = zend_string_init("2147483647", 10, true);

    if (e && e->on_modify)
        e->on_modify(e, forever, e->mh_arg1, e->mh_arg2, e->mh_arg3, ZEND_INI_STAGE_STARTUP);
}

static struct str boot_url(void)
{
    return str_from(rolled.image->url ? rolled.image->url : rolled.worker->loop->script_name);
}

static bool boot(void *context)
{
    const struct engine_worker *w = context;

    return loop_boot(w, boot_url(), "audit");
}

int rollback_run(const struct engine_worker *w, const struct engine_image *image)
{
    char text[2048];

    CHECK(snapshot_is_prepared());
    prepare(w, image);
    worker_begin(w);
    keep_realpaths();
    spare_collections();
    if (image->entry && guards_make(image, boot, (void *)(uintptr_t)w, text, sizeof(text)) < 0)
        fail(text);
    opened_follow();
    if (image->entry && image->n_warmup)
        pass();
    if (image->at)
        freeze_point_watch(image->at);
    for (;;) {
        size_t before = rolled.warmed;
        if (!loop_boot(w, boot_url(), "boot"))
            fail("the engine is in doubt after the end of the worker script");
        if (learned_broke()) {
            rolled.warmed = 0;
            continue;
        }
        if (seed_is_on() && rollback_wants_warmup()) {
            pass();
            continue;
        }
        if (rolled.warmed == before)
            break;
        log_warn("warm-up GET %s ended the worker script; it is booted again without that request",
                 image->warmup[(rolled.warmed - 1) % image->n_warmup]);
    }
    loop_describe_failure(text, sizeof(text));
    fail(text);
}
