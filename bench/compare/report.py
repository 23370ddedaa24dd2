"""Figures to Markdown: bench/RESULTS.md, with the machine, every table, and which bars hold."""
import os
import platform
import shlex
import statistics
import sys
import time

import peers
import workloads

MIB = 1024
MEMORY = {"wordpress-8": "WordPress, 8 workers", "hello-2": "hello.php, 2 workers"}


def median(rows, key):
    return statistics.median(row[key] for row in rows)


def figures(rows, key):
    return [row[key] for row in rows]


def first_match(path, key):
    try:
        with open(path) as f:
            for line in f:
                if line.startswith(key):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "?"


def describe_machine(classes):
    """Lines about the machine and the versions, taken before the load."""
    load = " ".join(f"{v:.2f}" for v in os.getloadavg())
    memory_kib = int(first_match("/proc/meminfo", "MemTotal").split()[0])
    commit = peers.first_line(["git", "-C", peers.ROOT, "log", "-1", "--format=%h %cs %s"])
    lines = [f"- measured {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, commit {commit}",
             f"- {first_match('/proc/cpuinfo', 'model name')}, {os.cpu_count()} CPUs"
             f"{', in a virtual machine' if virtual() else ''}, {memory_kib >> 20} GiB",
             f"- Linux {platform.release()}, load average before the run {load}"]
    lines += sorted({f"- {cls.name}: {cls.versions(cls)}" for cls in classes})
    return lines


def virtual():
    with open("/proc/cpuinfo") as f:
        return "hypervisor" in f.read()


