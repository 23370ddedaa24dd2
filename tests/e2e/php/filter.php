<?php
echo json_encode([filter_input(INPUT_GET, 'n', FILTER_VALIDATE_INT), filter_input(INPUT_POST, 'p'),
    filter_input(INPUT_COOKIE, 'c'), filter_input(INPUT_SERVER, 'REQUEST_METHOD'), filter_has_var(INPUT_GET, 'none'),
    request_parse()]);
function request_parse() { return $_GET['n'] ?? null; }
