"""The processes of a running sapid by what they are, and a client that keeps asking while they die."""
import os
import threading
import time
from pathlib import Path

from lib.httpclient import Connection
from lib.process import descendants


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat[stat.rindex(")") + 2:].split()[1])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gateways(server) -> list[int]:
    """At most one, none while a dead one is being replaced."""
    return [p for p in descendants(server.process.pid) if "@gateway" in title(p)]


def gateway(server) -> int:
    return gateways(server)[0]


def pools(server) -> list[int]:
    """Pool processes, not their workers: children of the supervisor that are not the gateway."""
    return [p for p in descendants(server.process.pid)
            if parent(p) == server.process.pid and "@gateway" not in title(p)]


def workers(server) -> list[int]:
    found = pools(server)
    return [p for p in descendants(server.process.pid) if parent(p) in found]


def status_field(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return line.split(":", 1)[1].strip()
    raise AssertionError(f"no {name} in /proc/{pid}/status")


def descriptors(pid: int) -> list[str]:
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:   # closed meanwhile
            continue
    return sorted(found)


class Load:
    """Clients that ask for `target` one request after the other and remember every answer. Each request has
    a number of its own, which the script must give back: an answer to somebody else's request is seen."""

    def __init__(self, address, target: str, clients: int = 4, keep_alive: bool = True):
        self.address, self.target, self.keep_alive = address, target, keep_alive
        self.answers: dict[int, int] = {}    # status -> how many
        self.mixed: list[str] = []
        self.broken: list[str] = []          # connections that ended without an answer
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]

    def __enter__(self):
        for t in self._threads:
            t.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for t in self._threads:
            t.join()

    def count(self) -> int:
        with self._lock:
            return sum(self.answers.values())

    def _note(self, number: str, r) -> None:
        with self._lock:
            self.answers[r.status] = self.answers.get(r.status, 0) + 1
            if r.status == 200 and r.text != number:
                self.mixed.append(f"asked for {number}, got {r.text[:80]!r}")

    def _ask(self, client: int) -> None:
        connection, n = None, 0
        while not self._stop.is_set():
            n += 1
            number = f"{client}-{n}"
            try:
                if connection is None:
                    connection = Connection(self.address)
                r = connection.request("GET", self.target + number)
                self._note(number, r)
                if not self.keep_alive or not r.keeps_alive:
                    connection.close()
                    connection = None
            except (AssertionError, OSError) as e:
                with self._lock:
                    self.broken.append(f"{number}: {type(e).__name__} {e}")
                connection = None
                time.sleep(0.01)   # a refused connection must not spin
        if connection:
            connection.close()
