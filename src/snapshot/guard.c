/*
 * Guard pages inside of mappings (MADV_GUARD_INSTALL, Linux 6.13): glibc 2.42 puts one below the
 * stack of each thread, and keeps the stacks of threads that have ended. No table of mappings shows
 * them, reading one is a SIGSEGV, and a mapping made over them takes them away. So before the image
 * is made they become what guard pages used to be: pages without permissions, which glibc gives
 * back to the kernel together with the stack, as ever.
 */
#include "snapshot/snapshot_int.h"

/* From include/uapi/asm-generic/mman-common.h of Linux 6.13; Debian 12's headers are older. */
enum { POPULATE_READ = 22, GUARD_INSTALL = 102, GUARD_REMOVE = 103 };

struct guards {
    struct range v[GUARDS_MAX];
    uint32_t n;
};

static int add(struct guards *g, uintptr_t page)
{
    if (g->n && g->v[g->n - 1].end == page) {
        g->v[g->n - 1].end += PAGE_BYTES;
        return 0;
    }
    if (g->n == GUARDS_MAX)
        return -E2BIG;
    g->v[g->n++] = (struct range){ page, page + PAGE_BYTES };
    return 0;
}

/* The kernel looks at every page of the run; all but guard pages are there, or in swap. */
static int look(struct guards *g, uintptr_t start, uintptr_t end)
{
    size_t pages = (end - start) / PAGE_BYTES;
    long rc = raw_madvise(start, end - start, POPULATE_READ);

    if (rc != -EFAULT)
        return rc == -ENOMEM ? (int)rc : 0;
    if (pages == 1)
        return add(g, start);
    uintptr_t middle = start + pages / 2 * PAGE_BYTES;
    int error = look(g, start, middle);
    return error < 0 ? error : look(g, middle, end);
}

static int find(void *context, const struct map *m)
{
    struct dirty_runs d;
    int rc = 0;

    if (m->shared || !(m->prot & PROT_READ) || !(m->prot & PROT_WRITE) || m->start >> 63 ||
        snapshot_is_kept(m->start, m->end))
        return 0;
    pagemap_start(&d, m->start, m->end);
    while (rc == 0 && pagemap_next(&d))
        for (uint32_t i = 0; rc == 0 && i < d.n; i++)
            rc = look(context, d.run[i].start, d.run[i].end);
    return rc;
}

int guards_to_protections(void)
{
    struct guards *g = snapshot_keep_alloc(sizeof(*g));
    int rc = g ? maps_read(false, find, g) : -ENOMEM;

    for (uint32_t i = 0; rc == 0 && i < g->n; i++) {
        size_t bytes = g->v[i].end - g->v[i].start;
        rc = (int)raw_mprotect(g->v[i].start, bytes, PROT_NONE);
        if (rc == 0)
            rc = (int)raw_madvise(g->v[i].start, bytes, GUARD_REMOVE);
    }
    return rc;
}
