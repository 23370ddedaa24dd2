/*
 * Redis, RESP2 and RESP3. Not RESET: it would leave the connection without its user, whose password
 * nobody here knows. Instead every state that a connection can be in is ended by its own command,
 * and CLIENT INFO (6.2) must then say what it said at the freeze; a mode that none of them ends
 * (subscribed, MONITOR, another user, REPLY OFF) answers otherwise or not at all.
 */
#include "php/db/db_int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { BULK_MAX = 64 << 10, LINE_MAX_BYTES = 4096, WORDS_MAX = 4 };

static int add_command(struct buf *b, const struct str *words, size_t n)
{
    int rc = buf_printf(b, "*%zu\r\n", n);

    for (size_t i = 0; i < n && rc == 0; i++) {
        rc = buf_printf(b, "$%zu\r\n", words[i].n);
        if (rc == 0)
            rc = buf_append(b, words[i].p, words[i].n);
        if (rc == 0)
            rc = buf_append(b, "\r\n", 2);
    }
    return rc;
}

struct reply {
    char type; /* + - : $ = */
    struct str text;
    size_t bytes; /* on the wire */
};

static int line_length(struct db_wire *w, size_t *ret)
{
    for (size_t n = 2;; n++) {
        if (n > LINE_MAX_BYTES)
            return db_fail(w, -EPROTO, "not an answer of Redis in the clear (TLS?)");
        int rc = db_want(w, n);
        if (rc < 0)
            return rc;
        struct str s = buf_view(&w->in);
        if (s.p[n - 2] == '\r' && s.p[n - 1] == '\n') {
            *ret = n - 2;
            return 0;
        }
    }
}

/* The text is valid until `done`. */
static int read_reply(struct db_wire *w, struct reply *ret)
{
    uint64_t bulk;
    size_t n = 0;
    int rc = db_want(w, 1);

    if (rc < 0)
        return rc;
    char type = buf_view(&w->in).p[0];
    if (!strchr("+-:$=", type))
        return db_fail(w, -EPROTO, "not an answer of Redis in the clear (TLS? subscribed?)");
    if ((rc = line_length(w, &n)) < 0)
        return rc;
    struct str line = str_take(str_skip(buf_view(&w->in), 1), n - 1);
    if (type != '$' && type != '=') {
        *ret = (struct reply){ type, line, n + 2 };
        return 0;
    }
    if (!str_to_u64(line, BULK_MAX, &bulk))
        return db_fail(w, -EPROTO, "an answer of %.*s bytes", STR_ARG(str_take(line, 20)));
    if ((rc = db_want(w, n + 2 + bulk + 2)) < 0)
        return rc;
    *ret = (struct reply){ type, str_take(str_skip(buf_view(&w->in), n + 2), bulk), n + 4 + bulk };
    return 0;
}

static void done(struct db_wire *w, const struct reply *r)
{
    buf_consume(&w->in, r->bytes);
}

static int expect_ok(struct db_wire *w, const char *what, bool may_fail)
{
    struct reply r;
    int rc = read_reply(w, &r);

    if (rc < 0)
        return rc;
    if (!(r.type == '+' && str_eq(r.text, STR("OK"))) && !(may_fail && r.type == '-'))
        return db_fail(w, -EPROTO, "%s was answered %c%.*s", what, r.type,
                       STR_ARG(str_take(r.text, 120)));
    done(w, &r);
    return 0;
}

/* --- what the session is like ----------------------------------------------------------------- */

/* Those of CLIENT INFO that are the session's, and neither counters nor sizes. */
static bool is_state(struct str key)
{
    static const char *const keys[] = { "name", "flags",    "db",     "sub",  "psub",
                                        "ssub", "multi",    "watch",  "user", "redir",
                                        "resp", "lib-name", "lib-ver" };

    for (size_t i = 0; i < ARRAY_LENGTH(keys); i++)
        if (str_eq(key, str_from(keys[i])))
            return true;
    return false;
}

static int note_info(struct str text, struct buf *ret)
{
    int rc = 0;

    while (text.n && rc == 0) {
        struct str word = str_cut(&text, ' '), value = word;
        struct str key = str_cut(&value, '=');
        if (value.n && value.p[value.n - 1] == '\n')
            value.n--;
        if (is_state(key))
            rc = buf_printf(ret, "%.*s=%.*s ", STR_ARG(key), STR_ARG(value));
    }
    return rc;
}

static struct str find(struct str info, const char *key)
{
    while (info.n) {
        struct str value = str_cut(&info, ' ');
        if (str_eq(str_cut(&value, '='), str_from(key)))
            return value;
    }
    return STR_NONE;
}

