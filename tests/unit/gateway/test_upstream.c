/*
 * The FastCGI client against scripted servers: whatever a server does, its own request is answered
 * once, with its answer, a 502 or a 504, and nothing else happens; a request is sent again only
 * when nothing of it was sent or its method is idempotent; no server ever has more connections than
 * it was said to serve.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "play.h"

static struct client client, second, third;

/* The answer that whole_answer makes, and all of it. */
static void expect_answer(const struct client *c, const char *body)
{
    EXPECT_INT(c->lost_status, 0);
    EXPECT_INT(c->own_status, 0);
    EXPECT_INT(c->head_status, 201);
    EXPECT_STR(((struct str){ c->body, c->body_bytes }), str_from(body));
    EXPECT(c->ended);
}

static void answer(int fd, const char *body)
{
    static struct buf b;

    peer_send(fd, whole_answer(&b, body));
    buf_fini(&b);
}

/* Reads the request of a connection and answers it. */
static void serve(uint32_t server, const char *body)
{
    int fd = peer_accept(server);

    EXPECT(fd >= 0);
    peer_read_request(fd);
    answer(fd, body);
    close(fd);
}

static void expect_no_connection(uint32_t server)
{
    EXPECT_INT(peer_accept(server), -1);
}

/* --- answers ---------------------------------------------------------------------------------- */

TEST(answer_in_two_pieces_cut_at_every_byte)
{
    static struct buf b;
    struct str all = whole_answer(&b, "hello");

    play_start(1);
    for (size_t cut = 0; cut <= all.n; cut++) {
        client_push(&client, HTTP_POST, STR("abc"));
        int fd = peer_accept(0);
        EXPECT_INT(peer_read_request(fd), 3);
        peer_send(fd, str_take(all, cut));
        play_turn();
        peer_send(fd, str_skip(all, cut));
        client_wait(&client);
        expect_answer(&client, "hello");
        close(fd);
    }
    play_end();
}

TEST(answer_byte_by_byte)
{
    static struct buf b;
    struct str all = whole_answer(&b, "hello");

    play_start(1);
    client_push(&client, HTTP_GET, STR_NONE);
    int fd = peer_accept(0);
    peer_read_request(fd);
    for (size_t i = 0; i < all.n; i++) {
        EXPECT(!client.ended);
        peer_send(fd, str_take(str_skip(all, i), 1));
        play_turn();
    }
    client_wait(&client);
    expect_answer(&client, "hello");
}

/* Where the head is complete, the client has it: nothing is tried again from there on. */
TEST(close_at_every_byte)
{
    static struct buf b;
    struct str all = whole_answer(&b, "hello");
    size_t head_ends = FASTCGI_HEADER_BYTES + strlen("Status: 201 Created\r\nX-A: b\r\n\r\n");

    play_start(1);
    for (int idempotent = 0; idempotent < 2; idempotent++) {
        for (size_t cut = 0; cut < all.n; cut++) {
            client_push(&client, idempotent ? HTTP_PUT : HTTP_POST, STR("abc"));
            int fd = peer_accept(0);
            peer_read_request(fd);
            peer_send(fd, str_take(all, cut));
            close(fd);
            if (idempotent && cut < head_ends) {
                serve(0, "again");
                client_wait(&client);
                expect_answer(&client, "again");
            } else {
                client_wait(&client);
                EXPECT_INT(client.lost_status, 502);
                EXPECT_INT(client.head_status, cut >= head_ends ? 201 : 0);
                EXPECT(!client.ended);
            }
            expect_no_connection(0);
        }
    }
    EXPECT_INT(server_look(0).breaker, UPSTREAM_IN_SERVICE); /* no fault of the server's socket */
    play_end();
}

