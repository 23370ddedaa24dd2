/* See play.h. */
#include "play.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"
#include "fixture.h"

enum { PEER_STEPS = 20000 };

static struct gateway gateway = { .n_threads = 1 };
struct gateway_thread play_thread = { .gateway = &gateway };
struct config_fastcgi_server play_servers[PLAY_SERVERS] = {
    { .weight = 1 },
    { .weight = 1 },
    { .weight = 1 },
};
struct config_fastcgi play_config = {
    .servers = play_servers,
    .max_fails = 1,
    .queue_size = 100,
    .connect_timeout_ms = 5000,
    .response_timeout_ms = 5000,
    .idle_timeout_ms = 5000,
    .backoff_ms = 60000,
    .max_backoff_ms = 60000,
};
struct config_pool play_pool;
struct upstream *play_upstream;
unsigned long play_fail_nth;
static struct sockaddr_un addresses[PLAY_SERVERS];
static int listeners[PLAY_SERVERS] = { -1, -1, -1 };

/* --- the gateway ------------------------------------------------------------------------------ */

static struct client *client_of(struct exchange *x)
{
    return CONTAINER_OF(x, struct client, x);
}

void conn_advance(struct conn *c)
{
    (void)c;
}

void conn_deadline(struct conn *c, uint64_t timeout_ms)
{
    (void)c;
    (void)timeout_ms;
}

void exchange_request_id(const struct exchange *x, char out[REQUEST_ID_BYTES + 1])
{
    (void)x;
    memset(out, '0', REQUEST_ID_BYTES);
    out[REQUEST_ID_BYTES] = '\0';
}

bool respond_has_room(struct exchange *x)
{
    return !client_of(x)->no_room;
}

static void take_body(struct client *c, const struct channel_piece *p)
{
    for (int i = 0; i < p->n_iov; i++) {
        const char *from = p->iov[i].iov_base;
        for (size_t k = 0; k < p->iov[i].iov_len; k++, c->body_bytes++)
            if (c->body_bytes < sizeof(c->body))
                c->body[c->body_bytes] = from[k];
    }
}

void respond_pieces_now(struct exchange *x, const struct channel_piece *pieces, int n)
{
    struct client *c = client_of(x);

    EXPECT(!client_done(c));
    for (int i = 0; i < n; i++) {
        EXPECT(!c->ended);
        if (pieces[i].type == CHANNEL_HEAD) {
            EXPECT_INT(c->head_status, 0);
            c->head_status = pieces[i].status;
        } else if (pieces[i].type == CHANNEL_BODY) {
            EXPECT(c->head_status != 0);
            take_body(c, &pieces[i]);
        } else {
            EXPECT_INT(pieces[i].type, CHANNEL_END);
            c->ended = true;
        }
    }
}

void respond_lost(struct exchange *x, int status)
{
    EXPECT(!client_done(client_of(x)) && !x->upstream);
    client_of(x)->lost_status = status;
}

void respond_status(struct exchange *x, int status, struct str extra)
{
    (void)extra;
    EXPECT(!client_done(client_of(x)) && !x->upstream);
    client_of(x)->own_status = status;
}

/* --- clients ---------------------------------------------------------------------------------- */

void client_push(struct client *c, enum http_method method, struct str body)
{
    const struct channel_request r = { .method = STR("GET"),
                                       .script_filename = STR("/srv/index.php"),
                                       .content_length = body.p ? (int64_t)body.n : -1 };

    memset(c, 0, sizeof(*c));
    c->x.magic = EXCHANGE_MAGIC;
    c->x.conn = &c->conn;
    c->x.method = method;
    list_init(&c->x.link);
    buf_init(&c->x.body, 0);
    if (body.p) {
        c->x.body_sink = BODY_MEMORY;
        c->x.body_bytes = body.n;
        EXPECT_INT(buf_append(&c->x.body, body.p, body.n), 0);
    }
    mem_fail_nth(play_fail_nth);
    upstream_push(play_upstream, &c->x, &play_pool, &r, NULL);
}

bool client_done(const struct client *c)
{
    return c->ended || c->lost_status || c->own_status;
}

void client_wait(struct client *c)
{
    for (int i = 0; i < PEER_STEPS && !client_done(c); i++)
        play_turn();
    EXPECT(client_done(c));
    buf_fini(&c->x.body);
}

void client_leave(struct client *c)
{
    upstream_forget(&c->x);
    buf_fini(&c->x.body);
}

void client_takes(struct client *c)
{
    c->no_room = false;
    EXPECT(c->x.stalled);
    c->x.stalled = false;
    upstream_resume(&c->x);
}

/* --- servers ---------------------------------------------------------------------------------- */

void play_listen_again(uint32_t server)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    unlink(addresses[server].sun_path);
    CHECK(fd >= 0 && listeners[server] < 0);
    CHECK(bind(fd, (struct sockaddr *)&addresses[server], sizeof(addresses[server])) == 0);
    CHECK(listen(fd, 64) == 0);
    listeners[server] = fd;
}

void play_stop_listening(uint32_t server)
{
    close(listeners[server]);
    listeners[server] = -1;
}

