/*
 * Pools with isolation by rollback: the pool process does not fork its workers itself. It forks one
 * process that boots the worker script, warms it and is frozen into an image (engine/rollback.c);
 * that one forks the workers, as children of the pool process, which reaps and replaces them as it
 * does in every pool.
 *
 * The frozen process is kept as long as the generation. It is told of each new channel; it does
 * nothing else but fork when asked, which takes less than a millisecond, so the pool process waits
 * for the answer. When it dies, running workers go on, and it is booted again before the next
 * worker is needed; when the boot fails, it is tried again with growing pauses, and if there is no
 * worker at all, one forked from here answers 500 meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/param.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "php/pool_int.h"
#include "snapshot/snapshot.h"

enum {
    RETRY_FIRST_MS = 100,
    RETRY_MAX_MS = 5000,
    FORK_PATIENCE_MS = 5000,
    SAID_BYTES = 64 << 10,
};

struct image {
    pid_t pid; /* 0: none */
    int sock;
    bool ready;        /* it forks when asked */
    bool frozen;       /* it was ready; its boot did not fail */
    unsigned failures; /* in a row */
    uint64_t not_before_ns;
    int channel[2 + CHANNEL_THREADS_MAX]; /* the channel, its eventfds, the black boxes: for the
                                             next process to be frozen, too */
    size_t n_channel;
    bool has_boxes; /* the last of them */
    char *said;     /* shared with it: what a boot that failed printed */
    const char **warmup;
};

static struct image *the_image; /* of this process: for on_frozen */
static const char *the_name;

int images_prepare(struct pool *p)
{
    struct snapshot_options options = { .verify = p->conf->worker_snapshot_verify,
                                        .no_scan_ioctl = p->conf->worker_snapshot_pagemap };
    struct image *m;
    int rc = snapshot_prepare(&options);

    if (rc < 0)
        return rc;
    m = mem_zalloc(sizeof(*m));
    m->sock = -1;
    m->said = mmap(NULL, SAID_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (m->said == MAP_FAILED) {
        rc = -errno;
        mem_free(m);
        return rc;
    }
    m->warmup = mem_zalloc((p->conf->worker_warmup.n + 1) * sizeof(*m->warmup));
    for (uint32_t i = 0; i < p->conf->worker_warmup.n; i++)
        m->warmup[i] = mem_strndup(p->conf->worker_warmup.v[i]);
    p->image = the_image = m;
    the_name = mem_strndup(p->conf->name);
    return 0;
}

/* --- the process ------------------------------------------------------------------------------ */

/* The title of the workers is part of the image; this process's own is not. */
static void on_frozen(void)
{
    proctitle_set("sapid: image %s", the_name);
    prctl(PR_SET_NAME, "sapid-image");
}

NORETURN static void run_image(struct pool *p, int sock, int parent)
{
    struct image *m = p->image;
    char role[64];

    pool_leave(p, parent);
    for (uint32_t i = 0; i < p->n_eventfds; i++)
        fd_close(&p->eventfds[i]);
    for (size_t i = 0; i < m->n_channel; i++)
        fd_close(&m->channel[i]);
    if (p->channel)
        channel_unmap(p->channel);
    p->channel = NULL;
    for (uint32_t i = 0; i < p->n_seats; i++)
        worker_memory_fini(&p->seats[i].memory);
    /* Its own /proc/self, which the snapshot room reads, belongs to root otherwise. */
    prctl(PR_SET_DUMPABLE, 1);
    if (p->n_seats && p->seats[0].box)
        munmap(p->seats[0].box, p->n_seats * BOX_SPAN);
    proctitle_set("sapid: worker %.*s", STR_ARG(p->conf->name));
    prctl(PR_SET_NAME, "sapid-worker");
    snprintf(role, sizeof(role), "%.*s g%u image", STR_ARG(p->conf->name), p->boot.generation);
    struct engine_worker w = pool_worker(p, role);
    struct engine_image image = {
        .pool = sock,
        .warmup = m->warmup,
        .n_warmup = p->conf->worker_warmup.n,
        .sockets = p->conf->worker_sockets == CONFIG_SOCKETS_SEVER   ? ENGINE_SOCKETS_SEVER
                   : p->conf->worker_sockets == CONFIG_SOCKETS_RESET ? ENGINE_SOCKETS_RESET
                                                                     : ENGINE_SOCKETS_REFUSE,
        .said = m->said,
        .said_bytes = SAID_BYTES,
        .report = p->report.shared,
        .learn = pool_report_learns(p),
        .declares = p->conf->kind == CONFIG_POOL_LOOP,
        .on_frozen = on_frozen,
        .offer_memory = worker_memory_offer,
    };
    if (pool_script_is(p))
        pool_script_describe(p, &image);
    _exit(surroundings_enter(p->conf) == 0 ? p->engine->image_run(&w, &image)
                                           : ENGINE_EXIT_UNHEALTHY);
}

static void tell_channel(struct image *m)
{
    struct control_message message;

    if (m->sock < 0 || !m->n_channel)
        return;
    control_message_init(&message, CONTROL_CHANNEL);
    message.status = m->has_boxes;
    int rc = control_send(m->sock, &message, m->channel, m->n_channel);
    if (rc < 0 && rc != -EPIPE && rc != -ECONNRESET)
        log_warn("cannot tell the frozen process of the channel: %s", strerror(-rc));
}

static void start_image(struct pool *p)
{
    struct image *m = p->image;
    int ends[2], parent = getpid();
    int rc = fd_seqpacket_pair(ends);

    m->not_before_ns = clock_monotonic_ns() + RETRY_FIRST_MS * NS_PER_MS; /* if this fails */
    if (rc < 0) {
        log_error("no socket pair for the process to be frozen: %s", strerror(-rc));
        return;
    }
    m->said[0] = '\0';
    p->report.forgiven = false;
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        run_image(p, ends[1], parent);
    }
    close(ends[1]);
    if (pid < 0) {
        log_error("the process to be frozen: fork: %s", strerror(errno));
        close(ends[0]);
        return;
    }
    m->pid = pid;
    m->sock = ends[0];
    m->ready = false;
    tell_channel(m);
}

