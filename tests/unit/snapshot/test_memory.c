/* Memory: whatever a job does to it is gone after the rollback. */
#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scene.h"

enum { PAGE = 4096 };

static void *map_private(size_t bytes, int prot)
{
    void *p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    EXPECT(p != MAP_FAILED);
    return p;
}

/* --- pages ------------------------------------------------------------------------------------ */

static size_t image_bytes;
static uint64_t *image;

static void fill_image(void)
{
    image = map_private(image_bytes, PROT_READ | PROT_WRITE);
    for (size_t i = 0; i < image_bytes / 8; i += 8)
        image[i] = i * 0x9e3779b97f4a7c15u;
}

static void check_some(unsigned turn)
{
    uint64_t seed = turn;

    for (int i = 0; i < 2000; i++) {
        size_t at = scene_random(&seed) % (image_bytes / 64) * 8;
        EXPECT_INT(image[at], at * 0x9e3779b97f4a7c15u);
    }
}

/* Few pages again and again, some anew each time, and now and then a flood. */
static void dirty_some(unsigned turn)
{
    uint64_t seed = turn + 1;
    size_t pages = image_bytes / PAGE;
    size_t n = turn % 7 == 6 ? pages / 3 : 40;

    for (size_t i = 0; i < 100; i++)
        image[i * 37 % pages * (PAGE / 8) + i] ^= turn + 1;
    for (size_t i = 0; i < n; i++)
        image[scene_random(&seed) % (image_bytes / 8)] ^= 0x5555 + turn;
}

static void dirty_image_of(size_t mib)
{
    struct scene s = { .before = fill_image, .check = check_some, .job = dirty_some, .turns = 24 };

    image_bytes = mib << 20;
    scene_run(&s);
}

TEST_WITHIN(pages_of_16_mib_dirtied_at_random, 300)
{
    dirty_image_of(16);
}

TEST_WITHIN(pages_of_64_mib_dirtied_at_random, 300)
{
    dirty_image_of(64);
}

TEST_WITHIN(pages_of_256_mib_dirtied_at_random, 300)
{
    dirty_image_of(256);
}

/* --- the hot set ------------------------------------------------------------------------------ */

static void dirty_few_and_once_many(unsigned turn)
{
    for (size_t i = 0; i < 50; i++)
        image[i * PAGE / 8]++;
    if (turn == 5 || turn == 6)
        for (size_t i = 0; i < image_bytes / PAGE; i++)
            image[i * PAGE / 8]++;
}

static void expect_small_hot_set(const struct snapshot_stats *s)
{
    EXPECT(s->hot_pages >= 50);
    EXPECT(s->hot_pages < 300);
    EXPECT(s->last_hot < 200);
    EXPECT_INT(s->last_cold, 0);
}

TEST_WITHIN(a_job_that_dirties_80_mib_does_not_cost_later_jobs, 300)
{
    struct scene s = { .before = fill_image,
                       .check = check_some,
                       .job = dirty_few_and_once_many,
                       .after = expect_small_hot_set,
                       .turns = 80 };

    image_bytes = 80 << 20;
    scene_run_alone(&s, true);
}

static void dirty_most(unsigned turn)
{
    (void)turn;
    for (size_t i = 0; i < image_bytes / PAGE / 2; i++)
        image[i * PAGE / 8]++;
}

static void expect_capped(const struct snapshot_stats *s)
{
    EXPECT(s->hot_pages >= 100);
    EXPECT(s->hot_pages <= 100 + 3);
}

TEST_WITHIN(the_hot_set_has_a_maximum, 300)
{
    struct scene s = { .before = fill_image,
                       .check = check_some,
                       .job = dirty_most,
                       .after = expect_capped,
                       .turns = 20,
                       .hot_max = 100 };

    image_bytes = 16 << 20;
    scene_run(&s);
}

static void dirty_one_page(unsigned turn)
{
    if (turn < 10)
        image[(turn / 2) * (PAGE / 8)]++;
}

static void expect_forgotten(const struct snapshot_stats *s)
{
    EXPECT(s->hot_pages < 40);
    EXPECT(s->scans < s->rollbacks / 2);
}