void play_start(uint32_t n)
{
    CHECK(n >= 1 && n <= PLAY_SERVERS);
    fixture_make();
    log_init("test", open("/dev/null", O_WRONLY | O_CLOEXEC), LOG_ERR);
    if (!play_thread.loop)
        EXPECT_INT(loop_new(&play_thread.loop), 0);
    list_init(&play_thread.upstreams);
    play_config.n_servers = n;
    for (uint32_t i = 0; i < n; i++) {
        struct config_listen *to = &play_servers[i].address;
        addresses[i].sun_family = AF_UNIX;
        snprintf(addresses[i].sun_path, sizeof(addresses[i].sun_path), "%s/%u", fixture_root, i);
        if (!to->text.n)
            *to = (struct config_listen){ .kind = CONFIG_LISTEN_UNIX,
                                          .text = str_from(addresses[i].sun_path),
                                          .path = str_from(addresses[i].sun_path) };
        play_listen_again(i);
    }
    play_upstream = upstream_get(&play_thread, &play_config);
}

void play_end(void)
{
    upstream_put(play_upstream);
    play_turn();
    EXPECT(list_empty(&play_thread.upstreams));
    loop_free(play_thread.loop);
}

void play_turn(void)
{
    loop_turn(play_thread.loop, NS_PER_MS / 10);
    if (play_thread.upstreams_due)
        upstream_poll(&play_thread);
}

int peer_accept(uint32_t server)
{
    play_turn();
    int fd = accept4(listeners[server], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    CHECK(fd >= 0 || errno == EAGAIN);
    return fd;
}

static void peer_read(int fd, char *to, size_t n)
{
    for (int i = 0; n && i < PEER_STEPS; i++) {
        ssize_t got = recv(fd, to, n, 0);
        EXPECT(got > 0 || (got < 0 && errno == EAGAIN));
        if (got > 0) {
            to += got;
            n -= (size_t)got;
        } else {
            play_turn();
        }
    }
    EXPECT_INT(n, 0);
}

size_t peer_read_request(int fd)
{
    static char content[65536 + 256];
    enum { BEGIN = 1, PARAMS = 4, STDIN = 5 } expected = BEGIN;
    size_t body = 0;

    for (;;) {
        unsigned char h[FASTCGI_HEADER_BYTES];
        peer_read(fd, (char *)h, sizeof(h));
        size_t n = (size_t)h[4] << 8 | h[5];
        EXPECT_INT(h[0], 1);
        EXPECT_INT(h[1], expected);
        EXPECT_INT(h[2] << 8 | h[3], 1);
        peer_read(fd, content, n + h[6]);
        if (expected == BEGIN)
            expected = PARAMS;
        else if (expected == PARAMS && n == 0)
            expected = STDIN;
        else if (expected == STDIN && n == 0)
            return body;
        else if (expected == STDIN)
            body += n;
    }
}

void peer_send(int fd, struct str bytes)
{
    for (int i = 0; bytes.n && i < PEER_STEPS; i++) {
        ssize_t n = send(fd, bytes.p, bytes.n, MSG_NOSIGNAL);
        EXPECT(n > 0 || errno == EAGAIN);
        if (n > 0)
            bytes = str_skip(bytes, (size_t)n);
        else
            play_turn();
    }
    EXPECT_INT(bytes.n, 0);
}

bool peer_sees_end(int fd)
{
    char byte;

    for (int i = 0; i < 20; i++) {
        ssize_t n = recv(fd, &byte, 1, MSG_PEEK);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            return true;
        play_turn();
    }
    return false;
}

/* --- answers ---------------------------------------------------------------------------------- */

void put_record(struct buf *b, unsigned type, struct str content, unsigned padding)
{
    const unsigned char header[FASTCGI_HEADER_BYTES] = { 1,
                                                         (unsigned char)type,
                                                         0,
                                                         1,
                                                         (unsigned char)(content.n >> 8),
                                                         (unsigned char)content.n,
                                                         (unsigned char)padding };
    static const char zeros[256];

    EXPECT_INT(buf_append(b, header, sizeof(header)), 0);
    EXPECT_INT(buf_append(b, content.p, content.n), 0);
    EXPECT_INT(buf_append(b, zeros, padding), 0);
}

struct str whole_answer(struct buf *b, const char *body)
{
    buf_init(b, 0);
    put_record(b, 6, STR("Status: 201 Created\r\nX-A: b\r\n\r\n"), 3);
    put_record(b, 6, str_from(body), 5);
    put_record(b, 3, (struct str){ "\0\0\0\0\0\0\0\0", 8 }, 0);
    return buf_view(b);
}

/* --- figures ---------------------------------------------------------------------------------- */

struct looked {
    struct upstream_look group;
    struct upstream_server_look servers[PLAY_SERVERS];
    unsigned groups;
};

static void see(void *ctx, const struct upstream_look *look)
{
    struct looked *l = ctx;

    l->groups++;
    l->group = *look;
    memcpy(l->servers, look->servers, look->n_servers * sizeof(l->servers[0]));
}

static struct looked look(void)
{
    struct looked l = { 0 };

    upstream_look(&play_thread, see, &l);
    EXPECT_INT(l.groups, 1);
    return l;
}

struct upstream_server_look server_look(uint32_t server)
{
    return look().servers[server];
}

struct upstream_look group_look(void)
{
    return look().group;
}
