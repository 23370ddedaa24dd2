<?php
/* What scripts written for FrankenPHP's worker mode rely on, for test_worker_contract.py. */
class Kept { public string $id = 'obj1'; }
class MemoryHandler implements SessionHandlerInterface
{
    public static array $data = [];
    public function open(string $path, string $name): bool { return true; }
    public function close(): bool { return true; }
    public function read(string $id): string|false { return self::$data[$id] ?? ''; }
    public function write(string $id, string $data): bool { self::$data[$id] = $data; return true; }
    public function destroy(string $id): bool { unset(self::$data[$id]); return true; }
    public function gc(int $max_lifetime): int|false { return 0; }
}
$kept = new Kept;
$words = fopen(__DIR__ . '/words.txt', 'r');
spl_autoload_register(function (string $class): void {
    if ($class === 'Late')
        eval('class Late { public static int $made = 0; }');
});
$sessions = new MemoryHandler;
$n = 0;
do {
    $more = frankenphp_handle_request(function () use (&$n, $kept, $words, $sessions): void {
        $n++;
        switch ($_GET['do'] ?? '') {
        case 'object':
            echo "request $n, class ", (int) class_exists(Kept::class, false), ", $kept->id, ", spl_object_id($kept);
            break;
        case 'autoload':
            echo ++Late::$made;
            break;
        case 'word':
            echo trim(fgets($words));
            break;
        case 'putenv':
            putenv('WORKER_TEST=' . $_GET['v']);
            break;
        case 'getenv':
            echo getenv('WORKER_TEST');
            break;
        case 'env':
            echo $_ENV['ADDED'] ?? 'not yet';
            $_ENV['ADDED'] = 'added';
            break;
        case 'hints':
            header('Link: </style.css>; rel=preload; as=style');
            header("X-Request: $n");
            headers_send(103);
            header_remove('Link');
            echo 'Hello';
            break;
        case 'flush':
            echo 'He';
            flush();
            while (!file_exists($_GET['path']))
                usleep(1000);
            echo 'llo';
            break;
        case 'only-headers':
            http_response_code(204);
            flush();
            break;
        case 'server':
            print_r($_SERVER);
            break;
        case 'response-headers':
            header('Foo: bar');
            header('Foo2: bar2');
            header('Invalid');
            header("I: {$_GET['i']}");
            http_response_code((int) $_GET['i']);
            var_export(apache_response_headers());
            break;
        case 'error-log':
            error_log("request {$_GET['i']}");
            break;
        case 'require':
            echo require __DIR__ . '/contract_part.php';
            break;
        case 'large':
            echo str_repeat('Hey', 1 << 20);
            break;
        case 'after-finish':
            echo 'This is output';
            fastcgi_finish_request();
            echo 'This is not';
            file_put_contents($_GET['path'], connection_status());
            break;
        case 'put-session':
            session_set_save_handler($sessions, true);
            session_start();
            $_SESSION['test'] = 'kept';
            echo session_id();
            break;
        case 'read-session':
            session_set_save_handler($sessions, true);
            session_start();
            echo $_SESSION['test'] ?? 'none';
            break;
        case 'see-session':
            echo $_SESSION['test'] ?? 'none';
            break;
        case 'ini':
            echo ini_get('precision');
            ini_set('precision', '10');
            break;
        case 'raw-fiber':
            $f = new Fiber(function (): void { Fiber::suspend("Fiber {$_GET['i']}"); });
            echo $f->start();
            break;   // never resumed: destroyed while suspended
        default:
            echo "requests:$n";
        }
    });
    getopt('abc');
} while ($more);
