/*
 * `sapid serve`: from the command line to a running server, and the signals that lead it.
 *   SIGTERM   finish running requests, then end; a second one ends at once
 *   SIGINT    end at once
 *   SIGHUP    read the configuration again and start new generations
 *   SIGUSR1   reopen log files
 *   SIGUSR2   let the program that is installed now take over
 * It stays in the foreground and writes to stderr; a service manager is told by sd_notify.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor.h"
#include "supervisor/supervisor_int.h"
#include "version.h"

enum {
    START_LIMIT_S = 120, /* preloading a large application takes seconds, never minutes */
};

/* --- what the person who starts it is told --------------------------------------------------- */

static void explain_users(const struct supervisor *s)
{
    const struct user *gw = &s->plan->gateway_user;

    for (uint32_t i = 0; i < s->plan->config->n_pools; i++) {
        const struct user *u = &s->plan->pools[i].user;
        if (s->plan->config->pools[i].use_fpm)
            continue;
        if (u->change)
            log_notice("pool %.*s runs PHP as user %s (%s)",
                       STR_ARG(s->plan->config->pools[i].name),
                       u->name[0] ? u->name : "without a name", u->why);
        else if (u->uid == 0)
            log_warn(
                "pool %.*s runs PHP as ROOT, because %s: any flaw of the application is the whole "
                "machine's; set user = \"www-data\" in [%.*s]",
                STR_ARG(s->plan->config->pools[i].name), u->why[0] ? u->why : "it was asked for",
                STR_ARG(s->plan->config->pools[i].table));
    }
    if (gw->change)
        log_notice("the gateway runs as user %s (%s)", gw->name[0] ? gw->name : "without a name",
                   gw->why);
}

/* An application moved here from Apache may count on protection that only Apache gives. */
static void explain_denied(const char *root)
{
    char *denied = config_denied_folders(root);

    if (denied)
        log_warn(
            "files in %s can be downloaded: their .htaccess forbids it, but nothing reads that "
            "here; move these folders out of the document root",
            denied);
    mem_free(denied);
}

static void explain(const struct supervisor *s)
{
    log_notice("sapid " SAPID_VERSION ", %s%s",
               s->cli.config_path ? "configuration " : "no configuration file",
               s->cli.config_path ? s->cli.config_path : "");
    for (uint32_t i = 0; i < s->plan->config->n_pools; i++) {
        const struct pool_plan *p = &s->plan->pools[i];
        if (p->detected)
            log_notice("%s", p->detected);
        const struct config_pool *c = &s->plan->config->pools[i];
        if (c->use_fpm) {
            log_notice("pool %.*s: document root %s, PHP by PHP-FPM at %.*s%s",
                       STR_ARG(s->plan->config->pools[i].name), p->document_root,
                       STR_ARG(c->upstream->servers[0].address.text),
                       c->upstream->n_servers > 1 ? " and others" : "");
            explain_denied(p->document_root);
            continue;
        }
        log_notice("pool %.*s: document root %s, %u worker%s%s%s%s",
                   STR_ARG(s->plan->config->pools[i].name), p->document_root, p->workers,
                   p->workers == 1 ? "" : "s", p->workers_why[0] ? " (" : "", p->workers_why,
                   p->workers_why[0] ? ")" : "");
        explain_denied(p->document_root);
    }
    explain_users(s);
}

/* A socket that nobody asked for would let clients wait for ever. */
static void say_unused_sockets(const struct supervisor *s)
{
    for (uint32_t i = 0; i < s->given.n; i++) {
        bool used = false;
        for (uint32_t j = 0; j < s->gateway->listeners.n; j++)
            used |= strcmp(s->given.v[i].url, s->gateway->listeners.v[j].url) == 0;
        if (!used && s->given.v[i].foreign)
            log_warn("the service manager's socket %s is closed: [server] listen does not name it",
                     s->given.v[i].url);
    }
}

void supervisor_listening(struct supervisor *s)
{
    if (s->phase != SUPERVISOR_STARTING) {
        log_notice("the new gateway[%d] accepts connections", (int)s->gateway->role.pid);
        return;
    }
    s->phase = SUPERVISOR_SERVING;
    char *urls = listeners_urls(&s->gateway->listeners);
    log_notice("sapid " SAPID_VERSION " serves %s on %s", s->plan->pools[0].document_root, urls);
    mem_free(urls);
    if (!takeover_pending()) {
        notify_send("READY=1");
    } else { /* the program before says who serves */
        admin_open(&s->admin, &s->plan->config->admin, true);
        admin_give(&s->admin, &s->gateway->role);
    }
    say_unused_sockets(s);
    takeover_done(s);
    watchdog_start(s);
}

/* --- signals --------------------------------------------------------------------------------- */

/* The kernel's SIGHUP for a closed terminal means "end", an operator's means "reload". */
static bool terminal_is_gone(const struct supervisor *s)
{
    if (!s->on_terminal)
        return false;
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    bool gone = fd < 0;
    fd_close(&fd);
    return gone;
}

static void on_signal(void *ctx, int signo)
{
    struct supervisor *s = ctx;

    CHECK_MAGIC(s, SUPERVISOR_MAGIC);
    switch (signo) {
    case SIGCHLD: roles_reap(s); break;
    case SIGTERM: supervisor_stop(s, s->phase == SUPERVISOR_SERVING); break;
    case SIGINT: supervisor_stop(s, false); break;
    case SIGHUP:
        if (terminal_is_gone(s))
            supervisor_stop(s, true);
        else
            supervisor_reload(s, NULL, NULL);
        break;
    case SIGUSR1: logs_reopen(s); break;
    case SIGUSR2: supervisor_upgrade(s, NULL, NULL); break;
    default: break;
    }
}

