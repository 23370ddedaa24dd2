/* Running synthetic programs through take, fork and rollback: see scene.h. */
#include "scene.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KEPT_BYTES = 64 << 10, TURNS = 30, WORKERS = 2 };

struct kept {
    unsigned turn;
    char room[];
};
static bool with_workers;
static struct kept *kept; /* the pointer is part of the image, what it points to is not */

void *scene_kept(void)
{
    return kept->room;
}

void scene_roll_back(void)
{
    struct snapshot_refusal no;
    int rc = snapshot_rollback(&no);

    test_fail(__FILE__, __LINE__, "rollback refused (%d, problem %d): %s", rc, no.problem, no.text);
}

bool scene_is_worker(void)
{
    return with_workers;
}

void scene_apart(void (*run)(void))
{
    int status;

    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(0);
        close_range(3, ~0u, 0);
        run();
        fflush(stdout);
        _exit(0);
    }
    while (waitpid(pid, &status, 0) < 0)
        CHECK(errno == EINTR);
    if (WIFSIGNALED(status))
        test_fail(__FILE__, __LINE__, "ended by signal %d", WTERMSIG(status));
    EXPECT_INT(status, 0);
}

/* --- the three ways --------------------------------------------------------------------------- */

static const struct scene *scene;
static struct snapshot_options options;

static void fork_workers(void)
{
    pid_t pid[WORKERS];
    int status;

    for (int i = 0; i < WORKERS; i++) {
        pid[i] = snapshot_fork(false);
        CHECK(pid[i] >= 0);
        if (pid[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            scene_roll_back();
        }
    }
    for (int i = 0; i < WORKERS; i++) {
        EXPECT_INT(waitpid(pid[i], &status, 0), pid[i]);
        EXPECT_INT(status, 0);
    }
}

static void perform(void)
{
    struct snapshot_plan plan = { .scratch = scene->scratch };
    struct snapshot_refusal no;
    struct snapshot_stats stats;
    unsigned turns = scene->turns ? scene->turns : TURNS;

    EXPECT_INT(snapshot_prepare(&options), 0);
    kept = snapshot_keep_alloc(sizeof(*kept) + KEPT_BYTES);
    EXPECT(kept);
    scene->before();
    int rc = snapshot_take(&plan, &no);
    if (rc < 0)
        test_fail(__FILE__, __LINE__, "refused (%d, problem %d): %s", rc, no.problem, no.text);
    if (rc == SNAPSHOT_FROZEN && with_workers) {
        fork_workers();
        return;
    }
    if (scene->check)
        scene->check(kept->turn);
    if (kept->turn++ < turns) {
        scene->job(kept->turn - 1);
        scene_roll_back();
    }
    snapshot_stats(&stats);
    if (scene->after)
        scene->after(&stats);
}

static void set_up(const struct scene *s, bool verify, bool no_scan_ioctl, bool workers)
{
    scene = s;
    with_workers = workers;
    options = (struct snapshot_options){ .verify = verify,
                                         .no_scan_ioctl = no_scan_ioctl,
                                         .hot_max = s->hot_max,
                                         .hot_period = s->hot_period };
    scene_apart(perform);
}

void scene_run(const struct scene *s)
{
    set_up(s, true, false, false);
    set_up(s, true, true, false);
    set_up(s, true, false, true);
}

void scene_run_alone(const struct scene *s, bool verify)
{
    set_up(s, verify, false, false);
}

void scene_expect_refused(enum snapshot_problem problem)
{
    struct snapshot_refusal no;
    int rc = snapshot_take(NULL, &no);

    if (rc >= 0 || no.problem != problem || !no.text[0])
        test_fail(__FILE__, __LINE__, "take: %d, problem %d, expected %d: %s", rc, no.problem,
                  problem, no.text);
}

/* --- what a process holds --------------------------------------------------------------------- */

uint32_t scene_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

unsigned scene_count_maps(void)
{
    FILE *f = fopen("/proc/self/maps", "re");
    unsigned n = 0;

    CHECK(f);
    for (int c; (c = getc(f)) != EOF;)
        n += c == '\n';
    fclose(f);
    return n;
}

unsigned scene_count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    CHECK(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

unsigned long scene_resident_kib(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long total, resident;

    CHECK(f && fscanf(f, "%lu %lu", &total, &resident) == 2);
    fclose(f);
    return resident * 4;
}

bool scene_is_readable(const void *p)
{
    int fd[2];

    EXPECT_INT(pipe(fd), 0);
    bool ret = write(fd[1], p, 1) == 1;
    close(fd[0]);
    close(fd[1]);
    return ret;
}
