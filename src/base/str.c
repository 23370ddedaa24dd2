/* String view: the few functions too long to stand in the header. */
#include "base/str.h"

bool str_to_u64(struct str s, uint64_t max, uint64_t *ret)
{
    uint64_t v = 0;

    if (s.n == 0)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        unsigned d = (unsigned)(unsigned char)s.p[i] - '0';
        if (d > 9 || v > (UINT64_MAX - d) / 10)
            return false;
        v = v * 10 + d;
        if (v > max)
            return false;
    }
    *ret = v;
    return true;
}

struct str str_header_variable(struct str name, char *out)
{
    memcpy(out, "HTTP_", STR_HEADER_VARIABLE_MORE);
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        out[STR_HEADER_VARIABLE_MORE + i] = c >= 'a' && c <= 'z' ? (char)(c - 0x20)
                                            : c == '-'           ? '_'
                                                                 : c;
    }
    return (struct str){ out, STR_HEADER_VARIABLE_MORE + name.n };
}
