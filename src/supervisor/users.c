/*
 * Who runs what when the server is started as root (THREATMODEL.md gives the reasons):
 *   pool     [php] user; else the owner of the document root; when that is root, root, loudly.
 *   gateway  [server] user; else "nobody" when every user may search the document root; else the
 * pool's. Started by anybody else, everything runs as that user and naming another one is an error.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "supervisor/supervisor_int.h"

static void set_from_passwd(struct user *u, const struct passwd *pw)
{
    u->uid = pw->pw_uid;
    u->gid = pw->pw_gid;
    snprintf(u->name, sizeof(u->name), "%s", pw->pw_name);
    snprintf(u->home, sizeof(u->home), "%s", pw->pw_dir ? pw->pw_dir : "");
}

static void set_self(struct user *u)
{
    const struct passwd *pw = getpwuid(geteuid());

    *u = (struct user){ .change = false, .uid = geteuid(), .gid = getegid() };
    if (pw) {
        snprintf(u->name, sizeof(u->name), "%s", pw->pw_name);
        snprintf(u->home, sizeof(u->home), "%s", pw->pw_dir ? pw->pw_dir : "");
    }
}

/* A user and group named in the configuration; numbers are accepted for both. */
static int set_named(struct user *u, const char *key, struct str user, struct str group,
                     char *message, size_t size)
{
    char name[64], group_name[64];
    uint64_t id;

    *u = (struct user){ .change = true };
    snprintf(name, sizeof(name), "%.*s", STR_ARG(user));
    snprintf(group_name, sizeof(group_name), "%.*s", STR_ARG(group));
    const struct passwd *pw = getpwnam(name);
    if (!pw && str_to_u64(user, UINT32_MAX - 1, &id)) {
        pw = getpwuid((uid_t)id);
        u->uid = (uid_t)id;
        u->gid = (gid_t)id;
        if (!pw && !group.n) {
            snprintf(
                message, size,
                "%s.user = \"%s\": this uid has no entry in the password database, so its group "
                "is unknown; set %s.group too",
                key, name, key);
            return -EINVAL;
        }
    } else if (!pw) {
        snprintf(
            message, size,
            "%s.user = \"%s\": there is no such user; name an existing one (`getent passwd` lists "
            "them) or make it with `adduser --system --group %s`",
            key, name, name);
        return -EINVAL;
    }
    if (pw)
        set_from_passwd(u, pw);
    if (group.n) {
        const struct group *gr = getgrnam(group_name);
        if (gr) {
            u->gid = gr->gr_gid;
        } else if (str_to_u64(group, UINT32_MAX - 1, &id)) {
            u->gid = (gid_t)id;
        } else {
            snprintf(message, size,
                     "%s.group = \"%s\": there is no such group; `getent group` lists them", key,
                     group_name);
            return -EINVAL;
        }
    }
    snprintf(u->why, sizeof(u->why), "%s.user", key);
    return 0;
}

/* Not root: naming oneself is fine, anybody else cannot be done. */
static int refuse_other(const struct user *self, const char *key, struct str user, char *message,
                        size_t size)
{
    if (!user.n || str_eq(user, str_from(self->name)))
        return 0;
    snprintf(message, size,
             "%s.user = \"%.*s\", but the server was started as %s (uid %u), which cannot become "
             "another user; start it as root or remove the key",
             key, STR_ARG(user), self->name[0] ? self->name : "a user without a name",
             (unsigned)self->uid);
    return -EINVAL;
}

int user_choose_pool(const struct config_pool *p, const char *document_root, struct user *ret,
                     char *message, size_t message_size)
{
    struct stat st;
    char table[64];

    snprintf(table, sizeof(table), "%.*s", STR_ARG(p->table));
    if (geteuid() != 0) {
        set_self(ret);
        return refuse_other(ret, table, p->user, message, message_size);
    }
    if (p->user.n)
        return set_named(ret, table, p->user, p->group, message, message_size);
    if (stat(document_root, &st) < 0) {
        snprintf(message, message_size, "document root %s: %s", document_root, strerror(errno));
        return -EINVAL;
    }
    set_self(ret);
    if (st.st_uid == 0) {
        snprintf(ret->why, sizeof(ret->why), "the document root belongs to root");
        return 0;
    }
    const struct passwd *pw = getpwuid(st.st_uid);
    *ret = (struct user){ .change = true, .uid = st.st_uid, .gid = st.st_gid };
    if (pw)
        set_from_passwd(ret, pw);
    snprintf(ret->why, sizeof(ret->why), "owner of the document root");
    return 0;
}

