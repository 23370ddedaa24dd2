/*
 * The PostgreSQL protocol, version 3, simple queries only: a type byte, a length, a body; every
 * query ends with ReadyForQuery, which says whether a transaction is open. A Sync goes before
 * everything, because behind an error in the extended protocol the server drops all up to there.
 */
#include "php/db/db_int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_MAX = 1 << 20 };

struct message {
    char type;
    struct str body;
};

static int add_message(struct buf *b, char type, struct str text)
{
    size_t n = text.n + (type == 'Q') + 4;
    char head[5] = { type, (char)(n >> 24), (char)(n >> 16), (char)(n >> 8), (char)n };
    int rc = buf_append(b, head, sizeof(head));

    if (rc == 0)
        rc = buf_append(b, text.p, text.n);
    return rc < 0 || type != 'Q' ? rc : buf_append(b, "", 1);
}

/* The next message that belongs to a query: not notices, settings told, notifications. */
static int next(struct db_wire *w, struct message *m)
{
    int rc;

    for (;;) {
        if (m->body.p)
            buf_consume(&w->in, m->body.n);
        m->body = STR_NONE;
        if ((rc = db_want(w, 5)) < 0)
            return rc;
        const uint8_t *h = (const uint8_t *)buf_view(&w->in).p;
        size_t n = (size_t)h[1] << 24 | (size_t)h[2] << 16 | (size_t)h[3] << 8 | h[4];
        m->type = (char)h[0];
        if (n < 4 || n > MESSAGE_MAX || !strchr("ACDEGHINRSTVWZcdnst123", m->type))
            return db_fail(w, -EPROTO, "not an answer of PostgreSQL in the clear (TLS?)");
        buf_consume(&w->in, 5);
        if ((rc = db_want(w, n - 4)) < 0)
            return rc;
        m->body = str_take(buf_view(&w->in), n - 4);
        if (m->type != 'N' && m->type != 'S' && m->type != 'A')
            return 0;
    }
}

static int error_message(struct db_wire *w, struct str body)
{
    while (body.n && body.p[0]) {
        struct str field = str_cut(&body, '\0');
        if (field.p[0] == 'M')
            return db_fail(w, -EPROTO, "%.*s", STR_ARG(str_take(str_skip(field, 1), 160)));
    }
    return db_fail(w, -EPROTO, "an error without a text");
}

static int expect(struct db_wire *w, struct message *m, char type, const char *what)
{
    int rc = next(w, m);

    if (rc < 0)
        return rc;
    if (m->type == 'E')
        return error_message(w, m->body);
    if (m->type != type)
        return db_fail(w, -EPROTO, "not the answer to %s, but to something before it", what);
    return 0;
}

static int expect_ready(struct db_wire *w, struct message *m, const char *what, bool idle)
{
    int rc = expect(w, m, 'Z', what);

    if (rc == 0 && idle && !str_eq(m->body, STR("I")))
        rc = db_fail(w, -EBUSY, "a transaction is open");
    if (rc == 0) {
        buf_consume(&w->in, m->body.n);
        *m = (struct message){ 0 };
    }
    return rc;
}

static int expect_done(struct db_wire *w, const char *tag)
{
    struct message m = { 0 };
    int rc = expect(w, &m, 'C', tag);

    if (rc == 0 && !str_eq(str_take(m.body, strlen(tag)), str_from(tag)))
        rc = db_fail(w, -EPROTO, "not the answer to %s, but to something before it", tag);
    return rc < 0 ? rc : expect_ready(w, &m, tag, true);
}

static uint32_t number(const char *p, size_t bytes)
{
    uint32_t n = 0;

    for (size_t i = 0; i < bytes; i++)
        n = n << 8 | (uint8_t)p[i];
    return n;
}

static int parse_row(struct str body, struct db_row *ret)
{
    if (body.n < 2 || number(body.p, 2) > DB_FIELDS_MAX)
        return -EPROTO;
    ret->n = number(body.p, 2);
    body = str_skip(body, 2);
    for (size_t i = 0; i < ret->n; i++) {
        if (body.n < 4)
            return -EPROTO;
        uint32_t n = number(body.p, 4);
        body = str_skip(body, 4);
        ret->field[i] = STR_NONE;
        if (n == UINT32_MAX)
            continue;
        if (n > body.n)
            return -EPROTO;
        ret->field[i] = str_take(body, n);
        body = str_skip(body, n);
    }
    return body.n ? -EPROTO : 0;
}

static int read_rows(struct db_wire *w, db_each_row *each, void *context)
{
    struct message m = { 0 };
    struct db_row row;
    int rc = expect(w, &m, 'T', "a SELECT");

    while (rc == 0 && (rc = next(w, &m)) == 0 && m.type == 'D') {
        rc = parse_row(m.body, &row);
        if (rc < 0)
            return db_fail(w, rc, "not a row");
        rc = each(context, &row);
        if (rc < 0)
            return db_fail(w, rc, "no memory");
    }
    if (rc == 0 && m.type == 'E')
        return error_message(w, m.body);
    if (rc == 0 && m.type != 'C')
        return db_fail(w, -EPROTO, "a message of type %c among rows", m.type);
    return rc < 0 ? rc : expect_ready(w, &m, "a SELECT", true);
}

static int query(struct db_wire *w, const char *sql, db_each_row *each, void *context)
{
    int rc = add_message(&w->out, 'Q', str_from(sql));

    if (rc < 0)
        return db_fail(w, rc, "no memory");
    rc = db_flush(w);
    return rc < 0 ? rc : read_rows(w, each, context);
}

/* --- what the session is like ----------------------------------------------------------------- */

