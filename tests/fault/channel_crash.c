/*
 * channel_crash: kills processes that use a channel, at every step and at random, and checks every
 * answer byte for byte: each request is answered once, or lost with the one worker that was running
 * it; nobody waits for ever.
 *
 *     channel_crash worker              a worker dies at its 1st, 2nd, 3rd... step, until it lives
 *                                       to the end
 *     channel_crash gateway             likewise the gateway; the workers must come home
 *     channel_crash random [S [SEED]]   workers are killed at random moments for S seconds (default
 *                                       8), clients go away and are slow
 *     channel_crash                     all three
 *
 * The room is compiled with CHANNEL_STEPS for this program: it calls channel_step() between any two
 * writes to shared memory that another process could see apart. This program's own process plays
 * the pool process, and the gateway too except in `gateway`.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "channel/channel.h"

enum { WORKERS_MAX = 4, SLOTS_MAX = 16, BODY_MAX = 600, STALL_MS = 5000, PIECES = 5 };

void channel_step(int line);

static unsigned long steps_left; /* 0: lives on */
static int last_line;            /* for a debugger */
static uint64_t stumble, stumble_one_in;

void channel_step(int line)
{
    last_line = line;
    if (steps_left && --steps_left == 0)
        raise(SIGKILL);
    /* This sleeps because a pause between two steps lets the other side do all of its own in it. */
    stumble = stumble * UINT64_C(6364136223846793005) + 1442695040888963407;
    if (stumble_one_in && (stumble >> 33) % stumble_one_in == 0)
        nanosleep(&(struct timespec){ 0, (long)(stumble >> 40) % 100000 }, NULL);
}

/* --- a client of the gateway, and what it expects --------------------------------------------- */
struct client {
    bool out, gone;
    uint32_t seq, id;
    size_t head_at, body_at;
    bool headed;
};

struct world {
    struct channel_geometry geometry;
    struct channel *ch;
    int eventfd;
    pid_t pid[WORKERS_MAX];
    uint32_t incarnation[WORKERS_MAX];
    unsigned long die_at; /* for worker 0 of incarnation 1 */
    struct client clients[SLOTS_MAX];
    uint32_t n_out, next_id;
    uint32_t reserve;   /* worker to be granted at the first death; 0: none */
    uint32_t body_most; /* bytes */
    bool slow;          /* takes a few bytes at a time */
    uint64_t seed;
    unsigned long answered, lost, canceled, gone, kills;
};

static struct world world;

static NORETURN PRINTF_LIKE(1, 2) void fail(const char *fmt, ...)
{
    struct channel_counters c;
    va_list ap;

    printf("FAIL: ");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    if (world.ch) {
        channel_count(world.ch, &c);
        printf("\n  worker 0 dies at step %lu; out %u; pushed %llu claimed %llu done %llu "
               "recovered %llu "
               "queued %u running %u idle %u wakes %llu signals %llu",
               world.die_at, world.n_out, (unsigned long long)c.pushed,
               (unsigned long long)c.claimed, (unsigned long long)c.done,
               (unsigned long long)c.recovered, c.queued, c.running, c.idle,
               (unsigned long long)c.wakes, (unsigned long long)c.signals);
        for (uint32_t i = 0; i < world.geometry.slots; i++)
            if (world.clients[i].out)
                printf("\n  slot %u seq %u id %u state %d head %zu body %zu", i,
                       world.clients[i].seq, world.clients[i].id,
                       channel_ticket_state(
                           world.ch, (struct channel_ticket){ i, world.clients[i].seq }, NULL),
                       world.clients[i].head_at, world.clients[i].body_at);
    }
    printf("\n");
    fflush(stdout);
    for (int i = 0; i < WORKERS_MAX; i++)
        if (world.pid[i] > 0)
            kill(world.pid[i], SIGKILL); /* our own children, not yet reaped */
    exit(1);
}

static uint64_t dice(void)
{
    world.seed ^= world.seed << 13;
    world.seed ^= world.seed >> 7;
    world.seed ^= world.seed << 17;
    return world.seed;
}

static size_t body_size(uint32_t id)
{
    return id * UINT32_C(2654435761) % world.body_most;
}

static char body_byte(uint32_t id, size_t at)
{
    return (char)(id * 31 + at * 7 + (at >> 8));
}

static size_t head_text(uint32_t id, char ret[64])
{
    return (size_t)snprintf(ret, 64, "Id: %u\r\nSize: %zu\r\n", id, body_size(id));
}

