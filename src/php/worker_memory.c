/*
 * The memory of a worker through a descriptor of its /proc/self/mem: see stack.h. Pages are kept
 * for the time of one look, so that a stack of twenty frames takes about ten pread() of a third of
 * a microsecond each; opcache's memory is mapped here at the same place and takes none.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "php/stack.h"

enum { PAGE = 4096, PAGES = 64, REGIONS = 8, LOOKS = 5 };

struct page_cache {
    int fd;
    uint64_t at[PAGES]; /* address of the page, 0: none */
    char bytes[PAGES][PAGE];
};

static struct {
    uint64_t begin, end;
} shared_regions[REGIONS];
static unsigned n_shared_regions;

/* --- the two descriptors ---------------------------------------------------------------------- */

int worker_memory_init(struct worker_memory *m, int *ret_worker_end)
{
    int ends[2];
    int rc = fd_seqpacket_pair(ends);

    *m = WORKER_MEMORY_NONE;
    if (rc < 0)
        return rc;
    m->socket = ends[0];
    *ret_worker_end = ends[1];
    return 0;
}

void worker_memory_offer(int worker_end)
{
    prctl(PR_SET_DUMPABLE, 1); /* for these two lines: its owner may not open it otherwise */
    int fds[] = { open("/proc/self/mem", O_RDONLY | O_CLOEXEC),
                  open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC) };
    prctl(PR_SET_DUMPABLE, 0);
    size_t n = fds[0] < 0 ? 0 : fds[1] < 0 ? 1 : 2;
    int rc = n ? fd_send(worker_end, "m", 1, fds, n) : 0;

    (void)rc; /* without it there are no stacks of this worker; it works all the same */
    fd_close(&fds[0]);
    fd_close(&fds[1]);
    fd_close(&worker_end);
}

static void take_descriptors(struct worker_memory *m)
{
    int fds[2] = { -1, -1 }, flags;
    size_t n = 0;
    char text[4];

    if (m->socket < 0)
        return;
    flags = fcntl(m->socket, F_GETFL);
    (void)fcntl(m->socket, F_SETFL, flags | O_NONBLOCK);
    ssize_t got = fd_receive(m->socket, text, sizeof(text), fds, 2, &n);
    if (got == -EAGAIN || got == -EINTR)
        return; /* it has only just been forked */
    fd_close(&m->socket);
    m->fd = n > 0 ? fds[0] : -1;
    m->rollup = n > 1 ? fds[1] : -1;
}

void worker_memory_fini(struct worker_memory *m)
{
    fd_close(&m->socket);
    fd_close(&m->fd);
    fd_close(&m->rollup);
}

/* --- reading ---------------------------------------------------------------------------------- */

void worker_memory_find_shared(void)
{
    FILE *f = fopen("/proc/self/maps", "re");
    unsigned long begin, end;
    char line[512], mode[8], name[256];

    n_shared_regions = 0;
    while (f && n_shared_regions < REGIONS && fgets(line, sizeof(line), f)) {
        name[0] = '\0';
        if (sscanf(line, "%lx-%lx %7s %*s %*s %*s %255[^\n]", &begin, &end, mode, name) >= 3 &&
            mode[0] == 'r' && mode[3] == 's' && str_has_prefix(str_from(name), STR("/dev/zero"))) {
            shared_regions[n_shared_regions].begin = begin;
            shared_regions[n_shared_regions++].end = end;
        }
    }
    if (f)
        fclose(f);
}

static bool is_shared(uint64_t address, size_t n)
{
    for (unsigned i = 0; i < n_shared_regions; i++)
        if (address >= shared_regions[i].begin && address < shared_regions[i].end &&
            n <= shared_regions[i].end - address)
            return true;
    return false;
}

static const char *page_of(struct page_cache *c, uint64_t page)
{
    unsigned i = (unsigned)(page / PAGE) % PAGES;

    if (c->at[i] == page)
        return c->bytes[i];
    c->at[i] = 0;
    if (pread(c->fd, c->bytes[i], PAGE, (off_t)page) != PAGE)
        return NULL;
    c->at[i] = page;
    return c->bytes[i];
}

static bool read_worker(void *ctx, uint64_t address, void *into, size_t n)
{
    struct page_cache *c = ctx;
    char *to = into;

    if (is_shared(address, n)) {
        memcpy(into, (const char *)(uintptr_t)address, n);
        return true;
    }
    while (n) {
        uint64_t page = address & ~(uint64_t)(PAGE - 1);
        size_t offset = (size_t)(address - page), run = PAGE - offset < n ? PAGE - offset : n;
        const char *bytes = page_of(c, page);
        if (!bytes)
            return false;
        memcpy(to, bytes + offset, run);
        to += run;
        address += run;
        n -= run;
    }
    return true;
}

bool worker_memory_stack(struct worker_memory *m, const struct php_layout *l, unsigned depth,
                         struct php_stack *ret)
{
    static struct page_cache cache;
    struct stack_memory memory = { read_worker, &cache };

    take_descriptors(m);
    if (m->fd < 0)
        return false;
    cache.fd = m->fd;
    for (int look = 0; look < LOOKS; look++) {
        memset(cache.at, 0, sizeof(cache.at));
        php_stack_read(l, &memory, depth, ret);
        if (ret->n_frames && !ret->is_broken)
            break; /* else it changed while it was read: it has other frames a moment later */
    }
    return !(ret->is_broken && ret->n_frames == 0);
}

uint64_t worker_memory_pss(struct worker_memory *m)
{
    char text[2048];

    take_descriptors(m);
    ssize_t n = m->rollup < 0 ? -1 : pread(m->rollup, text, sizeof(text) - 1, 0);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    const char *line = strstr(text, "\nPss:");
    return line ? strtoull(line + 5, NULL, 10) * 1024 : 0;
}
