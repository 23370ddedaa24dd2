/*
 * Worker mode: the script boots once and then takes one request after another by calling
 * frankenphp_handle_request(). The script's whole life is one PHP request to the engine; what
 * belongs to the single HTTP request is put back around each call of the handler: output, headers,
 * body, superglobals, session, uploads, the error state. Everything else stays, as under
 * FrankenPHP.
 *
 * exit() and fatal errors in a handler end its request as they would in classic mode, and the
 * script with it; it starts again at once, in this process. A script that ends before it asked for
 * its first request has failed: it is tried again with growing pauses, and as long as no other
 * worker of the pool has booted, requests are answered 500 meanwhile (with its output, in
 * development).
 *
 * A bailout (longjmp) from any PHP code lands in script_run(); what is needed then stands in
 * `loop`.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

enum {
    RETRY_FIRST_MS = 100,
    RETRY_MAX_MS = 5000,
    LOOK_MS = 100,              /* how long a failed worker does not look at the others */
    OUTPUT_KEPT_MAX = 64 << 10, /* of a boot, for its error page */
    OUTPUT_LOGGED_MAX = 1 << 10,
};

static struct {
    const struct engine_worker *worker; /* NULL: this process is in classic mode */
    uint64_t run;                       /* requests taken since the script was started last */
    bool booted;                        /* it has asked for its first request */
    volatile bool boots;       /* it runs and has not: no request of anybody is in this process */
    bool in_request;           /* the channel's request is ours and not yet done */
    bool shut;                 /* the request of before has been put away; no output is expected */
    bool over;                 /* no more requests for this process */
    int exit_status;           /* an engine_exit */
    zend_string *warnings[16]; /* of parsing the present request: message */
    int warning_types[16];
    uint32_t n_warnings;
    bool continues;              /* requests begin behind snapshot_state() */
    int output_level;            /* of a script's start */
    sapi_headers_struct headers; /* that were set before it, and header_register_callback()'s */
    zval header_callback;
} loop OF_REQUEST;

static struct {
    char text[OUTPUT_KEPT_MAX];
    size_t n;
} boot_output;

bool loop_is_on(void)
{
    return loop.worker != NULL;
}

bool loop_boots(void)
{
    return loop.worker && !loop.booted;
}

bool loop_is_idle_in_boot(void)
{
    return loop.boots;
}

void loop_keep_output(struct str text)
{
    size_t room = sizeof(boot_output.text) - boot_output.n;
    size_t n = text.n < room ? text.n : room;

    memcpy(boot_output.text + boot_output.n, text.p, n);
    boot_output.n += n;
}

/* --- the end of one request ------------------------------------------------------------------- */

/* What RSHUTDOWN of an extension does, outside of a script's end. */
static void shut_module(const char *name)
{
    zend_module_entry *m = zend_hash_str_find_ptr(&module_registry, name, strlen(name));

    if (m && m->request_shutdown_func)
        m->request_shutdown_func(m->type, m->module_number);
}

static void start_module(const char *name)
{
    zend_module_entry *m = zend_hash_str_find_ptr(&module_registry, name, strlen(name));

    if (m && m->request_startup_func)
        m->request_startup_func(m->type, m->module_number);
}

/* An exception that nobody will catch: from a session handler or an output callback. */
static void report_exception(void)
{
    if (EG(exception) && !zend_is_unwind_exit(EG(exception)) &&
        !zend_is_graceful_exit(EG(exception)))
        zend_exception_error(EG(exception), E_ERROR);
}

/* The engine's own sapi_deactivate() expects a sapi_activate() before it is called again; ours may
 * be followed by the end of the script. */
static void deactivate_sapi(void)
{
    body_fini(&request.body); /* or it would be read to its end */
    sapi_deactivate();        /* sends the last byte: see deactivate() in sapi.c */
    SG(request_info).content_type_dup = NULL;
    SG(request_info).current_user = NULL;
    SG(request_info).request_body = NULL;
    SG(rfc1867_uploaded_files) = NULL;
}

/* Between requests the script may still print and set headers; nobody hears it. */
static void mute(void)
{
    php_output_activate();
    SG(request_info).no_headers = 1;
    SG(server_context) = NULL;
    loop.shut = true;
}

