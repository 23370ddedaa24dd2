<?php
echo json_encode(['getenv' => getenv('APP_MODE'), 'env' => $_SERVER['APP_MODE'] ?? null, 'path' => getenv('PATH'),
    'secret' => getenv('SAPID_TEST_SECRET'), 'method' => getenv('REQUEST_METHOD'), 'agent' => getenv('HTTP_USER_AGENT')]);
