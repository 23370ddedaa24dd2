/*
 * The SAPI of the server: how PHP reads a request and writes a response. Output goes straight into
 * the worker's response ring (channel_respond); the gateway owns framing (lengths, chunks,
 * Connection, Date).
 *
 * The name is "fpm-fcgi": opcache and other extensions start only under names they know, and our
 * contract is PHP-FPM's. phpinfo shows the pretty name.
 *
 * Any callback that writes may end in zend_bailout (client gone): nothing here holds what needs
 * cleanup.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

/* syslog(3)'s numbers; its header cannot be included beside log.h, which has the same names. */
enum { SYSLOG_ERR = 3, SYSLOG_WARNING = 4 };

enum { HEAD_BYTES_MAX = 256 * 1024 }; /* of an answer; the same as of one from PHP-FPM */

static struct {
    char *text;
    size_t n, max;
} head OF_REQUEST; /* reused: grows to the largest head of this worker */

static bool head_put(const char *p, size_t n)
{
    if (n > HEAD_BYTES_MAX - head.n)
        return false;
    if (head.max - head.n < n) {
        size_t max = (head.n + n) * 2 + 1024;
        char *grown = mem_try_realloc(head.text, max);
        if (!grown)
            return false;
        head.text = grown;
        head.max = max;
    }
    memcpy(head.text + head.n, p, n);
    head.n += n;
    return true;
}

static bool header_is(const sapi_header_struct *h, struct str name_and_colon)
{
    return h->header_len >= name_and_colon.n &&
           str_eq_nocase((struct str){ h->header, name_and_colon.n }, name_and_colon);
}

/* "404 Gone fishing": false unless it starts with a status code. */
static bool parse_status(struct str text, uint16_t *ret_status, struct str *ret_reason)
{
    uint64_t code;

    text = str_trim(text);
    if (text.n < 3 || !str_to_u64(str_take(text, 3), 999, &code) || code < 100 ||
        (text.n > 3 && text.p[3] != ' '))
        return false;
    *ret_status = (uint16_t)code;
    *ret_reason = str_trim(str_skip(text, 3));
    return true;
}

/* Which status and reason phrase this response has: header("HTTP/1.1 404 Gone fishing") beats
 * header("Status: 404 ..."), which counts where PHP itself has no other than 200, as in FPM. 0:
 * what the script has set is no status. */
static uint16_t choose_status(sapi_headers_struct *h, struct str *ret_reason)
{
    int status = h->http_response_code;
    uint16_t given;
    zend_llist_position at;

    *ret_reason = STR_NONE;
    if (h->http_status_line && status != 200) {
        struct str line = str_from(h->http_status_line);
        struct str version = str_cut(&line, ' ');
        bool has_code = line.p != NULL;
        version.n = MIN(version.n, 5); /* PHP took header("http/1.1 404 Gone") for a status line */
        if (has_code && str_eq_nocase(version, STR("HTTP/")))
            return parse_status(line, &given, ret_reason) ? given : 0;
    }
    for (sapi_header_struct *it = zend_llist_get_first_ex(&h->headers, &at); it;
         it = zend_llist_get_next_ex(&h->headers, &at))
        if (header_is(it, STR("Status:")))
            return parse_status((struct str){ it->header + 7, it->header_len - 7 }, &given,
                                ret_reason)
                       ? given
                       : 0;
    if (status == 0 && !h->http_status_line)
        return 200;
    return status >= 0 && status <= 999 ? (uint16_t)status : 0;
}

static bool put_headers(sapi_headers_struct *headers, struct str reason)
{
    zend_llist_position at;
    /* As FPM, which knows of a 304 by http_response_code() only, not by header("Status: 304"). */
    bool no_type = headers->http_response_code == 304, ok = true;

    head.n = 0;
    if (reason.n)
        ok = head_put(":reason: ", 9) && head_put(reason.p, reason.n) && head_put("\r\n", 2);
    for (sapi_header_struct *h = zend_llist_get_first_ex(&headers->headers, &at); h && ok;
         h = zend_llist_get_next_ex(&headers->headers, &at)) {
        if (h->header_len == 0 || header_is(h, STR("Status:")) ||
            (no_type && header_is(h, STR("Content-Type:"))))
            continue;
        ok = head_put(h->header, h->header_len) && head_put("\r\n", 2);
    }
    return ok;
}

