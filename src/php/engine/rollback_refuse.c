/*
 * What stands against freezing a process, named so that whoever wrote the script can change it: the
 * thing, where it comes from, what to do. The snapshot room looks at the process (descriptors,
 * mappings, threads, children, timers), this file at PHP.
 *
 * What was there before the boot, opened by the engine or an extension when the pool started, is
 * shared by all workers under any server and accepted.
 */
#include "php/engine/engine_int.h"

#include "main/php_open_temporary_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FDS_MAX = 1024, MAPS_MAX = 64 };

static struct {
    struct {
        bool open;
        dev_t dev;
        ino_t inode;
    } fds[FDS_MAX];
    struct {
        uintptr_t start, end;
    } maps[MAPS_MAX];
    uint32_t n_maps;
} before;

void refusal_record(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512], access[8];
    uintptr_t start, end;
    struct stat st;

    for (int fd = 0; fd < FDS_MAX; fd++) {
        before.fds[fd].open = fstat(fd, &st) == 0;
        before.fds[fd].dev = before.fds[fd].open ? st.st_dev : 0;
        before.fds[fd].inode = before.fds[fd].open ? st.st_ino : 0;
    }
    before.n_maps = 0;
    while (maps && fgets(line, sizeof(line), maps)) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s", &start, &end, access) != 3 ||
            access[3] != 's' || before.n_maps == MAPS_MAX)
            continue;
        before.maps[before.n_maps].start = start;
        before.maps[before.n_maps++].end = end;
    }
    if (maps)
        fclose(maps);
}

bool refusal_accept(void *context, enum snapshot_problem problem, int fd, const void *addr,
                    size_t bytes, const char *text)
{
    uintptr_t at = (uintptr_t)addr;

    (void)context;
    (void)text;
    if (problem == SNAPSHOT_SHARED_MAP) {
        for (uint32_t i = 0; i < before.n_maps; i++)
            if (at >= before.maps[i].start && at + bytes <= before.maps[i].end)
                return true;
        return false;
    }
    return sockets_accept(fd) || (fd >= 0 && !refusal_is_new(fd));
}

bool refusal_is_new(int fd)
{
    struct stat st;

    return fd >= FDS_MAX || !before.fds[fd].open || fstat(fd, &st) < 0 ||
           st.st_dev != before.fds[fd].dev || st.st_ino != before.fds[fd].inode;
}

/* Scripts may call C functions: also by FFI's default, "preload", where there is a preload script.
 */
bool refusal_has_raw_calls(void)
{
    const char *preload = INI_STR("opcache.preload");
    zend_string *name = zend_string_init("ffi.enable", 10, false);
    zend_string *enable = zend_ini_get_value(name);

    zend_string_release(name);
    if (!enable)
        return false;
    return zend_string_equals_literal_ci(enable, "preload") ? preload && *preload
                                                            : zend_ini_parse_bool(enable);
}

/* --- the state of PHP ------------------------------------------------------------------------- */

/* Where PHP stands: file and line of the innermost PHP frame. */
static void where(char *text, size_t size)
{
    const char *file = zend_get_executed_filename();

    snprintf(text, size, "%s:%u", file ? file : "?", zend_get_executed_lineno());
}

static const char *subject(void)
{
    return seed_is_on() ? "the script" : "the worker script";
}

static const char *point(void)
{
    return !seed_is_on()          ? "frankenphp_handle_request()"
           : rollback_image()->at ? "snapshot_at"
                                  : "snapshot_state()";
}

/* "/tmp/phpAb3dEf"; since 8.4 "/tmp/phprse5d68vva7374itLVb" (main/php_open_temporary_file.c). */
static bool is_temporary_name(struct str path)
{
    struct str folder = str_from(php_get_temporary_directory());

    if (folder.n > 1 && folder.p[folder.n - 1] == '/')
        folder.n--;
    if (!str_has_prefix(path, folder))
        return false;
    struct str name = str_skip(path, folder.n);
    return (name.n == strlen("/phpXXXXXX") || name.n == strlen("/php0123456789012XXXXXX")) &&
           str_has_prefix(name, STR("/php"));
}

/* tmpfile(), or a php://temp that has outgrown its memory: what one request writes there would be
 * the next one's to read, in all workers. */
static bool is_temporary(const zend_resource *r)
{
    php_stream *stream = r->type == php_file_le_stream() ? r->ptr : NULL;
    struct stat st;
    int fd;

    return stream && stream->ops == &php_stream_stdio_ops && stream->orig_path &&
           is_temporary_name(str_from(stream->orig_path)) &&
           stream->ops->cast(stream, PHP_STREAM_AS_FD, (void **)&fd) == SUCCESS &&
           fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && refusal_is_new(fd);
}

static bool has_temporary_file(void)
{
    zend_resource *r;

    ZEND_HASH_FOREACH_PTR(&EG(regular_list), r)
    {
        if (is_temporary(r))
            return true;
    }
    ZEND_HASH_FOREACH_END();
    return false;
}

/* One that a request does not release would stay with its worker. PHP does it with the object,
 * whose count is in no public header. */