bool images_ready(struct pool *p)
{
    struct image *m = p->image;

    if (!m->pid && clock_monotonic_ns() >= m->not_before_ns)
        start_image(p);
    pool_script_look(p);
    return m->ready;
}

bool images_booted(const struct pool *p)
{
    return p->image->ready;
}

uint64_t images_wake_ns(const struct pool *p)
{
    return p->image->pid ? pool_script_wake_ns(p) : p->image->not_before_ns;
}

int images_socket(const struct pool *p)
{
    return p->image ? p->image->sock : -1;
}

void images_end(struct pool *p)
{
    struct image *m = p->image;

    m->ready = false;
    m->not_before_ns = UINT64_MAX;
    if (m->pid)
        kill(m->pid, SIGKILL); /* it owns nothing */
}

/* --- messages --------------------------------------------------------------------------------- */

void images_set_channel(struct pool *p, const int *fds, size_t n_fds)
{
    struct image *m = p->image;

    for (size_t i = 0; i < m->n_channel; i++)
        fd_close(&m->channel[i]);
    m->n_channel = 0;
    m->has_boxes = false;
    for (size_t i = 0; i < n_fds && i < ARRAY_LENGTH(m->channel); i++) {
        if (i == 1) /* the gateway's socket is the pool's own */
            continue;
        int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
        CHECKF(fd >= 0, "no descriptor for the channel: %s", strerror(errno));
        m->channel[m->n_channel++] = fd;
    }
}

int images_share_boxes(struct pool *p, size_t bytes)
{
    struct image *m = p->image;
    int fd = memfd_create("sapid-boxes", MFD_CLOEXEC);

    if (fd >= 0 && ftruncate(fd, (off_t)bytes) < 0)
        fd_close(&fd);
    if (fd >= 0) {
        m->channel[m->n_channel++] = fd;
        m->has_boxes = true;
    }
    tell_channel(m);
    return fd;
}

