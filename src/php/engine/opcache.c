/*
 * opcache between two requests of a worker script. A restart of opcache (opcache_reset(), or memory
 * full of old versions) waits until no process reads its memory; a worker script reads it as long
 * as it runs, each process under a lock of its own, taken when it compiles or loads its first file
 * after the fork. So the restart would never come, and after opcache.force_restart_timeout opcache
 * would kill whoever holds the lock. Instead the pool is asked for a new generation, which has
 * memory of its own.
 */
#include "php/engine/engine_int.h"

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
