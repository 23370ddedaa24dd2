<?php

use Illuminate\Contracts\Http\Kernel;
use Illuminate\Foundation\Bootstrap\RegisterProviders;
use Illuminate\Http\Request;

require dirname(__DIR__) . '/vendor/autoload.php';

if (!function_exists('restore_state') || !restore_state()) {
    $app = require dirname(__DIR__) . '/bootstrap/app.php';
    $kernel = $app->make(Kernel::class);
    // There is no request yet; providers that ask for one get this.
    $app->beforeBootstrapping(RegisterProviders::class, static fn () => $app->instance('request', Request::create($app['config']['app.url'])));
    $kernel->bootstrap();
    if (function_exists('snapshot_boots') && snapshot_boots()) {
        foreach (['router', 'url', 'view', 'blade.compiler', 'db', 'encrypter', 'hash', 'validator', 'translator'] as $name) {
            $app->make($name);
        }
        unset($name);
    }
    function_exists('snapshot_state') && snapshot_state();
}
$request = Request::capture();
$response = $kernel->handle($request)->send();
$kernel->terminate($request, $response);
