/*
 * Micro benchmark of the snapshot room: what a rollback costs by size of the image and pages that
 * the job dirtied, in steady state (hot: the same pages each time) and for pages never dirtied
 * before (cold), and what a fork of the frozen process costs. Medians. Build and run: see
 * bench/micro/meson.build.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "snapshot/snapshot.h"

enum { PAGE = 4096, WARM = 8, TURNS = 201, FORKS = 51 };

static const unsigned image_mib[] = { 16, 64, 256 };
static const unsigned dirty_pages[] = { 0, 30, 100, 300, 1000, 3000, 10000 };

/* In kept memory. */
struct run {
    unsigned turn;
    uint64_t started_ns;
    double us[TURNS], touch_us[TURNS];
    unsigned page[1 << 16];
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *v, size_t n)
{
    qsort(v, n, sizeof(v[0]), by_value);
    return v[n / 2];
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* The first `n` entries become different pages, in random order. */
static void choose_pages(struct run *r, unsigned total, unsigned n)
{
    uint64_t state = 1;

    for (unsigned i = 0; i < total; i++)
        r->page[i] = i;
    for (unsigned i = 0; i < n; i++) {
        unsigned k = i + (unsigned)(next_random(&state) % (total - i));
        unsigned swap = r->page[i];
        r->page[i] = r->page[k];
        r->page[k] = swap;
    }
}

static char *make_image(unsigned mib)
{
    char *image =
        mmap(NULL, (size_t)mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(image != MAP_FAILED);
    for (size_t at = 0; at < (size_t)mib << 20; at += 64)
        memcpy(image + at, &at, sizeof(at));
    return image;
}

static struct run *prepare(bool no_scan_ioctl)
{
    struct snapshot_options o = { .no_scan_ioctl = no_scan_ioctl };

    CHECK(snapshot_prepare(&o) == 0);
    struct run *r = snapshot_keep_alloc(sizeof(*r));
    CHECK(r);
    return r;
}

static void roll_back(void)
{
    struct snapshot_refusal no;
    int rc = snapshot_rollback(&no);

    CHECKF(rc == 0, "%s", no.text);
}

/* One cell. `cold`: pages of another stretch each time, so that each is dirtied for the first time.
 */
static void measure(unsigned mib, unsigned n, bool cold, bool no_scan_ioctl)
{
    struct run *r = prepare(no_scan_ioctl);
    struct snapshot_refusal no;
    char *image = make_image(mib);
    unsigned total = (mib << 20) / PAGE, turns = TURNS;

    choose_pages(r, total, cold ? total : n);
    if (cold && n)
        turns = total / n < TURNS ? total / n : TURNS;
    int rc = snapshot_take(NULL, &no);
    CHECKF(rc > 0, "%s", no.text);
    uint64_t now = clock_monotonic_ns();
    if (rc == SNAPSHOT_RESUMED && r->turn > WARM)
        r->us[r->turn - WARM - 1] = (double)(now - r->started_ns) / 1e3;
    if (r->turn == WARM + turns) {
        printf(" %9.1f", median(r->us, turns));
        if (cold)
            printf(" (touch %7.1f)", median(r->touch_us, turns));
        fflush(stdout);
        _exit(0);
    }
    unsigned from = cold && r->turn >= WARM ? (r->turn - WARM) * n : 0;
    if (!cold || r->turn >= WARM)
        for (unsigned i = from; i < from + n; i++)
            ++*(uint64_t *)(image + (size_t)r->page[i] * PAGE + 8 * (i % 512));
    r->started_ns = clock_monotonic_ns();
    if (r->turn >= WARM)
        r->touch_us[r->turn - WARM] = (double)(r->started_ns - now) / 1e3;
    r->turn++;
    roll_back();
}

static void measure_forks(unsigned mib)
{
    struct run *r = prepare(false);
    struct snapshot_refusal no;
    char *image = make_image(mib);
    int rc = snapshot_take(NULL, &no);

    CHECKF(rc > 0, "%s", no.text);
    if (rc == SNAPSHOT_RESUMED) { /* a worker that is ready for its first job */
        image[0] = 1;
        _exit(0);
    }
    for (r->turn = 0; r->turn < FORKS; r->turn++) {
        uint64_t started = clock_monotonic_ns();
        pid_t pid = snapshot_fork(false);
        if (pid == 0)
            roll_back();
        r->touch_us[r->turn] = (double)(clock_monotonic_ns() - started) / 1e3;
        CHECK(pid > 0 && waitpid(pid, NULL, 0) == pid);
        r->us[r->turn] = (double)(clock_monotonic_ns() - started) / 1e3;
    }
    printf(" %4u | %9.1f | %9.1f\n", mib, median(r->touch_us, FORKS), median(r->us, FORKS));
    fflush(stdout);
    _exit(0);
}

/* In a process of its own: an image is for life. */
static void apart(void (*run)(unsigned, unsigned, bool, bool), unsigned mib, unsigned n, bool cold,
                  bool no_scan_ioctl)
{
    fflush(stdout);
    pid_t pid = fork();
    int status;

    CHECK(pid >= 0);
    if (pid == 0) {
        close_range(3, ~0u, 0);
        run(mib, n, cold, no_scan_ioctl);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECKF(status == 0, "%u MiB, %u pages: status %d", mib, n, status);
}

static void forks(unsigned mib, unsigned n, bool cold, bool no_scan_ioctl)
{
    (void)n;
    (void)cold;
    (void)no_scan_ioctl;
    measure_forks(mib);
}

static void table(const char *title, bool cold, bool no_scan_ioctl)
{
    printf("%s\n  MiB |", title);
    for (size_t k = 0; k < ARRAY_LENGTH(dirty_pages); k++)
        printf(cold ? " %25u" : " %9u", dirty_pages[k]);
    printf("\n");
    for (size_t i = 0; i < ARRAY_LENGTH(image_mib); i++) {
        printf(" %4u |", image_mib[i]);
        for (size_t k = 0; k < ARRAY_LENGTH(dirty_pages); k++) {
            if (dirty_pages[k] >= image_mib[i] * 256u)
                printf(cold ? " %25s" : " %9s", "-");
            else
                apart(measure, image_mib[i], dirty_pages[k], cold, no_scan_ioctl);
        }
        printf("\n");
    }
    printf("\n");
}

int main(void)
{
    table("us per rollback, hot: the same pages dirtied by every job", false, false);
    table("us per rollback, cold, PAGEMAP_SCAN", true, false);
    table("us per rollback, cold, /proc/self/pagemap", true, true);
    printf("us per fork of the frozen process, in the parent, and until its first job ended\n"
           "  MiB |    parent |     ended\n");
    for (size_t i = 0; i < ARRAY_LENGTH(image_mib); i++)
        apart(forks, image_mib[i], 0, false, false);
    return 0;
}
