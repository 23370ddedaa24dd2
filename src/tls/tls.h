/*
 * TLS as a client, on sockets that do not block. OpenSSL is in a module of its own, sapid-tls.so,
 * which a process loads when it is to speak TLS and not before: one that serves plain HTTP, and
 * every worker forked from it, does not carry the library (docs/adr/0010).
 *
 * Everything that can go wrong with the other side has a name: `trouble`, in English, says what was
 * refused. A client belongs to all threads of a process, a connection to one of them.
 */
#ifndef SAPID_TLS_TLS_H
#define SAPID_TLS_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/check.h"

enum { TLS_ABI = 1, TLS_MESSAGE_BYTES = 256 };

struct tls_client;
struct tls_conn;
/* What a server gave to shorten the next handshakes. NULL: nothing yet. Of one thread. */
struct tls_sessions;

struct tls_client_options {
    const char *ca;          /* file or folder with certificates to trust; NULL: the system's */
    const char *server_name; /* whose certificate it must be: a name, or an IP address */
    bool insecure;           /* take any certificate */
};

/* The module. All errors are negative errno. */
struct tls_module {
    uint32_t abi;
    const char *build; /* version of sapid */

    /* 0, or an error with a message. */
    int (*client_new)(const struct tls_client_options *o, struct tls_client **ret,
                      char message[TLS_MESSAGE_BYTES]);
    void (*client_free)(struct tls_client *client);

    /* On a connected socket, which stays the caller's. The handshake uses one of `*sessions`, and
     * what the server gives is added to them; `sessions` lives as long as the connection. */
    int (*conn_new)(struct tls_client *client, int fd, struct tls_sessions **sessions,
                    struct tls_conn **ret);
    /* 0: done. -EAGAIN: wait for the socket, then again. -EPROTO: see `trouble`. */
    int (*handshake)(struct tls_conn *c);
    /* Bytes, 0 at the end the other side has announced, -EAGAIN, or an error: an end without
     * notice is one. Reads ahead: call until -EAGAIN or until `has_bytes` denies. */
    ssize_t (*recv)(struct tls_conn *c, void *p, size_t n);
    bool (*has_bytes)(const struct tls_conn *c);
    /* Bytes taken, -EAGAIN, or an error. After -EAGAIN at least the same bytes come again. */
    ssize_t (*send)(struct tls_conn *c, const void *p, size_t n);
    /* After -EAGAIN: what is awaited is room for writing (else bytes to read). */
    bool (*wants_write)(const struct tls_conn *c);
    /* What failed last; static or of the connection. */
    const char *(*trouble)(const struct tls_conn *c);
    bool (*resumed)(const struct tls_conn *c);
    /* "TLSv1.3, TLS_AES_256_GCM_SHA384" */
    void (*describe)(const struct tls_conn *c, char *ret, size_t size);
    /* Tells the other side, if that is possible without waiting. Takes NULL. */
    void (*conn_free)(struct tls_conn *c);
    /* Takes NULL. */
    void (*sessions_free)(struct tls_sessions *sessions);
};

#define TLS_SYMBOL "sapid_tls"

/* The module, loaded once per process; NULL with a message that says what to do. Not to be called
 * by two threads at once. */
const struct tls_module *tls_load(char message[TLS_MESSAGE_BYTES]);

#endif
