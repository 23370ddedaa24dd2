/* FastCGI records and the CGI response head: see fastcgi.h. */
#include "http/fastcgi.h"

#include <errno.h>

#include "http/http.h"

enum {
    VERSION = 1,
    BEGIN_REQUEST = 1,
    END_REQUEST = 3,
    PARAMS = 4,
    STDIN = 5,
    STDOUT = 6,
    STDERR = 7,
    ROLE_RESPONDER = 1,
    KEEP_CONN = 1,
    REQUEST_ID = 1,
    END_BODY_BYTES = 8,
};

static void put_header(char *p, int type, uint32_t bytes, uint32_t padding)
{
    CHECK(bytes <= 65535 && padding < 256);
    p[0] = VERSION;
    p[1] = (char)type;
    p[2] = 0;
    p[3] = REQUEST_ID;
    p[4] = (char)(bytes >> 8);
    p[5] = (char)(bytes & 255);
    p[6] = (char)padding;
    p[7] = 0;
}

int fastcgi_put_begin(struct buf *out, bool keep)
{
    char record[2 * FASTCGI_HEADER_BYTES] = { 0 };

    put_header(record, BEGIN_REQUEST, 8, 0);
    record[9] = ROLE_RESPONDER;
    record[10] = keep ? KEEP_CONN : 0;
    return buf_append(out, record, sizeof(record));
}

static size_t put_length(char *p, size_t n)
{
    if (n < 128) {
        p[0] = (char)n;
        return 1;
    }
    p[0] = (char)(0x80 | (n >> 24));
    p[1] = (char)(n >> 16);
    p[2] = (char)(n >> 8);
    p[3] = (char)n;
    return 4;
}

int fastcgi_put_param(struct buf *params, struct str name, struct str value)
{
    char lengths[8];

    if (name.n > INT32_MAX || value.n > INT32_MAX)
        return -E2BIG;
    size_t n = put_length(lengths, name.n);
    n += put_length(lengths + n, value.n);
    int r = buf_reserve(params, n + name.n + value.n);
    if (r == 0)
        r = buf_append(params, lengths, n);
    if (r == 0)
        r = buf_append(params, name.p, name.n);
    if (r == 0)
        r = buf_append(params, value.p, value.n);
    return r;
}

static size_t take_length(struct str s, size_t *at)
{
    const unsigned char *p = (const unsigned char *)s.p + *at;

    if (p[0] < 128) {
        *at += 1;
        return p[0];
    }
    *at += 4;
    return (size_t)(p[0] & 127) << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
}

/* Bytes of the first record of what is left: as many whole pairs as fit. `*cut` is what is left of
 * a pair that is longer than a record and goes out in pieces. */
static size_t record_of_params(struct str params, size_t *cut)
{
    size_t whole = 0, at = 0;

    while (*cut == 0 && whole < params.n) {
        size_t n = take_length(params, &at);
        n += take_length(params, &at);
        at += n;
        if (at > FASTCGI_RECORD_MAX) {
            if (whole == 0)
                *cut = at;
            break;
        }
        whole = at;
    }
    if (*cut == 0)
        return whole;
    size_t piece = *cut < FASTCGI_RECORD_MAX ? *cut : FASTCGI_RECORD_MAX;
    *cut -= piece;
    return piece;
}

int fastcgi_put_params(struct buf *out, struct str params)
{
    char header[FASTCGI_HEADER_BYTES];
    size_t cut = 0;

    do {
        struct str part = str_take(params, record_of_params(params, &cut));
        params = str_skip(params, part.n);
        put_header(header, PARAMS, (uint32_t)part.n, 0);
        int r = buf_append(out, header, sizeof(header));
        if (r == 0)
            r = buf_append(out, part.p, part.n);
        if (r < 0)
            return r;
        if (part.n == 0)
            return 0;
    } while (true);
}

void fastcgi_stdin_header(char out[FASTCGI_HEADER_BYTES], uint32_t bytes)
{
    put_header(out, STDIN, bytes, 0);
}

/* The next record's header. 1: read; 0: more input; -EPROTO. */
static int begin_record(struct fastcgi_reader *r, struct str in)
{
    const unsigned char *p = (const unsigned char *)in.p;

    if (in.n < FASTCGI_HEADER_BYTES)
        return 0;
    if (p[0] != VERSION || p[2] != 0 || p[3] != REQUEST_ID)
        return -EPROTO;
    r->type = p[1];
    if (r->type != STDOUT && r->type != STDERR && r->type != END_REQUEST)
        return -EPROTO;
    r->content_left = (uint32_t)p[4] << 8 | p[5];
    r->padding_left = p[6];
    if (r->type == END_REQUEST && r->content_left != END_BODY_BYTES)
        return -EPROTO;
    r->n_end = 0;
    r->in_record = true;
    return 1;
}

