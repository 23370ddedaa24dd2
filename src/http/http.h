/*
 * HTTP messages: bytes in, structures out; structures in, bytes out. Never touches a socket, never
 * allocates: everything parsed is a view into the caller's buffer and dies with it.
 *
 * Strict RFC 9112: whatever two readers could understand differently is an error (400), see
 * enum http_error. Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1), RFC 3986 (targets), RFC 7239
 * (Forwarded), HAProxy's proxy-protocol.txt (PROXY v1 and v2).
 */
#ifndef SAPID_HTTP_HTTP_H
#define SAPID_HTTP_HTTP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>

#include "base/check.h"
#include "base/str.h"

enum { HTTP_HEADERS_MAX = 256 }; /* compile-time bound; the configured limit is lower or equal */

enum http_method {
    HTTP_GET,
    HTTP_HEAD,
    HTTP_POST,
    HTTP_PUT,
    HTTP_DELETE,
    HTTP_OPTIONS,
    HTTP_PATCH,
    HTTP_CONNECT,
    HTTP_TRACE,
    HTTP_OTHER, /* any other token: extension methods go to PHP */
};

enum http_form { HTTP_ORIGIN_FORM, HTTP_ABSOLUTE_FORM, HTTP_AUTHORITY_FORM, HTTP_ASTERISK_FORM };

/* Negative results of the parsers. http_error_status and http_error_text say what to answer. */
enum http_error {
    HTTP_BAD_REQUEST_LINE = 1, /* 400 */
    HTTP_BAD_METHOD,
    HTTP_BAD_TARGET,
    HTTP_BAD_VERSION,
    HTTP_BAD_LINE_END,     /* bare CR, bare LF */
    HTTP_BAD_HEADER_NAME,  /* not a token, empty, or space before the colon */
    HTTP_BAD_HEADER_VALUE, /* NUL or control bytes */
    HTTP_OBS_FOLD,
    HTTP_BAD_HOST, /* missing in 1.1, several, or not a valid authority */
    HTTP_BAD_CONTENT_LENGTH,
    HTTP_BAD_TRANSFER_ENCODING,
    HTTP_BOTH_LENGTHS,
    HTTP_BAD_CHUNK,
    HTTP_BAD_TRAILER,
    HTTP_LINE_TOO_LONG,       /* 414 */
    HTTP_HEADERS_TOO_LARGE,   /* 431 */
    HTTP_TOO_MANY_HEADERS,    /* 431 */
    HTTP_BODY_TOO_LARGE,      /* 413 */
    HTTP_CODING_UNSUPPORTED,  /* 501: a transfer coding other than chunked */
    HTTP_VERSION_UNSUPPORTED, /* 505: HTTP/2 or 3 in a request line, HTTP/0.9 */
    HTTP_EXPECTATION_FAILED,  /* 417 */
    HTTP_BAD_PROXY_PROTOCOL,  /* close without an answer */
    HTTP_BAD_STATUS_LINE,     /* of a response; 502 where it is to be passed on */
};
int http_error_status(enum http_error e);
const char *http_error_text(enum http_error e); /* one English sentence: what was expected */

struct http_limits {
    uint32_t request_line_bytes; /* default 8192 */
    uint32_t headers_bytes;      /* whole header section, default 32768 */
    uint32_t headers_count;      /* default 100 */
    uint64_t body_bytes;         /* default 64 MiB */
};

struct http_header {
    struct str name, value; /* value without surrounding white space */
};

/* One parsed request head. */
struct http_request {
    enum http_method method;
    enum http_form form;
    uint8_t minor; /* 0 or 1 */
    bool keep_alive;
    bool chunked;
    bool expect_continue;
    bool upgrade; /* Connection: upgrade with an Upgrade field; sapid ignores it (RFC 9110 7.8) */
    int64_t content_length; /* -1: no Content-Length */
    struct str method_text;
    struct str target; /* as sent */
    struct str path;   /* raw path: of origin or absolute form, "*" for asterisk form; "/" for an
                        * absolute form without one, which then does not point into the input */
    struct str query;  /* behind '?', p == NULL when there is no '?' */
    struct str host;   /* authority: from absolute form if given, else Host; may be empty in 1.0 */
    uint32_t underscore_dropped; /* headers with '_' or '.' in the name, which become '_' in PHP as
                                  * '-' does and could pass for another: dropped, to be counted */
    uint32_t n_headers;
    struct http_header headers[HTTP_HEADERS_MAX]; /* all but the dropped; `Proxy` is dropped too */
};

/* How far a partial head was looked at, so that a slow sender costs O(n). Zero it first. */
struct http1_parser {
    uint32_t scanned; /* private: bytes judged so far */
    uint32_t line;   /* private: offset of the header line in progress, 0: still the request line */
    uint32_t fields; /* private: offset of the header section */
    uint32_t lines;  /* private: complete header lines */
};

/* Parses one request head at the start of `in`. Returns the bytes it takes (> 0), 0 when more are
 * needed, or -(enum http_error). Empty lines before the request line are skipped: at most one CRLF.
 * `in` starts at the same byte in every call for one head. With 0 or an error `ret` holds no
 * headers; after an error behind the request line its method_text and target are set (for the
 * access log). Where the authority of an absolute form overrides Host, the value in `headers` is
 * replaced by it too. */
MUST_USE int http1_parse_request(struct http1_parser *p, struct str in,
                                 const struct http_limits *limits, struct http_request *ret);

