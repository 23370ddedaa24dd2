/*
 * What of PHP's memory need not be part of an image: pages that its allocator has free. Requests
 * write there before they read, so these pages need no rollback. (The free end of malloc's heap is
 * left out by the snapshot room.)
 *
 * Which pages are free stands in private tables of the engine's allocator. Where those tables lie
 * is found by experiment, in this very process, and believed only if everything about it fits:
 * builds differ (Debian's PHP 8.2.36 is not that of its headers). If it does not fit, all pages are
 * imaged, which is slower and as right.
 */
#include "php/engine/engine_int.h"

#include <malloc.h>

#include "zend_alloc_sizes.h"

enum {
    CHUNK_BYTES = ZEND_MM_CHUNK_SIZE,
    PAGE_BYTES = ZEND_MM_PAGE_SIZE,
    CHUNK_PAGES = CHUNK_BYTES / PAGE_BYTES,
    MAP_WORDS = CHUNK_PAGES / 64,
    HEAP_MAX = 1024, /* the heap's own struct is smaller */
    CHUNKS_MAX = 1 << 16,
    FIRST_PAGE_RUN = 0x40000001, /* what a chunk's table of pages begins with: one page, taken */
    HEAP_TOP_BYTES = 1 << 20,    /* free end of malloc's heap to leave to requests */
};

/* The head of each chunk of memory, the same in PHP 8.2 to 8.5. */
struct chunk {
    void *heap;
    struct chunk *next, *prev;
    uint32_t free_pages, free_tail, num;
};

static struct {
    bool known;
    size_t free_slot; /* in the heap: heads of the lists of free small blocks */
    size_t free_map;  /* in a chunk: one bit a page */
} layout;

#define BIN_BYTES(num, size, elements, pages, x, y) size,
static const size_t bin_bytes[] = { ZEND_MM_BINS_INFO(BIN_BYTES, x, y) };
enum { BINS = sizeof(bin_bytes) / sizeof(bin_bytes[0]) };
#define BIN_PAGES(num, size, elements, pages, x, y) pages,
static const uint8_t bin_pages[] = { ZEND_MM_BINS_INFO(BIN_PAGES, x, y) };

static struct chunk *first_chunk(void)
{
    return (struct chunk *)((uintptr_t)zend_mm_get_heap() & ~(uintptr_t)(CHUNK_BYTES - 1));
}

static const uint64_t *free_map(const struct chunk *c, size_t offset)
{
    return (const uint64_t *)((const char *)c + offset);
}

static uint32_t taken_pages(const uint64_t *map)
{
    uint32_t n = 0;

    for (int i = 0; i < MAP_WORDS; i++)
        n += (uint32_t)__builtin_popcountll(map[i]);
    return n;
}

static bool page_taken(const uint64_t *map, size_t page)
{
    return map[page / 64] >> (page % 64) & 1;
}

/* A block of each size, freed again, must be what its list begins with. The smallest size has a
 * list in all builds, but newer ones (8.4) serve it from the next one's. */
static bool find_free_slot(void)
{
    char *heap = (char *)zend_mm_get_heap();
    void *block[BINS], *smallest;
    unsigned found = 0;

    for (int i = 1; i < BINS; i++)
        block[i] = _emalloc(bin_bytes[i]);
    for (int i = 1; i < BINS; i++)
        _efree(block[i]);
    for (size_t at = 0; at + sizeof(block) <= HEAP_MAX; at += sizeof(void *)) {
        if (memcmp(heap + at + sizeof(void *), block + 1, sizeof(block) - sizeof(void *)) != 0)
            continue;
        layout.free_slot = at;
        found++;
    }
    smallest = _emalloc(bin_bytes[0]);
    _efree(smallest);
    return found == 1 &&
           (memcmp(heap + layout.free_slot, &smallest, sizeof(smallest)) == 0 ||
            memcmp(heap + layout.free_slot + sizeof(void *), &smallest, sizeof(smallest)) == 0);
}

