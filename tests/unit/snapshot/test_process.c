/* Processes: forks, what libraries load late, long runs, death in the middle, little memory. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <iconv.h>
#include <limits.h>
#include <locale.h>
#include <netdb.h>
#include <pthread.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "scene.h"

enum { PAGE = 4096 };

static void nothing(void)
{
}

/* --- what glibc remembers of the thread ------------------------------------------------------- */

static pthread_mutex_t recursive = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static pthread_mutex_t robust;

static void make_robust(void)
{
    pthread_mutexattr_t a;

    EXPECT_INT(pthread_mutexattr_init(&a), 0);
    EXPECT_INT(pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST), 0);
    EXPECT_INT(pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED), 0);
    pthread_mutex_t *shared =
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(shared != MAP_FAILED);
    EXPECT_INT(snapshot_keep_range(shared, PAGE), 0);
    EXPECT_INT(pthread_mutex_init(&robust, &a), 0);
}

static void check_thread(unsigned turn)
{
    void *head;
    size_t bytes;
    unsigned cpu;

    (void)turn;
    pthread_mutex_lock(&recursive);
    EXPECT_INT(recursive.__data.__owner, gettid());
    pthread_mutex_unlock(&recursive);
    EXPECT_INT(pthread_kill(pthread_self(), 0), 0);
    EXPECT_INT(raise(SIGCONT), 0);
    EXPECT_INT(syscall(SYS_get_robust_list, 0, &head, &bytes), 0);
    EXPECT(head);
    EXPECT_INT(syscall(SYS_getcpu, &cpu, NULL, NULL), 0);
    EXPECT(sched_getcpu() >= 0 && sched_getcpu() < 4096);
}

static void lock_and_leave(unsigned turn)
{
    pthread_mutex_lock(&recursive);
    if (turn % 2)
        pthread_mutex_lock(&robust);
}

TEST(thread_id_robust_list_and_cpu)
{
    struct scene s = { .before = make_robust, .check = check_thread, .job = lock_and_leave };
    scene_run(&s);
}

/* --- forks ------------------------------------------------------------------------------------ */

static void check_child(void)
{
    check_thread(0);
    EXPECT_INT(getpid(), syscall(SYS_getpid));
}

static void fork_generations(unsigned depth)
{
    struct snapshot_refusal no;
    int status;

    if (depth == 0)
        return;
    pid_t pid = snapshot_fork(false);
    EXPECT(pid >= 0);
    if (pid == 0) {
        check_child();
        fork_generations(depth - 1);
        EXPECT(snapshot_rollback(&no) == 0); /* does not return; the resumed job ends it */
    }
    EXPECT_INT(waitpid(pid, &status, 0), pid);
    EXPECT_INT(status, 0);
}

static void fork_from_workers(void)
{
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;

    EXPECT_INT(snapshot_prepare(&o), 0);
    int *turn = snapshot_keep_alloc(4096);
    char *memory = malloc(1 << 20);
    memset(memory, 3, 1 << 20);
    int rc = snapshot_take(NULL, &no);
    EXPECT(rc > 0);
    EXPECT(memory[4000] == 3);
    memset(memory, 4, 1 << 20);
    if (rc == SNAPSHOT_FROZEN) {
        fork_generations(3);
        return;
    }
    check_child();
    if (++*turn < 10)
        scene_roll_back();
    _exit(0);
}

TEST(children_of_children_roll_back)
{
    scene_apart(fork_from_workers);
}

static void fork_sibling(void)
{
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;
    int status;

    pid_t zygote = fork();
    EXPECT(zygote >= 0);
    if (zygote == 0) {
        pid_t parent = getppid();
        EXPECT_INT(snapshot_prepare(&o), 0);
        if (snapshot_take(NULL, &no) == SNAPSHOT_RESUMED)
            _exit(getppid() == parent ? 42 : 43);
        pid_t pid = snapshot_fork(true);
        EXPECT(pid >= 0);
        if (pid == 0)
            scene_roll_back();
        EXPECT_INT(waitpid(pid, &status, 0), -1); /* not our child */
        _exit(0);
    }
    EXPECT_INT(waitpid(zygote, &status, 0), zygote);
    EXPECT_INT(status, 0);
    EXPECT(waitpid(-1, &status, 0) > 0); /* an orphan's orphan would not be ours */
    EXPECT_INT(WEXITSTATUS(status), 42);
}

TEST(a_sibling_is_the_parents_child)
{
    scene_apart(fork_sibling);
}

