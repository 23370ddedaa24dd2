#!/usr/bin/python3
"""The isolation suite: some 130 kinds of request in random order on several workers in parallel. Every answer must be,
byte for byte, what classic mode answers to the same request; every request reports what it finds of the requests
before it, and then dirties all of that; no random value may ever come twice; nothing may grow.

As a program: many requests against one mode, for as long as it takes.
    tests/isolation/suite.py --mode rollback --requests 100000
    tests/isolation/suite.py --mode worker --requests 1000      # without isolation: shows what leaks
    tests/isolation/suite.py --help
"""
from __future__ import annotations

import argparse
import base64
import gzip
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lib import account, roles  # noqa: E402
from lib.process import wait_until  # noqa: E402
from lib.httpclient import Closed, Connection, ProtocolError  # noqa: E402
from lib.sapid import Sapid  # noqa: E402
from lib.site import Site  # noqa: E402
from lib.workdir import new_workdir, remove_workdir  # noqa: E402

CLIENTS = 4
VARIANTS = (1, 2, 3)
SECRET = "sEcReT"
FORM = "application/x-www-form-urlencoded"
# Fields that are not the same every time: the time, the process, the random values, and the framing, which
# follows the probes and the clock (the client checks it).
VARYING = {"date", "x-pid", "x-descriptors", "x-random", "content-length", "transfer-encoding"}
# What PHP-FPM and classic mode leave in the process for the next request: rollback does better.
CLASSIC_LEAKS = {"openssl errors", "posix error", "blocked signals", "libc", "alarm"}
# PHP seeds its combined LCG from the clock and the process id in every request: one value in a thousand comes twice.
CLASSIC_REPEATS = {"lcg_value"}
# Sources that PHP seeds with 32 random bits in every request: by chance alone n requests meet n * n / 2^33 seeds again.
SEEDED = {"mt_rand", "rand", "array_rand", "shuffle", "str_shuffle", "engine"}
# Kinds that take long enough to be asked only now and then.
OWN_DEATHS_SHARE = 0.25   # of the requests, while there are deaths to come
HEAVY = {"large_memory": 30, "memory_limit": 20, "large_arrays": 20, "autoload_many": 5, "hot_loop": 3, "openssl": 2, "cycles": 8,
         "gc_caches": 8, "bcrypt": 8, "argon": 8, "large_output": 3, "pcre": 4, "fork": 8, "shell": 5, "proc_open": 5, "popen": 5,
         "environment": 5, "sleep": 5, "upload": 3, "input": 3}


def kinds() -> list[str]:
    """The names in app/kinds_*.php, in their order."""
    found = []
    for path in sorted((HERE / "app").glob("kinds_*.php")):
        found += re.findall(r"^    '(\w+)' => function", path.read_text(), re.M)
    return found


def make_site(folder: Path) -> Path:
    """The application with the classes and files it loads late, and a root for each mode."""
    site = folder / "site"
    shutil.copytree(HERE / "app", site / "app")
    for name in ("classic/public", "worker/public", "seed/public", "lazy", "data", "sessions"):
        (site / name).mkdir(parents=True)
    for name in ("classic", "worker", "seed"):
        (site / f"app/{name}.php").rename(site / name / "public/index.php")
    lazy = site / "lazy"
    for i in range(200):
        (lazy / f"C{i}.php").write_text(
            f"<?php namespace Lazy; class C{i} {{ public static int $count = 0; public array $a = ['{i}' => [{i}]];"
            f" function name() {{ static $n = 'C{i}'; return $n .= '.'; }} }}")
    for i in range(31):
        (lazy / f"value{i}.php").write_text(f"<?php\nfunction value{i}() {{ static $s = 0; return ++$s; }}\nreturn {i} + value{i}();\n")
    (lazy / "left.php").write_text("<?php\nclass LeftByInclude { public static $n = 0; }\n")
    account.give(site)
    return site


