/* A supervisor inside the test's own process, with the stand-ins of fake_roles.c for its roles. */
#ifndef SAPID_TESTS_SERVER_H
#define SAPID_TESTS_SERVER_H

#include "supervisor/supervisor_int.h"
#include "test.h"

struct server {
    struct supervisor s;
    char root[64];
};

/* A fresh folder as document root, and the options for it. `extra` overrides end with NULL. */
void server_prepare(struct server *v, const char *const *extra);
/* prepare, start, and wait until it listens. */
void server_start(struct server *v, const char *const *extra);
void server_put(struct server *v, const char *name, const char *text);
void server_remove(struct server *v, const char *name);
/* How many times ROOT/events has a line that begins so. */
unsigned server_count(struct server *v, const char *line);
/* Runs the loop until there are `times` of them; the test's own timeout is the limit. */
void server_await(struct server *v, const char *line, unsigned times);
/* Pid in the last line that begins so: "pool 2 start ". */
pid_t server_pid(struct server *v, const char *line);
void server_signal(struct server *v, int signo);
/* Runs the loop until the supervisor has nobody left; frees all and removes the folder. Exit
 * status. */
int server_finish(struct server *v);
/* Descriptors open in this process. */
unsigned count_descriptors(void);
bool process_exists(pid_t pid);

#endif