def table(header, rows):
    """Markdown; the first column is text, the others are figures."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def load_table(rows):
    body = []
    for name, measured in rows.items():
        rates = [row["rps"] for row in measured]
        body.append([name, f"{median(measured, 'rps'):,.0f}",
                     f"{min(rates):,.0f} to {max(rates):,.0f}",
                     f"{median(measured, 'p50_us') / 1000:.2f}",
                     f"{median(measured, 'p99_us') / 1000:.2f}",
                     f"{median(measured, 'cpu_us'):.1f}",
                     f"{median(measured, 'pss_kib') / MIB:.1f}",
                     f"{median(measured, 'processes'):.0f}",
                     f"{sum(row['errors'] for row in measured)}"])
    return table(["server", "req/s", "lowest to highest", "p50 ms", "p99 ms", "CPU us/request",
                  "PSS MiB", "processes", "errors"], body)


def mixed_table(rows):
    body = []
    for name, measured in rows.items():
        fast = [row["fast"] for row in measured]
        body.append([name] + [f"{median(fast, key):,.0f}" for key in ("p50", "p90", "p99", "p999")]
                    + [f"{median([row['slow'] for row in measured], 'p50') / 1000:.1f}",
                       f"{median(measured, 'cpu_us'):.1f}",
                       str(sum(row[k]["errors"] for row in measured for k in ("fast", "slow")))])
    return table(["server", "fast p50 us", "p90", "p99", "p99.9", "slow p50 ms", "CPU us/request",
                  "errors"], body)


FPM = "nginx-fpm"
# Of the closed loops: workload, connections, what, server, against, figure, how many times it, and whether more is better.
LOAD_BARS = [
    ("hello", 64, "hello.php c=64: req/s against nginx+php-fpm", "sapid", FPM, "rps", 5, True),
    ("hello", 64, "hello.php c=64: CPU/request against nginx+php-fpm", "sapid", FPM, "cpu_us", 0.25, False),
    ("wordpress", 64, "WordPress front page c=64: req/s", "sapid", FPM, "rps", 1.1, True),
    ("1m", 64, "1 MiB page c=64: req/s", "sapid", FPM, "rps", 1.5, True),
    ("static", 64, "static file c=64: req/s against nginx", "sapid", FPM, "rps", 0.8, True),
    ("hello", 64, "hello, worker mode, c=64: req/s against classic mode", "sapid-worker", "sapid", "rps", 1.3, True),
    ("list", 16, "Symfony list, worker mode: req/s against classic mode", "sapid-worker", "sapid", "rps", 4, True),
    ("list", 16, "Symfony list, rolled back: CPU/request against the loop that keeps everything", "sapid-rollback", "sapid-worker",
     "cpu_us", 1.25, False),
    ("list", 16, "Symfony list, rolled back: CPU/request against classic mode", "sapid-rollback", "sapid", "cpu_us", 0.3, False),
    ("list", 16, "Symfony list, rolled back: req/s against nginx+php-fpm", "sapid-rollback", FPM, "rps", 5, True),
    ("row", 16, "Symfony row, rolled back: CPU/request against the loop that keeps everything", "sapid-rollback", "sapid-worker",
     "cpu_us", 1.5, False),
    ("blog", 100, "Symfony blog, c=100, rolled back: req/s against nginx+php-fpm", "sapid-rollback", FPM, "rps", 1.2, True),
]


class Bars:
    """The bars of issues 2, 4 and 5, each judged only when what it needs was measured."""

    def __init__(self, results):
        self.results = results
        self.rows = []

    def part(self, name, *path):
        value = self.results.get(name)
        for step in path:
            value = value.get(step) if value else None
        return value

    def ratio(self, title, ours, theirs, bound, at_least):
        """`ours` and `theirs` have a figure of each round; the median of the rounds' ratios says most where the machine drifts."""
        ratios = [a / b for a, b in zip(ours, theirs) if b]
        if not ratios:
            return
        ratio = statistics.median(ratios)
        holds = ratio >= bound if at_least else ratio <= bound
        self.rows.append([title, f"{'at least' if at_least else 'at most'} {bound:g}x", f"{ratio:.2f}x",
                          f"{statistics.median(ours):,.1f} / {statistics.median(theirs):,.1f}",
                          "holds" if holds else "**does not hold**"])

    def at_most(self, title, value, bound, unit):
        if value is not None:
            self.rows.append([title, f"at most {bound:g} {unit}", f"{value:.2f} {unit}", "",
                              "holds" if value <= bound else "**does not hold**"])

    def judge(self):
        for workload, connections, title, server, against, key, bound, at_least in LOAD_BARS:
            rows = self.results["loads"].get(workload, {}).get(connections, {})
            if server in rows and against in rows:
                self.ratio(title, figures(rows[server], key), figures(rows[against], key), bound, at_least)
        self.judge_limit()
        self.judge_mixed()
        memory = self.part("memory", "wordpress-8") or {}
        if "sapid" in memory and FPM in memory:
            self.ratio("PSS with 8 workers after WordPress, KiB", [memory["sapid"]], [memory[FPM]], 1, False)
        hello_kib = self.part("memory", "hello-2", "sapid")
        self.at_most("PSS with 2 workers and hello.php", hello_kib and hello_kib / MIB, 50, "MiB")
        self.judge_cgi()
        return self.rows

    def judge_limit(self):
        parts = self.part("limit") or {}
        if parts.get("sapid") and parts.get("life-cycle"):
            floors = [a + b for a, b in zip(figures(parts["life-cycle"], "us"), figures(parts["epoll-answer"], "cpu_us"))]
            self.ratio("hello.php c=64: CPU/request against PHP's life cycle + constant answer", figures(parts["sapid"], "cpu_us"), floors,
                       1.15, False)

    def judge_mixed(self):
        rows = self.part("mixed") or {}
        if "sapid" in rows and FPM in rows:
            ours, theirs = (figures([row["fast"] for row in rows[n]], "p99") for n in ("sapid", FPM))
            self.ratio("mixed load: p99 of the fast requests, us", ours, theirs, 1, False)

    def judge_cgi(self):
        rows = self.part("cgi") or {}
        if "sapid" in rows and "php-cgi" in rows:
            self.ratio("hello.php c=50: req/s against php-cgi per request", figures(rows["sapid"], "rps"), figures(rows["php-cgi"], "rps"),
                       50, True)
            self.at_most("hello.php c=50: p50", median(rows["sapid"], "p50_us") / 1000, 5, "ms")


