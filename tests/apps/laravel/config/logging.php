<?php

return ['default' => 'errorlog', 'channels' => ['errorlog' => ['driver' => 'errorlog', 'level' => 'debug'],
                                                'emergency' => ['path' => storage_path('logs/laravel.log')]]];
