<?php
// 1 MiB in pieces of 64 KiB, as a download or a large JSON answer would come.
header('Content-Type: application/octet-stream');
$piece = str_repeat("0123456789abcde\n", 4096);
for ($i = 0; $i < 16; $i++) {
    echo $piece;
}
