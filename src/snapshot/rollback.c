/*
 * Rollback: kernel state first, as long as it still can be refused; then memory, on the room's own
 * stack and without libc; then the registers. What a job pays for is what it dirtied: hot pages are
 * compared with the image and copied, cold ones are looked for only when the process took faults.
 */
#include <errno.h>
#include <time.h>

#include "snapshot/arena_int.h"

enum {
    PROMOTE_WITHIN = 256,     /* a page dirtied twice within so many rollbacks becomes hot */
    PROMOTE_WITHIN_BURST = 4, /* after a job that dirtied much */
    BURST_PAGES = 1024,
    HOT_CHEAP_PAGES = 512, /* above it pages leave the sooner */
    HOT_LEAST_AGE = 16,
    SCRATCH_EVERY = 256, /* rollbacks after which scratch pages are given back */
    PACE_MS = 100,       /* or as many more as this time sees */
    PACE_MOST = 64,      /* times as many */
};

static uint64_t now_ns(void)
{
    struct timespec t;

    raw2(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static const char *image_of(uint64_t page)
{
    return snapshot_self->view + page * PAGE_BYTES;
}

/* Memory with holes, piece by piece. */
static void mend_around_holes(uintptr_t at, size_t bytes, const char *image)
{
    const struct snapshot_self *s = snapshot_self;
    uintptr_t from = at, end = at + bytes;

    for (uint32_t i = 0; i < s->n_holes && from < end; i++) {
        const struct range *h = &s->holes[i];
        if (h->end <= from || h->start >= end)
            continue;
        if (h->start > from)
            snapshot_mend((void *)from, image + (from - at), h->start - from);
        from = h->end;
    }
    if (from < end)
        snapshot_mend((void *)from, image + (from - at), end - from);
}

static void drop(uintptr_t start, uintptr_t end)
{
    long rc = raw_madvise(start, end - start, MADV_DONTNEED);

    if (rc == -EINVAL) { /* the job locked memory; nothing of the image is */
        raw1(SYS_munlockall, 0);
        rc = raw_madvise(start, end - start, MADV_DONTNEED);
    }

    CHECKF(rc == 0, "MADV_DONTNEED %lx-%lx: %ld", (unsigned long)start, (unsigned long)end, rc);
}

static struct page page_dirtied(uint32_t turn)
{
    return (struct page){ PAGE_COLD, turn % TURNS ? turn % TURNS : 1 };
}

/* To forget pages costs those that are used again a fault each, and a scan. Where jobs are short it
 * happens after more of them. */
static void set_pace(uint64_t now, uint32_t turn)
{
    struct snapshot_self *s = snapshot_self;

    if (s->paced && turn % SCRATCH_EVERY == 0) {
        uint64_t took = now - s->paced_ns;
        uint64_t pace = PACE_MS * UINT64_C(1000000) / (took ? took : 1);
        s->pace = pace < 1 ? 1 : pace > PACE_MOST ? PACE_MOST : (uint32_t)pace;
        s->paced_ns = now;
    }
}

/* For how many rollbacks a hot page may be found unchanged. */
static uint32_t hot_age(const struct snapshot_self *s)
{
    uint64_t age = (uint64_t)s->options.hot_period * s->pace;

    if (s->n_hot > HOT_CHEAP_PAGES)
        age = age * HOT_CHEAP_PAGES / s->n_hot;
    return age < HOT_LEAST_AGE ? HOT_LEAST_AGE : (uint32_t)age;
}

static void restore_hot(uint32_t turn)
{
    struct snapshot_self *s = snapshot_self;
    uint32_t age = hot_age(s), n = 0;
    uint64_t copied = 0;

    for (uint32_t i = 0; i < s->n_hot; i++) {
        struct hot_page h = s->hot[i];
        const struct hot_page *next = &s->hot[i + 1 < s->n_hot ? i + 1 : i];
        const char *image = image_of(h.page);
        if (unlikely(s->pages[h.page].kind == PAGE_PINNED)) {
            mend_around_holes(h.at, PAGE_BYTES, image);
            copied++;
        } else if (unlikely(s->rests)) {
            /* a job that dirties it again soon dirties it always */
            s->pages[h.page] = page_dirtied(turn);
            drop(h.at, h.at + PAGE_BYTES);
            continue;
        } else if (snapshot_put_back((void *)h.at, image, (const void *)next->at,
                                     image_of(next->page))) {
            h.changed = turn;
            copied++;
        } else if (unlikely(turn - h.changed > age)) {
            s->pages[h.page] = (struct page){ PAGE_COLD, 0 };
            drop(h.at, h.at + PAGE_BYTES);
            continue;
        }
        s->hot[n++] = h;
    }
    s->n_hot = n;
    s->stats.last_hot = copied;
    s->stats.hot_copied += copied;
}

/* --- cold pages ------------------------------------------------------------------------------- */

struct scan {
    uint32_t turn, within, region;
    uint64_t found;
    bool learn; /* what it finds was dirtied by a job, not before a fork */
    struct range dropping;
};

static void drop_later(struct scan *c, uintptr_t at)
{
    if (c->dropping.end == at) {
        c->dropping.end += PAGE_BYTES;
        return;
    }
    if (c->dropping.end)
        drop(c->dropping.start, c->dropping.end);
    c->dropping = (struct range){ at, at + PAGE_BYTES };
}

static void cold_page(struct scan *c, const struct region *r, uintptr_t at, uint32_t page)
{
    struct snapshot_self *s = snapshot_self;
    struct page *p = &s->pages[page];

    if (p->kind != PAGE_COLD)
        return;
    if (++c->found == BURST_PAGES)
        c->within = PROMOTE_WITHIN_BURST;
    if (c->learn && p->dirtied && (c->turn - p->dirtied) % TURNS <= c->within &&
        s->n_hot < s->options.hot_max && r->prot & PROT_WRITE) {
        p->kind = PAGE_HOT;
        s->hot[s->n_hot++] = (struct hot_page){ at, page, c->turn };
        snapshot_copy((void *)at, image_of(page), PAGE_BYTES);
        return;
    }
    if (c->learn)
        *p = page_dirtied(c->turn);
    drop_later(c, at);
}

static void cold_run(struct scan *c, uintptr_t start, uintptr_t end)
{
    const struct snapshot_self *s = snapshot_self;

    while (start < end && c->region < s->n_regions) {
        const struct region *r = &s->regions[c->region];
        if (start >= r->end) {
            c->region++;
            continue;
        }
        uintptr_t at = start > r->start ? start : r->start;
        uintptr_t stop = end < r->end ? end : r->end;
        uint32_t page = (uint32_t)(r->page + (at - r->start) / PAGE_BYTES);
        for (; at < stop; at += PAGE_BYTES)
            cold_page(c, r, at, page++);
        if (end <= r->end)
            return;
        start = r->end;
    }
}

static void restore_cold(uint32_t turn, bool learn)
{
    struct snapshot_self *s = snapshot_self;
    struct scan c = { .turn = turn, .within = PROMOTE_WITHIN, .learn = learn };
    struct dirty_runs d;

    for (uint32_t i = 0; i < s->n_spans; i++) {
        pagemap_start(&d, s->spans[i].start, s->spans[i].end);
        while (pagemap_next(&d))
            for (uint32_t k = 0; k < d.n; k++)
                cold_run(&c, d.run[k].start, d.run[k].end);
    }
    if (c.dropping.end)
        drop(c.dropping.start, c.dropping.end);
    s->stats.scans++;
    s->stats.last_cold = c.found;
    s->stats.cold_dropped += c.found;
}

/* What only a large job has written to stays resident for nothing; what every job writes to costs
 * it a fault each once in a while. */
static void give_scratch_back(void)
{
    const struct snapshot_self *s = snapshot_self;
    uintptr_t stack = page_down(s->stack.start);

    for (uint32_t i = 0; i < s->n_scratch_ranges; i++)
        drop(s->scratch[i].start, s->scratch[i].end);
    /* part of it may never have been mapped */
    raw_madvise(stack - STACK_BYTES, STACK_BYTES, MADV_DONTNEED);
}

static void each_unkept(uintptr_t start, uintptr_t end, bool drop_them,
                        void (*each)(uintptr_t start, uintptr_t end, bool drop))
{
    while (start < end) {
        uintptr_t stop = snapshot_kept_border(start, end);
        if (!snapshot_is_kept(start, stop))
            each(start, stop, drop_them);
        start = stop;
    }
}

void snapshot_each_gap(uintptr_t start, uintptr_t end, bool drop_them,
                       void (*each)(uintptr_t start, uintptr_t end, bool drop))
{
    const struct snapshot_self *s = snapshot_self;

    for (uint32_t i = 0; i < s->n_regions && start < end; i++) {
        const struct region *r = &s->regions[i];
        if (r->end <= start || r->start >= end)
            continue;
        if (r->start > start)
            each_unkept(start, r->start, drop_them, each);
        start = r->end;
    }
    if (start < end)
        each_unkept(start, end, drop_them, each);
}

/* --- the call --------------------------------------------------------------------------------- */

struct rolling {
    struct snapshot_refusal *refusal;
    uint64_t started_ns, faults;
};

static void restore_memory(const struct rolling *r)
{
    struct snapshot_self *s = snapshot_self;
    uint32_t turn = (uint32_t)++s->stats.rollbacks;

    s->stats.last_cold = 0;
    set_pace(r->started_ns, turn);
    restore_hot(turn);
    if (r->faults != s->faults || s->scan_next)
        restore_cold(turn, !s->scan_next);
    s->scan_next = false;
    if (turn % (SCRATCH_EVERY * s->pace) == 0 || s->rests)
        give_scratch_back();
    snapshot_arena_rollback();
    if (s->rests)
        snapshot_arena_rest();
    s->stats.rests += s->rests;
    s->rests = false;
    for (uint32_t i = 0; i < s->n_wiped; i++)
        drop(s->wiped[i].start, s->wiped[i].end);
    mend_around_holes(s->stack.start, s->stack.end - s->stack.start, s->stack_copy);
    s->generation++;
}

static long roll(void *arg)
{
    struct snapshot_self *s = snapshot_self;
    const struct rolling r = *(const struct rolling *)arg;
    int rc = 0;

    if (s->pid != (pid_t)raw1(SYS_getpid, 0)) {
        s->scan_next = true;
        rc = fds_open_own();
        if (rc < 0)
            return snapshot_refuse(r.refusal, SNAPSHOT_SYSTEM, -rc, "/proc after a fork");
        fds_make_own();
    }
    rc = kernel_state_restore(r.refusal);
    if (rc < 0)
        return rc;
    restore_memory(&r);
    if (s->options.verify)
        snapshot_verify();
    s->stats.last_ns = now_ns() - r.started_ns;
    s->stats.total_ns += s->stats.last_ns;
    s->faults = kernel_faults();
    snapshot_context_resume(&s->context);
}

int snapshot_rollback(struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    uint64_t all = UINT64_MAX, before = 0;

    CHECK(s && s->magic == SELF_MAGIC);
    if (!s->frozen)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, EINVAL, "there is no image to go back to");
    struct rolling r = { ret, now_ns(), kernel_faults() };
    raw4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&before, 8);
    int rc = (int)snapshot_call_on((void *)s->own_stack_top, roll, &r);
    raw4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&before, 0, 8);
    return rc;
}

