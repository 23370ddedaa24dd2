<?php
$s = opcache_get_status(true);
echo json_encode(['pid' => getmypid(), 'enabled' => $s['opcache_enabled'] ?? false,
    'hits' => $s['opcache_statistics']['hits'], 'misses' => $s['opcache_statistics']['misses'],
    'cached' => opcache_is_script_cached(__FILE__),
    'start' => $s['opcache_statistics']['start_time'], 'jit' => $s['jit']['on'] ?? false,
    'scripts' => count($s['scripts'] ?? []), 'preload' => $s['preload_statistics'] ?? null,
    'loaded' => class_exists('Preloaded', false) ? Preloaded::hello() : null]);
