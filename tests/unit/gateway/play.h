/*
 * src/gateway/upstream*.c between a gateway and FastCGI servers that are both played by the test:
 * the gateway's functions that upstream calls are here, and write down what they were told; a
 * server is a listening socket whose connections the test reads and writes byte by byte.
 *
 * Everything happens in one thread, when the test says so: no peer runs while another one looks.
 */
#ifndef SAPID_TESTS_GATEWAY_PLAY_H
#define SAPID_TESTS_GATEWAY_PLAY_H

#include "gateway/upstream_int.h"
#include "test.h"

enum { PLAY_SERVERS = 3 };
extern struct gateway_thread play_thread;
extern struct config_fastcgi play_config; /* of play_start: change it before */
extern struct config_fastcgi_server play_servers[PLAY_SERVERS];
extern struct config_pool play_pool;
extern struct upstream *play_upstream;
extern unsigned long play_fail_nth; /* of the allocations of the next client_push and after */

/* One client's request and what became of it. */
struct client {
    struct conn conn;
    struct exchange x;
    bool no_room;      /* its client is slow, and memory and spool are full */
    int head_status;   /* of the answer; 0: no head has come */
    bool ended;        /* the answer is complete */
    int lost_status;   /* respond_lost: the server is at fault */
    int own_status;    /* respond_status: no server was asked */
    size_t body_bytes; /* all of them; the first ones are in `body` */
    char body[256];
};

/* The first `n` servers listen, on unix sockets, with these settings. */
void play_start(uint32_t n);
/* Lets go of everything and checks that nothing is left. */
void play_end(void);
/* The server's socket goes, its file stays: connecting is refused. */
void play_stop_listening(uint32_t server);
void play_listen_again(uint32_t server);

/* A request into `c`. `body`: its bytes, or STR_NONE. */
void client_push(struct client *c, enum http_method method, struct str body);
bool client_done(const struct client *c);
/* Turns the loop until the client has its answer or its error. */
void client_wait(struct client *c);
/* The client closes its connection. */
void client_leave(struct client *c);
/* It takes what waited. */
void client_takes(struct client *c);

/* Whatever is ready now, and what follows from it. */
void play_turn(void);

/* The next connection to a server; -1: there is none. */
int peer_accept(uint32_t server);
/* Reads one whole request, the loop turning meanwhile. Returns the bytes of its body; fails the
 * test when it is not what FastCGI says. */
size_t peer_read_request(int fd);
void peer_send(int fd, struct str bytes);
/* Closed by upstream? Turns the loop until it is or has nothing more to do. */
bool peer_sees_end(int fd);

/* Appends one record. */
void put_record(struct buf *b, unsigned type, struct str content, unsigned padding);
/* "Status: 200 ..." and so on in whole records: a complete answer with that body. */
struct str whole_answer(struct buf *b, const char *body);

/* Figures of a server, by the public way to read them. */
struct upstream_server_look server_look(uint32_t server);
struct upstream_look group_look(void);

#endif
