<?php
// What happens to a script behind its answer, or when its client is gone: written to a file, which ?do=read shows.
$notes = __DIR__ . '/sessions/notes-' . $_SERVER['SERVER_PORT'] . '-' . $_GET['name'];
function note($what) { global $notes; file_put_contents($notes, json_encode($what) . "\n", FILE_APPEND); }
function state() { return [connection_status(), connection_aborted(), ignore_user_abort(), headers_sent(), ob_get_level()]; }
$end = function () { note(['shutdown', state(), error_get_last()['message'] ?? null]); note('end'); };
switch ($_GET['do']) {
case 'read':
    header('Content-Type: text/plain');
    echo @file_get_contents($notes);
    break;
case 'finish':
    register_shutdown_function($end);
    header('X-Before: 1');
    if ($_GET['buffer'] ?? 0) {
        ob_start();
    }
    echo 'seen';
    note([fastcgi_finish_request(), state()]);
    echo 'not seen';
    if ($_GET['flush'] ?? 0) {
        flush();
    }
    @header('X-After: 1');
    note([http_response_code(500), fastcgi_finish_request(), state()]);
    if ($_GET['fatal'] ?? 0) {
        undefined_function();
    }
    note(['input', strlen(file_get_contents('php://input')), $_POST, count($_FILES)]);
    break;
case 'abort':
    register_shutdown_function($end);
    ignore_user_abort((bool)$_GET['ignore']);
    while (ob_get_level()) {
        ob_end_clean();
    }
    note('started');
    for ($i = 0; $i < 3000 && !connection_aborted(); $i++) {
        echo str_repeat('x', 16384);
        flush();
        usleep(1000);
    }
    note(['survived', state()]);
    break;
case 'head':
    register_shutdown_function($end);
    header('X-Before: 1');
    echo str_repeat('x', (int)$_GET['n']);
    if ($_GET['flush'] ?? 0) {
        flush();
    }
    note(['behind the output', $_SERVER['REQUEST_METHOD'], headers_sent()]);
    break;
}
