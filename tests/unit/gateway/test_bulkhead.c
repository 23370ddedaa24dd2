/*
 * src/gateway/bulkhead.c by itself: its gateway, channel and clients are played here. A request
 * enters when the test says so, runs for as long as the test says, and leaves.
 */
#include <stdio.h>

#include "base/clock.h"
#include "gateway/stats.h"
#include "test.h"

enum { CLIENTS = 400, WORKERS = 8 };

static struct config_pool pool = {
    .slow_lane = true, .slow_lane_share = 50, .queue_size = 100, .queue_timeout_ms = 1000
};
static struct config config = { .pools = &pool, .n_pools = 1 };
static struct gate slow_lane = { .index = PLACES_MAX };
static struct place route = { .index = PLACE_FIRST_POOL + 1, .name = "route prefix /api/" };
static struct gateway gateway = { .config = &config, .n_threads = 1, .slow_lanes = &slow_lane };
static struct gateway_thread thread = { .gateway = &gateway };
static struct pool_link link = { .config = &config, .workers = WORKERS };
static struct backend backend = { .thread = &thread, .pool = &link };

/* One request. The test is its worker: `runs` while one has it, `took_ns` when it is done. */
struct client {
    struct conn conn;
    struct exchange x;
    bool runs;
    int status; /* of an answer that no worker gave */
    int again;  /* times it was dispatched again */
};
static struct client clients[CLIENTS];
static uint64_t took_ns;

/* --- the rest of the gateway ------------------------------------------------------------------ */

void conn_deadline(struct conn *c, uint64_t timeout_ms)
{
    (void)c;
    EXPECT_INT(timeout_ms, pool.queue_timeout_ms);
}

void respond_status(struct exchange *x, int status, struct str extra)
{
    EXPECT(str_eq(extra, STR("Retry-After: 1\r\n")));
    CONTAINER_OF(x, struct client, x)->status = status;
}

void exchange_dispatch_again(struct exchange *x)
{
    struct client *c = CONTAINER_OF(x, struct client, x);

    c->again++;
    c->runs = bulkhead_enter(x, &backend, true);
    EXPECT(c->runs);
}

void thread_tell(struct gateway_thread *t, void (*run)(struct gateway_thread *, struct command *),
                 struct pool_link *to, uint32_t worker, uint32_t incarnation)
{
    (void)t, (void)run, (void)to, (void)worker, (void)incarnation;
    EXPECT(false); /* there is one thread */
}

static struct client *client_of(struct channel_ticket ticket)
{
    return &clients[ticket.slot];
}

enum channel_state channel_ticket_state(const struct channel *ch, struct channel_ticket t,
                                        uint32_t *ret_worker)
{
    (void)ch;
    *ret_worker = t.slot;
    return client_of(t)->runs ? CHANNEL_RUNNING : CHANNEL_DONE;
}

void channel_worker_look(const struct channel *ch, uint32_t worker, struct channel_worker_info *ret)
{
    (void)ch;
    memset(ret, 0, sizeof(*ret));
    ret->state = clients[worker].runs ? CHANNEL_WORKER_BUSY : CHANNEL_WORKER_IDLE;
    ret->ticket = clients[worker].x.ticket;
}

uint64_t channel_claimed_ns(const struct channel *ch, struct channel_ticket t)
{
    (void)ch;
    (void)t;
    return clock_monotonic_ns() - took_ns;
}

/* --- play ------------------------------------------------------------------------------------- */

static void start(void)
{
    CHECK(loop_new(&thread.loop) == 0);
    bulkhead_init(&thread);
    link.channel = (struct channel *)(uintptr_t)&link; /* there is one; nobody looks into it */
    thread.active[0] = &backend;
    gateway.places[route.index] = &route;
    route.gate.index = route.index;
    atomic_store(&gateway.n_places, route.index + 1);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        struct client *c = &clients[i];
        *c = (struct client){ .conn = { .thread = &thread } };
        c->x.conn = &c->conn;
        c->x.ticket.slot = i;
        list_init(&c->x.link);
        list_init(&c->x.class_link);
    }
}

static void limit_route(uint32_t limit, uint32_t queue_size)
{
    atomic_store(&route.gate.limit, limit);
    atomic_store(&route.gate.queue_size, queue_size);
}

