<?php
/* What the engine module adds to PHP, under the names of PHP-FPM, Apache and FrankenPHP, so that
 * applications made for them run unchanged. functions.c has the argument information by hand. */

/** Sends the response to the client now; the script goes on without it. False if that was done before. */
function fastcgi_finish_request(): bool {}

/** @alias fastcgi_finish_request */
function frankenphp_finish_request(): bool {}

/**
 * Sends the headers set so far. 100 to 199: as an interim response (103 Early Hints), of which there may be
 * several; otherwise as the response's head, with this status. FrankenPHP's results: 1 for an interim
 * response sent (3: too late), 0 for a head.
 */
function headers_send(int $status = 200): int {}

/** The request's headers as the client sent them, names in the form Accept-Language. */
function apache_request_headers(): array {}

/** @alias apache_request_headers */
function getallheaders(): array {}

/** @alias apache_request_headers */
function frankenphp_request_headers(): array {}

/** The response's headers set so far. */
function apache_response_headers(): array {}

/** @alias apache_response_headers */
function frankenphp_response_headers(): array {}

/**
 * A note of this request: returns what was noted under the name before (false: nothing), then notes
 * `note_value` unless that is null. Gone at the request's end. As mod_php's.
 */
function apache_note(string $note_name, ?string $note_value = null): string|false {}

/** Sets a variable of this request, which apache_getenv() and getenv() see until its end. As mod_php's. */
function apache_setenv(string $variable, string $value, bool $walk_to_top = false): bool {}

/** A variable set by apache_setenv(), else one of the request (REMOTE_ADDR...); false: there is none. */
function apache_getenv(string $variable, bool $walk_to_top = false): string|false {}

/** mod_php's sub-requests do not exist here: a warning that says what to do instead, and false. */
function virtual(string $uri): bool {}

/** @alias fastcgi_finish_request */
function sapid_finish_request(): bool {}

/** @alias headers_send */
function sapid_headers_send(int $status = 200): int {}

/** @alias apache_request_headers */
function sapid_request_headers(): array {}

/**
 * The pool's status as PHP-FPM gives it, with `procs`; false outside a worker. Counters are those of this
 * generation; what only the gateway counts is on the status page (docs/status.md).
 */
function fpm_get_status(): array|false {}

/** @alias apache_response_headers */
function sapid_response_headers(): array {}

/** @alias frankenphp_log */
function sapid_log(string $message, int $level = 0, array $context = []): void {}

/** FRANKENPHP_LOG_LEVEL_DEBUG -4, _INFO 0, _WARN 4, _ERROR 8: a line for the error log, with the context as JSON. */
function frankenphp_log(string $message, int $level = 0, array $context = []): void {}

/**
 * Worker mode: waits for a request, calls `callback` to answer it, and returns true. False when no
 * further request will come: the script should end then. Throws RuntimeException in classic mode.
 */
function frankenphp_handle_request(callable $callback): bool {}

/** @alias frankenphp_handle_request */
function sapid_handle_request(callable $callback): bool {}

/**
 * Worker mode: what PHP complained of while it parsed the present request (too many variables, too
 * large a body), each with `type` and `message`. The script's own error handler does not see these.
 */
function frankenphp_request_parse_errors(): array {}

/**
 * Where requests go on once the script is frozen:
 *
 *     if (!restore_state()) { boot(); snapshot_state(); }
 *     handle();
 *
 * False in the boot that is frozen, in classic mode and in worker mode. In a process made from the image every
 * request begins as if this call had returned true; what stood between it and snapshot_state() on the stack is
 * gone. Call it in code that the script runs directly, at the same level of loops as snapshot_state().
 * See docs/snapshot-api.md.
 */
function restore_state(): bool {}

/** @alias restore_state */
function sapid_restore_state(): bool {}

/**
 * Here the script can be frozen: it is run up to this call once, for a request of the server's own without cookies
 * and body, and every request then begins behind it (or behind restore_state(), if that was called before) with
 * everything the boot made: classes, functions, constants, variables, handlers, settings. In a user's own request it
 * returns at once, and the server is asked for an image.
 *
 * Throws Sapid\SnapshotException where a script can never be frozen: in a Fiber, a destructor, an output callback, a
 * shutdown function, while a session is active. See docs/snapshot-api.md.
 */
function snapshot_state(): void {}

/** @alias snapshot_state */
function sapid_snapshot_state(): void {}

/**
 * True in the boot that is to be frozen, up to the freeze: for what is worth doing once for all requests, such as rendering
 * a page so that its services and templates are there. False in users' requests, in warm-up requests, and where there is
 * no image to be made.
 */
function snapshot_boots(): bool {}

/** @alias snapshot_boots */
function sapid_snapshot_boots(): bool {}