static void roll_back_after_plain_fork(void)
{
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;
    static int counter;
    int status;

    EXPECT_INT(snapshot_prepare(&o), 0);
    int *turn = snapshot_keep_alloc(4096);
    int rc = snapshot_take(NULL, &no);
    EXPECT_INT(counter, 0);
    counter = 5;
    if (rc == SNAPSHOT_FROZEN) {
        pid_t pid = fork();
        if (pid == 0)
            scene_roll_back();
        EXPECT_INT(waitpid(pid, &status, 0), pid);
        EXPECT_INT(status, 0);
        return;
    }
    check_child();
    if (++*turn < 5)
        scene_roll_back();
    _exit(0);
}

TEST(a_process_made_by_fork_rolls_back_too)
{
    scene_apart(roll_back_after_plain_fork);
}

static void roll_back_undumpable(void)
{
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;
    int status;

    EXPECT(geteuid() != 0 || setresuid(65534, 65534, 65534) == 0);
    EXPECT_INT(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), 0);
    EXPECT_INT(snapshot_prepare(&o), 0);
    unsigned *turn = snapshot_keep_alloc(4096);
    char *memory = malloc(1 << 20);
    int rc = snapshot_take(NULL, &no);
    if (rc < 0)
        test_fail(__FILE__, __LINE__, "refused: %s", no.text);
    memset(memory, 1, 1 << 20);
    if (rc == SNAPSHOT_FROZEN) {
        pid_t pid = snapshot_fork(false);
        if (pid == 0)
            scene_roll_back();
        EXPECT_INT(waitpid(pid, &status, 0), pid);
        EXPECT_INT(status, 0);
        return;
    }
    EXPECT_INT(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 0);
    dlopen("libz.so.1", RTLD_NOW); /* the slow path reads /proc, too */
    if (++*turn < 5)
        scene_roll_back();
    _exit(0);
}

TEST(a_process_that_is_not_dumpable_rolls_back)
{
    scene_apart(roll_back_undumpable);
}

/* --- loaded late ------------------------------------------------------------------------------ */

static void convert(const char *from, const char *to)
{
    char in[] = "text", out[64];
    char *p = in, *q = out;
    size_t n = 4, room = sizeof(out);
    iconv_t c = iconv_open(to, from);

    EXPECT(c != (iconv_t)-1);
    EXPECT_INT(iconv(c, &p, &n, &q, &room), 0);
    iconv_close(c);
}

static void load_late(unsigned turn)
{
    switch (turn % 5) {
    case 0: convert("ISO-8859-15", "UTF-16"); break;
    case 1: EXPECT(setlocale(LC_ALL, "C.UTF-8")); break;
    case 2: EXPECT(getpwnam("root") && getgrnam("root")); break;
    case 3: {
        void *lib = dlopen("libm.so.6", RTLD_NOW);
        EXPECT(lib);
        lib = dlopen("libz.so.1", RTLD_NOW | RTLD_LOCAL);
        EXPECT(!lib || dlsym(lib, "zlibVersion"));
        break;
    }
    default: {
        struct addrinfo *a = NULL, hints = { .ai_flags = AI_NUMERICHOST };
        EXPECT_INT(getaddrinfo("127.0.0.1", "80", &hints, &a), 0);
        freeaddrinfo(a);
        FILE *f = tmpfile();
        EXPECT(f && fputs("text", f) > 0); /* neither flushed nor closed */
    }
    }
}

static void check_locale(unsigned turn)
{
    unsigned *count = scene_kept();

    EXPECT(strcmp(setlocale(LC_ALL, NULL), "C") == 0);
    if (turn == 6)
        *count = scene_count_maps();
    else if (turn > 6)
        EXPECT(scene_count_maps() <= *count + 20);
}

TEST(libraries_locales_and_converters_loaded_late)
{
    struct scene s = { .before = nothing, .check = check_locale, .job = load_late };
    scene_run(&s);
}

/* --- forks that libraries detect -------------------------------------------------------------- */

static int (*random_bytes)(unsigned char *, int);

static void load_libcrypto(void)
{
    unsigned char byte[16];
    void *lib = dlopen("libcrypto.so.3", RTLD_NOW);

    if (!lib) {
        printf("  no libcrypto.so.3 here: not tested\n");
        return;
    }
    *(void **)&random_bytes = dlsym(lib, "RAND_bytes");
    EXPECT(random_bytes && random_bytes(byte, sizeof(byte)) == 1);
    EXPECT_INT(snapshot_detect_by_pid("libcrypto.so"), 1);
}

static void draw(unsigned turn)
{
    unsigned char(*drawn)[16] = scene_kept();

    if (!random_bytes)
        return;
    EXPECT(random_bytes(drawn[turn], 16) == 1);
    for (unsigned i = 0; i < turn; i++)
        EXPECT(memcmp(drawn[i], drawn[turn], 16) != 0);
}

