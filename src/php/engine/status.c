/*
 * fpm_get_status(): the array of PHP-FPM's function of that name (sapi/fpm/fpm/fpm_status.c of PHP
 * 8.2), from what every worker can see of its pool in shared memory. Counters are those of this
 * generation. What only the gateway counts (the longest queue so far, the most active processes,
 * how often all were busy) is not known here: the present value, or 0, stands for it; the status
 * page of the server has it (docs/status.md).
 */
#include "php/engine/engine_int.h"

#include <ext/standard/base64.h>

#include "base/clock.h"

static const struct engine_worker *own;

static const struct channel *own_channel(void)
{
    return rollback_is_on() ? rollback_channel() : own->channel;
}

void status_worker_start(const struct engine_worker *w)
{
    own = w;
}

static void add_text(zval *array, const char *key, struct str text, const char *none)
{
    if (text.n)
        add_assoc_stringl(array, key, text.p, text.n);
    else
        add_assoc_string(array, key, none);
}

/* "Basic dXNlcjpwYXNz": the user; the password goes nowhere. */
static void add_user(zval *array, struct str authorization)
{
    struct str user = STR_NONE;
    zend_string *plain = NULL;

    if (authorization.n > 6 && str_eq_nocase(str_take(authorization, 6), STR("basic ")))
        plain = php_base64_decode((const unsigned char *)authorization.p + 6, authorization.n - 6);
    if (plain) {
        struct str rest = { ZSTR_VAL(plain), ZSTR_LEN(plain) };
        user = str_cut(&rest, ':');
    }
    add_text(array, "user", user, "-");
    if (plain)
        zend_string_release(plain);
}

static void add_request(zval *array, struct channel_ticket ticket)
{
    struct channel_peek look;

    if (!channel_request_peek(own_channel(), ticket, &look))
        memset(&look, 0, offsetof(struct channel_peek, text));
    struct str query = look.target;
    struct str uri = str_cut(&query, '?');
    add_text(array, "request-method", look.method, "-");
    add_text(array, "request-uri", uri, "");
    add_text(array, "query-string", query, "");
    add_assoc_long(array, "request-length", look.content_length > 0 ? look.content_length : 0);
    add_user(array, look.authorization);
    add_text(array, "script", look.script_filename, "-");
}

static void add_process(zval *list, const struct channel_worker_info *info, uint64_t now_ns,
                        zend_long now_s)
{
    bool runs = info->state == CHANNEL_WORKER_BUSY;
    zend_long start = (zend_long)(info->attached_ns / NS_PER_S);
    uint64_t ns = runs ? (now_ns > info->since_ns ? now_ns - info->since_ns : 0) : info->last_ns;
    double cpu =
        runs || info->last_ns == 0 ? 0 : 100.0 * (double)info->last_cpu_ns / (double)info->last_ns;
    zval one;

    array_init(&one);
    add_assoc_long(&one, "pid", info->pid);
    add_assoc_string(&one, "state", runs ? "Running" : "Idle");
    add_assoc_long(&one, "start-time", start);
    add_assoc_long(&one, "start-since", now_s - start);
    add_assoc_long(&one, "requests", (zend_long)(info->requests + runs));
    add_assoc_long(&one, "request-duration", (zend_long)(ns / 1000));
    add_request(&one, info->ticket);
    add_assoc_double(&one, "last-request-cpu", cpu);
    add_assoc_long(&one, "last-request-memory", runs ? 0 : (zend_long)info->last_memory);
    add_next_index_zval(list, &one);
}

/* The processes, and how many of them run and wait; the start of the oldest one. */
static zend_long add_processes(zval *list, zend_long now_s, zend_long *ret_active,
                               zend_long *ret_idle)
{
    uint64_t now_ns = clock_monotonic_ns(), oldest = (uint64_t)now_s * NS_PER_S;

    for (uint32_t w = 0; w < channel_geometry(own_channel())->workers; w++) {
        struct channel_worker_info info;
        channel_worker_look(own_channel(), w, &info);
        if (info.state == CHANNEL_WORKER_NONE)
            continue;
        if (info.attached_ns && info.attached_ns < oldest)
            oldest = info.attached_ns;
        *(info.state == CHANNEL_WORKER_BUSY ? ret_active : ret_idle) += 1;
        add_process(list, &info, now_ns, now_s);
    }
    return (zend_long)(oldest / NS_PER_S);
}

PHP_FUNCTION(fpm_get_status)
{
    zend_long now_s = (zend_long)(clock_realtime_ns() / NS_PER_S), active = 0, idle = 0;
    struct channel_counters count;
    zval list;

    ZEND_PARSE_PARAMETERS_NONE();
    if (!own || !own_channel() || !request.worker) /* the CLI; a script's pcntl_fork() */
        RETURN_FALSE;
    channel_count(own_channel(), &count);
    array_init(&list);
    zend_long start = add_processes(&list, now_s, &active, &idle);
    array_init(return_value);
    add_assoc_string(return_value, "pool", own->pool);
    add_assoc_string(return_value, "process-manager", own->manager);
    add_assoc_long(return_value, "start-time", start);
    add_assoc_long(return_value, "start-since", now_s - start);
    add_assoc_long(return_value, "accepted-conn", (zend_long)count.claimed);
    add_assoc_long(return_value, "listen-queue", count.queued);
    add_assoc_long(return_value, "max-listen-queue", MAX(count.queued_max, count.queued));
    add_assoc_long(return_value, "listen-queue-len", own->queue_size);
    add_assoc_long(return_value, "idle-processes", idle);
    add_assoc_long(return_value, "active-processes", active);
    add_assoc_long(return_value, "total-processes", idle + active);
    add_assoc_long(return_value, "max-active-processes", MAX((zend_long)count.running_max, active));
    add_assoc_long(return_value, "max-children-reached", count.limit_reached);
    add_assoc_long(return_value, "slow-requests", (zend_long)count.slow);
    COMPAT_STATUS_MEMORY_PEAK(return_value, (zend_long)count.memory_peak);
    add_assoc_zval(return_value, "procs", &list);
}