/* True: it runs now. */
static bool enter(struct client *c, struct place *place, const char *path)
{
    snprintf(thread.path, sizeof(thread.path), "%s", path);
    c->x.place = place;
    c->runs = bulkhead_enter(&c->x, &backend, true);
    return c->runs;
}

/* It is answered after a worker had it for so long. */
static void leave(struct client *c, uint64_t ms)
{
    uint64_t now = loop_now_ns(thread.loop);

    took_ns = ms * NS_PER_MS;
    /* the class is judged by when it was let in, at the latest */
    c->x.pushed_ns = c->x.pushed_ns < now - took_ns ? c->x.pushed_ns : now - took_ns;
    bulkhead_leave(&c->x, &backend, c->x.ticket, true);
    c->runs = false;
    bulkhead_poll(&thread);
}

static uint32_t held_by(const struct gate *g)
{
    return atomic_load(&g->running);
}

/* --- gates ------------------------------------------------------------------------------------ */

TEST(a_route_without_a_limit_is_no_gate)
{
    start();
    pool.slow_lane = false;
    for (int i = 0; i < 20; i++)
        EXPECT(enter(&clients[i], &route, "/api/x"));
    EXPECT_INT(held_by(&route.gate), 0);
}

TEST(a_full_gate_lets_in_one_for_each_that_leaves_in_order)
{
    start();
    pool.slow_lane = false;
    limit_route(2, 10);
    EXPECT(enter(&clients[0], &route, "/api/x") && enter(&clients[1], &route, "/api/x"));
    for (int i = 2; i < 6; i++)
        EXPECT(!enter(&clients[i], &route, "/api/x"));
    EXPECT(enter(&clients[9], NULL, "/other")); /* no gate of its own */
    EXPECT_INT(atomic_load(&route.gate.waiting), 4);
    leave(&clients[1], 1);
    EXPECT(clients[2].runs && !clients[3].runs);
    leave(&clients[0], 1);
    leave(&clients[2], 1);
    EXPECT(clients[3].runs && clients[4].runs && !clients[5].runs);
    EXPECT_INT(held_by(&route.gate), 2);
    EXPECT_INT(atomic_load(&route.gate.waited), 4);
    for (int i = 3; i < 6; i++)
        leave(&clients[i], 1);
    EXPECT_INT(held_by(&route.gate), 0);
    EXPECT_INT(atomic_load(&route.gate.waiting), 0);
}

TEST(a_full_queue_is_503)
{
    start();
    pool.slow_lane = false;
    limit_route(1, 2);
    EXPECT(enter(&clients[0], &route, "/api/x"));
    EXPECT(!enter(&clients[1], &route, "/api/x") && !enter(&clients[2], &route, "/api/x"));
    EXPECT(!enter(&clients[3], &route, "/api/x"));
    EXPECT_INT(clients[3].status, 503);
    EXPECT(clients[1].status == 0 && clients[2].status == 0);
    EXPECT_INT(atomic_load(&route.gate.refused), 1);
    leave(&clients[0], 1);
    EXPECT(clients[1].runs);
}

TEST(a_client_that_leaves_the_queue_gives_its_place_up)
{
    start();
    pool.slow_lane = false;
    limit_route(1, 10);
    EXPECT(enter(&clients[0], &route, "/api/x"));
    for (int i = 1; i < 4; i++)
        EXPECT(!enter(&clients[i], &route, "/api/x"));
    EXPECT(bulkhead_withdraw(&clients[1].x));
    EXPECT(!bulkhead_withdraw(&clients[1].x));
    bulkhead_forget(&clients[2].x);
    EXPECT_INT(atomic_load(&route.gate.waiting), 1);
    leave(&clients[0], 1);
    EXPECT(clients[3].runs && !clients[1].runs && !clients[2].runs);
    bulkhead_forget(&clients[3].x); /* while it runs: the gate is free */
    EXPECT_INT(held_by(&route.gate), 0);
}

TEST(a_worker_that_goes_on_without_its_client_keeps_the_gate)
{
    start();
    pool.slow_lane = false;
    limit_route(1, 10);
    EXPECT(enter(&clients[0], &route, "/api/x"));
    EXPECT(!enter(&clients[1], &route, "/api/x"));
    bulkhead_leave(&clients[0].x, &backend, clients[0].x.ticket, false);
    bulkhead_poll(&thread);
    EXPECT_INT(held_by(&route.gate), 1);
    EXPECT(!clients[1].runs);
    clients[0].runs = false; /* the worker is done */
    bulkhead_poll(&thread);
    EXPECT(clients[1].runs);
    /* A generation that goes takes what its workers hold with it. */
    bulkhead_leave(&clients[1].x, &backend, clients[1].x.ticket, false);
    bulkhead_drop(&backend);
    EXPECT_INT(held_by(&route.gate), 0);
}