def start(folder: Path, site: Path, mode: str, *, workers: int = CLIENTS, ini=None, worker=None, **site_options) -> Sapid:
    """A server in `mode`: "classic", "worker" (without isolation), "rollback", or a script of classic mode that calls
    restore_state() and snapshot_state(): "seed" in place of a worker script, "image" in a classic pool, which has an
    image of it made."""
    (folder / mode).mkdir()
    os.chmod(folder / mode, 0o755)
    # PHP 8.5 shows the calls of a fatal error, and those above the application differ between the modes.
    settings = {"display_errors": "1", "html_errors": "0", "fatal_error_backtraces": "0", "log_errors": "0",
                "ffi.enable": "1", "memory_limit": "128M",
                "session.save_path": str(site / "sessions"), "session.gc_probability": "0", "opcache.enable": "1",
                "opcache.max_accelerated_files": "4000", "opcache.file_update_protection": "0", "apc.enabled": "1",
                "error_reporting": "32767", **(ini or {})}
    if mode == "classic":
        return Sapid(Site(root=site / "classic/public", workers=workers, ini=settings), folder / mode)
    if mode == "image":
        server = Sapid(Site(root=site / "seed/public", workers=workers, ini=settings, php={"max_images": 1}), folder / mode)
        server.get("/")   # it asks
        wait_until(lambda: json.loads(server.admin("/server?json").text)["pools"][0]["images"]["active"], "the image")
        return server
    root = site / ("seed" if mode == "seed" else "worker") / "public"
    keys = {"script": str(root / "index.php"), "num": workers, **(worker or {})}
    if mode != "worker":
        keys.setdefault("isolation", "rollback")
        keys.setdefault("warmup", [])   # what a warm-up request leaves behind is part of the image
        keys.setdefault("learn", "off")   # and so is what the next generation loads early
    return Sapid(Site(root=root, workers=1, ini=settings, worker=keys, **site_options), folder / mode)


# Kinds that a death in the middle leaves something of in the world outside: files, shared memory.
OUTSIDE = {"directories", "umask", "session_file", "session_open", "pdo_file", "phar", "shared_memory", "apcu", "zip", "stat_cache",
           "files", "include_new_file", "upload", "alarm"}
# Kinds that leave objects to their destructors, or Fibers and generators to be unwound, and do not exit: a worker script's
# answer is complete when its handler returns, so what they print then is nobody's. In the log it is (see late_words).
LATE = {"destructors", "throwing_destructor", "exit_in_destructor", "destructor_uses_session", "fibers", "generators"}


@dataclass
class Spec:
    """One request: what it asks for and what goes with it. `own`: the client, whose files are its own."""
    kind: str
    n: int
    own: int

    def send(self, connection: Connection, secret: str):
        method, body, headers = "GET", None, {"Cookie": f"secret={secret}"}
        if self.kind == "post":
            method, body = "POST", ("&".join(f"f{i}[]=v{i}" for i in range(10 * self.n)) + "&own=1").encode()
            headers["Content-Type"] = FORM
        elif self.kind == "json_body":
            method, body = "POST", json.dumps({"list": list(range(50 * self.n)), "text": "ä" * self.n}).encode()
            headers["Content-Type"] = "application/json"
        elif self.kind == "input":
            method, body = "PUT", b"0123456789" * 10_000 * self.n
            headers["Content-Type"] = "application/octet-stream"
        elif self.kind == "cookies":
            headers["Cookie"] += f"; a={self.n}; b[x]=1; c=%20d"
        elif self.kind == "upload":
            method, body = "POST", self._files()
            headers["Content-Type"] = "multipart/form-data; boundary=b0undary"
        return connection.request(method, f"/?kind={self.kind}&n={self.n}&own={self.own}", headers, body)

    def _files(self) -> bytes:
        parts = [f'--b0undary\r\nContent-Disposition: form-data; name="f{i}"; filename="f{i}.txt"\r\n'
                 f'Content-Type: text/plain\r\n\r\n{str(i) * 20_000 * self.n}\r\n' for i in range(self.n)]
        return "".join(parts + ["--b0undary--\r\n"]).encode()


def answer(spec: Spec, r) -> tuple:
    """Status, fields and body, without the first line, the probes, which are looked at one by one: here is only whether
    there are any (after memory_limit PHP throws the output away)."""
    fields = sorted((n.lower(), v) for n, v in r.fields if n.lower() not in VARYING)
    probes, _, body = r.body.partition(b"\n")
    if spec.kind == "memory_limit":   # counted from the image on, so that the number is larger by that
        body = re.sub(rb"Allowed memory size of \d+ bytes", b"Allowed memory size", body)
    return r.status, fields, body, probes != b""


