/* What the kernel keeps for a process: whatever a job does to it is gone after the rollback. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "scene.h"
#include "snapshot/syscall_int.h"

/* --- descriptors ------------------------------------------------------------------------------ */

static int file, other, kept_fd, closed_on_exec;
static struct stat file_stat;

static int scratch_file(const char *text)
{
    int fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);

    EXPECT(fd >= 0);
    EXPECT_INT(write(fd, text, strlen(text)), strlen(text));
    return fd;
}

static void open_files(void)
{
    file = scratch_file("0123456789");
    other = scratch_file("other");
    closed_on_exec = scratch_file("x");
    kept_fd = scratch_file("kept");
    EXPECT_INT(fcntl(closed_on_exec, F_SETFD, FD_CLOEXEC), 0);
    EXPECT_INT(lseek(file, 3, SEEK_SET), 3);
    EXPECT_INT(fstat(file, &file_stat), 0);
    snapshot_keep_fd(kept_fd);
}

static void check_files(unsigned turn)
{
    unsigned *count = scene_kept();
    struct stat st;

    EXPECT_INT(fstat(file, &st), 0);
    EXPECT(st.st_ino == file_stat.st_ino && st.st_dev == file_stat.st_dev);
    EXPECT_INT(lseek(file, 0, SEEK_CUR), 3);
    EXPECT_INT(fcntl(file, F_GETFL) & (O_NONBLOCK | O_APPEND), 0);
    EXPECT_INT(fcntl(file, F_GETFD), 0);
    EXPECT_INT(fcntl(closed_on_exec, F_GETFD), FD_CLOEXEC);
    EXPECT_INT(lseek(other, 0, SEEK_CUR), 5);
    if (!scene_is_worker()) /* the caller's own, which workers share */
        EXPECT_INT(lseek(kept_fd, 0, SEEK_CUR), 4 + turn);
    for (int fd = 0; fd < 3; fd++)
        EXPECT(fcntl(fd, F_GETFD) >= 0);
    if (turn == 1)
        *count = scene_count_fds();
    else if (turn > 1)
        EXPECT_INT(scene_count_fds(), *count);
}

static void change_files(unsigned turn)
{
    char byte;
    int fd[2];

    EXPECT_INT(write(kept_fd, "k", 1), 1);
    EXPECT_INT(read(file, &byte, 1), 1);
    for (int i = 0; i < 5; i++)
        EXPECT(open("/dev/null", O_RDONLY) >= 0);
    EXPECT_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    EXPECT(dup2(1, 150) == 150);
    switch (turn % 6) {
    case 0: EXPECT(dup2(other, file) == file); break;
    case 1: EXPECT_INT(close(file), 0); break;
    case 2:
        EXPECT_INT(close(file), 0);
        EXPECT(dup2(fd[0], file) == file);
        EXPECT_INT(close(0), 0);
        EXPECT(open("/dev/zero", O_RDONLY) == 0);
        break;
    case 3:
        EXPECT_INT(fcntl(file, F_SETFL, O_NONBLOCK | O_APPEND), 0);
        EXPECT_INT(fcntl(file, F_SETFD, FD_CLOEXEC), 0);
        EXPECT_INT(fcntl(closed_on_exec, F_SETFD, 0), 0);
        break;
    case 4: EXPECT_INT(lseek(other, 0, SEEK_SET), 0); break;
    default: /* replaced and put away: as many descriptors as before */
        EXPECT_INT(close(other), 0);
        EXPECT(dup2(file, other) == other);
    }
}

static void expect_fd_counters(const struct snapshot_stats *s)
{
    EXPECT(s->fds_closed >= 8 * 30);
    EXPECT(s->fds_closed <= 9 * 30);
    EXPECT(s->fds_restored >= 20 && s->fds_restored <= 30);
}

TEST(descriptors_opened_closed_replaced_and_moved)
{
    struct scene s = {
        .before = open_files, .check = check_files, .job = change_files, .after = expect_fd_counters
    };
    scene_run(&s);
}

