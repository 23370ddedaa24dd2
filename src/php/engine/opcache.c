/*
 * opcache between two requests of a worker script. A restart of opcache (opcache_reset(), or memory
 * full of old versions) waits until no process reads its memory; a worker script reads it as long
 * as it runs, each process under a lock of its own, taken when it compiles or loads its first file
 * after the fork. So the restart would never come, and after opcache.force_restart_timeout opcache
 * would kill whoever holds the lock. Instead the pool is asked for a new generation, which has
 * memory of its own.
 *
 * Workers forked from an image believe that they hold that lock, as the image's process does; but
 * such locks are not inherited. So each takes it itself, or the death of that process would let a
 * restart clear the memory that its workers read.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <fcntl.h>
#include <unwind.h>

#include "base/clock.h"

/* opcache shows its state by its PHP function only. Cheap enough for once a second: 2 us, without
 * the list of scripts. */
static bool is_pending(void)
{
    zend_function *f = zend_hash_str_find_ptr(EG(function_table), "opcache_get_status",
                                              sizeof("opcache_get_status") - 1);
    char *path = SG(request_info).path_translated, *allowed = INI_STR("opcache.restrict_api");
    bool pending = false;
    zval status, no_scripts;

    if (!f)
        return false;
    /* The restriction is for scripts; we are none. */
    if (allowed && *allowed)
        SG(request_info).path_translated = allowed;
    ZVAL_FALSE(&no_scripts);
    ZVAL_UNDEF(&status);
    zend_call_known_function(f, NULL, NULL, &status, 1, &no_scripts, NULL);
    SG(request_info).path_translated = path;
    if (Z_TYPE(status) == IS_ARRAY) {
        zval *v =
            zend_hash_str_find(Z_ARRVAL(status), "restart_pending", sizeof("restart_pending") - 1);
        pending = v && zend_is_true(v);
    }
    zval_ptr_dtor(&status);
    return pending;
}

bool opcache_wants_restart(uint64_t now_ns)
{
    if (now_ns - live->opcache_looked_ns < NS_PER_S)
        return false;
    live->opcache_looked_ns = now_ns;
    return is_pending();
}

/* --- who crashed ------------------------------------------------------------------------------ */

/* The compiler and the path resolver are opcache's once it has started. Where a function begins is
 * known to the unwinder of libgcc, without symbols. */
bool opcache_is_entry(uintptr_t address)
{
    zend_module_entry *module =
        zend_hash_str_find_ptr(&module_registry, "zend opcache", sizeof("zend opcache") - 1);
    zend_extension *extension = zend_get_extension("Zend OPcache");
    void *function = _Unwind_FindEnclosingFunction((void *)address);

    if (!function || !module || !extension || zend_compile_file == compile_file)
        return false;
    if (function == (void *)zend_compile_file || function == (void *)zend_resolve_path ||
        function == (void *)extension->activate || function == (void *)extension->deactivate ||
        function == (void *)module->request_startup_func ||
        function == (void *)module->post_deactivate_func)
        return true;
    for (const zend_function_entry *f = module->functions; f && f->fname; f++)
        if (function == (void *)f->handler)
            return true;
    return false;
}

/* --- workers of an image ---------------------------------------------------------------------- */

/* What opcache locks of its file: it writes (for a moment), it reads (as long as a request). */
enum { LOCK_WRITES, LOCK_READS, LOCK_FDS_MAX = 256 };
static int lock_fd = -1; /* ordinary memory: as in the image */

void opcache_find_lock(void)
{
    char path[32], name[256];

    for (int fd = 3; fd < LOCK_FDS_MAX; fd++) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, name, sizeof(name) - 1);
        name[n > 0 ? n : 0] = '\0';
        if (strstr(name, "/.ZendSem.") || strstr(name, "/memfd:opcache_lock")) {
            lock_fd = fd;
            return;
        }
    }
}

static void set_lock(short type, off_t at)
{
    struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

    if (lock_fd >= 0 && fcntl(lock_fd, F_SETLK, &l) < 0)
        log_warn("opcache's lock file: %s", strerror(errno));
}

void opcache_hold(void)
{
    set_lock(F_RDLCK, LOCK_READS);
}

void opcache_end_write(void)
{
    set_lock(F_UNLCK, LOCK_WRITES);
}