/* --- worker ----------------------------------------------------------------------------------- */
static void respond_to(struct channel_worker *w, uint32_t id)
{
    char text[BODY_MAX];
    size_t size = body_size(id), n = head_text(id, text);
    struct iovec iov = { text, n };

    if (channel_respond(w, CHANNEL_HEAD, (uint16_t)(200 + id % 100), &iov, 1) == 0) {
        for (size_t at = 0; at < size;) {
            size_t part = 1 + (20 + id * 37) % 190;
            if (part > size - at)
                part = size - at;
            for (size_t i = 0; i < part; i++)
                text[i] = body_byte(id, at + i);
            iov.iov_len = part;
            if (channel_respond(w, CHANNEL_BODY, 0, &iov, 1) < 0)
                break;
            at += part;
            if (id % 3 == 0 && channel_respond(w, CHANNEL_FLUSH, 0, NULL, 0) < 0)
                break;
        }
    }
    int r = channel_respond(w, CHANNEL_END, 0, NULL, 0);
    CHECK(r == 0 || r == -ESHUTDOWN);
    channel_worker_done(w);
}

static NORETURN void worker_main(uint32_t index, uint32_t incarnation)
{
    struct channel_worker *w;
    struct channel_request r;
    uint64_t id;
    int e = channel_worker_attach(world.ch, index, incarnation, &world.eventfd, &w);

    while (e == 0 && (e = channel_worker_next(w, UINT64_MAX, &r)) == 0) {
        if (!str_to_u64(str_skip(r.target, 1), UINT32_MAX, &id))
            _exit(1);
        respond_to(w, (uint32_t)id);
    }
    _exit(-e);
}

static void spawn(uint32_t index)
{
    uint32_t incarnation = ++world.incarnation[index];
    pid_t parent = getpid(), pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        stumble += (uint64_t)getpid() * 2 + 1;
        steps_left = index == 0 && incarnation == 1 ? world.die_at : 0;
        worker_main(index, incarnation);
    }
    world.pid[index] = pid;
}

/* --- gateway ---------------------------------------------------------------------------------- */
static bool push(void)
{
    char target[16];
    struct channel_ticket t;
    struct channel_request r = { .method = STR("GET"), .content_length = -1 };

    r.target =
        (struct str){ target, (size_t)snprintf(target, sizeof(target), "/%u", world.next_id) };
    int e = channel_push(world.ch, 0, &r, NULL, &t);
    if (e == -EAGAIN)
        return false;
    if (e < 0)
        fail("push: %s", strerror(-e));
    if (world.clients[t.slot].out)
        fail("slot %u was given twice", t.slot);
    world.clients[t.slot] = (struct client){ .out = true, .seq = t.seq, .id = world.next_id++ };
    world.n_out++;
    return true;
}

static void leave(struct client *c)
{
    c->out = false;
    world.n_out--;
}

/* Checks `n` bytes of a piece's payload against what the client expects next. */
static void expect(struct client *c, const struct channel_piece *p, size_t n)
{
    char head[64];
    size_t head_bytes = head_text(c->id, head), left = n;

    for (int v = 0; v < p->n_iov && left; v++) {
        const char *bytes = p->iov[v].iov_base;
        size_t run = p->iov[v].iov_len < left ? p->iov[v].iov_len : left;
        for (size_t i = 0; i < run; i++) {
            if (p->type == CHANNEL_HEAD) {
                if (c->head_at >= head_bytes || bytes[i] != head[c->head_at++])
                    fail("request %u: head differs at byte %zu", c->id, c->head_at);
            } else if (c->body_at >= body_size(c->id) ||
                       bytes[i] != body_byte(c->id, c->body_at++)) {
                fail("request %u: body differs at byte %zu", c->id, c->body_at);
            }
        }
        left -= run;
    }
    if (p->type == CHANNEL_HEAD) {
        if (c->headed || p->status != 200 + c->id % 100)
            fail("request %u: head out of place", c->id);
        c->headed = n == p->bytes && !(p->flags & CHANNEL_PART);
        if (c->headed && c->head_at != head_bytes)
            fail("request %u: head of %zu bytes", c->id, c->head_at);
    } else if (!c->headed) {
        fail("request %u: a piece of type %d before the head", c->id, p->type);
    }
    if (p->type == CHANNEL_END && c->body_at != body_size(c->id))
        fail("request %u: %zu body bytes of %zu", c->id, c->body_at, body_size(c->id));
}

