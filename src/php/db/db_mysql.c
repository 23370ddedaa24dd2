/*
 * The MySQL protocol, client side, as far as a session needs it: packets with a number that starts
 * again with each command, OK, ERR, and rows as text. mysql.com's and MariaDB's documents of the
 * client/server protocol agree here.
 *
 * COM_RESET_CONNECTION rolls back, unlocks, drops temporary tables, forgets variables and prepared
 * statements; it keeps the user (COM_CHANGE_USER), which is why that is compared, and the database.
 */
#include "php/db/db_int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { COM_INIT_DB = 0x02, COM_QUERY = 0x03, COM_PING = 0x0e, COM_RESET_CONNECTION = 0x1f };
enum { STATUS_IN_TRANS = 0x0001, STATUS_MORE_RESULTS = 0x0008 };
enum { PACKET_MAX = 0xffffff, COLUMNS_MAX = DB_FIELDS_MAX };

struct packet {
    struct str body;
    uint8_t number; /* expected next */
};

static int add_command(struct buf *b, uint8_t command, struct str text)
{
    size_t n = text.n + 1;
    char head[5] = { (char)n, (char)(n >> 8), (char)(n >> 16), 0, (char)command };

    CHECK(n < PACKET_MAX);
    int rc = buf_append(b, head, sizeof(head));
    return rc < 0 ? rc : buf_append(b, text.p, text.n);
}

/* The next packet; its body is valid until the following one. */
static int next(struct db_wire *w, struct packet *p)
{
    int rc;

    if (p->body.p)
        buf_consume(&w->in, p->body.n);
    p->body = STR_NONE;
    if ((rc = db_want(w, 4)) < 0)
        return rc;
    const uint8_t *h = (const uint8_t *)buf_view(&w->in).p;
    size_t n = h[0] | (size_t)h[1] << 8 | (size_t)h[2] << 16;
    if (h[3] != p->number || n == 0 || n == PACKET_MAX)
        return db_fail(w, -EPROTO, "not an answer of MySQL in the clear (TLS or compression?)");
    p->number++;
    buf_consume(&w->in, 4);
    if ((rc = db_want(w, n)) < 0)
        return rc;
    p->body = str_take(buf_view(&w->in), n);
    return 0;
}

static void done(struct db_wire *w, struct packet *p)
{
    buf_consume(&w->in, p->body.n);
    *p = (struct packet){ 0 };
}

static int integer(struct str *s, uint64_t *ret)
{
    const uint8_t *p = (const uint8_t *)s->p;

    if (!s->n)
        return -EPROTO;
    size_t bytes = p[0] < 0xfb ? 0 : p[0] == 0xfc ? 2 : p[0] == 0xfd ? 3 : p[0] == 0xfe ? 8 : 9;
    if (bytes == 9 || s->n < bytes + 1)
        return -EPROTO;
    *ret = bytes ? 0 : p[0];
    for (size_t i = bytes; i > 0; i--)
        *ret = *ret << 8 | p[i];
    *s = str_skip(*s, bytes + 1);
    return 0;
}

static int error_packet(struct db_wire *w, struct str body)
{
    /* 0xff, code, '#' and SQLSTATE, text */
    struct str text = str_skip(body, body.n > 9 && body.p[3] == '#' ? 9 : 3);

    return db_fail(w, -EPROTO, "%.*s", (int)(text.n < 160 ? text.n : 160), text.p);
}

static int expect_ok(struct db_wire *w, const char *what, uint16_t *ret_status)
{
    struct packet p = { .number = 1 };
    uint64_t ignored;
    int rc = next(w, &p);

    if (rc < 0)
        return rc;
    if ((uint8_t)p.body.p[0] == 0xff)
        return error_packet(w, p.body);
    struct str rest = str_skip(p.body, 1);
    if (p.body.p[0] != 0 || integer(&rest, &ignored) < 0 || integer(&rest, &ignored) < 0 ||
        rest.n < 2)
        return db_fail(w, -EPROTO, "not the answer to %s, but to something before it", what);
    uint16_t status = (uint16_t)((uint8_t)rest.p[0] | (uint8_t)rest.p[1] << 8);
    done(w, &p);
    if (status & STATUS_MORE_RESULTS)
        return db_fail(w, -EPROTO, "more results than questions");
    if (ret_status)
        *ret_status = status;
    return 0;
}