TEST(lies_cost_their_own_request_a_502)
{
    static const struct str lies[] = {
        STR("HTTP/1.1 200 OK\r\n\r\n"),           /* not FastCGI at all */
        STR("\2\6\0\1\0\1\0\0x"),                 /* another version */
        STR("\1\6\0\2\0\1\0\0x"),                 /* another request */
        STR("\1\6\1\1\0\1\0\0x"),                 /* likewise, high byte */
        STR("\1\1\0\1\0\10\0\0\0\1\0\0\0\0\0\0"), /* a record only we may send */
        STR("\1\12\0\1\0\0\0\0"),                 /* of management */
        STR("\1\3\0\1\0\7\0\0\0\0\0\0\0\0\0"),    /* END of seven bytes */
        STR("\1\3\0\1\0\10\0\0\0\0\0\0\0\0\0\0"), /* END before a head */
        STR("\1\3\0\1\0\10\0\0\0\0\0\0\2\0\0\0"), /* it is overloaded */
        STR("\1\6\0\1\0\6\0\0no: x\n\1\3\0\1\0\10\0\0\0\0\0\0\0\0\0\0"), /* END inside a head */
        STR("\1\6\0\1\0\5\0\0line\n"),           /* a head without a colon ... */
        STR("\1\6\0\1\0\6\0\0line\n\n"),         /* ... and its end */
        STR("\1\6\0\1\0\15\0\0Status: 20x\n\n"), /* a status that is none */
        STR("\1\6\0\1\0\16\0\0Status: 1000\n\n"),
    };

    play_start(1);
    for (size_t i = 0; i < ARRAY_LENGTH(lies); i++) {
        client_push(&client, HTTP_POST, STR_NONE);
        int fd = peer_accept(0);
        client_push(&second, HTTP_POST, STR_NONE);
        int other = peer_accept(0);
        peer_read_request(fd);
        peer_read_request(other);
        peer_send(fd, lies[i]);
        shutdown(fd, SHUT_WR); /* for those that are only too short */
        client_wait(&client);
        EXPECT_INT(client.lost_status, 502);
        EXPECT_INT(client.head_status, 0);
        EXPECT(peer_sees_end(fd));
        EXPECT(!client_done(&second));
        answer(other, "fine");
        client_wait(&second);
        expect_answer(&second, "fine");
        close(fd);
        close(other);
    }
    EXPECT_INT(server_look(0).count.broken, ARRAY_LENGTH(lies));
    EXPECT_INT(server_look(0).count.ejected, 0);
    play_end();
}

/* A length that promises more than comes is an answer that ends too early, whatever it hides. */
TEST(length_longer_than_what_comes)
{
    static struct buf b;

    play_start(1);
    client_push(&client, HTTP_GET, STR_NONE);
    int fd = peer_accept(0);
    peer_read_request(fd);
    buf_init(&b, 0);
    put_record(&b, 6, STR("X: y\r\n\r\n"), 0);
    peer_send(fd, buf_view(&b));
    peer_send(fd, STR("\1\6\0\1\xff\xff\xff\0\1\3\0\1\0\10\0\0\0\0\0\0\0\0\0\0"));
    close(fd);
    client_wait(&client);
    EXPECT_INT(client.head_status, 200);
    EXPECT_INT(client.lost_status, 502);
    EXPECT_INT(client.body_bytes, 16);
}

TEST(head_without_end_is_bounded)
{
    char line[1024];
    static struct buf b;

    play_start(1);
    client_push(&client, HTTP_POST, STR_NONE);
    int fd = peer_accept(0);
    peer_read_request(fd);
    memset(line, 'x', sizeof(line));
    memcpy(line, "X: ", 3);
    line[sizeof(line) - 1] = '\n';
    buf_init(&b, 0);
    put_record(&b, 6, (struct str){ line, sizeof(line) }, 0);
    for (size_t sent = 0; sent < UPSTREAM_HEAD_BYTES_MAX && !client_done(&client); sent += 1024) {
        peer_send(fd, buf_view(&b));
        play_turn();
    }
    client_wait(&client);
    EXPECT_INT(client.lost_status, 502);
}

TEST(answer_before_the_request_was_taken)
{
    static char body[4 << 20];

    play_start(1);
    client_push(&client, HTTP_POST, (struct str){ body, sizeof(body) });
    int fd = peer_accept(0);
    answer(fd, "too large");
    close(fd); /* most of the body is unread: its sender meets EPIPE */
    client_wait(&client);
    expect_answer(&client, "too large");
    play_end();
}

