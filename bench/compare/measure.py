"""One measurement: load one server with `sapid bench`, and read its CPU time and memory around it."""
import json
import os
import subprocess
import time

import peers

BENCH = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def compile_tool(source, work):
    """Compiles one C file of bench/ and returns the program's path."""
    program = os.path.join(work, os.path.splitext(os.path.basename(source))[0])
    subprocess.run(["cc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-o", program,
                    os.path.join(BENCH, source)], check=True)
    os.chmod(program, 0o755)
    return program


class EpollAnswer(peers.Server):
    """bench/micro/epoll_answer.c as a server to load: the floor of any HTTP server's cost."""

    name = "epoll-answer"
    program = None

    def commands(self):
        return [[self.program, str(self.port)]]


def machine_busy_s():
    """CPU seconds that all processes of the machine used, and those a hypervisor took (steal)."""
    with open("/proc/stat") as f:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, f.readline().split()[1:9])
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq + steal) / ticks


def client_cpu_s():
    times = os.times()
    return times.children_user + times.children_system


def command(server, workload, connections, *more):
    """`sapid bench` on one path of a server."""
    line = [peers.Sapid.program, "bench", f"http://127.0.0.1:{server.port}{workload.path_on(server)}", "--concurrency", str(connections),
            "--format", "json", *map(str, more)]
    for name, value in workload.headers.items():
        line += ["--header", f"{name}: {value}"]
    line += workload.expect
    if workload.body_bytes is not None:
        line += ["--expect-length", str(workload.body_bytes)]
    return line


def read(server, done):
    """What a run of `sapid bench` printed; errors are counted in it, and are no failure of the run."""
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        raise peers.PeerError(f"sapid bench failed on {server.name}: {done.stdout}{done.stderr}") from None


def microseconds(result, name):
    """0: no request was answered."""
    return 1000 * (result["latency_ms"][name] or 0)


def closed_loop(server, workload, connections, seconds):
    """Returns requests/s, latency in us, errors, CPU us/request, PSS in KiB, the CPU of the load generator and of all that is
    neither it nor the server (a measure of how quiet it was)."""
    line = command(server, workload, connections, "--duration", f"{seconds}s")
    cpu_before, client_before, busy_before = server.cpu_ns(), client_cpu_s(), machine_busy_s()
    result = read(server, subprocess.run(line, capture_output=True, text=True, timeout=seconds + 60))
    cpu_ns, client_s = server.cpu_ns() - cpu_before, client_cpu_s() - client_before
    busy_s = machine_busy_s() - busy_before
    pss_kib, processes = server.pss_kib(), len(server.pids())
    settle(server)
    # From the first request to the last answer: answers that come after the end of `seconds` are work that was done, too, and
    # more of it the slower a server is.
    duration_s = max(result["duration_s"], result["last_answer_s"])
    return {
        "rps": (result["total_requests"] - result["errors"]["total"]) / duration_s, "requests": result["total_requests"],
        "p50_us": microseconds(result, "p50"), "p99_us": microseconds(result, "p99"), "max_us": microseconds(result, "max"),
        "errors": result["errors"]["total"],
        "cpu_us": cpu_ns / 1000 / max(1, result["total_requests"]),
        "pss_kib": pss_kib, "processes": processes,
        "client_cpu_percent": 100 * client_s / duration_s,
        "foreign_cpu_percent": max(0, 100 * (busy_s - client_s - cpu_ns / 1e9) / duration_s),
    }


def settle(server, limit_s=20):
    """Waits until the server is idle: php-fpm goes on with requests whose clients have left, and that
    must not be at the cost of the next server's figures."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        before = server.cpu_ns()
        time.sleep(0.05)
        if server.cpu_ns() - before < 2_500_000:    # 5 % of one CPU
            return


def open_loop(server, fast, slow, rate, seconds, connections, slow_percent=10):
    """Constant rate, latency in us from the intended start. Two generators at once, so that the percentiles of the fast requests
    are not those of the slow ones: `slow_percent` of the requests are for `slow`, and a quarter of the connections."""
    shares = {"fast": (fast, rate * (100 - slow_percent) / 100, connections * 3 // 4),
              "slow": (slow, rate * slow_percent / 100, connections // 4)}
    cpu_before = server.cpu_ns()
    running = {name: subprocess.Popen(command(server, workload, its, "--rps", share, "--duration", f"{seconds}s"),
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
               for name, (workload, share, its) in shares.items()}
    result = {}
    for name, process in running.items():
        out, err = process.communicate(timeout=seconds + 60)
        found = read(server, subprocess.CompletedProcess(process.args, process.returncode, out, err))
        result[name] = {"p50": microseconds(found, "p50"), "p90": microseconds(found, "p90"), "p99": microseconds(found, "p99"),
                        "p999": microseconds(found, "p99.9"), "errors": found["errors"]["total"]}
    result["cpu_us"] = (server.cpu_ns() - cpu_before) / 1000 / (rate * seconds)
    return result