static int parse_row(struct str body, size_t columns, struct db_row *ret)
{
    uint64_t n;

    ret->n = columns;
    for (size_t i = 0; i < columns; i++) {
        if (body.n && (uint8_t)body.p[0] == 0xfb) {
            ret->field[i] = STR_NONE;
            body = str_skip(body, 1);
            continue;
        }
        if (integer(&body, &n) < 0 || n > body.n)
            return -EPROTO;
        ret->field[i] = (struct str){ body.p, (size_t)n };
        body = str_skip(body, (size_t)n);
    }
    return body.n ? -EPROTO : 0;
}

static int column_heads(struct db_wire *w, struct packet *p, uint64_t *ret_columns)
{
    int rc = next(w, p);

    if (rc < 0)
        return rc;
    struct str head = p->body;
    if ((uint8_t)head.p[0] == 0xff)
        return error_packet(w, head);
    if (integer(&head, ret_columns) < 0 || head.n || *ret_columns == 0 ||
        *ret_columns > COLUMNS_MAX)
        return db_fail(w, -EPROTO, "not the rows that were asked for");
    for (uint64_t i = 0; i < *ret_columns; i++)
        if ((rc = next(w, p)) < 0)
            return rc;
    return 0;
}

/* A result with at least one row. */
static int read_rows(struct db_wire *w, db_each_row *each, void *context)
{
    struct packet p = { .number = 1 };
    struct db_row row;
    uint64_t columns;
    bool first = true;
    int rc = column_heads(w, &p, &columns);

    while (rc == 0 && (rc = next(w, &p)) == 0) {
        bool end = (uint8_t)p.body.p[0] == 0xfe;
        /* Behind the columns: not with CLIENT_DEPRECATE_EOF. */
        if (end && first && p.body.n < 9) {
            first = false;
            continue;
        }
        first = false;
        if (end) {
            done(w, &p);
            return 0;
        }
        if (parse_row(p.body, columns, &row) < 0)
            return db_fail(w, -EPROTO, "not a row of %u columns", (unsigned)columns);
        rc = each(context, &row);
        if (rc < 0)
            return db_fail(w, rc, "no memory");
    }
    return rc;
}

static int query(struct db_wire *w, const char *sql, db_each_row *each, void *context)
{
    int rc = add_command(&w->out, COM_QUERY, str_from(sql));

    if (rc < 0)
        return db_fail(w, rc, "no memory");
    rc = db_flush(w);
    return rc < 0 ? rc : read_rows(w, each, context);
}

/* --- what the session is like ----------------------------------------------------------------- */

/* Counters and clocks, what only the server may set, and what is written down with the identity. */
static const char *const passing[] = {
    "error_count",   "warning_count", "last_insert_id",   "identity",          "insert_id",
    "timestamp",     "rand_seed1",    "rand_seed2",       "pseudo_thread_id",  "in_transaction",
    "last_gtid",     "gtid_seq_no",   "server_id",        "pseudo_slave_mode", "proxy_user",
    "external_user", "statement_id",  "skip_replication",
};

static bool is_passing(struct str name)
{
    for (size_t i = 0; i < ARRAY_LENGTH(passing); i++)
        if (str_eq(name, str_from(passing[i])))
            return true;
    return str_has_prefix(name, STR("gtid_")) || str_has_prefix(name, STR("innodb_")) ||
           str_has_prefix(name, STR("wsrep_"));
}

/* "name\0value\0" for each variable, in the server's order. */
static int note_variable(void *context, const struct db_row *row)
{
    struct buf *b = context;
    int rc = 0;

    if (row->n < 2 || is_passing(row->field[0]))
        return 0;
    for (size_t i = 0; i < 2 && rc == 0; i++) {
        rc = buf_append(b, row->field[i].p, row->field[i].n);
        if (rc == 0)
            rc = buf_append(b, "", 1);
    }
    return rc;
}

