/*
 * What a worker stands in before it runs a script: umask, root folder and working directory of its
 * pool (umask, chroot, chdir; the names and meanings of PHP-FPM's pool configuration).
 *
 * chroot(2) needs CAP_SYS_CHROOT. The supervisor leaves that one capability to pools that are to be
 * chrooted (users.c); the pool process keeps it for the workers it will fork, and runs no script; a
 * worker gives it up right behind the call. libphp, its extensions, php.ini and opcache's
 * preloading are read before, outside.
 */
#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"
#include "php/php_int.h"

static void give_up_capabilities(void)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { { 0 } };

    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    CHECKF(syscall(SYS_capset, &head, none) == 0, "capset: %s", strerror(errno));
}

static int enter(const char *what, struct str path, int (*call)(const char *))
{
    char *z = mem_strndup(path);
    int rc = call(z) < 0 ? -errno : 0;

    if (rc < 0)
        log_error("%s(\"%s\"): %s", what, z, strerror(-rc));
    mem_free(z);
    return rc;
}

int surroundings_enter(const struct config_pool *pool)
{
    int rc = 0;

    if (pool->umask.n) {
        char *octal = mem_strndup(pool->umask); /* checked by config_load */
        umask((mode_t)strtoul(octal, NULL, 8));
        mem_free(octal);
    }
    if (pool->chroot.n) {
        rc = enter("chroot", pool->chroot, chroot);
        if (geteuid() != 0)
            give_up_capabilities();
    }
    if (rc == 0 && (pool->chdir.n || pool->chroot.n))
        rc = enter("chdir", pool->chdir.n ? pool->chdir : STR("/"), chdir);
    return rc;
}

void surroundings_warn(const struct config_pool *pool)
{
    static const char zones[] = "/usr/share/zoneinfo";

    if (!pool->chroot.n || access(zones, F_OK) < 0)
        return;
    char *inside = mem_printf("%.*s%s", STR_ARG(pool->chroot), zones);
    if (access(inside, F_OK) < 0 && errno == ENOENT)
        log_warn("chroot %.*s has no %s: PHP of Debian and Ubuntu reads its time zones there, and "
                 "crashes in date() without them; what to do: mkdir -p %.*s/usr/share && cp -a %s "
                 "%.*s/usr/share/",
                 STR_ARG(pool->chroot), zones, STR_ARG(pool->chroot), zones, STR_ARG(pool->chroot));
    mem_free(inside);
}
