/*
 * Do the locks in shared memory still work? APCu's are process-shared pthread locks: one that was
 * held by a killed worker is held for ever, and every worker that asks for it hangs. No struct of
 * APCu is looked into: a fork of the pool process stores and deletes an entry by APCu's own
 * functions, which takes the lock of the cache and the lock of its memory, both to write. If that
 * does not come back, the pool process knows. opcache's locks are fcntl locks, which the kernel
 * frees with their holder.
 */
#include "php/engine/engine_int.h"

#include "base/clock.h"

enum { PROBE_OK = 0, PROBE_CANNOT = 1 };

static zend_function *function(const char *name)
{
    return zend_hash_str_find_ptr(CG(function_table), name, strlen(name));
}

bool probe_is_useful(void)
{
    return function("apcu_store") && function("apcu_delete") && INI_BOOL("apc.enabled");
}

static void use_apcu(void)
{
    zval args[3], result;

    ZVAL_STRING(&args[0], "sapid: are the locks free?");
    ZVAL_LONG(&args[1], 1);
    ZVAL_LONG(&args[2], 1); /* second to live */
    ZVAL_UNDEF(&result);
    zend_call_known_function(function("apcu_store"), NULL, NULL, &result, 3, args, NULL);
    zval_ptr_dtor(&result);
    ZVAL_UNDEF(&result);
    zend_call_known_function(function("apcu_delete"), NULL, NULL, &result, 1, args, NULL);
    zval_ptr_dtor(&result);
    zval_ptr_dtor(&args[0]);
}

int probe_run(void)
{
    volatile int status = PROBE_CANNOT;

    request.view = (struct channel_request){ .method = STR("GET"),
                                             .target = STR("/"),
                                             .script_name = STR("/"),
                                             .script_filename = STR("/"),
                                             .request_id = STR("probe"),
                                             .received_ns = clock_realtime_ns(),
                                             .content_length = -1 };
    zend_first_try
    {
        script_describe_request("/");
        if (php_request_startup() == SUCCESS) {
            use_apcu();
            status = PROBE_OK;
        }
    }
    zend_end_try();
    return status;
}
