<?php
/* A worker script for test_snapshot_report.py: each URL loads something late, or leaves something behind. */
spl_autoload_register(function (string $class): void {
    if (is_file($file = __DIR__ . '/src/' . str_replace('\\', '/', $class) . '.php'))
        require $file;
});

class Kept
{
    public static array $cache = [];
    public static int $secret = 0;
    public static bool $busy = false;
}

function remember(string $what): int
{
    static $seen = [];
    return array_push($seen, $what);
}

/* As Twig does: a class that no autoloader knows, in a file of its own. */
function view(string $name): string
{
    $class = "View_$name";
    if (!class_exists($class, false))
        include_once __DIR__ . "/views/$name.php";
    return $class::render();
}

$loaded = fn (): string => json_encode(array_values(array_filter(
    ['Late\Page', 'Late\Base', 'Late\Twice', 'View_a', 'View_b'],
    fn ($class) => class_exists($class, false) || interface_exists($class, false))));

$answer = function () use ($loaded): void {
    header('X-Pid: ' . getmypid());
    header('X-Loaded: ' . $loaded());
    header('X-Included: ' . count(get_included_files()));
    $parts = explode('/', trim(parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH), '/'));
    switch ($parts[0]) {
    case 'late':
        echo (new Late\Page)->title();
        break;
    case 'view':
        echo view('a'), view('b');
        break;
    case 'class':
        echo class_exists('Late\\' . $parts[1]) ? 'there' : 'not there';
        break;
    case 'twice':
        require __DIR__ . '/src/Late/Twice.php';
        echo 'declared';
        break;
    case 'effect':
        include __DIR__ . '/effect.php';
        echo EFFECT;
        break;
    case 'locale':
        echo setlocale(LC_ALL, 'C.UTF-8');
        break;
    case 'iconv':
        echo bin2hex(iconv('UTF-8', 'ISO-8859-7', 'Ω'));
        break;
    case 'leak':
        Kept::$cache[] = str_repeat('private', 3);
        Kept::$secret = 4711;
        remember('private');
        $GLOBALS['found'] = ['private', 'data'];
        ini_set('precision', '7');
        putenv('LEFT=private');
        define('LEFT_BEHIND', 'private');
        set_error_handler(fn () => true);
        chdir('/');
        echo 'left';
        break;
    case 'die':
        posix_kill(getmypid(), 11);
        break;
    default:
        echo 'ok';
    }
};
$handler = function () use ($answer): void {
    Kept::$busy = true;
    $answer();
    Kept::$busy = false;
};
if (getenv('OPEN'))
    $open = stream_socket_server('tcp://127.0.0.1:0');
while (frankenphp_handle_request($handler))
    ;
