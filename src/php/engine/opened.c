/*
 * Where in PHP the descriptors of a boot were opened: what stands against an image is said with
 * file and line. In a process that is to be frozen, functions that open files and connections are
 * followed: when the lowest free descriptor is another after the call than before, those between
 * are its doing. Nothing of this is left once the image is made, but that JIT code may go on
 * calling `follow`, which then only calls the function.
 */
#include "php/engine/engine_int.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/mem.h"

enum { FOLLOWED_MAX = 64, FDS_MAX = 1024 };

static const char *const functions[] = {
    "fopen",
    "tmpfile",
    "opendir",
    "dir",
    "popen",
    "proc_open",
    "fsockopen",
    "pfsockopen",
    "gzopen",
    "socket_create",
    "socket_accept",
    "pg_connect",
    "pg_pconnect",
    "mysqli_connect",
    "mysqli_real_connect",
    "curl_exec",
    "curl_multi_exec",
    "dba_open",
    "dba_popen",
    "ftp_connect",
    "ftp_ssl_connect",
    "ldap_bind",
    "inotify_init",
    "odbc_connect",
    "bzopen",
    "imap_open",
    "sem_get",
    "shmop_open",
    "openlog",
    "syslog",
    "stream_socket_client",
    "stream_socket_server",
    "stream_socket_pair",
    "stream_socket_accept",
    "socket_create_pair",
    "socket_create_listen",
};
static const struct {
    const char *class, *method;
} methods[] = {
    { "pdo", "__construct" },
    { "mysqli", "__construct" },
    { "mysqli", "connect" },
    { "mysqli", "real_connect" },
    { "redis", "connect" },
    { "redis", "pconnect" },
    { "redis", "open" },
    { "redis", "popen" },
    { "rediscluster", "__construct" },
    { "memcached", "get" },
    { "sqlite3", "__construct" },
    { "sqlite3", "open" },
    { "splfileobject", "__construct" },
    { "spltempfileobject", "__construct" },
    { "directoryiterator", "__construct" },
    { "soapclient", "__dorequest" },
};

static struct {
    struct {
        zend_function *function;
        const zend_class_entry *scope;
        const zend_string *name;
        zif_handler handler;
    } of[FOLLOWED_MAX];
    uint32_t n;
    bool on;
    struct {
        char *file;
        uint32_t line;
    } at[FDS_MAX];
} followed;

/* A class that inherits a method has a copy of it: by scope and name, not by address. */
static zif_handler handler_of(const zend_function *f)
{
    for (uint32_t i = 0; i < followed.n; i++)
        if (followed.of[i].scope == f->common.scope &&
            zend_string_equals(followed.of[i].name, f->common.function_name))
            return followed.of[i].handler;
    CHECKF(false, "%s is not followed", ZSTR_VAL(f->common.function_name));
    return NULL;
}

static int lowest_free(void)
{
    int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);

    if (fd >= 0)
        close(fd);
    return fd;
}

static void note(int fd)
{
    if (fd >= FDS_MAX)
        return;
    mem_free(followed.at[fd].file);
    followed.at[fd].file = mem_strdup(zend_get_executed_filename());
    followed.at[fd].line = zend_get_executed_lineno();
}

static ZEND_NAMED_FUNCTION(follow)
{
    zif_handler handler = handler_of(EX(func));
    int before = followed.on ? lowest_free() : -1;

    handler(INTERNAL_FUNCTION_PARAM_PASSTHRU);
    if (before < 0 || !followed.on)
        return;
    for (int fd = before, after = lowest_free(); fd < after; fd++)
        note(fd);
}

static void follow_function(HashTable *table, const char *name)
{
    zend_function *f = zend_hash_str_find_ptr(table, name, strlen(name));

    if (!f || f->type != ZEND_INTERNAL_FUNCTION || f->internal_function.handler == follow ||
        followed.n == FOLLOWED_MAX)
        return;
    followed.of[followed.n].function = f;
    followed.of[followed.n].scope = f->common.scope;
    followed.of[followed.n].name = f->common.function_name;
    followed.of[followed.n++].handler = f->internal_function.handler;
    f->internal_function.handler = follow;
}

void opened_follow(void)
{
    for (size_t i = 0; i < ARRAY_LENGTH(functions); i++)
        follow_function(CG(function_table), functions[i]);
    for (size_t i = 0; i < ARRAY_LENGTH(methods); i++) {
        zend_class_entry *ce =
            zend_hash_str_find_ptr(CG(class_table), methods[i].class, strlen(methods[i].class));
        if (ce)
            follow_function(&ce->function_table, methods[i].method);
    }
    followed.on = true;
}

void opened_end(void)
{
    followed.on = false;
    for (uint32_t i = 0; i < followed.n; i++)
        followed.of[i].function->internal_function.handler = followed.of[i].handler;
}

const char *opened_at(int fd, uint32_t *ret_line)
{
    if (fd < 0 || fd >= FDS_MAX || !followed.at[fd].file)
        return NULL;
    *ret_line = followed.at[fd].line;
    return followed.at[fd].file;
}