static void close_everything(void)
{
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;

    EXPECT_INT(snapshot_prepare(&o), 0);
    EXPECT(snapshot_take(NULL, &no) == SNAPSHOT_FROZEN);
    EXPECT_INT(close_range(3, ~0u, 0), 0);
    EXPECT(snapshot_rollback(&no) < 0);
    EXPECT_INT(no.problem, SNAPSHOT_LOST_FD);
}

TEST(a_job_that_closed_all_descriptors_is_refused_a_rollback)
{
    scene_apart(close_everything);
}

/* --- folder, umask, limits -------------------------------------------------------------------- */

static char folder[PATH_MAX];

static void note_folder(void)
{
    EXPECT_INT(chdir("/usr"), 0);
    EXPECT(getcwd(folder, sizeof(folder)));
    umask(027);
}

static void check_folder(unsigned turn)
{
    char now[PATH_MAX];
    struct rlimit r;

    (void)turn;
    EXPECT(getcwd(now, sizeof(now)));
    EXPECT(strcmp(now, folder) == 0);
    mode_t mask = umask(027);
    EXPECT_INT(mask, 027);
    EXPECT_INT(getrlimit(RLIMIT_CORE, &r), 0);
    EXPECT(r.rlim_cur != 12345);
}

static void change_folder(unsigned turn)
{
    struct rlimit r;

    EXPECT_INT(chdir(turn % 2 ? "/" : "/tmp"), 0);
    umask(turn % 2 ? 0 : 077);
    EXPECT_INT(getrlimit(RLIMIT_CORE, &r), 0);
    r.rlim_cur = r.rlim_max == RLIM_INFINITY || r.rlim_max > 12345 ? 12345 : r.rlim_max;
    EXPECT_INT(setrlimit(RLIMIT_CORE, &r), 0);
}

TEST(working_directory_umask_and_limits)
{
    struct scene s = { .before = note_folder, .check = check_folder, .job = change_folder };
    scene_run(&s);
}

/* --- signals ---------------------------------------------------------------------------------- */

static volatile sig_atomic_t caught;
static struct sigaction handled;

static void on_signal(int number)
{
    unsigned *count = scene_kept();

    caught = number;
    ++*count;
}

