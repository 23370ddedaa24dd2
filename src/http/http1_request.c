/*
 * The head of an HTTP/1 request. One pass from left to right over the caller's buffer: the first
 * byte that breaks the grammar decides the error, so the answer never depends on where the network
 * cut the bytes. What needs the whole head (lengths, Host) is judged after its last line.
 *
 * A head that is not complete yet is not parsed again from the start with every packet: the parser
 * remembers the line in progress, checks only new bytes, and fills in the request once, when the
 * empty line is there.
 */
#ifdef __SSE2__
#include <emmintrin.h>
#endif
#include <limits.h>

#include "http/http_int.h"

/* What the header lines said that finish_head judges. */
struct noted {
    struct str length, coding, expect;
    uint32_t hosts, lengths, codings, expects;
    uint32_t host_at; /* index in headers[] */
    bool close, keep_alive, upgrade, upgrade_field;
};

/* First byte that may not stand in a target (space, control, DEL, above ASCII, '#'), or `end`. */
static const char *scan_target(const char *p, const char *end)
{
#ifdef __SSE2__
    const __m128i space = _mm_set1_epi8(' '), del = _mm_set1_epi8(0x7f), hash = _mm_set1_epi8('#');
    for (; end - p >= 16; p += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)p);
        __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(v, space), v);
        __m128i high = _mm_cmpeq_epi8(_mm_max_epu8(v, del), v);
        int mask =
            _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(low, high), _mm_cmpeq_epi8(v, hash)));
        if (mask != 0)
            return p + __builtin_ctz((unsigned)mask);
    }
#endif
    while (p < end && (char_class(*p) & CHAR_TARGET))
        p++;
    return p;
}

static const char *scan_token(const char *p, const char *end)
{
    while (p < end && (char_class(*p) & CHAR_TOKEN))
        p++;
    return p;
}

static enum http_method method_of(struct str s)
{
    static const struct {
        char name[8];
        enum http_method method;
    } methods[] = {
        { "GET", HTTP_GET },     { "POST", HTTP_POST },       { "HEAD", HTTP_HEAD },
        { "PUT", HTTP_PUT },     { "DELETE", HTTP_DELETE },   { "OPTIONS", HTTP_OPTIONS },
        { "PATCH", HTTP_PATCH }, { "CONNECT", HTTP_CONNECT }, { "TRACE", HTTP_TRACE },
    };
    if (s.n == 3 && memcmp(s.p, "GET", 3) == 0)
        return HTTP_GET;
    for (size_t i = 0; i < ARRAY_LENGTH(methods); i++)
        if (str_eq(s, str_from(methods[i].name)))
            return methods[i].method;
    return HTTP_OTHER;
}

/* "HTTP/1.1\r\n" byte by byte, for whatever is not exactly that. Bytes taken, 0, -error. */
static int parse_version(const char *start, const char *end, uint8_t *ret_minor)
{
    static const char form[] = "HTTP/d.d\r\n";
    const char *p = start;
    for (size_t i = 0; i < sizeof form - 1; i++, p++) {
        if (p == end)
            return 0;
        if (*p == '\n' && form[i] != '\n')
            return -HTTP_BAD_LINE_END;
        if (form[i] == 'd' ? !is_digit(*p) : *p != form[i])
            return form[i] == '\n' ? -HTTP_BAD_LINE_END : -HTTP_BAD_VERSION;
    }
    if (start[5] != '1' || start[7] > '1')
        return -HTTP_VERSION_UNSUPPORTED;
    *ret_minor = (uint8_t)(start[7] - '0');
    return (int)(p - start);
}

/* The byte behind the target is not a space. */
static int target_error(const char *p, const char *end)
{
    if (*p == '\n')
        return -HTTP_BAD_LINE_END;
    if (*p != '\r')
        return -HTTP_BAD_TARGET;
    if (end - p < 2)
        return 0;
    return p[1] == '\n' ? -HTTP_VERSION_UNSUPPORTED /* HTTP/0.9 */ : -HTTP_BAD_LINE_END;
}

static void split_path(struct http_request *r, struct str s)
{
    ptrdiff_t at = str_find(s, '?');
    r->path = at < 0 ? s : str_take(s, (size_t)at);
    r->query = at < 0 ? STR_NONE : str_skip(s, (size_t)at + 1);
    if (r->path.n == 0)
        r->path = STR("/"); /* absolute form without a path, RFC 9112 3.2.1 */
}

