<?php

namespace Sapid\Runtime;

use Symfony\Component\HttpKernel\HttpKernelInterface;
use Symfony\Component\Runtime\RunnerInterface;
use Symfony\Component\Runtime\SymfonyRuntime as Base;

/**
 * For symfony/runtime before 7.4, which does not know worker mode itself: set
 * APP_RUNTIME=Sapid\Runtime\SymfonyRuntime. The option `worker_loop_max` (500; 0: no limit) says after how
 * many requests the script starts afresh.
 */
class SymfonyRuntime extends Base
{
    private int $max;

    public function __construct(array $options = [])
    {
        $this->max = (int) ($options['worker_loop_max'] ?? $_SERVER['FRANKENPHP_LOOP_MAX'] ?? 500);
        parent::__construct($options);
    }

    public function getRunner(?object $application): RunnerInterface
    {
        if (!$application instanceof HttpKernelInterface || !Worker::isAvailable()) {
            return parent::getRunner($application);
        }

        return new class(new KernelRunner($application, $this->max)) implements RunnerInterface {
            public function __construct(private KernelRunner $runner)
            {
            }

            public function run(): int
            {
                return $this->runner->run();
            }
        };
    }
}
