<?php
ini_set('display_errors', $_GET['display']);
ini_set('html_errors', '0');
while (ob_get_level()) ob_end_flush();
echo "output\n";
flush();
if (($_GET['do'] ?? '') === 'session')
    session_start();
else
    header('X-Late: 1');
http_response_code(404);
setcookie('a', 'b');
echo "end\n";
