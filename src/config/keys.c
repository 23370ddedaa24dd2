/*
 * The one table of configuration keys: what they are called, what they may be, where they are
 * stored, their default and their description. Loading, `sapid check` and docs/configuration.md are
 * made from it, so that a key cannot be documented differently from what it does. A key stands here
 * when something in the program acts on it, not before.
 */
#include <stddef.h>

#include "config/config_int.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#define TIB (MIB * 1024 * 1024)
#define SECOND UINT64_C(1000)
#define DAY (SECOND * 86400)

static const char *const log_targets[] = { "stdout", "stderr", "off", NULL };
static const char *const admin_targets[] = { "auto", "off", NULL };
static const char *const error_targets[] = { "stderr", NULL };
static const char *const slow_targets[] = { "stderr", NULL };
static const char *const slow_formats[] = { "fpm", "json", NULL };
static const char *const log_formats[] = { "combined", "json", NULL };
static const char *const isolations[] = { "none", "rollback", NULL };
static const char *const socket_policies[] = { "refuse", "sever", "reset", NULL };
static const char *const learnings[] = { "off", "reload", "auto", NULL };
static const char *const balances[] = { "round-robin", "least-connections", NULL };
static const char *const log_levels[] = { "error", "warn", "notice", "info", "debug", NULL };

#define SERVER(field) .part = PART_SERVER, .offset = offsetof(struct config_server, field)
#define POOL(field) .part = PART_POOL, .offset = offsetof(struct config_pool, field)
#define FASTCGI(field) .part = PART_FASTCGI, .offset = offsetof(struct config_fastcgi, field)
#define ADMIN(field) .part = PART_ADMIN, .offset = offsetof(struct config_admin, field)
#define LOG(field) .part = PART_LOG, .offset = offsetof(struct config_log, field)
#define NOT_TRACKED .given_offset = NO_GIVEN_FIELD
#define TRACKED(type, field) .given_offset = (int32_t)offsetof(type, field)

const struct config_section config_sections[] = {
    { "server",
      "Listeners, limits and time limits of the gateway, the process that owns every client "
      "connection." },
    { "php", "The PHP engine and the application that it runs." },
    { "worker",
      "Worker mode: a script that boots once and then handles requests in a loop of "
      "`frankenphp_handle_request()`. It answers every URL that is no existing file; other "
      "scripts run as usual beside it." },
    { "fastcgi",
      "PHP-FPM, or any other FastCGI responder, in place of the engine: one group of servers. See "
      "[fastcgi.md](fastcgi.md)." },
    { "log", "The access log and the error log." },
    { "admin",
      "The admin socket: status, metrics and commands of the running server, for whoever may open "
      "the socket. See [status.md](status.md)." },
};
const size_t config_n_sections = ARRAY_LENGTH(config_sections);

