<?php
// The application's worker script with one connection to the database for each request, opened when it is needed and closed
// behind it, so that none is open when the script is frozen.

use App\Kernel;
use Sapid\Runtime\Worker;
use Symfony\Component\HttpFoundation\Request;

require dirname(__DIR__) . '/vendor/autoload.php';
require dirname(__DIR__) . '/vendor/sapid/runtime/src/Worker.php';

$kernel = new Kernel($_SERVER['APP_ENV'], false);
$request = $response = null;
Worker::run(
    static function () use ($kernel, &$request, &$response): void {
        $request = Request::createFromGlobals();
        $response = $kernel->handle($request);
        $response->send();
    },
    static function () use ($kernel, &$request, &$response): void {
        $kernel->terminate($request, $response);
        $container = $kernel->getContainer();
        $container->get('doctrine')->getConnection()->close();
        $container->get('services_resetter')->reset();
    },
);
