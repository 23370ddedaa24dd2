/*
 * Descriptors: small helpers that every process role needs. All descriptors this project makes are
 * close-on-exec; a role that is to inherit one gets it by fd_keep_over_exec.
 */
#ifndef SAPID_BASE_FD_H
#define SAPID_BASE_FD_H

#include <sys/types.h>

#include "base/check.h"
#include "base/str.h"

/* Closes if >= 0 and stores -1. */
void fd_close(int *fd);
MUST_USE int fd_keep_over_exec(int fd);
/* Connected pair of SOCK_SEQPACKET sockets, close-on-exec. 0 or -errno. */
MUST_USE int fd_seqpacket_pair(int ret[2]);
/* One datagram with up to 20 descriptors (SCM_RIGHTS). Whole or -errno (-EAGAIN, -EPIPE). */
MUST_USE int fd_send(int sock, const void *p, size_t n, const int *fds, size_t n_fds);
/* Receives one datagram. Returns its length, 0 at the end of the stream, -errno; -EMSGSIZE if it
 * was longer than `size`. Descriptors beyond `max_fds` are closed. */
MUST_USE ssize_t fd_receive(int sock, void *p, size_t size, int *ret_fds, size_t max_fds,
                            size_t *ret_n_fds);
/* Sealed memfd (no shrink, grow, write) with these bytes. Descriptor or -errno. */
MUST_USE int fd_sealed_memory(const char *name, struct str bytes);
/* Whole file into fresh memory (mem_free), NUL-terminated; -EFBIG above `max`. */
MUST_USE int fd_read_all(int fd, size_t max, char **ret, size_t *ret_n);

#endif
