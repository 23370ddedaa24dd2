/*
 * The gateway process: boot, threads, and the control messages that tell it of listeners and pool
 * generations. All of this runs in thread 0; other threads learn of it by mailbox commands.
 *
 * A generation (struct pool_link) is added, activated when the supervisor says so, drained when
 * another one was activated, and removed. A worker's death is told by the pool process; every
 * thread recovers its share of that worker, and only then may the next incarnation begin.
 */
#include "gateway/gateway.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "channel/report.h"
#include "gateway/admin.h"
#include "gateway/images.h"
#include "gateway/rules.h"

static struct gateway gateway;

/* --- to the supervisor ------------------------------------------------------------------------ */

static void tell_supervisor(const struct control_message *m)
{
    int r = control_send(CONTROL_SUPERVISOR_FD, m, NULL, 0);
    /* Either means that it has let go of us, which the end of the socket says next. */
    if (r < 0 && r != -EPIPE && r != -ECONNRESET)
        log_error("cannot tell the supervisor: %s", strerror(-r));
}

static void tell_supervisor_of(enum control_type type, const struct pool_link *link)
{
    struct control_message m;

    control_message_init(&m, type);
    if (link) {
        m.pool = link->pool;
        m.generation = link->generation;
    }
    tell_supervisor(&m);
}

static int fail(const char *fmt, const char *detail)
{
    struct control_message m;
    char text[1024];

    snprintf(text, sizeof(text), fmt, detail);
    control_message_init(&m, CONTROL_FAILED);
    control_message_set_text(&m, str_from(text));
    tell_supervisor(&m);
    return 1;
}

/* --- workers ---------------------------------------------------------------------------------- */

static void find_body(struct gateway_thread *t, struct command *c)
{
    struct backend *b = backend_find(t, c->pool);

    if (b)
        backend_send_body(b, c->ticket, c->worker);
    mem_free(c);
}

static void take_file(struct gateway_thread *t, struct command *c)
{
    struct backend *b = backend_find(t, c->pool);

    if (b)
        backend_take_file(b, c->ticket, c->worker, c->fd);
    else
        fd_close(&c->fd);
    mem_free(c);
}

struct worker_watch {
    struct loop_watch watch;
    struct pool_link *link;
    uint32_t worker;
};

/* A worker asks for the body of the request it has, or hands over the file that is its answer. */
static void on_worker_message(struct loop_watch *w, unsigned events)
{
    struct worker_watch *ww = CONTAINER_OF(w, struct worker_watch, watch);
    struct pool_link *link = ww->link;
    struct gateway *g = link->gateway;
    const struct channel_geometry *geometry = channel_geometry(link->channel);
    struct control_message m;
    size_t n_fds = 0;
    int fd = -1;

    (void)events;
    int r = control_receive(w->fd, &m, &fd, 1, &n_fds);
    if (r == -EAGAIN)
        return;
    if (r > 0 && m.type == CONTROL_IMAGE_WANTED) {
        fd_close(&fd);
        images_wanted(link, &m);
        return;
    }
    bool known = r > 0 && (m.type == CONTROL_BODY_WANTED || (m.type == CONTROL_FILE && fd >= 0));
    if (!known || m.ticket.slot >= geometry->slots) {
        fd_close(&fd);
        /* Its end, or nonsense: no more is heard from it. The pool process reports the death. */
        loop_watch_remove(g->threads[0].loop, w);
        return;
    }
    struct command *c = mem_zalloc(sizeof(*c));
    c->run = m.type == CONTROL_FILE ? take_file : find_body;
    c->fd = fd;
    c->pool = link;
    c->worker = ww->worker;
    c->ticket = m.ticket;
    thread_post(&g->threads[m.ticket.slot / (geometry->slots / geometry->threads)], c);
}

static void forget_worker_socket(struct pool_link *link, uint32_t worker)
{
    loop_watch_remove(link->gateway->threads[0].loop, &link->watches[worker].watch);
    fd_close(&link->worker_sockets[worker]);
}

static void grant_worker(struct pool_link *link, uint32_t worker)
{
    channel_worker_grant(link->channel, worker, link->incarnations[worker]);
    if (!link->ready) {
        link->ready = true;
        tell_supervisor_of(CONTROL_POOL_READY, link);
    }
}