/* Instead of a file that cannot be sent, or of an answer that is none. */
static void refuse(uint16_t status)
{
    static const char type[] = "Content-Type: text/plain; charset=UTF-8\r\n";
    const char *text = status == 502   ? "Bad gateway: the script's answer is not valid.\n"
                       : status == 403 ? "Access denied.\n"
                                       : "File not found.\n";
    struct iovec lines = { (void *)(uintptr_t)type, sizeof(type) - 1 };
    struct iovec body = { (void *)(uintptr_t)text, strlen(text) };

    int rc = channel_respond(request.worker, CHANNEL_HEAD, status, &lines, 1);
    if (rc == 0)
        rc = channel_respond(request.worker, CHANNEL_BODY, 0, &body, 1);
    (void)rc; /* the end tells */
    request_end();
}

/* "X-Accel-Buffering: no", nginx's word for it: every write reaches the client at once. */
static bool wants_no_buffering(sapi_headers_struct *headers)
{
    const struct str name = STR("X-Accel-Buffering:");
    zend_llist_position at;

    for (sapi_header_struct *h = zend_llist_get_first_ex(&headers->headers, &at); h;
         h = zend_llist_get_next_ex(&headers->headers, &at))
        if (header_is(h, name) &&
            str_eq_nocase(str_trim((struct str){ h->header + name.n, h->header_len - name.n }),
                          STR("no")))
            return true;
    return false;
}

/* The head into `head`; its status, or 0: what the script has set is no head of an answer. */
static uint16_t build_head(sapi_headers_struct *headers)
{
    struct str reason;
    uint16_t status = choose_status(headers, &reason);
    const char *line = headers->http_status_line;

    if (status < 200) {
        log_error("request %.*s: the script has set a status that no answer has: expected 200 to "
                  "999, found %d%s%.100s; answered 502",
                  STR_ARG(request.view.request_id), headers->http_response_code,
                  line ? ", by " : "", line ? line : "");
        return 0;
    }
    if (!put_headers(headers, reason)) {
        log_error("request %.*s: the answer's head has more than %d bytes, or there is no memory "
                  "for it; answered 502",
                  STR_ARG(request.view.request_id), HEAD_BYTES_MAX);
        return 0;
    }
    return status;
}

static int send_headers(sapi_headers_struct *headers)
{
    if (!request.active || request.head_sent || SG(request_info).no_headers)
        return SAPI_HEADER_SENT_SUCCESSFULLY;
    uint16_t status = build_head(headers);
    enum sendfile file = status == 0     ? SENDFILE_REFUSED
                         : request.ended ? SENDFILE_NONE
                                         : sendfile_take(headers, &status);
    if (status == 0)
        status = 502;
    request.head_sent = true;
    request.status = status;
    request.unbuffered = wants_no_buffering(headers);
    if (file == SENDFILE_REFUSED && request.worker && !request.ended) {
        refuse(status);
    } else if (request.worker && !request.ended) {
        struct iovec iov = { head.text, head.n };
        enum channel_piece_type type = file == SENDFILE_HANDED ? CHANNEL_FILE : CHANNEL_HEAD;
        /* A client that has gone is noticed by the write that follows. */
        int rc = channel_respond(request.worker, type, status, &iov, 1);
        (void)rc;
        if (file == SENDFILE_HANDED)
            request_end(); /* what the script prints is not the answer */
    }
    return SAPI_HEADER_SENT_SUCCESSFULLY;
}

bool response_inform(uint16_t status)
{
    CHECK(status >= 100 && status < 200);
    if (!request.active || request.head_sent || !request.worker)
        return false;
    if (!put_headers(&SG(sapi_headers), STR_NONE))
        return false;
    struct iovec iov = { head.text, head.n };
    return channel_respond(request.worker, CHANNEL_INFORM, status, &iov, 1) == 0 &&
           channel_respond(request.worker, CHANNEL_FLUSH, 0, NULL, 0) == 0;
}

/* No header with a line break or NUL inside ever leaves, whoever added it (PHP's own check covers
 * only what scripts pass to header()). */
static int header_handler(sapi_header_struct *h, sapi_header_op_enum op,
                          sapi_headers_struct *headers)
{
    (void)headers;
    if (op != SAPI_HEADER_ADD && op != SAPI_HEADER_REPLACE)
        return SAPI_HEADER_ADD;
    for (size_t i = 0; i < h->header_len; i++) {
        char c = h->header[i];
        if (c == '\r' || c == '\n' || c == '\0') {
            log_warn("request %.*s: a response header with a line break or NUL was dropped",
                     STR_ARG(request.view.request_id));
            return 0;
        }
    }
    if (!memchr(h->header, ':', h->header_len)) {
        log_warn("request %.*s: response header \"%.*s\" has no colon and was dropped",
                 STR_ARG(request.view.request_id), (int)h->header_len, h->header);
        return 0;
    }
    return SAPI_HEADER_ADD;
}