static void set_signals(void)
{
    sigset_t block;

    handled.sa_handler = on_signal;
    handled.sa_flags = SA_RESTART;
    sigemptyset(&handled.sa_mask);
    sigaddset(&handled.sa_mask, SIGUSR2);
    EXPECT_INT(sigaction(SIGUSR1, &handled, NULL), 0);
    EXPECT(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    sigemptyset(&block);
    sigaddset(&block, SIGWINCH);
    EXPECT_INT(sigprocmask(SIG_BLOCK, &block, NULL), 0);
}

static void check_signals(unsigned turn)
{
    unsigned *count = scene_kept();
    struct sigaction now;
    sigset_t mask;
    stack_t stack;

    EXPECT_INT(sigaction(SIGUSR1, NULL, &now), 0);
    EXPECT(now.sa_handler == on_signal && sigismember(&now.sa_mask, SIGUSR2));
    EXPECT_INT(sigaction(SIGPIPE, NULL, &now), 0);
    EXPECT(now.sa_handler == SIG_IGN);
    EXPECT_INT(sigaction(SIGALRM, NULL, &now), 0);
    EXPECT(now.sa_handler == SIG_DFL);
    EXPECT_INT(sigprocmask(SIG_BLOCK, NULL, &mask), 0);
    EXPECT(sigismember(&mask, SIGWINCH) == 1 && sigismember(&mask, SIGUSR1) == 0);
    EXPECT_INT(sigaltstack(NULL, &stack), 0);
    EXPECT(stack.ss_flags & SS_DISABLE);
    /* the one that waited is handled right behind the rollback: its trace in memory is a job's */
    EXPECT_INT(caught, turn > 0 ? SIGUSR1 : 0);
    EXPECT_INT(*count, turn * 2);
}

static void change_signals(unsigned turn)
{
    static char room[65536];
    stack_t stack = { .ss_sp = room, .ss_size = sizeof(room) };
    sigset_t block;

    (void)turn;
    raise(SIGUSR1);
    EXPECT_INT(caught, SIGUSR1);
    EXPECT(signal(SIGALRM, on_signal) != SIG_ERR);
    EXPECT(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    EXPECT_INT(sigaltstack(&stack, NULL), 0);
    sigfillset(&block);
    EXPECT_INT(sigprocmask(SIG_SETMASK, &block, NULL), 0);
    raise(SIGUSR1); /* waits until the mask is the image's again */
}

TEST(signal_actions_mask_stack_and_one_that_waits)
{
    struct scene s = { .before = set_signals, .check = check_signals, .job = change_signals };
    scene_run(&s);
}

static void roll_back_in_handler(int number)
{
    (void)number;
    scene_roll_back();
}

static void set_handler(void)
{
    EXPECT(signal(SIGUSR1, roll_back_in_handler) != SIG_ERR);
}

static void signal_itself(unsigned turn)
{
    (void)turn;
    raise(SIGUSR1);
    test_fail(__FILE__, __LINE__, "the handler came back");
}

static void check_unblocked(unsigned turn)
{
    sigset_t mask;

    (void)turn;
    EXPECT_INT(sigprocmask(SIG_BLOCK, NULL, &mask), 0);
    EXPECT_INT(sigismember(&mask, SIGUSR1), 0);
}

TEST(rollback_inside_a_signal_handler)
{
    struct scene s = { .before = set_handler, .check = check_unblocked, .job = signal_itself };
    scene_run(&s);
}

/* A timer of another process sends signals all the time, also while rollback runs. */
static volatile unsigned ticks;

static void on_tick(int number)
{
    (void)number;
    ticks++;
}

static void roll_back_under_fire(void)
{
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;

    EXPECT_INT(snapshot_prepare(&o), 0);
    unsigned *kept = snapshot_keep_alloc(4096);
    struct sigaction a = { .sa_handler = on_tick };
    EXPECT_INT(sigaction(SIGUSR1, &a, NULL), 0);
    char *memory = malloc(1 << 20);
    memset(memory, 5, 1 << 20);
    int rc = snapshot_take(NULL, &no);
    EXPECT(rc > 0);
    if (rc == SNAPSHOT_FROZEN) {
        pid_t pid = snapshot_fork(false);
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            scene_roll_back();
        }
        int status, ended;
        while ((ended = waitpid(pid, &status, WNOHANG)) == 0)
            kill(pid, SIGUSR1);
        EXPECT_INT(status, 0);
        return;
    }
    EXPECT(memory[*kept * 100 % (1 << 20)] == 5);
    memset(memory, (int)*kept, 1 << 18);
    if (++*kept < 2000)
        scene_roll_back();
}

TEST_WITHIN(signals_during_rollbacks, 300)
{
    scene_apart(roll_back_under_fire);
}

/* --- timers ----------------------------------------------------------------------------------- */

static void nothing(void)
{
}

static void check_timers(unsigned turn)
{
    struct itimerval t;
    char text[8];

    (void)turn;
    for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++) {
        EXPECT_INT(getitimer(which, &t), 0);
        EXPECT_INT(t.it_value.tv_sec + t.it_value.tv_usec, 0);
    }
    int fd = open("/proc/self/timers", O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        EXPECT_INT(read(fd, text, sizeof(text)), 0);
    close(fd);
}

static void start_timers(unsigned turn)
{
    struct itimerval t = { { 0, 0 }, { 3600, 0 } };
    struct itimerspec spec = { { 0, 0 }, { 3600, 0 } };
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
    timer_t timer;

    EXPECT_INT(setitimer(turn % 2 ? ITIMER_REAL : ITIMER_PROF, &t, NULL), 0);
    for (unsigned i = 0; i < turn % 3; i++) {
        EXPECT_INT(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
        EXPECT_INT(timer_settime(timer, 0, &spec, NULL), 0);
    }
}

TEST(timers_of_a_job_are_gone)
{
    struct scene s = { .before = nothing, .check = check_timers, .job = start_timers };
    scene_run(&s);
}

static int kept_timer(void)
{
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
    struct itimerspec spec = { { 0, 0 }, { 3600, 0 } };
    int id = -1;

    EXPECT_INT(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id), 0);
    EXPECT_INT(syscall(SYS_timer_settime, id, 0, &spec, NULL), 0);
    return id;
}

/* Made after the image, as each worker makes its own; the second job makes others beside it. */
static void keep_timer(void)
{
    static unsigned *turn;
    static int *id;
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;
    struct itimerspec left;

    EXPECT_INT(snapshot_prepare(&o), 0);
    turn = snapshot_keep_alloc(sizeof(*turn));
    id = snapshot_keep_alloc(sizeof(*id));
    EXPECT(snapshot_take(NULL, &no) > 0);
    switch ((*turn)++) {
    case 0: snapshot_keep_timer(*id = kept_timer()); break;
    case 1:
        EXPECT_INT(timer_create(CLOCK_MONOTONIC, NULL, &(timer_t){ 0 }), 0);
        kept_timer();
        break;
    default:
        EXPECT_INT(syscall(SYS_timer_gettime, *id, &left), 0);
        EXPECT(left.it_value.tv_sec > 3000);
        EXPECT(syscall(SYS_timer_gettime, *id + 1, &left) < 0 && errno == EINVAL);
        EXPECT(syscall(SYS_timer_gettime, *id + 2, &left) < 0 && errno == EINVAL);
        return;
    }
    EXPECT_INT(snapshot_rollback(&no), 0);
}

TEST(a_kept_timer_outlives_those_of_a_job)
{
    scene_apart(keep_timer);
}

/* --- what is asked only when something may have changed --------------------------------------- */

enum { CHANGED_EVERY = 5, WATCHED_TURNS = 50 };
static void (*change_state)(void);
static struct rlimit core_of_image;

static void load_plugin(void)
{
    void *plugin = dlopen(SNAPSHOT_PLUGIN, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);

    EXPECT(plugin);
    *(void **)&change_state = dlsym(plugin, "plugin_change_state");
    EXPECT(change_state);
    EXPECT_INT(getrlimit(RLIMIT_CORE, &core_of_image), 0);
}

static void check_state(unsigned turn)
{
    struct sigaction now;
    struct rlimit core;

    EXPECT_INT(sigaction(SIGUSR1, NULL, &now), 0);
    EXPECT(now.sa_handler == SIG_DFL);
    EXPECT_INT(getrlimit(RLIMIT_CORE, &core), 0);
    EXPECT_INT(core.rlim_cur, core_of_image.rlim_cur);
    check_timers(turn);
}

static void change_sometimes(unsigned turn)
{
    if (turn % CHANGED_EVERY == 0)
        change_state();
}

static void expect_few_questions(const struct snapshot_stats *s)
{
    EXPECT(s->slow_states >= WATCHED_TURNS / CHANGED_EVERY);
    EXPECT(s->slow_states <= WATCHED_TURNS / CHANGED_EVERY + 5);
}

TEST(calls_of_libraries_that_find_libc_first_are_noted)
{
    struct scene s = { .before = load_plugin,
                       .check = check_state,
                       .job = change_sometimes,
                       .after = expect_few_questions,
                       .turns = WATCHED_TURNS };
    scene_run_alone(&s, false);
}

/* Past every function that is watched: announced, it is put right each time; else it is noticed. */
static long raw_ignore(int number)
{
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        unsigned long mask;
    } action = { (void *)SIG_IGN, 0, NULL, 0 };

    return raw_call(SYS_rt_sigaction, number, (long)&action, 0, 8, 0, 0);
}

