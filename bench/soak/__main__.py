"""Soak: an hour of mixed traffic, and the growth of memory, descriptors and mappings of every process.

    /usr/bin/python3 bench/soak [--seconds 3600] [--sample 15] [--out bench/soak/RESULT.md]

Traffic: short scripts, sessions, uploads above and below the spool limit, static files with and without ranges,
keep-alive and one-request connections, clients that leave in the middle, malformed requests. Every answer is
checked. Workers are recycled (worker_max_requests = 200000), so a worker's figures are those of its index. The first
third is warm-up; the slope is the least-squares line through the rest, per hour.
"""
import argparse
import os
import random
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from lib import account  # noqa: E402
from lib.httpclient import Connection  # noqa: E402
from lib.roles import alive, gateway, pools, workers  # noqa: E402
from lib.sapid import Sapid  # noqa: E402
from lib.site import Site  # noqa: E402
from lib.workdir import new_workdir, remove_workdir  # noqa: E402

SCRIPTS = {
    "hello.php": "<?php echo 'hello ', $_GET['n'];",
    "session.php": "<?php session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_GET['n'];",
    "upload.php": "<?php echo $_GET['n'], ':', $_FILES['f']['size'] ?? -1, ':', md5_file($_FILES['f']['tmp_name']);",
    "big.php": "<?php echo str_repeat($_GET['n'] . ' ', 200000 / (strlen($_GET['n']) + 1));",
    "error.php": "<?php throw new Exception('meant');",
    "memory.php": "<?php $a = str_repeat('x', 8 << 20); echo $_GET['n'];",
}


class Traffic(threading.Thread):
    def __init__(self, server, seed: int, end: float, pause: float):
        super().__init__()
        self.server, self.random, self.end, self.pause = server, random.Random(seed), end, pause
        self.requests, self.wrong = 0, []

    def check(self, what: str, condition: bool) -> None:
        self.requests += 1
        if not condition:
            self.wrong.append(what)

    def upload(self, c: Connection, n: str) -> None:
        import hashlib
        data = self.random.randbytes(self.random.choice([10, 5000, 300000]))
        body = (b"--B\r\nContent-Disposition: form-data; name=f; filename=a\r\n\r\n" + data + b"\r\n--B--\r\n")
        r = c.request("POST", f"/upload.php?n={n}", {"Content-Type": "multipart/form-data; boundary=B"}, body)
        self.check("upload", r.text == f"{n}:{len(data)}:{hashlib.md5(data).hexdigest()}")

    def leave(self) -> None:
        s = socket.create_connection(self.server.address)
        s.sendall(self.random.choice([b"GET /big.php?n=1 HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HT",
                                      b"POST /upload.php HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"]))
        s.close()
        self.requests += 1

    def malformed(self) -> None:
        with socket.create_connection(self.server.address) as s:
            s.settimeout(10)
            s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.check("malformed", s.recv(4096).startswith(b"HTTP/1.1 400 "))

    def one(self, c: Connection, n: str) -> None:
        kind = self.random.randrange(100)
        if kind < 55:
            self.check("hello", c.request("GET", f"/hello.php?n={n}").text == f"hello {n}")
        elif kind < 65:
            self.check("session", c.request("GET", f"/session.php?n={n}",
                                            {"Cookie": f"PHPSESSID=soak{kind}{n[-1]}"}).text == n)
        elif kind < 72:
            self.upload(c, n)
        elif kind < 77:
            self.check("big", c.request("GET", f"/big.php?n={n}").text.split(" ")[5] == n)
        elif kind < 80:
            self.check("error", c.request("GET", f"/error.php?n={n}").status == 500)
        elif kind < 82:
            self.check("memory", c.request("GET", f"/memory.php?n={n}").text == n)
        elif kind < 94:
            r = c.request("GET", "/file.bin", {"Range": "bytes=10-19"} if kind & 1 else None)
            self.check("static", len(r.body) == (10 if kind & 1 else 50000))
        elif kind < 97:
            self.leave()
        else:
            self.malformed()

    def run(self) -> None:
        while time.monotonic() < self.end:
            with Connection(self.server.address, timeout=30) as c:
                for _ in range(self.random.choice([1, 10, 200])):
                    time.sleep(self.pause)
                    try:
                        self.one(c, f"{self.ident}-{self.requests}")
                    except (AssertionError, OSError) as e:
                        self.wrong.append(repr(e))
                        break


def figures(pid: int) -> dict[str, int]:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    field = {line.split(":")[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
    return {"pss_kib": field["Pss"], "private_kib": field["Private_Dirty"] + field["Private_Clean"],
            "fds": len(os.listdir(f"/proc/{pid}/fd")),
            "maps": Path(f"/proc/{pid}/maps").read_text().count("\n")}


def sample(server) -> dict[str, dict[str, int]]:
    named = {"supervisor": [server.process.pid], "gateway": [gateway(server)], "pool": pools(server),
             "workers": workers(server)}
    out = {}
    for name, pids in named.items():
        total: dict[str, int] = {}
        for pid in pids:
            try:
                for k, v in figures(pid).items():
                    total[k] = total.get(k, 0) + v
            except OSError:
                if alive(pid):
                    raise
        out[name] = total
    return out


def slope_per_hour(points: list[tuple[float, int]]) -> float:
    n = len(points)
    mx, my = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    var = sum((x - mx) ** 2 for x, _ in points)
    return sum((x - mx) * (y - my) for x, y in points) / var * 3600 if var else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--sample", type=float, default=15)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--pause", type=float, default=0, help="seconds between two requests of a client")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "RESULT.md")
    args = parser.parse_args()
    folder = new_workdir()
    root = folder / "root"
    root.mkdir()
    for name, text in SCRIPTS.items():
        (root / name).write_text(text)
    (root / "file.bin").write_bytes(os.urandom(50000))
    (folder / "s").mkdir()
    account.give(root)
    sessions = folder / "sessions"
    sessions.mkdir()
    account.give(sessions)
    server = Sapid(Site(root=root, workers=4, php={"worker_max_requests": 200000},
                        ini={"session.save_path": str(sessions), "session.use_strict_mode": "0"}), folder / "s")
    end = time.monotonic() + args.seconds
    clients = [Traffic(server, i, end, args.pause) for i in range(args.clients)]
    for c in clients:
        c.start()
    start, series = time.monotonic(), []
    while time.monotonic() < end:
        time.sleep(args.sample)
        series.append((time.monotonic() - start, sample(server)))
    for c in clients:
        c.join()
    requests, wrong = sum(c.requests for c in clients), [w for c in clients for w in c.wrong]
    kept = [s for s in series if s[0] > args.seconds / 3]
    lines = [f"# Soak: {args.seconds} s, {requests} requests checked, {len(wrong)} wrong", "",
             "| process | figure | first | last | slope per hour |", "|---|---|---|---|---|"]
    for name in kept[0][1]:
        for figure in kept[0][1][name]:
            points = [(t, s[name][figure]) for t, s in kept if figure in s[name]]
            lines.append(f"| {name} | {figure} | {points[0][1]} | {points[-1][1]} | {slope_per_hour(points):+.1f} |")
    lines += ["", *[f"- {w}" for w in wrong[:20]]]
    lines += ["", "Worker mode, a million requests of a Symfony application in one process: [WORKER.md](WORKER.md)."]
    args.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    server.stop()
    remove_workdir(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
