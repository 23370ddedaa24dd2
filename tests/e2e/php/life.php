<?php
// Ends of requests, as asked for by ?do=
function deep($n) { return $n > 0 ? deep($n - 1) + 1 : 0; }
switch ($_GET['do']) {
case 'ok':
    echo 'ok ', getmypid();
    break;
case 'exit':
    echo 'before';
    exit(3);
case 'exit_text':
    exit('bye');
case 'exit_nested':
    ob_start();
    echo 'buffered ';
    (function () { exit('out'); })();
case 'fatal':
    echo 'before';
    undefined_function();
case 'fatal_after_flush':
    echo str_repeat('y', 5000);
    flush();
    undefined_function();
case 'parse':
    include __DIR__ . '/broken.inc';
    break;
case 'exception':
    throw new RuntimeException('not caught');
case 'memory':
    $x = str_repeat('x', 1 << 30);
    break;
case 'memory_slow':
    $a = [];
    while (true) {
        $a[] = str_repeat('x', 1 << 16);
    }
case 'timeout':
    set_time_limit(1);
    while (true) {
        hash('sha256', 'x');
    }
case 'shutdown':
    register_shutdown_function(function () { echo ' first'; register_shutdown_function(function () { echo ' nested'; }); });
    register_shutdown_function(function () { echo ' second'; });
    echo 'body';
    break;
case 'shutdown_exit':
    register_shutdown_function(function () { echo ' one'; exit; });
    register_shutdown_function(function () { echo ' two'; });
    echo 'body';
    break;
case 'shutdown_fatal':
    register_shutdown_function(function () { undefined_function(); });
    echo 'body';
    break;
case 'shutdown_after_fatal':
    register_shutdown_function(function () { echo 'handled ', error_get_last()['type']; });
    undefined_function();
case 'shutdown_memory':
    ini_set('memory_limit', '8M');
    register_shutdown_function(function () { str_repeat('x', 1 << 28); });
    echo 'body';
    break;
case 'destructor':
    class D { function __destruct() { echo ' destructed'; } }
    $GLOBALS['d'] = new D();
    echo 'body';
    break;
case 'destructor_exit':
    class E { function __destruct() { echo ' destructed'; exit; } }
    $GLOBALS['e'] = new E();
    echo 'body';
    break;
case 'error_log':
    error_log($_GET['text']);
    echo 'logged';
    break;
case 'warning':
    echo 1 / $_GET['zero'] ?? 0;
    break;
case 'segv':
    posix_kill(getmypid(), 11);
    sleep(5);
    break;
case 'kill':
    posix_kill(getmypid(), 9);
    sleep(5);
    break;
case 'chdir':
    chdir('/');
    ini_set('precision', '3');
    setlocale(LC_ALL, 'C');
    mb_internal_encoding('ISO-8859-1');
    date_default_timezone_set('Asia/Tokyo');
    putenv('SAPID_LEFT=behind');
    umask(0);
    error_reporting(0);
    set_error_handler(fn () => true);
    define('LEFT_BEHIND', 1);
    ob_start(fn ($s) => strtoupper($s));
    echo 'changed';
    break;
case 'state':
    echo json_encode([getcwd(), ini_get('precision'), date_default_timezone_get(), getenv('SAPID_LEFT'), umask(),
                      error_reporting(), defined('LEFT_BEHIND'), mb_internal_encoding(), ob_get_level()]);
    break;
case 'deep':
    echo deep(20000);
    break;
case 'ob':
    ob_start();
    echo 'one ';
    ob_start(fn ($s) => strrev($s));
    echo 'owt';
    ob_end_flush();
    echo ' three';
    break;
case 'ob_discard':
    ob_start();
    echo 'nothing';
    ob_end_clean();
    echo 'kept';
    break;
case 'finish':
    echo 'answered';
    fastcgi_finish_request();
    file_put_contents(__DIR__ . '/finished', 'after');
    echo 'never seen';
    break;
case 'abort':
    ignore_user_abort(false);
    file_put_contents(__DIR__ . '/abort-started', getmypid());
    for ($i = 0; $i < 2000; $i++) {
        echo str_repeat('z', 65536);
        flush();
    }
    file_put_contents(__DIR__ . '/abort-survived', 'yes');
    break;
case 'abort_ignored':
    ignore_user_abort(true);
    file_put_contents(__DIR__ . '/ignored-started', 'yes');
    echo str_repeat('y', 4096);
    flush();
    while (!file_exists(__DIR__ . '/ignored-closed')) { // the server may buffer more than we could write
        usleep(2000);
        clearstatcache();
    }
    for ($i = 0; $i < 400; $i++) {
        echo str_repeat('z', 65536);
        flush();
    }
    file_put_contents(__DIR__ . '/ignored-survived', (string) connection_aborted());
    break;
case 'big':
    $n = (int) $_GET['n'];
    for ($left = $n; $left > 0; $left -= 8192) {
        echo str_repeat(chr(97 + $left / 8192 % 26), min(8192, $left));
    }
    break;
case 'once':
    echo str_repeat('b', (int) $_GET['n']);
    break;
case 'empty':
    break;
case 'sleep':
    usleep(1000 * (int) $_GET['ms']);
    echo 'slept';
    break;
}
