<?php
// Calls functions of the answer's head as ?calls= says, a JSON list of [function, argument...]; bytes are written \u00xx.
// Then prints what PHP said and what it has noted.
const ALLOWED = ['header', 'setcookie', 'setrawcookie', 'header_remove', 'http_response_code', 'ini_set', 'session_name', 'session_id', 'session_start',
                 'session_set_cookie_params', 'session_cache_limiter', 'session_cache_expire', 'echo', 'flush', 'ob_start', 'ob_end_flush', 'ob_clean',
                 'headers_sent', 'headers_list', 'header_register_callback', 'trigger_error', 'readfile', 'include', 'output_add_rewrite_var', 'missing',
                 'headers_send', 'sleep_ms', 'repeat', 'exit'];
function bytes($x) { return is_string($x) ? mb_convert_encoding($x, 'ISO-8859-1', 'UTF-8') : (is_array($x) ? array_map('bytes', $x) : $x); }
set_error_handler(function ($n, $text) use (&$said) { $said[] = $text; });
function call($name, $arguments) {
    switch ($name) {
    case 'echo': echo $arguments[0]; return null;
    case 'flush':
        while (ob_get_level())
            ob_end_flush();
        flush();
        return null;
    case 'include': return include __DIR__ . '/' . basename($arguments[0]);
    case 'missing': missing_function();
    case 'exit': exit($arguments[0]);
    case 'repeat': // how often, with %d in the argument
        for ($i = 0; $i < $arguments[0]; $i++)
            $arguments[1](sprintf($arguments[2], $i), ...array_slice($arguments, 3));
        return $i;
    case 'header_register_callback': return header_register_callback(function () { header('X-Callback: ran'); header_remove('X-Gone'); });
    default: return $name(...$arguments);
    }
}
$results = [];
foreach (json_decode(strlen($_POST['calls'] ?? '') ? $_POST['calls'] : $_GET['calls'], true) as $one) {
    $name = array_shift($one);
    in_array($name, ALLOWED, true) || in_array($one[1] ?? '', ALLOWED, true) ?: exit("not allowed: $name");
    $said = [];
    $arguments = bytes($one);
    foreach ($arguments as &$a)   // ["long", n]: a long text
        if (is_array($a) && ($a[0] ?? null) === 'long')
            $a = $a[1] . str_repeat('v', $a[2]);
    unset($a);
    try {
        $value = call($name, $arguments);
    } catch (Throwable $e) {
        $value = get_class($e) . ': ' . $e->getMessage();
    }
    $results[] = json_encode([$name, $value, $said], JSON_INVALID_UTF8_SUBSTITUTE | JSON_UNESCAPED_SLASHES);
}
echo implode("\n", $results), "\n", http_response_code(), headers_sent($file, $line) ? ' sent by ' . basename($file) . ":$line" : '', "\n";
