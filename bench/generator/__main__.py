"""`sapid bench` beside wrk: requests per second and the generator's own CPU per request.

    /usr/bin/python3 bench/generator [--rounds 9]

Both load the same sapid in turns (A B A B), each with one thread on the first CPU, 50 connections, one second a
round. Medians; a round on a machine with other work says little, so look at the spread too.
"""
import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from lib.sapid import Sapid, binary  # noqa: E402
from lib.site import Site  # noqa: E402
from lib.workdir import new_workdir, remove_workdir  # noqa: E402


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def one_core():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def run(command):
    """Requests per second and CPU seconds per request."""
    before = cpu_seconds()
    out = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, preexec_fn=one_core).stdout
    found = re.search(r"total_requests: +(\d+)", out) or re.search(r"(\d+) requests in", out)
    rate = re.search(r"(?:Actual RPS|Requests/sec): +([\d.]+)", out)
    return float(rate[1]), (cpu_seconds() - before) / int(found[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    folder = new_workdir()
    root = folder / "root"
    (folder / "s").mkdir()
    root.mkdir()
    (root / "hello.txt").write_text("hello")
    server = Sapid(Site(root=root), folder / "s")
    url = server.origin + "/hello.txt"
    commands = {"wrk": ["wrk", "-t1", "-c50", "-d1s", url],
                "sapid bench": [binary(), "bench", url, "--concurrency", "50", "--duration", "1s"]}
    seen = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            seen[name].append(run(command))
    for name, figures in seen.items():
        rates, costs = [r for r, _ in figures], [c * 1e6 for _, c in figures]
        print(f"{name:12} {statistics.median(rates):9.0f} req/s ({min(rates):.0f} to {max(rates):.0f})   "
              f"{statistics.median(costs):.2f} us CPU/request ({min(costs):.2f} to {max(costs):.2f})")
    server.stop()
    remove_workdir(folder)


if __name__ == "__main__":
    main()
