"""The parts of the comparison. Each takes the Bench and returns plain data for report.py:

    loads    {workload: {connections: {server: [measurement per round]}}}
    mixed    {server: [open-loop result per round]}
    cgi      {server: [measurement per round]}        c=50
    limit    {"epoll-answer": [...], "life-cycle": [{"us": ...}], "sapid": [...]}   c=64
    memory   {"wordpress-8": {server: KiB}, "hello-2": {server: KiB}}
"""
import os
import re
import subprocess

import measure
import peers
import wordpress
import workloads

MIXED_RATE, MIXED_WORKERS, MIXED_CONNECTIONS = 1500, 8, 64
CGI_CONNECTIONS, LIMIT_CONNECTIONS = 50, 64
MEMORY_WORKERS, MEMORY_CONNECTIONS, MEMORY_SECONDS = 8, 32, 5


def run_all(bench):
    chosen = bench.options.only
    results = {"loads": {}}
    plain = [w for w in workloads.WORKLOADS if w.name in chosen and w.name != "wordpress"]
    for connections in bench.options.connections if plain else []:
        with bench.running(bench.server_classes(), bench.options.workers, connections) as servers:
            for workload in plain:
                rows = interleaved(bench, servers, workload, connections)
                results["loads"].setdefault(workload.name, {})[connections] = rows
    for name, stage in (("mixed", mixed), ("cgi", cgi), ("limit", limit)):
        if name in chosen:
            results[name] = stage(bench)
    if "wordpress" in chosen or "memory" in chosen:
        wordpress_parts(bench, results)
    return results


def interleaved(bench, servers, workload, connections):
    """A B C A B C: every server in every round, after one short warm-up each."""
    rows = {server.name: [] for server in servers}
    seconds = max(bench.options.seconds, workload.min_seconds(connections))
    for server in servers:
        workload.check(server)
        measure.closed_loop(server, workload, connections, 1)
    for number in range(bench.options.rounds):
        for server in servers:
            row = measure.closed_loop(server, workload, connections, seconds)
            rows[server.name].append(row)
            bench.say(f"{workload.name:10} c={connections:<4} round {number + 1} {server.name:20} "
                      f"{row['rps']:10.0f} req/s  p99 {row['p99_us']:8.0f} us  "
                      f"{row['cpu_us']:8.1f} us/request  errors {row['errors']}")
    for server in servers:
        workload.check(server)
    return rows


def mixed(bench):
    classes = bench.server_classes(["sapid", "nginx-fpm", "apache-mod-php"])
    rows = {}
    seconds = max(2, 2 * bench.options.seconds)
    with bench.running(classes, MIXED_WORKERS, MIXED_CONNECTIONS) as servers:
        for server in servers:
            measure.open_loop(server, workloads.HELLO, workloads.SLEEP, MIXED_RATE, 1)
        for number in range(bench.options.rounds):
            for server in servers:
                row = measure.open_loop(server, workloads.HELLO, workloads.SLEEP, MIXED_RATE, seconds)
                rows.setdefault(server.name, []).append(row)
                bench.say(f"mixed      round {number + 1} {server.name:20} fast p50 "
                          f"{row['fast']['p50']:.0f} us  p99 {row['fast']['p99']:.0f} us  errors "
                          f"{row['fast']['errors'] + row['slow']['errors']}")
    return rows


def cgi(bench):
    """php-cgi per request against the server, with as many clients as the seed's test had."""
    with bench.running(bench.server_classes(["sapid", "php-cgi"]), bench.options.workers,
                       CGI_CONNECTIONS) as servers:
        return interleaved(bench, servers, workloads.HELLO, CGI_CONNECTIONS)


def limit(bench):
    """What no server of this kind can undercut: PHP's own life cycle + a constant answer over epoll."""
    classes = [measure.EpollAnswer] + bench.server_classes(["sapid"])
    with bench.running(classes, bench.options.workers, LIMIT_CONNECTIONS) as servers:
        rows = interleaved(bench, servers, workloads.HELLO, LIMIT_CONNECTIONS)
    rows["life-cycle"] = [{"us": us} for us in life_cycle(bench)]
    return rows


def life_cycle(bench):
    """us per request of PHP's request life cycle alone: hello.php in a loop, in one process, with the
    server's request trims and no channel."""
    values = []
    script = os.path.join(bench.docroot, "hello.php")
    for _ in range(bench.options.rounds):
        done = subprocess.run([peers.Sapid.program, "@lifecycle", script, "20000", bench.php.ini_path,
                               bench.php.scan_dir], capture_output=True, text=True, timeout=60)
        found = re.match(r"([0-9.]+) us", done.stdout)
        if done.returncode != 0 or not found:
            raise peers.PeerError(f"sapid @lifecycle: expected 'N us', got status {done.returncode}, "
                                  f"{done.stdout}{done.stderr}")
        values.append(float(found.group(1)))
    return values


def wordpress_parts(bench, results):
    """The front page in the closed loop, and the memory of each server after it."""
    workload = next(w for w in workloads.WORKLOADS if w.name == "wordpress")
    chosen = bench.options.only
    memory = {}
    with wordpress.Site(bench) as site:
        for connections in bench.options.connections if "wordpress" in chosen else []:
            with bench.running(bench.server_classes(), bench.options.workers, connections,
                               site.docroot, "/wp-login.php") as servers:
                rows = interleaved(bench, servers, workload, connections)
                results["loads"].setdefault("wordpress", {})[connections] = rows
        if "memory" in chosen:
            memory["wordpress-8"] = memory_after(bench, workload, MEMORY_WORKERS, site.docroot)
    if "memory" in chosen:
        memory["hello-2"] = memory_after(bench, workloads.HELLO, 2, None)
        results["memory"] = memory


def memory_after(bench, workload, workers, docroot):
    """PSS of each server, one at a time, so that no library page is shared with another server."""
    rows = {}
    for cls in bench.server_classes(["sapid", "nginx-fpm"]):
        with bench.running([cls], workers, MEMORY_CONNECTIONS, docroot, workload.path) as servers:
            row = measure.closed_loop(servers[0], workload, MEMORY_CONNECTIONS, MEMORY_SECONDS)
            rows[cls.name] = row["pss_kib"]
            bench.say(f"memory     {workload.name}, {workers} workers: {cls.name:20} "
                      f"{row['pss_kib'] / 1024:.1f} MiB in {row['processes']} processes")
    return rows