const struct config_key config_keys[] = {
    { "server", "listen", KIND_LISTEN, SERVER(listen), NOT_TRACKED,
      .fallback = "[\"127.0.0.1:8080\"]",
      .example = "[\"*:80\", \"[::1]:8080\", \"unix:/run/sapid.sock\"]",
      .text =
          "Where to accept connections: `\"address:port\"`, `\"[IPv6 address]:port\"`, "
          "`\"name:port\"` (every address of the name), `\"*:port\"` or `\":port\"` (every "
          "address of this machine, IPv4 and IPv6), `\"port\"` (127.0.0.1 only) or "
          "`\"unix:/path\"`. Port 0 lets the kernel choose; the start message says which. One "
          "string or a list. On the command line: `--listen`, repeatable, instead of the file's "
          "list." },
    { "server", "gateway_threads", KIND_AUTO, SERVER(gateway_threads), NOT_TRACKED, .min = 1,
      .max = 16, .fallback = "\"auto\"", .example = "2",
      .text =
          "Threads of the gateway. `\"auto\"`: 1 up to 4 cores, then a quarter of the cores. Each "
          "thread has a listening socket of its own (SO_REUSEPORT)." },
    { "server", "max_connections", KIND_COUNT32, SERVER(max_connections), NOT_TRACKED, .min = 1,
      .max = 1048576, .fallback = "65536", .example = "20000",
      .text =
          "Client connections at the same time; further ones wait in the kernel's backlog. "
          "Lowered to what the limit of open files (`ulimit -n`) allows; the start message says "
          "so." },
    { "server", "header_timeout", KIND_TIME, SERVER(header_timeout_ms), NOT_TRACKED, .min = 1,
      .max = DAY, .fallback = "\"30s\"", .example = "\"10s\"",
      .text = "From the first byte of a request to the end of its header section, however slowly "
              "the bytes trickle in. Then 408 and the connection is closed." },
    { "server", "body_timeout", KIND_TIME, SERVER(body_timeout_ms), NOT_TRACKED, .min = 1,
      .max = DAY, .fallback = "\"60s\"", .example = "\"2m\"",
      .text = "Between two reads of a request body. Then 408 and the connection is closed." },
    { "server", "send_timeout", KIND_TIME, SERVER(send_timeout_ms), NOT_TRACKED, .min = 1,
      .max = DAY, .fallback = "\"60s\"", .example = "\"2m\"",
      .text = "Between two successful writes to a client that does not read its response. Then the "
              "connection is closed." },
    { "server", "keepalive_timeout", KIND_TIME, SERVER(keepalive_timeout_ms), NOT_TRACKED,
      .max = DAY, .fallback = "\"75s\"", .example = "\"15s\"",
      .text = "How long an idle connection is kept open for its next request. 0: every response "
              "closes its connection." },
    { "server", "keepalive_requests", KIND_COUNT64, SERVER(keepalive_requests), NOT_TRACKED,
      .max = UINT32_MAX, .fallback = "0", .example = "10000",
      .text = "Requests on one connection, then it is closed. 0: no limit." },
    { "server", "max_body_size", KIND_SIZE, SERVER(max_body_size), NOT_TRACKED, .min = 1,
      .max = TIB, .fallback = "\"64M\"", .example = "\"256M\"",
      .text = "Largest request body; a larger one is answered 413. PHP's own `post_max_size` and "
              "`upload_max_filesize` apply as well." },
    { "server", "max_header_size", KIND_SIZE, SERVER(max_header_size), NOT_TRACKED, .min = 256,
      .max = MIB, .fallback = "\"32K\"", .example = "\"64K\"",
      .text = "Largest header section of a request, all fields together; a larger one is answered "
              "431." },
    { "server", "max_header_count", KIND_COUNT32, SERVER(max_header_count), NOT_TRACKED, .min = 1,
      .max = 256, .fallback = "100", .example = "200",
      .text = "Most header fields of a request; more are answered 431." },
    { "server", "max_request_line", KIND_SIZE, SERVER(max_request_line), NOT_TRACKED, .min = 64,
      .max = MIB, .fallback = "\"8K\"", .example = "\"16K\"",
      .text = "Longest request line (method, target, version); a longer one is answered 414." },
    { "server", "spool_dir", KIND_PATH, SERVER(spool_dir), NOT_TRACKED, .fallback = "\"/var/tmp\"",
      .example = "\"/var/spool/sapid\"",
      .text =
          "Folder for unnamed temporary files: request bodies too large for shared memory and "
          "responses that a slow client has not read yet. A warning at the start says when it is "
          "in memory (tmpfs)." },
    { "server", "max_spool_size", KIND_SIZE, SERVER(max_spool_size), NOT_TRACKED, .min = 1,
      .max = TIB, .fallback = "\"4G\"", .example = "\"10G\"",
      .text = "Most bytes in `spool_dir`, all requests together; never more than half of what is "
              "free there when sapid starts. While it is used up, requests with large bodies are "
              "answered 507, and workers wait for slow clients." },
    { "server", "state_dir", KIND_PATH, SERVER(state_dir), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "systemd's `StateDirectory=`, or none", .example = "\"/var/lib/sapid\"",
      .text = "Folder, of this server alone, for what images have learned (see "
              "[snapshot-report.md](snapshot-report.md)): written at a stop and after each reload, "
              "read at the start. It must be there, and writable for the user that starts sapid. "
              "Without one a stop forgets; a reload and an upgrade do not." },
    { "server", "trusted_proxies", KIND_PEERS, SERVER(trusted_proxies), NOT_TRACKED,
      .fallback = "[]", .example = "[\"127.0.0.1\", \"10.0.0.0/8\", \"unix\"]",
      .text =
          "Peers whose `Forwarded`, `X-Forwarded-For`, `-Proto`, `-Host` and `-Port` are believed: "
          "addresses, networks, or `\"unix\"` for everybody on a Unix socket. Nobody by default." },
    { "server", "proxy_protocol", KIND_BOOLEAN, SERVER(proxy_protocol), NOT_TRACKED,
      .fallback = "false", .example = "true",
      .text = "Every connection of a trusted proxy begins with a PROXY protocol header, version 1 "
              "or 2." },
    { "server", "drain_timeout", KIND_TIME, SERVER(drain_timeout_ms), NOT_TRACKED, .max = DAY,
      .fallback = "\"5s\"", .example = "\"30s\"",
      .text =
          "On SIGTERM, reload and upgrade, how long running requests may still take. On SIGTERM "
          "idle connections are closed at once; where another process goes on serving they "
          "have 60 % of this time to send one more request, whose answer closes them." },
    { "server", "user", KIND_STRING, SERVER(user), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "`nobody`, or the PHP user where only that one may read the files",
      .example = "\"www-data\"",
      .text = "User of the gateway, a name or a number. Only root can start processes of another "
              "user." },
    { "server", "group", KIND_STRING, SERVER(group), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "the user's own group", .example = "\"www-data\"",
      .text = "Group of the gateway, a name or a number." },
    { "server", "server_tokens", KIND_BOOLEAN, SERVER(server_tokens), NOT_TRACKED,
      .fallback = "true", .example = "false",
      .text = "Send `Server: sapid` (never with a version) in responses that set no `Server` of "
              "their own." },

    { "php", "libphp_path", KIND_PATH, POOL(libphp_path), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "the newest installed libphp", .example = "\"/usr/lib/libphp8.2.so\"",
      .text =
          "The PHP engine: an unpatched NTS build of libphp, as in Debian's `libphp8.2-embed`." },
    { "php", "document_root", KIND_PATH, POOL(document_root),
      TRACKED(struct config_pool, document_root_given), .fallback = "\"\"",
      .fallback_text = "found: `public/`, `web/`, ... or the folder itself",
      .example = "\"/srv/www/app/public\"",
      .text = "The folder whose files have URLs. Used as it is when given, here or by `--root`; "
              "otherwise sapid looks for it and says in one sentence what it chose and why." },
    { "php", "worker_pool_size", KIND_POOL_SIZE, POOL(worker_pool_size), NOT_TRACKED, .min = 1,
      .max = 1024, .fallback = "\"auto\"", .example = "{ min = 2, max = 16, spare = 2 }",
      .text =
          "PHP worker processes: how many requests run at the same time. `\"auto\"`: four for each "
          "CPU, 8 to 256, as far as half of the memory has 64 MiB for each. A table: from `min` "
          "(0: none without requests) to `max` (a number or `\"auto\"`), with `spare` idle ones in "
          "advance (default 0). See [sizing.md](sizing.md). On the command line: `--workers`." },
    { "php", "worker_idle_timeout", KIND_TIME, POOL(worker_idle_timeout_ms), NOT_TRACKED, .min = 1,
      .max = DAY, .fallback = "\"10s\"", .example = "\"60s\"",
      .text = "Where `worker_pool_size` is a table: how long there may be more idle workers than "
              "`spare` before one of them ends." },
    { "php", "worker_max_age", KIND_TIME, POOL(worker_max_age_ms), NOT_TRACKED, .max = 30 * DAY,
      .fallback = "0", .example = "\"1d\"",
      .text = "Age at which a worker is replaced, one at a time, after its successor is ready. 0: "
              "never." },
    { "php", "worker_max_memory", KIND_SIZE, POOL(worker_max_memory), NOT_TRACKED, .max = TIB,
      .fallback = "0", .example = "\"512M\"",
      .text = "Memory of its own (resident, not shared) at which a worker is replaced, one at a "
              "time, after its successor is ready. 0: never." },
    { "php", "worker_max_requests", KIND_COUNT64, POOL(worker_max_requests), NOT_TRACKED,
      .max = UINT32_MAX, .fallback = "0", .example = "10000",
      .text = "Requests after which a worker is replaced (a few more or less, so that not all end "
              "together). 0: never." },
    { "php", "ini", KIND_PAIRS, POOL(ini), NOT_TRACKED, .fallback = "{}",
      .example = "{ memory_limit = \"256M\", opcache.revalidate_freq = 60 }",
      .text = "php.ini settings, as `php -d` sets them: they beat the files, `ini_set` may still "
              "change them. On the command line: `-d name=value`." },
    { "php", "admin_ini", KIND_PAIRS, POOL(admin_ini), NOT_TRACKED, .fallback = "{}",
      .example = "{ open_basedir = \"/srv/www:/tmp\" }",
      .text = "php.ini settings that the application cannot change (php_admin_value of PHP-FPM)." },
    { "php", "ini_path", KIND_PATH, POOL(ini_path), TRACKED(struct config_pool, ini_path_given),
      .fallback = "\"\"",
      .fallback_text = "PHP-FPM's php.ini of that PHP version, else libphp's own",
      .example = "\"/etc/php/8.2/fpm/php.ini\"",
      .text = "The main php.ini. `sapid doctor` says which files are read." },
    { "php", "ini_scan_dir", KIND_STRING, POOL(ini_scan_dir),
      TRACKED(struct config_pool, ini_scan_dir_given), .fallback = "\"\"",
      .fallback_text = "PHP-FPM's conf.d of that PHP version, else libphp's own",
      .example = "\"/etc/php/8.2/fpm/conf.d\"",
      .text =
          "Folders of further .ini files, separated by `:`, read after `ini_path`; the environment "
          "variable PHP_INI_SCAN_DIR beats it." },
    { "php", "request_timeout", KIND_TIME, POOL(request_timeout_ms), NOT_TRACKED, .max = DAY,
      .fallback = "0", .example = "\"30s\"",
      .text =
          "How long a request may run, in wall-clock time (request_terminate_timeout of PHP-FPM). "
          "Then PHP ends the script with a fatal error, also while it waits in a system call, and "
          "it is answered 504; see `request_timeout_grace`. 0: no limit; PHP's own "
          "`max_execution_time` counts processor time only." },
    { "php", "request_timeout_grace", KIND_TIME, POOL(request_timeout_grace_ms), NOT_TRACKED,
      .max = DAY, .fallback = "\"500ms\"", .example = "\"5s\"",
      .text = "How long shutdown functions, destructors and a system call may take after "
              "`request_timeout`. Then the worker is killed and the request is answered 504 if "
              "nothing was sent yet." },
    { "php", "slow_log_after", KIND_TIME, POOL(slow_log_after_ms), NOT_TRACKED, .max = DAY,
      .fallback = "0", .example = "\"2s\"",
      .text = "A request that runs longer is written to `[log] slow`, with the PHP stack at that "
              "moment (request_slowlog_timeout of PHP-FPM). 0: none is." },
    { "php", "slow_log_repeat", KIND_BOOLEAN, POOL(slow_log_repeat), NOT_TRACKED,
      .fallback = "false", .example = "true",
      .text = "Write it again each time that `slow_log_after` has passed once more." },
    { "php", "slow_log_depth", KIND_COUNT32, POOL(slow_log_depth), NOT_TRACKED, .min = 1, .max = 64,
      .fallback = "20", .example = "40",
      .text = "How many calls of the PHP stack are written (request_slowlog_trace_depth of "
              "PHP-FPM)." },
    { "php", "request_buffering", KIND_BOOLEAN, POOL(request_buffering), NOT_TRACKED,
      .fallback = "true", .example = "false",
      .text = "PHP starts when the whole request body has come, so that a slow upload holds no "
              "worker. `false`: it starts on the head and reads the body as it comes "
              "(proxy_request_buffering of nginx); see [streaming](streaming.md). Usually said of "
              "one `[[route]]`." },
    { "php", "queue_timeout", KIND_TIME, POOL(queue_timeout_ms), NOT_TRACKED, .min = 1, .max = DAY,
      .fallback = "\"30s\"", .example = "\"5s\"",
      .text = "How long a request may wait for an idle worker. Then 503 with Retry-After." },
    { "php", "queue_size", KIND_COUNT32, POOL(queue_size), NOT_TRACKED, .min = 1, .max = 32768,
      .fallback = "1024", .example = "4096",
      .text = "How many requests may wait for an idle worker. One more is answered 503 at once." },
    { "php", "user", KIND_STRING, POOL(user), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "the owner of the document root", .example = "\"www-data\"",
      .text = "User of the PHP processes when sapid is started as root. Ignored otherwise. On the "
              "command line: `--user`." },
    { "php", "group", KIND_STRING, POOL(group), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "the user's own group", .example = "\"www-data\"",
      .text = "Group of the PHP processes when sapid is started as root. On the command line: "
              "`--group`." },
    { "php", "env", KIND_PAIRS, POOL(env), NOT_TRACKED, .fallback = "{}",
      .example = "{ APP_ENV = \"prod\" }",
      .text = "Environment variables of the PHP processes, seen by `getenv` and `$_SERVER`." },
    { "php", "clear_env", KIND_BOOLEAN, POOL(clear_env), NOT_TRACKED, .fallback = "true",
      .example = "false",
      .text = "PHP sees only the variables of `env`, not those that sapid was started with. As in "
              "PHP-FPM." },
    { "php", "limit_extensions", KIND_STRINGS, POOL(limit_extensions), NOT_TRACKED,
      .fallback = "[\".php\"]", .example = "[\".php\", \".phtml\"]",
      .text =
          "Files that PHP runs, by the end of their names. PHP-FPM's "
          "`security.limit_extensions`. Nothing else is ever run, and source code under another "
          "name that PHP is known by (.phtml, .inc, .php~ ...) is not sent as a file either." },
    { "php", "sendfile_roots", KIND_STRINGS, POOL(sendfile_roots), NOT_TRACKED, .fallback = "[]",
      .example = "[\"/srv/app/storage\"]",
      .text =
          "Folders whose files a script may have sent by `header(\"X-Sendfile: "
          "/srv/app/storage/a.pdf\")` or `X-Accel-Redirect`. The file is opened as the pool's "
          "user, links that lead out of the folder are refused, ranges and conditional requests "
          "work as for static files. With PHP-FPM behind the pool the gateway opens it, with its "
          "own rights: the folders must be readable for the gateway's user, and what one pool may "
          "have sent is no longer told apart by the users of pools, only by these folders. Empty: "
          "these headers mean nothing. When set, scripts see "
          "`X-Sendfile-Type: X-Sendfile` in the request, which turns it on in Symfony's "
          "BinaryFileResponse." },
    { "php", "accel_locations", KIND_PAIRS, POOL(accel_locations), NOT_TRACKED, .fallback = "{}",
      .example = "{ \"/protected/\" = \"/srv/app/storage\" }",
      .text =
          "What the URL paths of `X-Accel-Redirect` mean: nginx's internal locations. The folders "
          "lie beneath `sendfile_roots`." },
    { "php", "umask", KIND_STRING, POOL(umask), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "as sapid was started with", .example = "\"0027\"",
      .text = "File mode creation mask of the PHP processes, octal." },
    { "php", "chroot", KIND_PATH, POOL(chroot), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "none", .example = "\"/srv/www\"",
      .text = "A folder that becomes `/` of the PHP workers. `document_root` lies below it, and is "
              "named as it is seen from outside; scripts see paths without it. Needs a start as "
              "root. What scripts need of the system (time zones, /etc/resolv.conf, "
              "certificates, sockets of databases) must be there too, as with PHP-FPM." },
    { "php", "chdir", KIND_STRING, POOL(chdir), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "`/` in a chroot, else where sapid was started", .example = "\"/srv/app\"",
      .text = "Working directory of the PHP workers when they start, inside `chroot` if there is "
              "one. PHP enters the folder of each script by itself." },
    { "php", "front_controller", KIND_FRONT_CONTROLLER, POOL(front_controller),
      TRACKED(struct config_pool, front_controller_given), .fallback = "\"index.php\"",
      .example = "\"app.php\"",
      .text = "The script, relative to `document_root`, for every URL that is neither an existing "
              "file nor ends in .php. When the file does not exist, such URLs are 404. `false`: "
              "they always are." },
    { "php", "index", KIND_STRINGS, POOL(index), NOT_TRACKED,
      .fallback = "[\"index.php\", \"index.html\"]", .example = "[\"index.html\"]",
      .text = "Files looked for, in this order, when the URL is a folder." },
    { "php", "warmup", KIND_STRINGS, POOL(warmup), NOT_TRACKED, .fallback = "[]",
      .example = "[\"/\", \"/shop/\"]",
      .text = "Paths that the server itself asks a new generation for, one after the other, before "
              "it serves: they fill opcache. What they are answered is logged when it is 500 or "
              "above, and does not matter otherwise." },
    { "php", "probe", KIND_STRINGS, POOL(probe), NOT_TRACKED, .fallback = "[]",
      .example = "[\"/health\"]",
      .text = "Paths that a new generation must answer with a status below 500, within 30 seconds "
              "each, before it serves. If it does not, a reload fails and the old generation goes "
              "on; at the start of the server it is only logged. Asked after `warmup`." },

    { "php", "slow_lane", KIND_BOOLEAN, POOL(slow_lane), NOT_TRACKED, .fallback = "true",
      .example = "false",
      .text = "Kinds of requests that take far longer than the rest (a tenth of a second and eight "
              "times the mean of the others, by measurement) together hold at most "
              "`slow_lane_share` of the workers; further ones wait. See "
              "[overload.md](overload.md)." },
    { "php", "slow_lane_share", KIND_COUNT32, POOL(slow_lane_share), NOT_TRACKED, .min = 1,
      .max = 100, .fallback = "50", .example = "25",
      .text = "Percent of the workers that slow requests may hold, one worker at least." },
    { "php", "status_path", KIND_STRING, POOL(status_path), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "none", .example = "\"/fpm-status\"",
      .text = "URL path of a status page of this pool, in the formats of PHP-FPM's: text, `?full`, "
              "`?json`, `?html`, `?xml`, `?openmetrics`. Answered without a worker, to the clients "
              "of `status_allow`. Of a worker script's pool where `[php]` has one." },
    { "php", "ping_path", KIND_STRING, POOL(ping_path), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "none", .example = "\"/fpm-ping\"",
      .text = "URL path that is answered `pong`, without a worker, to the clients of "
              "`status_allow`." },
    { "php", "status_allow", KIND_PEERS, POOL(status_allow), NOT_TRACKED,
      .fallback = "[\"127.0.0.1\", \"::1\", \"unix\"]", .example = "[\"10.0.0.0/8\"]",
      .text = "Clients that may see `status_path` and `ping_path`: addresses, networks, or "
              "`\"unix\"` for clients on a Unix socket. Others are answered 403. Behind a proxy on "
              "the same machine, name that proxy in `server.trusted_proxies`, or everybody counts "
              "as local." },

    { "php", "max_images", KIND_COUNT32, POOL(max_images), NOT_TRACKED, .max = CONFIG_IMAGES_MAX,
      .fallback = "4", .example = "8",
      .text = "How many entry scripts may have an image at the same time: scripts that call "
              "`snapshot_state()`, and those of `snapshot_scripts`. An image is a set of processes "
              "beside the pool's own, made when it is asked for; the one that was used least "
              "recently makes room. 0: no script gets one. See "
              "[snapshot-images.md](snapshot-images.md)." },
    { "php", "snapshot_scripts", KIND_STRINGS, POOL(snapshot_scripts), NOT_TRACKED,
      .fallback = "[]", .fallback_text = "the front controller, if `snapshot_at` is set",
      .example = "[\"index.php\", \"api/index.php\"]",
      .text = "Scripts, relative to `document_root`, that get an image without asking: their first "
              "request has the server make it." },
    { "php", "snapshot_at", KIND_STRING, POOL(snapshot_at), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "where the script calls `snapshot_state()`",
      .example = "\"include:wp-includes/pluggable-deprecated.php\"",
      .text = "Where the scripts of `snapshot_scripts` are frozen, without a change to them: "
              "`\"include:FILE\"`, when that file has been included, or `\"function:NAME\"` "
              "(also `\"function:Class::method\"`), when that function has returned." },
    { "php", "snapshot_url", KIND_STRING, POOL(snapshot_url), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "the script's own, at the host of the request that asked first",
      .example = "\"https://www.example.com/\"",
      .text =
          "What the request with which an image boots asks for: a path, or an http or https "
          "URL, whose host is then `HTTP_HOST`. It is a GET without cookies and without body." },
    { "php", "snapshot_guards", KIND_PAIRS, POOL(snapshot_guards), NOT_TRACKED, .fallback = "{}",
      .example = "{ \"_SERVER.REQUEST_URI\" = \"set\", \"_COOKIE.*\" = \"absent\" }",
      .text =
          "What a request must look like to get an image. Whatever of the request the boot read is "
          "compared with the value that the boot saw (`\"same\"`); these take its place: "
          "`\"any\"`, `\"set\"`, `\"absent\"`, `\"same\"` or `\"regex:...\"`. Other requests "
          "run in classic mode." },
    { "php", "snapshot_rerun", KIND_STRINGS, POOL(snapshot_rerun), NOT_TRACKED, .fallback = "[]",
      .example = "[\"wp_fix_server_vars\"]",
      .text = "Functions that are called, without arguments, in each request that goes on from an "
              "image, before anything else: those that make globals of the request." },
    { "php", "snapshot_warmup", KIND_STRINGS, POOL(snapshot_warmup), NOT_TRACKED, .fallback = "[]",
      .example = "[\"/\", \"/shop/?page=2\"]",
      .text = "Paths that the process which becomes an image asks its script for before the boot "
              "that is frozen: they fill caches, such as those of regular expressions." },
    { "php", "snapshot_max_age", KIND_TIME, POOL(snapshot_max_age_ms), NOT_TRACKED, .max = 30 * DAY,
      .fallback = "0", .example = "\"1h\"",
      .text = "Age at which an image is made anew; the old one serves until then. 0: never." },
    { "php", "snapshot_wait", KIND_TIME, POOL(snapshot_wait_ms), NOT_TRACKED, .max = DAY,
      .fallback = "\"10s\"", .example = "\"1m\"",
      .text = "How long a reload waits, once the new processes can serve, for the images of those "
              "scripts that have one now. Requests of a script whose image takes longer, or cannot "
              "be made, run in classic mode in the meantime. 0: a reload waits for no image." },
    { "php", "snapshot_sockets", KIND_FORMAT, POOL(snapshot_sockets), NOT_TRACKED,
      .choices = socket_policies, .fallback = "\"refuse\"", .example = "\"sever\"",
      .text = "What becomes of connections that the boot has left open: as `snapshot_sockets` of "
              "`[worker]`." },

    { "worker", "script", KIND_PATH, POOL(worker_script), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "no worker mode", .example = "\"public/index.php\"",
      .text = "The worker script. On the command line: `--worker`." },
    { "worker", "num", KIND_AUTO, POOL(worker_num), NOT_TRACKED, .min = 1, .max = 1024,
      .fallback = "\"auto\"", .example = "8",
      .text = "Processes that run the worker script. `\"auto\"`: as many as "
              "`php.worker_pool_size` would be. On the command line: `--workers`, together with "
              "`--worker`." },
    { "worker", "max_requests", KIND_COUNT64, POOL(worker_loop_max_requests), NOT_TRACKED,
      .max = UINT32_MAX, .fallback = "0", .example = "1000",
      .text = "Requests after which `frankenphp_handle_request()` returns false and the process is "
              "replaced (some leave a little earlier, so that not all end together). 0: never." },
    { "worker", "watch", KIND_BOOLEAN, POOL(worker_watch),
      TRACKED(struct config_pool, worker_watch_given), .fallback = "false",
      .fallback_text = "false; true with `--dev`", .example = "true",
      .text = "Start the worker script afresh when a file of the application changes. On the "
              "command line: `--watch`." },
    { "worker", "report_leaks", KIND_BOOLEAN, POOL(worker_report_leaks), NOT_TRACKED,
      .fallback = "false", .example = "true",
      .text =
          "Compare the state of PHP before and after each request of the worker script, and log "
          "what a request left behind: globals, static properties and variables, ini values, "
          "handlers, constants, classes, resources, memory. Costs time; not for production. With "
          "an image: log what the isolation report finds for the first time, which costs "
          "nothing more. See [snapshot-report.md](snapshot-report.md)." },
    { "worker", "isolation", KIND_FORMAT, POOL(worker_isolation), NOT_TRACKED,
      .choices = isolations, .fallback = "\"none\"", .example = "\"rollback\"",
      .text = "`\"rollback\"`: the process is frozen after its boot and the `warmup` requests, and "
              "put back to that state after every request, so that no request sees what another "
              "one left behind. `\"none\"`: everything stays, as under FrankenPHP." },
    { "worker", "warmup", KIND_STRINGS, POOL(worker_warmup), NOT_TRACKED, .fallback = "[\"/\"]",
      .example = "[\"/\", \"/products?page=2\"]",
      .text = "With `isolation = \"rollback\"`: paths that the server asks the worker script for "
              "(GET, no cookies, Host: localhost) before it freezes it. What they load, requests "
              "need not load again. `[]`: none." },
    { "worker", "learn", KIND_FORMAT, POOL(worker_learn), NOT_TRACKED, .choices = learnings,
      .fallback = "\"reload\"", .example = "\"auto\"",
      .text =
          "Of pools with an image (`isolation = \"rollback\"`, and images of entry scripts): the "
          "classes and files that requests had to load "
          "after the image are remembered, and loaded before the image of the next generation. "
          "`\"reload\"`: whenever there is one. `\"auto\"`: a new generation is started for "
          "it, once what requests load has settled and many of them would gain; APCu begins "
          "empty then. `\"off\"`: nothing is remembered. See "
          "[snapshot-report.md](snapshot-report.md)." },
    { "worker", "snapshot_sockets", KIND_FORMAT, POOL(worker_sockets), NOT_TRACKED,
      .choices = socket_policies, .fallback = "\"refuse\"", .example = "\"reset\"",
      .text = "With `isolation = \"rollback\"`: what becomes of connections that the boot and the "
              "warm-up have left open. `\"refuse\"`: the script is not frozen. `\"sever\"`: they "
              "are cut, and their clients connect again by themselves, or fail. `\"reset\"`: each "
              "worker gets a connection of its own, whose session is put back after every request "
              "(PDO to MySQL and PostgreSQL, Redis); others are severed." },
    { "worker", "snapshot_verify", KIND_BOOLEAN, POOL(worker_snapshot_verify), NOT_TRACKED,
      .fallback = "false", .example = "true",
      .text = "With `isolation = \"rollback\"`: compare all memory with the frozen state after "
              "every request, and end the process where it differs. Slow; to look for errors of "
              "the server." },
    { "worker", "snapshot_pagemap", KIND_BOOLEAN, POOL(worker_snapshot_pagemap), NOT_TRACKED,
      .fallback = "false", .example = "true",
      .text =
          "With `isolation = \"rollback\"`: look for changed memory in `/proc/self/pagemap`, as "
          "on kernels before 6.7, also where the kernel has the faster `PAGEMAP_SCAN`." },
    { "php", "use_fpm", KIND_BOOLEAN, POOL(use_fpm), NOT_TRACKED, .fallback = "false",
      .example = "true",
      .text = "PHP requests go to PHP-FPM: to `fpm_socket`, else to the servers of `[fastcgi]`. No "
              "engine is loaded and no PHP process started; `libphp_path`, `[worker]` and the "
              "settings of workers, php.ini and environment have no effect then." },
    { "php", "fpm_socket", KIND_ADDRESS, POOL(fpm_socket), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "the servers of `[fastcgi]`", .example = "\"/run/php/php8.2-fpm.sock\"",
      .text = "Where this pool's PHP-FPM listens: `\"host:port\"`, `\"unix:/path\"` or "
              "`\"/path\"`. Its limits and time limits are those of `[fastcgi]`." },
    { "php", "fallback", KIND_BOOLEAN, POOL(fallback), NOT_TRACKED, .fallback = "false",
      .example = "true",
      .text = "When workers crash again and again, the pool's PHP requests go to `fpm_socket` or "
              "the servers of `[fastcgi]` until the next reload. The error log says so." },
    { "php", "fallback_crashes", KIND_COUNT32, POOL(fallback_crashes), NOT_TRACKED, .min = 1,
      .max = 64, .fallback = "5", .example = "3",
      .text = "How many crashes within `fallback_window` are enough. A crash is a worker that ends "
              "by a signal such as SIGSEGV, or by exit() in an extension; one killed by "
              "`request_timeout` is none." },
    { "php", "fallback_window", KIND_TIME, POOL(fallback_window_ms), NOT_TRACKED, .min = 1,
      .max = DAY, .fallback = "\"60s\"", .example = "\"10m\"",
      .text = "The time in which crashes are counted." },

    { "fastcgi", "servers", KIND_SERVERS, FASTCGI(servers), NOT_TRACKED, .fallback = "[]",
      .example = "[\"unix:/run/php/php8.2-fpm.sock\", { address = \"10.0.0.7:9000\", weight = 2, "
                 "connections = 20 }]",
      .text = "FastCGI servers: addresses (`\"host:port\"`, `\"unix:/path\"`, `\"/path\"`) or "
              "tables with `address`, `weight` (1: its share of the requests) and `connections`." },
    { "fastcgi", "connections", KIND_COUNT32, FASTCGI(connections), NOT_TRACKED, .max = 65535,
      .fallback = "0", .example = "20",
      .text = "How many requests a server answers at the same time: `pm.max_children` of its pool. "
              "sapid never opens more connections to it, and further requests wait in sapid; at "
              "least one for each gateway thread. 0: unknown; then there is no limit, and no "
              "connection is kept open." },
    { "fastcgi", "balance", KIND_FORMAT, FASTCGI(balance), NOT_TRACKED, .choices = balances,
      .fallback = "\"round-robin\"", .example = "\"least-connections\"",
      .text = "Which server takes the next request: in turn, or the one with the fewest running "
              "requests; both in relation to `weight`." },
    { "fastcgi", "keep_alive", KIND_BOOLEAN, FASTCGI(keep_alive), NOT_TRACKED, .fallback = "false",
      .example = "true",
      .text = "Keep connections open between requests, to servers whose `connections` is known. "
              "Faster, but only for applications that do nothing after "
              "`fastcgi_finish_request()`: the process that does is not told apart from an idle "
              "one, and the next request on its connection waits for it." },
    { "fastcgi", "connect_timeout", KIND_TIME, FASTCGI(connect_timeout_ms), NOT_TRACKED, .min = 1,
      .max = DAY, .fallback = "\"5s\"", .example = "\"1s\"",
      .text = "For a connection to a server. Then the next one is tried, else 502." },
    { "fastcgi", "response_timeout", KIND_TIME, FASTCGI(response_timeout_ms), NOT_TRACKED, .min = 1,
      .max = DAY, .fallback = "\"60s\"", .example = "\"5m\"",
      .text = "Between two pieces of a response, and before the first. Then 504." },
    { "fastcgi", "idle_timeout", KIND_TIME, FASTCGI(idle_timeout_ms), NOT_TRACKED, .min = 1,
      .max = DAY, .fallback = "\"30s\"", .example = "\"5s\"",
      .text = "How long a connection is kept open without a request." },
    { "fastcgi", "max_fails", KIND_COUNT32, FASTCGI(max_fails), NOT_TRACKED, .min = 1, .max = 1000,
      .fallback = "1", .example = "3",
      .text = "Failed connections in a row after which a server is left out for a while." },
    { "fastcgi", "backoff", KIND_TIME, FASTCGI(backoff_ms), NOT_TRACKED, .min = 1, .max = DAY,
      .fallback = "\"1s\"", .example = "\"200ms\"",
      .text = "How long it is left out at first; then one request tries it again, and each further "
              "failure doubles the time." },
    { "fastcgi", "max_backoff", KIND_TIME, FASTCGI(max_backoff_ms), NOT_TRACKED, .min = 1,
      .max = DAY, .fallback = "\"30s\"", .example = "\"10s\"",
      .text = "The longest time that a server is left out before it is tried again." },
    { "fastcgi", "queue_size", KIND_COUNT32, FASTCGI(queue_size), NOT_TRACKED, .min = 1,
      .max = 65535, .fallback = "1024", .example = "4096",
      .text = "How many requests may wait for a connection (in each gateway thread), each up to "
              "`php.queue_timeout`. One more is answered 503 at once." },

    { "log", "access", KIND_LOG_TARGET, LOG(access), TRACKED(struct config_log, access_given),
      .choices = log_targets, .fallback = "\"off\"",
      .fallback_text = "`\"stdout\"` on a terminal, else `\"off\"`",
      .example = "\"/var/log/sapid/access.log\"",
      .text = "Access log: a file, `\"stdout\"`, `\"stderr\"` or `\"off\"`." },
    { "log", "format", KIND_FORMAT, LOG(format), NOT_TRACKED, .choices = log_formats,
      .fallback = "\"combined\"", .example = "\"json\"",
      .text = "Format of the access log: `\"combined\"` (as nginx and Apache) or `\"json\"` (one "
              "object a line)." },
    { "log", "error", KIND_LOG_TARGET, LOG(error), NOT_TRACKED, .choices = error_targets,
      .fallback = "\"stderr\"", .example = "\"/var/log/sapid/error.log\"",
      .text = "Error log: a file or `\"stderr\"`." },
    { "log", "slow", KIND_LOG_TARGET, LOG(slow), NOT_TRACKED, .choices = slow_targets,
      .fallback = "\"stderr\"", .example = "\"/var/log/sapid/slow.log\"",
      .text = "Slow log: a file, or `\"stderr\"`, which is the error log." },
    { "log", "slow_format", KIND_FORMAT, LOG(slow_format), NOT_TRACKED, .choices = slow_formats,
      .fallback = "\"fpm\"", .example = "\"json\"",
      .text = "Format of the slow log: `\"fpm\"` (PHP-FPM's, with some more lines) or `\"json\"` "
              "(one object a line)." },
    { "log", "crash_dir", KIND_PATH, LOG(crash_dir), NOT_TRACKED, .fallback = "\"\"",
      .fallback_text = "into the error log", .example = "\"/var/lib/sapid/crashes\"",
      .text = "Folder for a file about each worker that crashed or was killed. It is made if it is "
              "not there. The files hold URLs and belong to the user that sapid was started as." },
    { "log", "crash_files", KIND_COUNT32, LOG(crash_files), NOT_TRACKED, .min = 1, .max = 100000,
      .fallback = "50", .example = "500",
      .text = "How many files `crash_dir` keeps; the oldest are removed." },
    { "log", "level", KIND_LEVEL, LOG(level), NOT_TRACKED, .choices = log_levels,
      .fallback = "\"notice\"", .example = "\"info\"",
      .text = "Least severe messages of the error log: `\"error\"`, `\"warn\"`, `\"notice\"`, "
              "`\"info\"` or `\"debug\"`." },

    { "admin", "socket", KIND_LOG_TARGET, ADMIN(socket), NOT_TRACKED, .choices = admin_targets,
      .fallback = "\"auto\"", .example = "\"/run/sapid/www.sock\"",
      .text =
          "A Unix socket that speaks HTTP to the server's own user only (mode 0600): `sapid "
          "status`, `sapid reload` and `sapid stop` use it. `\"auto\"`: a socket named after the "
          "process in `$RUNTIME_DIRECTORY`, `/run/sapid` (root), `$XDG_RUNTIME_DIR/sapid` or "
          "`/tmp/sapid-UID`, whichever is there first. `\"off\"`: none. When it cannot be made the "
          "server warns and goes on without." },
    { "admin", "health_window", KIND_TIME, ADMIN(health_window_ms), NOT_TRACKED, .min = 10,
      .max = DAY, .fallback = "\"10s\"", .example = "\"3s\"",
      .text = "`/healthz` is green when each pool's PHP answered a request within this time. Where "
              "no request did, the server asks PHP itself, and waits as long for the answer." },
};
const size_t config_n_keys = ARRAY_LENGTH(config_keys);