TEST(stderr_is_no_part_of_the_answer)
{
    static struct buf b;

    play_start(1);
    client_push(&client, HTTP_GET, STR_NONE);
    int fd = peer_accept(0);
    peer_read_request(fd);
    buf_init(&b, 0);
    put_record(&b, 7, STR("PHP message"), 1);
    put_record(&b, 6, STR("Sta"), 0);
    put_record(&b, 7, STR("more"), 0);
    put_record(&b, 6, STR("tus: 201\n\nbo"), 0);
    put_record(&b, 7, STR("and more"), 0);
    put_record(&b, 6, STR("dy"), 0);
    put_record(&b, 6, STR(""), 0);
    put_record(&b, 3, (struct str){ "\0\0\0\0\0\0\0\0", 8 }, 0);
    peer_send(fd, buf_view(&b));
    client_wait(&client);
    expect_answer(&client, "body");
    EXPECT_INT(group_look().count.stderr_records, 3);
}

TEST(late_answer_reaches_nobody)
{
    play_servers[0].connections = 1;
    play_config.response_timeout_ms = 500; /* the second's answer has to come in this time */
    play_config.keep_alive = true;
    play_start(1);
    client_push(&client, HTTP_GET, STR_NONE);
    int fd = peer_accept(0);
    peer_read_request(fd);
    client_wait(&client);
    EXPECT_INT(client.lost_status, 504); /* and a GET is not sent again: it may be at work yet */
    client_push(&second, HTTP_GET, STR_NONE);
    answer(fd, "of the first");
    EXPECT(peer_sees_end(fd));
    serve(0, "of the second");
    client_wait(&second);
    expect_answer(&second, "of the second");
    EXPECT_INT(server_look(0).count.timeouts, 1);
    play_end();
}

TEST(request_timeout)
{
    play_pool.request_timeout_ms = 200;
    play_start(1);
    client_push(&client, HTTP_GET, STR_NONE);
    int fd = peer_accept(0);
    peer_read_request(fd);
    peer_send(fd, STR("\1\6\0\1\0\6\0\0X: y\n\n")); /* that it speaks does not help */
    client_wait(&client);
    EXPECT_INT(client.lost_status, 504);
    EXPECT_INT(server_look(0).count.timeouts, 1);
    play_end();
}

/* --- again, or not ---------------------------------------------------------------------------- */

TEST(refused_is_tried_elsewhere_whatever_the_method)
{
    play_start(2);
    play_stop_listening(0);
    for (int i = 0; i < 4; i++) {
        client_push(&client, HTTP_POST, STR("abc"));
        serve(1, "there");
        client_wait(&client);
        expect_answer(&client, "there");
    }
    EXPECT_INT(server_look(0).count.ejected, 1);
    EXPECT_INT(server_look(0).count.failed_connects, 1);
    EXPECT_INT(server_look(0).breaker, UPSTREAM_LEFT_OUT);
    EXPECT(server_look(0).out_for_ms > 50000);
    EXPECT_INT(server_look(1).count.requests, 4);
    play_end();
}

TEST(refused_by_all)
{
    play_config.max_fails = 3;
    play_start(2);
    play_stop_listening(0);
    play_stop_listening(1);
    client_push(&client, HTTP_GET, STR_NONE);
    client_wait(&client);
    EXPECT_INT(client.own_status, 502); /* it tried */
    EXPECT_INT(server_look(0).count.failed_connects + server_look(1).count.failed_connects, 6);
    client_push(&client, HTTP_GET, STR_NONE);
    client_wait(&client);
    EXPECT_INT(client.own_status, 503); /* it had nothing to try */
    EXPECT_INT(group_look().count.refused, 2);
    play_end();
}

TEST(lost_post_is_not_sent_again)
{
    play_start(2);
    client_push(&client, HTTP_POST, STR("abc"));
    int fd = peer_accept(0);
    fd = fd >= 0 ? fd : peer_accept(1);
    peer_read_request(fd);
    close(fd);
    client_wait(&client);
    EXPECT_INT(client.lost_status, 502);
    expect_no_connection(0);
    expect_no_connection(1);
    EXPECT_INT(server_look(0).count.retried + server_look(1).count.retried, 0);
    play_end();
}

TEST(lost_get_is_sent_again_as_often_as_documented)
{
    for (uint32_t servers = 1; servers <= 2; servers++) {
        unsigned tries = 0;
        play_start(servers);
        client_push(&client, HTTP_GET, STR_NONE);
        while (!client_done(&client)) {
            int fd = peer_accept(tries % servers);
            for (uint32_t i = 0; fd < 0 && !client_done(&client) && i < servers; i++)
                fd = peer_accept(i);
            if (fd < 0)
                continue;
            tries++;
            peer_read_request(fd);
            close(fd);
        }
        EXPECT_INT(client.lost_status, 502);
        EXPECT_INT(tries, servers == 1 ? 2 : 3);
        play_end();
        play_thread.loop = NULL;
        for (uint32_t i = 0; i < servers; i++) {
            play_stop_listening(i);
            play_servers[i].address.text = STR("");
        }
    }
}

