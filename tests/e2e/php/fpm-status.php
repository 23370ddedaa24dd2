<?php
// The pool as its own script sees it.
header('Content-Type: application/json');
$s = fpm_get_status();
echo json_encode(isset($_GET['types']) ? [array_map('gettype', $s), array_map('gettype', $s['procs'][0])] : $s);
