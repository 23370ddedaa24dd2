"""One measurement: load one server with wrk or openloop, and read its CPU time and memory around it."""
import json
import os
import subprocess
import time

import peers

HERE = os.path.dirname(os.path.abspath(__file__))
BENCH = os.path.dirname(HERE)


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


def wrk(server, workload, connections, seconds):
    """Closed loop. Returns requests/s, latency in us, errors, CPU us/request, PSS in KiB,
    the CPU of wrk and of all that is neither wrk nor the server (a measure of how quiet it was)."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s",
               "-s", os.path.join(HERE, "report.lua")]
    for name, value in workload.headers.items():
        command += ["-H", f"{name}: {value}"]
    cpu_before, client_before, busy_before = server.cpu_ns(), client_cpu_s(), machine_busy_s()
    done = subprocess.run(command + [f"http://127.0.0.1:{server.port}{workload.path}"],
                          capture_output=True, text=True, timeout=seconds + 60)
    cpu_ns, client_s = server.cpu_ns() - cpu_before, client_cpu_s() - client_before
    busy_s = machine_busy_s() - busy_before
    if done.returncode != 0:
        raise peers.PeerError(f"wrk failed on {server.name}: {done.stdout}{done.stderr}")
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    pss_kib, processes = server.pss_kib(), len(server.pids())
    settle(server)
    duration_s = summary["duration_us"] / 1e6
    return {
        "rps": summary["requests"] / duration_s,
        "p50_us": summary["p50"], "p99_us": summary["p99"], "max_us": summary["max"],
        "errors": sum(summary[k] for k in ("connect_errors", "read_errors", "write_errors",
                                           "timeouts", "status_errors")),
        "cpu_us": cpu_ns / 1000 / max(1, summary["requests"]),
        "pss_kib": pss_kib, "processes": processes,
        "wrk_cpu_percent": 100 * client_s / duration_s,
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


def open_loop(program, server, rate, seconds, slow_percent=10, connections=64):
    """Constant rate, latency from the intended start; `slow_percent` of the requests sleep 20 ms."""
    cpu_before = server.cpu_ns()
    done = subprocess.run([program, str(server.port), str(rate), str(seconds), str(connections),
                           "/hello.php", "/sleep.php", str(slow_percent)],
                          capture_output=True, text=True, timeout=seconds + 30)
    if done.returncode != 0:
        raise peers.PeerError(f"openloop failed on {server.name}: {done.stderr}")
    result = json.loads(done.stdout)
    result["cpu_us"] = (server.cpu_ns() - cpu_before) / 1000 / (rate * seconds)
    return result