TEST(random_generator_of_openssl_notices_rollbacks)
{
    struct scene s = { .before = load_libcrypto, .job = draw, .turns = 40 };

    scene_run(&s);
    s.turns = 1100; /* more often than the answers differ */
    scene_run_alone(&s, false);
}

/* --- long runs -------------------------------------------------------------------------------- */

static char *work;

static void make_work(void)
{
    work = malloc(4 << 20);
    memset(work, 1, 4 << 20);
}

static void do_work(unsigned turn)
{
    char *p[50];

    for (size_t i = 0; i < 60; i++)
        work[i * 64 * 1024] = (char)turn;
    work[turn * 4099u % (4 << 20)] ^= 1;
    for (size_t i = 0; i < ARRAY_LENGTH(p); i++)
        memset(p[i] = malloc(100 + i * 200), 1, 100 + i * 200);
    for (size_t i = 0; i < ARRAY_LENGTH(p); i += 2)
        free(p[i]);
    if (turn % 10 == 0)
        EXPECT(open("/dev/null", O_RDONLY) >= 0);
    if (turn % 50 == 0) {
        char *map = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        EXPECT(map != MAP_FAILED);
        memset(map, 1, 2 << 20);
        EXPECT_INT(mprotect(map, PAGE, PROT_NONE), 0);
    }
    if (turn % 500 == 499)
        convert("ISO-8859-15", "UTF-16");
}

struct growth {
    unsigned maps, fds;
    unsigned long kib;
};

static void check_growth(unsigned turn)
{
    struct growth *first = scene_kept();

    if (turn == 2000)
        *first = (struct growth){ scene_count_maps(), scene_count_fds(), scene_resident_kib() };
    if (turn != 10000)
        return;
    EXPECT_INT(scene_count_fds(), first->fds);
    EXPECT(scene_count_maps() <= first->maps + 20);
    EXPECT(scene_resident_kib() <= first->kib + 256);
}

static void expect_cheap(const struct snapshot_stats *s)
{
    EXPECT_INT(s->rollbacks, 10000);
    EXPECT(s->scans < 9900);
    EXPECT_INT(s->fds_closed, 1000);
    EXPECT(s->hot_copied > 10000 * 60);
    EXPECT_INT(s->fds_restored, 0);
}

TEST_WITHIN(ten_thousand_rollbacks_grow_nothing, 300)
{
    struct scene s = { .before = make_work,
                       .check = check_growth,
                       .job = do_work,
                       .after = expect_cheap,
                       .turns = 10000 };
    scene_run_alone(&s, true);
}

/* --- death ------------------------------------------------------------------------------------ */

enum { VICTIMS = 200, SIBLING_TURNS = 300 };