static void recover_worker(struct gateway_thread *t, struct command *c)
{
    struct backend *b = backend_find(t, c->pool);

    if (b)
        backend_worker_dead(b, c->worker, c->incarnation);
    else
        thread_tell(&t->gateway->threads[0], gateway_on_recovered, c->pool, c->worker,
                    c->incarnation);
    mem_free(c);
}

static void worker_died(struct pool_link *link, const struct control_message *m)
{
    struct gateway *g = link->gateway;

    if (m->incarnation != link->incarnations[m->worker] || link->recovering[m->worker])
        return;
    fallback_on_death(link, m->worker, m->status);
    if (WIFSIGNALED(m->status) && m->cause == CONTROL_CAUSE_ITS_OWN)
        atomic_fetch_add_explicit(&g->figures[images_pool(link)].crashes, 1, memory_order_relaxed);
    link->causes[m->worker] = m->cause; /* before the threads are told: partner is their mailbox */
    link->recovering[m->worker] = g->n_threads;
    for (uint32_t i = 0; i < g->n_threads; i++)
        thread_tell(&g->threads[i], recover_worker, link, m->worker, m->incarnation);
}

void gateway_on_recovered(struct gateway_thread *t, struct command *c)
{
    struct pool_link *link = c->pool;
    uint32_t worker = c->worker;

    (void)t;
    mem_free(c);
    CHECK(link->recovering[worker] > 0);
    if (--link->recovering[worker])
        return;
    if (!link->announced[worker]) {
        forget_worker_socket(link, worker);
        return;
    }
    /* Its successor was announced meanwhile. */
    link->announced[worker] = false;
    grant_worker(link, worker);
}

static void worker_started(struct pool_link *link, const struct control_message *m, int *fd)
{
    struct worker_watch *ww = &link->watches[m->worker];

    forget_worker_socket(link, m->worker);
    link->worker_sockets[m->worker] = *fd;
    *fd = -1;
    link->incarnations[m->worker] = m->incarnation;
    ww->link = link;
    ww->worker = m->worker;
    int r = loop_watch_add(link->gateway->threads[0].loop, &ww->watch,
                           link->worker_sockets[m->worker], LOOP_READ, on_worker_message);
    if (r < 0) {
        log_error("cannot watch worker %u: errno %d", m->worker, -r);
        return;
    }
    if (link->recovering[m->worker])
        link->announced[m->worker] = true;
    else
        grant_worker(link, m->worker);
}

/* --- pool generations ------------------------------------------------------------------------- */

static void free_link(struct pool_link *link)
{
    const struct channel_geometry *g = link->channel ? channel_geometry(link->channel) : NULL;

    loop_watch_remove(link->gateway->threads[0].loop, &link->socket);
    fd_close(&link->socket_fd);
    for (uint32_t i = 0; g && link->watches && i < g->workers; i++)
        forget_worker_socket(link, i);
    for (uint32_t i = 0; g && link->eventfds && i < g->threads; i++)
        fd_close(&link->eventfds[i]);
    fd_close(&link->root_fd);
    report_unmap(link->report);
    if (link->channel)
        channel_unmap(link->channel);
    if (link->config && link->config != link->gateway->config)
        config_free(link->config);
    control_boot_fini(&link->boot);
    rules_free(link->rules);
    mem_free(link->document_root);
    mem_free(link->eventfds);
    mem_free(link->worker_sockets);
    mem_free(link->causes);
    mem_free(link->marks);
    fallback_fini(link);
    mem_free(link->incarnations);
    mem_free(link->recovering);
    mem_free(link->announced);
    mem_free(link->loop_script);
    images_close_link(link);
    mem_free(link->places);
    mem_free(link->watches);
    list_remove(&link->link);
    mem_free(link);
}

static struct pool_link *find_link(struct gateway *g, uint32_t pool, uint32_t generation)
{
    LIST_FOR_EACH(it, &g->links) {
        struct pool_link *link = LIST_ENTRY(it, struct pool_link, link);
        if (link->pool == pool && link->generation == generation && !link->closing)
            return link;
    }
    return NULL;
}

static void abandon(struct gateway_thread *t, struct command *c)
{
    struct backend *b = backend_find(t, c->pool);

    if (b) {
        b->draining = true;
        backend_abandon(b);
    }
    mem_free(c);
}

/* The pool process is gone, and its workers with it. */
static void pool_died(struct pool_link *link)
{
    struct gateway *g = link->gateway;

    if (link->dead)
        return;
    link->dead = true;
    loop_watch_remove(g->threads[0].loop, &link->socket);
    channel_close(link->channel);
    for (uint32_t i = 0; i < g->n_threads; i++)
        thread_tell(&g->threads[i], abandon, link, 0, 0);
}

