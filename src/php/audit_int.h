/* Inside `sapid audit`: what audit_main.c hands to audit_print.c. */
#ifndef SAPID_PHP_AUDIT_INT_H
#define SAPID_PHP_AUDIT_INT_H

#include "php/audit.h"
#include "php/php_int.h"

struct audit_report {
    const struct engine_audit *audit;
    const struct audit_log *log;
    const struct config_pool *pool;
    const char *php_version;
    const char *failure; /* the run did not come to an end: why; NULL: it did */
};

/* Prints it to standard output. The exit status of the command. */
int audit_print(const struct audit_report *r, bool json);

#endif
