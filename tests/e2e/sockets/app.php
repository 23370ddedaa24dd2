<?php
/* A worker script that connects to a database in its boot, and forgets nothing: for test_snapshot_sockets.py.
 * DB: host:port; KIND: the client. */
[$host, $port] = explode(':', getenv('DB'));
$kind = getenv('KIND');

$connection = match ($kind) {
    'pdo_mysql' => new PDO("mysql:host=$host;port=$port;dbname=sockets;charset=latin1", 'sockets', 'secret'),
    'mysqli' => new mysqli($host, 'sockets', 'secret', 'sockets', (int) $port),
    'pdo_pgsql' => new PDO("pgsql:host=$host;port=$port;dbname=postgres", 'postgres', 'any'),
    'pgsql' => pg_connect("host=$host port=$port dbname=postgres user=postgres"),
    'redis' => new Redis(),
};
if ($kind === 'redis') {
    $connection->connect($host, (int) $port);
    $connection->select(4);
}

function ask(string $sql): mixed
{
    global $connection, $kind;
    return match ($kind) {
        'pdo_mysql', 'pdo_pgsql' => $connection->query($sql)->fetchAll(PDO::FETCH_NUM),
        'mysqli' => is_bool($r = $connection->query($sql)) ? $r : $r->fetch_all(),
        'pgsql' => pg_fetch_all(pg_query($connection, $sql), PGSQL_NUM),
        'redis' => $connection->rawCommand(...explode(' ', $sql)),
    };
}

foreach (json_decode(getenv('BOOT') ?: '[]') as $sql) {
    ask($sql);
}

$handler = function () use (&$connection, $host, $port): void {
    header('X-Pid: ' . getmypid());
    $out = [];
    try {
        foreach ($_GET['ask'] ?? [] as $sql) {
            $out[] = ask($sql);
        }
        if (isset($_GET['drop'])) {
            $files = array_map(fn () => fopen('/dev/null', 'r'), range(1, 20));   // no number below is free
            $connection = null;
        }
        if (($_GET['drop'] ?? '') === 'another') {   // which gets the same descriptor
            $connection = new Redis();
            $connection->connect($host, (int) $port);
        }
        if (isset($_GET['exit'])) {
            exit(json_encode($out));
        }
    } catch (Throwable $e) {
        $out = get_class($e) . ': ' . $e->getMessage();
    }
    echo json_encode($out);
};
while (frankenphp_handle_request($handler));
