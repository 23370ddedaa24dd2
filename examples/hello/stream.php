<?php
/* Five lines, one every 200 ms: each reaches the browser when it is flushed, not at the end. */
header('Content-Type: text/plain; charset=utf-8');
for ($i = 1; $i <= 5; $i++) {
    printf("line %d of 5 at %.3f s\n", $i, microtime(true) - $_SERVER['REQUEST_TIME_FLOAT']);
    flush();
    usleep(200000);
}
