<?php
/* A worker script that does what it is told, for test_worker_mode.py. */
$boot = ['server' => $_SERVER, 'id' => bin2hex(random_bytes(4)), 'env' => $_ENV];
$count = 0;
$left = null;

class Kept { public static array $values = []; }

$handler = function () use (&$count, $boot, &$left): void {
    $count++;
    header('X-Count: ' . $count);
    header('X-Instance: ' . $boot['id']);
    header('X-Pid: ' . getmypid());
    switch (basename(parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH))) {
    case 'globals':
        header('Content-Type: application/json');
        echo json_encode(['get' => $_GET, 'post' => $_POST, 'cookie' => $_COOKIE, 'request' => $_REQUEST, 'session' => isset($_SESSION),
            'files' => $_FILES, 'server' => $_SERVER, 'env' => $_ENV, 'input' => file_get_contents('php://input')]);
        break;
    case 'boot':
        header('Content-Type: application/json');
        echo json_encode($boot);
        break;
    case 'remember':
        Kept::$values[] = $_GET['v'];
        echo implode(',', Kept::$values);
        break;
    case 'session':
        session_start();
        echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
        break;
    case 'session-id':
        echo session_id(), '|', session_status();
        break;
    case 'upload':
        $f = $_FILES['f'];
        echo $f['name'], ' ', filesize($f['tmp_name']), ' ', (int) is_uploaded_file($f['tmp_name']), ' ', $f['tmp_name'];
        break;
    case 'exists':
        echo (int) file_exists($_GET['path']);
        break;
    case 'buffers':
        ob_start();
        ob_start();
        echo 'two levels left open';
        break;
    case 'ob-level':
        echo ob_get_level();
        break;
    case 'status':
        http_response_code((int) $_GET['code']);
        header('X-Once: yes');
        echo 'status';
        break;
    case 'warn':
        echo $nothing;
        echo error_get_last()['message'] ?? 'none';
        break;
    case 'last-error':
        echo error_get_last()['message'] ?? 'none';
        break;
    case 'throw':
        echo 'hello ';
        throw new RuntimeException("request $count");
    case 'exit':
        register_shutdown_function(function () { echo ' shutdown'; });
        echo 'before';
        exit(3);
    case 'die-text':
        die('last words');
    case 'fatal':
        (function () { not_a_function(); })();
        break;
    case 'memory':
        ini_set('memory_limit', '16M');
        str_repeat('x', 64 << 20);
        break;
    case 'forever':
        set_time_limit(1);
        for (;;);
    case 'finish':
        echo 'early';
        fastcgi_finish_request();
        file_put_contents($_GET['path'], 'after');
        break;
    case 'abort':
        for ($i = 0; $i < 5000 && !connection_aborted(); $i++) {
            echo str_repeat('a', 20000);
            flush();
            usleep(1000);
        }
        file_put_contents($_GET['path'], connection_status() . ' ' . ignore_user_abort());
        break;
    case 'nested':
        try {
            frankenphp_handle_request(function () {});
        } catch (RuntimeException $e) {
            echo $e->getMessage();
        }
        break;
    case 'fiber':
        $f = new Fiber(function () { echo 'in ', Fiber::suspend(), ' fiber'; });
        $f->start();
        $f->resume('a');
        break;
    case 'streams':
        for ($i = 0; $i < 20; $i++)
            $left[] = file_get_contents('php://input');
        $left = null;
        echo count(get_resources());
        break;
    case 'headers':
        header('Content-Type: application/json');
        echo json_encode(getallheaders());
        break;
    case 'log':
        frankenphp_log('said by a handler', FRANKENPHP_LOG_LEVEL_WARN, ['who' => 'Ä/b', 'n' => [1, 2]]);
        break;
    case 'slow':
        if (isset($_GET['path']))
            touch($_GET['path']);
        usleep(1000 * (int) $_GET['ms']);
        echo 'slow';
        break;
    case 'fork':
        $pid = pcntl_fork();
        if ($pid === 0)
            return;
        pcntl_waitpid($pid, $status);
        echo 'parent ', pcntl_wexitstatus($status);
        break;
    case 'reset-opcache':
        var_dump(opcache_reset());
        break;
    default:
        echo 'count ', $count;
    }
};

do {
    $more = frankenphp_handle_request($handler);
    echo 'nobody hears this';
} while ($more);