def without_late_words(spec: Spec, found: tuple) -> tuple:
    """What a worker script answers."""
    status, fields, body, probes = found
    end = f"\nend of {spec.kind} {spec.n}\n".encode()
    if spec.kind in LATE and end in body:
        body = body[:body.index(end) + len(end)]
        fields = [f for f in fields if f[0] != "x-from-destructor"]
    return status, fields, body, probes


class Reference:
    """What classic mode answers, asked once for each spec and remembered; and what the probes say in a process that has
    not yet served anybody."""

    def __init__(self, server, specs):
        self.answers = {}
        self.probes = json.loads(server.get("/?kind=get&n=1&own=0").body.partition(b"\n")[0])
        with server.connect(timeout=60) as c:
            for spec in specs:
                r = spec.send(c, f"{SECRET}0000000000")
                self.answers[spec.kind, spec.n, spec.own] = answer(spec, r)
                if not r.keeps_alive:
                    raise AssertionError(f"classic mode closed the connection behind {spec}")

    def __getitem__(self, spec: Spec) -> tuple:
        return self.answers[spec.kind, spec.n, spec.own]


FATAL = 0   # display_errors is on, so that PHP answers 200 and says what it was
# Ways to die of app/deaths.php: how often, and the status of the answer. "At end" is behind the answer's last byte.
DEATHS = {"kill": (30, 502), "segv": (30, 502), "abort": (30, 502), "bus_in_shutdown": (20, 502), "segv_in_destructor": (20, 502),
          "kill_in_output": (20, 502), "kill_at_end": (20, 200), "segv_at_end": (20, 200), "stack": (10, 502),
          "memory": (40, FATAL),
          "memory_in_shutdown": (20, FATAL), "memory_in_destructor": (20, FATAL), "memory_at_end": (20, 200), "exit_at_end": (20, 200),
          "exit_in_generator": (20, 200), "time": (1, FATAL), "wall": (2, 504)}


@dataclass
class Death(Spec):
    how: str = ""

    def send(self, connection: Connection, secret: str):
        return connection.request("GET", f"/?kind=death&how={self.how}", {"Cookie": f"secret={secret}"})

    def accepts(self, r) -> bool:
        status = DEATHS[self.how][1]
        if r.status != 200:   # on a machine that is busy a second of processor time may take longer than request_timeout
            return r.status in (status, 502, 503) or (self.how == "time" and r.status == 504)
        return b"Fatal error" in r.body if status == FATAL else r.body.endswith((b"end of death\n", b"exit"))


@dataclass
class Result:
    requests: int = 0
    seconds: float = 0
    wrong: list[str] = field(default_factory=list)             # answers unlike the classic one
    wrong_kinds: Counter = field(default_factory=Counter)
    leaks: Counter = field(default_factory=Counter)            # probe -> requests that found something
    first_leaks: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)         # another request's secret in an answer
    repeats: Counter = field(default_factory=Counter)          # source of random values -> repeated values
    values: int = 0
    broken: list[str] = field(default_factory=list)            # requests without an answer
    deaths: Counter = field(default_factory=Counter)           # how workers and requests died meanwhile
    descriptors: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    growth: list[str] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)

    @property
    def moved(self) -> dict[int, list[int]]:
        return {pid: sorted(counts) for pid, counts in self.descriptors.items() if len(counts) > 1}

    def problems(self) -> list[str]:
        found = []
        if self.broken and not self.deaths:
            found.append(f"{len(self.broken)} without an answer: {self.broken[:3]}")
        if self.wrong:
            found.append(f"{sum(self.wrong_kinds.values())} wrong answers {dict(self.wrong_kinds)}:\n" + "\n".join(self.wrong[:5]))
        if self.leaks:
            found.append(f"leaks: {dict(self.leaks)}\n" + "\n".join(self.first_leaks[:5]))
        if self.strangers:
            found.append(f"{len(self.strangers)} answers with the secret of another request: {self.strangers[:3]}")
        chance = 3 * self.requests ** 2 // 2 ** 33 + (self.requests > 10_000)
        repeats = {source: n for source, n in self.repeats.items() if source not in SEEDED or n > chance}
        if repeats:
            found.append(f"repeated random values: {repeats}")
        if self.moved:
            found.append(f"open descriptors at the start of a request, by process: {dict(list(self.moved.items())[:3])}")
        return found + self.growth

    def __str__(self) -> str:
        return (f"{self.requests} requests in {self.seconds:.0f} s on {len(self.pids)} processes, {self.values} random values: "
                f"{sum(self.wrong_kinds.values())} wrong, {sum(self.leaks.values())} leaks of {len(self.leaks)} probes, "
                f"{len(self.strangers)} with others' data, {sum(self.repeats.values())} repeats, {len(self.broken)} unanswered, "
                f"{len(self.growth)} growing" + (f", {self.deaths.total()} deaths {dict(self.deaths)}" if self.deaths else ""))


