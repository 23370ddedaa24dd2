"""The figures of servers that are loaded in turn, and the instructions each took for a request: the figure that other work on
the machine changes least. Needs perf and its counters; without them it is 0."""
import os
import re
import signal
import subprocess

import measure


def count(server, workload, connections) -> float:
    """Instructions of one request, user and kernel, of all processes of the server."""
    report = os.path.join(server.work, "perf")
    perf = subprocess.Popen(["perf", "stat", "-x,", "-o", report, "-e", "instructions:u,instructions:k",
                             "-p", ",".join(map(str, server.pids()))], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        figures = measure.closed_loop(server, workload, connections, 1)
    finally:
        perf.send_signal(signal.SIGINT)
        perf.wait()
    with open(report) as f:
        counts = [int(n) for n in re.findall(r"^(\d+),,instructions", f.read(), re.M)]
    return sum(counts) / max(1, figures["requests"])


def load(server, workload, connections, seconds) -> dict:
    """Counters make every task switch dearer, most of all for a server with more processes: they look at a second of their
    own, not at the seconds that are timed."""
    # Workers that idleness has ended are there again before the counters look for them.
    subprocess.run(measure.command(server, workload, connections, "--duration", "1s"), capture_output=True, timeout=60)
    instructions = count(server, workload, connections)
    return {**measure.closed_loop(server, workload, connections, seconds), "instructions": instructions}


def in_turn(servers, workload, connections, seconds, rounds) -> dict[str, list[dict]]:
    """A B C A B C: each server's figures of every round. A round before the first warms."""
    rows = {server.name: [] for server in servers}
    for one in range(rounds + 1):
        for server in servers:
            figures = load(server, workload, connections, seconds if one else 2)
            assert figures["errors"] == 0, f"{server.name} {workload.path}: {figures}"
            if one:
                rows[server.name].append(figures)
    return rows
