/*
 * The request body as PHP reads it. Small bodies stand in the slot; for larger ones the worker asks
 * the gateway for the descriptor (a spooled file, or a pipe that carries the body as it comes),
 * lazily, so that a script that never reads its body costs nothing.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "channel/control.h"

static struct {
    int sock;
    uint32_t index, incarnation;
} gateway OF_REQUEST = { -1, 0, 0 };

/* PHP reads uploads in pieces of 5 KiB; this makes them 64. */
static char ahead[65536];

void body_set_socket(int sock, uint32_t index, uint32_t incarnation)
{
    gateway.sock = sock;
    gateway.index = index;
    gateway.incarnation = incarnation;
}

int body_send_control(struct control_message *m, int fd)
{
    m->worker = gateway.index;
    m->incarnation = gateway.incarnation;
    return control_send(gateway.sock, m, fd >= 0 ? &fd : NULL, fd >= 0);
}

void body_init(struct body *b, const struct channel_request *r, int64_t length)
{
    b->kind = r->body_kind;
    b->rest = r->body_kind == CHANNEL_BODY_INLINE ? r->body : STR_NONE;
    b->fd = -1;
    b->ended = r->body_kind == CHANNEL_BODY_NONE;
    b->left = length;
}

void body_fini(struct body *b)
{
    fd_close(&b->fd);
    b->rest = STR_NONE;
    b->ended = true;
}

static void (*read_whole_post)(void);

/* For a POST that is no form PHP copies the body into a stream of its own before the script starts.
 * One that is still coming is left for the script, which reads it by php://input as that of a PUT.
 */
static void read_post(void)
{
    const sapi_request_info *info = &SG(request_info);
    bool too_long = SG(post_max_size) > 0 && info->content_length > SG(post_max_size);

    if (request.body.kind == CHANNEL_BODY_STREAM && !info->post_entry && !too_long)
        return;
    read_whole_post();
}

void body_install(void)
{
    read_whole_post = sapi_module.default_post_reader;
    CHECK(read_whole_post);
    sapi_module.default_post_reader = read_post;
}

/* Asks the gateway for the descriptor of the current ticket. An answer for an older ticket (this
 * worker never took it) is closed and passed over. */
static int fetch_descriptor(struct body *b)
{
    struct channel_ticket want = channel_worker_ticket(request.worker);
    struct control_message m;

    control_message_init(&m, CONTROL_BODY_WANTED);
    m.ticket = want;
    int rc = body_send_control(&m, -1);
    if (rc < 0)
        return rc;
    for (;;) {
        int fd = -1;
        size_t n_fds = 0;
        rc = control_receive(gateway.sock, &m, &fd, 1, &n_fds);
        if (rc == -EINTR)
            continue;
        if (rc <= 0)
            return rc < 0 ? rc : -EPIPE;
        bool ours = m.type == CONTROL_BODY && m.ticket.slot == want.slot &&
                    m.ticket.seq == want.seq;
        if (ours && n_fds == 1) {
            b->fd = fd;
            return 0;
        }
        fd_close(&fd);
        if (ours)
            return -EPROTO;
    }
}

void body_keep(struct body *b)
{
    if (b->kind == CHANNEL_BODY_FILE && b->fd < 0 && !b->ended && request.worker &&
        fetch_descriptor(b) < 0)
        log_debug("the gateway has no body any more"); /* its client has left */
}

static void refill(struct body *b)
{
    size_t want = sizeof(ahead);
    ssize_t n;

    if (b->fd < 0 && !request.worker) { /* a script's pcntl_fork() has no way to the gateway */
        b->ended = true;
        return;
    }
    if (b->fd < 0 && request.ended) {
        log_warn("request %.*s: its body is gone, because no part of it was read before "
                 "fastcgi_finish_request() ended the answer",
                 STR_ARG(request.view.request_id));
        b->ended = true;
        return;
    }
    if (b->fd < 0) {
        int rc = fetch_descriptor(b);
        if (rc < 0) {
            log_warn("request %.*s: body not received from the gateway: %s",
                     STR_ARG(request.view.request_id), strerror(-rc));
            b->ended = true;
            return;
        }
    }
    if (b->left >= 0 && (uint64_t)b->left < want)
        want = (size_t)b->left;
    do {
        n = want ? read(b->fd, ahead, want) : 0;
    } while (n < 0 && errno == EINTR && !deadline_has_passed() &&
             !(request.worker && channel_worker_aborted(request.worker)));
    if (b->kind == CHANNEL_BODY_STREAM && n == 0 && request.worker &&
        channel_worker_aborted(request.worker))
        PG(connection_status) |= PHP_CONNECTION_ABORTED; /* the next write ends the script */
    if (n <= 0) {
        b->ended = true;
        return;
    }
    b->rest = (struct str){ ahead, (size_t)n };
    if (b->left >= 0)
        b->left -= n;
}

size_t body_read(struct body *b, char *into, size_t n)
{
    size_t done = 0;

    while (done < n) {
        if (b->rest.n == 0) {
            if (b->kind == CHANNEL_BODY_INLINE || b->ended)
                break;
            refill(b);
            continue;
        }
        size_t part = b->rest.n < n - done ? b->rest.n : n - done;
        memcpy(into + done, b->rest.p, part);
        b->rest = str_skip(b->rest, part);
        done += part;
    }
    return done;
}
