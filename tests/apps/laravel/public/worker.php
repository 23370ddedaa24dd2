<?php

require dirname(__DIR__) . '/vendor/autoload.php';

(new Sapid\Runtime\LaravelRunner(dirname(__DIR__), (int) ($_SERVER['MAX_REQUESTS'] ?? 1000)))->run();
