/* See driver.h. */
#include "driver.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "php/php.h"

static int boot_memory(const char *toml)
{
    char *text = mem_printf("[php]\n%s\n", toml);
    char *none[] = { NULL };
    struct control_boot b = { .generation = 1,
                              .parent_pid = getpid(),
                              .config_name = (char *)"test.toml",
                              .config_text = text,
                              .config_text_bytes = strlen(text),
                              .overrides = none,
                              .document_root = (char *)"/" };
    int fd = -1;

    EXPECT_INT(control_boot_pack(&b, &fd), 0);
    mem_free(text);
    return fd;
}

/* As the supervisor's drop-then-exec would: descriptors 3 and 4, then the role's main. */
static pid_t start_pool(int sock, int boot)
{
    pid_t pid = fork();

    EXPECT(pid >= 0);
    if (pid > 0)
        return pid;
    int high = fcntl(sock, F_DUPFD, 20), high_boot = fcntl(boot, F_DUPFD, 20);
    dup2(high, CONTROL_SUPERVISOR_FD);
    dup2(high_boot, CONTROL_BOOT_FD);
    for (int fd = 5; fd < 64; fd++)
        close(fd);
    _exit(pool_main());
}

static void wait_ready(struct driver *d)
{
    struct control_message m;
    size_t n_fds;
    int fds[4];

    EXPECT_INT(control_receive(d->supervisor, &m, fds, 4, &n_fds), 1);
    snprintf(d->ready, sizeof(d->ready), "%.*s", STR_ARG(control_message_text(&m)));
    EXPECT(m.type == CONTROL_READY || m.type == CONTROL_FAILED);
    d->failed = m.type == CONTROL_FAILED;
}

static void give_channel(struct driver *d)
{
    struct control_message m;
    int channel = -1, ends[2];

    EXPECT_INT(channel_create(&d->geometry, &channel), 0);
    EXPECT_INT(channel_map(channel, &d->ch), 0);
    EXPECT_INT(fd_seqpacket_pair(ends), 0);
    d->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int fds[] = { channel, ends[1], d->eventfd };
    control_message_init(&m, CONTROL_CHANNEL);
    EXPECT_INT(control_send(d->supervisor, &m, fds, 3), 0);
    close(channel);
    close(ends[1]);
    d->pool_sock = ends[0];
}

void driver_new_channel(struct driver *d)
{
    for (size_t i = 0; i < ARRAY_LENGTH(d->worker_socks); i++)
        fd_close(&d->worker_socks[i]);
    fd_close(&d->pool_sock);
    fd_close(&d->eventfd);
    channel_unmap(d->ch);
    give_channel(d);
}

void driver_start(struct driver *d, const char *toml, uint32_t workers)
{
    int ends[2];

    signal(SIGPIPE, SIG_IGN);
    memset(d, 0, sizeof(*d));
    d->body_fd = -1;
    for (size_t i = 0; i < ARRAY_LENGTH(d->worker_socks); i++)
        d->worker_socks[i] = -1;
    snprintf(d->root, sizeof(d->root), "/tmp/sapid-test-php-XXXXXX");
    EXPECT(mkdtemp(d->root));
    EXPECT_INT(fd_seqpacket_pair(ends), 0);
    int boot = boot_memory(toml);
    d->pool_pid = start_pool(ends[1], boot);
    close(ends[1]);
    close(boot);
    d->supervisor = ends[0];
    d->geometry = (struct channel_geometry){
        .workers = workers, .threads = 1, .slots = 64, .slot_bytes = 16384, .ring_bytes = 65536
    };
    wait_ready(d);
    if (!d->failed)
        give_channel(d);
}

void driver_stop(struct driver *d)
{
    int status = 0;

    if (!d->failed)
        driver_send(d, CONTROL_STOP);
    EXPECT_INT(waitpid(d->pool_pid, &status, 0), d->pool_pid);
    char *command = mem_printf("rm -rf %s", d->root);
    EXPECT_INT(system(command), 0);
    mem_free(command);
}

