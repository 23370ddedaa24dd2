<?php

namespace Sapid\Runtime;

/** The loop around frankenphp_handle_request(), for any handler. */
final class Worker
{
    /** True in the script of worker mode; false where a script runs once for each request. */
    public static function isAvailable(): bool
    {
        return \function_exists('frankenphp_handle_request') && ($_SERVER['FRANKENPHP_WORKER'] ?? '') !== '';
    }

    /**
     * Calls $handle for one request after another until the server has no more, or $max were handled
     * (0: no limit). $after runs when the client has its answer: for what is left to do, and before the
     * collector runs. Without worker mode: once.
     */
    public static function run(callable $handle, ?callable $after = null, int $max = 0): int
    {
        if (!self::isAvailable()) {
            $handle();
            if ($after) {
                $after();
            }
            return 0;
        }
        // What the boot added to $_SERVER (by a .env file, say) belongs to every request; its request headers do not.
        $boot = array_filter($_SERVER, static fn (string $name) => !str_starts_with($name, 'HTTP_'), \ARRAY_FILTER_USE_KEY);
        $handled = false;
        $one = static function () use ($boot, $handle, &$handled): void {
            $_SERVER += $boot;
            $handled = true;
            $handle();
        };
        $count = 0;
        do {
            $handled = false;
            $more = frankenphp_handle_request($one);
            if ($handled) {
                $count++;
                if ($after) {
                    $after();
                }
            }
            gc_collect_cycles();
        } while ($more && ($max <= 0 || $count < $max));
        return 0;
    }
}