static bool has_semaphore(void)
{
    for (uint32_t i = 1; i < EG(objects_store).top; i++) {
        const zend_object *o = EG(objects_store).object_buckets[i];
        if (IS_OBJ_VALID(o) && zend_string_equals_literal(o->ce->name, "SysvSemaphore"))
            return true;
    }
    return false;
}

bool refusal_check(char *text, size_t size)
{
    char place[1024];

    where(place, sizeof(place));
    if (EG(active_fiber)) {
        snprintf(text, size, "%s cannot be frozen at %s inside a Fiber: call %s outside of it",
                 subject(), place, point());
        return false;
    }
    if (php_output_get_active_handler() && (php_output_get_status() & PHP_OUTPUT_LOCKED)) {
        snprintf(text, size,
                 "%s cannot be frozen at %s inside an output callback: call %s outside of it",
                 subject(), place, point());
        return false;
    }
    if (has_semaphore()) {
        snprintf(text, size,
                 "%s cannot be frozen at %s, %s: it has a semaphore (sem_get()), which a request "
                 "could keep acquired for ever. What to do: get it after that",
                 subject(), place, point());
        return false;
    }
    if (has_temporary_file()) {
        snprintf(
            text, size,
            "%s cannot be frozen at %s, %s: a temporary file is open (tmpfile(), or php://temp "
            "above its limit), which all requests would write to and read. What to do: close "
            "it before that",
            subject(), place, point());
        return false;
    }
    return true;
}

/* Objects of the boot that usually own a connection: one of them may be what the descriptor is. */
static const char *const connection_classes[] = {
    "PDO",          "mysqli",         "PgSql\\Connection", "Redis",
    "RedisCluster", "Memcached",      "CurlHandle",        "CurlMultiHandle",
    "Socket",       "AMQPConnection", "SoapClient"
};

static bool is_connection(const zend_class_entry *ce)
{
    for (; ce; ce = ce->parent)
        for (size_t i = 0; i < ARRAY_LENGTH(connection_classes); i++)
            if (zend_string_equals_cstr(ce->name, connection_classes[i],
                                        strlen(connection_classes[i])))
                return true;
    return false;
}

static void name_connections(char *text, size_t size)
{
    size_t n = 0;

    text[0] = '\0';
    for (uint32_t i = 1; i < EG(objects_store).top; i++) {
        zend_object *o = EG(objects_store).object_buckets[i];
        if (!IS_OBJ_VALID(o) || !is_connection(o->ce))
            continue;
        n += (size_t)snprintf(text + n, size - n, "%s%s",
                              n ? ", " : " (objects alive: ", ZSTR_VAL(o->ce->name));
        if (n + 64 >= size)
            break;
    }
    if (n)
        snprintf(text + n, size - n, ")");
}

static const char *advice(enum snapshot_problem problem)
{
    switch (problem) {
    case SNAPSHOT_THREADS: return "end threads before that";
    case SNAPSHOT_CHILDREN: return "wait for child processes before that";
    case SNAPSHOT_SOCKET:
        return "close connections before that and open them in requests (a warm-up request that "
               "leaves one open does the same), or see snapshot_sockets";
    case SNAPSHOT_PIPE: return "close it before that";
    case SNAPSHOT_SHARED_MAP: return "detach shared memory before that";
    case SNAPSHOT_TIMER: return "stop timers and alarms before that";
    default: return "such a process cannot be an image";
    }
}

/* A descriptor that a PHP stream holds: what the script opened it as. */
static bool name_stream(int fd, char *text, size_t size)
{
    zend_resource *r;

    if (fd < 0)
        return false;
    ZEND_HASH_FOREACH_PTR(&EG(regular_list), r)
    {
        php_stream *stream = r->type == php_file_le_stream() ? r->ptr : NULL;
        int its = -1;
        if (!stream || !stream->ops->cast ||
            stream->ops->cast(stream, PHP_STREAM_AS_FD, (void **)&its) != SUCCESS || its != fd)
            continue;
        const char *path = stream->orig_path;
        snprintf(text, size, " (PHP's Resource id #" ZEND_LONG_FMT ", a stream of type %s%s%s)",
                 (zend_long)r->handle, stream->ops->label, path ? ": " : "", path ? path : "");
        return true;
    }
    ZEND_HASH_FOREACH_END();
    return false;
}

void refusal_explain(const struct snapshot_refusal *r, char *text, size_t size)
{
    char connections[512] = "", opened[512] = "", place[1024];
    uint32_t line;
    const char *file = opened_at(r->fd, &line);

    where(place, sizeof(place));
    if (file)
        snprintf(opened, sizeof(opened), ", opened at %s:%u", file, line);
    if (!name_stream(r->fd, connections, sizeof(connections)) && r->problem == SNAPSHOT_SOCKET)
        name_connections(connections, sizeof(connections));
    snprintf(text, size, "%s cannot be frozen at %s, %s: %s%s%s. What to do: %s", subject(), place,
             point(), r->text, connections, opened, advice(r->problem));
}
