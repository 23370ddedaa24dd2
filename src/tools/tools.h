/* tools: the commands beside `serve`, one file each. Each returns the exit status. */
#ifndef SAPID_TOOLS_TOOLS_H
#define SAPID_TOOLS_TOOLS_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"

int bench_main(int argc, char **argv);
/* admin.c: the running server, by its admin socket */
int status_main(int argc, char **argv);
int reload_main(int argc, char **argv);
int upgrade_main(int argc, char **argv);
int stop_main(int argc, char **argv);
/* One request to an admin socket, for as long as the answer takes. Its status, the body in
 * `answer`; or -errno. */
struct buf;
int admin_ask(const char *socket_path, const char *method, const char *target, struct buf *answer);
/* What the supervisor knows of a pool's users, folders and sockets: calls `say` for each thing it
 * looked at. `named` false: nobody named a document root, and none was found. */
typedef void doctor_say(void *ctx, bool good, bool named, const char *line);
typedef void doctor_look(const struct config *c, uint32_t pool, doctor_say *say, void *ctx);
int doctor_main(int argc, char **argv, doctor_look *look);
int perf_main(int argc, char **argv);

#endif