const struct config_key *config_key_find(struct str section, struct str name)
{
    for (size_t i = 0; i < config_n_keys; i++)
        if (str_eq(str_from(config_keys[i].section), section) &&
            str_eq(str_from(config_keys[i].name), name))
            return &config_keys[i];
    return NULL;
}

void *config_field(struct config *c, struct config_pool *pool, const struct config_key *key)
{
    char *part = key->part == PART_SERVER    ? (char *)&c->server
                 : key->part == PART_LOG     ? (char *)&c->log
                 : key->part == PART_ADMIN   ? (char *)&c->admin
                 : key->part == PART_FASTCGI ? (char *)&c->fastcgi
                                             : (char *)pool;
    return part + key->offset;
}

/* ---- the nearest name
 * ----------------------------------------------------------------------------- */

/* Edits (insert, delete, replace, swap of neighbours) that make `b` of `a`; `limit` + 1 when more.
 */
unsigned config_distance(struct str a, struct str b, unsigned limit)
{
    enum { LONGEST = 48 };
    unsigned char rows[3][LONGEST + 1];

    if (a.n > LONGEST || b.n > LONGEST)
        return limit + 1;
    for (size_t j = 0; j <= b.n; j++)
        rows[0][j] = (unsigned char)j;
    for (size_t i = 1; i <= a.n; i++) {
        unsigned char *row = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = (unsigned char)i;
        for (size_t j = 1; j <= b.n; j++) {
            bool same = ascii_lower(a.p[i - 1]) == ascii_lower(b.p[j - 1]);
            unsigned best = above[j - 1] + !same;
            if (above[j] + 1u < best)
                best = above[j] + 1u;
            if (row[j - 1] + 1u < best)
                best = row[j - 1] + 1u;
            if (i > 1 && j > 1 && a.p[i - 1] == b.p[j - 2] && a.p[i - 2] == b.p[j - 1] &&
                above2[j - 2] + 1u < best)
                best = above2[j - 2] + 1u;
            row[j] = (unsigned char)best;
        }
    }
    unsigned distance = rows[a.n % 3][b.n];
    return distance <= limit ? distance : limit + 1;
}

/* Up to a third of the letters may differ: more is not a slip but another word. */
unsigned config_distance_limit(struct str typed)
{
    return typed.n < 3 ? 1 : (unsigned)(typed.n / 3);
}

const struct config_key *config_key_nearest(struct str section, struct str name)
{
    unsigned limit = config_distance_limit(name), best = 2 * limit + 2;
    const struct config_key *nearest = NULL;

    for (size_t i = 0; i < config_n_keys; i++) {
        unsigned distance = config_distance(name, str_from(config_keys[i].name), limit);
        bool elsewhere = !str_eq(section, str_from(config_keys[i].section));
        if (distance <= limit && 2 * distance + elsewhere < best) {
            best = 2 * distance + elsewhere; /* among equals, a key of the same table */
            nearest = &config_keys[i];
        }
    }
    return nearest;
}

const struct config_section *config_section_nearest(struct str name)
{
    unsigned limit = config_distance_limit(name), best = limit + 1;
    const struct config_section *nearest = NULL;

    for (size_t i = 0; i < config_n_sections; i++) {
        unsigned distance = config_distance(name, str_from(config_sections[i].name), limit);
        if (distance < best) {
            best = distance;
            nearest = &config_sections[i];
        }
    }
    return nearest;
}
