<?php
// How scripts fail, as asked for by ?do=, with PHP's settings from ?ini[NAME]=VALUE.
foreach ($_GET['ini'] ?? [] as $name => $value) {
    ini_set($name, $value);
}
class Failing {
    public static int $how = 0;
    public $held;
    function __destruct() { if (self::$how & 1) throw new Exception('destroyed'); }
    function __toString(): string { throw new Exception('no text'); }
    function __get($name) { throw new Exception("no $name"); }
    function thrown(int $n = 1) { throw new LogicException("level $n", 7, $n > 0 ? new Error('beneath') : null); }
}
abstract class Unmade { abstract function x(); }
interface Face { function look(); }
enum Suit { case Hearts; }
function generator() { yield 1; throw new Exception('in a generator'); }
function typed(int $n): string { return $n; }
if (isset($_GET['buffer'])) {
    ob_start();
}
if (isset($_GET['flush'])) {
    echo "flushed\n";
    while (ob_get_level()) {
        ob_end_flush();
    }
    flush();
}
if (isset($_GET['status'])) {
    http_response_code((int)$_GET['status']);
}
if (isset($_GET['type'])) {
    header('Content-Type: ' . $_GET['type']);
}
echo "before\n";
switch ($_GET['do']) {
case 'chain': (new Failing)->thrown(); break;
case 'deep trace': (function ($f) { array_map($f, [1, 'two', [3], new stdClass, null, str_repeat('long', 20)]); })(fn($x) => (new Failing)->thrown(0)); break;
case 'destructor': Failing::$how = 1; $f = new Failing; unset($f); break;
case 'destructor at the end': Failing::$how = 1; $kept = new Failing; break;
case 'destructor behind exit': Failing::$how = 1; $kept = new Failing; exit('left');
case 'text': echo new Failing; break;
case 'property': echo (new Failing)->nothing; break;
case 'undefined property': echo (new stdClass)->nothing; break;
case 'abstract': new Unmade; break;
case 'interface': eval('class NoFace implements Face {}'); break;
case 'class': new Missing\Thing; break;
case 'method': (new Failing)->missing(); break;
case 'static': Failing::missing(); break;
case 'constant': echo MISSING_CONSTANT; break;
case 'enum': echo Suit::Spades; break;
case 'match': echo match ($_GET['do']) { 'other' => 1 }; break;
case 'typed': echo typed('no number'); break;
case 'arguments': typed(); break;
case 'named': typed(m: 1); break;
case 'null': null_of()->x(); break;
case 'null method': $n = null; $n->x(); break;
case 'array as text': echo []; break;
case 'offset': echo [1][5], 'text'[9]; break;
case 'unsupported': echo [] + 1; break;
case 'modulo': echo 1 % 0; break;
case 'shift': echo 1 << -1; break;
case 'overflow': echo str_repeat('x', -1); break;
case 'generator': foreach (generator() as $x) echo $x; break;
case 'fiber': (new Fiber(function () { throw new Exception('in a fiber'); }))->start(); break;
case 'fiber suspended': (new Fiber(fn() => Fiber::suspend(1)))->start(); echo 'left suspended'; break;
case 'fiber outside': Fiber::suspend(); break;
case 'eval': eval('echo 1; this is no PHP'); break;
case 'include parse': include __DIR__ . '/broken.inc'; break;
case 'include missing': include __DIR__ . '/missing.inc'; break;
case 'require missing': require __DIR__ . '/missing.inc'; break;
case 'redeclare': eval('function typed() {}'); break;
case 'redeclare class': eval('class Failing {}'); break;
case 'deprecated': trigger_error('old', E_USER_DEPRECATED); strlen(null); break;
case 'user error': trigger_error('an error of the user', E_USER_ERROR); break;
case 'user warning': trigger_error("with <b>tags</b> & \"quotes\" \xe4", E_USER_WARNING); break;
case 'error handler throws': set_error_handler(fn($n, $text) => throw new ErrorException($text, 0, $n)); echo $missing; break;
case 'error handler false': set_error_handler(fn() => false); echo $missing; break;
case 'exception handler throws': set_exception_handler(fn($e) => throw new Exception('second')); throw new Exception('first');
case 'exception handler fails': set_exception_handler(fn($e) => missing_function()); throw new Exception('first');
case 'finally': try { throw new Exception('left behind'); } finally { echo 'finally '; } break;
case 'finally returns': echo (function () { try { throw new Exception('lost'); } finally { return 'returned'; } })(); break;
case 'autoload': spl_autoload_register(fn($c) => throw new Exception("no class $c")); new Unknown; break;
case 'output callback throws': ob_start(function ($text) { throw new Exception('in the callback'); }); echo 'x'; ob_end_flush(); break;
case 'output callback at the end': ob_start(function ($text) { return strtoupper($text) . missing_function(); }); echo 'x'; break;
case 'output in callback': ob_start(function ($text) { ob_start(); return 'x'; }); echo 'y'; break;
case 'shutdown throws': register_shutdown_function(fn() => throw new Exception('at the end')); register_shutdown_function(fn() => print('second')); break;
case 'shutdown behind error': register_shutdown_function(function () { echo 'status ', http_response_code(), ' '; http_response_code(503); }); missing_function(); break;
case 'shutdown sets type': register_shutdown_function(function () { header('Content-Type: application/json'); echo json_encode(error_get_last()['type'] ?? 0); }); missing_function(); break;
case 'session handler': ini_set('session.use_cookies', '0'); session_set_save_handler(new class extends SessionHandler { function write($id, $data): bool { throw new Exception('not written'); } }); session_id('failing' . $_SERVER['SERVER_PORT'] . bin2hex(random_bytes(4))); session_start(); $_SESSION['a'] = 1; break;
case 'silenced': echo @file_get_contents('/missing'), error_get_last()['message']; break;
case 'silenced fatal': @missing_function(); break;
case 'assert': assert(false, 'not so'); echo 'asserted'; break;
case 'exit in include': include __DIR__ . '/exit.inc'; break;
case 'exit integer': exit(255);
case 'exit text': exit('a text');
case 'exit in destructor': new class { function __destruct() { exit('from a destructor'); } }; break;
case 'exit in callback': array_map(fn() => exit('from a callback'), [1]); break;
case 'exit in output callback': ob_start(function ($t) { exit('x'); }); echo 'y'; break;
case 'error_log': error_log("a line\nand another\ttab \x01 \xe4 %s"); break;
case 'error_log long': error_log(str_repeat('0123456789', 1500)); break;
case 'readonly': $r = new class { function __construct(public readonly int $n = 1) {} }; $r->n = 2; break;
case 'clone': clone 1; break;
case 'uninitialised': $r = new class { public int $n; }; echo $r->n; break;
case 'memory at once': ini_set('memory_limit', '16M'); echo strlen(str_repeat('x', 32 << 20)); break;
case 'memory array': ini_set('memory_limit', '16M'); $a = range(1, 4000000); break;
case 'memory grows': ini_set('memory_limit', '16M'); $s = 'x'; while (true) { $s .= $s; } break;
case 'memory in shutdown': ini_set('memory_limit', '16M'); register_shutdown_function(function () { echo 'ran '; str_repeat('x', 64 << 20); }); break;
case 'memory then shutdown': ini_set('memory_limit', '16M'); register_shutdown_function(function () { echo 'ran ', error_get_last()['type']; }); str_repeat('x', 64 << 20); break;
case 'memory in buffer': ini_set('memory_limit', '16M'); ob_start(); while (true) { echo str_repeat('x', 1 << 20); } break;
case 'memory lowered': $a = str_repeat('x', 40 << 20); var_dump(ini_set('memory_limit', '8M')); break;
case 'memory in handler': ini_set('memory_limit', '16M'); set_error_handler(fn() => str_repeat('x', 64 << 20)); echo $missing; break;
case 'recursion': ini_set('memory_limit', '16M'); function recursive($n) { return recursive($n + 1) + 1; } recursive(1); break;
case 'time': set_time_limit(1); while (true) { $x = 1; } break;
case 'time in a function': set_time_limit(1); while (true) { md5('x'); } break;
case 'time in shutdown': set_time_limit(1); register_shutdown_function(function () { echo 'ran ', error_get_last()['type'] ?? 0; }); while (true) { $x = 1; } break;
case 'time of shutdown': register_shutdown_function(function () { set_time_limit(1); while (true) { $x = 1; } }); break;
case 'time with handler': set_error_handler(fn() => print('handled')); set_time_limit(1); while (true) { $x = 1; } break;
case 'time caught': set_time_limit(1); try { while (true) { $x = 1; } } catch (Throwable $e) { echo 'caught'; } finally { echo 'finally'; } break;
case 'time asleep': set_time_limit(1); usleep(1300000); echo 'slept'; break;
case 'time set again': for ($i = 0; $i < 3; $i++) { set_time_limit(1); for ($end = hrtime(true) + 500000000; hrtime(true) < $end;); } echo 'through'; break;
case 'time of ini': ini_set('max_execution_time', '1'); while (true) { $x = 1; } break;
}
echo "after\n";