static void on_pool_message(struct loop_watch *w, unsigned events)
{
    struct pool_link *link = CONTAINER_OF(w, struct pool_link, socket);
    struct control_message m;
    int fds[1] = { -1 };
    size_t n_fds = 0;

    (void)events;
    for (;;) {
        int r = control_receive(w->fd, &m, fds, 1, &n_fds);
        if (r == -EAGAIN)
            return;
        if (r <= 0) {
            pool_died(link);
            return;
        }
        if (m.worker >= channel_geometry(link->channel)->workers) {
            log_error("pool process spoke of worker %u of %u", m.worker,
                      channel_geometry(link->channel)->workers);
        } else if (m.type == CONTROL_WORKER_START && n_fds == 1) {
            worker_started(link, &m, &fds[0]);
        } else if (m.type == CONTROL_WORKER_DEAD) {
            worker_died(link, &m);
        } else {
            log_warn("message %u is not for the gateway", m.type);
        }
        if (n_fds && fds[0] >= 0)
            fd_close(&fds[0]);
        n_fds = 0;
    }
}

static void add_backend(struct gateway_thread *t, struct command *c)
{
    int r = backend_add(t, c->pool);

    if (r < 0)
        log_error("thread %u cannot use generation %u: errno %d", t->index, c->pool->generation,
                  -r);
    mem_free(c);
}

/* What a generation's configuration says of routing may differ from what the gateway was started
 * with. */
static int read_link_config(struct pool_link *link, int boot_fd)
{
    struct config_errors errors = { 0 };

    if (boot_fd < 0) {
        link->config = link->gateway->config;
        return 0;
    }
    int r = control_boot_unpack(boot_fd, &link->boot);
    if (r < 0)
        return r;
    const struct control_boot *b = &link->boot;
    r = config_load(str_from(b->config_name), (struct str){ b->config_text, b->config_text_bytes },
                    (const char *const *)b->overrides, str_from(b->base_dir), &link->config,
                    &errors);
    if (r == 0 && link->pool >= link->config->n_seats)
        r = -EPROTO;
    return r;
}

/* As the pool process resolves it; a script that only PHP's user can reach stays as written. */
static void find_loop_script(struct pool_link *link, struct str script)
{
    char *written = mem_strndup(script), *resolved = realpath(written, NULL);

    link->loop_script = resolved ? mem_strdup(resolved) : mem_strdup(written);
    link->loop_name =
        config_script_name(str_from(link->loop_script), str_from(link->document_root));
    free(resolved);
    mem_free(written);
}

