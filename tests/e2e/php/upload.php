<?php
// Moves every uploaded file beside the script and tells what it was.
header('Content-Type: application/json');
$seen = [];
$one = function (string $field, array $f) use (&$seen) {
    $entry = ['field' => $field, 'name' => $f['name'], 'full_path' => $f['full_path'], 'type' => $f['type'],
              'size' => $f['size'], 'error' => $f['error']];
    if ($f['error'] === UPLOAD_ERR_OK) {
        $entry['uploaded'] = is_uploaded_file($f['tmp_name']);
        $entry['sha1'] = sha1_file($f['tmp_name']);
        $entry['tmp_name'] = $f['tmp_name'];
        if (isset($_GET['keep'])) {
            $entry['moved'] = move_uploaded_file($f['tmp_name'], __DIR__ . '/moved-' . count($seen));
        }
    }
    $seen[] = $entry;
};
foreach ($_FILES as $field => $f) {
    if (is_array($f['name'])) {
        foreach (array_keys($f['name']) as $i) {
            $one("{$field}[$i]", array_combine(array_keys($f), array_column($f, $i)));
        }
    } else {
        $one($field, $f);
    }
}
echo json_encode(['files' => $seen, 'post' => $_POST, 'memory' => memory_get_peak_usage(),
                  'length' => $_SERVER['CONTENT_LENGTH'] ?? null]);
