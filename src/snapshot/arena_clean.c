/*
 * The arena after a job: what the job mapped for itself is zeroed, so that the next one finds zeros
 * without taking faults, or dropped if it is much. Runs while memory is restored: no libc.
 */
#include "snapshot/arena_int.h"

enum { KEEP_RESIDENT_PAGES = 2048 }; /* beyond it memory is given back instead of zeroed */

void snapshot_arena_restore_protection(void)
{
    struct snapshot_self *s = snapshot_self;

    for (uint32_t i = 0; i < s->n_job_odd && !s->maps_touched; i++)
        raw_mprotect(s->job_odd[i].start, s->job_odd[i].end - s->job_odd[i].start,
                     PROT_READ | PROT_WRITE);
    s->n_job_odd = 0;
}

/* Pages of the image may lie between two maps of a job that were noted as one. */
static void clean(uintptr_t start, uintptr_t end, bool drop)
{
    struct dirty_runs d;

    pagemap_start(&d, start, end);
    while (pagemap_next(&d)) {
        for (uint32_t i = 0; i < d.n; i++) {
            size_t bytes = d.run[i].end - d.run[i].start;
            snapshot_self->stats.arena_zeroed += bytes / PAGE_BYTES;
            if (!drop)
                snapshot_zero((void *)d.run[i].start, bytes);
            else
                CHECK(raw_madvise(d.run[i].start, bytes, MADV_DONTNEED) == 0);
        }
    }
}

static uint64_t count(const struct range *r)
{
    struct dirty_runs d;
    uint64_t pages = 0;

    pagemap_start(&d, r->start, r->end);
    while (pagemap_next(&d))
        for (uint32_t i = 0; i < d.n; i++)
            pages += (d.run[i].end - d.run[i].start) / PAGE_BYTES;
    return pages;
}

/* Free memory, zeroed, which earlier jobs have written to. */
void snapshot_arena_rest(void)
{
    const struct snapshot_self *s = snapshot_self;

    snapshot_each_gap(s->arena.start, s->arena_top, true, clean);
}

void snapshot_arena_rollback(void)
{
    struct snapshot_self *s = snapshot_self;
    uint64_t pages = 0;

    for (uint32_t i = 0; i < s->n_job_maps; i++) {
        const struct range *r = &s->job_maps[i];
        pages += count(r);
        snapshot_each_gap(r->start, r->end, pages > KEEP_RESIDENT_PAGES, clean);
    }
    for (uint32_t i = 0; i < s->n_unveiled; i++)
        snapshot_each_gap(s->unveiled[i].start, s->unveiled[i].end, true, clean);
    s->n_job_maps = s->n_unveiled = 0;
}
