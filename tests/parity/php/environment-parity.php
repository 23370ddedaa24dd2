<?php
// What a request changes about its process, and what the next one on the same worker sees of it: ?do=
$dir = __DIR__ . '/sessions';
switch ($_GET['do'] ?? 'look') {
case 'change':
    setlocale(LC_ALL, 'de_DE.UTF-8', 'C.UTF-8', 'C');
    putenv('PARITY_LEFT=behind');
    umask(0);
    chdir('/');
    if (extension_loaded('pcntl')) {   # PHP-FPM's build has none
        pcntl_async_signals(true);
        pcntl_signal(SIGUSR1, function () { });
        pcntl_signal(SIGTERM, SIG_IGN);
        pcntl_signal(SIGALRM, function () { });
    }
    set_time_limit(7);
    ini_set('memory_limit', '64M');
    error_log('left', 3, "$dir/own.log");
    break;
case 'proc_open':
    $p = proc_open(['cat'], [['pipe', 'r'], ['pipe', 'w'], ['pipe', 'w']], $io, '/', ['ONLY' => 'this']);
    fwrite($io[0], "through\n");
    fclose($io[0]);
    echo stream_get_contents($io[1]), proc_close($p);
    break;
case 'exec':
    exec('printf "%s\n" one two; exit 3', $lines, $code);
    echo json_encode([$lines, $code, shell_exec('echo $PPID') > 1]);
    break;
case 'sockets':
    socket_create_pair(AF_UNIX, SOCK_STREAM, 0, $pair);
    socket_write($pair[0], 'over');
    $server = stream_socket_server('tcp://127.0.0.1:0');
    $client = stream_socket_client('tcp://' . stream_socket_get_name($server, false));
    fwrite(stream_socket_accept($server), 'tcp');
    echo socket_read($pair[1], 4), ' ', fread($client, 3);
    break;
case 'mail':
    @unlink("$dir/mail");
    var_dump(mail('to@example.org', 'Subject', "Body\n", 'From: from@example.org', '-fbounce@example.org'));
    echo preg_replace('/^X-PHP-Originating-Script:.*$/m', 'script', file_get_contents("$dir/mail"));
    break;
case 'mail_fails':
    var_dump(@mail('fail@example.org', 'Subject', "Body\n"));
    break;
case 'look':
    echo json_encode([setlocale(LC_ALL, '0') === setlocale(LC_ALL, 0), setlocale(LC_NUMERIC, 0), getenv('PARITY_LEFT'), basename(getcwd()),
                      ini_get('max_execution_time'),
                      ini_get('memory_limit'), date('e'), posix_getpgrp() > 1, sprintf('%.1f', 1.5)]);
    break;
case 'handlers':
    echo json_encode([is_object(pcntl_signal_get_handler(SIGUSR1)), is_object(pcntl_signal_get_handler(SIGUSR2)), pcntl_async_signals()]);
    break;
case 'signal':   // a handler of one request is not that of the next
    pcntl_async_signals(true);
    pcntl_signal(SIGUSR2, function () { echo 'mine '; });
    posix_kill(getmypid(), SIGUSR2);
    echo is_object(pcntl_signal_get_handler(SIGUSR2)) ? 'set' : 'none';
    break;
case 'interrupt':   // signals of terminals end a program as they would anywhere
    foreach ([SIGINT, SIGHUP] as $signal) {
        $p = proc_open(['sleep', '60'], [], $io);
        proc_terminate($p, $signal);
        while (($state = proc_get_status($p))['running'])
            usleep(1000);
        echo "sleep ended by $state[termsig], ";
        if (($pid = pcntl_fork()) === 0) {
            posix_kill(getmypid(), $signal);
            exit;
        }
        pcntl_waitpid($pid, $status);
        echo 'child by ', pcntl_wtermsig($status), "\n";
    }
    break;
case 'fork':   // the child prints, exits, and answers nobody
    echo 'before ';
    $pid = pcntl_fork();
    if ($pid === 0) {
        exit(5);
    }
    pcntl_waitpid($pid, $status);
    echo 'parent ', pcntl_wexitstatus($status);
    break;
}