/* --- start ----------------------------------------------------------------------------------- */

/* A server started with 0, 1 or 2 closed would give those numbers to sockets. */
static void open_standard_descriptors(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

void supervisor_init(struct supervisor *s)
{
    memset(s, 0, sizeof(*s));
    s->magic = SUPERVISOR_MAGIC;
    s->phase = SUPERVISOR_STARTING;
    s->start_limit_ns = START_LIMIT_S * NS_PER_S;
    list_init(&s->roles);
    list_init(&s->gateways);
    list_init(&s->all_pools);
    list_init(&s->names);
    int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    s->on_terminal = tty >= 0;
    fd_close(&tty);
}

static int make_loop(struct supervisor *s)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD, 0 };
    int r = loop_new(&s->loop);

    if (r == 0)
        r = loop_signals(s->loop, signals, on_signal, s);
    if (r < 0) {
        char *line = mem_printf("cannot watch signals: %s", strerror(-r));
        say_line(line);
        mem_free(line);
    }
    return r;
}

/* Where [server] listen is not set, sockets that a service manager opened take its place. */
static int use_given_sockets(struct supervisor *s)
{
    struct plan *plan = NULL;
    size_t n = 0, added = 0;

    while (s->cli.overrides && s->cli.overrides[n])
        n++;
    for (uint32_t i = 0; i < s->given.n && config_listen_is_default(s->plan->config); i++) {
        const struct listener *l = &s->given.v[i];
        if (!l->foreign)
            continue;
        const char *address = strncmp(l->url, "http://", 7) == 0 ? l->url + 7 : l->url;
        s->cli.overrides = mem_realloc(s->cli.overrides, (n + 2) * sizeof(char *));
        s->cli.overrides[n++] = mem_printf("server.listen=%s", address);
        s->cli.overrides[n] = NULL;
        added++;
    }
    if (added == 0)
        return 0;
    int r = plan_new(&s->cli, say_line, &plan);
    if (r < 0)
        return r;
    plan_unref(s->plan);
    s->plan = plan;
    return 0;
}

int supervisor_start(struct supervisor *s)
{
    int r = plan_new(&s->cli, say_line, &s->plan);

    if (r == 0)
        r = logs_open(s);
    if (r == 0)
        r = make_loop(s);
    if (r < 0)
        return r;
    r = use_given_sockets(s);
    if (r < 0)
        return r;
    explain(s);
    if (!takeover_names(s))
        names_load(s);
    if (!takeover_pending()) /* else it is still the other program's */
        admin_open(&s->admin, &s->plan->config->admin, false);
    r = rollout_first(s);
    if (r == 0)
        watcher_start(s);
    return r;
}

int supervisor_run(struct supervisor *s)
{
    /* a start that failed before the loop ran may have left nobody to wait for */
    if (s->phase < SUPERVISOR_DRAINING || !list_empty(&s->roles))
        loop_run(s->loop);
    CHECK(list_empty(&s->roles));
    if (s->exit_status == 0)
        names_save(s);
    if (s->exit_status == 0)
        log_notice("stopped");
    return s->exit_status;
}

void supervisor_fini(struct supervisor *s)
{
    admin_close(&s->admin);
    logs_close();
    if (s->loop) {
        profile_fini(s);
        stacks_fini(s);
        watcher_stop(s);
        watchdog_stop(s);
        rollout_cancel(s);
        LIST_FOR_EACH_SAFE(it, &s->all_pools)
            pool_free(LIST_ENTRY(it, struct pool, link));
        LIST_FOR_EACH_SAFE(it, &s->gateways)
            gateway_free(LIST_ENTRY(it, struct gateway_process, link));
        loop_timer_cancel(s->loop, &s->stop_timer);
        loop_free(s->loop);
    }
    names_forget(s);
    images_unread(s);
    listeners_close(&s->given);
    mem_free(s->pools);
    mem_free(s->program);
    plan_unref(s->plan);
    plan_unref(s->previous);
    config_cli_fini(&s->cli);
    s->magic = 0;
}

int command_line_read(int argc, char **argv, struct config_cli *ret)
{
    char *message = NULL;
    int r = config_cli_parse(argc, argv, ret, &message);

    if (r < 0)
        say_line(message);
    mem_free(message);
    if (r < 0 || !ret->help)
        return r;
    fputs(config_cli_help(argv[0]), stdout);
    return 1;
}

/* What this program was started with, then everything. */
static int begin(struct supervisor *s)
{
    s->program = upgrade_program(program_invocation_name);
    int r = takeover_begin(&s->given);

    if (r < 0) {
        char *line = mem_printf("a socket that this program was given (LISTEN_FDS) cannot be used: "
                                "%s; it takes TCP and unix stream sockets with a path",
                                strerror(-r));
        say_line(line);
        mem_free(line);
        return r;
    }
    return supervisor_start(s);
}

int serve_main(int argc, char **argv)
{
    static struct supervisor s;
    int status;

    open_standard_descriptors();
    signal(SIGPIPE, SIG_IGN); /* a log reader that goes away must not end the server */
    supervisor_init(&s);
    int r = command_line_read(argc, argv, &s.cli);
    if (r != 0)
        status = r < 0 ? 2 : 0;
    else if (begin(&s) < 0)
        status = 1;
    else
        status = supervisor_run(&s);
    supervisor_fini(&s);
    return status;
}
