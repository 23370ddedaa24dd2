/*
 * control: what the processes of one server say to each other beside the channel. Every message is
 * one SOCK_SEQPACKET datagram: a struct control_message, descriptors by SCM_RIGHTS in the order
 * named.
 *
 * Start of a role: the supervisor forks, drops uid and gid, and executes `sapid @gateway` or
 * `sapid @pool` afresh with descriptor 3 = control socket to the supervisor and descriptor 4 =
 * sealed memfd with the boot text (control_boot); nothing else is inherited but 0, 1, 2. All other
 * descriptors come over the control socket.
 *
 *   supervisor -> gateway   LISTENER (fd; worker = gateway thread it is for, text = its URL,
 *                           generation = 1: its file is a service manager's),
 *                           POOL_ADD (channel fd, socket to the pool process, n eventfds, and last
 *                           the boot memfd of that generation: its configuration and document root;
 *                           text = document root; of a pool with use_fpm only
 *                           the memfd), POOL_ACTIVATE, POOL_REMOVE, LISTEN,
 *                           POOL_LEAVE (no new requests; POOL_DRAINED follows),
 *                           DRAIN (status: ms that idle connections may stay, when another
 *                           gateway has the listeners now; 0: the server stops),
 *                           REPORT (after POOL_ADD, fd: see report.h),
 *                           FELL_BACK (after POOL_ADD: what had fallen back before),
 *                           REOPEN_LOGS (fd: the new error log, when that is a file),
 *                           RESULT (of a COMMAND: worker = its number, status, text = a sentence;
 *                           fd: what to answer instead, when there is more to say),
 *                           PING (comes back),
 *                           PROBE (text = path; the newest generation of each pool answers),
 *                           IMAGE_REFUSED (pool; text = what and why, status = seconds before it
 *                           may be tried again: for status pages)
 *   gateway -> supervisor   READY, FAILED, POOL_READY (first worker granted), POOL_DRAINED,
 *                           PING, PROBED (generation as in PROBE; HTTP status, or 0 and why),
 *                           FELL_BACK, DRAINED,
 *                           COMMAND (of the admin socket: worker = a number for the answer, text =
 *                           the command),
 *                           IMAGE_WANTED (as a worker said it; pool, generation: the classic
 *                           one's), before it IMAGE_USED for each image of that pool (pool,
 *                           generation: the image's; status: ms since its last request);
 *                           status = CONTROL_IMAGE_UNFIT: of a request that an image passed on
 *   supervisor -> pool      CHANNEL (channel fd, socket to the gateway, n eventfds), DRAIN, STOP,
 *                           REPORT (before CHANNEL: fd of the generation's report, fd of that of
 *                           the one before, if there is one; text = why it was started),
 *                           LOOK (status = CONTROL_LOOK_STACKS: with PHP stacks;
 *                           CONTROL_LOOK_FRAMES: nothing else, see observe.c),
 *                           PROFILE (fd: where stacks are written; requests = milliseconds,
 *                           worker = samples a second and worker)
 *   pool -> supervisor      READY, FAILED, WORKER_DEAD, DRAINED, RESTART (wants a new generation),
 *                           RECORD (a slow request, a crash, the answer to LOOK, the end of
 *                           PROFILE; as text in parts: status = kind, requests = 1 when more
 *                           parts follow), IMAGE_REFUSED (text: why the script of this image pool
 *                           cannot be frozen; the process ends), IMAGE_OUTDATED (text: which of the
 *                           files that its boot has read is another one now)
 *   pool -> gateway         WORKER_START (fd: gateway's end of the worker's socket), WORKER_DEAD
 *                           (status = wait status, cause)
 *   gateway -> pool         WORKER_KILL, WORKERS_WANTED (requests wait and no worker is idle)
 *   pool -> frozen process  CHANNEL (channel fd, n eventfds, and last the memory of the black
 *                           boxes), WORKER_START (fds: the worker's end of its socket, and of that
 *                           for its memory; requests = how many it may serve, 0: any number)
 *   frozen process -> pool  READY (text: about the image), FAILED (text), WORKER_START (the answer:
 *                           pid, or status = -errno)
 *   worker -> gateway       BODY_WANTED, FILE (fd: body of its answer; on the worker's own socket),
 *                           IMAGE_WANTED (text: control_image: its script wants to be frozen)
 *   gateway -> worker       BODY (fd; likewise)
 */
#ifndef SAPID_CHANNEL_CONTROL_H
#define SAPID_CHANNEL_CONTROL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/check.h"
#include "base/str.h"
#include "channel/channel.h"

enum {
    CONTROL_SUPERVISOR_FD = 3,
    CONTROL_BOOT_FD = 4,
    CONTROL_TEXT_MAX = 4096,
    CONTROL_ADMIN_LISTENER = -1,
    CONTROL_LISTENERS_MAX = 256, /* LISTENER messages to one gateway: addresses x threads */
};