/* Takes all that a ring holds; a slow world stops in between now and then. */
static void take(uint32_t worker, bool all)
{
    struct channel_piece p[PIECES];
    int n;

    while ((n = channel_peek(world.ch, 0, worker, p, PIECES)) > 0) {
        for (int i = 0; i < n; i++)
            if (p[i].ticket.slot >= world.geometry.slots || !world.clients[p[i].ticket.slot].out ||
                world.clients[p[i].ticket.slot].seq != p[i].ticket.seq)
                fail("a piece for ticket %u/%u, which is not out", p[i].ticket.slot,
                     p[i].ticket.seq);
        struct client *c = &world.clients[p[0].ticket.slot];
        size_t bytes = p[0].bytes;
        if (world.slow && !all && bytes && dice() % 2)
            bytes = dice() % bytes;
        if (!c->gone)
            expect(c, &p[0], bytes);
        if (bytes < p[0].bytes) {
            if (bytes)
                channel_consume(world.ch, 0, worker, 0, bytes);
            continue;
        }
        channel_consume(world.ch, 0, worker, 1, 0);
        if (p[0].type != CHANNEL_END)
            continue;
        channel_release(world.ch, 0, p[0].ticket);
        world.answered += !c->gone;
        leave(c);
    }
    if (n < 0)
        fail("worker %u: nonsense in its ring", worker);
}

/* A worker was reaped: recover what it held and start its successor. */
static void recover(uint32_t worker)
{
    struct channel_ticket t;

    take(worker, true);
    if (channel_worker_recover(world.ch, 0, worker, world.incarnation[worker], &t)) {
        struct client *c = &world.clients[t.slot];
        if (!c->out || c->seq != t.seq)
            fail("ticket %u/%u died, but is not out", t.slot, t.seq);
        world.lost += !c->gone;
        leave(c);
        if (channel_worker_recover(world.ch, 0, worker, world.incarnation[worker], &t))
            fail("a second request died with worker %u", worker);
    }
    spawn(worker);
    channel_worker_grant(world.ch, worker, world.incarnation[worker]);
    if (world.reserve) { /* it was kept back until now */
        channel_worker_grant(world.ch, world.reserve, world.incarnation[world.reserve]);
        world.reserve = 0;
    }
}

static void reap(void)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        uint32_t worker = 0;
        while (worker < world.geometry.workers && world.pid[worker] != pid)
            worker++;
        if (worker == world.geometry.workers)
            fail("an unknown child");
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
            fail("worker %u ended by itself: status %x", worker, status);
        world.kills++;
        recover(worker);
    }
}

/* Children's deaths interrupt the poll; blocked otherwise, so that none is missed. */
static void on_child(int signo)
{
    (void)signo;
}

static void gateway_turn(int patience_ms)
{
    sigset_t none, child;
    uint64_t most;
    int worker;

    channel_wake(world.ch, 0);
    while ((worker = channel_next_dirty(world.ch, 0)) >= 0)
        take((uint32_t)worker, false);
    if (world.n_out == 0 || channel_gateway_sleep(world.ch, 0, &most))
        return;
    sigemptyset(&none);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    struct pollfd pfd = { world.eventfd, POLLIN, 0 };
    struct timespec ts = { patience_ms / 1000, patience_ms % 1000 * 1000000L };
    if (most != UINT64_MAX && most < (uint64_t)patience_ms * NS_PER_MS)
        ts = (struct timespec){ 0, (long)most };
    int r = ppoll(&pfd, 1, &ts, &none);
    if (r == 0 && patience_ms == STALL_MS && most == UINT64_MAX)
        fail("nothing happened for %d ms", STALL_MS);
    uint64_t n;
    if (r > 0 && read(world.eventfd, &n, sizeof(n)) < 0 && errno != EAGAIN)
        fail("eventfd: %s", strerror(errno));
    channel_gateway_awake(world.ch, 0);
}

/* --- a run ------------------------------------------------------------------------------------ */
static void world_open(uint32_t workers, uint32_t slots, uint32_t ring_bytes, uint32_t body_most)
{
    int fd;

    memset(&world, 0, sizeof(world));
    world.geometry = (struct channel_geometry){ workers, 1, slots, 512, ring_bytes };
    world.body_most = body_most;
    world.seed = UINT64_C(0x9e3779b97f4a7c15);
    CHECK(channel_create(&world.geometry, &fd) == 0);
    CHECK(channel_map(fd, &world.ch) == 0);
    close(fd);
    world.eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(world.eventfd >= 0);
    channel_set_eventfds(world.ch, &world.eventfd);
}

