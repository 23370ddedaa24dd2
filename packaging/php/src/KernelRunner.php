<?php

namespace Sapid\Runtime;

use Symfony\Component\HttpFoundation\Request;
use Symfony\Component\HttpKernel\HttpKernelInterface;
use Symfony\Component\HttpKernel\KernelInterface;
use Symfony\Component\HttpKernel\TerminableInterface;

/**
 * Serves a Symfony kernel, in worker mode and outside of it. The kernel stays booted; its services are reset
 * behind every request, so that an image made there holds nothing that the warm-up requests loaded.
 */
final class KernelRunner
{
    /** @param int $max requests after which the script ends and starts afresh, 0: none */
    public function __construct(private HttpKernelInterface $kernel, private int $max = 0)
    {
    }

    public function run(): int
    {
        $request = $response = null;

        return Worker::run(
            function () use (&$request, &$response): void {
                $_SERVER['APP_RUNTIME_MODE'] = Worker::isAvailable() ? 'web=1&worker=1' : 'web=1';
                $response = null;
                $request = Request::createFromGlobals();
                $response = $this->kernel->handle($request);
                $response->send();
            },
            function () use (&$request, &$response): void {
                if ($this->kernel instanceof TerminableInterface && $response) {
                    $this->kernel->terminate($request, $response);
                }
                $request = $response = null;
                $this->reset();
            },
            $this->max,
        );
    }

    /**
     * The kernel resets before the next request only those services that have been used. Entity managers are used
     * without the registry that resets them: entities of one request would be found by the next.
     */
    private function reset(): void
    {
        if (!$this->kernel instanceof KernelInterface) {
            return;
        }
        $container = $this->kernel->getContainer();
        if ($container->has('doctrine')) {
            $container->get('doctrine');
        }
        if ($container->has('services_resetter')) {
            $container->get('services_resetter')->reset();
        }
    }
}
