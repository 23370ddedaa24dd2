<?php
/* One request: what is left of others, a draw from every source of random numbers, dirt everywhere, and
 * then what the request asks for (?kind=, with the variant ?n=). The body is the same every time; the
 * random values and what belongs to the process are in header fields. */
declare(strict_types=1);

namespace Isolation;

function handle(): void
{
    if (!isset($_GET['kind'])) {
        random_values();   // the server's warm-up: leaves nothing, but every generator has been used
        return;
    }
    // Before anything else: the probes change what they look at.
    $probes = probe();
    $fds = scandir('/proc/self/fd');
    header('Content-Type: text/plain; charset=utf-8');
    header('X-Pid: ' . getmypid());
    header('X-Descriptors: ' . (count($fds) - 3));
    header('X-Random: ' . json_encode(random_values()));
    $secret = $_COOKIE['secret'] ?? 'none';
    dirty($secret);
    echo json_encode($probes, JSON_UNESCAPED_SLASHES | JSON_PARTIAL_OUTPUT_ON_ERROR), "\n";
    if ($_GET['kind'] === 'death') {
        death($_GET['how']);
        echo "end of death\n";
        return;
    }
    $kind = Boot::$kinds[$_GET['kind']] ?? null;
    if ($kind === null) {
        http_response_code(404);
        echo "no kind {$_GET['kind']}\n";
        return;
    }
    $kind((int) $_GET['n']);
    echo "\nend of {$_GET['kind']} {$_GET['n']}\n";
}
