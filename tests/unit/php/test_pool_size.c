/*
 * src/php/pool_size.c by itself: which workers it wants, ends and replaces. Channel and workers are
 * played: a worker is a row of `workers`, and a process that does nothing stands for all of them.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "php/pool_int.h"
#include "test.h"

enum { SEATS = 11 };

static struct config_pool conf;
static struct seat seats[SEATS];
static struct pool pool = { .conf = &conf, .seats = seats };
static struct channel_worker_info workers[SEATS];
static uint32_t queued;
static pid_t process;

void channel_worker_look(const struct channel *ch, uint32_t worker, struct channel_worker_info *ret)
{
    (void)ch;
    *ret = workers[worker];
}

void channel_count(const struct channel *ch, struct channel_counters *ret)
{
    (void)ch;
    *ret = (struct channel_counters){ .queued = queued };
}

uint64_t worker_memory_pss(struct worker_memory *m)
{
    (void)m;
    return 0;
}

/* --- play ------------------------------------------------------------------------------------- */

static void start(uint32_t n_seats)
{
    process = fork();
    if (process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* also when a check fails */
        for (;;)
            pause();
    }
    CHECK(process > 0);
    pool.n_seats = n_seats;
    pool.channel = (struct channel *)(uintptr_t)&pool; /* there is one; nobody looks into it */
    pool_size_begin(&pool);
}

static void stop(void)
{
    kill(process, SIGKILL);
}

/* A worker in an empty seat, as pool.c would start it. */
static uint32_t start_worker(void)
{
    for (uint32_t i = 0; i < pool.n_seats; i++)
        if (seats[i].pid == 0) {
            seats[i] = (struct seat){ .pid = process,
                                      .incarnation = ++pool.incarnations,
                                      .started_ns = clock_monotonic_ns(),
                                      .max_requests = conf.worker_max_requests };
            workers[i] = (struct channel_worker_info){ .state = CHANNEL_WORKER_NONE };
            return i;
        }
    CHECKF(false, "no seat is empty");
}

static void attach(uint32_t i, unsigned state)
{
    workers[i] = (struct channel_worker_info){ .state = state,
                                               .incarnation = seats[i].incarnation,
                                               .pid = (uint32_t)seats[i].pid,
                                               .since_ns = clock_monotonic_ns() };
}

static void end_worker(uint32_t i)
{
    seats[i] = (struct seat){ .pid = 0 };
}

/* Whatever time has to pass has passed. */
static void look(void)
{
    pool.size.look_ns = pool.size.recycle_look_ns = 0;
    if (pool.size.excess_since_ns)
        pool.size.excess_since_ns = 1;
    pool_size_look(&pool);
}

/* As pool.c does: starts what is wanted. Returns how many. */
static uint32_t fill(unsigned state)
{
    uint32_t n = 0;

    while (pool_size_wants(&pool)) {
        attach(start_worker(), state);
        n++;
    }
    return n;
}

static uint32_t retiring(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < pool.n_seats; i++)
        n += seats[i].pid && seats[i].retiring;
    return n;
}

static void change(int32_t least, int32_t spare)
{
    conf.worker_min = least;
    conf.worker_spare = spare;
}

/* --- a fixed number --------------------------------------------------------------------------- */

TEST(a_fixed_pool_fills_its_seats_and_stays_so)
{
    change(CONFIG_AUTO, 0);
    start(4);
    EXPECT_INT(fill(CHANNEL_WORKER_IDLE), 4);
    queued = 100;
    look();
    EXPECT(!pool_size_wants(&pool));
    queued = 0;
    look();
    EXPECT_INT(retiring(), 0);
    end_worker(2);
    EXPECT(pool_size_wants(&pool));
    /* One that crashed is started again after a pause; until then nobody else takes its place. */
    seats[2].not_before_ns = clock_monotonic_ns() + 100 * NS_PER_S;
    EXPECT(!pool_size_wants(&pool));
    stop();
}

/* --- a number that changes -------------------------------------------------------------------- */

TEST(a_pool_grows_by_what_waits_up_to_its_most)
{
    change(1, 0);
    start(10);
    EXPECT_INT(fill(CHANNEL_WORKER_BUSY), 1); /* shows that the generation works */
    look();
    EXPECT(!pool_size_wants(&pool));
    queued = 3;
    look();
    EXPECT_INT(fill(CHANNEL_WORKER_NONE), 3);
    look(); /* they are coming: the same three requests start no more */
    EXPECT(!pool_size_wants(&pool));
    for (uint32_t i = 0; i < 4; i++)
        attach(i, CHANNEL_WORKER_BUSY);
    queued = 1000;
    look();
    EXPECT_INT(fill(CHANNEL_WORKER_BUSY), 6); /* ten seats in all */
    stop();
}

TEST(a_look_starts_eight_at_most)
{
    change(0, 0);
    start(SEATS);
    queued = 1000;
    (void)fill(CHANNEL_WORKER_BUSY);
    look();
    EXPECT_INT(fill(CHANNEL_WORKER_BUSY), 8);
    stop();
}