/* The channel's request is answered; the next one may come. */
static void finish_taken(void)
{
    request_finish();
    if (!loop.in_request)
        return;
    loop.in_request = false;
    live->served++;
    if (!live->channel)
        return;
    request.memory_peak = zend_memory_peak_usage(true); /* of the process: a loop has one request */
    worker_note_cost(live->channel);
    channel_worker_done(live->channel);
}

/* Outside of any PHP frame, as at a script's end: what an exception of `step` says is reported
 * there and then, and it ends the script. */
static void run_without_frame(void (*step)(void))
{
    zend_execute_data *frame = EG(current_execute_data);

    EG(current_execute_data) = NULL;
    step();
    EG(current_execute_data) = frame;
}

/* False: a bailout happened on the way; the script must end. */
static bool end_request(void)
{
    volatile bool intact = true;

    zend_try
    {
        if (rollback_serves())
            run_without_frame(php_output_end_all);
        else
            php_output_end_all();
        report_exception();
    }
    zend_catch
    {
        intact = false;
    }
    zend_end_try();
    zend_try
    {
        session_end();
        shut_module("filter");
        report_exception();
        /* Sends the head, if there was no output; for which header callbacks are called. */
        if (rollback_serves()) {
            run_without_frame(php_output_deactivate);
        } else {
            php_header();
            report_exception();
            php_output_deactivate();
        }
    }
    zend_catch
    {
        intact = false;
    }
    zend_end_try();
    if (!intact)
        return false; /* the end of the script does the rest */
    deactivate_sapi();
    finish_taken();
    zend_set_memory_limit(PG(memory_limit));
    mute();
    return true;
}

/* --- the start of one request ----------------------------------------------------------------- */

/* php://input and form parsers leave temporary streams that only the script's end would free. */
static void free_temporary_streams(void)
{
    int le_stream = php_file_le_stream();
    zend_resource *r;

    ZEND_HASH_FOREACH_PTR(&EG(regular_list), r)
    {
        php_stream *stream = r->type == le_stream ? r->ptr : NULL;
        if (stream && stream->ops == &php_stream_temp_ops && !stream->__exposed &&
            GC_REFCOUNT(r) == 1)
            zend_list_delete(r);
    }
    ZEND_HASH_FOREACH_END();
}

static void start_output(void)
{
    if (PG(output_handler) && *PG(output_handler)) {
        zval handler;
        ZVAL_STRING(&handler, PG(output_handler));
        php_output_start_user(&handler, 0, PHP_OUTPUT_HANDLER_STDFLAGS);
        zval_ptr_dtor(&handler);
    } else if (PG(output_buffering)) {
        size_t chunk = PG(output_buffering) > 1 ? (size_t)PG(output_buffering) : 0;
        php_output_start_user(NULL, chunk, PHP_OUTPUT_HANDLER_STDFLAGS);
    } else if (PG(implicit_flush)) {
        php_output_set_implicit_flush(1);
    }
}

/* $GLOBALS stays, and a loop's $_ENV. A global that no code has asked for yet ("armed") is made
 * when it is. */
static void renew_superglobals(void)
{
    zend_auto_global *g;

    zval_ptr_dtor_nogc(&PG(http_globals)[TRACK_VARS_FILES]);
    ZVAL_UNDEF(&PG(http_globals)[TRACK_VARS_FILES]);
    zend_hash_str_del(&EG(symbol_table), "_SESSION", sizeof("_SESSION") - 1);
    ZEND_HASH_MAP_FOREACH_PTR(CG(auto_globals), g)
    {
        bool stays = (zend_string_equals_literal(g->name, "_ENV") && !loop.continues) ||
                     zend_string_equals_literal(g->name, "GLOBALS");
        if (stays || (g->jit && g->armed))
            continue;
        g->armed = g->auto_global_callback ? g->auto_global_callback(g->name) : 0;
    }
    ZEND_HASH_FOREACH_END();
}

static void clear_error_state(void)
{
    if (PG(last_error_message)) {
        zend_string_release(PG(last_error_message));
        PG(last_error_message) = NULL;
    }
    if (PG(last_error_file)) {
        zend_string_release(PG(last_error_file));
        PG(last_error_file) = NULL;
    }
    PG(last_error_type) = 0;
    PG(last_error_lineno) = 0;
    EG(exit_status) = 0;
}

