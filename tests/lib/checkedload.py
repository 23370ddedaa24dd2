"""Many connections from one thread, each answer checked to the byte, nothing ever sent twice: what a reload,
an upgrade or a dead process costs is seen as it is."""
import errno
import hashlib
import heapq
import random
import selectors
import socket
import threading
import time

PAGE = r"""<?php
// What lib/checkedload.py asks for: the answer says whose it is and how long it must be.
$n = $_GET['n'];
if (isset($_GET['ms'])) usleep((int)$_GET['ms'] * 1000);
$body = $_SERVER['REQUEST_METHOD'] === 'POST' ? hash('sha256', file_get_contents('php://input')) : '';
$fill = str_repeat("$n,", (int)($_GET['k'] ?? 0));
if (isset($_GET['chunked'])) { echo $n; flush(); echo "|$body|$fill|end"; }
else { header('Content-Length: ' . strlen("$n|$body|$fill|end")); echo "$n|$body|$fill|end"; }
"""


class _Client:
    """One connection: idle until its next turn, then one request and its answer."""

    def __init__(self, number: int):
        self.number, self.count = number, 0
        self.socket = None
        self.busy = False


class CheckedLoad:
    """`rate`: requests of all connections together per second, as far as the server answers them."""

    def __init__(self, address, path="/load.php", connections=200, rate=1000.0, requests_per_connection=0):
        self.address, self.path, self.n, self.rate = address, path, connections, rate
        self.per_connection = requests_per_connection     # 0: as many as the server lets
        self.answers, self.failed, self.wrong = 0, [], []
        self.by_status: dict[int, int] = {}
        self.slowest = 0.0
        self.reconnects = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._random = random.Random(1)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def count(self) -> int:
        return self.answers

    def summary(self) -> str:
        return (f"{self.answers} answers {self.by_status}, {len(self.failed)} failed, {len(self.wrong)} wrong, "
                f"{self.reconnects} connections, slowest {self.slowest * 1000:.0f} ms")

    # --- the loop ---

    def _run(self):
        self.selector = selectors.DefaultSelector()
        now = time.monotonic()
        turns = [(now + i / self.n * self.n / self.rate, i, _Client(i)) for i in range(self.n)]
        heapq.heapify(turns)
        busy = 0
        self.turns = turns
        while not self._stop.is_set() or busy:
            now = time.monotonic()
            while turns and turns[0][0] <= now and not self._stop.is_set():
                client = heapq.heappop(turns)[2]
                self._begin(client)
            busy = sum(1 for key in self.selector.get_map().values() if key.data.busy)
            wait = 0.05 if self._stop.is_set() or not turns else max(0.0, min(turns[0][0] - now, 0.05))
            for key, events in self.selector.select(wait):
                self._ready(key.data, events)
            busy = sum(1 for key in self.selector.get_map().values() if key.data.busy) if self._stop.is_set() else 1
        for key in list(self.selector.get_map().values()):
            key.data.socket.close()
        self.selector.close()

    def _later(self, client, soonest: float = 0.0):
        pause = self._random.expovariate(self.rate / self.n)
        heapq.heappush(self.turns, (time.monotonic() + max(pause, soonest), client.number, client))

    def _drop(self, client):
        if client.socket is not None:
            try:
                self.selector.unregister(client.socket)
            except KeyError:
                pass
            client.socket.close()
            client.socket = None
        client.busy = False

    def _fail(self, client, why: str):
        self.failed.append(f"{client.name if client.busy else client.number}: {why}")
        self._drop(client)
        self._later(client, 0.02)

    def _connect(self, client) -> bool:
        unix = not isinstance(self.address, tuple)
        s = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
        s.setblocking(False)
        e = s.connect_ex(str(self.address) if unix else self.address)
        client.socket = s
        self.reconnects += 1
        if e not in (0, errno.EINPROGRESS):
            client.busy = False
            self._fail(client, f"connect: {errno.errorcode.get(e, e)}")
            return False
        client.on_connection = 0
        self.selector.register(s, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
        return True

    def _begin(self, client):
        if client.socket is None and not self._connect(client):
            return
        client.count += 1
        client.on_connection += 1
        client.name = f"{client.number}-{client.count}"
        kind = client.count % 10
        query, body, digest = f"n={client.name}", None, ""
        fill = 0
        if kind in (3, 6):
            body = (client.name * 400).encode()[:self._random.choice((10, 3000))]
            digest = hashlib.sha256(body).hexdigest()
        if kind in (4, 7):
            fill = self._random.choice((10, 4000))
            query += f"&k={fill}"
        if kind == 5:
            query += "&ms=15"
        if kind in (7, 8):
            query += "&chunked"
        client.expected = f"{client.name}|{digest}|{(client.name + ',') * fill}|end".encode()
        close = self.per_connection and client.on_connection >= self.per_connection
        head = f"{'GET' if body is None else 'POST'} {self.path}?{query} HTTP/1.1\r\nHost: load\r\n"
        head += "Connection: close\r\n" if close else ""
        head += f"Content-Length: {len(body)}\r\n\r\n" if body is not None else "\r\n"
        client.out = head.encode() + (body or b"")
        client.received = b""
        client.busy, client.began = True, time.monotonic()
        self.selector.modify(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)

    def _ready(self, client, events):
        try:
            if events & selectors.EVENT_WRITE and client.busy and client.out:
                sent = client.socket.send(client.out)
                client.out = client.out[sent:]
            if events & selectors.EVENT_WRITE and (not client.busy or not client.out):
                self.selector.modify(client.socket, selectors.EVENT_READ, client)
            if events & selectors.EVENT_READ:
                data = client.socket.recv(262144)
                if not data:
                    self._ended(client)
                    return
                client.received += data
                if not client.busy:
                    self._fail(client, f"bytes without a request: {data[:80]!r}")
                    return
                self._look(client)
        except BlockingIOError:
            return
        except OSError as e:
            if client.busy:
                self._fail(client, f"{type(e).__name__} after {time.monotonic() - client.began:.3f} s")
            else:
                self._ended(client)

    def _ended(self, client):
        """The server closed: between two requests it may."""
        if client.busy:
            self._fail(client, f"closed without an answer after {time.monotonic() - client.began:.3f} s, "
                               f"had {client.received[:80]!r}, request {client.on_connection} of its connection")
        else:
            self._drop(client)

    def _look(self, client):
        head, separator, rest = client.received.partition(b"\r\n\r\n")
        if not separator:
            return
        lines = head.split(b"\r\n")
        fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(b":") for line in lines[1:])}
        if b"content-length" in fields:
            size = int(fields[b"content-length"])
            if len(rest) < size:
                return
            body, extra = rest[:size], rest[size:]
        else:
            body, extra = b"", rest
            while True:
                line, found, after = extra.partition(b"\r\n")
                if not found:
                    return
                size = int(line, 16)
                if len(after) < size + 2:
                    return
                body, extra = body + after[:size], after[size + 2:]
                if size == 0:
                    break
        self._answered(client, int(lines[0].split(b" ")[1]), fields, body, extra)

    def _answered(self, client, status, fields, body, extra):
        self.answers += 1
        self.by_status[status] = self.by_status.get(status, 0) + 1
        self.slowest = max(self.slowest, time.monotonic() - client.began)
        client.busy = False
        if status != 200:
            self.failed.append(f"{client.name}: status {status} {body[:80]!r}")
        elif body != client.expected or extra:
            self.wrong.append(f"{client.name}: got {body[:80]!r} and {extra[:40]!r}")
        if fields.get(b"connection", b"").lower() == b"close":
            self._drop(client)
        self._later(client)
