"""A server for tests of load generators: it does to each request what the test tells it to, and notes how long it took.

    with Target(lambda request: request.answer(b"hello", after=0.05)) as target: ... target.url ... target.took
"""
import socket
import threading
import time


class Gone(Exception):
    """The client closed the connection."""


class Request:
    def __init__(self, target, connection, number: int, head: bytes, body: bytes, arrived: float):
        self.target, self.connection, self.number = target, connection, number
        self.head, self.body, self.arrived = head, body, arrived

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def answer(self, body: bytes = b"hello", *, status: str = "200 OK", fields: str = "", after: float = 0) -> None:
        """Answers `after` seconds from the arrival; time.sleep sleeps by the monotonic clock to the microsecond."""
        rest = self.arrived + after - time.monotonic()
        if rest > 0:
            time.sleep(rest)
        self.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body)
        self.target.took.append(time.monotonic() - self.arrived)

    def close(self) -> None:
        raise Gone


class Target:
    """Listens on `host`, or on a unix socket; a thread for each connection. `tls` is an SSLContext."""

    def __init__(self, behave, unix=None, backlog=512, tls=None, host="127.0.0.1"):
        self.behave = behave
        self.tls = tls
        self.took: list[float] = []
        self.lines: list[str] = []
        self.bodies: list[bytes] = []
        self.heads: list[bytes] = []
        self.connections = 0
        self.open: list[socket.socket] = []
        self.lock = threading.Lock()
        self.listener = socket.socket(socket.AF_UNIX if unix else socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.listener.bind(str(unix) if unix else (host, 0))
        self.listener.listen(backlog)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://unix.test/" if unix else \
            f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.listener.getsockname()[1]}/"
        self.accepting = threading.Thread(target=self._accept, daemon=True)
        self.accepting.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self) -> None:
        """As if it were killed: nothing listens any more, all connections are reset."""
        with self.lock:
            try:
                self.listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self.listener.close()
            for connection in self.open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            if connection.family == socket.AF_INET:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.connections += 1
                self.open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection) -> None:
        held = b""
        try:
            if self.tls:
                plain, connection = connection, self.tls.wrap_socket(connection, server_side=True)
                with self.lock:
                    self.open[self.open.index(plain)] = connection
            while True:
                while b"\r\n\r\n" not in held:
                    held += self._more(connection)
                arrived = time.monotonic()
                head, held = held.split(b"\r\n\r\n", 1)
                length = 0
                for field in head.split(b"\r\n")[1:]:
                    if field.lower().startswith(b"content-length:"):
                        length = int(field.split(b":")[1])
                while len(held) < length:
                    held += self._more(connection)
                body, held = held[:length], held[length:]
                with self.lock:
                    self.lines.append(head.split(b"\r\n", 1)[0].decode("latin-1"))
                    self.bodies.append(body)
                    self.heads.append(head)
                    number = len(self.lines)
                self.behave(Request(self, connection, number, head, body, arrived))
        except (OSError, Gone):
            pass
        finally:
            connection.close()

    @staticmethod
    def _more(connection) -> bytes:
        data = connection.recv(65536)
        if not data:
            raise Gone
        return data