void driver_script(struct driver *d, const char *name, const char *text)
{
    char *path = mem_printf("%s/%s", d->root, name);
    FILE *f = fopen(path, "we");

    EXPECT(f);
    EXPECT(fputs(text, f) >= 0);
    fclose(f);
    mem_free(path);
}

void driver_age(struct driver *d, const char *name)
{
    struct timespec old[2] = { { .tv_sec = time(NULL) - 3600 }, { .tv_sec = time(NULL) - 3600 } };
    char *path = mem_printf("%s/%s", d->root, name);

    EXPECT_INT(utimensat(AT_FDCWD, path, old, 0), 0);
    mem_free(path);
}

void driver_request(struct driver *d, struct channel_request *r, const char *script,
                    const char *query)
{
    static char name[128], target[512], file[256];

    snprintf(name, sizeof(name), "/%s", script);
    snprintf(target, sizeof(target), "/%s%s%s", script, *query ? "?" : "", query);
    snprintf(file, sizeof(file), "%s/%s", d->root, script);
    *r = (struct channel_request){
        .method = STR("GET"),
        .target = str_from(target),
        .protocol = STR("HTTP/1.1"),
        .script_name = str_from(name),
        .script_filename = str_from(file),
        .query = str_from(query),
        .document_root = str_from(d->root),
        .host = STR("example.org:8080"),
        .server_name = STR("example.org"),
        .remote_addr = STR("192.0.2.7"),
        .remote_port = 4711,
        .server_addr = STR("127.0.0.1"),
        .server_port = 8080,
        .request_id = STR("r1"),
        .http_minor = 1,
        .body_kind = CHANNEL_BODY_NONE,
        .content_length = -1,
        .received_ns = clock_realtime_ns(),
    };
}

struct channel_ticket driver_push(struct driver *d, const struct channel_request *r,
                                  const struct channel_pair *headers)
{
    struct channel_ticket t;

    EXPECT_INT(channel_push(d->ch, 0, r, headers, &t), 0);
    channel_wake(d->ch, 0);
    return t;
}

static void take_piece(const struct channel_piece *p, struct answer *a)
{
    struct buf *into = p->type == CHANNEL_HEAD   ? &a->head
                       : p->type == CHANNEL_BODY ? &a->body
                                                 : NULL;

    if (p->type == CHANNEL_HEAD)
        a->status = p->status;
    for (int i = 0; into && i < p->n_iov; i++)
        EXPECT_INT(buf_append(into, p->iov[i].iov_base, p->iov[i].iov_len), 0);
    a->informs += p->type == CHANNEL_INFORM;
    a->flushes += p->type == CHANNEL_FLUSH;
    a->complete |= p->type == CHANNEL_END;
}

static void take_rings(struct driver *d, struct channel_ticket t, struct answer *a)
{
    struct channel_piece pieces[16];
    int worker;

    while ((worker = channel_next_dirty(d->ch, 0)) >= 0) {
        int n;
        while ((n = channel_peek(d->ch, 0, (uint32_t)worker, pieces, 16)) > 0) {
            for (int i = 0; i < n; i++) {
                if (a && pieces[i].ticket.slot == t.slot && pieces[i].ticket.seq == t.seq) {
                    take_piece(&pieces[i], a);
                    a->worker = (uint32_t)worker;
                }
            }
            channel_consume(d->ch, 0, (uint32_t)worker, n, 0);
            for (int i = 0; i < n; i++)
                if (pieces[i].type == CHANNEL_END)
                    channel_release(d->ch, 0, pieces[i].ticket);
        }
        EXPECT_INT(n, 0);
    }
}