TEST(hot_pages_that_nobody_dirties_any_more_leave)
{
    struct scene s = { .before = fill_image,
                       .job = dirty_one_page,
                       .after = expect_forgotten,
                       .turns = 200,
                       .hot_period = 20 };

    image_bytes = 1 << 20;
    scene_run_alone(&s, false);
}

/* --- a process without work ------------------------------------------------------------------- */

enum { REST_EVERY = 10, REST_PAGES = 200, REST_STACK = 200 << 10 };

static unsigned long anonymous_kib(void)
{
    char text[4096], *line;
    int fd = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, text, sizeof(text) - 1);

    close(fd);
    EXPECT(n > 0);
    text[n] = '\0';
    line = strstr(text, "\nAnonymous:");
    EXPECT(line);
    return strtoul(line + 11, NULL, 10);
}

/* Pages of the image, of its own mappings, and of the stack. */
static void dirty_then_rest(unsigned turn)
{
    struct snapshot_refusal no;
    char *own = map_private(400 << 10, PROT_READ | PROT_WRITE);
    volatile char *stack = alloca(REST_STACK);

    for (size_t i = 0; i < REST_PAGES; i++)
        image[i * (PAGE / 8) + turn] ^= turn + 1;
    memset(own, 'x', 400 << 10);
    for (size_t i = 0; i < REST_STACK; i += PAGE)
        stack[i] = 'x';
    if (turn % REST_EVERY == REST_EVERY - 1 && snapshot_rest(&no) < 0)
        test_fail(__FILE__, __LINE__, "refused: %s", no.text);
}

static void check_rest(unsigned turn)
{
    unsigned long *kib = scene_kept(), now = anonymous_kib();

    if (turn && turn % REST_EVERY == 0)
        EXPECT(now + 4UL * REST_PAGES + 400 + (REST_STACK >> 10) <= *kib + 40);
    *kib = now;
    check_some(turn);
}

static void expect_rests(const struct snapshot_stats *s)
{
    EXPECT_INT(s->rests, 3);
    EXPECT_INT(s->rollbacks - s->rests, 27 + scene_is_worker());
}

TEST_WITHIN(memory_is_given_back_by_a_rest, 60)
{
    struct scene s = { .before = fill_image,
                       .check = check_rest,
                       .job = dirty_then_rest,
                       .after = expect_rests,
                       .turns = 30 };

    image_bytes = 1 << 20;
    scene_run(&s);
}

/* --- the heap --------------------------------------------------------------------------------- */

enum { BLOCKS = 2000 };
static struct block {
    unsigned char *p;
    size_t n;
} blocks[BLOCKS];

static unsigned char mark_of(size_t i)
{
    return (unsigned char)(i * 31 + 7);
}

static void fill_block(size_t i, size_t n)
{
    blocks[i].p = realloc(blocks[i].p, n);
    blocks[i].n = n;
    EXPECT(blocks[i].p);
    memset(blocks[i].p, mark_of(i), n);
}

static void fill_heap(void)
{
    uint64_t seed = 3;

    for (size_t i = 0; i < BLOCKS; i++)
        fill_block(i, 1 + scene_random(&seed) % (i % 50 == 0 ? 300000 : 3000));
    for (size_t i = 0; i < BLOCKS; i += 3) {
        free(blocks[i].p);
        blocks[i] = (struct block){ 0 };
    }
}

static void check_heap(unsigned turn)
{
    (void)turn;
    for (size_t i = 0; i < BLOCKS; i++)
        for (size_t k = 0; k < blocks[i].n; k += 97)
            EXPECT_INT(blocks[i].p[k], mark_of(i));
}

static void churn_heap(unsigned turn)
{
    uint64_t seed = turn;

    for (int n = 0; n < 3000; n++) {
        size_t i = scene_random(&seed) % BLOCKS;
        if (scene_random(&seed) % 3 == 0) {
            free(blocks[i].p);
            blocks[i] = (struct block){ 0 };
        } else {
            fill_block(i, 1 + scene_random(&seed) % (n % 100 == 0 ? 1000000 : 4000));
        }
    }
    if (turn % 5 == 4) { /* huge frees */
        for (size_t i = 0; i < BLOCKS; i++)
            free(blocks[i].p);
    }
    if (turn % 5 == 3) {
        memset(malloc(40 << 20), 1, 40 << 20);
        unsigned char *zeroed = calloc(1, 3 << 20);
        for (size_t k = 0; k < 3 << 20; k += 511)
            EXPECT_INT(zeroed[k], 0);
    }
}

