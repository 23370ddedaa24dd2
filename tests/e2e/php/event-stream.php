<?php
// Server-sent events for ?seconds=, some 40 a second, each with the time of its making.
header('Content-Type: text/event-stream');
header('X-Accel-Buffering: no');
while (ob_get_level()) {
    ob_end_clean();
}
for ($end = microtime(true) + (float)$_GET['seconds']; microtime(true) < $end && !connection_aborted(); usleep(25000)) {
    echo 'data: ', sprintf('%.6F', microtime(true)), ' ', str_repeat('.', random_int(1, 2000)), "\n\n";
}
