<?php
set_error_handler(function ($type, $message) { throw new ErrorException($message); });
$requests = 0;
while (frankenphp_handle_request(function () use (&$requests) {
    $requests++;
    $errors = frankenphp_request_parse_errors();
    if ($errors !== [])
        http_response_code(400);
    echo "requests:$requests\n", json_encode($errors);
}));