/* Kept connections that the server closes meanwhile are nobody's fault and cost nothing. */
TEST(kept_connection_closed_while_idle)
{
    play_servers[0].connections = 2;
    play_config.keep_alive = true;
    play_start(1);
    client_push(&client, HTTP_GET, STR_NONE);
    int fd = peer_accept(0);
    peer_read_request(fd);
    answer(fd, "one");
    client_wait(&client);
    EXPECT_INT(server_look(0).idle, 1);
    close(fd); /* nobody was told yet when the next request comes */
    client_push(&client, HTTP_POST, STR("abc"));
    serve(0, "two");
    client_wait(&client);
    expect_answer(&client, "two");
    EXPECT_INT(server_look(0).count.broken, 0);
    play_end();
}

TEST(kept_connection_closed_after_the_request_was_sent)
{
    play_servers[0].connections = 1;
    play_config.keep_alive = true;
    play_start(1);
    for (int idempotent = 0; idempotent < 2; idempotent++) {
        client_push(&client, HTTP_GET, STR_NONE);
        int fd = peer_accept(0);
        peer_read_request(fd);
        answer(fd, "one");
        client_wait(&client);
        client_push(&client, idempotent ? HTTP_DELETE : HTTP_POST, STR_NONE);
        peer_read_request(fd);
        close(fd);
        if (idempotent) {
            serve(0, "two");
            client_wait(&client);
            expect_answer(&client, "two");
        } else {
            client_wait(&client);
            EXPECT_INT(client.lost_status, 502);
            expect_no_connection(0);
        }
    }
    play_end();
}

/* --- in service or not ------------------------------------------------------------------------ */

TEST(left_out_for_twice_as_long_and_back)
{
    play_config.backoff_ms = 4;
    play_config.max_backoff_ms = 10;
    play_start(1);
    play_stop_listening(0);
    for (int i = 0; i < 4; i++) {
        client_push(&client, HTTP_GET, STR_NONE); /* waits: the break is short */
        while (server_look(0).count.failed_connects < (unsigned)i + 1)
            play_turn();
        EXPECT(server_look(0).out_for_ms <= 10);
        EXPECT_INT(server_look(0).failures, i + 1);
        client_leave(&client);
    }
    EXPECT_INT(server_look(0).count.ejected, 1); /* once, however often it was renewed */
    play_listen_again(0);
    client_push(&client, HTTP_POST, STR_NONE);
    while (server_look(0).active == 0)
        play_turn();
    EXPECT_INT(server_look(0).breaker, UPSTREAM_IN_SERVICE);
    EXPECT_INT(server_look(0).failures, 0);
    serve(0, "back");
    client_wait(&client);
    expect_answer(&client, "back");
    play_end();
}

/* A port of 127.0.0.1 whose backlog is full: connecting neither succeeds nor fails. */
static uint16_t open_deaf_port(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK(bind(fd, (struct sockaddr *)&a, n) == 0 && listen(fd, 0) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&a, &n) == 0);
    for (int i = 0; i < 3; i++) {
        int filler = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        CHECK(connect(filler, (struct sockaddr *)&a, n) < 0 && errno == EINPROGRESS);
    }
    return ntohs(a.sin_port);
}

TEST(half_open_lets_one_request_out_to_see)
{
    play_config.connect_timeout_ms = 20;
    play_config.backoff_ms = 5;
    play_config.max_backoff_ms = 100;
    play_servers[0].address = (struct config_listen){ .kind = CONFIG_LISTEN_TCP,
                                                      .text = STR("deaf"),
                                                      .host = STR("127.0.0.1"),
                                                      .port = open_deaf_port() };
    play_start(1);
    client_push(&client, HTTP_POST, STR_NONE);
    EXPECT_INT(server_look(0).breaker, UPSTREAM_IN_SERVICE);
    while (server_look(0).breaker != UPSTREAM_HALF_OPEN)
        play_turn(); /* connect_timeout, then the break, then the same request again */
    EXPECT_INT(server_look(0).failures, 1);
    client_push(&second, HTTP_GET, STR_NONE);
    client_push(&third, HTTP_GET, STR_NONE);
    EXPECT_INT(server_look(0).active, 1);
    EXPECT_INT(group_look().queued, 2);
    while (server_look(0).failures < 2)
        play_turn();
    EXPECT_INT(server_look(0).breaker, UPSTREAM_LEFT_OUT);
    client_leave(&client);
    client_leave(&second);
    client_leave(&third);
    EXPECT_INT(group_look().queued, 0);
    play_end();
}

