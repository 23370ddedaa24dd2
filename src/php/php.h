/*
 * php: the PHP side of the server. This header needs no PHP; the engine module behind it is built per
 * PHP API and loaded at run time, after libphp itself.
 */
#ifndef SAPID_PHP_PHP_H
#define SAPID_PHP_PHP_H

#include <stdbool.h>

#include "base/check.h"
#include "base/str.h"

/* Body of `sapid @pool`: starts the engine once, forks and reaps workers. Returns the exit status. */
int pool_main(void);

/* `sapid php FILE [ARGS]`: CLI semantics on the same engine. Returns the script's exit status. */
int php_cli_main(int argc, char **argv);

/* What `sapid doctor` and error messages need to know of an installed libphp. */
struct php_probe {
    char path[256];       /* of libphp */
    char version[32];     /* "8.2.36" */
    unsigned api;         /* ZEND_MODULE_API_NO, 20220829 */
    bool zts, debug;
    char module[256];     /* engine module that fits, "" when none */
    char ini_file[256], ini_scan_dir[256]; /* that sapid would use by default */
};
/* Loads the library into the calling process (do it in a child). `path` "" = search. 0, or -errno with one
 * sentence in `message` that says what is wrong and what to install. */
MUST_USE int php_probe(struct str path, struct php_probe *ret, char *message, size_t message_size);

#endif