/* True when every user may read `dir` and search it and all folders above. */
static bool world_may_search(const char *dir)
{
    char path[4096];
    struct stat st;

    if (snprintf(path, sizeof(path), "%s", dir) >= (int)sizeof(path) || path[0] != '/')
        return false;
    if (stat(path, &st) < 0 || (st.st_mode & (S_IROTH | S_IXOTH)) != (S_IROTH | S_IXOTH))
        return false;
    for (char *slash; (slash = strrchr(path, '/')) != NULL && slash != path;) {
        *slash = '\0';
        if (stat(path, &st) < 0 || !(st.st_mode & S_IXOTH))
            return false;
    }
    return stat("/", &st) == 0 && (st.st_mode & S_IXOTH);
}

int user_choose_gateway(const struct config_server *s, const char *document_root,
                        const struct user *pool, struct user *ret, char *message,
                        size_t message_size)
{
    if (geteuid() != 0) {
        set_self(ret);
        return refuse_other(ret, "server", s->user, message, message_size);
    }
    if (s->user.n)
        return set_named(ret, "server", s->user, s->group, message, message_size);
    const struct passwd *nobody = getpwnam("nobody");
    if (nobody && world_may_search(document_root)) {
        *ret = (struct user){ .change = true };
        set_from_passwd(ret, nobody);
        snprintf(ret->why, sizeof(ret->why), "every user may read the document root");
        return 0;
    }
    *ret = *pool;
    snprintf(ret->why, sizeof(ret->why), "only some users may read the document root");
    return 0;
}

/* One capability for a user that has none, also over the coming exec. */
static int keep_chroot(void)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = { { 0 } };
    const uint32_t bit = CAP_TO_MASK(CAP_SYS_CHROOT);

    caps[CAP_TO_INDEX(CAP_SYS_CHROOT)] =
        (struct __user_cap_data_struct){ .effective = bit, .permitted = bit, .inheritable = bit };
    if (syscall(SYS_capset, &head, caps) < 0 ||
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_CHROOT, 0, 0) < 0)
        return -errno;
    return 0;
}

int user_become(const struct user *u)
{
    if (!u->change)
        return 0;
    int r = u->name[0] ? initgroups(u->name, u->gid) : setgroups(1, &u->gid);
    if (u->chroots && u->uid != 0)
        prctl(PR_SET_KEEPCAPS, 1);
    if (r < 0 || setresgid(u->gid, u->gid, u->gid) < 0 || setresuid(u->uid, u->uid, u->uid) < 0)
        return -errno;
    if (u->uid != 0 && setuid(0) == 0) /* cannot be; if it can, going on would be worse */
        return -EPERM;
    return u->chroots && u->uid != 0 ? keep_chroot() : 0;
}

/* In the forked child: the first part of the path that refuses, as its length in the exit pipe. */
static int probe_path(const struct user *u, const char *dir, size_t *ret_refused)
{
    char path[4096];
    int r = user_become(u);

    *ret_refused = 0;
    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "%s", dir);
    for (size_t i = 1; path[i]; i++) {
        if (path[i] != '/')
            continue;
        path[i] = '\0';
        if (access(path, X_OK) < 0) {
            *ret_refused = i;
            return -errno;
        }
        path[i] = '/';
    }
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || faccessat(fd, ".", X_OK, 0) < 0) {
        *ret_refused = strlen(path);
        return -errno;
    }
    return 0;
}

int user_can_read(const struct user *u, const char *dir, char *ret_refused, size_t size)
{
    struct {
        int64_t error;
        size_t refused;
    } answer = { -EIO, 0 }; /* without padding: all of it goes through the pipe */
    int pipe_fds[2];

    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return -errno;
    pid_t pid = fork();
    if (pid == 0) {
        answer.error = probe_path(u, dir, &answer.refused);
        ssize_t unused = write(pipe_fds[1], &answer, sizeof(answer));
        (void)unused;
        _exit(0);
    }
    int failed = pid < 0 ? errno : 0;
    close(pipe_fds[1]);
    if (!failed) {
        ssize_t n;
        do
            n = read(pipe_fds[0], &answer, sizeof(answer));
        while (n < 0 && errno == EINTR);
        if (n != (ssize_t)sizeof(answer))
            answer.error = -EIO;
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    close(pipe_fds[0]);
    if (failed)
        return -failed;
    if (answer.error < 0)
        snprintf(ret_refused, size, "%.*s", (int)answer.refused, dir);
    return (int)answer.error;
}