/* All workers must end, and say that the channel was closed. Returns how many had been killed. */
static unsigned world_close(void)
{
    uint64_t deadline = clock_monotonic_ns() + STALL_MS * NS_PER_MS;
    unsigned killed = 0;

    channel_close(world.ch);
    for (uint32_t i = 0; i < world.geometry.workers; i++) {
        int status;
        while (waitpid(world.pid[i], &status, WNOHANG) == 0) {
            if (clock_monotonic_ns() > deadline)
                fail("worker %u does not end after close", i);
            poll(NULL, 0, 1);
        }
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
            killed++;
        else if (!WIFEXITED(status) || WEXITSTATUS(status) != ESHUTDOWN)
            fail("worker %u ended with status %x", i, status);
        world.pid[i] = 0;
    }
    channel_unmap(world.ch);
    close(world.eventfd);
    world.ch = NULL;
    return killed;
}

/* The first half one by one, so that workers fall asleep between, the rest as fast as slots allow.
 */
static void serve(uint32_t requests)
{
    while (world.next_id < requests || world.n_out) {
        while (world.next_id < requests && (world.next_id > requests / 2 || !world.n_out) && push())
            ;
        gateway_turn(STALL_MS);
        reap();
    }
    if (world.answered + world.lost != requests)
        fail("%lu answered and %lu lost of %u", world.answered, world.lost, requests);
}

/* Until worker 0 waits for requests, or died on the way there. */
static void await_worker(void)
{
    struct channel_counters c;

    do {
        reap();
        channel_count(world.ch, &c);
    } while (!c.idle);
}

/* `company`: worker 1 is there from the start and takes a share; else it comes when worker 0 has
 * died. */
static void test_worker(uint32_t ring_bytes, bool slow, bool company)
{
    enum { REQUESTS = 5 };
    unsigned long step = 1, lost = 0, deaths = 0;
    unsigned survived = 0;

    for (; survived < 3; step++) {
        world_open(2, 3, ring_bytes, 90);
        world.die_at = step;
        world.slow = slow;
        spawn(0);
        channel_worker_grant(world.ch, 0, world.incarnation[0]);
        await_worker();
        spawn(1);
        if (company)
            channel_worker_grant(world.ch, 1, world.incarnation[1]);
        else
            world.reserve = 1;
        serve(REQUESTS);
        if (world.lost > 1)
            fail("%lu requests lost with one worker", world.lost);
        lost += world.lost;
        unsigned long kills = world.kills + world_close();
        deaths += kills;
        survived = kills ? 0 : survived + 1;
    }
    printf("worker: died at %lu of %lu steps (ring of %u bytes%s%s), %lu requests lost with it\n",
           deaths, step - 1, ring_bytes, slow ? ", slow clients" : "",
           company ? ", in company" : "", lost);
}

static void test_gateway(void)
{
    enum { REQUESTS = 6 };
    unsigned long step = 1;

    for (bool died = true; died; step++) {
        int status;
        world_open(2, 3, 64, 90);
        for (uint32_t i = 0; i < 2; i++)
            spawn(i);
        pid_t pid = fork();
        if (pid == 0) {
            steps_left = step;
            for (uint32_t i = 0; i < 2; i++)
                channel_worker_grant(world.ch, i, world.incarnation[i]);
            serve(REQUESTS);
            exit(0);
        }
        /* The gateway waits for its workers alone; a stall there ends it with status 1. */
        CHECK(waitpid(pid, &status, 0) == pid);
        died = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        if (!died && status != 0)
            fail("the gateway ended with status %x", status);
        world_close();
    }
    printf("gateway: died at each of %lu steps\n", step - 2);
}

/* Clients that go away: some are taken back or forgotten at once, some wait for the END. */
static void disturb(void)
{
    uint32_t slot = (uint32_t)(dice() % world.geometry.slots);
    struct client *c = &world.clients[slot];
    struct channel_ticket t = { slot, c->seq };

    if (!c->out || c->gone)
        return;
    if (channel_cancel(world.ch, 0, t)) {
        world.canceled++;
        leave(c);
        return;
    }
    channel_abort(world.ch, 0, t);
    world.gone++;
    if (dice() % 2) {
        c->gone = true;
    } else {
        channel_release(world.ch, 0, t);
        leave(c);
    }
}

