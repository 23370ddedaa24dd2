<?php
// Headers as asked for by ?do=
switch ($_GET['do']) {
case 'many':
    header('X-One: 1');
    header('X-Two: first');
    header('X-Two: second', false);
    header('x-one: replaced');
    header('X-Gone: yes');
    header_remove('X-Gone');
    setcookie('a', '1', ['path' => '/', 'httponly' => true, 'samesite' => 'Lax']);
    setcookie('b', 'x y;z', 0, '/p');
    header('Content-Type: text/plain; charset=iso-8859-1');
    echo 'done';
    break;
case 'code':
    http_response_code((int) $_GET['code']);
    echo 'body of ', $_GET['code'];
    break;
case 'line':
    header($_GET['line']);
    echo 'body';
    break;
case 'status':
    header('Status: ' . $_GET['status']);
    echo 'body';
    break;
case 'redirect':
    header('Location: /elsewhere.php?x=1');
    break;
case 'redirect301':
    header('Location: /elsewhere.php', true, 301);
    break;
case 'auth':
    header('WWW-Authenticate: Basic realm="x"');
    echo 'who';
    break;
case 'length':
    header('Content-Length: 5');
    echo '12345';
    break;
case 'short':
    header('Content-Length: 10');
    echo '12345';
    break;
case 'long':
    header('Content-Length: 3');
    echo '12345';
    break;
case 'connection':
    header('Connection: close');
    echo 'closing';
    break;
case 'hop':
    header('Transfer-Encoding: chunked');
    header('Keep-Alive: timeout=1');
    header('Date: yesterday');
    echo 'framed by the gateway';
    break;
case 'inject':
    @header("X-Bad: a\r\nX-Injected: yes");
    echo json_encode(error_get_last()['message'] ?? null);
    break;
case 'late':
    echo str_repeat('x', 70000);
    flush();
    $ok = @header('X-Late: 1');
    echo json_encode([headers_sent($file, $line), $line > 0, error_get_last()['message'] ?? null]);
    break;
case 'callback':
    header_register_callback(function () { header('X-Callback: ran'); });
    echo 'x';
    break;
case 'list':
    header('X-A: 1');
    echo json_encode([headers_list(), headers_sent(), http_response_code()]);
    break;
case 'big':
    for ($i = 0; $i < 60; $i++) {
        header("X-Big-$i: " . str_repeat(chr(97 + $i % 26), 200));
    }
    echo 'big';
    break;
case 'none':
    header_remove();
    ini_set('default_mimetype', '');
    echo 'untyped';
    break;
}
