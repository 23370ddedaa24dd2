<?php
// A page as templates make it: many small echoes, 50 KiB together.
header('Content-Type: text/html; charset=UTF-8');
for ($row = 0; $row < 512; $row++) {
    $text = sprintf('<tr><td>%04d</td><td>%s</td></tr>', $row, htmlspecialchars('a < b & "c"'));
    echo str_pad($text, 99, '.'), "\n";
}
