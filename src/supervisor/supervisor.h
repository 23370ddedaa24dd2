/*
 * supervisor: the first process of a server. No HTTP, no PHP: binds the listeners, starts the
 * gateway and the pool processes by drop-then-exec, replaces what dies, switches generations, ends
 * everything.
 */
#ifndef SAPID_SUPERVISOR_SUPERVISOR_H
#define SAPID_SUPERVISOR_SUPERVISOR_H

/* `sapid serve ...`: runs in the foreground until told to end. Returns the exit status. */
int serve_main(int argc, char **argv);
/* `sapid check ...` */
int check_main(int argc, char **argv);

#endif
