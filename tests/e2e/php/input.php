<?php
// Hash of the raw body, read in pieces, twice: php://input can be opened again.
$h = hash_init('sha1');
$in = fopen('php://input', 'rb');
$n = 0;
while (!feof($in)) {
    $piece = fread($in, 65536);
    $n += strlen($piece);
    hash_update($h, $piece);
}
fseek($in, 0);
$again = strlen(stream_get_contents($in));
echo json_encode(['bytes' => $n, 'again' => $again, 'sha1' => hash_final($h),
                  'length' => $_SERVER['CONTENT_LENGTH'] ?? null, 'post' => count($_POST)]);
