<?php
// What came, however large, in a few lines.
header('Content-Type: text/plain');
$input = file_get_contents('php://input');
echo $_SERVER['REQUEST_METHOD'], ' ', $_SERVER['CONTENT_LENGTH'] ?? '', ' ', $_SERVER['CONTENT_TYPE'] ?? '', "\n";
echo 'input ', strlen($input), ' ', md5($input), "\n";
foreach ($_POST as $name => $value)
    echo 'post ', $name, ' ', is_string($value) ? strlen($value) . ' ' . md5($value) : json_encode($value), "\n";
foreach ($_FILES as $name => $file)
    echo 'file ', $name, ' ', $file['name'], ' ', $file['type'], ' ', $file['size'], ' ', $file['error'], ' ',
        is_uploaded_file($file['tmp_name']) ? md5_file($file['tmp_name']) : '-', "\n";
