<?php
// Answers that leave while they are made, as asked for by ?do=
switch ($_GET['do']) {
case 'unbuffered':   // no flush() anywhere
    header('X-Accel-Buffering: no');
    header('Content-Type: text/event-stream');
    while (ob_get_level()) {
        ob_end_clean();
    }
    for ($i = 1; $i <= 3; $i++) {
        echo "data: $i\n\n";
        for ($end = microtime(true) + 15; !file_exists(__DIR__ . "/sessions/event-{$_GET['key']}-$i") && microtime(true) < $end; clearstatcache()) {
            usleep(1000);
        }
    }
    break;
case 'events':
    header('X-Accel-Buffering: no');
    header('Content-Type: text/event-stream');
    for ($i = 0, $n = (int) $_GET['n']; $i < $n; $i++) {
        echo 'data: ' . str_pad((string) $i, 60, '.') . "\n\n";
    }
    break;
case 'readfile':
    header('Content-Length: ' . filesize($_GET['file']));
    readfile($_GET['file']);
    break;
case 'generator':
    $pieces = (function (int $left) {
        for ($piece = str_repeat('g', 65536); $left > 0; $left -= 65536) {
            yield $left < 65536 ? substr($piece, 0, $left) : $piece;
        }
    })((int) $_GET['n']);
    foreach ($pieces as $piece) {
        echo $piece;
    }
    break;
case 'memory':
    echo memory_get_peak_usage();
    break;
}