static bool is_number(struct str s)
{
    bool digits = false;

    for (size_t i = s.n && s.p[0] == '-'; i < s.n; i++) {
        digits = digits || (s.p[i] >= '0' && s.p[i] <= '9');
        if (!(s.p[i] >= '0' && s.p[i] <= '9') && s.p[i] != '.')
            return false;
    }
    return digits;
}

static int add_assignment(struct buf *sql, struct str name, struct str value)
{
    int rc = buf_printf(sql, "%s%.*s=", buf_length(sql) ? "," : "SET SESSION ", STR_ARG(name));

    if (rc == 0 && is_number(value))
        return buf_append(sql, value.p, value.n);
    if (rc == 0)
        rc = buf_append(sql, "'", 1);
    for (size_t i = 0; i < value.n && rc == 0; i++) {
        /* A backslash is one or an escape, by the sql_mode of the moment; no variable that matters
         * has any, and the check at the end of mysql_learn() would find one. */
        rc = value.p[i] == '\'' ? buf_append(sql, "''", 2) : buf_append(sql, value.p + i, 1);
    }
    return rc < 0 ? rc : buf_append(sql, "'", 1);
}

/* What has to be SET so that variables that read `fresh` read as in `wanted`; one name of them. */
static int differences(struct str wanted, struct str fresh, struct buf *sql, struct str *ret_name)
{
    int rc = 0;

    while (wanted.n && rc == 0) {
        struct str name = str_cut(&wanted, '\0'), value = str_cut(&wanted, '\0');
        struct str other = str_cut(&fresh, '\0'), now = str_cut(&fresh, '\0');
        if (!str_eq(name, other))
            return -EPROTO;
        if (str_eq(value, now))
            continue;
        *ret_name = name;
        if (sql)
            rc = add_assignment(sql, name, value);
    }
    return rc;
}

struct counts {
    long statements, tables;
};

static int note_count(void *context, const struct db_row *row)
{
    struct counts *c = context;
    uint64_t value;

    if (row->n != 2 || !str_to_u64(row->field[1], UINT32_MAX, &value))
        return 0;
    long n = (long)value;
    if (str_eq_nocase(row->field[0], STR("Com_stmt_prepare")) ||
        str_eq_nocase(row->field[0], STR("Com_prepare_sql")))
        c->statements += n;
    else if (str_eq_nocase(row->field[0], STR("Com_stmt_close")) ||
             str_eq_nocase(row->field[0], STR("Com_dealloc_sql")))
        c->statements -= n;
    else if (str_eq_nocase(row->field[0], STR("Com_create_temporary_table")))
        c->tables += n;
    else if (str_eq_nocase(row->field[0], STR("Com_drop_temporary_table")))
        c->tables -= n;
    return 0;
}

static int look_for_what_a_reset_loses(struct db_wire *w)
{
    struct counts c = { 0 };
    uint16_t status = 0;
    int rc = add_command(&w->out, COM_PING, STR(""));

    if (rc == 0)
        rc = db_flush(w);
    if (rc == 0)
        rc = expect_ok(w, "COM_PING", &status);
    if (rc == 0 && (status & STATUS_IN_TRANS))
        return db_fail(w, -EBUSY, "a transaction is open");
    if (rc == 0)
        rc = query(w,
                   "SHOW SESSION STATUS WHERE Variable_name IN ('Com_stmt_prepare',"
                   "'Com_stmt_close','Com_prepare_sql','Com_dealloc_sql',"
                   "'Com_create_temporary_table','Com_drop_temporary_table')",
                   note_count, &c);
    if (rc == 0 && c.statements > 0)
        return db_fail(w, -ENOTSUP, "%ld prepared statements of the boot are open", c.statements);
    if (rc == 0 && c.tables > 0)
        return db_fail(w, -ENOTSUP, "the boot has made a temporary table");
    return rc;
}

