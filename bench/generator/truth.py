"""What `sapid bench` says of a server whose latencies are known: the server's own record is the truth.

A request's true latency is from when it was due to when the server sent its answer. The server (target.c) knows the second;
the first is a constant rate, from the request that came with the least delay. Where gaps are random it only knows when a
request arrived; the way there, some 0.1 ms, is then missing from the truth, so that server is a slower one.
"""
import json
import math
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

PERCENTILES = ("p50", "p75", "p90", "p95", "p99", "p99.9")
BAR = 0.02


@dataclass
class Case:
    name: str
    target: list        # arguments of target.c
    rate: int
    seconds: float
    connections: int
    poisson: bool = False
    figures: tuple = PERCENTILES


CASES = [
    Case("10 ms, always", [10000], 500, 10, 100),
    Case("50 ms, always, random gaps", [50000], 500, 10, 200, poisson=True),
    Case("10 ms, 8 % 40 ms", [10000, 40000, 8], 500, 10, 200),
    # Not p90: a tenth of the requests meet the stall, so there its first microsecond is as true as its last.
    Case("10 ms, 1 s stall every 10 s, a connection for each", [10000, "stall", 1000, 10000], 400, 30, 600,
         figures=("p50", "p75", "p95", "p99", "p99.9")),
    Case("10 ms, 1 s stall every 10 s, 20 connections", [10000, "stall", 1000, 10000], 400, 30, 20),
]


def percentile(ranked, percent):
    return ranked[max(0, math.ceil(percent / 100 * len(ranked) - 1e-6) - 1)]


def read_record(path):
    """Moments (arrived, sent) in the order of arrival, and stalls (begin, end); seconds."""
    requests, stalls = [], []
    for line in Path(path).read_text().splitlines():
        words = line.split()
        if words[0] == "stall":
            stalls.append((int(words[1]) / 1e9, int(words[2]) / 1e9))
        else:
            requests.append((int(words[0]) / 1e9, int(words[1]) / 1e9))
    return sorted(requests), stalls


def true_latencies(requests, case):
    """In ms, smallest first."""
    if case.poisson:
        return sorted(1000 * (sent - arrived) for arrived, sent in requests)
    begin = min(arrived - i / case.rate for i, (arrived, _) in enumerate(requests))
    return sorted(1000 * (sent - begin - i / case.rate) for i, (_, sent) in enumerate(requests))


def realtime():
    """Before all other processes, where root may ask for that: what else the machine does is no fault of the generator."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except PermissionError:
        pass


def run(case, target, sapid, first=realtime):
    """(truth, what sapid bench said, stalls): latencies in ms by percentile, for all requests."""
    with tempfile.TemporaryDirectory(prefix="sapid-truth-") as folder:
        record = os.path.join(folder, "record")
        server = subprocess.Popen([target, record, *map(str, case.target)], stdout=subprocess.PIPE, text=True, preexec_fn=first)
        try:
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/"
            command = [sapid, "bench", url, "--rps", str(case.rate), "--requests", str(round(case.rate * case.seconds)),
                       "--concurrency", str(case.connections), "--format", "json", *(["--poisson"] if case.poisson else [])]
            done = subprocess.run(command, capture_output=True, text=True, timeout=case.seconds + 60, preexec_fn=first)
        finally:
            server.terminate()
            server.wait(30)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        requests, stalls = read_record(record)
    result = json.loads(done.stdout)
    if len(requests) != result["total_requests"]:
        raise RuntimeError(f"the server answered {len(requests)} requests, sapid bench counted {result['total_requests']}")
    latencies = true_latencies(requests, case)
    truth = {name: percentile(latencies, float(name[1:])) for name in PERCENTILES}
    truth["max"] = latencies[-1]
    return truth, result["latency_ms"], stalls


def table(target, sapid):
    lines = ["| server | rate | figure | truth, ms | sapid bench, ms | deviation |", "|---|---|---|---|---|---|"]
    worst = 0.0
    for case in CASES:
        truth, said, stalls = run(case, target, sapid)
        shown = [*case.figures, "max"]
        for name in shown:
            off = said[name] / truth[name] - 1
            if name != "max":
                worst = max(worst, abs(off))
            lines.append(f"| {case.name} | {case.rate}/s | {name} | {truth[name]:.3f} | {said[name]:.3f} | {100 * off:+.2f} % |")
        print("\n".join(lines[-len(shown):]), flush=True)
    summary = f"Worst percentile: {100 * worst:.2f} % from the truth (bar {100 * BAR:g} %): {'held' if worst <= BAR else 'MISSED'}."
    return [*lines, "", summary], worst <= BAR
