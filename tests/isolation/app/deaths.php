<?php
/* Ways for a request to end badly of its own doing: ?kind=death&how=. suite.py knows what each is answered. */
declare(strict_types=1);

namespace Isolation;

class Ending
{
    public function __construct(private \Closure $at_end)
    {
    }

    public function __destruct()
    {
        ($this->at_end)();
    }
}

function die_by(int $signal): void
{
    posix_kill(posix_getpid(), $signal);
}

function take_all_memory(): void
{
    for ($all = [];; ) {
        $all[] = str_repeat('x', 1 << 20);
    }
}

function recurse_in_c(int $depth): void
{
    array_map(recurse_in_c(...), [$depth + 1]);   // through C each time: its stack ends
}

function death(string $how): void
{
    echo "death by $how\n";
    match ($how) {
        'kill' => die_by(SIGKILL),
        'segv' => die_by(SIGSEGV),
        'abort' => die_by(SIGABRT),
        'bus_in_shutdown' => register_shutdown_function(fn () => die_by(SIGBUS)),
        'segv_in_destructor' => new Ending(fn () => die_by(SIGSEGV)),
        'kill_in_output' => ob_start(function (string $text): string {
            die_by(SIGKILL);
            return $text;
        }),
        'kill_at_end' => $GLOBALS['bomb'] = new Ending(fn () => die_by(SIGKILL)),
        'segv_at_end' => $GLOBALS['bomb'] = new Ending(fn () => die_by(SIGSEGV)),
        'stack' => recurse_in_c(0),
        'memory' => take_all_memory(),
        'memory_in_shutdown' => register_shutdown_function(take_all_memory(...)),
        'memory_in_destructor' => new Ending(take_all_memory(...)),
        'memory_at_end' => $GLOBALS['bomb'] = new Ending(take_all_memory(...)),
        'time' => (function () {
            set_time_limit(1);
            for (;;) {
            }
        })(),
        'wall' => sleep(60),
        'exit_at_end' => $GLOBALS['bomb'] = new Ending(fn () => exit(3)),
        'exit_in_generator' => (function () {
            foreach ((function () { yield 1; exit('exit'); })() as $_) {
            }
        })(),
    };
}