/* --- the request ------------------------------------------------------------------------------ */

static const char identity_sql[] =
    "SELECT '................',USER(),CURRENT_USER(),DATABASE(),CURRENT_ROLE()";

struct identity {
    struct buf *text;
    struct buf *database;
    bool has_database;
};

static int note_identity(void *context, const struct db_row *row)
{
    struct identity *i = context;
    int rc = row->n == 5 ? db_row_identity(row, i->text) : -EPROTO;

    if (rc < 0 || !row->field[3].p)
        return rc;
    i->has_database = true;
    return buf_append(i->database, row->field[3].p, row->field[3].n);
}

static int compose(struct db_session *s, struct str database, struct str sets)
{
    int rc = add_command(&s->request, COM_RESET_CONNECTION, STR(""));

    s->selects = database.p != NULL;
    s->settings = sets.n > 0;
    if (rc == 0 && s->selects)
        rc = add_command(&s->request, COM_INIT_DB, database);
    if (rc == 0 && s->settings)
        rc = add_command(&s->request, COM_QUERY, sets);
    s->nonce_at = buf_length(&s->request) + 5 + strlen("SELECT '");
    return rc < 0 ? rc : add_command(&s->request, COM_QUERY, str_from(identity_sql));
}

int mysql_answers(struct db_wire *w, const struct db_session *s, struct str nonce)
{
    int rc = expect_ok(w, "COM_RESET_CONNECTION", NULL);

    if (rc == 0 && s->selects)
        rc = expect_ok(w, "COM_INIT_DB", NULL);
    if (rc == 0 && s->settings)
        rc = expect_ok(w, "SET SESSION", NULL);
    return rc < 0 ? rc : db_check_identity(w, s, nonce, read_rows);
}

static int learn_settings(struct db_wire *w, struct db_session *s, struct buf *wanted,
                          struct buf *fresh, struct buf *sets)
{
    struct buf database;
    struct identity i = { .text = &s->identity, .database = &database };
    struct str name = STR_NONE;

    buf_init(&database, 0);
    int rc = query(w, identity_sql, note_identity, &i);
    if (rc == 0)
        rc = query(w, "SHOW SESSION VARIABLES", note_variable, wanted);
    if (rc == 0 && (rc = add_command(&w->out, COM_RESET_CONNECTION, STR(""))) == 0)
        rc = db_flush(w);
    if (rc == 0)
        rc = expect_ok(w, "COM_RESET_CONNECTION", NULL);
    if (rc == 0)
        rc = query(w, "SHOW SESSION VARIABLES", note_variable, fresh);
    if (rc == 0)
        rc = differences(buf_view(wanted), buf_view(fresh), sets, &name);
    if (rc == 0)
        rc = compose(s, i.has_database ? buf_view(&database) : STR_NONE, buf_view(sets));
    buf_fini(&database);
    return rc < 0 ? db_fail(w, rc, "cannot compare the session's variables") : 0;
}

int mysql_learn(struct db_wire *w, struct db_session *s)
{
    struct buf wanted, fresh, sets;
    struct str name = STR_NONE;
    int rc = look_for_what_a_reset_loses(w);

    if (rc < 0)
        return rc;
    buf_init(&wanted, 0);
    buf_init(&fresh, 0);
    buf_init(&sets, 0);
    rc = learn_settings(w, s, &wanted, &fresh, &sets);
    /* Whether it really brings back what was. */
    if (rc == 0)
        rc = db_exchange(w, s);
    buf_consume(&fresh, buf_length(&fresh));
    if (rc == 0)
        rc = query(w, "SHOW SESSION VARIABLES", note_variable, &fresh);
    if (rc == 0 && (rc = differences(buf_view(&wanted), buf_view(&fresh), NULL, &name)) == 0 &&
        name.p)
        rc = db_fail(w, -ENOTSUP, "the session's variable %.*s cannot be put back", STR_ARG(name));
    buf_fini(&wanted);
    buf_fini(&fresh);
    buf_fini(&sets);
    return rc;
}
