"""Four load generators on the same server, in turns: what each says of rate and latency, and what it costs."""
import json
import os
import re
import statistics
import subprocess
import tempfile

import measure
import peers
import report
import workloads

CONNECTIONS = 64


def percentile(ranked, percent):
    return ranked[min(len(ranked) - 1, int(percent / 100 * len(ranked)))]


class Generator:
    """`command(url, seconds)`, and `read(output)`: requests/s, p50 and p99 in us, errors, requests."""


class SapidBench(Generator):
    name = "sapid bench"

    def command(self, url, seconds):
        return [peers.Sapid.program, "bench", url, "--concurrency", str(CONNECTIONS), "--duration", f"{seconds}s",
                "--format", "json"]

    def read(self, text):
        r = json.loads(text)
        return (r["requests_per_sec"], measure.microseconds(r, "p50"), measure.microseconds(r, "p99"), r["errors"]["total"],
                r["total_requests"])


class Wrk(Generator):
    name = "wrk"
    UNITS = {"us": 1, "ms": 1e3, "s": 1e6, "m": 60e6}

    def command(self, url, seconds):
        return ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", url]

    def read(self, text):
        def us(percent):
            value, unit = re.search(rf"\s{percent}%\s+([\d.]+)(us|ms|s|m)", text).groups()
            return float(value) * self.UNITS[unit]
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        errors = int(bad[1]) if bad else 0
        errors += sum(map(int, sockets.groups())) if sockets else 0
        return (float(re.search(r"Requests/sec: +([\d.]+)", text)[1]), us(50), us(99), errors,
                int(re.search(r"(\d+) requests in", text)[1]))


class H2load(Generator):
    """Its summary has no percentiles; they come from its log of all requests, which costs it something."""
    name = "h2load --h1"

    def command(self, url, seconds):
        self.log = tempfile.mktemp(prefix="sapid-h2load-")
        return ["h2load", "--h1", "-t1", f"-c{CONNECTIONS}", "-D", str(seconds), f"--log-file={self.log}", url]

    def read(self, text):
        with open(self.log) as f:
            times = sorted(int(line.split("\t")[2]) for line in f)
        os.unlink(self.log)
        found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
        return (float(re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", text)[1]), percentile(times, 50), percentile(times, 99),
                int(found[2]) + int(found[4]), len(times))


class Hey(Generator):
    name = "hey"

    def command(self, url, seconds):
        return ["hey", "-cpus", "1", "-c", str(CONNECTIONS), "-z", f"{seconds}s", url]

    def read(self, text):
        def us(percent):
            return 1e6 * float(re.search(rf"\s{percent}%+ in ([\d.]+) secs", text)[1])
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
        counts = [(int(status), int(n)) for status, n in re.findall(r"\[(\d+)\]\s+(\d+) responses", text)]
        return rate, us(50), us(99), sum(n for status, n in counts if status >= 400), sum(n for _, n in counts)


GENERATORS = [SapidBench(), Wrk(), H2load(), Hey()]


def load(generator, server, workload, seconds):
    cpu_before, client_before = server.cpu_ns(), measure.client_cpu_s()
    line = generator.command(f"http://127.0.0.1:{server.port}{workload.path_on(server)}", seconds)
    done = subprocess.run(line, capture_output=True, text=True, timeout=seconds + 60)
    client_s, server_ns = measure.client_cpu_s() - client_before, server.cpu_ns() - cpu_before
    try:
        rps, p50, p99, errors, requests = generator.read(done.stdout)
    except (TypeError, AttributeError, IndexError, ValueError) as error:
        raise peers.PeerError(f"{' '.join(line)}: its report was not understood ({error}):\n{done.stdout}{done.stderr}") from None
    measure.settle(server)
    return {"rps": rps, "p50_us": p50, "p99_us": p99, "errors": errors, "requests": requests,
            "client_us": 1e6 * client_s / max(1, requests), "server_us": server_ns / 1000 / max(1, requests)}


def run_all(bench):
    """{server: {generator: [measurement per round]}}"""
    results = {}
    with bench.running([measure.EpollAnswer, peers.Sapid], bench.options.workers, CONNECTIONS) as servers:
        for number in range(bench.options.rounds + 1):      # the first one warms
            for server in servers:
                for generator in GENERATORS[::1 if number % 2 else -1]:
                    row = load(generator, server, workloads.HELLO, bench.options.seconds if number else 1)
                    if number == 0:
                        continue
                    results.setdefault(server.name, {}).setdefault(generator.name, []).append(row)
                    bench.say(f"{server.name:14} round {number} {generator.name:12} {row['rps']:9.0f} req/s  "
                              f"p50 {row['p50_us']:7.0f} us  p99 {row['p99_us']:7.0f} us  "
                              f"client {row['client_us']:6.2f} us/request")
    return results


NOTES = """\
Command: `/usr/bin/python3 bench/compare --cross-check` with {rounds} rounds of {seconds} s: the same server, {connections}
connections, one thread (hey: one processor), the generators in turns, their order turned round each time; medians, in brackets
lowest to highest. Server and generator share {cpus} processors with whatever else ran.

How to read it:

- **Requests/s** differ by what a request costs the generator, as long as generator and server compete for the processors: what one
  needs less the other has more. Against a constant answer, which costs the server least, the generator is the limit.
- **p50 and p99** of a closed loop follow from the rate: connections / rate is the mean latency, whatever the generator. A p99 is of
  those {connections} connections while they politely wait; it is no visitor's. Only `sapid bench --rps` measures that.
- **wrk** counts from the write of a request to the end of its answer, as `sapid bench` does in the closed loop.
- **h2load** has no percentiles of its own; those here are of its log of all requests, whose writing is part of its CPU.
- **hey** is a Go program with a goroutine per connection: several times the CPU a request, which the server then lacks. Its
  percentiles have steps of 0.1 ms.
"""


def spread(rows, key, fmt):
    values = [row[key] for row in rows]
    return f"{statistics.median(values):{fmt}} ({min(values):{fmt}} to {max(values):{fmt}})"


def markdown(machine, results, options):
    lines = ["# sapid bench cross-checked", ""] + machine + ["", NOTES.format(
        rounds=options.rounds, seconds=options.seconds, connections=CONNECTIONS, cpus=os.cpu_count())]
    for server, generators in results.items():
        first = report.median(generators[GENERATORS[0].name], "rps")
        body = [[name, spread(rows, "rps", ",.0f"), f"{report.median(rows, 'rps') / first:.2f}",
                 spread(rows, "p50_us", ".0f"), spread(rows, "p99_us", ".0f"), f"{report.median(rows, 'client_us'):.1f}",
                 f"{report.median(rows, 'server_us'):.1f}", str(sum(row["errors"] for row in rows))]
                for name, rows in generators.items()]
        lines += [f"## {server}", ""] + report.table(
            ["generator", "requests/s", "of sapid bench's", "p50 us", "p99 us", "its CPU us/request", "server's", "errors"], body)
    return "\n".join(lines)
