/*
 * Between the files of `sapid doctor`: doctor.c (the report, the engine), doctor_ini.c (php.ini
 * files), doctor_trial.c (the engine started once), doctor_fpm.c (PHP-FPM), doctor_system.c
 * (what the kernel and the machine allow).
 */
#ifndef SAPID_TOOLS_DOCTOR_INT_H
#define SAPID_TOOLS_DOCTOR_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "config/config.h"
#include "php/php.h"

/* OK is as it should be; NOTE is worth knowing; WARNING works, but not well; PROBLEM does not work.
 */
enum severity { OK, NOTE, WARNING, PROBLEM };

struct report {
    unsigned warnings, problems;
};

void report_section(struct report *r, const char *title);
void report_say(struct report *r, enum severity severity, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The command that mends what was said last. */
void report_remedy(struct report *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* A further line of what was said last. */
void report_more(struct report *r, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* php.ini files of an engine, opcache and the extensions they load. `pool` says which files and
 * values the configuration chose. */
void doctor_ini(struct report *r, const struct php_probe *probe, const struct config_pool *pool);
/* Starts the engine once, in a process of its own, with these files and the configuration's
 * settings: what does PHP itself say of its start and of opcache? */
void doctor_trial(struct report *r, const struct config_pool *pool, const char *ini_file,
                  const char *ini_dirs);
/* The FastCGI servers that a pool may use: does somebody answer there? */
void doctor_fpm(struct report *r, const struct config *c, const struct config_pool *pool);
/* Kernel, limits, memory, spool folder, addresses. */
void doctor_system(struct report *r, const struct config *c);

/* --- php.ini files as text -------------------------------------------------------------------- */
struct ini_value {
    char *name, *value; /* booleans as "1" and "", as PHP stores them */
    char *file;
};
struct ini {
    struct ini_value
        *values; /* the last of each name; "extension" and "zend_extension" many times */
    size_t n;
    char **files; /* as read, in order */
    size_t n_files;
    char *unreadable; /* first file that exists and cannot be read, NULL */
};
/* The main file and every *.ini of the folders in `scan_dirs` ("a:b"), in PHP's order. */
void ini_read(struct ini *ini, const char *file, const char *scan_dirs);
void ini_read_text(struct ini *ini, const char *file, struct str text);
/* NULL when no file sets it. */
const char *ini_get(const struct ini *ini, const char *name);
void ini_fini(struct ini *ini);

#endif
