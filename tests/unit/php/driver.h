/*
 * Plays supervisor and gateway for a real pool process with a real libphp, over the real channel,
 * so that the php room is tested without any HTTP. One test, one pool.
 */
#ifndef SAPID_TESTS_DRIVER_H
#define SAPID_TESTS_DRIVER_H

#include "base/buf.h"
#include "channel/channel.h"
#include "channel/control.h"
#include "test.h"

struct driver {
    struct channel *ch;
    struct channel_geometry geometry;
    pid_t pool_pid;
    int supervisor, pool_sock, eventfd;
    int worker_socks[16];
    uint32_t incarnations[16], pids[16];
    int deaths;      /* WORKER_DEAD seen */
    int last_status; /* wait status of the last of them */
    uint32_t last_requests;
    char ready[512]; /* text of READY or FAILED */
    bool failed;
    char root[64]; /* document root: a fresh folder */
    int body_fd;   /* given out on BODY_WANTED; -1: the request has none */
};

struct answer {
    int status;
    struct buf head, body;
    bool complete; /* END was seen */
    bool died;     /* the worker died under it */
    int flushes, informs;
    uint32_t worker;
};

/* `toml`: the [php] section's lines. Waits until the engine is ready or has failed. */
void driver_start(struct driver *d, const char *toml, uint32_t workers);
void driver_stop(struct driver *d);
/* A script of this name with this text in the document root. */
void driver_script(struct driver *d, const char *name, const char *text);
/* Makes it an hour old. */
void driver_age(struct driver *d, const char *name);

/* A request with everything defaulted; change fields, then run. */
void driver_request(struct driver *d, struct channel_request *r, const char *script,
                    const char *query);
/* Pushes and waits for the whole answer. The buffers are NUL-terminated beyond their length. */
void driver_run(struct driver *d, const struct channel_request *r,
                const struct channel_pair *headers, struct answer *ret);
/* In two steps. */
struct channel_ticket driver_push(struct driver *d, const struct channel_request *r,
                                  const struct channel_pair *headers);
void driver_collect(struct driver *d, struct channel_ticket t, struct answer *ret);
/* GET script?query */
void driver_get(struct driver *d, const char *script, const char *query, struct answer *ret);
/* Handles messages until `deaths` reaches n. */
void driver_wait_deaths(struct driver *d, int n);
/* As after the death of a gateway: the pool gets a fresh channel. */
void driver_new_channel(struct driver *d);
void driver_send(struct driver *d, enum control_type type);
/* Handles what is there: messages of the pool and of workers. Waits up to `timeout_ms` for
 * something. */
void driver_poll(struct driver *d, int timeout_ms);
void answer_free(struct answer *a);
/* EXPECT that the body is / contains this. */
#define EXPECT_BODY(a, text) EXPECT_STR(buf_view(&(a)->body), str_from(text))
bool answer_has(const struct answer *a, const char *text);
bool answer_has_header(const struct answer *a, const char *line);

#endif
