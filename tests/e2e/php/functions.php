<?php
// Things that depend on the SAPI.
echo json_encode([
    'sapi' => php_sapi_name(), 'finish' => function_exists('fastcgi_finish_request'),
    'headers' => function_exists('getallheaders'), 'apache' => function_exists('apache_request_headers'),
    'ini' => php_ini_loaded_file(), 'pid' => getmypid(), 'uid' => posix_geteuid(),
    'memory' => ini_get('memory_limit'), 'html_errors' => ini_get('html_errors'),
    'implicit_flush' => ini_get('implicit_flush'), 'register_argc_argv' => ini_get('register_argc_argv'),
    'time' => abs($_SERVER['REQUEST_TIME'] - time()) <= 2,
    'time_float' => abs($_SERVER['REQUEST_TIME_FLOAT'] - microtime(true)) < 2,
    'stdin' => defined('STDIN'), 'extensions' => get_loaded_extensions(),
]);
