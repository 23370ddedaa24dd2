/*
 * supervisor: the first process of a server. No HTTP, no PHP: binds the listeners, starts the
 * gateway and the pool processes by drop-then-exec, replaces what dies, switches generations, ends
 * everything.
 */
#ifndef SAPID_SUPERVISOR_SUPERVISOR_H
#define SAPID_SUPERVISOR_SUPERVISOR_H

#include <stdio.h>

#include "config/config.h"

/* `sapid serve ...`: runs in the foreground until told to end. Returns the exit status. */
int serve_main(int argc, char **argv);
/* What `check --explain` asks of the gateway's room, which this one does not know: says what would
 * become of a GET of `url` and why. `document_roots`: by pool, resolved. Returns the exit status.
 */
typedef int check_explain(const struct config *c, const char *const *document_roots,
                          const char *url, FILE *out);
/* `sapid check ...` */
int check_main(int argc, char **argv, check_explain *explain);

#endif
