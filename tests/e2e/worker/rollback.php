<?php
/* A worker script for test_rollback.py: what its boot does says the environment, what a request does says its URL. */
class Kept
{
    public static int $n = 0;
    public ?string $at_end = null;

    public function __destruct()
    {
        if ($this->at_end)
            file_put_contents($this->at_end, 'ended ', FILE_APPEND);
    }
}

$boot = bin2hex(random_bytes(4));
$kept = new Kept;
$local = 0;
$keep = null;
register_shutdown_function(function () { if (isset($_GET['log'])) file_put_contents($_GET['log'], 'boot ', FILE_APPEND); });
switch ((string) getenv('BOOT')) {
case 'socket':
    $server = stream_socket_server('tcp://127.0.0.1:0');
    $keep = [$server, stream_socket_client('tcp://' . stream_socket_get_name($server, false))];
    break;
case 'pipe':
    $keep = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
    break;
case 'child':
    $keep = proc_open(['sleep', '1000'], [], $pipes);
    break;
case 'broken':
    if (file_exists(__DIR__ . '/broken')) {
        echo 'the boot printed this';
        throw new LogicException('broken boot');
    }
    break;
}

$handler = function () use ($boot, $kept, &$local): void {
    static $static = 0;
    $state = [++Kept::$n, ++$local, ++$static, count(get_defined_constants(true)['user'] ?? []), ini_get('precision'), getcwd(), umask()];
    define("LEFT_$static", 1);
    ini_set('precision', '7');
    chdir('/');
    umask(0);
    header('X-Pid: ' . getmypid());
    header('X-Boot: ' . $boot);
    header('X-State: ' . json_encode($state));
    switch (trim(parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH), '/')) {
    case 'random':
        echo json_encode([mt_rand(), lcg_value(), uniqid('', true), bin2hex(random_bytes(8)), bin2hex(openssl_random_pseudo_bytes(8)),
            array_rand(range(0, 1 << 16)), str_shuffle(implode(range('a', 'z'))), session_create_id()]);
        break;
    case 'exit':
        register_shutdown_function(function () { echo ' shutdown'; });
        echo 'before';
        exit;
    case 'timer':   // as an extension would make one, on the wall clock
        $libc = FFI::cdef('int timer_create(int clock, void *event, void **ret);');
        $libc->timer_create(1, null, FFI::addr($libc->new('void *')));
        echo getmypid();
        break;
    case 'child':
        if (($child = pcntl_fork()) === 0) {
            posix_kill(posix_getpid(), SIGSTOP);
            exit;
        }
        echo json_encode([getmypid(), $child]);
        break;
    case 'shutdown':
        register_shutdown_function(function () { echo ' shutdown'; });
        echo 'handler';
        break;
    case 'fatal':
        echo 'before ';
        none();
    case 'memory':
        $x = str_repeat('x', 512 << 20);
    case 'forever':
        set_time_limit(1);
        for (;;);
    case 'throw':
        throw new DomainException('thrown');
    case 'session':
        session_start();
        echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
        break;
    case 'upload':
        echo filesize($_FILES['f']['tmp_name']), ' ', $_FILES['f']['tmp_name'];
        break;
    case 'ends':
        $kept->at_end = $_GET['log'];
        echo 'ends';
        break;
    case 'file':
        $GLOBALS['gz'] = gzopen($_GET['path'], 'w');
        gzwrite($GLOBALS['gz'], 'written');
        break;
    case 'large':
        $x = str_repeat('x', 60 << 20);
        echo strlen($x);
        break;
    case 'kill':
        posix_kill(getmypid(), SIGKILL);
    case 'crash':
        posix_kill(getmypid(), SIGSEGV);
    case 'fork':
        $pid = pcntl_fork();
        if ($pid === 0)
            return;
        pcntl_waitpid($pid, $status);
        echo 'parent ', pcntl_wexitstatus($status);
        break;
    case 'close':
        foreach (range(3, 60) as $fd)
            FFI::cdef('int close(int);')->close($fd);
        echo 'closed';
        break;
    case 'reset-opcache':
        var_dump(opcache_reset());
        break;
    case 'warm':
        echo json_encode([$_SERVER['HTTP_HOST'], $_SERVER['QUERY_STRING'], $_COOKIE]);
        break;
    case 'die-warm':
        if (!isset($_SERVER['HTTP_X_REAL']))
            exit;
        echo 'real';
        break;
    default:
        echo 'ok';
    }
};
if (getenv('SEEN'))
    $handler = fn () => file_put_contents(getenv('SEEN'), "{$_SERVER['HTTP_HOST']}{$_SERVER['REQUEST_URI']} ", FILE_APPEND);
while (frankenphp_handle_request($handler))
    gc_collect_cycles();