/* Clients that go at once, more than the queue has cells: while no worker comes by, the dead cells
 * are cleared away by the gateway (and a worker may come by just then). */
static void storm(void)
{
    for (int i = 0; i < 5 * SLOTS_MAX && world.n_out < world.geometry.slots; i++) {
        uint32_t id = world.next_id;
        if (!push())
            return;
        for (uint32_t slot = 0; slot < world.geometry.slots; slot++) {
            struct client *c = &world.clients[slot];
            struct channel_ticket t = { slot, c->seq };
            if (c->out && c->id == id && channel_cancel(world.ch, 0, t)) {
                world.canceled++;
                leave(c);
            }
        }
    }
}

/* With one worker nobody else makes good what it misses; with several they race. */
static void test_random(uint32_t workers, unsigned seconds, uint64_t seed)
{
    uint64_t now = clock_monotonic_ns(), end = now + seconds * NS_PER_S, next_kill = now;

    world_open(workers, SLOTS_MAX, 256, BODY_MAX);
    world.slow = true;
    world.seed = stumble = seed;
    stumble_one_in = 200;
    for (uint32_t i = 0; i < workers; i++) {
        spawn(i);
        channel_worker_grant(world.ch, i, world.incarnation[i]);
    }
    while ((now = clock_monotonic_ns()) < end || world.n_out) {
        /* A full house, one at a time, or bursts: workers asleep, busy, blocked. */
        uint32_t most = 1 + (uint32_t)(now / (60 * NS_PER_MS)) % 5 * 3;
        if (dice() % 64 ==
            0) /* now and then switched, so that both paths of the signals are taken */
            channel_defer(world.ch, 0, dice() % 2 ? CHANNEL_DEFER_NS : 0, CHANNEL_DEFER_RESPONSES);
        while (now < end && world.n_out < most && push())
            ;
        /* In calm times nobody is killed and the gateway's sleep has no limit: a lost wake-up is a
         * stall, which no chance event mends. */
        bool calm = now >= end || now / (30 * NS_PER_MS) % 2;
        if (dice() % 8 == 0)
            disturb();
        if (dice() % 16 == 0 && now < end)
            storm();
        if (now >= next_kill && !calm) {
            kill(world.pid[dice() % workers], SIGKILL);
            next_kill = now + dice() % (4 * NS_PER_MS);
        }
        gateway_turn(calm ? STALL_MS : 2);
        reap();
    }
    unsigned long pushed = world.next_id,
                  told = world.answered + world.lost + world.canceled + world.gone;
    if (told < pushed)
        fail("%lu requests of %lu have no outcome", pushed - told, pushed);
    if (world.lost > world.kills)
        fail("%lu requests lost with %lu workers", world.lost, world.kills);
    printf("random: %u workers, seed %llu: %lu requests, %lu answered, %lu workers killed, "
           "%lu requests lost with them, %lu taken back, %lu clients gone\n",
           workers, (unsigned long long)seed, pushed, world.answered, world.kills, world.lost,
           world.canceled, world.gone);
    world_close();
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "all";
    bool all = strcmp(what, "all") == 0;
    struct sigaction sa = { .sa_handler = on_child };
    sigset_t child;

    setvbuf(stdout, NULL, _IOLBF, 0);
    sigaction(SIGCHLD, &sa, NULL);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    if (!all && strcmp(what, "worker") && strcmp(what, "gateway") && strcmp(what, "random")) {
        fprintf(stderr, "usage: channel_crash [worker | gateway | random [SECONDS [SEED]]]\n");
        return 2;
    }
    if (all || strcmp(what, "worker") == 0) {
        test_worker(64, false, false);
        test_worker(256, true, false);
        test_worker(4096, false, false);
        test_worker(64, false, true);
    }
    if (all || strcmp(what, "gateway") == 0)
        test_gateway();
    if (all || strcmp(what, "random") == 0) {
        unsigned seconds = argc > 2 ? (unsigned)atoi(argv[2]) : 8;
        uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 0) : clock_realtime_ns() | 1;
        test_random(1, (seconds + 1) / 2, seed);
        test_random(WORKERS_MAX, (seconds + 1) / 2, seed);
    }
    return 0;
}
