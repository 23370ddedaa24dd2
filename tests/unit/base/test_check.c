/* A failed CHECK prints one line that says where and what, then aborts. */
#include "base/check.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

static char said[2048];

/* Runs `f` in a child with stderr in `said`; the signal that ended it. */
static int ends_by(void (*f)(void))
{
    int out[2], status;
    ssize_t n, at = 0;

    CHECK(pipe(out) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], STDERR_FILENO);
        f();
        _exit(0);
    }
    close(out[1]);
    while ((n = read(out[0], said + at, sizeof(said) - 1 - (size_t)at)) > 0)
        at += n;
    said[at] = '\0';
    EXPECT_INT(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static int two = 2;

static void fail_plain(void)
{
    CHECK(two == 3);
}
static void fail_with_text(void)
{
    CHECKF(two == 3, "two is %d", two);
}
static void fail_magic(void)
{
    struct {
        unsigned magic;
    } *none = NULL;
    CHECK_MAGIC(none, 1);
}
static void pass(void)
{
    CHECK(two == 2);
    CHECKF(two == 2, "%d", two);
}

TEST(check_says_where_and_what)
{
    EXPECT_INT(ends_by(fail_plain), SIGABRT);
    EXPECT(strstr(said, "test_check.c:") && strstr(said, "two == 3"));
    EXPECT_INT(said[strlen(said) - 1], '\n');
}

TEST(checkf_adds_its_message)
{
    EXPECT_INT(ends_by(fail_with_text), SIGABRT);
    EXPECT(strstr(said, "two == 3: two is 2\n"));
}

TEST(check_magic_takes_null)
{
    EXPECT_INT(ends_by(fail_magic), SIGABRT);
}

TEST(check_that_holds_says_nothing)
{
    EXPECT_INT(ends_by(pass), 0);
    EXPECT_TEXT(str_from(said), "");
}
