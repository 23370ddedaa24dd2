/*
 * What the files of this room share: the character classes of RFC 9110 and the checks that several
 * parsers need. Not for other rooms.
 */
#ifndef SAPID_HTTP_HTTP_INT_H
#define SAPID_HTTP_HTTP_INT_H

#include "http/http.h"

enum {
    CHAR_TOKEN = 1,   /* tchar, RFC 9110 5.6.2 */
    CHAR_TARGET = 2,  /* request target: visible ASCII without '#' */
    CHAR_VALUE = 4,   /* field value: visible, space, tab, obs-text */
    CHAR_HOST = 8,    /* registered name: unreserved of RFC 3986 */
    CHAR_SHADOW = 16, /* becomes '_' in a CGI variable although it is not '-' */
};
extern const uint8_t http_char_class[256];

static inline uint8_t char_class(char c)
{
    return http_char_class[(unsigned char)c];
}
static inline bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}
/* host [":" port] without userinfo: registered name, IPv4 or "[" IPv6 "]". The port, when there are
 * digits, goes to `*ret_port` (0 without). False when it is not that. */
bool http_parse_authority(struct str s, struct str *ret_host, uint16_t *ret_port);

/* First byte that is not CHAR_VALUE, or `end`. */
const char *http_scan_value(const char *p, const char *end);

#endif
