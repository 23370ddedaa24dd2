/*
 * One script, once: request startup, the script, request shutdown, each behind zend_try. What
 * happens in between (exit, fatal error, memory_limit, timeout, client gone, a bailout in a
 * shutdown function) ends in a clean engine or in `false`, and then the process must not serve
 * another request.
 *
 * Trims (research/dispatch.md): the script is never opened, stat'ed or resolved here, so that a
 * warm opcache needs no system call for it; chdir only when the directory changes.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include "base/clock.h"

/* --- the main script's opener ----------------------------------------------------------------- */

static zend_result (*open_script_loudly)(zend_file_handle *h);

/* A main script that cannot be opened is answered as PHP-FPM does, not with PHP's warnings. The
 * hook is set in MINIT, before opcache takes the function over, so it runs only when the file is
 * really opened. */
static zend_result open_script(zend_file_handle *h)
{
    if (!h->primary_script || !request.active)
        return open_script_loudly(h);
    errno = 0;
    if (php_stream_open_for_zend_ex(h, USE_PATH | STREAM_OPEN_FOR_INCLUDE) == SUCCESS) {
        h->primary_script = 1;
        return SUCCESS;
    }
    request.script_missing = true;
    request.open_errno = errno ? errno : ENOENT;
    SG(sapi_headers).http_response_code = request.open_errno == EACCES ? 403 : 404;
    if (request.open_errno == EACCES)
        PUTS("Access denied.\n");
    else
        PUTS("File not found.\n");
    zend_bailout();
}

void script_install(void)
{
    open_script_loudly = zend_stream_open_function;
    zend_stream_open_function = open_script;
}

/* --- the working directory -------------------------------------------------------------------- */

static struct {
    char path[PATH_MAX];
    size_t n;
    bool known;
    uint64_t since_ns;
} cwd;

static zif_handler chdir_of_engine;

static ZEND_NAMED_FUNCTION(chdir_watched)
{
    cwd.known = false;
    chdir_of_engine(INTERNAL_FUNCTION_PARAM_PASSTHRU);
}

void script_after_startup(void)
{
    zend_function *f = zend_hash_str_find_ptr(CG(function_table), "chdir", 5);

    if (f && f->type == ZEND_INTERNAL_FUNCTION) {
        chdir_of_engine = f->internal_function.handler;
        f->internal_function.handler = chdir_watched;
    }
    SG(options) |= SAPI_OPTION_NO_CHDIR;
}

/* The folder of the script becomes the working directory. The same path is entered again after a
 * second: a deploy may have moved a symlink under it. */
static void enter_directory(const char *script)
{
    const char *slash = strrchr(script, '/');
    size_t n = slash ? (size_t)(slash - script) : 0;
    uint64_t now = request.view.received_ns;

    if (!slash || n >= sizeof(cwd.path) - 1)
        return;
    if (n == 0)
        n = 1;
    if (cwd.known && cwd.n == n && memcmp(cwd.path, script, n) == 0 &&
        now - cwd.since_ns < NS_PER_S)
        return;
    memcpy(cwd.path, script, n);
    cwd.path[n] = '\0';
    cwd.n = n;
    cwd.since_ns = now;
    cwd.known = chdir(cwd.path) == 0;
}

/* --- life cycle ------------------------------------------------------------------------------- */

void script_describe_request(const char *path)
{
    const struct channel_request *r = &request.view;
    sapi_request_info *info = &SG(request_info);

    SG(server_context) = &request;
    SG(sapi_headers).http_response_code = 200;
    info->request_method = r->method.p;
    info->query_string = (char *)r->query.p;
    info->request_uri = (char *)r->script_name.p;
    info->path_translated = (char *)path;
    info->content_type = request.content_type.p ? request.content_type.p : "";
    info->content_length = r->content_length > 0 ? r->content_length : 0;
    info->proto_num = 1000;
    php_handle_auth_data(request.authorization.n ? request.authorization.p : NULL);
}

static void execute(const char *path)
{
    zend_file_handle file;

    timeout_script_start();
    enter_directory(path);
    zend_stream_init_filename(&file, path);
    file.primary_script = 1;
    EG(exit_status) = 0;
    php_execute_script(&file);
    /* After a failed compilation or a bailout the list of open files owns it. */
    if (!file.in_list)
        zend_destroy_file_handle(&file);
}

bool script_run(const char *path)
{
    volatile bool healthy = true;

    CHECK(request.active);
    zend_first_try
    {
        timeout_request_start();
        script_describe_request(path);
        if (php_request_startup() != SUCCESS) {
            log_error("request %.*s: request startup failed in the engine; this worker is replaced",
                      STR_ARG(request.view.request_id));
            healthy = false;
        } else if (*path) {
            execute(path);
        } else {
            SG(sapi_headers).http_response_code = 204; /* the gateway's health probe */
        }
    }
    zend_catch
    {
        healthy = false;
    }
    zend_end_try();

    request.memory_peak = zend_memory_peak_usage(true);
    if (rollback_serves() && !worker_is_copy())
        rollback_after_script();
    zend_try
    {
        php_request_shutdown(NULL);
    }
    zend_catch
    {
        log_error("request %.*s: request shutdown failed in the engine; this worker is replaced",
                  STR_ARG(request.view.request_id));
        healthy = false;
    }
    zend_end_try();
    timeout_request_end();
    SG(server_context) = NULL;
    SG(request_info).path_translated = NULL;
    return healthy;
}
