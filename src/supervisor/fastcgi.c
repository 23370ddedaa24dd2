/*
 * Before a plan with FastCGI servers is accepted: may the gateway connect to them, are their names
 * known, does each gateway thread get a connection? Whether they are up is not asked: PHP-FPM may
 * be started later, and is restarted while we run.
 */
#include <errno.h>
#include <netdb.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "supervisor/supervisor_int.h"

/* 0; -EACCES and the like. Forks, because only the kernel knows what ACLs and security modules say.
 * A socket that is not there is no error. */
static int can_connect(const struct user *u, const char *path)
{
    int status = 0;
    pid_t pid = fork();

    if (pid < 0)
        return -errno;
    if (pid == 0) {
        if (user_become(u) < 0)
            _exit(EPERM);
        _exit(access(path, W_OK) == 0 || errno == ENOENT ? 0 : errno);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

/* The owner of the socket, such as www-data, unless that is root. */
static bool become_owner(const char *path, struct user *u)
{
    struct stat st;

    if (stat(path, &st) < 0 || st.st_uid == 0)
        return false;
    const struct passwd *pw = getpwuid(st.st_uid);
    *u = (struct user){ .change = true, .uid = st.st_uid, .gid = st.st_gid };
    if (pw) {
        u->gid = pw->pw_gid;
        snprintf(u->name, sizeof(u->name), "%s", pw->pw_name);
        snprintf(u->home, sizeof(u->home), "%s", pw->pw_dir ? pw->pw_dir : "");
    }
    snprintf(u->why, sizeof(u->why), "it may connect to %.200s", path);
    return true;
}

/* PHP-FPM's socket is usually 0660 of www-data: the gateway becomes that user when nobody chose. */
static int check_socket(const struct config_server *s, const char *path, struct user *gateway,
                        char *message, size_t size)
{
    int r = can_connect(gateway, path);

    if (r < 0 && geteuid() == 0 && !s->user.n && become_owner(path, gateway))
        r = can_connect(gateway, path);
    if (r == 0)
        return 0;
    snprintf(message, size,
             "the gateway (user %s, uid %u) cannot connect to the FastCGI server unix:%s: %s; set "
             "server.user to a user that may (`ls -l` shows whom it belongs to), or listen.owner, "
             "listen.group and listen.mode of the PHP-FPM pool",
             gateway->name[0] ? gateway->name : "without a name", (unsigned)gateway->uid, path,
             strerror(-r));
    return -EINVAL;
}

static int check_name(const struct config_listen *address, char *message, size_t size)
{
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    struct addrinfo *found;
    char host[256];

    snprintf(host, sizeof(host), "%.*s", STR_ARG(address->host));
    int r = getaddrinfo(host, NULL, &hints, &found);
    if (r == 0) {
        freeaddrinfo(found);
        return 0;
    }
    snprintf(message, size, "FastCGI server %.*s: %s: %s; give an address or a name that is known",
             STR_ARG(address->text), host, gai_strerror(r));
    return -EINVAL;
}

int fastcgi_check(const struct config *c, uint32_t threads, struct user *gateway, char *message,
                  size_t size)
{
    for (uint32_t i = 0; i < c->n_pools; i++) {
        const struct config_fastcgi *group = c->pools[i].upstream;
        for (uint32_t k = 0; group && k < group->n_servers; k++) {
            const struct config_fastcgi_server *s = &group->servers[k];
            if (s->connections && s->connections < threads) {
                snprintf(message, size,
                         "FastCGI server %.*s: connections = %u is less than the %u gateway "
                         "threads, each of which needs one; raise pm.max_children and connections, "
                         "or lower server.gateway_threads",
                         STR_ARG(s->address.text), s->connections, threads);
                return -EINVAL;
            }
            if (s->address.kind == CONFIG_LISTEN_TCP) {
                if (check_name(&s->address, message, size) < 0)
                    return -EINVAL;
                continue;
            }
            char path[108];
            snprintf(path, sizeof(path), "%.*s", STR_ARG(s->address.path));
            if (check_socket(&c->server, path, gateway, message, size) < 0)
                return -EINVAL;
        }
    }
    return 0;
}