/* "http://authority/path?query", or the authority of CONNECT. */
static int resolve_authority_forms(struct http_request *r)
{
    struct str rest = r->target, host;
    uint16_t port;
    if (r->method == HTTP_CONNECT) {
        r->form = HTTP_AUTHORITY_FORM;
        r->path = STR("");
        r->host = rest;
        return http_parse_authority(rest, &host, &port) && port != 0 ? 0 : -HTTP_BAD_TARGET;
    }
    if (str_eq_nocase(str_take(rest, 7), STR("http://")))
        rest = str_skip(rest, 7);
    else if (str_eq_nocase(str_take(rest, 8), STR("https://")))
        rest = str_skip(rest, 8);
    else
        return -HTTP_BAD_TARGET;
    r->form = HTTP_ABSOLUTE_FORM;
    size_t n = 0;
    while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?')
        n++;
    r->host = str_take(rest, n);
    if (!http_parse_authority(r->host, &host, &port))
        return -HTTP_BAD_TARGET;
    split_path(r, str_skip(rest, n));
    return 0;
}

static int resolve_target(struct http_request *r)
{
    DCHECK(r->target.n > 0);
    r->host = STR_NONE;
    r->query = STR_NONE;
    if (likely(r->target.p[0] == '/' && r->method != HTTP_CONNECT)) {
        r->form = HTTP_ORIGIN_FORM;
        split_path(r, r->target);
        return 0;
    }
    if (r->method == HTTP_OPTIONS && str_eq(r->target, STR("*"))) {
        r->form = HTTP_ASTERISK_FORM;
        r->path = r->target;
        return 0;
    }
    return resolve_authority_forms(r);
}

/* Bytes taken with the line end, 0, -error. */
static int parse_request_line(const char *start, const char *end, struct http_request *r)
{
    const char *p = scan_token(start, end);
    if (p == end)
        return 0;
    if (p == start || *p != ' ')
        return *p == '\n'   ? -HTTP_BAD_LINE_END
               : *p == '\r' ? -HTTP_BAD_REQUEST_LINE
                            : -HTTP_BAD_METHOD;
    struct str method = { start, (size_t)(p - start) };

    const char *target = ++p;
    p = scan_target(p, end);
    if (p == end)
        return 0;
    if (*p != ' ')
        return target_error(p, end);
    if (p == target)
        return -HTTP_BAD_TARGET;
    struct str target_text = { target, (size_t)(p - target) };

    p++;
    uint8_t minor = 1;
    if (end - p >= 10 && memcmp(p, "HTTP/1.1\r\n", 10) == 0) {
        p += 10;
    } else {
        int used = parse_version(p, end, &minor);
        if (used <= 0)
            return used;
        p += used;
    }
    r->method_text = method;
    r->method = method_of(method);
    r->target = target_text;
    r->minor = minor;
    int rc = resolve_target(r);
    return rc < 0 ? rc : (int)(p - start);
}

/* One header line at `start`, of which the first `clean` bytes were found good by an earlier call.
 * Bytes taken with the line end, 0 when more are needed, -error. */
static int parse_header_line(const char *start, const char *end, size_t clean,
                             struct http_header *ret)
{
    const char *colon = clean ? memchr(start, ':', clean) : NULL;
    const char *value = start + clean;
    if (colon == NULL) {
        colon = scan_token(start + clean, end);
        if (colon == end)
            return 0;
        if (*colon != ':' || colon == start) {
            if (colon == start && (*colon == ' ' || *colon == '\t'))
                return -HTTP_OBS_FOLD;
            return *colon == '\n' ? -HTTP_BAD_LINE_END : -HTTP_BAD_HEADER_NAME;
        }
        value = colon + 1;
    } else if (value > colon + 1) {
        value--; /* the last byte may have been the CR of a line end */
    }
    const char *p = http_scan_value(value, end);
    if (end - p < 2 && (p == end || *p == '\r'))
        return 0;
    if (*p != '\r')
        return *p == '\n' ? -HTTP_BAD_LINE_END : -HTTP_BAD_HEADER_VALUE;
    if (p[1] != '\n')
        return -HTTP_BAD_LINE_END;
    value = colon + 1;
    const char *value_end = p;
    while (value < value_end && (*value == ' ' || *value == '\t'))
        value++;
    while (value_end > value && (value_end[-1] == ' ' || value_end[-1] == '\t'))
        value_end--;
    ret->name = (struct str){ start, (size_t)(colon - start) };
    ret->value = (struct str){ value, (size_t)(value_end - value) };
    return (int)(p + 2 - start);
}

/* Length of a line that is only a line end: 2, 0 when more are needed, -error; 1 for any other
 * line. */
static int parse_empty_line(const char *p, const char *end)
{
    if (p == end)
        return 0;
    if (likely(*p != '\r'))
        return *p == '\n' ? -HTTP_BAD_LINE_END : 1;
    if (end - p < 2)
        return 0;
    return p[1] == '\n' ? 2 : -HTTP_BAD_LINE_END;
}

