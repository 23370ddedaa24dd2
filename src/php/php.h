/*
 * php: the PHP side of the server. This header needs no PHP; the engine module behind it is built
 * per PHP API and loaded at run time, after libphp itself.
 */
#ifndef SAPID_PHP_PHP_H
#define SAPID_PHP_PHP_H

#include <stdbool.h>

#include "base/check.h"
#include "base/str.h"

/* Body of `sapid @pool`: starts the engine once, forks and reaps workers. Returns the exit
 * status. */
int pool_main(void);

/* `sapid php FILE [ARGS]`: CLI semantics on the same engine. Returns the script's exit status. */
int php_cli_main(int argc, char **argv);

/* `sapid audit SCRIPT`: what its boot reads, opens and fixes. */
struct config_pool;
typedef int php_become(const struct config_pool *pool, const char *document_root, char *message,
                       size_t message_size);
/* `become` makes this process the pool's user; 0, or -errno with a sentence. */
int php_audit_main(int argc, char **argv, php_become *become);

/* `sapid @lifecycle FILE [N [PHP_INI SCAN_DIR]]`, for bench/: CPU time of one PHP life cycle
 * (startup, script, shutdown, with the trims of the server) in a loop without any transport: the
 * floor under a request. */
int php_lifecycle_main(int argc, char **argv);

/* What `sapid doctor` and error messages need to know of an installed libphp. */
struct php_probe {
    char path[256];   /* of libphp */
    char version[32]; /* "8.2.36" */
    unsigned api;     /* ZEND_MODULE_API_NO, 20220829 */
    bool zts, debug;
    char module[256];                      /* engine module that fits, "" when none */
    char ini_file[256], ini_scan_dir[256]; /* that sapid would use by default */
};
/* Reads the library's bytes, runs nothing of it. `path` "" = search. 0, or -errno with one sentence
 * in `message` that says what is wrong and what to install; what was found out until then is filled
 * in. */
MUST_USE int php_probe(struct str path, struct php_probe *ret, char *message, size_t message_size);

#endif
