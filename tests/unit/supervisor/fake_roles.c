/*
 * Stand-ins for the gateway and the pool process. The supervisor executes /proc/self/exe as
 * `@gateway` or
 * `@pool`: in the unit tests that is the test program, and this constructor takes over before main.
 *
 * They do nothing but speak control messages. What happened is appended to ROOT/events, one line
 * each; how a pool behaves is the word in ROOT/behave when it starts: ok (also without the file),
 * fail (says FAILED), refuse (IMAGE_REFUSED), die (ends before READY), deaf (READY, but no DRAIN or
 * STOP has an effect), slow (READY only once ROOT/behave says ok) and ROOT/hold makes the gateway
 * keep its "requests": no POOL_DRAINED, no DRAINED while it exists. Words with "image-" before them
 * (image-refuse, image-slow) are for images of entry scripts. ROOT/status is what a probe is
 * answered (200).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "channel/control.h"

static struct control_boot boot;

static void event(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void event(const char *fmt, ...)
{
    char path[512], line[512];
    va_list ap;

    snprintf(path, sizeof(path), "%s/events", boot.document_root);
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    line[n] = '\n';
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    CHECK(fd >= 0 && write(fd, line, (size_t)n + 1) == n + 1);
    close(fd);
}

static bool behaves(const char *word)
{
    char path[512], found[32] = "ok", *is = found;

    snprintf(path, sizeof(path), "%s/behave", boot.document_root);
    FILE *f = fopen(path, "re");
    if (f) {
        if (fscanf(f, "%31s", found) != 1)
            found[0] = '\0';
        fclose(f);
    }
    if (boot.image_script && strncmp(found, "image-", 6) == 0)
        is += 6;
    return strcmp(is, word) == 0;
}

static bool held(void)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/hold", boot.document_root);
    return access(path, F_OK) == 0;
}

static void say(enum control_type type, uint32_t pool, uint32_t generation, const char *text)
{
    struct control_message m;

    control_message_init(&m, type);
    m.pool = pool;
    m.generation = generation;
    control_message_set_text(&m, str_from(text));
    int unused = control_send(CONTROL_SUPERVISOR_FD, &m, NULL, 0);
    (void)unused;
}

/* The next message; ends the process when the supervisor is gone. Descriptors are counted and
 * closed. */
static void hear(struct control_message *m, size_t *ret_n_fds)
{
    int fds[32];

    if (control_receive(CONTROL_SUPERVISOR_FD, m, fds, ARRAY_LENGTH(fds), ret_n_fds) != 1)
        _exit(0);
    for (size_t i = 0; i < *ret_n_fds; i++)
        close(fds[i]);
}

static void run_pool(void)
{
    struct control_message m;
    size_t n;

    if (boot.image_script)
        event("image %s of %u start %d", boot.image_script_name, boot.image_of_generation,
              (int)getpid());
    else
        event("pool %u start %d", boot.generation, (int)getpid());
    if (behaves("die"))
        _exit(3);
    if (behaves("refuse")) {
        say(CONTROL_IMAGE_REFUSED, boot.pool, boot.generation, "it has a thread");
        _exit(1);
    }
    if (behaves("fail")) {
        say(CONTROL_FAILED, boot.pool, boot.generation, "the engine did not like it");
        _exit(1);
    }
    while (behaves("slow"))
        poll(NULL, 0, 2);
    bool deaf = behaves("deaf");
    say(CONTROL_READY, boot.pool, boot.generation, "");
    for (;;) {
        hear(&m, &n);
        if (m.type == CONTROL_DRAIN && boot.image_script)
            event("image %s of %u drain", boot.image_script_name, boot.image_of_generation);
        else if (m.type == CONTROL_CHANNEL && !boot.image_script)
            event("pool %u channel %zu", boot.generation, n);
        else if (m.type == CONTROL_DRAIN)
            event("pool %u drain", boot.generation);
        if (m.type == CONTROL_STOP)
            event("pool %u stop", boot.generation);
        if (m.type == CONTROL_DRAIN && !deaf)
            say(CONTROL_DRAINED, boot.pool, boot.generation, "");
        if ((m.type == CONTROL_DRAIN || m.type == CONTROL_STOP) && !deaf)
            _exit(0);
    }
}

