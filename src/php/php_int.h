/* Inside the program's half of the php room (no php.h here). */
#ifndef SAPID_PHP_PHP_INT_H
#define SAPID_PHP_PHP_INT_H

#include "config/config.h"
#include "php/engine.h"
#include "php/php.h"

/* --- loader.c --------------------------------------------------------------------------------- */
struct php_library {
    struct php_probe probe;
    const struct engine_module *engine;
};
/* dlopens libphp (`path` "" = search) and the engine module that fits it, into this process for
 * good. 0, or -errno with one sentence in `message`. */
MUST_USE int library_load(struct str path, struct php_library *ret, char *message,
                          size_t message_size);

/* `sapid php` reads what php-cli reads, where that is installed. */
void library_prefer_cli_ini(struct php_probe *p);

/* --- proctitle.c ------------------------------------------------------------------------------ */
/* Makes room for a title where argv and the environment stand; the environment moves to the heap.
 * Call once, before threads and before anything keeps pointers into environ. */
void proctitle_init(void);
void proctitle_set(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* --- surroundings.c --------------------------------------------------------------------------- */
/* In a worker, before it runs anything: umask, chroot, chdir. 0, or -errno (logged). */
MUST_USE int surroundings_enter(const struct config_pool *pool);
/* In the pool process: what scripts will miss in the chroot, and how to put it there. */
void surroundings_warn(const struct config_pool *pool);

/* --- settings.c ------------------------------------------------------------------------------- */
/* What the engine is told from one pool's configuration. The strings live as long as the config. */
struct settings {
    struct engine_options options;
    struct engine_setting *accel;
    struct engine_setting *env; /* USER, HOME, then the pool's own */
    size_t n_env;
};
/* As many pairs as the configuration's, and texts of their own. */
struct engine_setting *settings_pairs(const struct config_pairs *pairs);
const char *settings_executable(void);
void settings_init(struct settings *s, const struct config_pool *pool,
                   const struct php_probe *probe);

#endif