TEST(questions_about_health_pass_every_gate)
{
    start();
    limit_route(1, 0);
    EXPECT(enter(&clients[0], &route, "/api/x"));
    clients[1].conn.source = CONN_FROM_UNIX + 1;
    EXPECT(enter(&clients[1], &route, "/api/x"));
    EXPECT(!enter(&clients[2], &route, "/api/x"));
}

/* --- the slow lane ---------------------------------------------------------------------------- */

/* `n` quick answers of other kinds: the rest that could suffer. */
static void play_rest(int n)
{
    for (int i = 0; i < n; i++) {
        EXPECT(enter(&clients[CLIENTS - 1], NULL, i % 2 ? "/shop/1" : "/news/2"));
        leave(&clients[CLIENTS - 1], 2);
    }
}

static void see_slow(void *ctx, const struct lane_class *c, double mean_ms)
{
    snprintf(ctx, LANE_NAME_BYTES, "%s", c->name);
    EXPECT(mean_ms >= 100);
}

TEST(a_slow_class_holds_its_share_and_the_others_go_on)
{
    char name[LANE_NAME_BYTES] = "";

    start();
    play_rest(40);
    EXPECT(enter(&clients[0], NULL, "/report/17/all"));
    leave(&clients[0], 900);
    /* Half of 8 workers, less the one for what is not known yet; whatever the number in the path.
     */
    for (int i = 0; i < 3; i++)
        EXPECT(enter(&clients[i], NULL, i % 2 ? "/report/4" : "/report/5/pdf"));
    for (int i = 3; i < 6; i++)
        EXPECT(!enter(&clients[i], NULL, "/report/6"));
    bulkhead_look(&thread, 0, see_slow, name);
    EXPECT(strcmp(name, "/report/*") == 0);
    for (int i = 10; i < 30; i++)
        EXPECT(enter(&clients[i], NULL, "/shop/9"));
    EXPECT_INT(held_by(&slow_lane), 3);
    leave(&clients[0], 900);
    EXPECT(clients[3].runs && !clients[4].runs);
}

TEST(nothing_is_limited_where_nobody_would_suffer)
{
    start();
    for (int i = 0; i < 5; i++) {
        EXPECT(enter(&clients[0], NULL, "/report/1"));
        leave(&clients[0], 900);
    }
    for (int i = 0; i < 20; i++)
        EXPECT(enter(&clients[i], NULL, "/report/2"));
    EXPECT_INT(held_by(&slow_lane), 0);
}

TEST(a_class_that_has_become_fast_is_let_go)
{
    start();
    play_rest(40);
    EXPECT(enter(&clients[0], NULL, "/report/1"));
    leave(&clients[0], 300);
    for (int i = 0; i < 100; i++) {
        EXPECT(enter(&clients[0], NULL, "/report/1"));
        leave(&clients[0], 2);
    }
    for (int i = 0; i < 20; i++)
        EXPECT(enter(&clients[i], NULL, "/report/1"));
    EXPECT_INT(held_by(&slow_lane), 0);
}

TEST(more_classes_than_there_is_room_for_lose_no_count)
{
    char path[64];

    start();
    play_rest(40);
    for (int round = 0; round < 3; round++) {
        /* Hundreds at once, more than the table holds in some of its rows, and all of them end. */
        for (int i = 0; i < CLIENTS - 1; i++) {
            snprintf(path, sizeof(path), "/kind%d-%d/x", round, i);
            (void)enter(&clients[i], NULL, path);
        }
        for (int i = 0; i < CLIENTS - 1; i++)
            bulkhead_forget(&clients[i].x);
        bulkhead_poll(&thread);
        EXPECT_INT(held_by(&slow_lane), 0);
        EXPECT_INT(atomic_load(&slow_lane.waiting), 0);
    }
    const struct lane *lane = thread.lanes[0];
    for (size_t i = 0; i < ARRAY_LENGTH(lane->classes); i++)
        EXPECT_INT(lane->classes[i].n_running, 0);
}
