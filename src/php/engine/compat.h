/*
 * Differences between PHP 8.2 and 8.5 in one place, so that no version test stands inside a
 * function. Included by every engine file instead of php.h.
 */
#ifndef SAPID_PHP_ENGINE_COMPAT_H
#define SAPID_PHP_ENGINE_COMPAT_H

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wpointer-arith"
#include "php.h"

#include "SAPI.h"
#include "ext/json/php_json.h"
#include "ext/random/php_random.h"
#include "ext/spl/spl_exceptions.h"
#include "ext/standard/basic_functions.h"
#include "ext/standard/info.h"
#include "ext/standard/php_standard.h"
#include "php_ini.h"
#include "php_main.h"
#include "php_output.h"
#include "php_variables.h"
#include "zend_exceptions.h"
#include "zend_extensions.h"
#include "zend_fibers.h"
#include "zend_ini.h"
#include "zend_interfaces.h"
#include "zend_observer.h"
#include "zend_signal.h"
#include "zend_smart_str.h"
#include "zend_stream.h"
#if PHP_VERSION_ID >= 80300
#include "zend_max_execution_timer.h"
#endif
#pragma GCC diagnostic pop

/* php.h brings syslog.h, whose names base/log.h uses for its own levels. */
#undef LOG_ERR
#undef LOG_NOTICE
#undef LOG_INFO

/* Exported by libphp, but in no header. */
extern PHPAPI char *php_ini_opened_path;
extern PHPAPI char *php_ini_scanned_files;

#ifdef ZTS
#error "sapid needs a non-thread-safe (NTS) PHP"
#endif
#if PHP_VERSION_ID < 80200
#error "sapid needs PHP 8.2 or newer"
#endif

/* Since 8.5 a SAPI may act before the body is read; .user.ini may then change post_max_size. */
#if PHP_VERSION_ID >= 80500
#define COMPAT_PRE_REQUEST_INIT(fn) .pre_request_init = (fn),
#define COMPAT_ACTIVATE(fn)
#else
#define COMPAT_PRE_REQUEST_INIT(fn)
#define COMPAT_ACTIVATE(fn) .activate = (fn),
#endif

/* What the engine wants done in a forked child. Since 8.3 it makes its timers anew; since 8.5 there
 * is a function for all of it, which also gives the memory manager's free lists a key of their own
 * (8.4 has that key, but makes a new one only when a child's first request ends). */
#if PHP_VERSION_ID >= 80500
#define compat_child_init() php_child_init()
#elif PHP_VERSION_ID >= 80300
#define compat_child_init() zend_max_execution_timer_init()
#else
#define compat_child_init() ((void)0)
#endif

/* arg_separator.input became a zend_string in 8.5. */
#if PHP_VERSION_ID >= 80500
#define COMPAT_ARG_SEPARATORS() (ZSTR_VAL(PG(arg_separator).input))
#else
#define COMPAT_ARG_SEPARATORS() (PG(arg_separator).input)
#endif

/* The state of lcg_value() and uniqid() is set; mt_rand() will seed itself. Since 8.4 the state
 * stands in the module's globals themselves. */
#if PHP_VERSION_ID >= 80400
#define COMPAT_LCG() (RANDOM_G(combined_lcg))
#else
#define COMPAT_LCG() (((php_random_status_state_combinedlcg *)RANDOM_G(combined_lcg)->state)->state)
#endif
#define compat_random_seed(a, b)              \
    do {                                      \
        COMPAT_LCG()[0] = (a);                \
        COMPAT_LCG()[1] = (b);                \
        RANDOM_G(combined_lcg_seeded) = true; \
        RANDOM_G(mt19937_seeded) = false;     \
    } while (0)

/* 8.3 remembers where a session was started. */
#if PHP_VERSION_ID >= 80300
#define COMPAT_SESSION_FORGET_START()           \
    do {                                        \
        release(&PS(session_started_filename)); \
        PS(session_started_lineno) = 0;         \
    } while (0)
#else
#define COMPAT_SESSION_FORGET_START() ((void)0)
#endif

/* Since 8.4 PHP-FPM's flush() sends the head also when there is no output yet. */
#if PHP_VERSION_ID >= 80400
#define compat_flush_head() ((void)sapi_send_headers())
#else
#define compat_flush_head() ((void)0)
#endif

/* PHP-FPM's fpm_get_status() has a field more. */
#if PHP_VERSION_ID >= 80400
#define COMPAT_STATUS_MEMORY_PEAK(array, bytes) add_assoc_long(array, "memory-peak", bytes)
#else
#define COMPAT_STATUS_MEMORY_PEAK(array, bytes) ((void)(bytes))
#endif

#ifdef ZEND_SIGNALS
#define compat_signal_startup() zend_signal_startup()
/* Leave SIGPROF, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 alone at every request start:
 * the server owns the signals of its workers. */
#define compat_signal_keep_ours() ((void)(SIGG(reset) = 0))
#else
#define compat_signal_startup() ((void)0)
#define compat_signal_keep_ours() ((void)0)
#endif

#endif