static void note_connection(struct str value, struct noted *noted)
{
    while (value.p != NULL) {
        struct str option = str_trim(str_cut(&value, ','));
        if (str_eq_nocase(option, STR("close")))
            noted->close = true;
        else if (str_eq_nocase(option, STR("keep-alive")))
            noted->keep_alive = true;
        else if (str_eq_nocase(option, STR("upgrade")))
            noted->upgrade = true;
    }
}

/* True when the header is to be left out. The length decides nearly always. */
static bool note_header(const struct http_header *h, uint32_t at, struct noted *noted)
{
    switch (h->name.n) {
    case 4:
        if (str_eq_nocase(h->name, STR("Host"))) {
            noted->hosts++;
            noted->host_at = at;
        }
        break;
    case 5: /* would be HTTP_PROXY, which HTTP clients inside PHP obey ("httpoxy") */
        return str_eq_nocase(h->name, STR("Proxy"));
    case 6:
        if (str_eq_nocase(h->name, STR("Expect"))) {
            noted->expects++;
            noted->expect = h->value;
        }
        break;
    case 7:
        if (str_eq_nocase(h->name, STR("Upgrade")))
            noted->upgrade_field = true;
        break;
    case 10:
        if (str_eq_nocase(h->name, STR("Connection")))
            note_connection(h->value, noted);
        break;
    case 14:
        if (str_eq_nocase(h->name, STR("Content-Length"))) {
            noted->lengths++;
            noted->length = h->value;
        }
        break;
    case 17:
        if (str_eq_nocase(h->name, STR("Transfer-Encoding"))) {
            noted->codings++;
            noted->coding = h->value;
        }
        break;
    default: break;
    }
    return false;
}

static bool casts_shadow(struct str name)
{
    uint8_t seen = 0;
    for (size_t i = 0; i < name.n; i++)
        seen |= char_class(name.p[i]);
    return seen & CHAR_SHADOW;
}

/* RFC 9112 6.1: chunked once and last, or the end of the body is anybody's guess. */
static int judge_coding(struct str list)
{
    bool chunked = false, other = false;
    while (list.p != NULL) {
        struct str coding = str_trim(str_cut(&list, ','));
        if (!http_is_token(coding) || chunked)
            return -HTTP_BAD_TRANSFER_ENCODING;
        chunked = str_eq_nocase(coding, STR("chunked"));
        other |= !chunked;
    }
    if (!chunked)
        return -HTTP_BAD_TRANSFER_ENCODING;
    return other ? -HTTP_CODING_UNSUPPORTED : 0;
}

static int judge_lengths(struct http_request *r, const struct noted *noted, uint64_t max_bytes)
{
    uint64_t length;
    if (noted->codings > 0) {
        if (noted->lengths > 0)
            return -HTTP_BOTH_LENGTHS;
        if (noted->codings > 1 || r->minor == 0)
            return -HTTP_BAD_TRANSFER_ENCODING;
        r->chunked = true;
        return judge_coding(noted->coding);
    }
    if (noted->lengths == 0)
        return 0;
    if (noted->lengths > 1 || !str_to_u64(noted->length, INT64_MAX, &length))
        return -HTTP_BAD_CONTENT_LENGTH;
    if (length > max_bytes)
        return -HTTP_BODY_TOO_LARGE;
    r->content_length = (int64_t)length;
    return 0;
}

static int judge_host(struct http_request *r, const struct noted *noted)
{
    struct str host;
    uint16_t port;
    if (noted->hosts == 0)
        return r->minor == 0 ? 0 : -HTTP_BAD_HOST;
    struct str *value = &r->headers[noted->host_at].value;
    bool empty = value->n == 0 && r->minor == 0;
    if (noted->hosts > 1 || (!empty && !http_parse_authority(*value, &host, &port)))
        return -HTTP_BAD_HOST;
    if (r->form == HTTP_ABSOLUTE_FORM || r->form == HTTP_AUTHORITY_FORM)
        *value = r->host; /* RFC 9112 3.2.2: the field is to be ignored */
    else
        r->host = *value;
    return 0;
}

/* All that can be said only after the last header. */
static int finish_head(struct http_request *r, const struct noted *noted, uint64_t max_body_bytes)
{
    int rc = judge_host(r, noted);
    if (rc == 0)
        rc = judge_lengths(r, noted, max_body_bytes);
    if (rc < 0)
        return rc;
    r->keep_alive = !noted->close && (r->minor == 1 || noted->keep_alive);
    r->upgrade = noted->upgrade && noted->upgrade_field && r->minor == 1;
    if (unlikely(noted->expects > 0) && r->minor == 1) {
        if (noted->expects > 1 || !str_eq_nocase(noted->expect, STR("100-continue")))
            return -HTTP_EXPECTATION_FAILED;
        r->expect_continue = r->chunked || r->content_length > 0;
    }
    return 0;
}