/* What the gateway still has to say when nothing holds it: a drained generation, its own end. */
enum { POOLS = 64 };
static uint32_t drained[POOLS];
static bool drained_all;

static void say_what_waits(void)
{
    if (held())
        return;
    for (uint32_t i = 0; i < POOLS; i++)
        if (drained[i]) {
            say(CONTROL_POOL_DRAINED, i, drained[i], "");
            drained[i] = 0;
        }
    if (drained_all)
        say(CONTROL_DRAINED, 0, 0, "");
    drained_all = false;
}

/* ROOT/status: what the application answers. */
static int status_of_probe(void)
{
    char path[512];
    int status = 200;

    snprintf(path, sizeof(path), "%s/status", boot.document_root);
    FILE *f = fopen(path, "re");
    if (f) {
        CHECK(fscanf(f, "%d", &status) == 1);
        fclose(f);
    }
    return status;
}

static void answer_probe(const struct control_message *m)
{
    struct control_message answer;

    event("gateway probe %.*s", STR_ARG(control_message_text(m)));
    control_message_init(&answer, CONTROL_PROBED);
    answer.generation = m->generation;
    answer.status = status_of_probe();
    int unused = control_send(CONTROL_SUPERVISOR_FD, &answer, NULL, 0);
    (void)unused;
}

static void gateway_told(const struct control_message *m, size_t n_fds)
{
    static uint32_t actives[POOLS];
    uint32_t none, *active = m->pool < POOLS ? &actives[m->pool] : &none;

    switch (m->type) {
    case CONTROL_LISTENER: event("gateway socket %d thread %u", m->status, m->worker); break;
    case CONTROL_POOL_ADD:
        event("gateway add %u fds %zu", m->generation, n_fds);
        say(CONTROL_POOL_READY, m->pool, m->generation, "");
        break;
    case CONTROL_POOL_ACTIVATE:
        event("gateway activate %u of %u", m->generation, m->pool);
        if (*active && *active != m->generation && m->pool < POOLS)
            drained[m->pool] = *active;
        *active = m->generation;
        break;
    case CONTROL_POOL_LEAVE:
        event("gateway leave-pool %u", m->generation);
        *active = 0;
        say(CONTROL_POOL_DRAINED, m->pool, m->generation, "");
        break;
    case CONTROL_IMAGE_REFUSED:
        event("gateway refused %.*s", STR_ARG(control_message_text(m)));
        break;
    case CONTROL_POOL_REMOVE: event("gateway remove %u", m->generation); break;
    case CONTROL_LISTEN: event("gateway listen"); break;
    case CONTROL_DRAIN:
        event("gateway %s", m->status ? "leave" : "drain");
        drained_all = true;
        break;
    case CONTROL_PING: say(CONTROL_PING, 0, 0, ""); break;
    case CONTROL_PROBE: answer_probe(m); break;
    default: event("gateway message %u", m->type);
    }
}

static void run_gateway(void)
{
    struct control_message m;
    size_t n;

    event("gateway start %d", (int)getpid());
    if (behaves("bad-gateway"))
        _exit(5);
    say(CONTROL_READY, 0, 0, "");
    for (;;) {
        struct pollfd wait = { CONTROL_SUPERVISOR_FD, POLLIN, 0 };
        if (poll(&wait, 1, 2) > 0) {
            hear(&m, &n);
            gateway_told(&m, n);
        }
        say_what_waits();
    }
}

__attribute__((constructor)) static void take_over(int argc, char **argv)
{
    if (argc < 2 || argv[1][0] != '@')
        return;
    CHECK(control_boot_unpack(CONTROL_BOOT_FD, &boot) == 0);
    control_die_with_parent(boot.parent_pid, SIGKILL);
    if (strcmp(argv[1], "@pool") == 0)
        run_pool();
    else
        run_gateway();
    _exit(0);
}
