<?php
// Answers that may have no body, and one of a length that is known beforehand.
switch ($_GET['do']) {
case '304':
    http_response_code(304);
    header('ETag: "v1"');
    break;
case '304-body':
    http_response_code(304);
    echo 'a body that nobody may see';
    break;
case '304-flush':
    header('HTTP/1.1 304 Not Modified');
    header('X-A: b');
    flush();
    echo 'late';
    break;
case '304-line':
    header('Status: 304');
    header('Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT');
    echo 'x';
    break;
case 'etag':
    header('ETag: "v1"');
    header('Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT');
    if (($_SERVER['HTTP_IF_NONE_MATCH'] ?? '') === '"v1"') {
        http_response_code(304);
        exit;
    }
    echo 'version 1';
    break;
case '204':
    http_response_code(204);
    break;
case '204-body':
    http_response_code(204);
    echo 'a body that nobody may see';
    break;
case '205-body':
    http_response_code(205);
    break;
case 'sized':
    header('Content-Type: application/octet-stream');
    header('Content-Length: ' . $_GET['n']);
    for ($left = (int)$_GET['n'], $i = 0; $left > 0; $left -= 65536, $i++) {
        echo substr(str_repeat(pack('N', $i), 16384), 0, $left);
    }
    break;
}