static size_t ub_write(const char *text, size_t n)
{
    if (!request.active) { /* php_module_startup speaking (display_startup_errors) */
        log_text(LOG_NOTICE, STR("PHP: "), (struct str){ text, n });
        return n;
    }
    if (loop_boots())
        loop_keep_output((struct str){ text, n });
    if (request.ended || !request.worker)
        return n;
    struct iovec iov = { (char *)text, n };
    int rc = channel_respond(request.worker, CHANNEL_BODY, 0, &iov, 1);
    if (rc == 0 && request.unbuffered)
        rc = channel_respond(request.worker, CHANNEL_FLUSH, 0, NULL, 0);
    if (rc < 0)
        php_handle_aborted_connection(); /* may not return */
    return n;
}

static void flush(void *server_context)
{
    (void)server_context;
    if (!request.active || request.ended || !request.worker)
        return;
    compat_flush_head();
    if (!request.head_sent)
        return;
    if (channel_respond(request.worker, CHANNEL_FLUSH, 0, NULL, 0) < 0)
        php_handle_aborted_connection();
}

static size_t read_post(char *buffer, size_t n)
{
    return request.active ? body_read(&request.body, buffer, n) : 0;
}

static char *read_cookies(void)
{
    return request.active && request.cookie.n ? (char *)request.cookie.p : NULL;
}

static void log_message(const char *message, int syslog_level)
{
    char prefix[64] = "";
    enum log_level level = syslog_level <= SYSLOG_ERR       ? LOG_ERR
                           : syslog_level <= SYSLOG_WARNING ? LOG_WARN
                                                            : LOG_NOTICE;
    if (request.active && request.view.request_id.n)
        snprintf(prefix, sizeof(prefix), "[%.*s] ", STR_ARG(request.view.request_id));
    log_text(level, str_from(prefix), str_from(message));
}

static zend_result get_request_time(double *ret)
{
    uint64_t ns = request.active ? request.view.received_ns : 0;

    *ret = (double)(ns ? ns : clock_realtime_ns()) / 1e9;
    return SUCCESS;
}

static void terminate_process(void)
{
    if (request.worker)
        channel_worker_drain(request.worker);
}

static int get_fd(int *ret)
{
    (void)ret; /* the connection belongs to the gateway */
    return FAILURE;
}

static int get_target_uid(uid_t *ret)
{
    *ret = geteuid();
    return SUCCESS;
}

static int get_target_gid(gid_t *ret)
{
    *ret = getegid();
    return SUCCESS;
}

static int startup(sapi_module_struct *sapi)
{
    return php_module_startup(sapi, &engine_module_entry);
}

static int activate(void)
{
    if (request.active && (!loop_is_on() || loop_boots())) /* a worker script's stay as they are */
        ini_activate_user_config();
    return SUCCESS;
}

/* Runs after the RSHUTDOWN of all modules (sessions are written) and before the memory manager's
 * end: the client gets its last byte here. Also called once by php_module_startup, without a
 * request. */
static int deactivate(void)
{
    if (request.active)
        request_end();
    return SUCCESS;
}

static void set_default(HashTable *config, const char *name, const char *value)
{
    zval v;

    ZVAL_NEW_STR(&v, zend_string_init(value, strlen(value), 1));
    zend_hash_str_update(config, name, strlen(name), &v);
}

/* Beneath php.ini: what a server without any php.ini should have. */
static void ini_defaults(HashTable *config)
{
    set_default(config, "display_errors", "1");
}

sapi_module_struct engine_sapi = {
    .name = (char *)"fpm-fcgi",
    .pretty_name = (char *)"sapid",
    .startup = startup,
    .shutdown = php_module_shutdown_wrapper,
    COMPAT_ACTIVATE(activate) COMPAT_PRE_REQUEST_INIT(activate).deactivate = deactivate,
    .ub_write = ub_write,
    .flush = flush,
    .getenv = variables_getenv,
    .sapi_error = php_error,
    .header_handler = header_handler,
    .send_headers = send_headers,
    .read_post = read_post,
    .read_cookies = read_cookies,
    .register_server_variables = variables_register,
    .log_message = log_message,
    .get_request_time = get_request_time,
    .terminate_process = terminate_process,
    .php_ini_ignore_cwd = 1,
    .get_fd = get_fd,
    .get_target_uid = get_target_uid,
    .get_target_gid = get_target_gid,
    .ini_defaults = ini_defaults,
};