static const char lost_sql[] =
    "SELECT (SELECT count(*) FROM pg_prepared_statements),(SELECT count(*) FROM pg_cursors),"
    "(SELECT count(*) FROM pg_listening_channels()),"
    "(SELECT count(*) FROM pg_locks WHERE locktype='advisory' AND pid=pg_backend_pid()),"
    "(SELECT count(*) FROM pg_class WHERE relnamespace=pg_my_temp_schema())";
static const char settings_sql[] =
    "SELECT name,setting FROM pg_settings WHERE source='session' ORDER BY name";
static const char identity_sql[] =
    "SELECT '................',session_user,current_user,current_database()";

struct lost {
    const char *what;
};

static int note_lost(void *context, const struct db_row *row)
{
    static const char *const names[] = { "prepared statements", "cursors", "LISTEN channels",
                                         "advisory locks", "temporary tables" };
    struct lost *l = context;

    if (row->n != ARRAY_LENGTH(names))
        return -EPROTO;
    for (size_t i = 0; i < row->n; i++)
        if (!str_eq(row->field[i], STR("0")))
            l->what = names[i];
    return 0;
}

static int add_quoted(struct buf *sql, struct str text)
{
    /* E'': the same whatever standard_conforming_strings says. */
    int rc = buf_append(sql, "E'", 2);

    for (size_t i = 0; i < text.n && rc == 0; i++) {
        if (text.p[i] == '\'' || text.p[i] == '\\')
            rc = buf_append(sql, text.p + i, 1);
        if (rc == 0)
            rc = buf_append(sql, text.p + i, 1);
    }
    return rc < 0 ? rc : buf_append(sql, "'", 1);
}

static int note_setting(void *context, const struct db_row *row)
{
    struct buf *sql = context;

    if (row->n != 2 || !row->field[1].p)
        return 0;
    int rc = buf_printf(sql, "%sset_config(", buf_length(sql) ? "," : "SELECT ");
    if (rc == 0)
        rc = add_quoted(sql, row->field[0]);
    if (rc == 0)
        rc = buf_append(sql, ",", 1);
    if (rc == 0)
        rc = add_quoted(sql, row->field[1]);
    return rc < 0 ? rc : buf_append(sql, ",false)", 7);
}

static int note_identity(void *context, const struct db_row *row)
{
    return row->n == 4 ? db_row_identity(row, context) : -EPROTO;
}

static int ignore_row(void *context, const struct db_row *row)
{
    (void)context;
    (void)row;
    return 0;
}

static int compose(struct db_session *s, struct str settings)
{
    int rc = add_message(&s->request, 'S', STR(""));

    s->settings = settings.n > 0;
    if (rc == 0)
        rc = add_message(&s->request, 'Q', STR("ROLLBACK"));
    if (rc == 0)
        rc = add_message(&s->request, 'Q', STR("DISCARD ALL"));
    if (rc == 0 && s->settings)
        rc = add_message(&s->request, 'Q', settings);
    s->nonce_at = buf_length(&s->request) + 5 + strlen("SELECT '");
    return rc < 0 ? rc : add_message(&s->request, 'Q', str_from(identity_sql));
}

/* set_config() has as many columns as there are settings, more than a row of ours holds. */
static int skip_settings(struct db_wire *w)
{
    struct message m = { 0 };
    int rc = expect(w, &m, 'T', "set_config()");

    if (rc == 0)
        rc = expect(w, &m, 'D', "set_config()");
    if (rc == 0)
        rc = expect(w, &m, 'C', "set_config()");
    return rc < 0 ? rc : expect_ready(w, &m, "set_config()", true);
}

int pgsql_answers(struct db_wire *w, const struct db_session *s, struct str nonce)
{
    struct message m = { 0 };
    int rc = expect_ready(w, &m, "Sync", false);

    if (rc == 0)
        rc = expect_done(w, "ROLLBACK");
    if (rc == 0)
        rc = expect_done(w, "DISCARD ALL");
    if (rc == 0 && s->settings)
        rc = skip_settings(w);
    return rc < 0 ? rc : db_check_identity(w, s, nonce, read_rows);
}

/* The same settings, in the same words, must be there afterwards. */
static int check_settings(struct db_wire *w, struct str wanted)
{
    struct buf again;

    buf_init(&again, 0);
    int rc = query(w, settings_sql, note_setting, &again);
    if (rc == 0 && !str_eq(buf_view(&again), wanted))
        rc = db_fail(w, -ENOTSUP, "the session's settings cannot be put back: %.*s, not %.*s",
                     STR_ARG(str_take(buf_view(&again), 90)), STR_ARG(str_take(wanted, 90)));
    buf_fini(&again);
    return rc;
}

int pgsql_learn(struct db_wire *w, struct db_session *s)
{
    struct lost lost = { NULL };
    struct buf settings;
    /* A query within an open transaction would be answered; ReadyForQuery tells. */
    int rc = query(w, "SELECT 1", ignore_row, NULL);

    if (rc == 0)
        rc = query(w, lost_sql, note_lost, &lost);
    if (rc == 0 && lost.what)
        rc = db_fail(w, -ENOTSUP, "the boot has left %s, which a reset loses", lost.what);
    if (rc < 0)
        return rc;
    buf_init(&settings, 0);
    rc = query(w, identity_sql, note_identity, &s->identity);
    if (rc == 0)
        rc = query(w, settings_sql, note_setting, &settings);
    if (rc == 0 && compose(s, buf_view(&settings)) < 0)
        rc = db_fail(w, -ENOMEM, "no memory");
    if (rc == 0)
        rc = db_exchange(w, s);
    if (rc == 0)
        rc = check_settings(w, buf_view(&settings));
    buf_fini(&settings);
    return rc;
}
