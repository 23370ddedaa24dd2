/*
 * supervisor: the first process of a server. No HTTP, no PHP: binds the listeners, starts the
 * gateway and the pool processes by drop-then-exec, replaces what dies, switches generations, ends
 * everything.
 */
#ifndef SAPID_SUPERVISOR_SUPERVISOR_H
#define SAPID_SUPERVISOR_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>
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

/* What `doctor` asks of this room, which it does not know: is what a pool needs of users, folders
 * and sockets as it should be? Calls `say` with a sentence for each thing looked at; a bad one says
 * what to do. `named` false: nobody named a document root and none was found, no more is said. */
typedef void supervisor_say(void *ctx, bool good, bool named, const char *line);
void supervisor_look_at_pool(const struct config *c, uint32_t pool, supervisor_say *say, void *ctx);

/* What `audit` asks of it: this process becomes the user that PHP of that pool runs as, with the
 * pool's document root or one that stands in for it. 0, or -errno with a sentence. */
int supervisor_become_pool_user(const struct config_pool *pool, const char *document_root,
                                char *message, size_t message_size);

#endif