static int compose(struct db_session *s)
{
    struct str info = buf_view(&s->identity);
    const struct {
        struct str words[WORDS_MAX];
        size_t n;
    } commands[] = {
        { { STR("DISCARD") }, 1 },
        { { STR("UNWATCH") }, 1 },
        { { STR("CLIENT"), STR("TRACKING"), STR("OFF") }, 3 },
        { { STR("SELECT"), find(info, "db") }, 2 },
        { { STR("CLIENT"), STR("SETNAME"), find(info, "name") }, 3 },
        { { STR("CLIENT"), STR("INFO") }, 2 },
    };
    int rc = 0;

    for (size_t i = 0; i < ARRAY_LENGTH(commands) && rc == 0; i++)
        rc = add_command(&s->request, commands[i].words, commands[i].n);
    struct str echo[2] = { STR("ECHO"), STR("................") };
    if (rc == 0)
        rc = add_command(&s->request, echo, 2);
    s->nonce_at = buf_length(&s->request) - 2 - DB_NONCE_BYTES;
    return rc;
}

static int compare_info(struct db_wire *w, const struct db_session *s)
{
    struct buf found;
    struct reply r;
    int rc = read_reply(w, &r);

    if (rc < 0)
        return rc;
    buf_init(&found, 0);
    if (r.type != '$' && r.type != '=')
        rc = db_fail(w, -EPROTO, "CLIENT INFO was answered %.*s", STR_ARG(str_take(r.text, 120)));
    /* A verbatim string of RESP3 begins with "txt:". */
    else if (note_info(str_skip(r.text, r.type == '=' ? 4 : 0), &found) < 0)
        rc = db_fail(w, -ENOMEM, "no memory");
    else if (!str_eq(buf_view(&found), buf_view(&s->identity)))
        rc = db_fail(w, -EPROTO, "the session is another one: %.*s, at the freeze %.*s",
                     STR_ARG(str_take(buf_view(&found), 90)),
                     STR_ARG(str_take(buf_view(&s->identity), 90)));
    if (rc == 0)
        done(w, &r);
    buf_fini(&found);
    return rc;
}

int redis_answers(struct db_wire *w, const struct db_session *s, struct str nonce)
{
    struct reply r;
    int rc = expect_ok(w, "DISCARD", true);

    if (rc == 0)
        rc = expect_ok(w, "UNWATCH", false);
    if (rc == 0)
        rc = expect_ok(w, "CLIENT TRACKING OFF", false);
    if (rc == 0)
        rc = expect_ok(w, "SELECT", false);
    if (rc == 0)
        rc = expect_ok(w, "CLIENT SETNAME", false);
    if (rc == 0)
        rc = compare_info(w, s);
    if (rc == 0 && (rc = read_reply(w, &r)) == 0) {
        if (r.type != '$' || !str_eq(r.text, nonce))
            rc = db_fail(w, -EPROTO, "an answer to another question");
        else
            done(w, &r);
    }
    return rc;
}

int redis_learn(struct db_wire *w, struct db_session *s)
{
    const struct str ask[2] = { STR("CLIENT"), STR("INFO") };
    struct reply r;
    int rc = add_command(&w->out, ask, 2);

    if (rc < 0)
        return db_fail(w, rc, "no memory");
    if ((rc = db_flush(w)) < 0 || (rc = read_reply(w, &r)) < 0)
        return rc;
    if (r.type == '-' || r.type == '+' || r.type == ':')
        return db_fail(w, -EPROTO, "CLIENT INFO (Redis 6.2) was answered %.*s",
                       STR_ARG(str_take(r.text, 120)));
    rc = note_info(str_skip(r.text, r.type == '=' ? 4 : 0), &s->identity);
    done(w, &r);
    if (rc < 0)
        return db_fail(w, rc, "no memory");
    struct str info = buf_view(&s->identity);
    if (!find(info, "db").n)
        return db_fail(w, -EPROTO, "not what CLIENT INFO answers");
    if (!str_eq(find(info, "multi"), STR("-1")))
        return db_fail(w, -EBUSY, "a transaction (MULTI) is open");
    if (!str_eq(find(info, "sub"), STR("0")) || !str_eq(find(info, "psub"), STR("0")))
        return db_fail(w, -ENOTSUP, "the boot has subscribed to channels");
    if (compose(s) < 0)
        return db_fail(w, -ENOMEM, "no memory");
    return db_exchange(w, s);
}