static void forget_warnings(void)
{
    while (loop.n_warnings)
        zend_string_release(loop.warnings[--loop.n_warnings]);
}

static void (*report_error)(int, zend_string *, const uint32_t, zend_string *);

/* What parsing the request complained of (too many variables, too large a body): the script's own
 * error handler must not hear of it, since no code of the script is running; the handler can ask
 * with frankenphp_request_parse_errors(). */
static void keep_warning(int type, zend_string *file, const uint32_t line, zend_string *message)
{
    if (loop.n_warnings < ARRAY_LENGTH(loop.warnings)) {
        loop.warning_types[loop.n_warnings] = type & E_ALL;
        loop.warnings[loop.n_warnings++] = zend_string_copy(message);
    }
    report_error(type, file, line, message);
}

/* zlib.output_compression begins before the script, if the client takes it; where the boot has
 * begun buffers of its own it would come on top of them, so those answers go as they are. */
static void compress_output(void)
{
    if (INI_BOOL("zlib.output_compression") && php_output_get_level() <= loop.output_level)
        start_module("zlib");
}

/* The script has not begun anew for this request but goes on in the middle (seed.c): its output
 * buffers and the headers it has set stay. */
static void continue_request_parts(void)
{
    PG(header_is_being_sent) = 0;
    PG(connection_status) = PHP_CONNECTION_NORMAL;
    PG(during_request_startup) = 1;
    sapi_activate();
    SG(sapi_headers) = loop.headers;
    ZVAL_COPY_VALUE(&SG(callback_func), &loop.header_callback);
    renew_superglobals();
    globals_add();
    compress_output();
    PG(during_request_startup) = 0;
}

static void start_request_parts(void)
{
    if (loop.continues) {
        continue_request_parts();
        return;
    }
    php_output_end_all(); /* what the script buffered between requests */
    php_output_deactivate();
    free_temporary_streams();
    clear_error_state();
    php_output_activate();
    PG(header_is_being_sent) = 0;
    PG(connection_status) = PHP_CONNECTION_NORMAL;
    if (!rollback_is_on()) /* a script that lives on must not be ended by a client that leaves */
        PG(ignore_user_abort) = 1;
    PG(during_request_startup) = 1;
    sapi_activate();
    if (PG(expose_php))
        sapi_add_header(SAPI_PHP_VERSION_HEADER, sizeof(SAPI_PHP_VERSION_HEADER) - 1, 1);
    start_output();
    renew_superglobals();
    start_module("session");
    PG(during_request_startup) = 0;
}

/* Like php_request_startup() of a script that runs already. False: a bailout; the script must end.
 */
static bool start_request(void)
{
    volatile bool intact = true;
    zval error_handler;

    loop.shut = false;
    timeout_request_start();
    script_describe_request(request.view.script_filename.p);
    forget_warnings();
    ZVAL_COPY_VALUE(&error_handler, &EG(user_error_handler));
    ZVAL_UNDEF(&EG(user_error_handler));
    report_error = zend_error_cb;
    zend_error_cb = keep_warning;
    zend_try
    {
        start_request_parts();
    }
    zend_catch
    {
        intact = false;
    }
    zend_end_try();
    zend_error_cb = report_error;
    ZVAL_COPY_VALUE(&EG(user_error_handler), &error_handler);
    PG(during_request_startup) = 0;
    SG(sapi_started) = 1;
    timeout_script_start();
    return intact;
}

/* --- the calls of the script ------------------------------------------------------------------ */

/* The first boot is over, well or not: the pool process is told, which may have waited for it
 * before it let the server send requests here; then this worker may take some. False: it may not.
 */
static bool enter_channel(void)
{
    struct channel_worker *channel;

    if (live->channel || loop.over)
        return !loop.over;
    kill(getppid(), ENGINE_SIGNAL_BOOTED);
    int rc = worker_attach(loop.worker, &channel);
    if (rc == 0)
        return true;
    loop.over = true;
    if (rc != -ESHUTDOWN)
        loop.exit_status = ENGINE_EXIT_CHANNEL;
    return false;
}

/* The gateway asks whether the loop still takes requests. The script need not know. */
static void answer_probe(void)
{
    request.head_sent = true;
    if (channel_respond(live->channel, CHANNEL_HEAD, 204, NULL, 0) < 0)
        log_info("the gateway's probe had gone already");
    request_finish();
    channel_worker_done(live->channel);
}

