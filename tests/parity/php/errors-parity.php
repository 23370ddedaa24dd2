<?php
ini_set('display_errors', $_GET['display']);
ini_set('html_errors', '0');
echo "before\n";
switch ($_GET['do']) {
case 'throw': throw new RuntimeException('thrown');
case 'error': throw new Error('an error');
case 'warning': echo file_get_contents('/none/such'); break;
case 'notice': trigger_error('noticed', E_USER_NOTICE); break;
case 'type': strlen(); break;
case 'zero': echo intdiv(1, 0); break;
case 'undefined': echo $undefined, $array['x'] ?? 'default'; break;
case 'require': require '/none/such.php'; break;
case 'memory': ini_set('memory_limit', '8M'); echo strlen(str_repeat('x', 64 << 20)); break;
case 'exit': exit((int)$_GET['code']);
case 'abort': register_shutdown_function(fn() => print("at the end\n")); exit("said\n");
case 'trigger': trigger_error('fatal', E_USER_ERROR); break;
case 'shutdown': register_shutdown_function(function () { throw new Exception('in shutdown'); }); break;
case 'after': flush(); throw new Exception('after flush');
case 'handler': set_exception_handler(fn($e) => print('handled ' . $e->getMessage())); throw new Exception('mine');
case 'die': http_response_code(418); die('died');
}
echo "after\n";
