/*
 * TOML 1.0 parser, strict: one pass over the text, recursive only for nested arrays and inline
 * tables (with a limit), a tree of values in the caller's arena. The first error ends it.
 * Everything in the tree is a copy, so the text may go away afterwards; strings and keys are
 * NUL-terminated.
 *
 * Encoding is checked for the whole text first (UTF-8; no control characters but tab and line
 * ends), so that no rule further down has to think of it. The specification:
 * https://toml.io/en/v1.0.0
 */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/config_int.h"

enum { MAX_NESTING = 64, MAX_NUMBER_BYTES = 64 };

struct parser {
    struct arena *arena;
    struct str text;
    size_t at;
    uint32_t line;
    size_t line_start;
    unsigned nesting;
    struct config_error *error;
};

/* ---- errors and places
 * ---------------------------------------------------------------------------- */

/* People count characters, not bytes. */
static uint32_t column_of(const struct parser *p, size_t at)
{
    uint32_t column = 1;

    for (size_t i = p->line_start; i < at && i < p->text.n; i++)
        if (((unsigned char)p->text.p[i] & 0xC0) != 0x80)
            column++;
    return column;
}

PRINTF_LIKE(3, 4) static int fail_at(struct parser *p, size_t at, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    p->error->line = p->line;
    p->error->column = column_of(p, at);
    p->error->message = arena_vprintf(p->arena, fmt, ap);
    va_end(ap);
    return p->error->message.p ? -EINVAL : -ENOMEM;
}

static bool at_end(const struct parser *p)
{
    return p->at >= p->text.n;
}

static char peek(const struct parser *p)
{
    return at_end(p) ? '\0' : p->text.p[p->at];
}

static bool looking_at(const struct parser *p, struct str s)
{
    return str_has_prefix(str_skip(p->text, p->at), s);
}

/* What stands at the cursor, for "found ...". Uses one of a few static buffers: copied at once. */
static const char *found(const struct parser *p)
{
    static _Thread_local char text[32];
    size_t n = 1;

    if (at_end(p))
        return "the end of the file";
    if (peek(p) == '\n' || peek(p) == '\r')
        return "the end of the line";
    while (n < 4 && p->at + n < p->text.n && ((unsigned char)p->text.p[p->at + n] & 0xC0) == 0x80)
        n++;
    snprintf(text, sizeof(text), "'%.*s'", (int)n, p->text.p + p->at);
    return text;
}

/* ---- encoding
 * ------------------------------------------------------------------------------------- */

/* Length of the well-formed UTF-8 sequence at `s` (Unicode 15, table 3-7), 0 when it is none. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    unsigned char low = 0x80, high = 0xBF;
    size_t length;

    if (s[0] < 0x80)
        return 1;
    if (s[0] >= 0xC2 && s[0] <= 0xDF)
        length = 2;
    else if (s[0] >= 0xE0 && s[0] <= 0xEF)
        length = 3;
    else if (s[0] >= 0xF0 && s[0] <= 0xF4)
        length = 4;
    else
        return 0;
    if (n < length)
        return 0;
    if (s[0] == 0xE0)
        low = 0xA0; /* overlong */
    else if (s[0] == 0xED)
        high = 0x9F; /* surrogates */
    else if (s[0] == 0xF0)
        low = 0x90; /* overlong */
    else if (s[0] == 0xF4)
        high = 0x8F; /* above U+10FFFF */
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    return length;
}

static void begin_line(struct parser *p)
{
    p->line++;
    p->line_start = p->at;
}

static int check_encoding(struct parser *p)
{
    while (!at_end(p)) {
        unsigned char c = (unsigned char)peek(p);
        size_t n = utf8_length((const unsigned char *)p->text.p + p->at, p->text.n - p->at);

        if (n == 0)
            return fail_at(p, p->at, "expected UTF-8 text, found the byte 0x%02X", c);
        if (c == '\r' && !looking_at(p, STR("\r\n")))
            return fail_at(p, p->at, "a carriage return without a line feed is not allowed");
        if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7F)
            return fail_at(p, p->at,
                           "the control character U+%04X is not allowed; inside double "
                           "quotes write \\u%04X",
                           c, c);
        p->at += n;
        if (c == '\n')
            begin_line(p);
    }
    return 0;
}