/* --- how many connections --------------------------------------------------------------------- */

TEST(never_more_connections_than_it_serves)
{
    static struct client clients[20];

    play_servers[0].connections = 2;
    play_start(1);
    for (size_t i = 0; i < ARRAY_LENGTH(clients); i++)
        client_push(&clients[i], HTTP_POST, STR_NONE);
    EXPECT_INT(group_look().queued, 18);
    for (size_t i = 0; i < ARRAY_LENGTH(clients); i += 2) {
        int one = peer_accept(0), two = peer_accept(0);
        EXPECT(one >= 0 && two >= 0);
        expect_no_connection(0);
        peer_read_request(one);
        peer_read_request(two);
        answer(one, "1");
        answer(two, "2");
        client_wait(&clients[i]); /* in the order in which they came */
        client_wait(&clients[i + 1]);
        expect_no_connection(0); /* a child is free when it has closed, not before */
        close(one);
        close(two);
    }
    EXPECT_INT(server_look(0).count.connections, 20);
    play_end();
}

TEST(kept_connections_serve_all)
{
    static struct client clients[20];
    int fds[2];

    play_servers[0].connections = 2;
    play_config.keep_alive = true;
    play_start(1);
    for (size_t i = 0; i < ARRAY_LENGTH(clients); i++)
        client_push(&clients[i], HTTP_POST, STR_NONE);
    fds[0] = peer_accept(0);
    fds[1] = peer_accept(0);
    for (size_t i = 0; i < ARRAY_LENGTH(clients); i++) {
        peer_read_request(fds[i % 2]);
        answer(fds[i % 2], "x");
        client_wait(&clients[i]);
    }
    expect_no_connection(0);
    EXPECT_INT(server_look(0).count.connections, 2);
    EXPECT_INT(server_look(0).count.reused, 18);
    EXPECT_INT(server_look(0).idle, 2);
    play_end();
}

TEST(queue_has_an_end)
{
    play_servers[0].connections = 1;
    play_config.queue_size = 1;
    play_start(1);
    client_push(&client, HTTP_GET, STR_NONE);
    client_push(&second, HTTP_GET, STR_NONE);
    client_push(&third, HTTP_GET, STR_NONE);
    EXPECT_INT(third.own_status, 503);
    EXPECT_INT(group_look().count.queue_full, 1);
    EXPECT(!upstream_withdraw(&client.x)); /* it was sent */
    EXPECT(upstream_withdraw(&second.x));
    EXPECT_INT(group_look().queued, 0);
    serve(0, "one");
    client_wait(&client);
    expect_answer(&client, "one");
    play_end();
}

/* --- clients ---------------------------------------------------------------------------------- */

TEST(place_of_an_aborted_request_is_held_until_its_script_ends)
{
    for (int speaks = 0; speaks < 2; speaks++) {
        play_servers[0].connections = 1;
        play_start(1);
        client_push(&client, HTTP_GET, STR_NONE);
        int fd = peer_accept(0);
        peer_read_request(fd);
        client_leave(&client);
        client_push(&second, HTTP_GET, STR_NONE);
        expect_no_connection(0);
        EXPECT_INT(group_look().queued, 1);
        if (speaks) {
            peer_send(fd, STR("\1"));
            EXPECT(peer_sees_end(fd));
        }
        close(fd);
        serve(0, "second");
        client_wait(&second);
        expect_answer(&second, "second");
        play_end();
        play_thread.loop = NULL;
        play_stop_listening(0);
        play_servers[0].address.text = STR("");
    }
}

