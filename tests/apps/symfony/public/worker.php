<?php

use App\Kernel;
use Sapid\Runtime\KernelRunner;

require dirname(__DIR__) . '/vendor/autoload.php';
foreach (['Worker', 'KernelRunner'] as $class)
    require dirname(__DIR__) . "/vendor/sapid/runtime/src/$class.php";

$kernel = new Kernel($_SERVER['APP_ENV'] ?? 'prod', (bool) ($_SERVER['APP_DEBUG'] ?? false));
(new KernelRunner($kernel, (int) ($_SERVER['FRANKENPHP_LOOP_MAX'] ?? 500)))->run();