/* The image is not for this request: the gateway takes it to a worker in classic mode. Nothing of
 * it has been read. */
static void pass_on(void)
{
    request.head_sent = request.ended = true;
    if (channel_respond(live->channel, CHANNEL_PASS_ON, 0, NULL, 0) < 0)
        log_info("a request that was to be passed on has gone already");
    request_finish();
    channel_worker_done(live->channel);
}

/* Sleeps until there is a request. False: no more will come. */
static bool wait_for_request(void)
{
    if ((EG(flags) & EG_FLAGS_IN_SHUTDOWN) || !enter_channel())
        return false;
    if (live->max_requests && live->served >= live->max_requests) {
        log_info("%" PRIu64 " requests served: the worker script ends", live->served);
        loop.over = true;
        return false;
    }
    /* behind a rollback the last request is the image's */
    uint64_t now = rollback_is_on() ? clock_realtime_ns() : request.view.received_ns;
    if (opcache_wants_restart(now))
        kill(getppid(), ENGINE_SIGNAL_RENEW);
    for (;;) {
        int rc = channel_worker_next(live->channel, rollback_patience_ns(), &request.view);
        if (rc == -ETIMEDOUT)
            rollback_rest();
        if (rc == -EINTR)
            continue;
        live->rests = false;
        if (rc == 0)
            rc = request_take(live->channel);
        if (rc == 0 && request.view.script_filename.n == 0) {
            answer_probe();
            continue;
        }
        if (rc == 0 && rollback_is_on() && rollback_image()->entry && !guards_hold()) {
            pass_on();
            continue;
        }
        if (rc == 0) {
            loop.in_request = true;
            loop.run++;
            return true;
        }
        loop.over = true;
        if (rc != -ESHUTDOWN) {
            log_error("cannot take a request: %s", strerror(-rc));
            loop.exit_status = ENGINE_EXIT_CHANNEL;
        }
        return false;
    }
}

/* Makes a request the present one. False: no more will come. */
static bool next_request(void)
{
    if (!rollback_is_on())
        return wait_for_request();
    if (EG(flags) & EG_FLAGS_IN_SHUTDOWN)
        return false;
    if (rollback_boundary()) {
        loop.in_request = true;
        loop.run++;
        return true;
    }
    if (!wait_for_request())
        rollback_leave(loop.exit_status);
    return true;
}

static void uncaught_exception(void)
{
    /* The script may have a handler of its own. Where the script lives on, FrankenPHP does not call
     * it, as it may have been made for a script's end. */
    if (rollback_serves() && Z_TYPE(EG(user_exception_handler)) != IS_UNDEF)
        run_without_frame(zend_user_exception_handler);
    if (!EG(exception))
        return;
    if (!rollback_serves() && !SG(headers_sent) && SG(sapi_headers).http_response_code == 200)
        SG(sapi_headers).http_response_code = 500;
    zend_exception_error(EG(exception), E_ERROR);
}

/* For the other workers of the pool, and for this one. Of an image the pool process hears apart. */
static void show_booted(bool booted)
{
    const struct engine_worker *w = loop.worker;

    if (!rollback_is_on() && booted != loop.booted)
        atomic_store_explicit(&w->loop->booted[w->index], booted, memory_order_relaxed);
    loop.booted = booted;
}

PHP_FUNCTION(frankenphp_handle_request)
{
    zend_fcall_info fci;
    zend_fcall_info_cache fcc;
    zval result;

    ZEND_PARSE_PARAMETERS_START(1, 1)
    Z_PARAM_FUNC(fci, fcc)
    ZEND_PARSE_PARAMETERS_END();

    if (!loop.worker || seed_is_on()) {
        zend_throw_exception(spl_ce_RuntimeException,
                             "frankenphp_handle_request() called while not in worker mode", 0);
        RETURN_THROWS();
    }
    if (loop.in_request) {
        zend_throw_exception(spl_ce_RuntimeException,
                             "frankenphp_handle_request() called while handling a request", 0);
        RETURN_THROWS();
    }
    timeout_request_end();
    if (!loop.shut && !end_request()) /* the boot's */
        zend_bailout();
    loop.boots = false;
    show_booted(true);
    if (!next_request())
        RETURN_FALSE;
    if (loop.worker->loop->report_leaks && !rollback_is_on())
        leaks_before();
    if (!start_request())
        zend_bailout();
    ZVAL_UNDEF(&result);
    fci.retval = &result;
    zend_call_function(&fci, &fcc);
    zval_ptr_dtor(&result);
    if (EG(exception)) {
        /* exit(): the script unwinds and ends as any script does, this request with it */
        if (zend_is_unwind_exit(EG(exception)) || zend_is_graceful_exit(EG(exception)))
            RETURN_THROWS();
        uncaught_exception();
    }
    if (rollback_serves())
        rollback_after_handler();
    if (!end_request())
        zend_bailout();
    if (loop.worker->loop->report_leaks && !rollback_is_on())
        leaks_after();
    RETURN_TRUE;
}