static void read_end(struct fastcgi_reader *r, struct str data, struct fastcgi_event *ret)
{
    const unsigned char *p = (const unsigned char *)r->end;

    memcpy(r->end + r->n_end, data.p, data.n);
    r->n_end = (uint8_t)(r->n_end + data.n);
    if (r->n_end < END_BODY_BYTES)
        return;
    ret->type = FASTCGI_END;
    ret->app_status = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    ret->protocol_status = p[4];
}

int fastcgi_read(struct fastcgi_reader *r, struct str in, struct fastcgi_event *ret,
                 size_t *ret_used)
{
    size_t used = 0;

    *ret = (struct fastcgi_event){ .type = FASTCGI_MORE };
    *ret_used = 0;
    while (ret->type == FASTCGI_MORE) {
        struct str rest = str_skip(in, used);
        if (!r->in_record) {
            int got = begin_record(r, rest);
            if (got < 0)
                return got;
            if (got == 0)
                break;
            used += FASTCGI_HEADER_BYTES;
            continue;
        }
        if (r->content_left) {
            struct str data = str_take(rest, r->content_left);
            if (data.n == 0)
                break;
            used += data.n;
            r->content_left -= (uint32_t)data.n;
            if (r->type == END_REQUEST) {
                read_end(r, data, ret);
            } else {
                ret->type = r->type == STDOUT ? FASTCGI_STDOUT : FASTCGI_STDERR;
                ret->data = data;
            }
            continue;
        }
        size_t padding = rest.n < r->padding_left ? rest.n : r->padding_left;
        used += padding;
        r->padding_left -= (uint32_t)padding;
        if (r->padding_left)
            break;
        r->in_record = false;
    }
    *ret_used = used;
    return 0;
}

/* --- the head of the response ----------------------------------------------------------------- */

size_t cgi_head_end(struct str in, size_t looked)
{
    /* An empty line ends at a line feed that follows another one, or the beginning, at most with a
     * carriage return between them: three bytes back are enough to see it. */
    for (size_t i = looked; i < in.n; i++) {
        if (in.p[i] != '\n')
            continue;
        size_t before = i > 0 && in.p[i - 1] == '\r' ? i - 1 : i;
        if (before == 0 || in.p[before - 1] == '\n')
            return i + 1;
    }
    return 0;
}

/* "404 Gone fishing": the code, and the reason where it is not the usual one. */
static int take_status(struct str value, struct buf *lines, uint16_t *ret_status)
{
    struct str code = str_cut(&value, ' ');
    uint64_t n;

    if (code.n != 3 || !str_to_u64(code, 999, &n) || n < 200) /* final: RFC 9110 section 15 */
        return -EPROTO;
    *ret_status = (uint16_t)n;
    value = str_trim(value);
    if (!value.n || str_eq(value, str_from(http_status_reason((int)n))) ||
        !http_is_field_value(value))
        return 0;
    return buf_printf(lines, ":reason: %.*s\r\n", STR_ARG(value));
}

/* Could somebody read it as the name of a field? Stricter readers, which leave out a field whose
 * name is no token, come later: one such field is no reason to lose the answer. */
static bool is_name(struct str name)
{
    for (size_t i = 0; i < name.n; i++)
        if ((unsigned char)name.p[i] <= ' ' || name.p[i] == 0x7f)
            return false;
    return name.n > 0;
}

static int take_line(struct str line, bool want_status, struct buf *lines, uint16_t *ret_status,
                     bool *location)
{
    struct str value = line;
    struct str name = str_cut(&value, ':');

    if (!value.p || !is_name(name))
        return -EPROTO;
    value = str_trim(value);
    bool is_status = str_eq_nocase(name, STR("Status"));
    *location |= str_eq_nocase(name, STR("Location"));
    if (is_status != want_status)
        return 0;
    return is_status ? take_status(value, lines, ret_status)
                     : buf_printf(lines, "%.*s: %.*s\r\n", STR_ARG(name), STR_ARG(value));
}

int cgi_parse_head(struct str head, struct buf *lines, uint16_t *ret_status)
{
    uint16_t status = 0;
    bool location = false;

    CHECK(head.n && head.p[head.n - 1] == '\n');
    /* Status first: its reason has to stand before the other lines. */
    for (int pass = 0; pass < 2; pass++) {
        struct str rest = head;
        while (rest.n) {
            struct str line = str_cut(&rest, '\n');
            if (line.n && line.p[line.n - 1] == '\r')
                line.n--;
            int r = line.n ? take_line(line, pass == 0, lines, &status, &location) : 0;
            if (r < 0)
                return r;
        }
    }
    *ret_status = status ? status : location ? 302 : 200;
    return 0;
}
