/*
 * The body of an HTTP/1 message: Content-Length or chunked (RFC 9112 7.1), as a machine that is fed
 * whatever came. Framing bytes are judged one by one; body bytes are handed out as runs, uncopied.
 *
 * Narrower than the grammar where readers differ in practice: no white space around a chunk size,
 * none before ';', at most 16 hexadecimal digits, bounded extensions and trailers.
 */
#include "http/http_int.h"

enum {
    CHUNK_LINE_MAX = 512, /* size and extensions of one chunk */
    TRAILERS_MAX = 8192,  /* the whole trailer section */
    CHUNK_DIGITS_MAX = 16,
};

enum state {
    DONE,
    COUNTED, /* Content-Length bytes */
    SIZE,
    EXT_START,
    EXT_NAME,
    EXT_VALUE_START,
    EXT_VALUE,
    EXT_QUOTED,
    EXT_ESCAPE,
    EXT_END,
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER_START,
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    LAST_LF,
};

void http1_body_init(struct http1_body *b, const struct http_request *r, uint64_t max)
{
    *b = (struct http1_body){ .max = max, .state = DONE };
    if (r->chunked) {
        b->state = SIZE;
    } else if (r->content_length > 0) {
        b->state = COUNTED;
        b->left = (uint64_t)r->content_length;
    }
}

bool http1_body_init_response(struct http1_body *b, const struct http_response *r, bool to_head)
{
    bool none = to_head || r->status < 200 || r->status == 204 || r->status == 304;

    *b = (struct http1_body){ .max = INT64_MAX, .state = DONE };
    if (none || (!r->chunked && r->content_length == 0))
        return false;
    if (r->chunked) {
        b->state = SIZE;
        return false;
    }
    b->state = COUNTED;
    b->left = r->content_length < 0 ? UINT64_MAX : (uint64_t)r->content_length;
    return r->content_length < 0;
}

/* The chunk-size line is over. */
static int end_size_line(struct http1_body *b)
{
    b->line = 0;
    b->digits = 0;
    if (b->left == 0) {
        b->state = TRAILER_START;
        return 0;
    }
    if (b->left > b->max || b->total > b->max - b->left)
        return -HTTP_BODY_TOO_LARGE;
    b->state = DATA;
    return 0;
}

static int step_size(struct http1_body *b, char c)
{
    int digit = hex_value(c);
    if (digit >= 0) {
        if (b->digits == CHUNK_DIGITS_MAX || b->left >> 60 != 0)
            return -HTTP_BAD_CHUNK;
        b->digits++;
        b->left = b->left << 4 | (uint64_t)digit;
        return 0;
    }
    if (b->digits == 0 || (c != '\r' && c != ';'))
        return -HTTP_BAD_CHUNK;
    b->state = c == ';' ? EXT_START : SIZE_LF;
    return 0;
}

/* chunk-ext = *( ";" [ BWS ] name [ "=" ( token / quoted-string ) ] ) */
static int step_extension(struct http1_body *b, char c)
{
    bool token = char_class(c) & CHAR_TOKEN, text = char_class(c) & CHAR_VALUE;
    switch (b->state) {
    case EXT_START:
        if (c == ' ' || c == '\t')
            return 0;
        b->state = EXT_NAME;
        return token ? 0 : -HTTP_BAD_CHUNK;
    case EXT_NAME:
        if (c == '=')
            b->state = EXT_VALUE_START;
        if (token || c == '=')
            return 0;
        break;
    case EXT_VALUE_START:
        b->state = c == '"' ? EXT_QUOTED : EXT_VALUE;
        return token || c == '"' ? 0 : -HTTP_BAD_CHUNK;
    case EXT_VALUE:
        if (token)
            return 0;
        break;
    case EXT_QUOTED:
        if (c == '\\')
            b->state = EXT_ESCAPE;
        else if (c == '"')
            b->state = EXT_END;
        return text ? 0 : -HTTP_BAD_CHUNK;
    case EXT_ESCAPE: b->state = EXT_QUOTED; return text ? 0 : -HTTP_BAD_CHUNK;
    default: DCHECK(b->state == EXT_END); break;
    }
    if (c != ';' && c != '\r')
        return -HTTP_BAD_CHUNK;
    b->state = c == ';' ? EXT_START : SIZE_LF;
    return 0;
}

static int step_trailer(struct http1_body *b, char c)
{
    switch (b->state) {
    case TRAILER_START:
        b->state = c == '\r' ? LAST_LF : TRAILER_NAME;
        return c == '\r' || (char_class(c) & CHAR_TOKEN) ? 0 : -HTTP_BAD_TRAILER;
    case TRAILER_NAME:
        if (c == ':')
            b->state = TRAILER_VALUE;
        return c == ':' || (char_class(c) & CHAR_TOKEN) ? 0 : -HTTP_BAD_TRAILER;
    case TRAILER_VALUE:
        if (c == '\r')
            b->state = TRAILER_LF;
        return c == '\r' || (char_class(c) & CHAR_VALUE) ? 0 : -HTTP_BAD_TRAILER;
    case TRAILER_LF: b->state = TRAILER_START; return c == '\n' ? 0 : -HTTP_BAD_TRAILER;
    default:
        DCHECK(b->state == LAST_LF);
        b->state = DONE;
        return c == '\n' ? 0 : -HTTP_BAD_TRAILER;
    }
}

/* One framing byte. */
static int step(struct http1_body *b, char c)
{
    switch (b->state) {
    case SIZE: return ++b->line > CHUNK_LINE_MAX ? -HTTP_BAD_CHUNK : step_size(b, c);
    case SIZE_LF: return c == '\n' ? end_size_line(b) : -HTTP_BAD_CHUNK;
    case DATA_CR: b->state = DATA_LF; return c == '\r' ? 0 : -HTTP_BAD_CHUNK;
    case DATA_LF: b->state = SIZE; return c == '\n' ? 0 : -HTTP_BAD_CHUNK;
    case TRAILER_START:
    case TRAILER_NAME:
    case TRAILER_VALUE:
    case TRAILER_LF:
    case LAST_LF: return ++b->line > TRAILERS_MAX ? -HTTP_BAD_TRAILER : step_trailer(b, c);
    default: return ++b->line > CHUNK_LINE_MAX ? -HTTP_BAD_CHUNK : step_extension(b, c);
    }
}

int http1_body_next(struct http1_body *b, struct str in, struct str *ret_data, size_t *ret_used)
{
    size_t used = 0;
    *ret_data = STR_NONE;
    *ret_used = 0;
    while (b->state != DONE && used < in.n) {
        if (b->state == COUNTED || b->state == DATA) {
            DCHECK(b->left > 0);
            struct str run = str_take(str_skip(in, used), b->left);
            b->left -= run.n;
            b->total += run.n;
            used += run.n;
            *ret_data = run;
            if (b->left == 0)
                b->state = b->state == COUNTED ? DONE : DATA_CR;
            break;
        }
        int rc = step(b, in.p[used++]);
        if (rc < 0)
            return rc;
    }
    *ret_used = used;
    return b->state == DONE;
}