static void change_past_libc(void)
{
    struct snapshot_plan announced = { .raw_calls = true };
    struct snapshot_refusal no;
    struct sigaction now;
    static unsigned *turn;

    EXPECT_INT(snapshot_prepare(NULL), 0);
    turn = snapshot_keep_alloc(sizeof(*turn));
    EXPECT(snapshot_take(&announced, &no) > 0);
    EXPECT_INT(sigaction(SIGUSR2, NULL, &now), 0);
    EXPECT(now.sa_handler == SIG_DFL);
    if ((*turn)++ == 10)
        return;
    EXPECT_INT(raw_ignore(SIGUSR2), 0);
    EXPECT_INT(snapshot_rollback(&no), 0);
}

TEST(calls_past_libc_that_were_announced_are_undone)
{
    scene_apart(change_past_libc);
}

static void change_unannounced(void)
{
    struct snapshot_refusal no;
    struct sigaction now;
    static unsigned *turn, *left;

    EXPECT_INT(snapshot_prepare(NULL), 0);
    turn = snapshot_keep_alloc(sizeof(*turn));
    left = snapshot_keep_alloc(sizeof(*left));
    EXPECT(snapshot_take(NULL, &no) > 0);
    EXPECT_INT(sigaction(SIGUSR2, NULL, &now), 0);
    *left += now.sa_handler == SIG_IGN;
    if ((*turn)++ == 300) { /* found at the 64th rollback; none since */
        EXPECT(*left > 0 && *left < 65);
        return;
    }
    if (*turn > 5) /* the first rollback asks */
        EXPECT_INT(raw_ignore(SIGUSR2), 0);
    EXPECT_INT(snapshot_rollback(&no), 0);
}