static void on_pool(struct driver *d, struct channel_ticket t, struct answer *a)
{
    struct control_message m;
    struct channel_ticket lost;
    int fd = -1;
    size_t n_fds = 0;

    if (control_receive(d->pool_sock, &m, &fd, 1, &n_fds) <= 0)
        return;
    EXPECT(m.worker < 16);
    if (m.type == CONTROL_WORKER_START) {
        d->worker_socks[m.worker] = fd;
        d->incarnations[m.worker] = m.incarnation;
        d->pids[m.worker] = (uint32_t)m.pid;
        channel_worker_grant(d->ch, m.worker, m.incarnation);
        return;
    }
    EXPECT_INT(m.type, CONTROL_WORKER_DEAD);
    take_rings(d, t, a);
    if (channel_worker_recover(d->ch, 0, m.worker, m.incarnation, &lost) && a &&
        lost.slot == t.slot && lost.seq == t.seq)
        a->died = true;
    fd_close(&d->worker_socks[m.worker]);
    d->deaths++;
    d->last_status = m.status;
    d->last_requests = m.requests;
}

static void on_worker(struct driver *d, int i)
{
    struct control_message m;
    int fd = -1;
    size_t n_fds = 0;

    if (control_receive(d->worker_socks[i], &m, &fd, 1, &n_fds) <= 0) {
        fd_close(&d->worker_socks[i]);
        return;
    }
    EXPECT_INT(m.type, CONTROL_BODY_WANTED);
    m.type = CONTROL_BODY;
    EXPECT(d->body_fd >= 0);
    EXPECT_INT(control_send(d->worker_socks[i], &m, &d->body_fd, 1), 0);
}

static void poll_for(struct driver *d, int timeout_ms, struct channel_ticket t, struct answer *a)
{
    struct pollfd fds[2 + 16] = { { d->pool_sock, POLLIN, 0 }, { d->eventfd, POLLIN, 0 } };
    uint64_t n, sleep_ns;

    for (int i = 0; i < 16; i++)
        fds[2 + i] = (struct pollfd){ d->worker_socks[i], POLLIN, 0 };
    if (channel_gateway_sleep(d->ch, 0, &sleep_ns))
        timeout_ms = 0;
    poll(fds, ARRAY_LENGTH(fds), timeout_ms);
    channel_gateway_awake(d->ch, 0);
    if (fds[1].revents && read(d->eventfd, &n, sizeof(n)) < 0)
        EXPECT_INT(errno, EAGAIN);
    if (fds[0].revents)
        on_pool(d, t, a);
    for (int i = 0; i < 16; i++)
        if (fds[2 + i].revents)
            on_worker(d, i);
    take_rings(d, t, a);
}

void driver_poll(struct driver *d, int timeout_ms)
{
    poll_for(d, timeout_ms, (struct channel_ticket){ UINT32_MAX, 0 }, NULL);
}

void driver_collect(struct driver *d, struct channel_ticket t, struct answer *ret)
{
    memset(ret, 0, sizeof(*ret));
    buf_init(&ret->head, 0);
    buf_init(&ret->body, 0);
    while (!ret->complete && !ret->died)
        poll_for(d, 1000, t, ret);
}

void driver_run(struct driver *d, const struct channel_request *r,
                const struct channel_pair *headers, struct answer *ret)
{
    driver_collect(d, driver_push(d, r, headers), ret);
}

void driver_get(struct driver *d, const char *script, const char *query, struct answer *ret)
{
    struct channel_request r;

    driver_request(d, &r, script, query);
    driver_run(d, &r, NULL, ret);
}

void driver_wait_deaths(struct driver *d, int n)
{
    while (d->deaths < n)
        driver_poll(d, 1000);
}

void driver_send(struct driver *d, enum control_type type)
{
    struct control_message m;

    control_message_init(&m, type);
    EXPECT_INT(control_send(d->supervisor, &m, NULL, 0), 0);
}

void answer_free(struct answer *a)
{
    buf_fini(&a->head);
    buf_fini(&a->body);
}

static bool contains(const struct buf *b, const char *text)
{
    struct str v = buf_view(b);

    return v.n && memmem(v.p, v.n, text, strlen(text)) != NULL;
}

bool answer_has(const struct answer *a, const char *text)
{
    return contains(&a->body, text);
}

bool answer_has_header(const struct answer *a, const char *line)
{
    char *whole = mem_printf("%s\r\n", line);
    bool found = contains(&a->head, whole);

    mem_free(whole);
    return found;
}