class Killer(threading.Thread):
    """Ends workers, whatever they are doing, one after the other, until there have been `wanted` deaths."""

    def __init__(self, server, result: Result, wanted: int, seed: int):
        super().__init__(daemon=True)
        self.server, self.result, self.wanted = server, result, wanted
        self.dice = random.Random(seed)

    def run(self) -> None:
        while self.result.deaths["killed from outside"] < self.wanted:
            time.sleep(self.dice.random() * 0.02)   # anywhere in a request or a rollback
            # One that served already: a worker that dies at once again and again is a crash loop.
            pids = [pid for pid in roles.workers(self.server) if pid in self.result.pids]
            if not pids:
                continue
            pid = self.dice.choice(pids)
            try:
                os.kill(pid, self.dice.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)))
            except ProcessLookupError:
                continue
            self.result.pids.discard(pid)
            self.result.deaths["killed from outside"] += 1


class Suite:
    def __init__(self, server, reference: Reference, names: list[str], *, seed: int = 1, deaths: int = 0,
                 own_deaths: int = 0):
        self.server, self.reference, self.names, self.seed = server, reference, names, seed
        self.frozen = bool(server.site.worker) or "max_images" in server.site.php
        self.allowed = CLASSIC_LEAKS if not self.frozen else set()
        self.weak = CLASSIC_REPEATS if not self.frozen else set()
        self.loops = server.site.worker and "seed" not in str(server.site.root)
        # So many workers are killed meanwhile, so many requests die by themselves: an answer may be 502, 503 or missing.
        self.deaths, self.own_deaths = deaths, own_deaths
        self.sent_deaths = 0
        self.result = Result()
        self.seen: dict[str, set] = defaultdict(set)
        self.lock = threading.Lock()
        self.early: dict[int, tuple] = {}

    def run(self, requests: int, clients: int = CLIENTS) -> Result:
        begin = time.monotonic()
        if self.deaths or self.own_deaths:
            killer = Killer(self.server, self.result, self.deaths, self.seed)
            killer.start()
            while killer.is_alive() or self.sent_deaths < self.own_deaths:
                self._run_clients(max(clients, requests // 4), clients, self.result.deaths.total())
            self._run_clients(requests, clients, "afterwards")
            self.result.seconds = time.monotonic() - begin
            return self.result
        first = max(clients, requests // 4)
        self._run_clients(first, clients, 0)
        self.early = self._sizes()
        self._run_clients(requests - first, clients, 1)
        self._compare_sizes()
        self.result.seconds = time.monotonic() - begin
        return self.result

    def _run_clients(self, requests: int, clients: int, part: int) -> None:
        share = [requests // clients + (i < requests % clients) for i in range(clients)]
        threads = [threading.Thread(target=self._client, args=(i, share[i], random.Random(f"{self.seed}-{part}-{i}")))
                   for i in range(clients)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    def _client(self, own: int, requests: int, dice: random.Random) -> None:
        connection, order = None, []
        for i in range(requests):
            while not order:
                order = [Spec(k, n, own) for k in self.names for n in VARIANTS if dice.randrange(HEAVY.get(k, 1)) == 0]
                dice.shuffle(order)
            spec, secret = order.pop(), f"{SECRET}{own}{dice.getrandbits(36):09x}"
            if self.sent_deaths < self.own_deaths and dice.random() < OWN_DEATHS_SHARE:
                how = dice.choices(list(DEATHS), [share for share, _ in DEATHS.values()])[0]
                spec = Death("death", 0, own, how)
                with self.lock:
                    self.sent_deaths += 1
            try:
                connection = connection or Connection(self.server.address, timeout=60)
                r = spec.send(connection, secret)
                self._judge(spec, r, secret)
                if not r.keeps_alive:
                    connection.close()
                    connection = None
            except (Closed, ProtocolError, OSError) as e:
                with self.lock:
                    self.result.broken.append(f"{spec}: {type(e).__name__} {e}")
                connection = None
            except Exception as e:   # an answer that the suite does not understand is a finding, not the end of this client
                with self.lock:
                    self.result.wrong_kinds[spec.kind] += 1
                    self.result.wrong.append(f"{spec}: {type(e).__name__} {e}: {r!r}")
        if connection:
            connection.close()

    def _judge(self, spec: Spec, r, secret: str) -> None:
        probes = r.body.partition(b"\n")[0]
        if isinstance(spec, Death):
            self._judge_death(spec, r)
            return
        found, expected = answer(spec, r), self.reference[spec]
        if self.loops:
            found, expected = without_late_words(spec, found), without_late_words(spec, expected)
        with self.lock:
            result = self.result
            result.requests += 1
            if (self.deaths or self.own_deaths) and r.status in (502, 503) and expected[0] != r.status:
                result.broken.append(f"{spec}: {r.status}")
                return
            if found != expected:
                result.wrong_kinds[spec.kind] += 1
                if len(result.wrong) < 200:
                    result.wrong.append(self._difference(spec, found, expected))
            for name in self._leaks(probes) if expected[3] else []:
                result.leaks[name] += 1
                if result.leaks[name] == 1:
                    result.first_leaks.append(f"{name} in {spec}: {probes[:1000]!r}")
            if SECRET.encode() in r.body.replace(secret.encode(), b""):
                result.strangers.append(f"{spec}: {r.body[:200]!r}")
            self._note_process(spec, r)

    def _judge_death(self, spec: Death, r) -> None:
        with self.lock:
            self.result.requests += 1
            self.result.deaths[spec.how] += 1
            if not spec.accepts(r):
                self.result.wrong_kinds[f"death {spec.how}"] += 1
                self.result.wrong.append(f"{spec}: {r!r}")

    def _note_process(self, spec: Spec, r) -> None:
        pid = r.header("x-pid")
        if pid is None:   # an answer of the server's own, or one whose fields PHP threw away
            return
        self.result.pids.add(int(pid))
        # Classic workers open this and that the first time; a large body of the request is a descriptor.
        if self.frozen and spec.kind not in ("upload", "input"):
            self.result.descriptors[int(pid)].add(int(r.header("x-descriptors")))
        for source, value in json.loads(r.header("x-random")).items():
            self.result.values += 1
            known = self.seen[source]
            key = hash(value)
            if key in known and source not in self.weak:
                self.result.repeats[source] += 1
            known.add(key)

    def _leaks(self, found: bytes) -> list[str]:
        clean = self.reference.probes
        try:
            probes = json.loads(found)
        except ValueError:
            return [f"(no probes in the answer: {found[:80]!r})"]
        return [name for name in clean if probes.get(name) != clean[name] and name not in self.allowed]

    @staticmethod
    def _difference(spec: Spec, found: tuple, expected: tuple) -> str:
        said = []
        for what, a, b in zip(("status", "fields", "body", "has probes"), found, expected):
            if a != b:
                at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b))) if what == "body" else 0
                a, b = (a[max(at - 60, 0):at + 120], b[max(at - 60, 0):at + 120]) if what == "body" else (a, b)
                said.append(f"{what} {a!r}, classic {b!r}")
        return f"{spec}: " + "; ".join(said)

    def _sizes(self) -> dict[int, tuple]:
        """pid -> anonymous memory in KiB, mappings, descriptors of the workers that are idle now."""
        sizes = {}
        for pid in roles.workers(self.server):
            try:
                sizes[pid] = (anonymous_kib(pid),
                              len(Path(f"/proc/{pid}/maps").read_text().splitlines()), len(os.listdir(f"/proc/{pid}/fd")))
            except OSError:
                continue
        return sizes

    def _compare_sizes(self) -> None:
        """The largest process now with the largest after a quarter of the requests: one process alone may not have had the
        largest request then, and memory that a request has mapped stays, up to 8 MiB. In classic mode how large processes
        get is PHP's affair."""
        now = self._sizes()
        if not self.frozen or not now or not self.early:
            return
        limits = (("anonymous KiB", 1.05, 12288), ("mappings", 1.02, 8), ("descriptors", 1.0, 2))
        for i, (what, factor, slack) in enumerate(limits):
            before, after = (max(sizes[i] for sizes in each.values()) for each in (self.early, now))
            if after > before * factor + slack:
                self.result.growth.append(f"{what}, largest process: {before} -> {after}")


def anonymous_kib(pid: int) -> int:
    """What is the process's own; resident pages of opcache and of the image are shared."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous: +(\d+) kB", text, re.M)[1])


def check_files(site: Path) -> list[str]:
    """Files that requests left open must have been written to the end and closed."""
    bad = []
    for path in (site / "data").glob("*.gz"):
        try:
            text = gzip.decompress(path.read_bytes())
        except (OSError, EOFError) as e:
            text = repr(e).encode()
        if text != f"written by {path.stem[-1]}".encode():
            bad.append(f"{path.name}: {text!r}")
    for path in (site / "data").glob("*.b64"):
        if path.read_bytes() != base64.b64encode(f"half a group {path.stem[-1]}".encode()):
            bad.append(f"{path.name}: {path.read_bytes()!r}")
    return bad


def not_from_image(server, mode: str, result: Result) -> list[str]:
    """Where a classic pool has an image: the answers that were not from it."""
    if mode != "image":
        return []
    images = json.loads(server.admin("/server?json").text)["pools"][0]["images"]
    if images["served"] >= result.requests * 0.95 and not images["passed_on"]:   # answers of 5xx are not counted
        return []
    return [f"of {result.requests} requests, images took {images}"]


def all_specs(names: list[str], clients: int = CLIENTS) -> list[Spec]:
    return [Spec(k, n, own) for own in range(clients) for k in names for n in VARIANTS]


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mode", choices=("classic", "worker", "rollback", "seed", "image"), default="rollback")
    p.add_argument("--requests", type=int, default=5000)
    p.add_argument("--clients", type=int, default=CLIENTS, help="and as many workers")
    p.add_argument("--kinds", help="only these, separated by commas")
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--jit", action="store_true", help="opcache's tracing JIT")
    p.add_argument("--pagemap", action="store_true", help="read /proc/self/pagemap, as on kernels without PAGEMAP_SCAN")
    p.add_argument("--deaths", type=int, default=0, help="so many workers are killed; --requests is the size of a round")
    p.add_argument("--own-deaths", type=int, default=0, help="so many requests die by themselves, in all ways of app/deaths.php")
    p.add_argument("--verify", action="store_true", help="compare every page with the image after every rollback")
    options = p.parse_args()
    dying = options.deaths or options.own_deaths
    names = options.kinds.split(",") if options.kinds else [k for k in kinds() if not dying or k not in OUTSIDE]
    folder = new_workdir()
    site = make_site(folder)
    ini = {"opcache.jit_buffer_size": "32M", "opcache.jit": "tracing"} if options.jit else {}
    classic = start(folder, site, "classic", workers=1)
    reference = Reference(classic, all_specs(names, options.clients))
    classic.stop()
    shutil.rmtree(folder / "classic")
    worker = {f"snapshot_{key}": True for key in ("verify", "pagemap") if getattr(options, key)}
    server = start(folder, site, options.mode, workers=options.clients, ini=ini, worker=worker,
                   php={"request_timeout": "5s"} if options.own_deaths else {})
    print(f"{len(names)} kinds, seed {options.seed}, log {server.process.log_path}", flush=True)
    suite = Suite(server, reference, names, seed=options.seed, deaths=options.deaths, own_deaths=options.own_deaths)
    result = suite.run(options.requests, options.clients)
    problems = result.problems() + not_from_image(server, options.mode, result)
    if not dying:
        problems += check_files(site) + server.errors()[:5]
    server.stop()
    print(*problems, result, sep="\n")
    if not problems:
        remove_workdir(folder)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