TEST(spare_workers_are_started_before_anybody_waits)
{
    change(1, 3);
    start(10);
    EXPECT_INT(fill(CHANNEL_WORKER_IDLE), 3);
    attach(0, CHANNEL_WORKER_BUSY);
    attach(1, CHANNEL_WORKER_BUSY);
    look();
    EXPECT_INT(fill(CHANNEL_WORKER_IDLE), 2);
    stop();
}

TEST(the_one_that_is_idle_for_longest_ends_first_and_the_least_stay)
{
    change(2, 1);
    conf.worker_idle_timeout_ms = 1;
    start(10);
    (void)fill(CHANNEL_WORKER_IDLE);
    queued = 6; /* two are idle: four more */
    look();
    (void)fill(CHANNEL_WORKER_IDLE);
    queued = 0;
    for (uint32_t i = 0; i < 6; i++)
        workers[i].since_ns = i == 3 ? 100 : 200; /* among equals the highest */
    static const uint32_t order[] = { 3, 5, 4, 2 };
    look(); /* begins to count the time */
    for (uint32_t i = 0; i < ARRAY_LENGTH(order); i++) {
        look();
        EXPECT(seats[order[i]].retiring);
        EXPECT_INT(retiring(), 1);
        end_worker(order[i]);
    }
    look();
    look();
    EXPECT_INT(retiring(), 0);
    EXPECT(!pool_size_wants(&pool));
    stop();
}

TEST(nobody_ends_while_requests_wait_or_all_are_busy)
{
    change(1, 0);
    conf.worker_idle_timeout_ms = 1;
    start(4);
    queued = 4;
    look();
    (void)fill(CHANNEL_WORKER_IDLE);
    for (int i = 0; i < 3; i++)
        look(); /* something waits, though they are idle: it will be taken */
    EXPECT_INT(retiring(), 0);
    queued = 0;
    for (uint32_t i = 0; i < 4; i++)
        if (seats[i].pid)
            attach(i, CHANNEL_WORKER_BUSY);
    for (int i = 0; i < 3; i++)
        look();
    EXPECT_INT(retiring(), 0);
    stop();
}

/* --- replacing -------------------------------------------------------------------------------- */

TEST(a_successor_serves_before_the_old_one_is_told_to_finish)
{
    change(CONFIG_AUTO, 0);
    conf.worker_max_requests = 100;
    start(4); /* three and a seat for the successor */
    EXPECT_INT(fill(CHANNEL_WORKER_IDLE), 3);
    workers[0].requests = workers[1].requests = 100;
    look();
    EXPECT(pool_size_wants(&pool));
    uint32_t fresh = start_worker();
    EXPECT_INT(fresh, 3);
    look();
    EXPECT_INT(retiring(), 0); /* it has not come to the channel yet */
    attach(fresh, CHANNEL_WORKER_IDLE);
    look();
    EXPECT(seats[0].retiring && !seats[1].retiring); /* one at a time */
    EXPECT(!pool_size_wants(&pool));
    end_worker(0);
    look();
    EXPECT(pool_size_wants(&pool));
    attach(start_worker(), CHANNEL_WORKER_IDLE);
    look();
    EXPECT(seats[1].retiring);
    stop();
}

TEST(an_old_worker_that_ends_by_itself_needs_no_telling)
{
    change(CONFIG_AUTO, 0);
    conf.worker_max_requests = 100;
    start(3);
    (void)fill(CHANNEL_WORKER_IDLE);
    workers[1].requests = 100;
    look();
    EXPECT(pool.size.recycled);
    end_worker(1);
    look();
    EXPECT(!pool.size.recycled);
    EXPECT(pool_size_wants(&pool));
    EXPECT_INT(fill(CHANNEL_WORKER_IDLE), 1);
    EXPECT_INT(retiring(), 0);
    stop();
}

TEST(age_and_memory_are_reasons_too)
{
    change(CONFIG_AUTO, 0);
    conf.worker_max_age_ms = 3600 * 1000;
    start(2);
    (void)fill(CHANNEL_WORKER_IDLE);
    look();
    EXPECT(!pool.size.recycled);
    seats[0].started_ns = clock_monotonic_ns() - 3601 * NS_PER_S;
    look();
    EXPECT(pool.size.recycled);
    pool_size_begin(&pool);
    conf.worker_max_age_ms = 0;
    conf.worker_max_memory = 1;
    look();
    EXPECT(pool.size.recycled);
    stop();
}

TEST(nothing_happens_while_it_drains_or_boots)
{
    change(1, 0);
    conf.worker_max_requests = 100;
    start(4);
    (void)fill(CHANNEL_WORKER_IDLE);
    workers[0].requests = 100;
    queued = 9;
    pool.draining = true;
    look();
    pool.draining = false;
    pool.boots = true;
    look();
    EXPECT(pool_size_next_ns(&pool) == UINT64_MAX);
    pool.boots = false;
    pool.gateway_gone = true;
    look();
    EXPECT(!pool.size.recycled && !pool_size_wants(&pool));
    pool.gateway_gone = false;
    look();
    EXPECT(pool.size.recycled && pool_size_wants(&pool));
    EXPECT(pool_size_next_ns(&pool) < UINT64_MAX);
    stop();
}
