<?php
/* Kinds of request about input, output, headers and sessions. */
declare(strict_types=1);

namespace Isolation;

function show(mixed $value): void
{
    echo json_encode($value, JSON_UNESCAPED_SLASHES | JSON_PARTIAL_OUTPUT_ON_ERROR | JSON_INVALID_UTF8_SUBSTITUTE), "\n";
}

/** A session handler of the application. */
class MemorySession implements \SessionHandlerInterface
{
    public array $log = [];
    public function open(string $path, string $name): bool { $this->log[] = 'open'; return true; }
    public function close(): bool { $this->log[] = 'close'; return true; }
    public function read(string $id): string|false { $this->log[] = 'read'; return 'n|i:7;'; }
    public function write(string $id, string $data): bool { $this->log[] = "write $data"; return true; }
    public function destroy(string $id): bool { return true; }
    public function gc(int $max): int|false { return 0; }
}

return [
    'get' => function (int $n): void {
        show([$_GET['n'], $_SERVER['REQUEST_METHOD'], $_SERVER['QUERY_STRING'], str_repeat('x', 1000 * $n)]);
    },
    'post' => function (int $n): void {
        show([array_diff_key($_POST, ['left' => 1]), strlen(file_get_contents('php://input'))]);
    },
    'json_body' => function (int $n): void {
        show(json_decode(file_get_contents('php://input'), true, 32, JSON_THROW_ON_ERROR));
    },
    'input' => function (int $n): void {
        $stream = fopen('php://input', 'r');
        fseek($stream, $n * 10);
        show([fread($stream, 20), md5(file_get_contents('php://input')), feof($stream)]);
        // Left open.
    },
    'cookies' => function (int $n): void {
        show(array_diff_key($_COOKIE, ['secret' => 1, 'left' => 1]));
        setcookie("kind$n", "v$n", ['path' => '/', 'httponly' => true]);
        setrawcookie('raw', 'a%20b');
    },
    'upload' => function (int $n): void {
        $target = tempnam('/tmp', 'iso');
        foreach ($_FILES as $name => $file) {
            $content = file_get_contents($file['tmp_name']);
            show([$name, $file['name'], $file['size'], $file['error'], md5($content), is_uploaded_file($file['tmp_name'])]);
            if ($n === 2) {
                show([move_uploaded_file($file['tmp_name'], $target), md5_file($target)]);
            }
        }
        unlink($target);
        show(is_uploaded_file('/etc/passwd'));
    },
    'headers' => function (int $n): void {
        header("X-Kind: first $n");
        header("X-Kind: second $n", false);
        header("X-Gone: $n");
        header_remove('X-Gone');
        header('Cache-Control: max-age=' . $n);
        http_response_code([1 => 201, 2 => 404, 3 => 503][$n]);
        show(array_values(preg_grep('/^X-Kind/', headers_list())));
    },
    'redirect' => function (int $n): void {
        header("Location: /elsewhere/$n", true, [1 => 301, 2 => 302, 3 => 303][$n]);
    },
    'header_callback' => function (int $n): void {
        header_register_callback(static function () use ($n): void {
            header("X-Callback: $n");
            header_remove('X-Powered-By');
        });
        show(headers_sent());
    },
    'late_header' => function (int $n): void {
        echo str_repeat("line\n", 5000);
        flush();
        @header('X-Too-Late: yes');
        show([headers_sent(), error_get_last()['message'] !== null]);
    },
    'output_callback' => function (int $n): void {
        ob_start(static fn (string $text, int $phase): string => "[$phase:" . strtoupper($text) . ']', [1 => 0, 2 => 10, 3 => 100][$n]);
        echo 'some text of the request';
        echo ' and more';
        ob_start();
        echo 'inner, left open';
    },
    'output_rewrite' => function (int $n): void {
        output_add_rewrite_var('v', (string) $n);
        echo '<a href="page.php">link</a><form action="x.php"></form>';
        output_reset_rewrite_vars();
    },
    'output_gzip' => function (int $n): void {
        ob_start('ob_gzhandler');   // the client accepts no coding: passed as it is
        echo str_repeat('text ', 100 * $n);
    },
    'large_output' => function (int $n): void {
        for ($i = 0; $i < 200 * $n; $i++) {
            echo str_pad((string) $i, 1000, "$i,"), "\n";
        }
    },
    'flush' => function (int $n): void {
        for ($i = 0; $i < $n; $i++) {
            echo "part $i\n";
            while (ob_get_level() > 0) {
                ob_end_flush();
            }
            flush();
        }
    },
    'session_file' => function (int $n): void {
        session_name('PHPSESSID');
        session_cache_limiter('nocache');
        session_id('isolation' . $_GET['own']);
        session_start();
        $_SESSION['n'] = ($_SESSION['n'] ?? 0) + $n;
        show([session_id() === 'isolation' . $_GET['own'], $_SESSION['n']]);
        if ($n !== 2) {
            session_destroy();
            show($_SESSION);
        } else {
            $_SESSION = [];
            session_write_close();
        }
    },
    'session_open' => function (int $n): void {
        session_id('open' . $_GET['own']);
        session_start(['use_cookies' => 0, 'cache_limiter' => '']);
        $_SESSION['text'] = "kept $n";
        // Written at the end of the request.
        register_shutdown_function(static function (): void {
            show([session_status(), $_SESSION]);
            session_destroy();
        });
    },
    'session_handler' => function (int $n): void {
        $handler = new MemorySession();
        session_set_save_handler($handler, true);
        session_id('user');
        session_start(['use_cookies' => 0, 'cache_limiter' => '']);
        $_SESSION['n'] += $n;
        if ($n !== 3) {
            session_write_close();
        }
        show([$handler->log, $_SESSION]);
    },
    'fastcgi_finish' => function (int $n): void {
        echo "before the end\n";
        fastcgi_finish_request();
        echo 'nobody sees this';
        $GLOBALS['late'] = $_COOKIE['secret'];
    },
    'connection' => function (int $n): void {
        show([connection_status(), connection_aborted(), ignore_user_abort(false)]);
    },
    'superglobals' => function (int $n): void {
        $GLOBALS["new$n"] = $_COOKIE['secret'];
        $_REQUEST["r$n"] = $_COOKIE['secret'];
        unset($_SERVER['argv']);
        show([isset($GLOBALS["new$n"]), isset($_SESSION), gettype($_SERVER['REQUEST_TIME_FLOAT']), getenv('LEFT') === $_COOKIE['secret']]);
    },
    'filter' => function (int $n): void {
        show([filter_input(INPUT_GET, 'n', FILTER_VALIDATE_INT), filter_input(INPUT_COOKIE, 'left'), filter_has_var(INPUT_POST, 'own')]);
    },
];
