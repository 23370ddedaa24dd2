"""FastCGI by hand: a client for php-fpm's status page, and servers that behave as badly as a test wants."""
import json
import os
import socket
import struct
import threading
from pathlib import Path

BEGIN, ABORT, END, PARAMS, STDIN, STDOUT, STDERR = range(1, 8)


def record(kind: int, content: bytes = b"", padding: int = 0, request_id: int = 1) -> bytes:
    return struct.pack(">BBHHBB", 1, kind, request_id, len(content), padding, 0) + content + bytes(padding)


def end(app_status: int = 0, protocol_status: int = 0) -> bytes:
    return record(END, struct.pack(">IB3x", app_status, protocol_status))


def stream(kind: int, data: bytes) -> bytes:
    return b"".join(record(kind, data[i:i + 65528]) for i in range(0, len(data), 65528)) + record(kind)


def answer(body: bytes, head: bytes = b"Content-Type: text/plain\r\n\r\n") -> bytes:
    return stream(STDOUT, head + body) + end()


def pair(name: str, value: str) -> bytes:
    n, v = name.encode(), value.encode()
    return b"".join(struct.pack(">I", len(x) | 1 << 31) if len(x) > 127 else bytes([len(x)])
                    for x in (n, v)) + n + v


def pairs(data: bytes) -> dict[str, str]:
    found, at = {}, 0

    def length():
        nonlocal at
        n = data[at]
        if n < 128:
            at += 1
            return n
        n = struct.unpack_from(">I", data, at)[0] & 0x7fffffff
        at += 4
        return n

    while at < len(data):
        n, v = length(), length()
        found[data[at:at + n].decode()] = data[at + n:at + n + v].decode("latin-1")
        at += n + v
    return found


class Reader:
    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.buffer = b""

    def _bytes(self, n: int) -> bytes:
        while len(self.buffer) < n:
            more = self.connection.recv(1 << 16)
            if not more:
                raise EOFError
            self.buffer += more
        taken, self.buffer = self.buffer[:n], self.buffer[n:]
        return taken

    def record(self) -> tuple[int, bytes]:
        version, kind, request_id, n, padding, _ = struct.unpack(">BBHHBB", self._bytes(8))
        assert version == 1 and request_id == 1
        return kind, self._bytes(n + padding)[:n]

    def request(self) -> tuple[bool, dict[str, str], bytes]:
        """keep, parameters, body"""
        kind, begin = self.record()
        assert kind == BEGIN and begin[:2] == b"\0\1", (kind, begin)
        texts = {PARAMS: b"", STDIN: b""}
        for kind in (PARAMS, STDIN):
            while True:
                got, content = self.record()
                assert got == kind, f"record {got}, expected {kind}"
                if not content:
                    break
                texts[kind] += content
        return bool(begin[2] & 1), pairs(texts[PARAMS]), texts[STDIN]


def connect(address) -> socket.socket:
    unix = isinstance(address, (str, Path))
    s = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
    s.settimeout(60)
    s.connect(str(address) if unix else address)
    return s


def fpm_status(address) -> dict:
    """php-fpm's status page as a dict; `address` is its pm.status_listen."""
    return json.loads(fpm_status_page(address, "json"))


def fpm_status_page(address, query: str) -> str:
    """The page in the form that `query` asks for."""
    with connect(address) as s:
        params = b"".join(pair(k, v) for k, v in {
            "SCRIPT_NAME": "/status", "SCRIPT_FILENAME": "/status", "REQUEST_METHOD": "GET",
            "QUERY_STRING": query}.items())
        s.sendall(record(BEGIN, b"\0\1\0\0\0\0\0\0") + stream(PARAMS, params) + record(STDIN))
        reader, out = Reader(s), b""
        while True:
            kind, content = reader.record()
            if kind == END:
                break
            if kind == STDOUT:
                out += content
    return out.split(b"\r\n\r\n", 1)[1].decode()


class FakeServer:
    """`children` threads that serve one connection at a time each, as php-fpm does. `serve(params, body,
    connection)` returns the bytes to answer with; None closes the connection. The rest is counted."""

    def __init__(self, path: Path, serve, children: int = 1, keep: bool = True):
        self.path, self.serve, self.keep = path, serve, keep
        self.connections = self.requests = self.now = self.most = 0
        self.problems: list[str] = []
        self.lock = threading.Lock()
        self.local = threading.local()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        os.chmod(path, 0o666)
        self.listener.listen(512)
        for _ in range(children):
            threading.Thread(target=self._child, daemon=True).start()

    def _child(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.local.free = False
            with self.lock:
                self.connections += 1
                self.now += 1
                self.most = max(self.most, self.now)
            try:
                with connection:
                    self._serve(connection)
            except (EOFError, OSError):
                pass
            except AssertionError as e:
                self.problems.append(str(e))
            with self.lock:
                self.now -= not self.local.free

    def _serve(self, connection: socket.socket) -> None:
        reader = Reader(connection)
        while True:
            keep, params, body = reader.request()
            with self.lock:
                self.requests += 1
            reply = self.serve(params, body, connection)
            if reply is None:
                return
            last = not keep or not self.keep
            if last:
                # All but free: whoever gets the answer may count on this child.
                with self.lock:
                    self.now -= 1
                self.local.free = True
            connection.sendall(reply)
            if last:
                return

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.path.unlink(missing_ok=True)
