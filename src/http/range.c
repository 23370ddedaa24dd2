/*
 * Small list grammars of conditional and partial requests: Range, entity tags, Accept-Encoding.
 */
#include <errno.h>

#include "http/http_int.h"

/* Digits only; a number too large for 64 bits is as good as the largest: it is beyond every file.
 */
static bool read_position(struct str s, uint64_t *ret)
{
    uint64_t value = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (!is_digit(s.p[i]))
            return false;
        uint64_t digit = (uint64_t)(s.p[i] - '0');
        value = value > (UINT64_MAX - digit) / 10 ? UINT64_MAX : value * 10 + digit;
    }
    *ret = value;
    return s.n > 0;
}

/* One range-spec. 1: satisfiable, in `*ret`; 0: valid, but outside; -EINVAL. */
static int read_range(struct str spec, uint64_t size, struct http_range *ret)
{
    uint64_t first, last = UINT64_MAX;
    ptrdiff_t dash = str_find(spec, '-');
    if (dash < 0)
        return -EINVAL;
    struct str right = str_skip(spec, (size_t)dash + 1);
    if (dash == 0) {
        if (!read_position(right, &last))
            return -EINVAL;
        if (last == 0 || size == 0)
            return 0;
        *ret = (struct http_range){ last < size ? size - last : 0, size - 1 };
        return 1;
    }
    if (!read_position(str_take(spec, (size_t)dash), &first))
        return -EINVAL;
    if (right.n > 0 && (!read_position(right, &last) || last < first))
        return -EINVAL;
    if (first >= size)
        return 0;
    *ret = (struct http_range){ first, last < size ? last : size - 1 };
    return 1;
}

/* Overlapping or adjacent, so that one range says the same. No overflow: last < size <= UINT64_MAX.
 */
static bool touch(const struct http_range *a, const struct http_range *b)
{
    return a->first <= b->last + 1 && b->first <= a->last + 1;
}

/* Adds `r` at the end, or in the place of the first range that it touches. One that grew may touch
 * others in turn, so every merge starts over. */
static int add_range(struct http_range *ranges, int n, struct http_range r)
{
    int at = n;
    for (int i = 0; i < n;) {
        if (!touch(&ranges[i], &r)) {
            i++;
            continue;
        }
        r.first = ranges[i].first < r.first ? ranges[i].first : r.first;
        r.last = ranges[i].last > r.last ? ranges[i].last : r.last;
        at = i < at ? i : at;
        memmove(&ranges[i], &ranges[i + 1], (size_t)(--n - i) * sizeof ranges[0]);
        i = 0;
    }
    at = at < n ? at : n;
    memmove(&ranges[at + 1], &ranges[at], (size_t)(n - at) * sizeof ranges[0]);
    ranges[at] = r;
    return n + 1;
}

int http_parse_ranges(struct str value, uint64_t size, struct http_range *ret, int max)
{
    ptrdiff_t equals = str_find(value, '=');
    if (equals < 0 || !str_eq_nocase(str_take(value, (size_t)equals), STR("bytes")))
        return 0;
    struct str list = str_skip(value, (size_t)equals + 1);
    int n = 0, specs = 0;
    while (list.p != NULL) {
        struct str spec = str_trim(str_cut(&list, ','));
        if (spec.n == 0)
            continue; /* RFC 9110 5.6.1.2: empty list elements */
        struct http_range r;
        int rc = read_range(spec, size, &r);
        /* Asking for more pieces than `max` is asking for trouble, also when they merge. */
        if (rc < 0 || ++specs > max)
            return 0;
        if (rc > 0)
            n = add_range(ret, n, r);
    }
    return n > 0 ? n : specs > 0 ? -ERANGE : 0;
}

/* Takes one entity tag from the front. False at the end or at a syntax error. */
static bool take_etag(struct str *rest, struct str *ret_opaque, bool *ret_weak)
{
    while (rest->n > 0 && (rest->p[0] == ' ' || rest->p[0] == '\t' || rest->p[0] == ','))
        *rest = str_skip(*rest, 1);
    *ret_weak = str_has_prefix(*rest, STR("W/"));
    struct str s = *ret_weak ? str_skip(*rest, 2) : *rest;
    if (s.n < 2 || s.p[0] != '"')
        return false;
    ptrdiff_t end = str_find(str_skip(s, 1), '"');
    if (end < 0)
        return false;
    *ret_opaque = str_take(s, (size_t)end + 2);
    *rest = str_skip(s, (size_t)end + 2);
    return true;
}

bool http_etag_matches(struct str list, struct str etag, bool strong)
{
    struct str ours, theirs;
    bool weak, their_weak;
    if (str_eq(str_trim(list), STR("*")))
        return true;
    if (!take_etag(&etag, &ours, &weak))
        return false;
    while (take_etag(&list, &theirs, &their_weak))
        if (str_eq(ours, theirs) && !(strong && (weak || their_weak)))
            return true;
    return false;
}

/* qvalue = "0" [ "." *3DIGIT ] / "1" [ "." *3"0" ], in thousandths; -1 for anything else. */
static int read_quality(struct str s)
{
    if (s.n == 0 || s.n > 5 || (s.p[0] != '0' && s.p[0] != '1') || (s.n > 1 && s.p[1] != '.'))
        return -1;
    int value = (s.p[0] - '0') * 1000;
    for (size_t i = 2, unit = 100; i < s.n; i++, unit /= 10) {
        if (!is_digit(s.p[i]))
            return -1;
        value += (s.p[i] - '0') * (int)unit;
    }
    return value <= 1000 ? value : -1;
}

int http_accepts_coding(struct str accept_encoding, struct str coding)
{
    int any = -1;
    while (accept_encoding.p != NULL) {
        struct str parameters = str_cut(&accept_encoding, ',');
        struct str name = str_trim(str_cut(&parameters, ';'));
        int quality = 1000;
        while (parameters.p != NULL) {
            struct str p = str_trim(str_cut(&parameters, ';'));
            if (p.n >= 2 && ascii_lower(p.p[0]) == 'q' && p.p[1] == '=')
                quality = read_quality(str_skip(p, 2));
        }
        if (quality < 0)
            quality = 0; /* unreadable: safest is not to send that coding */
        if (str_eq_nocase(name, coding))
            return quality;
        if (str_eq(name, STR("*")))
            any = quality;
        else if (str_eq_nocase(name, STR("x-gzip")) && str_eq_nocase(coding, STR("gzip")))
            return quality;
    }
    return any;
}