static void die_among_siblings(void)
{
    struct snapshot_options o = { .verify = true };
    struct snapshot_refusal no;
    uint64_t seed = 1;
    int status;

    EXPECT_INT(snapshot_prepare(&o), 0);
    int *turn = snapshot_keep_alloc(4096);
    unsigned char *memory = malloc(8 << 20);
    memset(memory, 7, 8 << 20);
    int rc = snapshot_take(NULL, &no);
    EXPECT(rc > 0);
    for (size_t i = 0; i < 8 << 20; i += 5000)
        EXPECT_INT(memory[i], 7);
    if (rc == SNAPSHOT_RESUMED) {
        memset(memory, ++*turn, 1 << 20);
        if (turn[1] && *turn > SIBLING_TURNS)
            _exit(0);
        scene_roll_back();
    }
    turn[1] = 1;
    pid_t sibling = snapshot_fork(false);
    if (sibling == 0)
        scene_roll_back();
    turn[1] = 0;
    for (int i = 0; i < VICTIMS; i++) {
        pid_t victim = snapshot_fork(false);
        if (victim == 0)
            scene_roll_back();
        struct timespec t = { 0, scene_random(&seed) % 1500000 };
        nanosleep(&t, NULL); /* sleeps because death is to come at a random moment */
        EXPECT_INT(kill(victim, SIGKILL), 0);
        EXPECT_INT(waitpid(victim, &status, 0), victim);
        EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    EXPECT_INT(waitpid(sibling, &status, 0), sibling);
    EXPECT_INT(status, 0);
}

TEST_WITHIN(death_in_the_middle_of_rollbacks_is_harmless_to_siblings, 300)
{
    scene_apart(die_among_siblings);
}

/* --- little memory ---------------------------------------------------------------------------- */

static bool page_out;

static void make_large(void)
{
    work = mmap(NULL, 48 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(work != MAP_FAILED);
    for (size_t i = 0; i < 48 << 20; i += 16)
        *(uint64_t *)(work + i) = i;
}

static void check_large(unsigned turn)
{
    uint64_t seed = turn;

    for (int i = 0; i < 1000; i++) {
        size_t at = scene_random(&seed) % (48 << 20) / 16 * 16;
        EXPECT_INT(*(uint64_t *)(work + at), at);
    }
}

static void use_large(unsigned turn)
{
    uint64_t seed = turn + 99;

    for (int i = 0; i < 1000; i++)
        work[scene_random(&seed) % (48 << 20)] ^= 0x55;
    for (size_t i = 0; i < 300; i++)
        work[i * PAGE * 7] = (char)turn;
    if (page_out) { /* dirty pages leave for swap before the rollback looks for them */
        EXPECT(madvise(work, 48 << 20, MADV_PAGEOUT) == 0 || errno == EINVAL);
    }
}

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    close(fd);
    return ok;
}

static char group[PATH_MAX];

/* A control group for the test's processes, version 1 or 2. 192 MiB: with less, this kernel kills
 * for thrashing. */
static bool limit_memory(void)
{
    static const struct {
        const char *root, *limit;
    } kinds[] = { { "/sys/fs/cgroup/memory", "memory.limit_in_bytes" },
                  { "/sys/fs/cgroup", "memory.max" } };
    char path[PATH_MAX + 64], text[32];

    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++) {
        snprintf(group, sizeof(group), "%s/sapid-test-%d", kinds[i].root, (int)getpid());
        if (mkdir(group, 0755) < 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s", group, kinds[i].limit);
        bool ok = write_file(path, "201326592");
        snprintf(path, sizeof(path), "%s/cgroup.procs", group);
        snprintf(text, sizeof(text), "%d", (int)getpid());
        if (ok && write_file(path, text))
            return true;
        rmdir(group);
    }
    return false;
}

static bool has_swap(void)
{
    FILE *f = fopen("/proc/swaps", "re");
    int lines = 0;

    EXPECT(f);
    for (int c; (c = getc(f)) != EOF;)
        lines += c == '\n';
    fclose(f);
    return lines > 1;
}

/* Compressed memory as swap, or a file; both need root. The name of what was switched on. */
static const char *make_swap(void)
{
    static char file[] = "/tmp/sapid-test-swap-XXXXXX";

    if (write_file("/sys/block/zram0/disksize", "134217728") &&
        system("mkswap /dev/zram0 >/dev/null 2>&1") == 0 && swapon("/dev/zram0", 0) == 0)
        return "/dev/zram0";
    int fd = mkstemp(file);
    EXPECT(fd >= 0);
    char command[128];
    snprintf(command, sizeof(command), "mkswap %s >/dev/null 2>&1", file);
    bool ok = posix_fallocate(fd, 0, 128 << 20) == 0 && system(command) == 0 &&
              swapon(file, 0) == 0;
    close(fd);
    if (ok)
        return file;
    unlink(file);
    return NULL;
}

static void drop_swap(const char *swap)
{
    if (!swap)
        return;
    EXPECT_INT(swapoff(swap), 0);
    if (strncmp(swap, "/tmp/", 5) == 0)
        unlink(swap);
    else
        EXPECT(write_file("/sys/block/zram0/reset", "1"));
}

static void expect_paging(const struct snapshot_stats *s)
{
    struct rusage u;

    EXPECT(s->scans > 0);
    EXPECT_INT(getrusage(RUSAGE_SELF, &u), 0);
    if (page_out)
        printf("  paged out and in: %ld major faults\n", u.ru_majflt);
}

static void run_with_little_memory(void)
{
    struct scene s = {
        .before = make_large, .check = check_large, .job = use_large, .after = expect_paging
    };

    page_out = true;
    scene_run(&s);
}

TEST_WITHIN(memory_limit_with_swap, 300)
{
    bool had = has_swap();
    const char *swap = had ? NULL : make_swap();
    bool limited = limit_memory();
    pid_t pid;
    int status;

    if (!had && !swap)
        printf("  no swap and none could be made (root, zram or mkswap): pages only leave the\n"
               "  memory where the kernel can drop them\n");
    if (!limited)
        printf("  no writable memory control group: MADV_PAGEOUT instead of a limit\n");
    pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) {
        run_with_little_memory();
        fflush(stdout);
        _exit(0);
    }
    EXPECT_INT(waitpid(pid, &status, 0), pid);
    if (limited) { /* out of the group, which then can be removed */
        char path[PATH_MAX], text[32], *slash;
        snprintf(path, sizeof(path), "%s", group);
        slash = strrchr(path, '/');
        snprintf(slash, sizeof(path) - (size_t)(slash - path), "/cgroup.procs");
        snprintf(text, sizeof(text), "%d", (int)getpid());
        EXPECT(write_file(path, text));
        EXPECT_INT(rmdir(group), 0);
    }
    drop_swap(swap);
    EXPECT_INT(status, 0);
}
