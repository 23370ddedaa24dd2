/* The unit-test runner: see test.h. */
#include "test.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static struct test *tests, **tests_end = &tests;

void test_register(struct test *t)
{
    *tests_end = t;
    tests_end = &t->next;
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;

    printf("  %s:%d: ", file, line);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

void test_expect_int(const char *file, int line, const char *what, int64_t got, int64_t want)
{
    if (got != want)
        test_fail(file, line, "%s is %lld, expected %lld", what, (long long)got, (long long)want);
}

void test_expect_str(const char *file, int line, const char *what, struct str got, struct str want)
{
    if (!str_eq(got, want))
        test_fail(file, line, "%s is \"%.*s\" (%zu bytes), expected \"%.*s\" (%zu bytes)", what,
                  STR_ARG(got), got.n, STR_ARG(want), want.n);
}

static char *guarded_pages(size_t n, size_t *ret_room)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t room = (n + page - 1) / page * page;
    char *p =
        mmap(NULL, room + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    CHECK(mprotect(p, page, PROT_NONE) == 0);
    CHECK(mprotect(p + page + room, page, PROT_NONE) == 0);
    *ret_room = room;
    return p + page;
}

struct str test_guarded(struct str s)
{
    size_t room;
    char *p = guarded_pages(s.n, &room) + room - s.n;

    if (s.n)
        memcpy(p, s.p, s.n);
    return (struct str){ p, s.n };
}

struct str test_guarded_front(struct str s)
{
    size_t room;
    char *p = guarded_pages(s.n ? s.n : 1, &room);

    if (s.n)
        memcpy(p, s.p, s.n);
    return (struct str){ p, s.n };
}

static bool run_one(const struct test *t)
{
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        setpgid(0, 0);
        alarm(t->timeout_s);
        t->run();
        fflush(stdout);
        exit(0);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0)
        CHECK(errno == EINTR);
    if (WIFSIGNALED(status))
        printf("  %s: ended by signal %d%s\n", t->name, WTERMSIG(status),
               WTERMSIG(status) == SIGALRM ? " (timeout)" : "");
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool wanted(const struct test *t, int argc, char **argv)
{
    bool any = false;
    for (int i = 1; i < argc; i++) {
        any = true;
        if (strstr(t->name, argv[i]))
            return true;
    }
    return !any;
}

int main(int argc, char **argv)
{
    unsigned passed = 0, failed = 0;
    bool list = argc > 1 && strcmp(argv[1], "--list") == 0;

    for (const struct test *t = tests; t; t = t->next) {
        if (list) {
            puts(t->name);
            continue;
        }
        if (!wanted(t, argc, argv))
            continue;
        bool ok = run_one(t);
        ok ? passed++ : failed++;
        printf("%s %s\n", ok ? "ok  " : "FAIL", t->name);
    }
    if (!list)
        printf("%u passed, %u failed\n", passed, failed);
    return failed ? 1 : 0;
}