TEST(a_way_around_what_is_watched_is_noticed)
{
    scene_apart(change_unannounced);
}

/* --- locked memory ---------------------------------------------------------------------------- */

static unsigned long locked_kib(void)
{
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    unsigned long ret = 1;

    EXPECT(f);
    while (fgets(line, sizeof(line), f))
        if (strncmp(line, "VmLck:", 6) == 0)
            ret = strtoul(line + 6, NULL, 10);
    fclose(f);
    return ret;
}

static void *lockable;

static void make_lockable(void)
{
    lockable = malloc(100000);
    memset(lockable, 1, 100000);
}

static void check_lock(unsigned turn)
{
    (void)turn;
    EXPECT_INT(locked_kib(), 0);
}

static void lock(unsigned turn)
{
    void *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    EXPECT(p != MAP_FAILED);
    EXPECT_INT(mlock(p, 8192), 0);
    memset(p, 1, 8192);
    if (turn % 2) /* behind the interposed functions */
        EXPECT_INT(syscall(SYS_mlock, lockable, 50000), 0);
    memset(lockable, 2, 100000);
}

static void check_lock_if_seen(unsigned turn)
{
    if (turn % 2 == 1)
        check_lock(turn);
}

TEST(memory_locked_by_a_job)
{
    struct scene s = { .before = make_lockable, .check = check_lock_if_seen, .job = lock };
    scene_run(&s);
}

