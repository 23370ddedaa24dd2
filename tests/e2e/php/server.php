<?php
// What the request looks like to a script, as JSON.
header('Content-Type: application/json');
echo json_encode([
    'server' => $_SERVER,
    'get' => $_GET,
    'post' => $_POST,
    'cookie' => $_COOKIE,
    'request' => $_REQUEST,
    'files' => array_map(fn ($f) => $f, $_FILES),
    'input' => file_get_contents('php://input', length: 1 << 20),
    'sapi' => PHP_SAPI,
    'argv' => $argv ?? null,
    'headers' => getallheaders(),
    'cwd' => getcwd(),
], JSON_INVALID_UTF8_SUBSTITUTE | JSON_UNESCAPED_SLASHES);