void images_event(struct pool *p)
{
    struct image *m = p->image;
    struct control_message message;
    size_t n_fds = 0;
    int fd = -1, rc = control_receive(m->sock, &message, &fd, 1, &n_fds);

    /* Reset: it ended without reading what we sent. What it said before comes with the next read.
     */
    if (rc == -EINTR || rc == -EAGAIN || rc == -ECONNRESET)
        return;
    fd_close(&fd);
    if (rc <= 0) { /* its end is near: images_reaped tells more */
        fd_close(&m->sock);
        m->ready = false;
        return;
    }
    if (message.type == CONTROL_READY) {
        m->ready = m->frozen = true;
        m->failures = 0;
        log_notice("%.*s", STR_ARG(control_message_text(&message)));
        if (p->script)
            pool_script_frozen(p);
        for (uint32_t i = 0; i < p->n_seats; i++)
            if (p->seats[i].pid && p->seats[i].only_fails)
                kill(p->seats[i].pid, SIGQUIT);
    } else if (message.type == CONTROL_FAILED) {
        if (!pool_report_forgives(p) && pool_script_is(p))
            pool_script_failed(p, control_message_text(&message));
        log_error("%.*s", STR_ARG(control_message_text(&message)));
    } else {
        log_warn("message %u is not one of a frozen process", message.type);
    }
}

pid_t images_fork_worker(struct pool *p, uint32_t index, int sock, int memory_end)
{
    const int ends[2] = { sock, memory_end };
    struct image *m = p->image;
    struct pollfd wait = { m->sock, POLLIN, 0 };
    struct control_message message;
    size_t n_fds = 0;
    int fd = -1;

    CHECK(m->ready);
    control_message_init(&message, CONTROL_WORKER_START);
    message.worker = index;
    message.incarnation = p->seats[index].incarnation;
    message.requests = (uint32_t)pool_draw_max_requests(p->conf);
    int rc = control_send(m->sock, &message, ends, memory_end >= 0 ? 2 : 1);
    if (rc == 0 && poll(&wait, 1, FORK_PATIENCE_MS) <= 0)
        rc = -ETIMEDOUT;
    if (rc == 0)
        rc = control_receive(m->sock, &message, &fd, 1, &n_fds);
    fd_close(&fd);
    if (rc == 1 && message.type == CONTROL_WORKER_START)
        return message.pid > 0 ? message.pid : message.status;
    /* Whatever it is up to, it is of no use any more. */
    m->ready = false;
    if (m->pid)
        kill(m->pid, SIGKILL);
    return rc < 0 ? rc : -EPIPE;
}

bool images_reaped(struct pool *p, pid_t pid, int status)
{
    struct image *m = p->image;

    if (!m || pid != m->pid)
        return false;
    while (m->sock >= 0) /* its last words, then the end */
        images_event(p);
    bool was_frozen = m->frozen;
    m->pid = 0;
    m->ready = m->frozen = false;
    if (p->draining)
        return true;
    bool forgiven = !was_frozen && pool_report_forgives(p);
    if (!was_frozen && !forgiven && pool_script_is(p))
        pool_script_failed(p, STR("the process that ran it died"));
    if (was_frozen && pool_script_is(p)) { /* see engine/freeze_point.c */
        m->not_before_ns = UINT64_MAX;
        pool_renew_memory(p, "the image's frozen process has died");
        return true;
    }
    m->failures = was_frozen ? 0 : m->failures + !forgiven;
    uint64_t pause_ms =
        was_frozen || forgiven
            ? 0
            : MIN((uint64_t)RETRY_FIRST_MS << MIN(m->failures - 1, 10u), (uint64_t)RETRY_MAX_MS);
    m->not_before_ns = clock_monotonic_ns() + pause_ms * NS_PER_MS;
    if (WIFSIGNALED(status))
        log_error("the frozen process [%d] was ended by signal %d (%s); it is booted again",
                  (int)pid, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (was_frozen)
        log_error("the frozen process [%d] ended (exit status %d); it is booted again", (int)pid,
                  WEXITSTATUS(status));
    else
        log_error("the worker script could not be frozen; next try in %" PRIu64 " ms", pause_ms);
    return true;
}

const char *images_boot_failure(const struct pool *p)
{
    const struct image *m = p->image;

    return m && !m->ready && m->failures && !pool_script_is(p) ? m->said : NULL;
}