int snapshot_rest(struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;

    CHECK(s && s->magic == SELF_MAGIC);
    s->rests = true;
    int rc = snapshot_rollback(ret);
    s->rests = false; /* refused */
    return rc;
}

/* --- reports ---------------------------------------------------------------------------------- */

static bool is_changed(uintptr_t at)
{
    const struct snapshot_self *s = snapshot_self;

    for (uint32_t i = 0; i < s->n_regions; i++) {
        const struct region *r = &s->regions[i];
        if (at < r->start || at >= r->end)
            continue;
        uint64_t page = r->page + (at - r->start) / PAGE_BYTES;
        return s->pages[page].kind != PAGE_SCRATCH && r->prot & PROT_READ &&
               !snapshot_same((const void *)at, image_of(page), PAGE_BYTES);
    }
    return false;
}

int snapshot_dirty(void (*each)(void *context, const void *addr, size_t bytes), void *context)
{
    struct snapshot_self *s = snapshot_self;
    struct range run = { 0, 0 };
    struct dirty_runs d;

    CHECK(s && s->magic == SELF_MAGIC);
    if (!s->frozen)
        return -EINVAL;
    for (uint32_t i = 0; i < s->n_spans; i++) {
        pagemap_start(&d, s->spans[i].start, s->spans[i].end);
        while (pagemap_next(&d)) {
            for (uint32_t k = 0; k < d.n; k++) {
                for (uintptr_t at = d.run[k].start; at < d.run[k].end; at += PAGE_BYTES) {
                    if (!is_changed(at))
                        continue;
                    if (run.end && run.end != at)
                        each(context, (const void *)run.start, run.end - run.start);
                    run.start = run.end == at ? run.start : at;
                    run.end = at + PAGE_BYTES;
                }
            }
        }
    }
    if (run.end)
        each(context, (const void *)run.start, run.end - run.start);
    return 0;
}