static void reset(struct http_request *r)
{
    /* Not the headers: they are eight kilobytes, and n_headers says what of them counts. */
    r->method = HTTP_OTHER;
    r->form = HTTP_ORIGIN_FORM;
    r->minor = 1;
    r->keep_alive = r->chunked = r->expect_continue = r->upgrade = false;
    r->content_length = -1;
    r->underscore_dropped = 0;
    r->n_headers = 0;
    r->method_text = r->target = r->path = r->query = r->host = STR_NONE;
}

/* Reads the request line; remembers in `p` where the fields start. */
static int start_head(struct http1_parser *p, struct str in, const struct http_limits *limits,
                      struct http_request *r)
{
    const char *line = in.p, *end = in.p + in.n;
    int rc = parse_empty_line(line, end);
    if (rc <= 0)
        return rc;
    if (rc == 2)
        line += 2; /* RFC 9112 2.2: one empty line from old clients */
    const char *window = (size_t)(end - line) > (size_t)limits->request_line_bytes + 2
                             ? line + limits->request_line_bytes + 2
                             : end;
    rc = parse_request_line(line, window, r);
    if (rc == 0 && window == line + (size_t)limits->request_line_bytes + 2)
        return -HTTP_LINE_TOO_LONG;
    if (rc > 0)
        p->fields = p->line = (uint32_t)(line + rc - in.p);
    return rc;
}

static const char *fields_window(const struct http1_parser *p, struct str in,
                                 const struct http_limits *limits)
{
    size_t have = in.n - p->fields;
    return in.p + p->fields + (have < limits->headers_bytes ? have : limits->headers_bytes);
}

/* More is needed: remember where to go on, unless the section has reached its limit. */
static int suspend(struct http1_parser *p, struct str in, const char *line, uint32_t lines,
                   const struct http_limits *limits)
{
    if (in.n - p->fields >= limits->headers_bytes)
        return -HTTP_HEADERS_TOO_LARGE;
    p->line = (uint32_t)(line - in.p);
    p->lines = lines;
    p->scanned = (uint32_t)in.n;
    return 0;
}

static uint32_t max_lines(const struct http_limits *limits)
{
    return limits->headers_count < HTTP_HEADERS_MAX ? limits->headers_count : HTTP_HEADERS_MAX;
}

/* Checks the lines that came since the last call. 1 when the head is complete, 0, -error. */
static int resume(struct http1_parser *p, struct str in, const struct http_limits *limits)
{
    const char *line = in.p + p->line, *end = fields_window(p, in, limits);
    size_t clean = p->scanned - p->line;
    uint32_t lines = p->lines, max = max_lines(limits);
    for (;;) {
        struct http_header ignored;
        int rc = parse_empty_line(line, end);
        if (rc == 2)
            return 1;
        if (rc == 1 && lines == max)
            return -HTTP_TOO_MANY_HEADERS;
        if (rc == 1)
            rc = parse_header_line(line, end, clean, &ignored);
        if (rc < 0)
            return rc;
        if (rc == 0)
            return suspend(p, in, line, lines, limits);
        line += rc;
        lines++;
        clean = 0;
    }
}

int http1_parse_request(struct http1_parser *p, struct str in, const struct http_limits *limits,
                        struct http_request *ret)
{
    CHECK(in.n <= INT_MAX && in.n >= p->scanned);
    if (p->line > 0) {
        int rc = resume(p, in, limits);
        if (rc <= 0)
            return rc;
    }
    reset(ret);
    int rc = start_head(p, in, limits, ret);
    if (rc <= 0)
        return rc;

    struct noted noted = { .hosts = 0 };
    const char *line = in.p + p->fields, *end = fields_window(p, in, limits);
    uint32_t lines = 0, n = 0, max = max_lines(limits);
    for (;;) {
        rc = parse_empty_line(line, end);
        if (rc == 2)
            break;
        if (rc == 1 && lines == max)
            return -HTTP_TOO_MANY_HEADERS;
        DCHECK(n <= lines && lines <= max);
        struct http_header *h = &ret->headers[n];
        if (rc == 1)
            rc = parse_header_line(line, end, 0, h);
        if (rc < 0)
            return rc;
        if (rc == 0)
            return suspend(p, in, line, lines, limits);
        line += rc;
        lines++;
        if (unlikely(casts_shadow(h->name)))
            ret->underscore_dropped++;
        else if (likely(!note_header(h, n, &noted)))
            n++;
    }
    rc = finish_head(ret, &noted, limits->body_bytes);
    if (rc < 0)
        return rc;
    ret->n_headers = n;
    return (int)(line + 2 - in.p);
}