/* ---- white space
 * ---------------------------------------------------------------------------------- */

static void skip_blanks(struct parser *p)
{
    while (!at_end(p) && (peek(p) == ' ' || peek(p) == '\t'))
        p->at++;
}

static void skip_comment(struct parser *p)
{
    if (peek(p) == '#')
        while (!at_end(p) && peek(p) != '\n')
            p->at++;
}

/* One line end, if there is one. A '\r' always has its '\n' here. */
static bool skip_newline(struct parser *p)
{
    if (peek(p) == '\r')
        p->at++;
    if (peek(p) != '\n')
        return false;
    p->at++;
    begin_line(p);
    return true;
}

static void skip_blanks_comments_newlines(struct parser *p)
{
    do {
        skip_blanks(p);
        skip_comment(p);
    } while (skip_newline(p));
}

static int expect_line_end(struct parser *p, const char *after)
{
    skip_blanks(p);
    skip_comment(p);
    if (at_end(p) || skip_newline(p))
        return 0;
    return fail_at(p, p->at, "expected the end of the line after %s, found %s", after, found(p));
}

/* ---- tree
 * ----------------------------------------------------------------------------------------- */

static struct toml_value *value_new(struct parser *p, enum toml_type type, size_t at)
{
    struct toml_value *v = arena_zalloc(p->arena, sizeof(*v));

    if (v) {
        v->type = type;
        v->line = v->key_line = p->line;
        v->column = v->key_column = column_of(p, at);
    }
    return v;
}

static void value_append(struct toml_value *parent, struct toml_value *child)
{
    if (parent->last)
        parent->last->next = child;
    else
        parent->first = child;
    parent->last = child;
}

static struct toml_value *table_find(const struct toml_value *table, struct str key)
{
    for (struct toml_value *v = table->first; v; v = v->next)
        if (str_eq(v->key, key))
            return v;
    return NULL;
}

const struct toml_value *toml_get(const struct toml_value *table, struct str key)
{
    return table && table->type == TOML_TABLE ? table_find(table, key) : NULL;
}

const char *toml_type_name(enum toml_type type)
{
    static const char *const names[] = {
        [TOML_STRING] = "a string",
        [TOML_INTEGER] = "an integer",
        [TOML_FLOAT] = "a float",
        [TOML_BOOLEAN] = "a boolean",
        [TOML_DATETIME] = "a date and time",
        [TOML_DATETIME_LOCAL] = "a local date and time",
        [TOML_DATE_LOCAL] = "a date",
        [TOML_TIME_LOCAL] = "a time of day",
        [TOML_ARRAY] = "an array",
        [TOML_TABLE] = "a table",
    };
    CHECK((size_t)type < ARRAY_LENGTH(names));
    return names[type];
}

/* ---- strings
 * -------------------------------------------------------------------------------------- */

