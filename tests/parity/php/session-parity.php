<?php
// An application's way through a session. Each server has its own store, so that both begin with nothing.
session_save_path(__DIR__ . '/sessions/' . $_SERVER['SERVER_PORT']);
@mkdir(session_save_path());
if (!isset($_COOKIE['PHPSESSID'])) {
    session_id($_GET['id'] ?? 'unnamed');
}
session_start($_GET['options'] ?? []);
$_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
switch ($_GET['do']) {
case 'login':
    $_SESSION['user'] = $_POST['user'];
    setcookie('seen', (string)$_SESSION['visits'], ['path' => '/', 'httponly' => true]);
    header('Location: /session-parity.php?do=page', true, 303);
    exit;
case 'flash':
    $_SESSION['flash'][] = $_GET['text'];
    break;
case 'upload':
    $_SESSION['file'] = [$_FILES['f']['name'], md5_file($_FILES['f']['tmp_name'])];
    break;
case 'abort':
    $_SESSION['lost'] = true;
    session_abort();
    break;
case 'close':
    session_write_close();
    $_SESSION['late'] = true;
    break;
case 'fatal':
    $_SESSION['before_fatal'] = true;
    undefined_function();
case 'exit':
    $_SESSION['before_exit'] = true;
    exit('left');
case 'destroy':
    setcookie('seen', '', 1);
    session_destroy();
    break;
}
header('Content-Type: text/plain');
echo session_status(), ' ', session_id(), "\n";
var_export([$_SESSION, $_COOKIE]);