TEST_WITHIN(heap_blocks_made_resized_and_freed, 300)
{
    struct scene s = { .before = fill_heap, .check = check_heap, .job = churn_heap };
    scene_run(&s);
}

static char *break_at;

static void note_break(void)
{
    break_at = sbrk(0);
}

static void check_break(unsigned turn)
{
    (void)turn;
    EXPECT(sbrk(0) == break_at);
}

static void move_break(unsigned turn)
{
    if (turn % 2 == 0) {
        char *p = sbrk(3 << 20);
        EXPECT(p != (void *)-1);
        memset(p, 1, 3 << 20);
    } else {
        EXPECT(sbrk(-(2 << 20)) != (void *)-1); /* the heap's free top */
    }
}

TEST(the_break_goes_back)
{
    struct scene s = { .before = note_break, .check = check_break, .job = move_break };
    scene_run(&s);
}

/* --- mappings --------------------------------------------------------------------------------- */

static char *map_a, *map_b, *map_ro, *map_none, *map_veiled;

static void make_maps(void)
{
    map_a = map_private(3 << 20, PROT_READ | PROT_WRITE);
    map_b = map_private(300 << 10, PROT_READ | PROT_WRITE);
    map_ro = map_private(64 << 10, PROT_READ | PROT_WRITE);
    map_none = map_private(64 << 10, PROT_NONE);
    map_veiled = map_private(64 << 10, PROT_READ | PROT_WRITE);
    memset(map_veiled, 'v', 64 << 10);
    EXPECT_INT(mprotect(map_veiled, 64 << 10, PROT_NONE), 0);
    memset(map_a, 'a', 3 << 20);
    memset(map_b, 'b', 300 << 10);
    memset(map_ro, 'r', 64 << 10);
    EXPECT_INT(mprotect(map_ro, 64 << 10, PROT_READ), 0);
}

static void expect_all(const char *p, size_t n, char c)
{
    for (size_t i = 0; i < n; i += 1000)
        EXPECT_INT(p[i], c);
}

static bool is_writable(void *p)
{
    int fd[2];
    char c = *(char *)p;
    EXPECT_INT(pipe(fd), 0);
    EXPECT_INT(write(fd[1], &c, 1), 1);
    bool ret = read(fd[0], p, 1) == 1;
    close(fd[0]);
    close(fd[1]);
    return ret;
}

static void check_maps(unsigned turn)
{
    unsigned *count = scene_kept();

    expect_all(map_a, 3 << 20, 'a');
    expect_all(map_b, 300 << 10, 'b');
    expect_all(map_ro, 64 << 10, 'r');
    EXPECT(!is_writable(map_ro));
    EXPECT(!scene_is_readable(map_none));
    EXPECT(is_writable(map_a) && is_writable(map_b));
    if (turn == 2)
        *count = scene_count_maps();
    else if (turn > 2) /* the kernel need not join again what it split */
        EXPECT(scene_count_maps() <= *count + 20);
}

static void map_and_leave(size_t bytes)
{
    char *p = map_private(bytes, PROT_READ | PROT_WRITE);
    expect_all(p, bytes, 0);
    memset(p, 'x', bytes);
}

static void grow_and_shrink(void)
{
    map_a = mremap(map_a, 3 << 20, 9 << 20, MREMAP_MAYMOVE);
    EXPECT(map_a != MAP_FAILED);
    expect_all(map_a + (2 << 20), 1 << 20, 'a');
    expect_all(map_a + (3 << 20), 6 << 20, 0);
    memset(map_a, 'A', 9 << 20);
    map_b = mremap(map_b, 300 << 10, 8 << 10, 0);
    EXPECT(map_b != MAP_FAILED);
    char *p = map_private(1 << 20, PROT_READ | PROT_WRITE);
    memset(p, 1, 1 << 20);
    EXPECT(mremap(p, 1 << 20, 64 << 10, 0) == p);
    map_and_leave(2 << 20);
}

