/* See server.h. */
#include "server.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

static void path_of(const struct server *v, const char *name, char *ret, size_t size)
{
    snprintf(ret, size, "%s/%s", v->root, name);
}

void server_put(struct server *v, const char *name, const char *text)
{
    char path[128], temporary[160];

    path_of(v, name, path, sizeof(path));
    snprintf(temporary, sizeof(temporary), "%s.new", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    EXPECT(fd >= 0);
    EXPECT_INT(fchmod(fd, 0666), 0); /* the gateway's user may be nobody */
    EXPECT_INT(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    EXPECT_INT(rename(temporary, path), 0);
}

void server_remove(struct server *v, const char *name)
{
    char path[128];

    path_of(v, name, path, sizeof(path));
    EXPECT_INT(unlink(path), 0);
}

static void add_override(struct config_cli *o, size_t *n, char *text)
{
    o->overrides = mem_realloc(o->overrides, (*n + 2) * sizeof(char *));
    o->overrides[(*n)++] = text;
    o->overrides[*n] = NULL;
}

void server_prepare(struct server *v, const char *const *extra)
{
    size_t n = 0;
    bool listens = false;

    snprintf(v->root, sizeof(v->root), "/tmp/sapid-unit-XXXXXX");
    EXPECT(mkdtemp(v->root) != NULL);
    EXPECT_INT(chmod(v->root, 0755), 0);
    supervisor_init(&v->s);
    server_put(v, "events", "");
    struct config_cli *o = &v->s.cli;
    add_override(o, &n, mem_printf("php.document_root=%s", v->root));
    add_override(o, &n, mem_strdup("php.worker_pool_size=2"));
    for (; extra && *extra; extra++) {
        listens = listens || strncmp(*extra, "server.listen=", 14) == 0;
        add_override(o, &n, mem_strdup(*extra));
    }
    if (!listens)
        add_override(o, &n, mem_strdup("server.listen=127.0.0.1:0"));
    o->base_dir = mem_strdup(v->root);
}

static void turn(struct server *v)
{
    loop_turn(v->s.loop, 5 * NS_PER_MS);
}

void server_start(struct server *v, const char *const *extra)
{
    server_prepare(v, extra);
    EXPECT_INT(supervisor_start(&v->s), 0);
    server_await(v, "gateway listen", 1);
    EXPECT_INT(v->s.phase, SUPERVISOR_SERVING);
}

/* Calls `each` with every line of ROOT/events. */
static void read_events(struct server *v, void (*each)(void *ctx, const char *line), void *ctx)
{
    char path[128], line[256];

    path_of(v, "events", path, sizeof(path));
    FILE *f = fopen(path, "re");
    EXPECT(f != NULL);
    while (fgets(line, sizeof(line), f))
        each(ctx, line);
    fclose(f);
}

struct search {
    const char *begin;
    unsigned times;
    pid_t pid;
};

static void look(void *ctx, const char *line)
{
    struct search *s = ctx;
    size_t n = strlen(s->begin);

    if (strncmp(line, s->begin, n) != 0)
        return;
    s->times++;
    s->pid = (pid_t)atoi(line + n);
}

unsigned server_count(struct server *v, const char *line)
{
    struct search s = { line, 0, 0 };
    read_events(v, look, &s);
    return s.times;
}

pid_t server_pid(struct server *v, const char *line)
{
    struct search s = { line, 0, 0 };
    read_events(v, look, &s);
    EXPECT(s.pid > 0);
    return s.pid;
}

void server_await(struct server *v, const char *line, unsigned times)
{
    while (server_count(v, line) < times)
        turn(v);
}

void server_signal(struct server *v, int signo)
{
    EXPECT_INT(kill(getpid(), signo), 0);
    turn(v);
}

int server_finish(struct server *v)
{
    char command[128];

    while (!list_empty(&v->s.roles))
        turn(v);
    int status = v->s.exit_status;
    supervisor_fini(&v->s);
    snprintf(command, sizeof(command), "rm -rf '%s'", v->root);
    EXPECT_INT(system(command), 0);
    return status;
}

unsigned count_descriptors(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");

    EXPECT(d != NULL);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

bool process_exists(pid_t pid)
{
    return kill(pid, 0) == 0 || errno != ESRCH;
}
