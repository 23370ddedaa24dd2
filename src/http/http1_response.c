/*
 * The head of an HTTP/1 response, for whoever asks as a client. Line by line: a line is judged when
 * its end is there, and never again, so that neither the verdict nor the cost depends on how the
 * network cut the bytes. Only what frames the message is kept; the other fields are checked for
 * form and dropped.
 *
 * As strict as the parser of requests: what two readers could understand differently is an error.
 */
#include <limits.h>

#include "http/http_int.h"

enum { VERSION_BYTES = 8 };

/* Whether as much as there is of the first bytes can become "HTTP/1.x ". */
static bool may_be_http(struct str line)
{
    struct str seen = str_take(line, 7);
    return seen.n == 0 || memcmp(seen.p, "HTTP/1.", seen.n) == 0;
}

/* status-line = HTTP-version SP 3DIGIT SP [ reason ]; the second space is missing in practice. */
static int judge_status_line(struct http_response *r, struct str line)
{
    if (!may_be_http(line) || line.n <= VERSION_BYTES || line.p[7] < '0' || line.p[7] > '1')
        return -HTTP_BAD_VERSION;
    struct str rest = str_skip(line, VERSION_BYTES);
    if (rest.n < 4 || rest.p[0] != ' ' || (rest.n > 4 && rest.p[4] != ' '))
        return -HTTP_BAD_STATUS_LINE;
    for (size_t i = 1; i < 4; i++)
        if (!is_digit(rest.p[i]))
            return -HTTP_BAD_STATUS_LINE;
    int status = (rest.p[1] - '0') * 100 + (rest.p[2] - '0') * 10 + (rest.p[3] - '0');
    if (status < 100 || !http_is_field_value(str_skip(rest, 4)))
        return -HTTP_BAD_STATUS_LINE;
    r->status = (uint16_t)status;
    r->minor = (uint8_t)(line.p[7] - '0');
    return 0;
}

static void note_connection(struct http1_response_parser *p, struct str value)
{
    while (value.p != NULL) {
        struct str option = str_trim(str_cut(&value, ','));
        p->close |= str_eq_nocase(option, STR("close"));
        p->keep |= str_eq_nocase(option, STR("keep-alive"));
    }
}

static int judge_field(struct http1_response_parser *p, struct str line)
{
    uint64_t length;
    ptrdiff_t colon = str_find(line, ':');

    if (line.p[0] == ' ' || line.p[0] == '\t')
        return -HTTP_OBS_FOLD;
    struct str name = str_take(line, colon < 0 ? 0 : (size_t)colon);
    if (!http_is_token(name))
        return -HTTP_BAD_HEADER_NAME;
    struct str value = str_trim(str_skip(line, (size_t)colon + 1));
    if (http_scan_value(value.p, value.p + value.n) != value.p + value.n)
        return -HTTP_BAD_HEADER_VALUE;
    switch (name.n) {
    case 10:
        if (str_eq_nocase(name, STR("Connection")))
            note_connection(p, value);
        break;
    case 14:
        if (!str_eq_nocase(name, STR("Content-Length")))
            break;
        if (p->r.content_length >= 0 || !str_to_u64(value, INT64_MAX, &length))
            return -HTTP_BAD_CONTENT_LENGTH;
        p->r.content_length = (int64_t)length;
        break;
    case 17:
        if (!str_eq_nocase(name, STR("Transfer-Encoding")))
            break;
        if (p->r.chunked || p->r.minor == 0)
            return -HTTP_BAD_TRANSFER_ENCODING;
        if (!str_eq_nocase(value, STR("chunked")))
            return -HTTP_CODING_UNSUPPORTED; /* none was asked for */
        p->r.chunked = true;
        break;
    default: break;
    }
    return 0;
}

/* The empty line is there. */
static int finish(struct http1_response_parser *p, struct http_response *ret)
{
    if (p->r.chunked && p->r.content_length >= 0)
        return -HTTP_BOTH_LENGTHS;
    p->r.keep_alive = !p->close && (p->r.minor == 1 || p->keep);
    *ret = p->r;
    return (int)p->line;
}

int http1_parse_response(struct http1_response_parser *p, struct str in,
                         const struct http_limits *limits, struct http_response *ret)
{
    CHECK(in.n <= INT_MAX && in.n >= p->scanned);
    if (p->line == 0) {
        p->r.content_length = -1;
        if (!may_be_http(in))
            return -HTTP_BAD_VERSION;
    }
    struct str window = str_take(in, limits->headers_bytes);
    for (;;) {
        ptrdiff_t end = str_find(str_skip(window, p->scanned), '\n');
        if (end < 0) {
            p->scanned = (uint32_t)window.n;
            return window.n == limits->headers_bytes ? -HTTP_HEADERS_TOO_LARGE : 0;
        }
        struct str line = { in.p + p->line, p->scanned + (size_t)end - p->line };
        if (line.n == 0 || line.p[line.n - 1] != '\r')
            return -HTTP_BAD_LINE_END;
        line.n--;
        bool first = p->line == 0;
        p->line = p->scanned = (uint32_t)(line.p + line.n + 2 - in.p);
        if (line.n == 0 && !first)
            return finish(p, ret);
        if (!first && p->lines++ == limits->headers_count)
            return -HTTP_TOO_MANY_HEADERS;
        int rc = first ? judge_status_line(&p->r, line) : judge_field(p, line);
        if (rc < 0)
            return rc;
    }
}
