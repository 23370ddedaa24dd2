<?php
// Ways to send a body. Answers are the same however they were cut.
switch ($_GET['do']) {
case 'pieces':
    for ($i = 0; $i < (int)$_GET['n']; $i++) {
        echo "piece $i\n";
        if (ob_get_level())
            ob_flush();
        flush();
    }
    break;
case 'big':
    echo str_repeat('0123456789abcdef', intdiv((int)$_GET['n'], 16)), str_repeat('x', (int)$_GET['n'] % 16);
    break;
case 'late':
    echo 'first';
    while (ob_get_level())
        ob_end_flush();
    flush();
    header('X-Late: 1');
    var_dump(headers_sent(), http_response_code(404));
    break;
case 'gzip':
    ini_set('zlib.output_compression', '1');
    echo str_repeat('compress me ', 1000);
    break;
case 'file':
    header('Content-Type: application/octet-stream');
    header('Content-Length: ' . filesize(__FILE__));
    readfile(__FILE__);
    break;
case 'binary':
    header('Content-Type: application/octet-stream');
    for ($i = 0; $i < 256; $i++)
        echo chr($i);
    break;
case 'implicit':
    ob_implicit_flush(true);
    echo 'a', 'b', 'c';
    break;
case 'callback':
    ob_start(fn($text, $phase) => strtoupper($text) . "[$phase]", 10);
    echo 'lower case', ' more', ' and more';
    break;
}
