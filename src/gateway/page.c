/*
 * Text of status pages: escaped for JSON, HTML and XML, and JSON with its commas. What clients sent
 * stands on these pages, so every byte that is not plain ASCII is written as an escape.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "gateway/admin.h"

void page_put(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    char *text;

    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    (void)!buf_append(b, text, (size_t)n);
    free(text);
}

void page_put_json(struct buf *b, struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '"' || c == '\\')
            page_put(b, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            page_put(b, "\\u%04x", c);
        else
            (void)!buf_append(b, s.p + i, 1);
    }
}

void page_put_html(struct buf *b, struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c < 0x20 || c >= 0x7f)
            page_put(b, "&#%u;", c < 0x20 ? ' ' : c); /* XML has no other control characters */
        else if (strchr("<>&\"'", c))
            page_put(b, "&#%u;", c);
        else
            (void)!buf_append(b, s.p + i, 1);
    }
}

void page_put_plain(struct buf *b, struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        page_put(b, "%c", s.p[i] >= 0x20 && s.p[i] < 0x7f ? s.p[i] : '?');
}

/* --- JSON ------------------------------------------------------------------------------------- */

static void begin_value(struct json *j, const char *key)
{
    if (!j->first)
        page_put(j->out, ",");
    j->first = false;
    if (key)
        page_put(j->out, "\"%s\":", key);
}

void json_open(struct json *j, const char *key, char bracket)
{
    if (buf_length(j->out))
        begin_value(j, key);
    page_put(j->out, "%c", bracket);
    j->first = true;
}

void json_close(struct json *j, char bracket)
{
    page_put(j->out, "%c", bracket);
    j->first = false;
}

void json_number(struct json *j, const char *key, uint64_t n)
{
    begin_value(j, key);
    page_put(j->out, "%" PRIu64, n);
}

void json_real(struct json *j, const char *key, double n)
{
    begin_value(j, key);
    page_put(j->out, "%.3f", n);
}

void json_bool(struct json *j, const char *key, bool b)
{
    begin_value(j, key);
    page_put(j->out, b ? "true" : "false");
}

void json_text(struct json *j, const char *key, struct str s)
{
    begin_value(j, key);
    page_put(j->out, "\"");
    page_put_json(j->out, s);
    page_put(j->out, "\"");
}
