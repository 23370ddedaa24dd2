<?php

return [
    'default' => 'mysql',
    'connections' => ['mysql' => ['driver' => 'mysql', 'host' => env('DB_HOST'), 'port' => env('DB_PORT'), 'database' => env('DB_DATABASE'),
                                  'username' => env('DB_USERNAME'), 'password' => env('DB_PASSWORD'), 'charset' => 'utf8mb4',
                                  'collation' => 'utf8mb4_unicode_ci', 'prefix' => '', 'strict' => true]],
];