static void unmap_image(void)
{
    EXPECT_INT(munmap(map_b, 300 << 10), 0);
    EXPECT_INT(munmap(map_a + (1 << 20), 1 << 20), 0);
    map_and_leave(1 << 20);
    map_and_leave(300 << 10);
    EXPECT_INT(munmap(map_none, 64 << 10), 0);
}

static void protect_and_write(void)
{
    EXPECT_INT(mprotect(map_ro, 64 << 10, PROT_READ | PROT_WRITE), 0);
    memset(map_ro, 'W', 64 << 10);
    EXPECT_INT(mprotect(map_none, 64 << 10, PROT_READ | PROT_WRITE), 0);
    expect_all(map_none, 64 << 10, 0);
    EXPECT_INT(mprotect(map_veiled, 64 << 10, PROT_READ | PROT_WRITE), 0);
    expect_all(map_veiled, 64 << 10, 'v');
    memset(map_veiled, 'V', 64 << 10);
    EXPECT_INT(mprotect(map_veiled, 64 << 10, PROT_NONE), 0);
    memset(map_none, 'N', 64 << 10);
    EXPECT_INT(mprotect(map_a, 64 << 10, PROT_NONE), 0);
    EXPECT_INT(mprotect(map_b, 64 << 10, PROT_READ), 0);
    char *stack = map_private(2 << 20, PROT_READ | PROT_WRITE); /* with a guard page, as fibers */
    EXPECT_INT(mprotect(stack, PAGE, PROT_NONE), 0);
    memset(stack + PAGE, 1, (2 << 20) - PAGE);
}

