/*
 * db_tool PROTOCOL FD: learns and resets the session of an inherited connection, as it is told on
 * standard input ("learn", "reset", "sever", "idle"), and says what came of it: "ok" or "ERRNO
 * why". For tests/e2e/test_db_sessions.py, which logs in and looks at the session between the
 * steps.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "php/db/db.h"

static enum db_protocol protocol_of(const char *name)
{
    return strcmp(name, "mysql") == 0   ? DB_MYSQL
           : strcmp(name, "pgsql") == 0 ? DB_PGSQL
           : strcmp(name, "redis") == 0 ? DB_REDIS
                                        : DB_UNKNOWN;
}

static int run(const char *line, int fd, enum db_protocol p, struct db_session *s, char *why)
{
    if (strcmp(line, "learn") == 0) {
        db_session_fini(s);
        return db_learn(fd, p, s, why);
    }
    if (strcmp(line, "reset") == 0)
        return db_reset(fd, s, why);
    if (strcmp(line, "sever") == 0)
        return db_sever(fd);
    return db_idle(fd);
}

int main(int argc, char **argv)
{
    struct db_session session = { 0 };
    char line[64];

    if (argc != 3)
        return 2;
    buf_init(&session.request, 0);
    buf_init(&session.identity, 0);
    while (fgets(line, sizeof(line), stdin)) {
        char why[DB_WHY_BYTES] = "";
        line[strcspn(line, "\n")] = '\0';
        uint64_t begin = clock_monotonic_ns();
        int rc = run(line, atoi(argv[2]), protocol_of(argv[1]), &session, why);
        uint64_t us = (clock_monotonic_ns() - begin) / NS_PER_US;
        if (rc == 0)
            printf("ok %llu us\n", (unsigned long long)us);
        else
            printf("%s: %s\n", strerrorname_np(-rc), why);
        fflush(stdout);
    }
    db_session_fini(&session);
    return 0;
}