def foreign_percent(results):
    """Median share of one CPU that neither the server nor the load generator used: how quiet the machine was."""
    parts = [servers for sizes in results["loads"].values() for servers in sizes.values()]
    parts += [results[name] for name in ("cgi", "limit") if name in results]
    rows = [row for servers in parts for measured in servers.values() for row in measured
            if "foreign_cpu_percent" in row]
    return median(rows, "foreign_cpu_percent") if rows else 0


def notes(options, results, seconds):
    command = shlex.join(["/usr/bin/python3", "bench/compare", *sys.argv[1:]])
    return f"""\
Command: `{command}`, {seconds / 60:.0f} minutes: {options.rounds} rounds of {options.seconds} s (more where a page is slow). \
The servers \
run at the same time and are loaded in turn (A B C A B C); figures are medians of the rounds. `sapid bench` with \
one thread on loopback shares the {os.cpu_count()} CPUs with the server. CPU is the server's own, all processes, \
from its control group. All servers: same php.ini and extensions (php-fpm's, without xdebug and pcov), \
opcache on, {options.workers} PHP workers, unprivileged user, no access log. nginx: worker_processes auto, \
open_file_cache, FastCGI buffers large enough that no page goes through a file. nginx-fpm-keepalive and \
apache-mod-php hold one PHP process per client connection: with {options.workers} of them, all but \
{options.workers} clients would starve, so they get as many as there are connections (column "processes"). \
sapid-worker keeps the application loaded, sapid-rollback also puts the process \
back after every request, sapid-image runs an ordinary front controller from an image ([worker mode](../docs/worker-mode.md), \
[snapshots](../docs/snapshot.md)). Everything else on the machine (a database among it) \
used {foreign_percent(results):.0f} % of one CPU (median).
"""


def limit_lines(parts):
    lines = ["## The limit", ""]
    body = [["constant answer over epoll (bench/micro/epoll_answer.c), c=64",
             f"{median(parts['epoll-answer'], 'cpu_us'):.1f}"]]
    if parts.get("life-cycle"):
        body.append(["PHP's request life cycle alone, in a loop",
                     f"{median(parts['life-cycle'], 'us'):.1f}"])
    if parts.get("sapid"):
        body.append(["sapid, hello.php, c=64", f"{median(parts['sapid'], 'cpu_us'):.1f}"])
    return lines + table(["what", "CPU us/request"], body)


def load_sections(results):
    lines = []
    for workload in workloads.WORKLOADS + workloads.SYMFONY:
        for connections, rows in results["loads"].get(workload.name, {}).items():
            lines += [f"## {workload.title}, c={connections}", ""] + load_table(rows)
    return lines


def markdown(machine, results, options, seconds):
    bars = Bars(results).judge()
    lines = ["# sapid compared", ""] + machine + ["", notes(options, results, seconds)]
    if results["failed"]:
        lines += ["## Not measured", ""] + [f"- {name}: {why.splitlines()[0]}" for name, why in results["failed"].items()] + [""]
    if bars:
        lines += ["## Bars of issues 2, 4 and 5", "", "Measured: the median of the rounds' ratios. Of: the medians of both. What stands between:",
                  "[README.md](README.md#what-does-not-hold-and-what-stands-between).", ""]
        lines += table(["bar", "asked", "measured", "of", ""], bars)
    lines += load_sections(results)
    if "mixed" in results:
        lines += ["## Mixed load: 1,500 requests/s, one in ten sleeps 20 ms, 8 workers", "",
                  "Open loop (`sapid bench --rps`); latency from the moment each request was due.",
                  ""] + mixed_table(results["mixed"])
    if "cgi" in results:
        lines += ["## hello.php, c=50, against php-cgi started per request", ""]
        lines += load_table(results["cgi"])
    if "limit" in results:
        lines += limit_lines(results["limit"])
    if "memory" in results:
        lines += ["## Memory: PSS of all processes, MiB", ""]
        columns = sorted({name for rows in results["memory"].values() for name in rows}, key=list(peers.ALL).index)
        lines += table(["after", *columns], [[MEMORY[what], *(f"{rows[n] / MIB:.1f}" if n in rows else "-" for n in columns)]
                                             for what, rows in results["memory"].items()])
    return "\n".join(lines).rstrip() + "\n"
