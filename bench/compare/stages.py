"""The parts of the comparison. Each takes the Bench and returns plain data for report.py:

    loads    {workload: {connections: {server: [measurement per round]}}}
    mixed    {server: [open-loop result per round]}
    cgi      {server: [measurement per round]}        c=50
    limit    {"epoll-answer": [...], "life-cycle": [{"us": ...}], "sapid": [...]}   c=64
    memory   {"wordpress-8": {server: KiB}, "hello-2": {server: KiB}}
    failed   {part: why it has no figures}

A part that fails is reported and left out; the others are measured nevertheless.
"""
import os
import re
import subprocess
import time

import measure
import peers
import symfony
import wordpress
import workloads

MIXED_RATE, MIXED_WORKERS, MIXED_CONNECTIONS = 1500, 8, 64
CGI_CONNECTIONS, LIMIT_CONNECTIONS = 50, 64
MEMORY_WORKERS, MEMORY_CONNECTIONS, MEMORY_SECONDS = 8, 32, 3
IMAGE_READY_S = 60


def run_all(bench):
    """Fills bench.results. An interrupt ends it early; what was measured stands."""
    chosen = bench.options.only
    stages = [(f"c={c}", lambda c=c: plain(bench, c)) for c in bench.options.connections if chosen_plain(bench)]
    stages += [(name, lambda stage=stage, name=name: bench.results.update({name: stage(bench)}))
               for name, stage in (("mixed", mixed), ("cgi", cgi), ("limit", limit)) if name in chosen]
    if "wordpress" in chosen or "memory" in chosen:
        stages.append(("wordpress", lambda: wordpress_parts(bench)))
    if "symfony" in chosen:
        stages.append(("symfony", lambda: symfony_part(bench)))
    for name, stage in stages:
        began = time.monotonic()
        try:
            stage()
        except KeyboardInterrupt:
            bench.results["failed"][name] = "interrupted, as all behind it"
            return
        except (peers.PeerError, RuntimeError, AssertionError, OSError, subprocess.SubprocessError) as error:
            bench.results["failed"][name] = str(error)
            bench.say(f"{name}: {error}")
        bench.say(f"{name}: {time.monotonic() - began:.0f} s")


def chosen_plain(bench):
    return [w for w in workloads.WORKLOADS if w.name in bench.options.only and w.name != "wordpress"]


def plain(bench, connections):
    with bench.running(bench.server_classes(), bench.options.workers, connections) as servers:
        for workload in chosen_plain(bench):
            keep(bench, servers, workload, connections)


def keep(bench, servers, workload, connections):
    """Measures, and notes it under results["loads"]."""
    rows = interleaved(bench, [s for s in servers if workload.path_on(s)], workload, connections)
    bench.results["loads"].setdefault(workload.name, {})[connections] = rows


def interleaved(bench, servers, workload, connections):
    """A B C A B C: every server in every round, after one short warm-up each."""
    rows = {server.name: [] for server in servers}
    seconds = max(bench.options.seconds, workload.min_seconds(connections))
    for server in servers:
        await_image(server, workload)
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
            measure.open_loop(server, workloads.HELLO, workloads.SLEEP, MIXED_RATE, 1, MIXED_CONNECTIONS)
        for number in range(bench.options.rounds):
            for server in servers:
                row = measure.open_loop(server, workloads.HELLO, workloads.SLEEP, MIXED_RATE, seconds,
                                        MIXED_CONNECTIONS)
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


def wordpress_parts(bench):
    """The front page in the closed loop, and the memory of each server after it; hello.php's memory beside it."""
    workload = next(w for w in workloads.WORKLOADS if w.name == "wordpress")
    chosen = bench.options.only
    memory = {}
    with wordpress.Site(bench) as site:
        for connections in bench.options.connections if "wordpress" in chosen else []:
            with bench.running(bench.server_classes(), bench.options.workers, connections, site) as servers:
                keep(bench, servers, workload, connections)
        if "memory" in chosen:
            memory["wordpress-8"] = memory_after(bench, workload, MEMORY_WORKERS, site)
    if "memory" in chosen:
        memory["hello-2"] = memory_after(bench, workloads.HELLO, 2, None)
        bench.results["memory"] = memory


def symfony_part(bench):
    most = max(workload.connections for workload in workloads.SYMFONY)
    with symfony.Site(bench) as site, bench.running(bench.server_classes(), bench.options.workers, most, site) as servers:
        for workload in workloads.SYMFONY:
            keep(bench, servers, workload, workload.connections)


def memory_after(bench, workload, workers, site):
    """PSS of each server, one at a time, so that no library page is shared with another server."""
    rows = {}
    for cls in bench.server_classes(["sapid", "sapid-worker", "sapid-rollback", "sapid-image", "nginx-fpm", "apache-mod-php"]):
        if cls.mode and cls.mode not in workload.modes:
            continue
        # Apache has a process for each connection: as many as the others have workers.
        connections = workers if cls.conn_bound else MEMORY_CONNECTIONS
        with bench.running([cls], workers, connections, site) as servers:
            await_image(servers[0], workload)
            row = measure.closed_loop(servers[0], workload, connections, MEMORY_SECONDS)
            rows[cls.name] = row["pss_kib"]
            bench.say(f"memory     {workload.name}, {workers} workers: {cls.name:20} "
                      f"{row['pss_kib'] / 1024:.1f} MiB in {row['processes']} processes")
    return rows


def await_image(server, workload):
    """An image is made when the first request asks for it, which itself goes on without it."""
    if server.mode != "image":
        return
    deadline = time.monotonic() + IMAGE_READY_S
    while time.monotonic() < deadline:
        workload.check(server)
        with open(server.log_path, errors="replace") as log:
            if "frozen" in log.read():
                return
        time.sleep(0.1)
    raise peers.PeerError(f"{server.name}: no image after {IMAGE_READY_S} s; its log {server.log_path}")