void loop_freeze(void)
{
    CHECK(request.active && loop.boots);
    timeout_request_end();
    shut_module("filter");
    globals_record();
    loop.output_level = PG(output_buffering) > 0 || (PG(output_handler) && *PG(output_handler));
    finish_taken();
    loop.boots = false;
    show_booted(true);
    loop.continues = true;
    loop.headers = SG(sapi_headers);
    ZVAL_COPY_VALUE(&loop.header_callback, &SG(callback_func));
    rollback_freeze();
    if (!wait_for_request())
        rollback_leave(loop.exit_status);
    if (!start_request())
        zend_bailout();
}

PHP_FUNCTION(frankenphp_request_parse_errors)
{
    ZEND_PARSE_PARAMETERS_NONE();
    array_init(return_value);
    for (uint32_t i = 0; i < loop.n_warnings; i++) {
        zval one;
        array_init(&one);
        add_assoc_long(&one, "type", loop.warning_types[i]);
        add_assoc_str(&one, "message", zend_string_copy(loop.warnings[i]));
        add_next_index_zval(return_value, &one);
    }
}

/* --- the script, again and again -------------------------------------------------------------- */

void loop_pretend_request(struct str url, const char *request_id)
{
    const struct engine_loop *l = loop.worker->loop;
    const struct engine_image *image = rollback_image();
    const struct pretended p = { .script = l->script,
                                 .script_name = l->script_name,
                                 .document_root = l->document_root,
                                 .url = url,
                                 .server_addr = image ? image->server_addr : NULL,
                                 .server_port = image ? image->server_port : 0,
                                 .request_id = request_id };

    request_pretend(&p);
}

/* False: the engine is in doubt. */
static bool run_script(struct str url, const char *request_id)
{
    bool healthy;

    loop.run = 0;
    show_booted(false);
    loop.shut = loop.in_request = false;
    boot_output.n = 0;
    loop_pretend_request(url, request_id);
    loop.boots = true;
    healthy = script_run(loop.worker->loop->script);
    loop.boots = false;
    if (worker_is_copy())
        _exit(EG(exit_status));
    if (request.active) /* exit(), a fatal error, or a boot that failed */
        finish_taken();
    forget_warnings();
    show_booted(false);
    return healthy;
}

static bool others_boot(void)
{
    const struct engine_loop *l = loop.worker->loop;

    for (uint32_t i = 0; i < l->n_workers; i++)
        if (atomic_load_explicit(&l->booted[i], memory_order_relaxed))
            return true;
    return false;
}

void loop_describe_failure(char *text, size_t size)
{
    const char *script = loop.worker->loop->script;
    struct str said = loop_boot_output();

    if (request.script_missing) {
        snprintf(text, size, "worker script %s cannot be opened: %s", script,
                 strerror(request.open_errno));
        return;
    }
    if (said.n > OUTPUT_LOGGED_MAX)
        said = str_skip(said, said.n - OUTPUT_LOGGED_MAX);
    const char *expected = "called frankenphp_handle_request()";
    if (rollback_is_on())
        expected = !rollback_image()->entry
                       ? "called frankenphp_handle_request() or snapshot_state()"
                   : rollback_image()->at ? "came to where it is to be frozen (snapshot_at)"
                                          : "called snapshot_state()";
    snprintf(text, size, "%s %s ended before it %s (exit status %d)%s%s%.*s",
             seed_is_on() ? "the script" : "worker script", script, expected, EG(exit_status),
             freeze_point_hint(), said.n ? "; its last output: " : "", STR_ARG(said));
}