/* Request (or upstream response) body, framed by Content-Length or chunked. */
struct http1_body {
    uint64_t left;  /* of the body or of the current chunk */
    uint64_t total; /* body bytes so far */
    uint64_t max;   /* HTTP_BODY_TOO_LARGE above this */
    uint32_t line;  /* private: bytes of the chunk-size line or trailer section so far */
    uint8_t digits; /* private: of the chunk size */
    uint8_t state;  /* private */
};
void http1_body_init(struct http1_body *b, const struct http_request *r, uint64_t max);
/* Takes from `in`: sets `*ret_data` to a run of body bytes inside `in` (maybe empty) and
 * `*ret_used` to the bytes consumed. Returns 0: call again, with the rest of `in` when `*ret_used`
 * < in.n, else with more input; 1: body complete (trailers, if any, were validated and dropped),
 * `*ret_data` may hold its last bytes; -(enum http_error): the framing is lost, close after the
 * answer. Where the input is cut makes no difference to what is delivered. */
MUST_USE int http1_body_next(struct http1_body *b, struct str in, struct str *ret_data,
                             size_t *ret_used);

/* What frames a response; the other fields are checked for form and not kept. */
struct http_response {
    uint16_t status; /* 100..999 */
    uint8_t minor;   /* 0 or 1 */
    bool keep_alive;
    bool chunked;
    int64_t content_length; /* -1: no Content-Length */
};

/* Zero it before each head. */
struct http1_response_parser {
    struct http_response r; /* private, as all of it */
    uint32_t line;          /* offset of the line in progress */
    uint32_t scanned;       /* bytes in which its end was looked for */
    uint32_t lines;         /* complete header lines */
    bool close, keep;       /* said by Connection */
};

/* Parses one response head at the start of `in`, for a client that asked for no transfer coding.
 * Returns the bytes it takes (> 0), 0 when more are needed, or -(enum http_error). `in` starts at
 * the same byte in every call for one head. Of the limits the two of headers count; the status line
 * is part of headers_bytes. What cannot become HTTP is an error at its first wrong byte. A response
 * with status 1xx other than 101 is followed by another head (RFC 9110 15.2). */
MUST_USE int http1_parse_response(struct http1_response_parser *p, struct str in,
                                  const struct http_limits *limits, struct http_response *ret);
/* The body of that response (RFC 9112 6.3), for http1_body_next. `to_head`: it answers HEAD.
 * Returns true when the body ends with the connection only; http1_body_next never returns 1 then.
 */
bool http1_body_init_response(struct http1_body *b, const struct http_response *r, bool to_head);

/* Case-insensitive look-up; the first one, p == NULL when there is none. */
struct str http_find_header(const struct http_request *r, struct str name);
bool http_is_token(struct str s);
/* Field value as RFC 9110 5.5 allows: no CR, LF, NUL or other control bytes except tab. */
bool http_is_field_value(struct str s);

/* Percent-decodes a path, merges slashes and removes dot segments ("/a//b/%2e%2e/c" -> "/a/c"),
 * into `out` of at least path.n + 1 bytes, NUL-terminated. "%2F" becomes an ordinary slash, as in
 * nginx, and takes part in all that: the result is what routes, files and PATH_INFO see. Returns
 * the length; -EINVAL when it does not start with '/', holds NUL or a bad escape, or climbs above
 * the root. */
MUST_USE int http_normalize_path(struct str path, char *out);

/* Reason phrase, "" for unknown codes. */
const char *http_status_reason(int status);
/* IMF-fixdate (RFC 9110 5.6.7), 29 bytes + NUL. */
enum { HTTP_DATE_BYTES = 30 };
void http_format_date(time_t t, char out[HTTP_DATE_BYTES]);
/* IMF-fixdate, RFC 850 and asctime forms. -EINVAL. */
MUST_USE int http_parse_date(struct str s, time_t *ret);

/* Byte ranges (RFC 9110 14.2) of a representation of `size` bytes. Returns the number of ranges
 * written (sorted as asked, overlaps merged), 0: ignore the header (syntax error, other unit, too
 * many: answer 200), -ERANGE: unsatisfiable (416). */
struct http_range {
    uint64_t first, last;
};
MUST_USE int http_parse_ranges(struct str value, uint64_t size, struct http_range *ret, int max);
/* If-None-Match / If-Match list against one strong or weak entity tag. */
bool http_etag_matches(struct str list, struct str etag, bool strong);
/* q-value (0..1000) that Accept-Encoding gives a content coding; -1: not named and no "*". */
int http_accepts_coding(struct str accept_encoding, struct str coding);

/* What a trusted proxy says of the client, from Forwarded or X-Forwarded-*: the last hop not itself
 * trusted. p == NULL where nothing was said. */
struct http_forwarded {
    struct str address; /* without port and brackets */
    struct str proto;   /* "http" or "https" */
    struct str host;    /* as Host */
    uint16_t port;      /* of the server as the client named it, 0 unknown */
};
/* `trusted(ctx, address)` tells whether a hop is a trusted proxy. */
void http_parse_forwarded(const struct http_request *r, bool (*trusted)(void *ctx, struct str),
                          void *ctx, struct http_forwarded *ret);

/* PROXY protocol header v1 or v2 at the start of a connection. Returns bytes taken, 0 more needed,
 * -HTTP_BAD_PROXY_PROTOCOL. LOCAL and UNKNOWN leave *ret_local true and the addresses untouched. */
MUST_USE int http_parse_proxy_protocol(struct str in, struct sockaddr_storage *ret_source,
                                       struct sockaddr_storage *ret_destination, bool *ret_local);

#endif
