/* What the files of db share: a socket read and written in time, and the three protocols. */
#ifndef SAPID_PHP_DB_DB_INT_H
#define SAPID_PHP_DB_DB_INT_H

#include <stdint.h>

#include "php/db/db.h"

/* One exchange. Functions return 0 or -errno; the first failure is told to `why`. */
struct db_wire {
    int fd;
    struct buf in, out;
    uint64_t deadline_ns;
    char *why;
};

void db_wire_init(struct db_wire *w, int fd, char *why);
void db_wire_fini(struct db_wire *w);
/* Says why and returns `error`. */
MUST_USE int db_fail(struct db_wire *w, int error, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Sends `out` and empties it. */
MUST_USE int db_flush(struct db_wire *w);
/* At least `n` unread bytes are in `in`. */
MUST_USE int db_want(struct db_wire *w, size_t n);
/* Nothing may be left to read. */
MUST_USE int db_end(struct db_wire *w);

/* A field of a row; p NULL: SQL's NULL. */
enum { DB_FIELDS_MAX = 8 };
struct db_row {
    struct str field[DB_FIELDS_MAX];
    size_t n;
};
typedef int db_each_row(void *context, const struct db_row *row);
/* The rows of the next answer, each told to `each`. */
typedef int db_read_rows(struct db_wire *w, db_each_row *each, void *context);

/* The fields of a row but the first, so that two of them can be compared. */
MUST_USE int db_row_identity(const struct db_row *row, struct buf *ret);
/* The last answer to a session's request: the number, and who was learned. */
MUST_USE int db_check_identity(struct db_wire *w, const struct db_session *s, struct str nonce,
                               db_read_rows *read_rows);

int mysql_learn(struct db_wire *w, struct db_session *s);
int mysql_answers(struct db_wire *w, const struct db_session *s, struct str nonce);
int pgsql_learn(struct db_wire *w, struct db_session *s);
int pgsql_answers(struct db_wire *w, const struct db_session *s, struct str nonce);
int redis_learn(struct db_wire *w, struct db_session *s);
int redis_answers(struct db_wire *w, const struct db_session *s, struct str nonce);
/* Sends the session's request and checks the answers. */
MUST_USE int db_exchange(struct db_wire *w, const struct db_session *s);

#endif
