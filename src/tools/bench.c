/*
 * `sapid bench URL`: a load generator whose figures can be trusted. This file: the command, its
 * threads and the progress line. bench_int.h has the vocabulary and says who does what.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "tools/bench_int.h"
#include "tools/tools.h"

enum {
    PROGRESS_MS = 250,
    DESCRIPTORS_BESIDE = 64, /* what a process needs apart from connections */
};

struct run {
    const struct bench_options *options;
    struct bench_thread *threads;
    uint32_t n_started;
    pthread_t *ids, main_id;
    _Atomic uint32_t ended; /* released by a thread that has ended, acquired by the main thread */
    _Atomic bool stop;
    uint64_t begin_ns;
};

struct started {
    struct run *run;
    struct bench_thread *thread;
};

static void *thread_main(void *arg)
{
    struct started *s = arg;
    struct run *run = s->run;

    bench_thread_run(s->thread);
    mem_free(s);
    atomic_fetch_add_explicit(&run->ended, 1, memory_order_release);
    pthread_kill(run->main_id, SIGUSR1); /* ends sigtimedwait */
    return NULL;
}

/* --- progress --------------------------------------------------------------------------------- */

static void show_progress(const struct run *run)
{
    const struct bench_options *o = run->options;
    uint64_t ok = 0, errors = 0, now = clock_monotonic_ns();

    for (uint32_t i = 0; i < run->n_started; i++) {
        ok += atomic_load_explicit(&run->threads[i].seen_ok, memory_order_relaxed);
        errors += atomic_load_explicit(&run->threads[i].seen_errors, memory_order_relaxed);
    }
    double seconds = (double)(now - run->begin_ns) / (double)NS_PER_S;
    if (now < run->begin_ns + o->warmup_ns) {
        fprintf(stderr, "\r\033[Kwarming up: %.1f s of %.1f s", seconds,
                (double)o->warmup_ns / (double)NS_PER_S);
        return;
    }
    seconds -= (double)o->warmup_ns / (double)NS_PER_S;
    fprintf(stderr, "\r\033[K%.1f s", seconds);
    if (o->duration_ns)
        fprintf(stderr, " of %.1f s", (double)o->duration_ns / (double)NS_PER_S);
    uint64_t ended = ok + errors;
    fprintf(stderr, ": %llu requests", (unsigned long long)ended);
    if (o->requests)
        fprintf(stderr, " of %llu", (unsigned long long)o->requests);
    fprintf(stderr, ", %.0f a second, %llu errors", (double)ok / (seconds > 0.01 ? seconds : 0.01),
            (unsigned long long)errors);
}

/* Until all threads have ended. An interrupt ends the run early, but not without its report. */
static void watch_threads(struct run *run, const sigset_t *signals)
{
    bool terminal = isatty(STDERR_FILENO);
    const struct timespec pause = { .tv_nsec = PROGRESS_MS * (long)NS_PER_MS };

    while (atomic_load_explicit(&run->ended, memory_order_acquire) < run->n_started) {
        int signo = sigtimedwait(signals, NULL, &pause);
        if (signo == SIGINT || signo == SIGTERM)
            atomic_store_explicit(&run->stop, true, memory_order_relaxed);
        if (terminal)
            show_progress(run);
    }
    if (terminal)
        fputs("\r\033[K", stderr);
}

/* --- the run ---------------------------------------------------------------------------------- */

static int start_threads(struct run *run)
{
    for (uint32_t i = 0; i < run->options->threads; i++) {
        struct started *s = mem_alloc(sizeof(*s));
        *s = (struct started){ run, &run->threads[i] };
        int rc = pthread_create(&run->ids[i], NULL, thread_main, s);
        if (rc) {
            mem_free(s);
            atomic_store_explicit(&run->stop, true, memory_order_relaxed);
            return -rc;
        }
        run->n_started++;
    }
    return 0;
}

/* Every connection needs a descriptor. */
static bool allow_descriptors(uint32_t connections)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)connections + DESCRIPTORS_BESIDE;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= wanted)
        return true;
    if (limit.rlim_max < wanted) {
        fprintf(stderr,
                "sapid: --concurrency %u needs %llu open files, but this account may have %llu; "
                "raise the limit with ulimit -Hn\n",
                connections, (unsigned long long)wanted, (unsigned long long)limit.rlim_max);
        return false;
    }
    limit.rlim_cur = wanted;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

int bench_load(const struct bench_options *o, struct bench_result *ret)
{
    struct run run = { .options = o,
                       .main_id = pthread_self(),
                       .begin_ns = clock_monotonic_ns() + NS_PER_MS };
    sigset_t signals;
    uint32_t ready = 0;
    int rc = 0;

    if (!allow_descriptors(o->connections))
        return -EMFILE;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    run.threads = mem_zalloc(o->threads * sizeof(run.threads[0]));
    run.ids = mem_zalloc(o->threads * sizeof(run.ids[0]));
    for (; ready < o->threads && rc == 0; ready++)
        rc = bench_thread_init(&run.threads[ready], o, ready, run.begin_ns, &run.stop);
    if (rc == 0)
        rc = start_threads(&run);
    watch_threads(&run, &signals);
    for (uint32_t i = 0; i < run.n_started; i++)
        pthread_join(run.ids[i], NULL);
    bench_result_init(ret);
    for (uint32_t i = 0; i < ready; i++) {
        bench_result_merge(ret, run.threads[i].result);
        bench_thread_fini(&run.threads[i]);
    }
    mem_free(run.threads);
    mem_free(run.ids);
    return rc;
}

static int try_to_write(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

    if (fd < 0)
        return -errno;
    fd_close(&fd);
    return 0;
}

static int measure(const struct bench_options *o)
{
    /* Not after an hour of measuring. */
    int rc = o->html_path ? try_to_write(o->html_path) : 0;
    if (rc < 0) {
        fprintf(stderr, "sapid: --html: cannot write %s: %s\n", o->html_path, strerror(-rc));
        return 2;
    }
    struct bench_result *r = mem_zalloc(sizeof(*r));
    int status = 1;
    rc = bench_load(o, r);
    if (rc < 0) {
        fprintf(stderr, "sapid: cannot start %u threads: %s\n", o->threads, strerror(-rc));
        goto out;
    }
    bench_result_print(o, r, stdout);
    bool flushed = fflush(stdout) == 0;
    if (o->html_path) {
        rc = bench_html_write(o, r, o->html_path);
        if (rc < 0) {
            fprintf(stderr, "sapid: cannot write %s: %s\n", o->html_path, strerror(-rc));
            goto out;
        }
    }
    bool all_well = bench_result_total(r) > 0 && bench_result_errors(r) == 0 && !r->interrupted;
    status = all_well && flushed ? 0 : 1;
out:
    mem_free(r);
    return status;
}

int bench_main(int argc, char **argv)
{
    struct bench_options o;
    char *message;
    int status = 0;

    if (bench_options_parse(argc, argv, &o, &message) < 0) {
        fprintf(stderr, "sapid: %s\n", message);
        mem_free(message);
        status = 2;
    } else if (o.help) {
        fputs(bench_help, stdout);
    } else {
        status = measure(&o);
    }
    bench_options_fini(&o);
    return status;
}