/* --- threads ---------------------------------------------------------------------------------- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int shared_value;

static void *add_one(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&mutex);
    shared_value++;
    free(malloc(5000));
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static void check_value(unsigned turn)
{
    (void)turn;
    EXPECT_INT(shared_value, 0);
}

static void use_threads(unsigned turn)
{
    pthread_t thread[3];
    unsigned n = 1 + turn % 3;

    for (unsigned i = 0; i < n; i++)
        EXPECT_INT(pthread_create(&thread[i], NULL, add_one, NULL), 0);
    for (unsigned i = 0; i < n; i++)
        EXPECT_INT(pthread_join(thread[i], NULL), 0);
    EXPECT_INT(shared_value, n);
}

TEST(threads_that_came_and_went)
{
    struct scene s = { .before = nothing, .check = check_value, .job = use_threads };
    scene_run(&s);
}

static void thread_before_image(void)
{
    use_threads(2);
    shared_value = 0;
}

TEST(threads_on_stacks_that_the_image_caches)
{
    struct scene s = { .before = thread_before_image, .check = check_value, .job = use_threads };
    scene_run(&s);
}

static void *wait_on_pipe(void *arg)
{
    char byte;

    EXPECT_INT(read(*(int *)arg, &byte, 1), 1);
    return NULL;
}

static void leave_thread(void)
{
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;
    pthread_t thread;
    int fd[2];

    EXPECT_INT(snapshot_prepare(&o), 0);
    int *turn = snapshot_keep_alloc(4096);
    EXPECT(snapshot_take(NULL, &no) > 0);
    if (++*turn == 3)
        return;
    EXPECT_INT(pipe(fd), 0);
    snapshot_keep_fd(fd[0]);
    snapshot_keep_fd(fd[1]);
    EXPECT_INT(pthread_create(&thread, NULL, wait_on_pipe, fd), 0);
    EXPECT(snapshot_rollback(&no) < 0);
    EXPECT_INT(no.problem, SNAPSHOT_THREADS);
    EXPECT_INT(write(fd[1], "x", 1), 1); /* the process goes on, and can roll back later */
    EXPECT_INT(pthread_join(thread, NULL), 0);
    scene_roll_back();
}

TEST(a_running_thread_refuses_the_rollback)
{
    scene_apart(leave_thread);
}

/* --- children --------------------------------------------------------------------------------- */

static void leave_children(unsigned turn)
{
    for (unsigned i = 0; i < 1 + turn % 3; i++) {
        pid_t pid = fork();
        EXPECT(pid >= 0);
        if (pid == 0) {
            if (i == 0 && fork() == 0)
                _exit(0);
            _exit(3);
        }
    }
    if (turn % 2)
        EXPECT(wait(NULL) > 0);
    else /* they have ended, and nobody has asked how */
        for (unsigned i = 0; i < 1 + turn % 3; i++)
            EXPECT(waitid(P_ALL, 0, &(siginfo_t){ 0 }, WEXITED | (i == turn % 3 ? WNOWAIT : 0)) ==
                   0);
}

static void expect_no_zombies(const struct snapshot_stats *s)
{
    (void)s;
    while (waitpid(-1, NULL, 0) > 0)
        ;
    EXPECT_INT(errno, ECHILD);
}

TEST(children_that_a_job_left_behind)
{
    struct scene s = { .before = nothing, .job = leave_children, .after = expect_no_zombies };
    scene_run(&s);
}

static void leave_child_running(void)
{
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;

    EXPECT_INT(snapshot_prepare(&o), 0);
    EXPECT(snapshot_take(NULL, &no) == SNAPSHOT_FROZEN);
    pid_t child = fork();
    if (child == 0)
        pause();
    EXPECT(child > 0 && snapshot_rollback(&no) < 0);
    EXPECT_INT(no.problem, SNAPSHOT_CHILDREN);
    EXPECT(strstr(no.text, "a child process running"));
    EXPECT_INT(kill(child, SIGKILL), 0);
    EXPECT_INT(waitpid(child, NULL, 0), child);
}

TEST(a_running_child_refuses_the_rollback)
{
    scene_apart(leave_child_running);
}

/* --- other users ------------------------------------------------------------------------------ */

static void change_user(void)
{
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;

    EXPECT_INT(snapshot_prepare(&o), 0);
    EXPECT(snapshot_take(NULL, &no) == SNAPSHOT_FROZEN);
    if (geteuid() == 0)
        EXPECT_INT(seteuid(65534), 0);
    else
        EXPECT_INT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    EXPECT(snapshot_rollback(&no) < 0);
    EXPECT_INT(no.problem, SNAPSHOT_LOCKED);
}

TEST(another_user_refuses_the_rollback)
{
    scene_apart(change_user);
}

/* --- refusals --------------------------------------------------------------------------------- */

