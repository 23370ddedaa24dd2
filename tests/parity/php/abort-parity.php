<?php
// What a script knows of its client, and what becomes of it when the client goes: written to a file, which ?how=read shows.
$notes = __DIR__ . '/sessions/aborts-' . $_SERVER['SERVER_PORT'] . '-' . ($_GET['name'] ?? '');
function note($what) { global $notes; file_put_contents($notes, json_encode($what) . "\n", FILE_APPEND); }
function state() { return [connection_status(), connection_aborted(), ignore_user_abort()]; }
function gone() { global $notes; for ($end = microtime(true) + 10; !file_exists("$notes.gone") && microtime(true) < $end; clearstatcache()) usleep(1000); usleep(20000); }
// Writes until the server has noticed, at most 64 MiB.
function write_on() { for ($i = 0; $i < 4096 && !connection_aborted(); $i++) { echo str_repeat('x', 16384); flush(); usleep(500); } }
if ($_GET['how'] === 'read') {
    echo @file_get_contents($notes);
    exit;
}
register_shutdown_function(function () { note(['shutdown', state(), error_get_last()['type'] ?? null]); note('end'); });
while (ob_get_level()) {
    ob_end_clean();
}
class Ending { function __destruct() { note(['destructor', connection_status()]); } }
$ending = new Ending;
note(['start', state()]);
switch ($_GET['how']) {
case 'normal': echo 'x'; note(state()); break;
case 'ini': ini_set('ignore_user_abort', '1'); note(state()); echo 'x'; flush(); gone(); write_on(); note(['survived', state()]); break;
case 'function': note(ignore_user_abort(true)); echo 'x'; flush(); gone(); write_on(); note(['survived', state()]); break;
case 'midway': ignore_user_abort(true); echo 'x'; flush(); gone(); write_on(); note(['survived', state()]); ignore_user_abort(false); echo 'more'; flush(); note('not here'); break;
case 'asleep': echo 'x'; flush(); gone(); note(['asleep', state()]); write_on(); note('not here'); break;
case 'silent': echo 'x'; flush(); gone(); note(['silent', state()]); break;
case 'buffered': ob_start(); echo 'x'; ob_end_flush(); flush(); gone(); ob_start(); for ($i = 0; $i < 100; $i++) echo str_repeat('y', 16384); note(['buffered', state()]); ob_end_clean(); note('here'); break;
case 'buffered out': echo 'x'; flush(); gone(); ob_start(); echo str_repeat('y', 100000); note(['buffered', connection_aborted()]); write_on(); note('not here'); break;
case 'finally': try { echo 'x'; flush(); gone(); write_on(); note('not here'); } finally { note('finally'); } break;
case 'exception': try { echo 'x'; flush(); gone(); write_on(); } catch (Throwable $e) { note('caught'); } note('not here'); break;
case 'output callback': ob_start(function ($t) { note(['callback', connection_status()]); return $t; }, 1); echo 'x'; flush(); gone(); write_on(); note('not here'); break;
case 'finished': echo 'x'; fastcgi_finish_request(); note(['finished', state()]); gone(); note(['later', state()]); break;
case 'timeout': set_time_limit(1); while (true) { $x = 1; }
case 'timeout ignored': ignore_user_abort(true); set_time_limit(1); while (true) { $x = 1; }
case 'exit': echo 'x'; flush(); gone(); exit('bye');
case 'shutdown writes': register_shutdown_function(function () { note('writing'); write_on(); note('not here'); }); echo 'x'; flush(); gone(); break;
case 'session': session_id('aborts'); session_start(['use_cookies' => 0]); $_SESSION['seen'] = ($_GET['name']); echo 'x'; flush(); gone(); write_on(); note('not here'); break;
}