static void map_over(void)
{
    char *p = mmap(map_a + PAGE, 8 * PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    EXPECT(p == map_a + PAGE);
    expect_all(p, 8 * PAGE, 0);
    memset(p, 'o', 8 * PAGE);
    p = mmap(map_b, 4 * PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
             0);
    EXPECT(p == map_b);
    EXPECT_INT(madvise(map_a, 1 << 20, MADV_DONTNEED), 0); /* of anonymous memory: zeros */
    expect_all(map_a, 1 << 20, 0);
}

static void map_files(void)
{
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    EXPECT(fd >= 0);
    char *p = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    EXPECT(p != MAP_FAILED && memcmp(p, "\177ELF", 4) == 0);
    p[5] = 1;
    char *free_place = map_private(1 << 20, PROT_READ | PROT_WRITE);
    p = mmap(free_place + PAGE, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    EXPECT(p == free_place + PAGE && memcmp(p, "\177ELF", 4) == 0);
    p = mmap(map_a + 10 * PAGE, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    EXPECT(p == map_a + 10 * PAGE);
    p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(p != MAP_FAILED);
    memset(p, 3, 1 << 20);
}

static void change_maps(unsigned turn)
{
    static void (*const way[])(void) = { grow_and_shrink, unmap_image, protect_and_write, map_over,
                                         map_files };

    way[turn % ARRAY_LENGTH(way)]();
    if (turn % 4 == 3)
        way[(turn + 2) % ARRAY_LENGTH(way)]();
    for (int i = 0; i < 20; i++)
        map_and_leave((size_t)(1 + (turn * 7 + (unsigned)i * 13) % 90) * PAGE);
}

TEST(mappings_made_grown_unmapped_and_protected)
{
    struct scene s = { .before = make_maps, .check = check_maps, .job = change_maps };
    scene_run(&s);
}

static void make_holes(unsigned turn)
{
    char *p[200];

    for (size_t i = 0; i < ARRAY_LENGTH(p); i++) {
        p[i] = map_private((1 + i % 5) * PAGE, PROT_READ | PROT_WRITE);
        expect_all(p[i], (1 + i % 5) * PAGE, 0);
        memset(p[i], 'p', (1 + i % 5) * PAGE);
    }
    for (size_t i = turn % 3; i < ARRAY_LENGTH(p); i += 3)
        EXPECT_INT(munmap(p[i], (1 + i % 5) * PAGE), 0);
    for (int i = 0; i < 50; i++)
        map_and_leave(2 * PAGE);
}

TEST(arena_memory_is_zero_whenever_it_is_given_out)
{
    struct scene s = { .before = make_maps, .check = check_maps, .job = make_holes };
    scene_run(&s);
}

static void map_much(unsigned turn)
{
    map_and_leave(turn % 3 == 0 ? 60 << 20 : 2 << 20);
}

TEST_WITHIN(large_mappings_of_jobs, 300)
{
    struct scene s = { .before = make_maps, .check = check_maps, .job = map_much };
    scene_run(&s);
}

static void (*machine_code)(void);

static void make_code(void)
{
    char *p = map_private(2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);

    p[0] = (char)0xc3; /* ret */
    machine_code = (void (*)(void))p;
}

static void run_code(unsigned turn)
{
    machine_code();
    ((char *)machine_code)[1] = (char)turn;
}

#if defined(__x86_64__)
TEST(executable_memory_stays_executable)
{
    struct scene s = { .before = make_code, .job = run_code };
    scene_run(&s);
}
#endif

/* --- scratch ---------------------------------------------------------------------------------- */

static void tell_scratch(void *context, snapshot_scratch_add *add, void *list)
{
    (void)context;
    add(list, image + PAGE / 8, 10 * PAGE);        /* in the middle of a region */
    add(list, image + 100 * PAGE / 8, 200 * PAGE); /* long enough to stay outside */
}

static void write_scratch(unsigned turn)
{
    memset(image, (int)turn + 1, image_bytes);
}

static void check_around_scratch(unsigned turn)
{
    (void)turn;
    EXPECT_INT(image[16], UINT64_C(16) * 0x9e3779b97f4a7c15u);
    for (size_t page = 0; page < image_bytes / PAGE; page++) {
        size_t at = page * PAGE / 8 + 8;
        bool scratch = (page >= 1 && page < 11) || (page >= 100 && page < 300);
        if (!scratch)
            EXPECT_INT(image[at], at * 0x9e3779b97f4a7c15u);
    }
}

static void expect_scratch(const struct snapshot_stats *s)
{
    EXPECT(s->scratch_bytes >= 210 * PAGE);
    EXPECT(s->image_bytes + s->scratch_bytes > image_bytes);
}

TEST(scratch_pages_cost_nothing_and_all_others_go_back)
{
    struct scene s = { .before = fill_image,
                       .check = check_around_scratch,
                       .job = write_scratch,
                       .after = expect_scratch,
                       .scratch = tell_scratch };

    image_bytes = 2 << 20;
    scene_run(&s);
}

/* --- stack, thread-local, registers ----------------------------------------------------------- */

static __thread int thread_local_value = 11;

static void set_thread_local(void)
{
    thread_local_value = 12;
    errno = ERANGE;
}

static void check_thread_local(unsigned turn)
{
    (void)turn;
    EXPECT_INT(thread_local_value, 12);
    EXPECT_INT(fegetround(), FE_TONEAREST);
    volatile double third = 1.0;
    third /= 3.0;
    EXPECT(third == 0x1.5555555555555p-2);
}

static __attribute__((noinline)) int recurse(unsigned depth)
{
    volatile char room[4096];

    room[depth % 4096] = 1;
    if (depth == 0) {
        scene_roll_back();
        return 0;
    }
    return recurse(depth - 1) + room[depth % 4096];
}

static void use_stack(unsigned turn)
{
    thread_local_value = 99;
    fesetround(FE_UPWARD);
    errno = EPIPE;
    if (turn % 3 == 0)
        recurse(turn % 2 ? 10 : 1000); /* 4 MiB */
    memset(alloca(200000), 7, 200000);
}

TEST(stack_thread_local_memory_and_rounding_mode)
{
    struct scene s = { .before = set_thread_local, .check = check_thread_local, .job = use_stack };
    scene_run(&s);
}

/* The function that called snapshot_take() returns, and the job rolls back from above it. */
static __attribute__((noinline)) int freeze_deeply(unsigned depth, int *ret)
{
    volatile char room[1000];
    struct snapshot_refusal no;

    memset((char *)room, (int)depth, sizeof(room));
    if (depth == 0)
        return *ret = snapshot_take(NULL, &no);
    int rc = freeze_deeply(depth - 1, ret);
    for (size_t i = 0; i < sizeof(room); i++)
        EXPECT_INT(room[i], depth);
    return rc;
}

static void freeze_below_and_roll_back_above(void)
{
    struct snapshot_options o = { .verify = true };
    int rc = 0;

    EXPECT_INT(snapshot_prepare(&o), 0);
    int *turn = snapshot_keep_alloc(4096);
    EXPECT(freeze_deeply(20, &rc) > 0);
    EXPECT_INT(rc, *turn == 0 ? SNAPSHOT_FROZEN : SNAPSHOT_RESUMED);
    if (++*turn < 20) {
        memset(alloca(50000), 1, 50000);
        scene_roll_back();
    }
}

TEST(rollback_from_above_the_frames_of_the_image)
{
    scene_apart(freeze_below_and_roll_back_above);
}

/* --- memory that the kernel fills ------------------------------------------------------------- */

static unsigned char *wiped, *droppable;

static void make_wiped(void)
{
    wiped = map_private(2 * PAGE, PROT_READ | PROT_WRITE);
    EXPECT_INT(madvise(wiped, 2 * PAGE, MADV_WIPEONFORK), 0);
    memset(wiped, 'w', 2 * PAGE);
    droppable =
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | 0x08 /* MAP_DROPPABLE */, -1, 0);
    if (droppable == MAP_FAILED) {
        printf(
            "  this kernel has no MAP_DROPPABLE (Linux 6.11): only MADV_WIPEONFORK was tested\n");
        droppable = NULL;
    } else {
        memset(droppable, 'd', PAGE);
    }
}

static void check_wiped(unsigned turn)
{
    unsigned char *p[] = { wiped, droppable };

    for (size_t i = 0; i < ARRAY_LENGTH(p); i++)
        if (p[i] && turn > 0)
            EXPECT_INT(p[i][77], 0);
}

static void use_wiped(unsigned turn)
{
    memset(wiped, (int)turn + 1, 2 * PAGE);
    if (droppable)
        memset(droppable, (int)turn + 1, PAGE);
}

TEST(memory_that_is_wiped_on_fork_is_wiped_by_rollback)
{
    struct scene s = { .before = make_wiped, .check = check_wiped, .job = use_wiped };
    scene_run(&s);
}

/* --- kept ------------------------------------------------------------------------------------- */

static char *kept_map;

static void make_kept(void)
{
    kept_map = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(kept_map != MAP_FAILED);
    EXPECT_INT(snapshot_keep_range(kept_map, 3 * PAGE), 0);
}

static void check_kept(unsigned turn)
{
    unsigned *own = scene_kept();

    EXPECT_INT(*own, turn);
    char **late = (char **)(own + 2);
    if (turn > 5)
        EXPECT_INT((*late)[100], 'k');
}

static void change_kept(unsigned turn)
{
    unsigned *own = scene_kept();
    char **late = (char **)(own + 2);

    ++*own;
    kept_map[5]++;
    if (turn == 5) { /* mapped after the image, and kept from then on */
        *late = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        EXPECT(*late != MAP_FAILED);
        EXPECT_INT(snapshot_keep_range(*late, 2 * PAGE), 0);
        memset(*late, 'k', 2 * PAGE);
    }
}

TEST(kept_memory_and_ranges_stay)
{
    struct scene s = { .before = make_kept, .check = check_kept, .job = change_kept };
    scene_run(&s);
}

/* --- reports ---------------------------------------------------------------------------------- */

struct report {
    size_t bytes;
    bool found;
};

static void add_report(void *context, const void *addr, size_t bytes)
{
    struct report *r = context;

    r->bytes += bytes;
    r->found |= (const char *)addr <= (char *)image && (const char *)addr + bytes > (char *)image;
}

static void dirty_and_report(unsigned turn)
{
    struct report before = { 0 }, after = { 0 };

    EXPECT_INT(snapshot_dirty(add_report, &before), 0);
    EXPECT(!before.found);
    for (size_t i = 0; i < 64; i++)
        image[i * PAGE / 8] += turn + 1;
    EXPECT_INT(snapshot_dirty(add_report, &after), 0);
    EXPECT(after.found);
    EXPECT(after.bytes >= before.bytes + 64 * PAGE && after.bytes < before.bytes + 80 * PAGE);
}

TEST(dirty_pages_are_told_while_a_job_runs)
{
    struct scene s = { .before = fill_image, .job = dirty_and_report };

    image_bytes = 4 << 20;
    scene_run(&s);
}