static void refuse_all(void)
{
    struct itimerval t = { { 0, 0 }, { 3600, 0 } }, none = { { 0, 0 }, { 0, 0 } };
    struct sigevent event = { .sigev_notify = SIGEV_NONE };
    timer_t timer;
    int fd[2];

    EXPECT_INT(snapshot_prepare(&(struct snapshot_options){ .verify = true }), 0);
    unsigned fds = scene_count_fds();
    EXPECT_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    scene_expect_refused(SNAPSHOT_SOCKET);
    close(fd[0]);
    close(fd[1]);
    EXPECT_INT(pipe(fd), 0);
    scene_expect_refused(SNAPSHOT_PIPE);
    close(fd[0]);
    close(fd[1]);
    fd[0] = eventfd(0, EFD_CLOEXEC);
    scene_expect_refused(SNAPSHOT_PIPE);
    close(fd[0]);
    EXPECT_INT(setitimer(ITIMER_REAL, &t, NULL), 0);
    scene_expect_refused(SNAPSHOT_TIMER);
    EXPECT_INT(setitimer(ITIMER_REAL, &none, NULL), 0);
    EXPECT_INT(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    scene_expect_refused(SNAPSHOT_TIMER);
    EXPECT_INT(timer_delete(timer), 0);
    void *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    scene_expect_refused(SNAPSHOT_SHARED_MAP);
    munmap(shared, 4096);
    void *locked = malloc(4096);
    EXPECT_INT(mlock(locked, 4096), 0);
    scene_expect_refused(SNAPSHOT_LOCKED);
    EXPECT_INT(munlock(locked, 4096), 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    scene_expect_refused(SNAPSHOT_CHILDREN);
    EXPECT_INT(waitpid(pid, NULL, 0), pid);
    EXPECT_INT(pipe(fd), 0);
    pthread_t thread;
    EXPECT_INT(pthread_create(&thread, NULL, wait_on_pipe, &fd[0]), 0);
    scene_expect_refused(SNAPSHOT_THREADS);
    EXPECT_INT(write(fd[1], "x", 1), 1);
    EXPECT_INT(pthread_join(thread, NULL), 0);
    close(fd[0]);
    close(fd[1]);
    EXPECT_INT(scene_count_fds(), fds); /* refusals left nothing behind */
    struct snapshot_refusal no;
    EXPECT(snapshot_take(NULL, &no) == SNAPSHOT_FROZEN);
    EXPECT(snapshot_take(NULL, &no) == -EALREADY);
}

TEST(refusals_name_what_stands_in_the_way_and_change_nothing)
{
    scene_apart(refuse_all);
}

struct accepted {
    int fd;
    const void *addr;
    unsigned asked;
};

static bool accept_known(void *context, enum snapshot_problem problem, int fd, const void *addr,
                         size_t bytes, const char *text)
{
    struct accepted *a = context;

    EXPECT(text[0]);
    a->asked++;
    if (fd >= 0)
        return problem == SNAPSHOT_SOCKET && fd == a->fd;
    return problem == SNAPSHOT_SHARED_MAP && addr == a->addr && bytes == 4096;
}

static void accept_some(void)
{
    struct accepted a = { 0 };
    struct snapshot_plan plan = { .accept = accept_known, .context = &a };
    struct snapshot_refusal no;
    int fd[2];

    EXPECT_INT(snapshot_prepare(&(struct snapshot_options){ .verify = true }), 0);
    int *turn = snapshot_keep_alloc(4096);
    EXPECT_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    close(fd[1]);
    int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(snapshot_take(&plan, &no) == -EBUSY);
    a.fd = fd[0];
    EXPECT(snapshot_take(&plan, &no) == -EBUSY);
    a.addr = shared;
    EXPECT(snapshot_take(&plan, &no) > 0);
    EXPECT(a.asked >= 5);
    EXPECT_INT(*shared, *turn); /* shared memory is nobody's image */
    ++*shared;
    EXPECT_INT(close(fd[0]), 0);
    if (++*turn < 5)
        scene_roll_back();
}

TEST(what_the_caller_knows_is_accepted)
{
    scene_apart(accept_some);
}
