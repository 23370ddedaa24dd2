<?php
// What a request is, after a boot that has looked at its own and changed it.
$_SERVER['X'] = 1;
$_GET['boot'] = $_POST['boot'] = 1;
$seen = $_SERVER['REQUEST_URI'];
if (!restore_state()) {
    snapshot_state();
}
$s = $_SERVER;
unset($s['REQUEST_TIME'], $s['REQUEST_TIME_FLOAT'], $s['REMOTE_PORT'], $s['REQUEST_ID'], $s['HTTP_X_REQUEST_ID'], $s['X']);
unset($_GET['boot'], $_POST['boot']);
ksort($s);
echo json_encode([
    $s, $_GET, $_POST, $_COOKIE, $_REQUEST, $_FILES ? $_FILES['f']['size'] : 0, strlen(file_get_contents('php://input')),
    getenv('HTTP_X_A'), abs($_SERVER['REQUEST_TIME'] - time()) < 2, $_SERVER['argv'] ?? null, $argv ?? null,
    filter_input(INPUT_GET, 'a'), getallheaders(),
]);
