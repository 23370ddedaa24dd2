/* The engine module's one exported object, and starting and stopping PHP. See php/engine.h. */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "version.h"

const char *engine_software = "sapid";

static int start(const struct engine_options *o, char *message, size_t message_size)
{
    log_init(o->role, 2, o->log_least);
    engine_software = mem_strdup(o->software);
    compat_signal_startup();
    sapi_startup(&engine_sapi);
    ini_choose(&engine_sapi, o);
    engine_sapi.ini_entries = ini_render(o);
    engine_sapi.executable_location = mem_strdup(o->executable);
    if (engine_sapi.startup(&engine_sapi) == FAILURE) {
        snprintf(message, message_size,
                 "PHP %s did not start (php_module_startup failed); its messages are above",
                 PHP_VERSION);
        return -EIO;
    }
    timeout_install();
    deadline_install();
    script_after_startup();
    body_install();
    session_install();
    ini_lock_admin(o);
    return 0;
}

static void ini_files(const char **ret_path, const char **ret_scanned)
{
    *ret_path = php_ini_opened_path ? php_ini_opened_path : "";
    *ret_scanned = php_ini_scanned_files ? php_ini_scanned_files : "";
}

static void stop(void)
{
    php_module_shutdown();
    sapi_shutdown();
}

static int lifecycle(const char *script, unsigned long n, double *ret_ns)
{
    struct channel_request *r = &request.view;
    const char *name = strrchr(script, '/');

    CHECK(script[0] == '/' && name && n > 0);
    compat_signal_keep_ours();
    timeout_worker_start();
    *r = (struct channel_request){
        .method = STR("GET"),
        .target = str_from(name),
        .protocol = STR("HTTP/1.1"),
        .script_name = str_from(name),
        .script_filename = str_from(script),
        .query = STR(""),
        .path_info = STR(""),
        .document_root = STR("/"),
        .host = STR("localhost"),
        .server_name = STR("localhost"),
        .remote_addr = STR("127.0.0.1"),
        .server_addr = STR("127.0.0.1"),
        .request_id = STR("lifecycle"),
        .content_length = -1,
        .body_kind = CHANNEL_BODY_NONE,
    };
    uint64_t begin = 0;
    for (unsigned long i = 0; i < n + n / 10 + 1; i++) {
        if (i == n / 10 + 1) /* the first tenth warms opcache */
            begin = clock_cpu_ns();
        request.serial++;
        request.active = true;
        request.head_sent = request.ended = false;
        request.php_self = r->script_name;
        body_init(&request.body, r, -1);
        r->received_ns = clock_realtime_ns();
        if (!script_run(script))
            return -EIO;
        request_finish();
    }
    *ret_ns = (double)(clock_cpu_ns() - begin) / (double)n;
    return 0;
}

__attribute__((visibility("default"))) const struct engine_module sapid_engine;
const struct engine_module sapid_engine = {
    .abi = ENGINE_ABI,
    .zend_api = ZEND_MODULE_API_NO,
    .build = SAPID_VERSION,
    .php_version = PHP_VERSION,
    .start = start,
    .ini_files = ini_files,
    .worker_run = worker_run,
    .layout = layout_get,
    .can_probe = probe_is_useful,
    .probe = probe_run,
    .is_opcache = opcache_is_entry,
    .image_run = rollback_run,
    .audit = audit_command,
    .stop = stop,
    .cli = cli_run,
    .lifecycle = lifecycle,
};
