<?php
if (isset($_GET['redis'])) {
    ini_set('session.save_handler', 'redis');
    ini_set('session.save_path', $_GET['redis']);
} else {
    session_save_path(__DIR__ . '/sessions');
}
session_start();
switch ($_GET['do']) {
case 'count':
    $n = $_SESSION['n'] ?? 0;
    usleep(2000);
    $_SESSION['n'] = $n + 1;
    echo $_SESSION['n'];
    break;
case 'regenerate':
    session_regenerate_id(true);
    echo session_id();
    break;
case 'destroy':
    $_SESSION = [];
    session_destroy();
    echo 'destroyed';
    break;
case 'read_and_close':
    session_write_close();
    echo json_encode($_SESSION);
    break;
}
