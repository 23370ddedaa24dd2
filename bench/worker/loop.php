<?php
// Pages of the Symfony application of tests/apps/symfony without any server: php loop.php APP N PATH... One process
// handles N requests, the paths in turn, as Sapid\Runtime\KernelRunner does, and prints as JSON the CPU microseconds
// for one request and the memory after each hundredth of them.
use App\Kernel;
use Symfony\Component\HttpFoundation\Request;

[, $root, $n] = $argv;
$paths = array_slice($argv, 3);
require "$root/vendor/autoload.php";
$cpu = static function (): float {
    $u = getrusage();
    return $u['ru_utime.tv_sec'] * 1e6 + $u['ru_utime.tv_usec'] + $u['ru_stime.tv_sec'] * 1e6 + $u['ru_stime.tv_usec'];
};
$rss = static fn (): int => (int) preg_replace('/.*VmRSS:\s+(\d+).*/s', '$1', file_get_contents('/proc/self/status'));
$kernel = new Kernel('prod', false);
$begin = 0;
$samples = [];
ob_start(static fn () => '');
for ($i = 0; $i < $n; $i++) {
    if ($i === intdiv($n, 10)) {
        $begin = $cpu();
    }
    $request = Request::create($paths[$i % count($paths)], server: ['SCRIPT_NAME' => '/index.php', 'SCRIPT_FILENAME' => "$root/public/index.php"]);
    $response = $kernel->handle($request);
    if ($response->getStatusCode() !== 200) {
        fprintf(STDERR, "%s: %d\n", $request->getUri(), $response->getStatusCode());
        exit(1);
    }
    $response->sendContent();
    $kernel->terminate($request, $response);
    if (session_status() === PHP_SESSION_ACTIVE) {
        session_write_close();
    }
    unset($request, $response);
    gc_collect_cycles();
    ob_clean();
    if (($i + 1) % max(1, intdiv($n, 100)) === 0) {
        $samples[] = [$i + 1, memory_get_usage() >> 10, $rss()];
    }
}
fwrite(STDERR, json_encode(['us' => ($cpu() - $begin) / ($n - intdiv($n, 10)), 'samples' => $samples]));
