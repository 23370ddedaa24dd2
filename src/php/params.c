/* Variables of queries and cookies, see params.h. Nothing is copied but by params_decode(). */
#include "php/params.h"

#include <string.h>

/* Takes one character off a percent-encoded text, as php_url_decode (`plus`: "+" is a space) and
 * php_raw_url_decode do. */
static unsigned char take(struct str *s, bool plus)
{
    char c = s->p[0];
    int high, low;

    if (c == '%' && s->n >= 3 && (high = hex_value(s->p[1])) >= 0 &&
        (low = hex_value(s->p[2])) >= 0) {
        *s = str_skip(*s, 3);
        return (unsigned char)(high << 4 | low);
    }
    *s = str_skip(*s, 1);
    return (unsigned char)(plus && c == '+' ? ' ' : c);
}

/* Names of cookies are not decoded. */
static unsigned char take_of_name(struct str *s, bool cookies)
{
    if (!cookies)
        return take(s, true);
    unsigned char c = (unsigned char)s->p[0];
    *s = str_skip(*s, 1);
    return c;
}

/* Is that name of the text PHP's variable `key`? Spaces, dots and brackets that open nothing become
 * underscores; "a[b]" is an element of the array "a". */
static enum param_kind compare(struct str name, bool cookies, struct str key)
{
    bool same = true, brackets = false, leading = true;
    size_t n = 0;

    while (name.n) {
        unsigned char c = take_of_name(&name, cookies);
        if (c == '\0')
            break;
        if (leading && c == ' ')
            continue;
        leading = false;
        if (c == '[' && !brackets) {
            brackets = true;
            if (same && n == key.n)
                return n ? PARAM_OTHER : PARAM_ABSENT;
        }
        if (c == ' ' || c == '.' || c == '[')
            c = '_';
        same = same && n < key.n && (unsigned char)key.p[n] == c;
        n++;
    }
    if (!same || n != key.n || n == 0)
        return PARAM_ABSENT;
    return brackets ? PARAM_OTHER : PARAM_TEXT;
}

/* Cuts off the next segment that is not empty. False: there is none. */
static bool next(struct str *rest, const char *separators, struct str *ret)
{
    while (rest->n && strchr(separators, rest->p[0]) && rest->p[0])
        *rest = str_skip(*rest, 1);
    size_t n = 0;
    while (n < rest->n && (!rest->p[n] || !strchr(separators, rest->p[n])))
        n++;
    *ret = str_take(*rest, n);
    *rest = str_skip(*rest, n);
    return n > 0;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Cuts a segment into name and value. False: PHP passes it by. */
static bool split(const struct params *p, struct str segment, struct str *ret_name,
                  struct str *ret_value)
{
    ptrdiff_t at = str_find(segment, '=');

    *ret_name = at < 0 ? segment : str_take(segment, (size_t)at);
    *ret_value = at < 0 ? str_take(segment, 0) : str_skip(segment, (size_t)at + 1);
    while (p->cookies && ret_name->n && is_space(ret_name->p[0]))
        *ret_name = str_skip(*ret_name, 1);
    return !p->cookies || ret_name->n > 0;
}

struct param params_find(const struct params *p, struct str key)
{
    struct str rest = p->text, segment, name, value;
    struct param found = { PARAM_ABSENT, STR_NONE };
    uint32_t n = 0;

    while (found.kind != PARAM_OTHER && next(&rest, p->separators, &segment)) {
        if (!split(p, segment, &name, &value))
            continue;
        if (++n > p->max)
            break;
        enum param_kind kind = compare(name, p->cookies, key);
        if (kind == PARAM_ABSENT || (kind == PARAM_TEXT && found.kind && p->cookies))
            continue;
        found = (struct param){ kind, value };
    }
    return found;
}

bool params_is_empty(const struct params *p)
{
    for (size_t i = 0; i < p->text.n; i++)
        if (!(p->cookies && is_space(p->text.p[i])) &&
            (!p->text.p[i] || !strchr(p->separators, p->text.p[i])))
            return false;
    return true;
}

bool params_value_is(const struct params *p, struct str raw, struct str value)
{
    size_t n = 0;

    for (; raw.n; n++)
        if (take(&raw, !p->cookies) != (n < value.n ? (unsigned char)value.p[n] : 0) ||
            n >= value.n)
            return false;
    return n == value.n;
}

struct str params_decode(const struct params *p, struct str raw, char *out)
{
    size_t n = 0;

    while (raw.n)
        out[n++] = (char)take(&raw, !p->cookies);
    return (struct str){ out, n };
}
