/*
 * db: database connections that outlive a rollback. Knows the wire and nothing of PHP: it learns
 * what the session of an idle connection is like when the process is frozen, and puts it back to
 * that between two requests, so that the next one finds no variable, transaction, temporary table,
 * lock or user of the last. The client's side (packet numbers, its idea of the session) is memory,
 * and goes back with it.
 *
 * No driver is asked and nothing is recorded: db_learn() compares the session with a fresh one. So
 * it is the same for mysqlnd, libpq, phpredis and clients written in PHP. Whatever is not
 * understood (TLS, compression, an answer out of turn) is a refusal, after which the connection is
 * of no use to anybody and has to be closed.
 *
 *   MySQL, MariaDB  COM_RESET_CONNECTION, COM_INIT_DB, one SET; then user, role and database are
 *                   compared (COM_CHANGE_USER survives a reset)
 *   PostgreSQL      ROLLBACK, DISCARD ALL, set_config() of what was SET; then users are compared
 *   Redis >= 6.2    DISCARD, UNWATCH, CLIENT TRACKING OFF, SELECT, CLIENT SETNAME; then CLIENT INFO
 *                   is compared. Not RESET, which would need the password again
 *
 * One reset is one write and, if nothing is lost, one read: all commands are sent at once, and the
 * last one carries a number that must come back, so that answers to something the request left
 * behind are never taken for ours.
 */
#ifndef SAPID_PHP_DB_DB_H
#define SAPID_PHP_DB_DB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum db_protocol { DB_UNKNOWN, DB_MYSQL, DB_PGSQL, DB_REDIS };
const char *db_protocol_name(enum db_protocol p);

/* What db_learn() found. Plain memory, which a rollback may put back. */
struct db_session {
    enum db_protocol protocol;
    struct buf request; /* sent by db_reset(); the number stands at nonce_at */
    size_t nonce_at;
    struct buf identity; /* what the last query has to answer, besides the number */
    bool selects;        /* MySQL: there is a database to go back to */
    bool settings;       /* there are session settings to put back */
};

enum { DB_NONCE_BYTES = 16, DB_WHY_BYTES = 256 };

/* Learns the session of a connected, idle socket, by resetting it once: 0, or -errno and the reason
 * in `why` (DB_WHY_BYTES). Then nothing is left to free, and the connection is in doubt.
 *   -EBUSY     not idle, or in a transaction
 *   -ENOTSUP   something of the boot could not be put back later: prepared statements, temporary
 *              tables, locks, subscriptions
 *   -EPROTO    does not speak that protocol in the clear
 *   -ETIMEDOUT no answer in time, and what the system says of a broken connection */
MUST_USE int db_learn(int fd, enum db_protocol p, struct db_session *ret, char *why);
/* Puts the session back to what was learned; also of another connection of the same user, database
 * and server. 0, or as above: then the connection must not be used again. */
MUST_USE int db_reset(int fd, const struct db_session *s, char *why);
void db_session_fini(struct db_session *s);

/* Nothing to read, nothing lost: 0. -EBUSY: something waits to be read. -EPIPE: closed. */
MUST_USE int db_idle(int fd);

/* Which socket this is, and what it has carried so far. Only TCP counts: equal answers of before
 * and now mean that nobody has used it meanwhile and that it is open, so that the session is what
 * it was. */
struct db_carried {
    uint64_t socket; /* its number, never given twice; 0: it is none */
    bool counted;
    uint64_t sent, received;
};
struct db_carried db_carried(int fd);
bool db_is_untouched(const struct db_carried *before, const struct db_carried *now);

/* Puts a socket in the place of `fd` whose peer has gone: its owner finds the connection lost at
 * its next use. 0 or -errno. */
MUST_USE int db_sever(int fd);

#endif
