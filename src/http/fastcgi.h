/*
 * FastCGI 1.0, the responder role as a web server speaks it to php-fpm: requests into bytes, bytes
 * into events. Never touches a socket. Sources: the FastCGI specification (fastcgi.com, sections 3
 * to 6), RFC 3875 for the head that a response starts with.
 *
 * One request at a time on a connection (request id 1): php-fpm does not multiplex.
 */
#ifndef SAPID_HTTP_FASTCGI_H
#define SAPID_HTTP_FASTCGI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/str.h"

enum {
    FASTCGI_HEADER_BYTES = 8,
    FASTCGI_RECORD_MAX = 65528, /* content of one record that needs no padding */
};

/* --- request ---------------------------------------------------------------------------------- */
/* BEGIN_REQUEST. `keep`: the connection stays open after the response. */
MUST_USE int fastcgi_put_begin(struct buf *out, bool keep);
/* One name-value pair into `params`, which holds only pairs. */
MUST_USE int fastcgi_put_param(struct buf *params, struct str name, struct str value);
/* All of `params` as PARAMS records, with the empty one that ends the stream. A pair lies in one
 * record as long as it fits, since php-fpm does not put pairs together again. */
MUST_USE int fastcgi_put_params(struct buf *out, struct str params);
/* Header of a STDIN record of `bytes` (at most FASTCGI_RECORD_MAX), 0 ends the stream. No padding.
 */
void fastcgi_stdin_header(char out[FASTCGI_HEADER_BYTES], uint32_t bytes);

/* --- response --------------------------------------------------------------------------------- */
enum fastcgi_event_type {
    FASTCGI_MORE,   /* nothing whole yet */
    FASTCGI_STDOUT, /* data: part of the response */
    FASTCGI_STDERR, /* data: for the error log */
    FASTCGI_END,    /* the request is over: app_status, protocol_status (0: complete) */
};

struct fastcgi_event {
    enum fastcgi_event_type type;
    struct str data; /* inside the input */
    uint32_t app_status;
    uint8_t protocol_status;
};

/* Zero it first; again after each END. */
struct fastcgi_reader {
    uint32_t content_left, padding_left;
    uint8_t type, n_end;
    bool in_record;
    char end[8];
};

/* Takes from the front of `in`; `*ret_used` bytes are done with. 0, or -EPROTO: the upstream does
 * not speak FastCGI (wrong version, another request's id, a record type a responder does not send).
 */
MUST_USE int fastcgi_read(struct fastcgi_reader *r, struct str in, struct fastcgi_event *ret,
                          size_t *ret_used);

/* The head of a CGI response: header lines up to an empty one, line ends CRLF or LF. The bytes it
 * takes with the empty line, which may be its first; 0 when that has not come. The first `looked`
 * bytes were looked at before. */
size_t cgi_head_end(struct str in, size_t looked);

/* A whole head. `lines` gets "Name: value\r\n" for all but Status, preceded by ":reason: ..." when
 * Status had a reason of its own. `*ret_status`: from Status; 302 with a Location and no Status
 * (RFC 3875 section 6.3.4); else 200. 0, -EPROTO when it is no head, -ENOMEM. */
MUST_USE int cgi_parse_head(struct str head, struct buf *lines, uint16_t *ret_status);

#endif
