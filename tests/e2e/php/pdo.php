<?php
$db = new PDO("mysql:host=127.0.0.1;port={$_GET['port']};dbname=persist", 'persist', 'secret', [PDO::ATTR_PERSISTENT => true]);
if (isset($_GET['open'])) {
    $db->beginTransaction();
    $db->exec("INSERT INTO t VALUES (1)");
}
echo json_encode(['pid' => getmypid(), 'connection' => (int) $db->query('SELECT CONNECTION_ID()')->fetchColumn(),
                  'rows' => (int) $db->query('SELECT COUNT(*) FROM t')->fetchColumn()]);