enum control_type {
    CONTROL_READY = 1,
    CONTROL_FAILED,   /* text: why, for people */
    CONTROL_LISTENER, /* index of [server] listen, CONTROL_ADMIN_LISTENER: the admin socket; fd */
    CONTROL_LISTEN,   /* start accepting */
    CONTROL_POOL_ADD,
    CONTROL_POOL_ACTIVATE,
    CONTROL_POOL_READY,
    CONTROL_POOL_REMOVE,
    CONTROL_POOL_DRAINED,
    CONTROL_CHANNEL,
    CONTROL_DRAIN,
    CONTROL_DRAINED,
    CONTROL_STOP,
    CONTROL_REOPEN_LOGS,
    CONTROL_RESTART,
    CONTROL_COMMAND,
    CONTROL_RESULT,
    CONTROL_WORKERS_WANTED,
    CONTROL_WORKER_START,
    CONTROL_WORKER_DEAD,
    CONTROL_WORKER_KILL,
    CONTROL_RECORD,
    CONTROL_LOOK,
    CONTROL_BODY_WANTED,
    CONTROL_BODY,
    CONTROL_FILE,
    CONTROL_FELL_BACK, /* worker: 0 the pool, else 1 + index of the [[route]] */
    CONTROL_PING,      /* to the gateway and back, through all its threads */
    CONTROL_PROBE,
    CONTROL_PROBED,
    CONTROL_PROFILE,
    CONTROL_POOL_LEAVE,
    CONTROL_IMAGE_WANTED,
    CONTROL_IMAGE_USED,
    CONTROL_IMAGE_REFUSED,
    CONTROL_REPORT,
    CONTROL_IMAGE_OUTDATED,
    CONTROL_LAST = CONTROL_IMAGE_OUTDATED,
};

enum control_cause {
    CONTROL_CAUSE_ITS_OWN, /* or somebody's outside */
    CONTROL_CAUSE_TIMEOUT, /* request_timeout */
    CONTROL_CAUSE_GATEWAY, /* asked for by WORKER_KILL */
    CONTROL_CAUSE_LOCK,    /* it waited for a lock that a dead worker holds */
};
enum control_record {
    CONTROL_RECORD_SLOW,
    CONTROL_RECORD_CRASH,
    CONTROL_RECORD_LOOK,
    CONTROL_RECORD_PROFILE
};
enum { CONTROL_LOOK_STACKS = 1, CONTROL_LOOK_FRAMES = 2 };
/* IMAGE_WANTED of the gateway: there is one, but it passes on most requests. */
enum { CONTROL_IMAGE_UNFIT = 1 };
/* How a COMMAND ended. */
enum control_result {
    CONTROL_RESULT_DONE,
    CONTROL_RESULT_REFUSED, /* not possible now, or as the configuration is; nothing changed */
    CONTROL_RESULT_FAILED,  /* tried; what served before goes on */
    CONTROL_RESULT_UNKNOWN, /* there is no such command */
};

struct control_message {
    uint32_t type;
    uint32_t pool; /* index in config->pools */
    uint32_t generation;
    uint32_t worker, incarnation;
    int32_t pid;
    int32_t status;               /* WORKER_DEAD: wait status; LISTENER: index; CHANNEL: 1 when
                                     another generation of the pool serves meanwhile; RESULT:
                                     enum control_result */
    uint32_t requests;            /* WORKER_DEAD: requests it had finished */
    uint32_t cause;               /* WORKER_DEAD: control_cause */
    struct channel_ticket ticket; /* BODY_WANTED, BODY, WORKER_DEAD (its running request, if any) */
    uint32_t text_bytes;
    char text[CONTROL_TEXT_MAX]; /* sent only as far as text_bytes */
};

void control_message_init(struct control_message *m, enum control_type type);
void control_message_set_text(struct control_message *m, struct str text); /* cut at the maximum */
struct str control_message_text(const struct control_message *m);
/* 0 or -errno (-EAGAIN on a full non-blocking socket; -EPIPE, or -ECONNRESET where messages were
 * left unread: the other end is closed). */
MUST_USE int control_send(int sock, const struct control_message *m, const int *fds, size_t n_fds);
/* 1 message, 0 end of stream, -errno; checks sizes and type, -EPROTO for anything else. */
MUST_USE int control_receive(int sock, struct control_message *ret, int *ret_fds, size_t max_fds,
                             size_t *ret_n_fds);

/* The text of IMAGE_WANTED: six strings, each ended by NUL. The views point into the text. */
struct control_image {
    struct str script;      /* SCRIPT_FILENAME, absolute */
    struct str script_name; /* SCRIPT_NAME */
    struct str host;        /* of the request that asked, as what follows: the boot's Host */
    bool https;             /* its scheme */
    uint16_t port;          /* SERVER_PORT */
    struct str address;     /* SERVER_ADDR */
};
/* False: it does not fit a message, or a string holds NUL. */
MUST_USE bool control_image_pack(struct control_message *m, const struct control_image *image);
/* False: not such a text. What the strings say is not checked. */
MUST_USE bool control_image_unpack(const struct control_message *m, struct control_image *ret);

/* The boot text: "key=value" records separated by NUL, what an exec'd role needs to know. */
struct control_boot {
    uint32_t pool; /* @pool: index */
    uint32_t generation;
    int parent_pid;    /* for the PR_SET_PDEATHSIG race */
    char *base_dir;    /* relative paths of the configuration start here */
    char *config_name; /* for messages: file name or "(command line)" */
    char *config_text; /* TOML as read by the supervisor */
    size_t config_text_bytes;
    char **overrides;    /* command line, "server.listen=..." form, NULL-terminated */
    char *document_root; /* resolved for this generation */
    /* Of an image pool, else NULL: what it freezes, and the generation of its classic pool whose
     * requests it may take. See docs/snapshot-images.md. */
    char *image_script, *image_script_name, *image_host, *image_address;
    bool image_https;
    uint16_t image_port;
    uint32_t image_of_generation;
};
MUST_USE int control_boot_pack(const struct control_boot *b, int *ret_fd);
MUST_USE int control_boot_unpack(int fd, struct control_boot *ret);
void control_boot_fini(struct control_boot *b);

/* PR_SET_PDEATHSIG with `signo`, then exits if the parent is no longer `parent_pid`. */
void control_die_with_parent(int parent_pid, int signo);

#endif
