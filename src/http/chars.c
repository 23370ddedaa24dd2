/*
 * Characters and small field grammars: tokens, field values, authorities, header look-up. The class
 * table is the only place that says which byte may stand where.
 */
#include <arpa/inet.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "http/http_int.h"

#define PUNCTUATION (CHAR_TARGET | CHAR_VALUE)
#define TCHAR (CHAR_TOKEN | CHAR_TARGET | CHAR_VALUE)
#define ALNUM (TCHAR | CHAR_HOST)

const uint8_t http_char_class[256] = {
    ['\t'] = CHAR_VALUE,
    [' '] = CHAR_VALUE,
    ['"'] = PUNCTUATION,
    ['('] = PUNCTUATION,
    [')'] = PUNCTUATION,
    [','] = PUNCTUATION,
    ['/'] = PUNCTUATION,
    [':'] = PUNCTUATION,
    [';'] = PUNCTUATION,
    ['<'] = PUNCTUATION,
    ['='] = PUNCTUATION,
    ['>'] = PUNCTUATION,
    ['?'] = PUNCTUATION,
    ['@'] = PUNCTUATION,
    ['['] = PUNCTUATION,
    ['\\'] = PUNCTUATION,
    [']'] = PUNCTUATION,
    ['{'] = PUNCTUATION,
    ['}'] = PUNCTUATION,
    ['#'] = CHAR_TOKEN | CHAR_VALUE, /* a fragment never travels in a target */
    ['!'] = TCHAR,
    ['$'] = TCHAR,
    ['%'] = TCHAR,
    ['&'] = TCHAR,
    ['\''] = TCHAR,
    ['*'] = TCHAR,
    ['+'] = TCHAR,
    ['^'] = TCHAR,
    ['`'] = TCHAR,
    ['|'] = TCHAR,
    ['~'] = ALNUM,
    ['-'] = ALNUM,
    /* PHP turns a dot in a variable name into '_' as well: "X.Forwarded.For" would be a twin of
     * "X-Forwarded-For" just as "X_Forwarded_For" is. */
    ['_'] = ALNUM | CHAR_SHADOW,
    ['.'] = ALNUM | CHAR_SHADOW,
    ['0' ... '9'] = ALNUM,
    ['A' ... 'Z'] = ALNUM,
    ['a' ... 'z'] = ALNUM,
    [0x80 ... 0xff] = CHAR_VALUE,
};

const char *http_scan_value(const char *p, const char *end)
{
#ifdef __SSE2__
    const __m128i low = _mm_set1_epi8(0x1f), tab = _mm_set1_epi8('\t'), del = _mm_set1_epi8(0x7f);
    for (; end - p >= 16; p += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)p);
        __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(v, low), v);
        __m128i bad =
            _mm_or_si128(_mm_andnot_si128(_mm_cmpeq_epi8(v, tab), control), _mm_cmpeq_epi8(v, del));
        int mask = _mm_movemask_epi8(bad);
        if (mask != 0)
            return p + __builtin_ctz((unsigned)mask);
    }
#endif
    while (p < end && (char_class(*p) & CHAR_VALUE))
        p++;
    return p;
}

bool http_is_token(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!(char_class(s.p[i]) & CHAR_TOKEN))
            return false;
    return s.n > 0;
}

bool http_is_field_value(struct str s)
{
    return s.n == 0 || http_scan_value(s.p, s.p + s.n) == s.p + s.n;
}

struct str http_find_header(const struct http_request *r, struct str name)
{
    DCHECK(r->n_headers <= HTTP_HEADERS_MAX);
    for (uint32_t i = 0; i < r->n_headers; i++)
        if (str_eq_nocase(r->headers[i].name, name))
            return r->headers[i].value;
    return STR_NONE;
}

static bool is_ipv6(struct str s)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    if (s.n == 0 || s.n >= sizeof text || memchr(s.p, 0, s.n))
        return false;
    memcpy(text, s.p, s.n);
    text[s.n] = 0;
    return inet_pton(AF_INET6, text, &address) == 1;
}

/* Narrower than RFC 3986's reg-name: percent escapes and sub-delims name no host that exists, but
 * they end up in $_SERVER["HTTP_HOST"] and from there in links and cache keys. */
static bool is_registered_name(struct str s)
{
    if (s.n > 255 || s.n == 0 || s.p[0] == '.')
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (!(char_class(s.p[i]) & CHAR_HOST))
            return false;
        if (s.p[i] == '.' && i + 1 < s.n && s.p[i + 1] == '.')
            return false;
    }
    return true;
}

bool http_parse_authority(struct str s, struct str *ret_host, uint16_t *ret_port)
{
    struct str host = s, port = STR_NONE;
    bool literal = s.n > 0 && s.p[0] == '[';
    ptrdiff_t at = str_find(s, literal ? ']' : ':');
    if (literal) {
        if (at < 0 || !is_ipv6((struct str){ s.p + 1, (size_t)at - 1 }))
            return false;
        host.n = (size_t)at + 1;
        port = str_skip(s, host.n);
        if (port.n > 0 && port.p[0] != ':')
            return false;
    } else if (at >= 0) {
        host.n = (size_t)at;
        port = str_skip(s, host.n);
    }
    if (!literal && !is_registered_name(host))
        return false;
    uint64_t number = 0;
    if (port.n > 1 && (port.n > 6 || !str_to_u64(str_skip(port, 1), UINT16_MAX, &number)))
        return false;
    *ret_host = host;
    *ret_port = (uint16_t)number;
    return true;
}