static bool fits_all_chunks(size_t offset)
{
    struct chunk *first = first_chunk(), *c = first;
    int n = 0;

    do {
        uint32_t first_page;
        if ((uintptr_t)c % CHUNK_BYTES || c->heap != zend_mm_get_heap() || c->next->prev != c ||
            n++ > CHUNKS_MAX)
            return false;
        memcpy(&first_page, (char *)c + offset + MAP_WORDS * 8, sizeof(first_page));
        if (first_page != FIRST_PAGE_RUN || !page_taken(free_map(c, offset), 0) ||
            taken_pages(free_map(c, offset)) != CHUNK_PAGES - c->free_pages)
            return false;
        c = c->next;
    } while (c != first);
    return true;
}

/* Pages of a block must be taken while it lives, and free afterwards. */
static bool follows_allocation(size_t offset)
{
    enum { PAGES = 3 };
    char *block = _emalloc(PAGES * PAGE_BYTES);
    struct chunk *c = (struct chunk *)((uintptr_t)block & ~(uintptr_t)(CHUNK_BYTES - 1));
    size_t page = (size_t)(block - (char *)c) / PAGE_BYTES;
    bool fits = true;

    for (size_t i = page; i < page + PAGES; i++)
        fits &= page_taken(free_map(c, offset), i);
    _efree(block);
    for (size_t i = page; i < page + PAGES; i++)
        fits &= !page_taken(free_map(c, offset), i);
    return fits;
}

static bool find_free_map(void)
{
    unsigned found = 0;

    if (first_chunk()->heap != zend_mm_get_heap())
        return false;
    for (size_t at = 64; at + MAP_WORDS * 8 + CHUNK_PAGES * 4 <= PAGE_BYTES; at += 8) {
        if (!fits_all_chunks(at))
            continue;
        layout.free_map = at;
        found++;
    }
    return found == 1 && follows_allocation(layout.free_map);
}

/* The lists of free small blocks are forgotten: what is taken from now on comes from free pages,
 * and not from between what there is. */
static void begin_fresh_pages(void)
{
    zend_mm_gc(zend_mm_get_heap());
    layout.known = find_free_map() && find_free_slot();
    zend_mm_gc(zend_mm_get_heap());
    if (layout.known)
        memset((char *)zend_mm_get_heap() + layout.free_slot, 0, BINS * sizeof(void *));
}

/* Applications keep things of a request until the next one replaces them: the request itself, the
 * user, a handler of errors. So every request frees what the last warm-up request has left behind,
 * and writes to its pages. What the last round leaves shall lie side by side, and not in the gaps
 * that the boot and the first round have left all over the heap: 24 of 128 dirty pages. */
void memory_gather(void)
{
    gc_collect_cycles();
    if (is_zend_mm())
        begin_fresh_pages();
}

/* A request that takes the first block of its size gets a run of pages, and each of its blocks is
 * entered in the list: up to 7 pages are written to for one block. Of runs of several pages the
 * image has one each, so that only the pages of used blocks become a worker's own. */
static void lay_runs(void)
{
    for (int i = 0; i < BINS; i++)
        if (bin_pages[i] > 1)
            _efree(_emalloc(bin_bytes[i]));
}

/* Garbage and caches go, and requests will take their memory from free pages. */
void memory_tidy(void)
{
    gc_collect_cycles();
    garbage_exempt();
    if (is_zend_mm()) {
        begin_fresh_pages();
        if (layout.known)
            lay_runs();
        else
            log_notice(
                "the allocator of this PHP is not one that sapid knows: rollbacks copy more");
    }
    zend_memory_reset_peak_usage();
    malloc_trim(HEAP_TOP_BYTES);
}

static void add_free_pages(const struct chunk *c, snapshot_scratch_add *add, void *list)
{
    const uint64_t *map = free_map(c, layout.free_map);

    for (size_t page = 1; page < CHUNK_PAGES;) {
        size_t end = page;
        while (end < CHUNK_PAGES && !page_taken(map, end))
            end++;
        if (end > page)
            add(list, (const char *)c + page * PAGE_BYTES, (end - page) * PAGE_BYTES);
        page = end + 1;
    }
}

void memory_scratch(void *context, snapshot_scratch_add *add, void *list)
{
    struct chunk *first, *c;

    (void)context;
    if (!layout.known)
        return;
    c = first = first_chunk();
    do {
        add_free_pages(c, add, list);
        c = c->next;
    } while (c != first);
}
