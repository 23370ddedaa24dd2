<?php

use App\Kernel;
use Symfony\Component\HttpFoundation\Request;

require dirname(__DIR__) . '/vendor/autoload.php';

if (!function_exists('restore_state') || !restore_state()) {
    $kernel = new Kernel($_SERVER['APP_ENV'] ?? 'prod', (bool) ($_SERVER['APP_DEBUG'] ?? false));
    $kernel->boot();
    if (function_exists('snapshot_boots') && snapshot_boots()) {
        // What most requests make and load is made here once, for the image.
        foreach (explode(' ', $_SERVER['APP_WARM'] ?? '') as $path) {
            $request = Request::create($path);
            $kernel->terminate($request, $kernel->handle($request));
        }
        $kernel->getContainer()->get('doctrine')->getConnection()->close();
        $kernel->getContainer()->get('services_resetter')->reset();
        unset($request, $path);
    }
    function_exists('snapshot_state') && snapshot_state();
}
$request = Request::createFromGlobals();
$response = $kernel->handle($request);
$response->send();
$kernel->terminate($request, $response);
