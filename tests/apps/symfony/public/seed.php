<?php

use App\Kernel;
use Symfony\Component\HttpFoundation\Request;

require dirname(__DIR__) . '/vendor/autoload.php';

if (!function_exists('restore_state') || !restore_state()) {
    $kernel = new Kernel($_SERVER['APP_ENV'] ?? 'prod', (bool) ($_SERVER['APP_DEBUG'] ?? false));
    $kernel->boot();
    if (function_exists('snapshot_state')) {
        // What most requests load is loaded here once: pages without a session.
        foreach (explode(' ', $_SERVER['APP_WARM'] ?? '') as $path) {
            $request = Request::create($path);
            $kernel->terminate($request, $kernel->handle($request));
        }
        $kernel->getContainer()->get('doctrine')->getConnection()->close();
        $kernel->getContainer()->get('services_resetter')->reset();
        unset($request, $path);
        snapshot_state();
    }
}
$request = Request::createFromGlobals();
$response = $kernel->handle($request);
$response->send();
$kernel->terminate($request, $response);