/* The way to the pool's processes. */
static int open_channel(struct pool_link *link, const int *fds)
{
    struct gateway *g = link->gateway;
    uint32_t threads = g->n_threads;
    int r = channel_map(fds[0], &link->channel);
    if (r < 0)
        return r;
    const struct channel_geometry *geometry = channel_geometry(link->channel);
    if (geometry->threads != threads)
        return -EPROTO;
    const struct config_pool *pool = &link->config->pools[link->pool];
    link->workers = geometry->workers - config_pool_recycles(pool);
    link->grows = pool->worker_min != CONFIG_AUTO;
    link->worker_sockets = mem_alloc(geometry->workers * sizeof(int));
    link->causes = mem_zalloc(geometry->workers * sizeof(link->causes[0]));
    link->marks = mem_zalloc(geometry->slots * sizeof(link->marks[0]));
    link->incarnations = mem_zalloc(geometry->workers * sizeof(uint32_t));
    link->recovering = mem_zalloc(geometry->workers * sizeof(uint32_t));
    link->announced = mem_zalloc(geometry->workers * sizeof(bool));
    link->watches = mem_zalloc(geometry->workers * sizeof(link->watches[0]));
    for (uint32_t i = 0; i < geometry->workers; i++)
        link->worker_sockets[i] = link->watches[i].watch.fd = -1;
    link->eventfds = mem_alloc(threads * sizeof(int));
    for (uint32_t i = 0; i < threads; i++)
        link->eventfds[i] = dup(fds[2 + i]);
    link->socket_fd = dup(fds[1]);
    if (link->socket_fd < 0 || fcntl(link->socket_fd, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    return loop_watch_add(g->threads[0].loop, &link->socket, link->socket_fd, LOOP_READ,
                          on_pool_message);
}

static int open_link(struct pool_link *link, const struct control_message *m, const int *fds,
                     size_t n_fds)
{
    uint32_t channel_fds = 2 + link->gateway->n_threads;
    bool has_channel = n_fds > 1; /* else only its boot memfd: no processes, but FastCGI servers */

    if ((has_channel && n_fds < channel_fds) || n_fds == 0 || m->pool >= POOLS_MAX)
        return -EPROTO;
    int r = read_link_config(link, n_fds != channel_fds ? fds[n_fds - 1] : -1);
    if (r < 0)
        return r;
    if (!has_channel && !link->config->pools[link->pool].upstream)
        return -EPROTO;
    fallback_init(link);
    images_open_link(link);
    char message[512] = "out of memory";
    if ((r = rules_new(link->config, &link->rules, message, sizeof(message))) < 0) {
        log_error("%s", message);
        return r;
    }
    stats_add_routes(link);
    for (uint32_t i = 0; i < link->config->n_pools; i++)
        link->has_pages |= link->config->pools[i].status_path.n ||
                           link->config->pools[i].ping_path.n;
    struct str root = control_message_text(m);
    link->document_root =
        mem_strndup(root.n ? root : link->config->pools[link->pool].document_root);
    if (link->config->pools[link->pool].kind == CONFIG_POOL_LOOP)
        find_loop_script(link, link->config->pools[link->pool].worker_script);
    link->root_fd = open(link->document_root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (link->root_fd < 0)
        return -errno;
    return has_channel ? open_channel(link, fds) : 0;
}

static void add_pool(struct gateway *g, const struct control_message *m, const int *fds,
                     size_t n_fds)
{
    struct pool_link *link = mem_zalloc(sizeof(*link));

    link->gateway = g;
    link->pool = m->pool;
    link->generation = m->generation;
    link->root_fd = link->socket.fd = link->socket_fd = -1;
    list_init(&link->link);
    int r = open_link(link, m, fds, n_fds);
    if (r < 0) {
        log_error("cannot take generation %u of pool %u (document root %s): %s", m->generation,
                  m->pool, link->document_root ? link->document_root : "?", strerror(-r));
        free_link(link);
        return;
    }
    list_push_back(&g->links, &link->link);
    for (uint32_t i = 0; i < g->n_threads; i++)
        thread_tell(&g->threads[i], add_backend, link, 0, 0);
    if (!link->channel)
        tell_supervisor_of(CONTROL_POOL_READY, link); /* no worker to wait for */
}

static void take_over(struct gateway_thread *t, struct backend *b, uint32_t times)
{
    struct backend *old = t->active[b->pool->pool];

    b->awaits_pool = 0;
    if (b == old)
        return;
    t->active[b->pool->pool] = b;
    images_count(t, b->pool);
    if (old && t->index == 0)
        fallback_say_end(b->pool, old->pool);
    b->draining = b->drain_reported = false; /* it may be the old one, which comes back */
    if (old) {
        old->draining = true;
        old->drains = times;
        backend_report_drained(old);
    }
    backend_take_waiting(b);
}

/* An image takes over together with the generation that it belongs to, so that no request comes
 * between the two. */
static void activate(struct gateway_thread *t, struct command *c)
{
    struct backend *b = backend_find(t, c->pool);
    uint32_t times = c->incarnation;

    mem_free(c);
    if (b && images_is_early(t, b->pool))
        b->awaits_pool = times;
    else if (b)
        take_over(t, b, times);
    LIST_FOR_EACH_SAFE(it, &t->backends) {
        struct backend *image = LIST_ENTRY(it, struct backend, link);
        if (image->awaits_pool && !images_is_early(t, image->pool))
            take_over(t, image, image->awaits_pool);
    }
}

static uint32_t drains; /* how often a generation was told to */

/* Those of the pool that drain from now on are counted afresh. */
static void activate_link(struct gateway *g, struct pool_link *link)
{
    drains++;
    link->idle_threads = 0;
    link->drains = 0;
    LIST_FOR_EACH(it, &g->links) {
        struct pool_link *old = LIST_ENTRY(it, struct pool_link, link);
        if (old != link && old->pool == link->pool && old->active) {
            old->active = false;
            old->idle_threads = 0;
            old->drains = drains;
        }
    }
    link->active = true;
    images_forgive(g, link);
    for (uint32_t i = 0; i < g->n_threads; i++)
        thread_tell(&g->threads[i], activate, link, 0, drains);
}

static void leave(struct gateway_thread *t, struct command *c)
{
    struct backend *b = backend_find(t, c->pool);
    uint32_t times = c->incarnation;

    mem_free(c);
    if (!b)
        return;
    if (t->active[b->pool->pool] == b)
        t->active[b->pool->pool] = NULL;
    images_count(t, b->pool);
    b->awaits_pool = 0;
    b->draining = true;
    b->drain_reported = false;
    b->drains = times;
    backend_report_drained(b);
}

/* No generation takes its place. */
static void leave_link(struct gateway *g, struct pool_link *link)
{
    link->active = false;
    link->idle_threads = 0;
    link->drains = ++drains;
    for (uint32_t i = 0; i < g->n_threads; i++)
        thread_tell(&g->threads[i], leave, link, 0, drains);
}

static void remove_backend(struct gateway_thread *t, struct command *c)
{
    struct backend *b = backend_find(t, c->pool);

    if (b) {
        b->draining = b->drain_reported = true;
        backend_abandon(b);
        backend_free(b);
    }
    thread_tell(&t->gateway->threads[0], gateway_on_removed, c->pool, 0, 0);
    mem_free(c);
}

void gateway_on_removed(struct gateway_thread *t, struct command *c)
{
    struct pool_link *link = c->pool;

    (void)t;
    mem_free(c);
    if (++link->removed_threads == link->gateway->n_threads)
        free_link(link);
}

void gateway_on_link_idle(struct gateway_thread *t, struct command *c)
{
    struct pool_link *link = c->pool;
    bool current = c->incarnation == link->drains;

    (void)t;
    mem_free(c);
    if (current && ++link->idle_threads == link->gateway->n_threads && !link->closing)
        tell_supervisor_of(CONTROL_POOL_DRAINED, link);
}

/* --- control messages ------------------------------------------------------------------------- */

static void open_access_log(struct gateway *g)
{
    const struct config_log *log = &g->config->log;
    char path[4096];
    int fd;

    if (log->access.n == 0 || str_eq(log->access, STR("off"))) {
        g->access_fd = -1;
        return;
    }
    if (str_eq(log->access, STR("stdout")) || str_eq(log->access, STR("stderr"))) {
        g->access_fd = str_eq(log->access, STR("stdout")) ? STDOUT_FILENO : STDERR_FILENO;
        return;
    }
    snprintf(path, sizeof(path), "%.*s", STR_ARG(log->access));
    fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0) {
        log_error("cannot open the access log %s: %s; requests are not logged", path,
                  strerror(errno));
        return;
    }
    if (g->access_fd > STDERR_FILENO) {
        /* The same number for all threads, replaced in one step. */
        dup3(fd, g->access_fd, O_CLOEXEC);
        close(fd);
    } else {
        g->access_fd = fd;
    }
}

static void start_listening(struct gateway_thread *t, struct command *c)
{
    thread_listen(t);
    mem_free(c);
}

/* Nobody watches the listeners any more. An open one would let clients connect and wait: an address
 * that a reload took away has to refuse them. */
static void close_listeners(struct gateway_thread *t, struct command *c)
{
    struct gateway *g = t->gateway;

    mem_free(c);
    if (++g->deaf_threads < g->n_threads)
        return;
    for (uint32_t i = 0; i < g->n_listeners; i++)
        fd_close(&g->listeners[i].fd);
}

static void start_draining(struct gateway_thread *t, struct command *c)
{
    thread_drain(t);
    thread_tell(&t->gateway->threads[0], close_listeners, NULL, 0, 0);
    mem_free(c);
}

void gateway_on_thread_drained(struct gateway_thread *t, struct command *c)
{
    struct gateway *g = t->gateway;

    mem_free(c);
    if (++g->drained_threads == g->n_threads)
        tell_supervisor_of(CONTROL_DRAINED, NULL);
}

/* From the last thread to the first, which is alive when it answers. */
static void pong(struct gateway_thread *t, struct command *c)
{
    mem_free(c);
    if (t->index > 0)
        thread_tell(&t->gateway->threads[t->index - 1], pong, NULL, 0, 0);
    else
        tell_supervisor_of(CONTROL_PING, NULL);
}

static void tell_threads(struct gateway *g, void (*run)(struct gateway_thread *, struct command *),
                         struct pool_link *link)
{
    for (uint32_t i = 0; i < g->n_threads; i++)
        thread_tell(&g->threads[i], run, link, 0, 0);
}

static void add_listener(struct gateway *g, const struct control_message *m, int fd)
{
    struct listener *l = &g->listeners[g->n_listeners];

    CHECK(g->n_listeners < LISTENERS_MAX);
    CHECK((uint32_t)m->status < g->config->server.n_listen);
    const struct config_listen *cl = &g->config->server.listen[m->status];
    *l = (struct listener){ .fd = fcntl(fd, F_DUPFD_CLOEXEC, 0),
                            .index = (uint32_t)m->status,
                            .is_unix = cl->kind == CONFIG_LISTEN_UNIX };
    CHECK(l->fd >= 0 && fcntl(l->fd, F_SETFL, O_NONBLOCK) == 0);
    if (l->is_unix && m->generation == 0)
        snprintf(l->unlink_path, sizeof(l->unlink_path), "%.*s", STR_ARG(cl->path));
    g->n_listeners++;
}

static void on_message(struct gateway *g, const struct control_message *m, const int *fds,
                       size_t n_fds)
{
    struct pool_link *link;

    switch (m->type) {
    case CONTROL_LISTENER:
        if (n_fds == 1 && m->status == CONTROL_ADMIN_LISTENER)
            admin_listen(g, fds[0]);
        else if (n_fds == 1)
            add_listener(g, m, fds[0]);
        break;
    case CONTROL_LISTEN:
        g->listening = true;
        tell_threads(g, start_listening, NULL);
        break;
    case CONTROL_POOL_ADD: add_pool(g, m, fds, n_fds); break;
    case CONTROL_POOL_ACTIVATE:
        link = find_link(g, m->pool, m->generation);
        if (link)
            activate_link(g, link);
        break;
    case CONTROL_POOL_LEAVE:
        link = find_link(g, m->pool, m->generation);
        if (link)
            leave_link(g, link);
        break;
    case CONTROL_IMAGE_REFUSED: images_refused(g, m); break;
    case CONTROL_REPORT:
        link = find_link(g, m->pool, m->generation);
        if (link && n_fds == 1)
            report_take(link, fds[0]);
        break;
    case CONTROL_FELL_BACK:
        link = find_link(g, m->pool, m->generation);
        if (link)
            fallback_remember(link, m->worker);
        break;
    case CONTROL_POOL_REMOVE:
        link = find_link(g, m->pool, m->generation);
        if (link) {
            link->closing = true;
            loop_watch_remove(g->threads[0].loop, &link->socket);
            tell_threads(g, remove_backend, link);
        }
        break;
    case CONTROL_DRAIN:
        g->draining = true;
        g->drain_idle_ms = m->status > 0 ? (uint32_t)m->status : 0;
        /* the socket files are another one's, or removed by the supervisor */
        for (uint32_t i = 0; i < g->n_listeners; i++)
            g->listeners[i].unlink_path[0] = '\0';
        admin_stop_listening(g);
        tell_threads(g, start_draining, NULL);
        break;
    case CONTROL_PING: thread_tell(&g->threads[g->n_threads - 1], pong, NULL, 0, 0); break;
    case CONTROL_RESULT: admin_result(g, m, n_fds == 1 ? fds[0] : -1); break;
    case CONTROL_PROBE: probe_begin(g, m); break;
    case CONTROL_REOPEN_LOGS:
        if (n_fds == 1)
            dup2(fds[0], STDERR_FILENO);
        open_access_log(g);
        break;
    default: log_warn("message %u is not for the gateway", m->type);
    }
}

/* The supervisor is gone: a killed server leaves nothing behind, its socket files included. Before
 * LISTEN they are those of a gateway that still serves, perhaps of another program. */
static void end_with_supervisor(struct gateway *g)
{
    for (uint32_t i = 0; i < g->n_listeners && g->listening; i++)
        if (g->listeners[i].unlink_path[0])
            unlink(g->listeners[i].unlink_path);
    _exit(1);
}

static void on_control(struct loop_watch *w, unsigned events)
{
    struct gateway *g = CONTAINER_OF(w, struct gateway, control);
    struct control_message m;
    int fds[CHANNEL_THREADS_MAX + 3];
    size_t n_fds = 0;

    (void)events;
    for (;;) {
        int r = control_receive(w->fd, &m, fds, ARRAY_LENGTH(fds), &n_fds);
        if (r == -EAGAIN)
            return;
        if (r <= 0)
            end_with_supervisor(g);
        on_message(g, &m, fds, n_fds);
        for (size_t i = 0; i < n_fds; i++)
            close(fds[i]);
        n_fds = 0;
    }
}

/* --- start ------------------------------------------------------------------------------------ */

static void on_signal(void *ctx, int signo)
{
    /* SIGTERM and SIGINT go to the whole process group of a terminal; the supervisor decides. */
    (void)ctx;
    (void)signo;
}

static void *run_thread(void *arg)
{
    struct gateway_thread *t = arg;

    loop_run(t->loop);
    return NULL;
}

static int load_config(struct gateway *g)
{
    struct config_errors errors = { 0 };
    struct str bad;

    int r = control_boot_unpack(CONTROL_BOOT_FD, &g->boot);
    if (r < 0)
        return fail("cannot read the boot text: %s", strerror(-r));
    close(CONTROL_BOOT_FD);
    control_die_with_parent(g->boot.parent_pid, SIGTERM);
    r = config_load(str_from(g->boot.config_name),
                    (struct str){ g->boot.config_text, g->boot.config_text_bytes },
                    (const char *const *)g->boot.overrides, str_from(g->boot.base_dir), &g->config,
                    &errors);
    if (r < 0)
        return fail("%s", errors.n ? config_error_line(g->config, &errors.v[0]) : strerror(-r));
    if (trust_new(&g->config->server.trusted_proxies, &g->trust, &bad) < 0)
        return fail("server.trusted_proxies: expected an address, a block such as 10.0.0.0/8, or "
                    "\"unix\", found \"%s\"",
                    mem_strndup(bad));
    return 0;
}

static uint32_t count_threads(const struct config *c)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (c->server.gateway_threads > 0)
        return (uint32_t)c->server.gateway_threads;
    return cores > 4 ? (uint32_t)(cores / 4) : 1;
}

int gateway_main(void)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, 0 };
    struct gateway *g = &gateway;
    enum log_level level = LOG_NOTICE;
    struct control_message ready;

    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_NAME, "sapid: gateway");
    prctl(PR_SET_DUMPABLE, 0);
    list_init(&g->links);
    list_init(&g->commands);
    list_init(&g->checks);
    g->slow_lanes = mem_zalloc(POOLS_MAX * sizeof(g->slow_lanes[0]));
    for (uint32_t i = 0; i < POOLS_MAX; i++)
        g->slow_lanes[i].index = PLACES_MAX + i;
    g->figures = mem_zalloc(POOLS_MAX * sizeof(g->figures[0]));
    g->images = mem_zalloc(POOLS_MAX * sizeof(g->images[0]));
    g->access_fd = -1;
    if (load_config(g) != 0)
        return 1;
    (void)log_level_parse(g->config->log.level, &level);
    log_init("gateway", STDERR_FILENO, level);
    if (getrandom(&g->id_prefix, sizeof(g->id_prefix), 0) != sizeof(g->id_prefix))
        g->id_prefix = clock_realtime_ns();
    open_access_log(g);
    spool_start(g);
    stats_init(g);

    g->n_threads = count_threads(g->config);
    g->threads = mem_zalloc(g->n_threads * sizeof(g->threads[0]));
    for (uint32_t i = 0; i < g->n_threads; i++) {
        int r = thread_init(&g->threads[i], g, i);
        if (r < 0)
            return fail("cannot start a thread: %s", strerror(-r));
    }
    struct gateway_thread *main_thread = &g->threads[0];
    int r = loop_signals(main_thread->loop, signals, on_signal, g);
    if (r == 0 && fcntl(CONTROL_SUPERVISOR_FD, F_SETFL, O_NONBLOCK) < 0)
        r = -errno;
    if (r == 0)
        r = loop_watch_add(main_thread->loop, &g->control, CONTROL_SUPERVISOR_FD, LOOP_READ,
                           on_control);
    if (r < 0)
        return fail("cannot watch the control socket: %s", strerror(-r));
    for (uint32_t i = 1; i < g->n_threads; i++)
        if (pthread_create(&g->threads[i].tid, NULL, run_thread, &g->threads[i]) != 0)
            return fail("cannot start a thread: %s", strerror(errno));
    control_message_init(&ready, CONTROL_READY);
    tell_supervisor(&ready);
    loop_run(main_thread->loop);
    return 0;
}
