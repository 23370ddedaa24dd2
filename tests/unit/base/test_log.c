/* The error log: one write a line, nothing in a line that could end it or move a terminal's cursor.
 */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test.h"

static int log_read_fd;

/* A datagram socket as log file: what one read returns is what one write wrote. */
static void log_begin(enum log_level least)
{
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) == 0);
    log_read_fd = pair[0];
    log_init("www g1 w3", pair[1], least);
}

static struct str one_write(void)
{
    static char text[20000];
    ssize_t n = read(log_read_fd, text, sizeof(text));
    return n < 0 ? STR_NONE : (struct str){ text, (size_t)n };
}

static struct str text_of(struct str line)
{
    ptrdiff_t at = str_find(line, ']');
    EXPECT(at > 0);
    return str_skip(line, (size_t)at + 2);
}

TEST(log_line_has_time_level_role_and_pid)
{
    regex_t re;
    char line[200], want[200];

    log_begin(LOG_INFO);
    log_warn("hello %d", 7);
    struct str s = one_write();
    snprintf(line, sizeof(line), "%.*s", STR_ARG(s));
    snprintf(want, sizeof(want),
             "^2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{6}Z warn   "
             "www g1 w3\\[%d\\] hello 7\n$",
             (int)getpid());
    CHECK(regcomp(&re, want, REG_EXTENDED | REG_NOSUB) == 0);
    EXPECT_INT(regexec(&re, line, 0, NULL, 0), 0);
    regfree(&re);
}

TEST(log_keeps_the_least_level)
{
    log_begin(LOG_WARN);
    log_notice("no");
    log_text(LOG_INFO, STR_NONE, STR("no"));
    log_error("yes");
    EXPECT_TEXT(text_of(one_write()), "yes\n");
    EXPECT_INT(one_write().n, 0);
}

TEST(log_makes_control_bytes_visible)
{
    log_begin(LOG_DBG);
    log_debug("a\nb\r\033[2J\tc");
    EXPECT_TEXT(text_of(one_write()), "a\\nb\\x0d\\x1b[2J\tc\n");
}

TEST(log_text_splits_lines)
{
    log_begin(LOG_INFO);
    log_text(LOG_INFO, STR("php: "), test_guarded(STR("one\r\n\ntwo\nthree")));
    EXPECT_TEXT(text_of(one_write()), "php: one\n");
    EXPECT_TEXT(text_of(one_write()), "php: two\n");
    EXPECT_TEXT(text_of(one_write()), "php: three\n");
    EXPECT_INT(one_write().n, 0);
}

TEST(log_cuts_a_long_line_and_says_so)
{
    char *z = malloc(30001);

    log_begin(LOG_INFO);
    memset(z, '\001', 30000); /* each grows to four bytes */
    z[30000] = '\0';
    log_info("%s", z);
    struct str line = one_write();
    EXPECT(line.n <= 8192);
    EXPECT(str_has_suffix(line, STR("... (cut)\n")));
    log_text(LOG_INFO, (struct str){ z, 30000 }, STR("text"));
    line = one_write();
    EXPECT(line.n <= 8192);
    EXPECT(str_has_suffix(line, STR("... (cut)\n")));
    free(z);
}

TEST(log_leaves_errno)
{
    log_begin(LOG_INFO);
    log_init("x", -1, LOG_INFO);
    errno = ERANGE;
    log_info("goes nowhere");
    EXPECT_INT(errno, ERANGE);
}

TEST(log_level_names)
{
    enum log_level l = LOG_ERR;
    EXPECT(log_level_parse(STR("debug"), &l) && l == LOG_DBG);
    EXPECT(log_level_parse(STR("notice"), &l) && l == LOG_NOTICE);
    EXPECT(!log_level_parse(STR("Notice"), &l) && l == LOG_NOTICE);
    EXPECT(!log_level_parse(STR(""), &l));
}
