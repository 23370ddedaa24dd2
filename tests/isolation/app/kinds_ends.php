<?php
/* Kinds of request by how they end: exceptions, exit, fatal errors, shutdown functions, destructors. */
declare(strict_types=1);

namespace Isolation;

class Talking
{
    public function __construct(private string $name)
    {
    }

    public function __destruct()
    {
        echo "~{$this->name}\n";
    }
}

class Throwing
{
    public function __destruct()
    {
        throw bare(new \DomainException('from a destructor'));
    }
}

/** Without the trace, which names the worker's or the classic script. */
function bare(\Throwable $e): \Throwable
{
    $class = $e instanceof \Error ? \Error::class : \Exception::class;
    (new \ReflectionProperty($class, 'trace'))->setValue($e, []);
    return $e;
}

function recurse(int $depth): int
{
    return $depth === 0 ? 0 : 1 + recurse($depth - 1);
}

return [
    'uncaught' => function (int $n): void {
        throw bare([1 => new \RuntimeException('one'), 2 => new \TypeError('two'), 3 => new \LogicException('three', 3, bare(new \Exception('cause')))][$n]);
    },
    'caught' => function (int $n): void {
        try {
            try {
                throw new \RuntimeException("inner $n");
            } finally {
                echo "finally\n";
            }
        } catch (\RuntimeException $e) {
            show([$e->getMessage(), $e->getLine()]);
        }
    },
    'exception_handler' => function (int $n): void {
        set_exception_handler(static function (\Throwable $e): void {
            http_response_code(500);
            echo 'handled ', $e->getMessage(), "\n";
        });
        throw new \RuntimeException("to the handler $n");
    },
    'handler_throws' => function (int $n): void {
        set_exception_handler(static function (\Throwable $e) use ($n): void {
            echo 'handled ', $e->getMessage(), "\n";
            if ($n === 3) {
                exit;
            }
            throw bare(new \RuntimeException("by the handler $n"));
        });
        register_shutdown_function(static function (): void {
            echo "shut down\n";
        });
        throw new \RuntimeException("to the handler $n");
    },
    'callback_throws' => function (int $n): void {
        ob_start(static function (string $text) use ($n): string {
            if ($n === 3) {
                exit;
            }
            throw bare(new \RuntimeException("by the callback $n"));
        });
        if ($n === 2) {
            ob_start();
        }
        echo "nobody gets this\n";
    },
    'header_callback_throws' => function (int $n): void {
        header_register_callback(static function () use ($n): void {
            header("X-Callback: $n");
            throw bare(new \RuntimeException("by the callback $n"));
        });
    },
    'error_handler' => function (int $n): void {
        set_error_handler(static function (int $level, string $text): bool {
            echo "error $level: $text\n";
            return true;
        });
        echo $undefined;
        trigger_error("mine $n", E_USER_NOTICE);
        if ($n === 2) {
            restore_error_handler();
        }
    },
    'warnings' => function (int $n): void {
        error_reporting(E_ALL);
        echo $nothing, [][$n], "\n";
        file_get_contents('/nonexistent');
    },
    'exit' => function (int $n): void {
        echo "before\n";
        exit([1 => 0, 2 => 'said at the end', 3 => 3][$n]);
    },
    'exit_in_buffer' => function (int $n): void {
        ob_start(static fn (string $t): string => strrev($t));
        echo "backwards $n";
        exit;
    },
    'exit_in_fiber' => function (int $n): void {
        $f = new \Fiber(static function () use ($n): void {
            echo "in the fiber $n\n";
            exit;
        });
        $f->start();
    },
    'exit_in_shutdown' => function (int $n): void {
        register_shutdown_function(static function (): void {
            echo "first\n";
            exit(4);
        });
        register_shutdown_function(static function (): void {
            echo "never\n";
        });
    },
    'exit_in_destructor' => function (int $n): void {
        $GLOBALS['object'] = new class {
            public function __destruct()
            {
                echo "destructor\n";
                exit;
            }
        };
    },
    'fatal' => function (int $n): void {
        echo "before\n";
        switch ($n) {
        case 1:
            eval('function f_of_a_fatal() {} function f_of_a_fatal() {}');
            break;
        case 2:
            trigger_error('a fatal one of the user', E_USER_ERROR);
            break;
        case 3:
            eval('final class FinalOne {} class Heir extends FinalOne {}');
        }
    },
    'fatal_in_fiber' => function (int $n): void {
        (new \Fiber(static function (): void {
            echo "in the fiber\n";
            trigger_error('fatal in a fiber', E_USER_ERROR);
        }))->start();
    },
    'fatal_in_shutdown' => function (int $n): void {
        register_shutdown_function(static function (): void {
            trigger_error('fatal in a shutdown function', E_USER_ERROR);
        });
        register_shutdown_function(static function (): void {
            echo "not reached\n";
        });
    },
    'compile_error' => function (int $n): void {
        try {
            eval('this is not php');
        } catch (\ParseError $e) {
            show([$e->getMessage(), $e->getLine()]);
        }
    },
    'memory_limit' => function (int $n): void {
        ini_set('memory_limit', '48M');
        echo "before\n";
        if ($n === 1) {
            $text = str_repeat('x', 300_000_000);
        }
        $held = [];
        if ($n === 2) {
            register_shutdown_function(static function (): void {
                echo "shutdown after memory_limit\n";
            });
        }
        $held[] = str_repeat('x', 30_000_000);
        $held[] = str_repeat('y', 30_000_000);
    },
    'large_memory' => function (int $n): void {
        ini_set('memory_limit', '256M');
        $strings = [];
        for ($i = 0; $i < 20 * $n; $i++) {
            $strings[] = str_repeat(chr(65 + $i % 26), 1_000_000);
        }
        show(md5(implode($strings)));
    },
    'large_arrays' => function (int $n): void {
        $a = range(1, 50_000 * $n);
        shuffle($a);
        sort($a);
        $b = array_flip(array_map('strval', $a));
        show([count($b), array_sum(array_keys($b))]);
    },
    'recursion' => function (int $n): void {
        show(recurse(3000 * $n));
    },
    'time_limit' => function (int $n): void {
        set_time_limit(1 + $n);
        show(ini_get('max_execution_time'));
    },
    'shutdown' => function (int $n): void {
        register_shutdown_function(static function () use ($n): void {
            echo "outer $n\n";
            register_shutdown_function(static function (): void {
                echo "nested\n";
            });
        });
        register_shutdown_function('printf', "second %s\n", $_GET['n']);
    },
    'destructors' => function (int $n): void {
        $local = new Talking('local');
        $GLOBALS['b'] = new Talking('global b');
        $GLOBALS['a'] = new Talking('global a');
        Service::$shared[] = new Talking('class static');
        Boot::$service->next = new Talking('property of a boot object');
        $cycle = new \stdClass();
        $cycle->self = $cycle;
        $cycle->talking = new Talking('cycle');
        if ($n === 2) {
            unset($GLOBALS['b']);
        }
        if ($n === 3) {
            exit;
        }
    },
    'throwing_destructor' => function (int $n): void {
        $GLOBALS['object'] = new Throwing();
    },
    'destructor_uses_session' => function (int $n): void {
        $GLOBALS['object'] = new class {
            public function __destruct()
            {
                show([$_GET['kind'], isset($_COOKIE['secret']), getcwd() !== false]);
                header('X-From-Destructor: yes');
            }
        };
    },
];
