<?php
// Bodies that are read while they come (request_buffering = false), as asked for by ?do=
header('Content-Type: text/plain');
function wait_for(string $file): void
{
    for ($end = microtime(true) + 15; !file_exists($file) && microtime(true) < $end; clearstatcache()) {
        usleep(1000);
    }
}
switch ($_GET['do']) {
case 'echo':   // an answer to each piece
    $in = fopen('php://input', 'rb');
    stream_set_chunk_size($in, (int) ($_GET['piece'] ?? 8192));
    while (($piece = fread($in, (int) ($_GET['piece'] ?? 8192))) !== '' && $piece !== false) {
        echo strlen($piece), ' ', substr(sha1($piece), 0, 8), "\n";
        flush();
    }
    echo 'end ', connection_status(), "\n";
    break;
case 'late':   // reads when it is told to
    echo "started\n";
    flush();
    wait_for(__DIR__ . '/sessions/late-' . $_GET['key']);
    $n = 0;
    for ($in = fopen('php://input', 'rb'); !feof($in);) {
        $n += strlen(fread($in, 65536));
    }
    echo $n;
    break;
case 'aborted':
    ignore_user_abort(true);
    touch(__DIR__ . '/sessions/started-' . $_GET['key']);
    $n = strlen(file_get_contents('php://input'));
    file_put_contents(__DIR__ . '/sessions/aborted-' . $_GET['key'], json_encode([$n, connection_aborted(), connection_status()]));
    break;
case 'never':
    http_response_code(403);
    echo 'not wanted';
    break;
case 'disk':   // to a file, at constant memory
    $out = fopen($_GET['to'] ?? '/dev/null', 'wb');
    $n = 0;
    for ($in = fopen('php://input', 'rb'); !feof($in);) {
        $n += fwrite($out, fread($in, 65536));
    }
    echo json_encode(['bytes' => $n, 'memory' => memory_get_peak_usage()]);
    break;
case 'progress':   // what session.upload_progress knows of another request
    session_start(['read_and_close' => true]);
    echo json_encode($_SESSION['upload_progress_' . $_GET['key']] ?? null);
    break;
case 'login':
    session_start();
    echo session_id();
    break;
case 'kill':
    fread(fopen('php://input', 'rb'), 100);
    posix_kill(getmypid(), 9);
    sleep(5);
    break;
}
