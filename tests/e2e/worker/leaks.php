<?php
class Cache { public static array $rows = []; public static int $hits = 0; public array $own = []; }
class Bag { public $next; }
$kept = new Cache;
$log = [];
$bags = [];
function remembers() { static $seen = 0; return ++$seen; }
while (frankenphp_handle_request(function () use ($kept) {
    switch (basename(parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH))) {
    case 'static': Cache::$rows[] = 1; Cache::$hits++; break;
    case 'function': remembers(); break;
    case 'global': $GLOBALS['log'][] = 'x'; break;
    case 'new-global': $GLOBALS['fresh'] = 1; break;
    case 'ini': ini_set('precision', '7'); break;
    case 'handler': set_error_handler(fn () => false); break;
    case 'constant': define('MADE_BY_A_REQUEST', 1); break;
    case 'class': eval('class Evaluated {}'); break;
    case 'object': $GLOBALS['bags'][] = new Bag; break;
    case 'cycle': $a = new Bag; $b = new Bag; $a->next = $b; $b->next = $a; break;
    case 'resource': $GLOBALS['file'] = fopen(__FILE__, 'r'); break;
    case 'memory': $kept->own[] = str_repeat('m', 200000); break;
    case 'shutdown': register_shutdown_function(fn () => 0); break;
    default: break;
    }
    echo 'done';
}));