static void log_failure(uint64_t pause_ms)
{
    char text[OUTPUT_LOGGED_MAX + 512];

    loop_describe_failure(text, sizeof(text));
    log_error("%s; next try in %" PRIu64 " ms", text, pause_ms);
}

struct str loop_boot_output(void)
{
    return (struct str){ boot_output.text, boot_output.n };
}

/* To a request that came while no worker of the pool has booted. */
static void answer_failure(void)
{
    static const char plain[] = "<!DOCTYPE html>\n<title>500 Internal Server Error</title>\n"
                                "<h1>Internal Server Error</h1>\n";
    static const char silent[] =
        "<!DOCTYPE html>\n<title>The worker script failed</title>\n"
        "<h1>The worker script ended before its first request</h1>\n<p>It printed nothing; the "
        "error log may say more.\n";
    bool show = loop.worker->loop->show_errors;
    struct iovec head = { (char *)"Content-Type: text/html; charset=UTF-8\r\n", 40 };
    struct iovec body = { (char *)plain, sizeof(plain) - 1 };

    if (show)
        body = (struct iovec){ (char *)silent, sizeof(silent) - 1 };
    if (show && boot_output.n)
        body = (struct iovec){ boot_output.text, boot_output.n };
    if (channel_respond(live->channel, CHANNEL_HEAD, 500, &head, 1) == 0 &&
        channel_respond(live->channel, CHANNEL_BODY, 0, &body, 1) == 0)
        log_info("a request is answered 500: the worker script has not booted");
    if (channel_respond(live->channel, CHANNEL_END, 0, NULL, 0) < 0)
        log_info("its client had gone already");
    channel_worker_done(live->channel);
}

/* False: the channel is closed or drained. */
static bool pause_after_failure(uint64_t pause_ms)
{
    uint64_t now = clock_monotonic_ns(), until = now + pause_ms * NS_PER_MS;

    for (; now < until; now = clock_monotonic_ns()) {
        uint64_t slice = MIN(until - now, LOOK_MS * NS_PER_MS);
        if (worker_drains())
            return false;
        if (others_boot()) { /* they can do better than 500 */
            nanosleep(&(struct timespec){ 0, (long)slice }, NULL);
            continue;
        }
        int rc = channel_worker_next(live->channel, slice, &request.view);
        if (rc == 0)
            answer_failure();
        else if (rc != -EINTR && rc != -ETIMEDOUT)
            return false;
    }
    return true;
}

int loop_run(const struct engine_worker *w)
{
    unsigned failures = 0;

    CHECK(w->loop && w->index < w->loop->n_workers);
    loop.worker = w;
    loop.exit_status = ENGINE_EXIT_OK;
    while (!loop.over) {
        if (!run_script(str_from(w->loop->script_name), "boot"))
            return ENGINE_EXIT_UNHEALTHY;
        if (loop.over)
            break;
        if (loop.run > 0) {
            failures = 0;
            log_info("the worker script ended after %" PRIu64 " requests (exit status %d); it "
                     "starts again",
                     loop.run, EG(exit_status));
            continue;
        }
        uint64_t pause_ms = MIN((uint64_t)RETRY_FIRST_MS << MIN(failures, 10u), RETRY_MAX_MS);
        failures++;
        log_failure(pause_ms);
        if (!enter_channel() || !pause_after_failure(pause_ms))
            break;
    }
    return loop.exit_status;
}

bool loop_boot(const struct engine_worker *w, struct str url, const char *request_id)
{
    loop.worker = w;
    return run_script(url, request_id);
}

int loop_answer_failures(const struct engine_worker *w)
{
    struct str said = str_from(w->boot_failure);

    loop.worker = w;
    loop_keep_output(said);
    int rc = worker_attach(w, &live->channel);
    while (rc == 0 || rc == -EINTR || rc == -ETIMEDOUT) {
        rc = channel_worker_next(live->channel, UINT64_MAX, &request.view);
        if (rc == 0)
            answer_failure();
    }
    return rc == -ESHUTDOWN ? ENGINE_EXIT_OK : ENGINE_EXIT_CHANNEL;
}

void loop_end_unwound(void)
{
    if (!request.active)
        return;
    zend_try
    {
        deactivate_sapi();
    }
    zend_end_try();
    finish_taken();
}

void loop_after_fork(void)
{
    loop.over = true;
}
