/*
 * The session extension between two requests of a worker script. Its own request shutdown would
 * also drop the handlers that the application set once, at boot, by session_set_save_handler(),
 * while the setting session.save_handler goes on naming them; so this does the rest of it: the
 * session is written and closed, nothing of it is left for the next client, and the handlers stay.
 *
 * The extension may be missing from libphp or be a shared object: then its symbols are not there,
 * and its own shutdown must do.
 *
 * And a mend of the extension's own shutdown, everywhere: a write() of the application that throws
 * or runs out of memory leaves the storage beneath it open, a session file locked, for as long as
 * the process lives, so that the client's next requests wait for ever.
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

/* What SessionHandler opened and nobody closed. */
static void close_left_open(void)
{
    if (PS(mod_data) && PS(mod_user_is_open) && PS(default_mod)) {
        zend_try
        {
            PS(default_mod)->s_close(&PS(mod_data));
        }
        zend_end_try();
    }
    PS(mod_data) = NULL;
    PS(mod_user_is_open) = 0;
}

static void forget_session(void)
{
    if (!Z_ISUNDEF(PS(http_session_vars))) {
        zval_ptr_dtor(&PS(http_session_vars));
        ZVAL_UNDEF(&PS(http_session_vars));
    }
    close_storage();
    close_left_open();
    release(&PS(id));
    release(&PS(session_vars));
    COMPAT_SESSION_FORGET_START();
    PS(session_status) = php_session_none;
    PS(in_save_handler) = 0;
    PS(set_handler) = 0;
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
    volatile bool intact = true;
    if (PS(session_status) == php_session_active) {
        zend_try
        {
            php_session_flush(1);
        }
        zend_catch
        {
            intact = false;
        }
        zend_end_try();
    }
    forget_session();
    if (!intact)
        zend_bailout();
}

static zend_result (*own_shut_down)(SHUTDOWN_FUNC_ARGS);

static zend_result shut_down(SHUTDOWN_FUNC_ARGS)
{
    zend_result rc = own_shut_down(SHUTDOWN_FUNC_ARGS_PASSTHRU);

    close_left_open();
    return rc;
}

void session_install(void)
{
    zend_module_entry *m = zend_hash_str_find_ptr(&module_registry, "session", 7);

    if (!m || !m->request_shutdown_func || !&ps_globals)
        return;
    own_shut_down = m->request_shutdown_func;
    m->request_shutdown_func = shut_down;
}

bool session_is_active(void)
{
    return &ps_globals && (PS(session_status) == php_session_active || PS(in_save_handler));
}

const char *session_cookie_name(void)
{
    return zend_ini_string("session.name", sizeof("session.name") - 1, 0);
}

/* "Set-Cookie: PHPSESSID=..." */
static bool is_session_cookie(const sapi_header_struct *h)
{
    const struct str field = STR("Set-Cookie:"), name = str_from(session_cookie_name());
    struct str s = { h->header, h->header_len };

    if (!str_eq_nocase(str_take(s, field.n), field))
        return false;
    s = str_trim(str_skip(s, field.n));
    return name.n && str_has_prefix(s, name) && str_has_prefix(str_skip(s, name.n), STR("="));
}

static int is_to_go(void *header)
{
    return is_session_cookie(header);
}

bool session_is_left(void)
{
    zend_llist *headers = &SG(sapi_headers).headers;
    zend_llist_position at;

    if (!&ps_globals)
        return false;
    if ((PS(id) && ZSTR_LEN(PS(id))) || PS(session_status) == php_session_active)
        return true;
    for (const sapi_header_struct *h = zend_llist_get_first_ex(headers, &at); h;
         h = zend_llist_get_next_ex(headers, &at))
        if (is_session_cookie(h))
            return true;
    return false;
}

void session_leave(void)
{
    CHECK(!session_is_active());
    if (!&ps_globals)
        return;
    release(&PS(id));
    PS(define_sid) = 1;
    zend_llist_apply_with_del(&SG(sapi_headers).headers, is_to_go);
}
