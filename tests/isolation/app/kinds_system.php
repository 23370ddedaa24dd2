<?php
/* Kinds of request that use the system: files, descriptors, processes, signals, name services. */
declare(strict_types=1);

namespace Isolation;

return [
    'tmpfile' => function (int $n): void {
        $files = [];
        for ($i = 0; $i < 5 * $n; $i++) {
            $files[] = $f = tmpfile();
            fwrite($f, "text $i");
        }
        rewind($f);
        show(fread($f, 100));
        $GLOBALS['files'] = $files;   // left open
    },
    'files' => function (int $n): void {
        $file = tempnam('/tmp', 'iso');
        $f = fopen($file, 'c+');
        flock($f, LOCK_EX);
        fwrite($f, str_repeat("line $n\n", 200));
        ftruncate($f, 70);
        show([fstat($f)['size'], fileperms($file) & 0777, count(file($file))]);
        unlink($file);
        // Left open and locked.
        $GLOBALS['locked'] = $f;
    },
    'buffered_write' => function (int $n): void {
        // As above, by a filter that keeps everything to the end.
        $GLOBALS['written'] = $f = fopen(SITE . "/data/{$_GET['own']}-$n.b64", 'w');
        stream_filter_append($f, 'convert.base64-encode', STREAM_FILTER_WRITE);
        show(fwrite($f, "half a group $n"));
    },
    'umask' => function (int $n): void {
        umask(0);
        $file = SITE . '/data/' . $_GET['own'] . '.mode';
        @unlink($file);
        touch($file);
        chmod($file, 0600 + $n);
        clearstatcache();
        show(fileperms($file) & 0777);
        unlink($file);
    },
    'directories' => function (int $n): void {
        $d = SITE . '/data/d' . $_GET['own'];
        mkdir($d) && chmod($d, 0700);   // the umask is dirty
        chdir($d);
        touch('a');
        show([glob('*'), basename(getcwd()), scandir('.')]);
        $GLOBALS['directory'] = opendir($d);
        unlink('a');
        rmdir($d);
    },
    'shell' => function (int $n): void {
        show([shell_exec("echo out $n"), exec('echo last; exit 3', $lines, $status), $lines, $status]);
    },
    'proc_open' => function (int $n): void {
        $p = proc_open(['cat'], [['pipe', 'r'], ['pipe', 'w'], ['file', '/dev/null', 'w']], $pipes, '/', ['A' => 'b']);
        fwrite($pipes[0], "through cat $n");
        fclose($pipes[0]);
        show(stream_get_contents($pipes[1]));
        show(proc_get_status($p)['running'] !== null);
        if ($n === 1) {
            proc_close($p);
        } else {
            $GLOBALS['process'] = $p;   // left open
        }
    },
    'popen' => function (int $n): void {
        $GLOBALS['pipe'] = $p = popen("echo popen $n", 'r');
        show(fgets($p));
    },
    'fork' => function (int $n): void {
        $pid = pcntl_fork();
        if ($pid === 0) {
            posix_kill(posix_getpid(), SIGKILL);
        }
        pcntl_waitpid($pid, $status);
        show([pcntl_wifsignaled($status), pcntl_wtermsig($status)]);
    },
    'signals' => function (int $n): void {
        pcntl_async_signals(true);
        $got = [];
        pcntl_signal(SIGUSR1, static function (int $signal) use (&$got): void {
            $got[] = $signal;
        });
        for ($i = 0; $i < $n; $i++) {
            posix_kill(posix_getpid(), SIGUSR1);
        }
        pcntl_signal_dispatch();
        show(count($got) > 0);
        pcntl_signal(SIGUSR2, SIG_IGN);
    },
    'alarm' => function (int $n): void {
        pcntl_signal(SIGALRM, static function (): void {
            echo "alarm\n";
        });
        pcntl_alarm(600);
        show(pcntl_alarm(500 + $n) > 590);
        // Still running at the end.
    },
    'name_service' => function (int $n): void {
        show([posix_getpwnam('root')['uid'], posix_getgrgid(0)['name'], gethostbyname('localhost'), getservbyname('http', 'tcp'), getprotobyname('udp')]);
    },
    'stat_cache' => function (int $n): void {
        $file = tempnam('/tmp', 'iso');
        file_put_contents($file, str_repeat('x', $n));
        $before = filesize($file);
        file_put_contents($file, 'longer text');
        clearstatcache();
        show([$before, filesize($file), realpath('/proc/../etc/hostname'), is_dir(SITE . '/app/../lazy')]);
        unlink($file);
    },
    'sockets' => function (int $n): void {
        [$a, $b] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
        fwrite($a, "pair $n\n");
        show(fgets($b));
        $server = stream_socket_server('tcp://127.0.0.1:0');
        $client = stream_socket_client('tcp://' . stream_socket_get_name($server, false));
        $peer = stream_socket_accept($server);
        stream_set_blocking($peer, false);
        fwrite($client, 'hello');
        $read = [$peer];
        $w = $e = null;
        stream_select($read, $w, $e, 5);
        show(fread($peer, 5));
        $GLOBALS['sockets'] = [$a, $b, $server, $client, $peer];   // left open
        $raw = socket_create(AF_INET, SOCK_DGRAM, 0);
        $GLOBALS['raw'] = $raw;
    },
    'shared_memory' => function (int $n): void {
        $id = shmop_open(0x7A000000 + (int) $_GET['own'], 'c', 0600, 1000);
        shmop_write($id, "shared $n", 0);
        show(shmop_read($id, 0, 8));
        shmop_delete($id);
    },
    'environment' => function (int $n): void {
        putenv("ISOLATION_$n=value");
        putenv('LEFT');
        putenv('PATH=/usr/bin:/bin');
        show([getenv("ISOLATION_$n"), getenv('LEFT'), trim(shell_exec("echo \$ISOLATION_$n"))]);
    },
    'ini' => function (int $n): void {
        ini_set('date.timezone', 'Europe/Paris');
        ini_set('serialize_precision', (string) (4 + $n));
        ini_set('session.gc_maxlifetime', (string) $n);
        show([json_encode(1 / 3), ini_get('session.gc_maxlifetime'), date_default_timezone_get()]);
        ini_restore('serialize_precision');
    },
    'locale' => function (int $n): void {
        show([setlocale(LC_CTYPE, 'C'), strtoupper('äb'), setlocale(LC_ALL, ['nowhere', 'C.UTF-8']), localeconv()['decimal_point']]);
    },
    'priority' => function (int $n): void {
        show([pcntl_getpriority(), posix_getrlimit()['soft openfiles'] > 0]);
    },
    'output_file' => function (int $n): void {
        $out = fopen('php://output', 'w');
        fwrite($out, "to php://output $n\n");
        fputcsv($out, ['a', "b $n", 'c"d']);
        readfile(SITE . '/lazy/value1.php');
    },
    'descriptors' => function (int $n): void {
        $many = [];
        for ($i = 0; $i < 30 * $n; $i++) {
            $many[] = fopen('/dev/null', 'r');
        }
        show(count($many));
        $GLOBALS['many'] = $many;
    },
    'sleep' => function (int $n): void {
        usleep(2000 * $n);
        show('woke');
    },
];
