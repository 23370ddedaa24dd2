"""What long answers, large bodies and slow readers cost the processes of a server: time and memory of its own (not of files)."""
import re
import socket
import threading
import time
from pathlib import Path

from lib.process import wait_until


def own_kib(pid: int) -> int:
    try:
        return int(re.search(r"^RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1])
    except (OSError, TypeError):
        return 0


class Watch:
    """The most that any process of a server has grown by since the start, looked at ten times a second until stop()."""

    def __init__(self, server):
        self.server = server
        self.before = {pid: own_kib(pid) for pid in server.pids()}
        self.grown: dict[int, int] = {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.ended.wait(0.1):
            self.look()

    def look(self) -> None:
        for pid, before in self.before.items():
            self.grown[pid] = max(self.grown.get(pid, 0), own_kib(pid) - before)

    def stop(self) -> int:
        self.ended.set()
        self.thread.join()
        self.look()
        return max(self.grown.values())


def head(method: str, target: str, *fields: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.0", "Host: x", *fields, "", ""]).encode()


def download(server, target: str) -> int:
    """Reads an answer; its bytes, with the head."""
    with socket.create_connection(server.address, 60) as s:
        s.sendall(head("GET", target))
        n, buffer = 0, bytearray(1 << 18)
        while got := s.recv_into(buffer):
            n += got
        return n


def upload(server, target: str, size: int) -> bytes:
    """Sends a body of `size` zeros; the answer."""
    block = bytes(1 << 20)
    with socket.create_connection(server.address, 300) as s:
        s.sendall(head("POST", target, f"Content-Length: {size}", "Content-Type: application/octet-stream"))
        for at in range(0, size, len(block)):
            s.sendall(block[:size - at])
        answer = b""
        while data := s.recv(65536):
            answer += data
        return answer


class Events:
    """A client of server-sent events: counts them, and notes the longest time between one's making and its coming."""

    def __init__(self, server, target: str):
        self.count, self.late_s, self.ended = 0, 0.0, False
        self.socket = socket.create_connection(server.address, 60)
        self.socket.sendall(head("GET", target))
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        rest = b""
        while data := self.socket.recv(65536):
            now = time.time()
            *lines, rest = (rest + data).split(b"\n\n")
            for made in re.findall(rb"data: ([\d.]+)", b"\n".join(lines)):
                self.count += 1
                self.late_s = max(self.late_s, now - float(made))
        self.ended = True

    def close(self) -> None:
        self.socket.close()


def slow_readers(server, target: str, count: int) -> list[socket.socket]:
    """Clients that have asked for a page and do not read it yet."""
    readers = []
    for _ in range(count):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(server.address)
        s.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        readers.append(s)
    return readers


def quiet(server) -> bool:
    """No worker runs a request."""
    return server.admin("/status?json").json()["active processes"] == 0


def short_page_beside(server, readers, requests: int = 1000, after: float = 120) -> list[float]:
    """When all slow pages are made: how long each of these requests for hello.php takes while every reader takes a little. Sorted."""
    took = []
    wait_until(lambda: quiet(server), "all pages to be made", after)
    with server.connect() as c:
        for i in range(requests):
            for s in readers[i % 20::20]:
                s.recv(4096)
            begin = time.monotonic()
            assert c.request("GET", "/hello.php").text == "Hello World!"
            took.append(time.monotonic() - begin)
    return sorted(took)
