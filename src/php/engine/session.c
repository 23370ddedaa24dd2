/*
 * The session extension between two requests of a worker script. Its own request shutdown would
 * also drop the handlers that the application set once, at boot, by session_set_save_handler(),
 * while the setting session.save_handler goes on naming them; so this does the rest of it: the
 * session is written and closed, nothing of it is left for the next client, and the handlers stay.
 *
 * The extension may be missing from libphp or be a shared object: then its symbols are not there,
 * and its own shutdown must do.
 */
#include "php/engine/engine_int.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "ext/session/php_session.h"
#pragma GCC diagnostic pop

#pragma weak ps_globals
#pragma weak php_session_flush

static void release(zend_string **s)
{
    if (*s)
        zend_string_release(*s);
    *s = NULL;
}

static void close_storage(void)
{
    if (!PS(mod_data) && !PS(mod_user_implemented))
        return;
    zend_try
    {
        PS(mod)->s_close(&PS(mod_data));
    }
    zend_end_try();
}

static void forget_session(void)
{
    if (!Z_ISUNDEF(PS(http_session_vars))) {
        zval_ptr_dtor(&PS(http_session_vars));
        ZVAL_UNDEF(&PS(http_session_vars));
    }
    close_storage();
    release(&PS(id));
    release(&PS(session_vars));
    COMPAT_SESSION_FORGET_START();
    PS(session_status) = php_session_none;
    PS(in_save_handler) = 0;
    PS(set_handler) = 0;
    PS(mod_data) = NULL;
    PS(mod_user_is_open) = 0;
    PS(define_sid) = 1;
}

void session_end(void)
{
    if (!&ps_globals || !php_session_flush) {
        zend_module_entry *m = zend_hash_str_find_ptr(&module_registry, "session", 7);
        if (m && m->request_shutdown_func)
            m->request_shutdown_func(m->type, m->module_number);
        return;
    }
    if (PS(session_status) == php_session_active)
        php_session_flush(1);
    forget_session();
}

bool session_is_active(void)
{
    return &ps_globals && (PS(session_status) == php_session_active || PS(in_save_handler));
}
