<?php
// Writes a line, waits for the test to say "next" by a file, and so on: proves what reached the wire.
while (ob_get_level()) {
    ob_end_flush();
}
header('Content-Type: text/plain');
for ($i = 1; $i <= 3; $i++) {
    echo "line $i\n";
    flush();
    $end = microtime(true) + 10;
    while (!file_exists(__DIR__ . "/next-{$_GET['key']}-$i") && microtime(true) < $end) {
        usleep(1000);
        clearstatcache();
    }
}
echo "end\n";