TEST(aborted_before_all_was_sent)
{
    static char body[4 << 20];

    play_servers[0].connections = 1;
    play_start(1);
    client_push(&client, HTTP_POST, (struct str){ body, sizeof(body) });
    int fd = peer_accept(0);
    client_leave(&client); /* PHP-FPM starts no script before the end of STDIN */
    client_push(&second, HTTP_GET, STR_NONE);
    serve(0, "second");
    client_wait(&second);
    expect_answer(&second, "second");
    close(fd);
    play_end();
}

TEST(slow_client_stops_the_server_and_no_timeout_does)
{
    static char megabyte[1 << 20];
    static struct buf b;
    size_t sent = 0;

    play_config.response_timeout_ms = 500;
    play_start(1);
    client_push(&client, HTTP_GET, STR_NONE);
    client.no_room = true;
    int fd = peer_accept(0);
    peer_read_request(fd);
    buf_init(&b, 0);
    put_record(&b, 6, STR("X: y\n\n"), 0);
    for (size_t at = 0; at < sizeof(megabyte); at += 32768)
        put_record(&b, 6, (struct str){ megabyte + at, 32768 }, 0);
    put_record(&b, 3, (struct str){ "\0\0\0\0\0\0\0\0", 8 }, 0);
    struct str rest = buf_view(&b);
    uint64_t until = clock_monotonic_ns() + 1200 * NS_PER_MS;
    while (clock_monotonic_ns() < until) { /* more than twice response_timeout */
        ssize_t n = send(fd, rest.p, rest.n, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        rest = str_skip(rest, n > 0 ? (size_t)n : 0);
        play_turn();
    }
    EXPECT(client.x.stalled && !client_done(&client));
    EXPECT(sent < sizeof(megabyte) && client.body_bytes <= 2 * 65536);
    while (rest.n) {
        ssize_t n = send(fd, rest.p, rest.n, MSG_NOSIGNAL);
        rest = str_skip(rest, n > 0 ? (size_t)n : 0);
        if (client.x.stalled)
            client_takes(&client);
        client.no_room = !client.no_room; /* and stalls again now and then */
        play_turn();
    }
    client.no_room = false;
    if (client.x.stalled && !client.ended)
        client_takes(&client);
    client_wait(&client);
    EXPECT_INT(client.body_bytes, sizeof(megabyte));
    EXPECT(client.ended);
    play_end();
}

/* --- memory ----------------------------------------------------------------------------------- */

TEST(every_allocation_may_fail)
{
    bool answered = false;
    static struct buf b;
    struct str ready = whole_answer(&b, "x");

    play_servers[0].connections = 2;
    play_config.keep_alive = true;
    play_start(1);
    for (unsigned long n = 1; n < 40; n++) {
        play_fail_nth = n;
        client_push(&client, HTTP_POST, STR("abc"));
        int fd = -1;
        while (!client_done(&client)) {
            char some[4096];
            if (fd < 0)
                fd = peer_accept(0);
            ssize_t got = fd < 0 ? -1 : recv(fd, some, sizeof(some), 0);
            if (got > 0) {
                peer_send(fd, ready);
            } else if (got == 0) {
                close(fd);
                fd = -1;
            }
            play_turn();
        }
        play_fail_nth = 0;
        mem_fail_nth(0);
        client_wait(&client);
        if (fd >= 0)
            close(fd);
        while (server_look(0).active + server_look(0).idle)
            play_turn();
        answered = client.ended;
    }
    EXPECT_INT(server_look(0).count.ejected, 0); /* no fault of the server's */
    EXPECT(answered); /* the last ones found nothing more that could fail */
    play_end();
}

/* --- groups ----------------------------------------------------------------------------------- */

TEST(generations_with_the_same_settings_share_the_connections)
{
    struct config_fastcgi other;

    play_servers[0].connections = 1;
    play_start(1);
    EXPECT(upstream_get(&play_thread, &play_config) == play_upstream);
    upstream_put(play_upstream);
    other = play_config;
    other.queue_size++;
    struct upstream *u = upstream_get(&play_thread, &other);
    EXPECT(u != play_upstream);
    upstream_put(u);
    upstream_poll(&play_thread);
    client_push(&client, HTTP_GET, STR_NONE);
    upstream_put(play_upstream); /* the generation goes; its request does not */
    play_turn();
    EXPECT(group_look().going);
    serve(0, "last");
    client_wait(&client);
    expect_answer(&client, "last");
    play_turn();
    EXPECT(list_empty(&play_thread.upstreams));
}
