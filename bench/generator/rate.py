"""How much load `sapid bench` makes on one processor, and what that costs it, beside wrk.

The server gives a constant answer and has the second processor to itself: it must be faster than the generators, or its own limit
is what is seen. Where root may ask for it, both run before all else that the machine does.
"""
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from lib import ports  # noqa: E402
from lib.process import accepts, wait_until  # noqa: E402

CONNECTIONS = 50
BAR = 1.2


def first_on(cpu):
    """For a child: on this processor, before other work."""
    def prepare():
        os.sched_setaffinity(0, {cpu})
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
        except PermissionError:
            pass
    return prepare


@contextmanager
def started(command, folder, port, cpu):
    """A server on its processor, until the block ends."""
    process = subprocess.Popen(list(map(str, command)), stdout=open(os.path.join(folder, "log"), "ab"), stderr=subprocess.STDOUT,
                               preexec_fn=first_on(cpu))
    try:
        wait_until(lambda: accepts(("127.0.0.1", port)), f"{command[0]} to listen")
        yield
    finally:
        process.terminate()
        process.wait(20)


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(command, cpu):
    """Requests per second and CPU seconds per request."""
    before = cpu_seconds()
    out = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, preexec_fn=first_on(cpu)).stdout
    found = re.search(r"total_requests: +(\d+)", out) or re.search(r"(\d+) requests in", out)
    rate = re.search(r"(?:Actual RPS|Requests/sec): +([\d.]+)", out)
    return float(rate[1]), (cpu_seconds() - before) / int(found[1])


def compare(url, sapid, rounds, cpu):
    """name -> list of (rate, cost); in turns, the order turned round each time."""
    commands = {"wrk": ["wrk", "-t1", f"-c{CONNECTIONS}", "-d1s", url],
                "sapid bench": [sapid, "bench", url, "--concurrency", str(CONNECTIONS), "--duration", "1s"]}
    seen = {name: [] for name in commands}
    for i in range(rounds):
        for name, command in list(commands.items())[::1 if i % 2 else -1]:
            seen[name].append(run(command, cpu))
    return seen


def table(sapid, rounds):
    """Lines of a table, and whether the bars are held."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        sys.exit("bench/generator: expected two processors, one of them for the server, found one")
    with tempfile.TemporaryDirectory(prefix="sapid-rate-") as folder:
        server = os.path.join(folder, "epoll_answer")
        subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-o", server, ROOT / "bench/micro/epoll_answer.c"], check=True)
        port = ports.free_port()
        with started([server, port], folder, port, cpus[1]):
            seen = compare(f"http://127.0.0.1:{port}/", sapid, rounds, cpus[0])
    lines = ["| generator | requests/s | CPU us/request |", "|---|---|---|"]
    rate, cost = {}, {}
    for name, figures in seen.items():
        rates, costs = [r for r, _ in figures], [c * 1e6 for _, c in figures]
        rate[name], cost[name] = statistics.median(rates), statistics.median(costs)
        lines.append(f"| {name} | {rate[name]:.0f} ({min(rates):.0f} to {max(rates):.0f}) | "
                     f"{cost[name]:.2f} ({min(costs):.2f} to {max(costs):.2f}) |")
    more, dearer = rate["sapid bench"] / rate["wrk"], cost["sapid bench"] / cost["wrk"]
    held = more >= 1 and dearer <= BAR
    lines += [f"| **sapid bench / wrk** | **{more:.2f}** | **{dearer:.2f}** |", "",
              f"Bars: at least wrk's requests/s, at most {BAR} times its CPU a request: {'held' if held else 'MISSED'}."]
    print("\n".join(lines[:-2]), flush=True)
    return lines, held
