<?php
// Everything a script can learn of its request, in an order of its own.
$server = $_SERVER;
ksort($server);
header('Content-Type: text/plain');
foreach (['server' => $server, 'get' => $_GET, 'post' => $_POST, 'cookie' => $_COOKIE, 'files' => $_FILES,
          'request' => $_REQUEST] as $name => $values) {
    echo $name, ': ', var_export($values, true), "\n";
}
echo 'input: ', file_get_contents('php://input'), "\n";
echo 'headers: ';
$headers = getallheaders();
ksort($headers);
var_export($headers);
echo "\nenv: ";
foreach (['REQUEST_METHOD', 'HTTP_HOST', 'PATH', 'HOME', 'USER', 'SERVER_NAME'] as $name) {
    echo $name, '=', json_encode(getenv($name)), ' ';
}
echo "\nfilter: ", json_encode([filter_input_array(INPUT_GET), filter_input(INPUT_SERVER, 'QUERY_STRING'),
    filter_input(INPUT_SERVER, 'REQUEST_METHOD'), filter_input(INPUT_ENV, 'PATH')]);
echo "\nmisc: ", json_encode([getcwd() === __DIR__, ini_get('display_errors'), headers_sent(), http_response_code(),
    connection_status(), ob_get_level(), get_included_files() === [__FILE__], php_sapi_name(), isset($argv), ignore_user_abort(),
    $_SERVER['REQUEST_TIME'] <= time(), get_cfg_var('cfg_file_path') !== false, php_ini_loaded_file(), ini_get('max_execution_time'),
    ini_get('memory_limit'), ini_get('error_log'), sys_get_temp_dir(), get_current_user()]), "\n";
