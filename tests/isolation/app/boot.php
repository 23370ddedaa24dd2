<?php
/* The boot of the isolation suite's application: what a framework's kernel would be. It seeds every source
 * of random numbers and leaves one of everything in which a request can leave something behind. */
declare(strict_types=1);

namespace Isolation;

const SITE = __DIR__ . '/..';

class Service
{
    public array $seen = [];
    public ?object $next = null;
    public static array $shared = [];
    public static int $count = 0;

    public function remember(string $what): int
    {
        static $calls = 0;
        $this->seen[] = $what;
        return ++$calls;
    }

    public function calls(): int
    {
        return (new \ReflectionMethod($this, 'remember'))->getStaticVariables()['calls'] ?? 0;
    }
}

enum Colour: string
{
    case Red = 'red';
    case Blue = 'blue';
    const Favourite = self::Blue;
}

function counter(bool $add): int
{
    static $n = 0;
    return $add ? ++$n : $n;
}

function numbers(): \Generator
{
    for ($i = 0;; $i++) {
        yield $i;
    }
}

final class Boot
{
    public static Service $service;
    public static \Closure $closure;
    public static \Generator $generator;
    public static \SplObjectStorage $storage;
    public static \WeakMap $weak;
    public static \ArrayObject $array;
    public static \DateTime $date;
    public static \DOMDocument $document;
    public static \SplDoublyLinkedList $list;
    public static \SplFixedArray $fixed;
    public static \SplPriorityQueue $heap;
    public static \Collator $collator;
    public static ?\FFI $libc = null;
    /** @var resource */
    public static $file;
    /** @var resource */
    public static $memory;
    /** @var array<string, callable(int): void> */
    public static array $kinds;
    public static \PDO $random;
}

function boot(): void
{
    Boot::$service = new Service();
    Boot::$closure = function (bool $add): int {
        static $n = 0;
        return $add ? ++$n : $n;
    };
    Boot::$generator = numbers();
    Boot::$generator->current();
    Boot::$storage = new \SplObjectStorage();
    Boot::$weak = new \WeakMap();
    Boot::$array = new \ArrayObject(['a' => 1]);
    Boot::$date = new \DateTime('2020-02-02 02:02:02 UTC');
    Boot::$document = new \DOMDocument();
    Boot::$document->loadXML('<root/>');
    Boot::$list = new \SplDoublyLinkedList();
    Boot::$fixed = new \SplFixedArray(2);
    Boot::$heap = new \SplPriorityQueue();
    Boot::$collator = new \Collator('de_DE');
    Boot::$libc = \FFI::cdef('extern int opterr; extern int optind; int getpid(void); size_t strlen(const char *);');
    Boot::$file = fopen(__FILE__, 'r');
    Boot::$memory = fopen('php://memory', 'r+');
    fwrite(Boot::$memory, 'written at boot');
    rewind(Boot::$memory);
    $GLOBALS['table'] = ['one' => ['two' => 'three']];
    spl_autoload_register(static function (string $class): void {
        if (str_starts_with($class, 'Lazy\\')) {
            require SITE . '/lazy/' . substr($class, 5) . '.php';
        }
    });
    Boot::$kinds = require __DIR__ . '/kinds_request.php';
    Boot::$kinds += require __DIR__ . '/kinds_ends.php';
    Boot::$kinds += require __DIR__ . '/kinds_language.php';
    Boot::$kinds += require __DIR__ . '/kinds_extension.php';
    Boot::$kinds += require __DIR__ . '/kinds_system.php';
    require __DIR__ . '/probes.php';
    require __DIR__ . '/random.php';
    require __DIR__ . '/deaths.php';
    random_values();   // every source is seeded now
}