static size_t utf8_encode(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | (code >> 6));
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | (code >> 12));
        out[1] = (char)(0x80 | ((code >> 6) & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | (code >> 18));
    out[1] = (char)(0x80 | ((code >> 12) & 0x3F));
    out[2] = (char)(0x80 | ((code >> 6) & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

/* \uXXXX and \UXXXXXXXX; the cursor stands on the backslash. */
static int parse_unicode_escape(struct parser *p, char *out, size_t *n)
{
    size_t digits = p->text.p[p->at + 1] == 'u' ? 4 : 8;
    size_t first = p->at + 2;
    uint32_t code = 0;

    for (size_t i = 0; i < digits; i++) {
        int digit = first + i < p->text.n ? hex_value(p->text.p[first + i]) : -1;
        if (digit < 0)
            return fail_at(p, p->at, "\\%c needs %zu hexadecimal digits", digits == 4 ? 'u' : 'U',
                           digits);
        code = code << 4 | (uint32_t)digit;
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return fail_at(p, p->at, "U+%04X is not a Unicode character", code);
    *n += utf8_encode(code, out + *n);
    p->at = first + digits;
    return 0;
}

/* A backslash at the end of a line of a """ string swallows white space up to the next text. */
static bool skip_line_continuation(struct parser *p)
{
    size_t i = p->at + 1;

    while (i < p->text.n && (p->text.p[i] == ' ' || p->text.p[i] == '\t'))
        i++;
    if (i >= p->text.n || (p->text.p[i] != '\n' && p->text.p[i] != '\r'))
        return false;
    p->at = i;
    do
        skip_blanks(p);
    while (skip_newline(p));
    return true;
}

static int parse_escape(struct parser *p, bool multiline, char *out, size_t *n)
{
    static const char from[] = "btnfr\"\\", to[] = "\b\t\n\f\r\"\\";
    char c = p->at + 1 < p->text.n ? p->text.p[p->at + 1] : '\0';
    const char *hit = c ? strchr(from, c) : NULL;

    if (hit) {
        out[(*n)++] = to[hit - from];
        p->at += 2;
        return 0;
    }
    if (c == 'u' || c == 'U')
        return parse_unicode_escape(p, out, n);
    if (multiline && skip_line_continuation(p))
        return 0;
    return fail_at(p, p->at,
                   "unknown escape; known are \\b \\t \\n \\f \\r \\\" \\\\ \\uXXXX \\UXXXXXXXX "
                   "(write a literal backslash as \\\\ or use single quotes)");
}

/* Bytes of source that a string beginning at the cursor can at most have: the result is never
 * longer. */
static size_t string_bound(const struct parser *p, char quote, bool multiline)
{
    size_t i = p->at;

    for (; i < p->text.n; i++) {
        if (p->text.p[i] == '\\' && quote == '"')
            i++;
        else if (p->text.p[i] == '\n' && !multiline)
            break;
        else if (p->text.p[i] == quote &&
                 (!multiline ||
                  (i + 2 < p->text.n && p->text.p[i + 1] == quote && p->text.p[i + 2] == quote)))
            break;
    }
    return (i < p->text.n ? i : p->text.n) - p->at;
}

/* The cursor stands behind the opening """ or '''. Up to two quotes may stand right before the end.
 */
static bool end_multiline(struct parser *p, char quote, char *out, size_t *n)
{
    size_t quotes = 0;

    while (quotes < 5 && p->at + quotes < p->text.n && p->text.p[p->at + quotes] == quote)
        quotes++;
    if (quotes < 3) {
        memset(out + *n, quote, quotes);
        *n += quotes;
        p->at += quotes;
        return false;
    }
    memset(out + *n, quote, quotes - 3);
    *n += quotes - 3;
    p->at += quotes;
    return true;
}

static int parse_string(struct parser *p, bool allow_multiline, struct str *ret)
{
    char quote = peek(p);
    size_t start = p->at;
    struct parser opening = *p;
    bool multiline = looking_at(p, quote == '"' ? STR("\"\"\"") : STR("'''"));

    if (multiline && !allow_multiline)
        return fail_at(p, start, "a string over several lines cannot be a key");
    p->at += multiline ? 3 : 1;
    if (multiline)
        skip_newline(p); /* a line end right behind the opening is not part of the string */

    char *out = arena_alloc(p->arena, string_bound(p, quote, multiline) + 8);
    size_t n = 0;
    if (!out)
        return -ENOMEM;
    for (;;) {
        char c = peek(p);
        if (at_end(p) || (!multiline && (c == '\n' || c == '\r'))) {
            *p = opening; /* the place that helps is where it began */
            return fail_at(p, start, "this string has no closing %s",
                           multiline ? (quote == '"' ? "\"\"\"" : "'''")
                                     : (quote == '"' ? "\"" : "'"));
        }
        if (c == quote) {
            if (!multiline) {
                p->at++;
                break;
            }
            if (end_multiline(p, quote, out, &n))
                break;
        } else if (c == '\\' && quote == '"') {
            int rc = parse_escape(p, multiline, out, &n);
            if (rc < 0)
                return rc;
        } else {
            out[n++] = c;
            p->at++;
            if (c == '\n')
                begin_line(p);
        }
    }
    out[n] = '\0';
    *ret = (struct str){ out, n };
    return 0;
}

/* ---- numbers, dates
 * ------------------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Two digits as a number, -1 when they are none. */
static int two_digits(struct str s, size_t at)
{
    if (at + 2 > s.n || !is_digit(s.p[at]) || !is_digit(s.p[at + 1]))
        return -1;
    return (s.p[at] - '0') * 10 + (s.p[at + 1] - '0');
}

/* YYYY-MM-DD at the start of `s`: bytes used, 0 when it is none. */
static size_t match_date(struct str s)
{
    static const int days[] = { 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    int century = two_digits(s, 0), year = two_digits(s, 2), month = two_digits(s, 5),
        day = two_digits(s, 8);

    if (s.n < 10 || century < 0 || year < 0 || s.p[4] != '-' || s.p[7] != '-')
        return 0;
    if (month < 1 || month > 12 || day < 1 || day > days[month - 1])
        return 0;
    year += century * 100;
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month == 2 && day == 29 && !leap ? 0 : 10;
}

/* HH:MM:SS[.fraction]. A leap second (60) is RFC 3339's. */
static size_t match_time(struct str s)
{
    int hour = two_digits(s, 0), minute = two_digits(s, 3), second = two_digits(s, 6);
    size_t n = 8;

    if (s.n < 8 || s.p[2] != ':' || s.p[5] != ':')
        return 0;
    if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60)
        return 0;
    if (n < s.n && s.p[n] == '.') {
        n++;
        while (n < s.n && is_digit(s.p[n]))
            n++;
        if (n == 9)
            return 0;
    }
    return n;
}

static size_t match_offset(struct str s)
{
    if (s.n && (s.p[0] == 'Z' || s.p[0] == 'z'))
        return 1;
    if (s.n < 6 || (s.p[0] != '+' && s.p[0] != '-') || s.p[3] != ':')
        return 0;
    int hour = two_digits(s, 1), minute = two_digits(s, 4);
    return hour >= 0 && hour <= 23 && minute >= 0 && minute <= 59 ? 6 : 0;
}

/* Whole token as a date, a time or both. */
static bool match_datetime(struct str s, enum toml_type *ret)
{
    size_t date = match_date(s);
    struct str rest = str_skip(s, date);

    if (date && rest.n == 0) {
        *ret = TOML_DATE_LOCAL;
        return true;
    }
    if (date) {
        if (rest.p[0] != 'T' && rest.p[0] != 't' && rest.p[0] != ' ')
            return false;
        rest = str_skip(rest, 1);
    }
    size_t time = match_time(rest);
    if (!time)
        return false;
    rest = str_skip(rest, time);
    *ret = date ? TOML_DATETIME_LOCAL : TOML_TIME_LOCAL;
    if (rest.n == 0)
        return true;
    if (!date)
        return false;
    *ret = TOML_DATETIME;
    return match_offset(rest) == rest.n;
}

/* Digits of `base` with single underscores between them, without the underscores in `out`. */
static size_t match_digits(struct str s, int base, char *out, size_t *n)
{
    size_t i = 0;

    while (i < s.n) {
        int digit = hex_value(s.p[i]);
        if (digit >= 0 && digit < base) {
            out[(*n)++] = s.p[i++];
            continue;
        }
        bool between = i > 0 && s.p[i] == '_' && s.p[i - 1] != '_' && i + 1 < s.n &&
                       hex_value(s.p[i + 1]) >= 0 && hex_value(s.p[i + 1]) < base;
        if (!between)
            break;
        i++;
    }
    return i;
}

/* 1: an integer, 0: not one, -ERANGE: does not fit. `number` is shorter than MAX_NUMBER_BYTES. */
static int match_integer(struct str s, int64_t *ret)
{
    char digits[MAX_NUMBER_BYTES];
    size_t n = 0;
    int base = 10;

    if (s.n > 2 && s.p[0] == '0' && (s.p[1] == 'x' || s.p[1] == 'o' || s.p[1] == 'b')) {
        base = s.p[1] == 'x' ? 16 : s.p[1] == 'o' ? 8 : 2;
        s = str_skip(s, 2);
    } else if (s.n && (s.p[0] == '+' || s.p[0] == '-')) {
        digits[n++] = s.p[0];
        s = str_skip(s, 1);
    }
    size_t sign = n;
    if (s.n == 0 || match_digits(s, base, digits, &n) != s.n)
        return 0;
    if (base == 10 && digits[sign] == '0' && n > sign + 1)
        return 0;
    digits[n] = '\0';
    errno = 0;
    *ret = strtoll(digits, NULL, base);
    return errno == ERANGE ? -ERANGE : 1;
}

static bool match_float(struct str s, double *ret)
{
    char text[MAX_NUMBER_BYTES + 8];
    size_t n = 0, used;

    if (s.n && (s.p[0] == '+' || s.p[0] == '-')) {
        text[n++] = s.p[0];
        s = str_skip(s, 1);
    }
    if (str_eq(s, STR("inf")) || str_eq(s, STR("nan"))) {
        double magnitude = s.p[0] == 'i' ? INFINITY : NAN;
        *ret = n && text[0] == '-' ? -magnitude : magnitude;
        return true;
    }
    size_t whole = n;
    used = match_digits(s, 10, text, &n);
    if (!used || (text[whole] == '0' && n > whole + 1))
        return false;
    s = str_skip(s, used);
    if (s.n && s.p[0] == '.') {
        text[n++] = '.';
        used = match_digits(str_skip(s, 1), 10, text, &n);
        if (!used)
            return false;
        s = str_skip(s, used + 1);
    }
    if (s.n && (s.p[0] == 'e' || s.p[0] == 'E')) {
        text[n++] = 'e';
        s = str_skip(s, 1);
        if (s.n && (s.p[0] == '+' || s.p[0] == '-')) {
            text[n++] = s.p[0];
            s = str_skip(s, 1);
        }
        used = match_digits(s, 10, text, &n);
        if (!used)
            return false;
        s = str_skip(s, used);
    }
    text[n] = '\0';
    *ret = strtod(text, NULL); /* no role sets LC_NUMERIC before it has read its configuration */
    return s.n == 0;
}

static bool is_scalar_char(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' ||
           c == '-' || c == '_' || c == '.' || c == ':';
}

/* The run of characters of a number, date, boolean or bare word at the cursor. */
static struct str scalar_token(const struct parser *p)
{
    struct str rest = str_skip(p->text, p->at);
    size_t n = 0;

    while (n < rest.n && is_scalar_char(rest.p[n]))
        n++;
    /* A space may stand for the T between date and time. */
    if (n == 10 && match_date(rest) && n + 1 < rest.n && rest.p[n] == ' ' &&
        is_digit(rest.p[n + 1]))
        for (n++; n < rest.n && is_scalar_char(rest.p[n]);)
            n++;
    return str_take(rest, n);
}

static int parse_datetime(struct parser *p, struct str token, struct toml_value *v)
{
    struct str copy = arena_copy(p->arena, token);

    if (!copy.p)
        return -ENOMEM;
    for (size_t i = 0; i < copy.n; i++) {
        char c = copy.p[i];
        ((char *)copy.p)[i] = c == 't' || c == ' ' ? 'T' : c == 'z' ? 'Z' : c;
    }
    v->string = copy;
    p->at += token.n;
    return 0;
}

static int parse_scalar(struct parser *p, struct toml_value *v)
{
    struct str token = scalar_token(p);

    if (token.n == 0)
        return fail_at(p, p->at, "expected a value, found %s", found(p));
    if (str_eq(token, STR("true")) || str_eq(token, STR("false"))) {
        v->type = TOML_BOOLEAN;
        v->boolean = token.p[0] == 't';
        p->at += token.n;
        return 0;
    }
    if (match_datetime(token, &v->type))
        return parse_datetime(p, token, v);
    if (token.n >= MAX_NUMBER_BYTES)
        return fail_at(p, p->at, "this number is too long (at most %d characters)",
                       MAX_NUMBER_BYTES - 1);
    int rc = match_integer(token, &v->integer);
    if (rc == -ERANGE)
        return fail_at(p, p->at, "the integer %.*s does not fit 64 bits", STR_ARG(token));
    if (rc == 1) {
        v->type = TOML_INTEGER;
    } else if (match_float(token, &v->number)) {
        v->type = TOML_FLOAT;
    } else {
        return fail_at(p, p->at, "expected a value, found %.*s%s", STR_ARG(token),
                       is_digit(token.p[0]) || token.p[0] == '+' || token.p[0] == '-'
                           ? ", which is neither a number nor a date"
                           : " (a string needs quotes)");
    }
    p->at += token.n;
    return 0;
}

/* ---- keys and tables
 * ------------------------------------------------------------------------------ */

static bool is_bare_key_char(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-';
}

static int parse_simple_key(struct parser *p, struct str *ret)
{
    size_t start = p->at;

    if (peek(p) == '"' || peek(p) == '\'')
        return parse_string(p, false, ret);
    while (!at_end(p) && is_bare_key_char(peek(p)))
        p->at++;
    if (p->at == start)
        return fail_at(p, p->at, "expected a key, found %s", found(p));
    *ret = arena_copy(p->arena, (struct str){ p->text.p + start, p->at - start });
    return ret->p ? 0 : -ENOMEM;
}

/* The child of that name of `table`, or a new, empty table there: then `*ret_new`. NULL: no memory.
 */
static struct toml_value *child(struct parser *p, struct str key, size_t at,
                                struct toml_value *table, bool *ret_new)
{
    struct toml_value *v = table_find(table, key);

    *ret_new = !v;
    if (v)
        return v;
    v = value_new(p, TOML_TABLE, at);
    if (!v)
        return NULL;
    v->key = key;
    v->origin = TOML_IMPLICIT;
    value_append(table, v);
    return v;
}

/* A table below `table` for one part of a dotted key. Such tables may only be extended by dotted
 * keys of the same section, never a table that a header defined. */
static int step_dotted(struct parser *p, struct str key, size_t at, struct toml_value **table)
{
    bool is_new;
    struct toml_value *v = child(p, key, at, *table, &is_new);

    if (!v)
        return -ENOMEM;
    if (v->type != TOML_TABLE)
        return fail_at(p, at, "\"%.*s\" is already %s (line %u), not a table", STR_ARG(key),
                       toml_type_name(v->type), v->line);
    if (v->origin == TOML_BY_HEADER || v->origin == TOML_INLINE)
        return fail_at(p, at,
                       "the table \"%.*s\" of line %u is complete: a dotted key cannot add to it",
                       STR_ARG(key), v->line);
    v->origin = TOML_BY_DOTTED_KEY;
    *table = v;
    return 0;
}

/* A table below `table` for one part of a [header] but the last. */
static int step_header(struct parser *p, struct str key, size_t at, struct toml_value **table)
{
    bool is_new;
    struct toml_value *v = child(p, key, at, *table, &is_new);

    if (!v)
        return -ENOMEM;
    if (v->type == TOML_ARRAY && v->origin == TOML_BY_HEADER) {
        v = v->last; /* [[array]]: its newest element */
    } else if (v->type != TOML_TABLE || v->origin == TOML_INLINE) {
        return fail_at(
            p, at, "\"%.*s\" is already %s (line %u): a header cannot add to it", STR_ARG(key),
            v->type == TOML_TABLE ? "an inline table" : toml_type_name(v->type), v->line);
    }
    *table = v;
    return 0;
}

static int define_table(struct parser *p, struct str key, size_t at, struct toml_value **table)
{
    bool is_new;
    struct toml_value *v = child(p, key, at, *table, &is_new);

    if (!v)
        return -ENOMEM;
    if (v->type != TOML_TABLE || v->origin != TOML_IMPLICIT)
        return fail_at(p, at, "\"%.*s\" is already defined, as %s, in line %u", STR_ARG(key),
                       toml_type_name(v->type), v->line);
    if (!is_new) {
        v->line = v->key_line = p->line;
        v->column = v->key_column = column_of(p, at);
    }
    v->origin = TOML_BY_HEADER;
    *table = v;
    return 0;
}

static int define_array_element(struct parser *p, struct str key, size_t at,
                                struct toml_value **table)
{
    struct toml_value *array = table_find(*table, key);

    if (!array) {
        array = value_new(p, TOML_ARRAY, at);
        if (!array)
            return -ENOMEM;
        array->key = key;
        array->origin = TOML_BY_HEADER;
        value_append(*table, array);
    } else if (array->type != TOML_ARRAY || array->origin != TOML_BY_HEADER) {
        return fail_at(p, at,
                       "\"%.*s\" is already defined, as %s, in line %u: [[%.*s]] cannot add to it",
                       STR_ARG(key), toml_type_name(array->type), array->line, STR_ARG(key));
    }
    struct toml_value *element = value_new(p, TOML_TABLE, at);
    if (!element)
        return -ENOMEM;
    element->origin = TOML_BY_HEADER;
    value_append(array, element);
    *table = element;
    return 0;
}

/* [a.b] and [[a.b]]; the cursor stands on the first bracket. */
static int parse_header(struct parser *p, struct toml_value *root, struct toml_value **ret_table)
{
    bool array = looking_at(p, STR("[["));
    struct toml_value *table = root;
    int rc = 0;

    p->at += array ? 2 : 1;
    for (;;) {
        struct str key;
        skip_blanks(p);
        size_t at = p->at;
        rc = parse_simple_key(p, &key);
        if (rc < 0)
            return rc;
        skip_blanks(p);
        if (peek(p) == '.') {
            p->at++;
            rc = step_header(p, key, at, &table);
        } else if (looking_at(p, array ? STR("]]") : STR("]"))) {
            p->at += array ? 2 : 1;
            rc = array ? define_array_element(p, key, at, &table)
                       : define_table(p, key, at, &table);
            if (rc < 0)
                return rc;
            *ret_table = table;
            return expect_line_end(p, array ? "[[...]]" : "[...]");
        } else {
            return fail_at(p, p->at, "expected '.' or '%s' after a part of the header, found %s",
                           array ? "]]" : "]", found(p));
        }
        if (rc < 0)
            return rc;
    }
}

static int parse_value(struct parser *p, struct toml_value **ret);

/* a.b = value, into `table`. */
static int parse_key_value(struct parser *p, struct toml_value *table)
{
    struct str key;
    size_t at;
    struct toml_value *v = NULL;
    int rc;

    for (;;) {
        at = p->at;
        rc = parse_simple_key(p, &key);
        if (rc < 0)
            return rc;
        skip_blanks(p);
        if (peek(p) != '.')
            break;
        p->at++;
        rc = step_dotted(p, key, at, &table);
        if (rc < 0)
            return rc;
        skip_blanks(p);
    }
    const struct toml_value *before = table_find(table, key);
    if (before)
        return fail_at(p, at, "\"%.*s\" is already set in line %u", STR_ARG(key), before->line);
    if (peek(p) != '=')
        return fail_at(p, p->at, "expected '=' after the key \"%.*s\", found %s", STR_ARG(key),
                       found(p));
    uint32_t line = p->line, column = column_of(p, at);
    p->at++;
    skip_blanks(p);
    rc = parse_value(p, &v);
    if (rc < 0)
        return rc;
    v->key = key;
    v->key_line = line;
    v->key_column = column;
    value_append(table, v);
    return 0;
}

static int parse_array(struct parser *p, struct toml_value *array)
{
    size_t start = p->at;
    uint32_t line = p->line;

    p->at++;
    for (;;) {
        skip_blanks_comments_newlines(p);
        if (peek(p) == ']')
            break;
        if (at_end(p))
            return fail_at(p, p->at, "the array that begins in line %u has no closing ']'", line);
        struct toml_value *v = NULL;
        int rc = parse_value(p, &v);
        if (rc < 0)
            return rc;
        value_append(array, v);
        skip_blanks_comments_newlines(p);
        if (peek(p) == ']')
            break;
        if (peek(p) != ',')
            return fail_at(p, p->at, "expected ',' or ']' in the array, found %s", found(p));
        p->at++;
    }
    p->at++;
    DCHECK(p->at > start);
    return 0;
}

static int parse_inline_table(struct parser *p, struct toml_value *table)
{
    p->at++;
    skip_blanks(p);
    if (peek(p) == '}') {
        p->at++;
        table->origin = TOML_INLINE;
        return 0;
    }
    for (;;) {
        skip_blanks(p);
        int rc = parse_key_value(p, table);
        if (rc < 0)
            return rc;
        skip_blanks(p);
        if (peek(p) == '}')
            break;
        if (peek(p) != ',')
            return fail_at(
                p, p->at, "expected ',' or '}' in the inline table, found %s%s", found(p),
                peek(p) == '\n' || peek(p) == '\r' ? " (an inline table stands on one line)" : "");
        p->at++;
    }
    p->at++;
    table->origin = TOML_INLINE; /* only now: dotted keys inside may extend what they began */
    return 0;
}

static int parse_value(struct parser *p, struct toml_value **ret)
{
    struct toml_value *v = value_new(p, TOML_STRING, p->at);
    int rc;

    if (!v)
        return -ENOMEM;
    if (p->nesting >= MAX_NESTING)
        return fail_at(p, p->at, "arrays and tables are nested deeper than %d", MAX_NESTING);
    p->nesting++;
    switch (peek(p)) {
    case '"':
    case '\'': rc = parse_string(p, true, &v->string); break;
    case '[':
        v->type = TOML_ARRAY;
        v->origin = TOML_INLINE;
        rc = parse_array(p, v);
        break;
    case '{':
        v->type = TOML_TABLE;
        v->origin = TOML_BY_DOTTED_KEY;
        rc = parse_inline_table(p, v);
        break;
    default: rc = parse_scalar(p, v);
    }
    p->nesting--;
    *ret = v;
    return rc;
}

int toml_parse(struct arena *arena, struct str text, struct toml_value **ret,
               struct config_error *ret_error)
{
    struct parser p = { .arena = arena, .text = text, .line = 1, .error = ret_error };
    struct toml_value *root, *table;

    *ret_error = (struct config_error){ 0 };
    int rc = check_encoding(&p);
    if (rc < 0)
        return rc;
    p.at = str_has_prefix(text, STR("\xEF\xBB\xBF")) ? 3 : 0; /* a byte order mark is not text */
    p.line = 1;
    p.line_start = p.at;
    root = table = value_new(&p, TOML_TABLE, p.at);
    if (!root)
        return -ENOMEM;
    root->origin = TOML_BY_HEADER;
    for (;;) {
        skip_blanks_comments_newlines(&p);
        if (at_end(&p))
            break;
        if (peek(&p) == '[') {
            rc = parse_header(&p, root, &table);
        } else {
            rc = parse_key_value(&p, table);
            if (rc == 0)
                rc = expect_line_end(&p, "the value");
        }
        if (rc < 0)
            return rc;
    }
    *ret = root;
    return 0;
}
