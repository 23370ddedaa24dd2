<?php
/*
 * The example that ./run serves: one page that shows the parts of PHP an application needs at work.
 * No framework, no build step; edit it and reload.
 */
declare(strict_types=1);

session_start();
$_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
if (isset($_GET['forget'])) {
    session_destroy();
    header('Location: /');
    exit;
}

function e(string $text): string
{
    return htmlspecialchars($text, ENT_QUOTES | ENT_SUBSTITUTE);
}

/** What became of an upload, as one sentence. */
function describe_upload(array $file): string
{
    $errors = [
        UPLOAD_ERR_INI_SIZE => 'is larger than upload_max_filesize (' . ini_get('upload_max_filesize') . ')',
        UPLOAD_ERR_PARTIAL => 'arrived only in part',
        UPLOAD_ERR_NO_FILE => 'was not chosen',
    ];
    if ($file['error'] !== UPLOAD_ERR_OK) {
        return 'The file ' . ($errors[$file['error']] ?? "could not be stored (error {$file['error']})") . '.';
    }
    return sprintf('%s arrived: %s bytes, %s, SHA-256 %s…', $file['name'], number_format($file['size']),
        $file['type'] ?: 'no type', substr(hash_file('sha256', $file['tmp_name']), 0, 16));
}

$upload = isset($_FILES['file']) ? describe_upload($_FILES['file']) : null;
$opcache = function_exists('opcache_get_status') ? opcache_get_status(false) : false;
$facts = [
    'PHP' => PHP_VERSION . ', server API ' . PHP_SAPI,
    'Worker' => 'process ' . getmypid() . ' answered this request; reload to meet another',
    'Opcache' => $opcache ? $opcache['opcache_statistics']['num_cached_scripts'] . ' scripts cached, '
        . number_format($opcache['opcache_statistics']['hits']) . ' hits' : 'not loaded',
    'Memory' => number_format(memory_get_peak_usage() / 1024) . ' KiB at most in this request',
];
$server = ['REQUEST_METHOD', 'REQUEST_URI', 'SCRIPT_NAME', 'PATH_INFO', 'QUERY_STRING', 'HTTP_HOST',
    'REMOTE_ADDR', 'SERVER_PROTOCOL', 'DOCUMENT_ROOT', 'HTTP_USER_AGENT'];
?>
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sapid says hello</title>
<link rel="icon" href="/logo.svg">
<link rel="stylesheet" href="/style.css">
<main>
  <header>
    <img src="/logo.svg" alt="" width="56" height="56">
    <div>
      <h1>It works</h1>
      <p>PHP runs inside sapid. The picture and the style sheet came straight from the gateway.</p>
    </div>
  </header>

  <dl>
<?php foreach ($facts as $name => $value): ?>
    <dt><?= e($name) ?></dt><dd><?= e($value) ?></dd>
<?php endforeach ?>
  </dl>

  <h2>Session</h2>
  <p>You have been here <strong id="visits"><?= $_SESSION['visits'] ?></strong>
    <?= $_SESSION['visits'] === 1 ? 'time' : 'times' ?>. <a href="/?forget=1">Forget me</a></p>

  <h2>Upload</h2>
  <form method="post" enctype="multipart/form-data">
    <input type="file" name="file" aria-label="File"> <button>Send</button>
  </form>
<?php if ($upload !== null): ?>
  <p class="result" id="upload"><?= e($upload) ?></p>
<?php endif ?>

  <h2>Request</h2>
  <table>
<?php foreach ($server as $name): ?>
    <tr><th><?= $name ?></th><td><?= isset($_SERVER[$name]) ? e($_SERVER[$name]) : '<i>not set</i>' ?></td></tr>
<?php endforeach ?>
  </table>

  <p class="links"><a href="/?colour=teal&amp;n=42">A query string</a> · <a href="/index.php/some/path">PATH_INFO</a>
    · <a href="/a/pretty/address">a pretty address</a> · <a href="/stream.php">a streamed answer</a>
    · <a href="/license.txt">a static file</a><?php if (ini_get('display_errors')): ?> · <a href="/info.php">phpinfo()</a><?php endif ?></p>
</main>
</html>
