"""HTTP from the tests' side: a connection that sends any bytes and reads answers strictly, and a session
with cookies and redirects on top of it, so that every page an application serves is also a check of
the server's framing."""
from __future__ import annotations

import json as jsonlib
import mimetypes
import os
import re
import socket
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode, urljoin, urlsplit

STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9]) ([\t \x21-\x7e\x80-\xff]*)\Z")
LENIENT_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9]) ?([\t \x21-\x7e\x80-\xff]*)\Z")
FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
FIELD_VALUE = re.compile(rb"[\t \x21-\x7e\x80-\xff]*\Z")


class ProtocolError(AssertionError):
    """The server sent what HTTP/1.1 does not allow."""


class Closed(AssertionError):
    """The server closed the connection where an answer was due."""


@dataclass
class Response:
    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    interim: list["Response"] = field(default_factory=list)
    minor: int = 1
    framing: str = "none"   # "none", "length", "chunked", "close"
    chunks: list[int] = field(default_factory=list)
    url: str = ""

    def header(self, name: str, default: str | None = None) -> str | None:
        """The only value of a field; two of them are an error of the test's expectation."""
        found = self.headers(name)
        if len(found) > 1:
            raise AssertionError(f"{len(found)} fields {name}: {found}")
        return found[0] if found else default

    def headers(self, name: str) -> list[str]:
        return [v for n, v in self.fields if n.lower() == name.lower()]

    @property
    def keeps_alive(self) -> bool:
        tokens = [t.strip().lower() for v in self.headers("connection") for t in v.split(",")]
        return "close" not in tokens and (self.minor == 1 or "keep-alive" in tokens)

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self):
        return jsonlib.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.reason} {self.url} {self.body[:300]!r}>"


class Connection:
    """One TCP or unix-socket connection. `address`: (host, port) or a path."""
    status_line = STATUS_LINE   # the oracle leaves out the space before an empty reason phrase

    def __init__(self, address, timeout: float = 60.0, receive_buffer: int | None = None):
        unix = not isinstance(address, tuple)
        family = socket.AF_UNIX if unix else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(str(address) if unix else address)
        if not unix:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.host = "localhost" if unix else f"[{address[0]}]" if ":" in address[0] else address[0]
        self.authority = self.host if unix else f"{self.host}:{address[1]}"
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_slowly(self, data: bytes, step: int = 1, pause: float = 0.0) -> None:
        """In packets of `step` bytes."""
        for i in range(0, len(data), step):
            self.socket.sendall(data[i:i + step])
            time.sleep(pause)

    def unread(self) -> int:
        """How many of the bytes sent over this TCP connection the server has not read yet."""
        port, bytes_left = f":{self.socket.getsockname()[1]:04X}", 0
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, queues, *_ = line.split()
            sent, received = (int(n, 16) for n in queues.split(":"))
            bytes_left += sent * local.endswith(port) + received * remote.endswith(port)
        return bytes_left

    def finish_sending(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    # --- reading ---

    def _more(self, what: str) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            raise Closed(f"connection reset while reading {what}; had {self.buffer[:200]!r}") from None
        except TimeoutError:
            raise Closed(f"no answer in time while reading {what}; had {self.buffer[:200]!r}") from None
        if not data:
            raise Closed(f"connection closed while reading {what}; had {self.buffer[:200]!r}")
        self.buffer += data

    def _line(self, what: str) -> bytes:
        while b"\n" not in self.buffer:
            if len(self.buffer) > 1 << 20:
                raise ProtocolError(f"a line of more than 1 MiB in {what}")
            self._more(what)
        line, self.buffer = self.buffer.split(b"\n", 1)
        if not line.endswith(b"\r"):
            raise ProtocolError(f"line of {what} not ended by CRLF: {line!r}")
        return line[:-1]

    def read_bytes(self, count: int, what: str = "body") -> bytes:
        while len(self.buffer) < count:
            self._more(f"{what} ({len(self.buffer)} of {count} bytes)")
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read_until(self, marker: bytes) -> bytes:
        """Everything up to and with `marker`."""
        while marker not in self.buffer:
            self._more(f"until {marker!r}")
        end = self.buffer.index(marker) + len(marker)
        data, self.buffer = self.buffer[:end], self.buffer[end:]
        return data

    def _fields(self) -> list[tuple[str, str]]:
        fields = []
        while line := self._line("fields"):
            name, colon, value = line.partition(b":")
            if not colon or not FIELD_NAME.match(name) or not FIELD_VALUE.match(value):
                raise ProtocolError(f"not a field line: {line!r}")
            fields.append((name.decode(), value.strip(b" \t").decode("latin-1")))
        return fields

    def read_head(self) -> Response:
        line = self._line("status line")
        match = self.status_line.match(line)
        if not match:
            raise ProtocolError(f"not a status line: {line!r}")
        return Response(int(match[2]), match[3].decode("latin-1"), self._fields(), minor=int(match[1]))

    def read_response(self, method: str = "GET") -> Response:
        """One final response with its body; interim ones are collected in .interim."""
        interim = []
        while True:
            response = self.read_head()
            if response.status >= 200 or response.status == 101:
                break
            interim.append(response)
        response.interim = interim
        self._read_body(response, method)
        return response

    def _read_body(self, r: Response, method: str) -> None:
        lengths, codings = r.headers("content-length"), r.headers("transfer-encoding")
        if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
            raise ProtocolError(f"ambiguous framing: {r.fields}")
        if lengths and not re.fullmatch("[0-9]+", lengths[0]):
            raise ProtocolError(f"Content-Length: {lengths[0]!r}")
        if r.status in (204, 304) or method == "HEAD" or r.status == 101:
            if r.status == 204 and (lengths or codings):
                raise ProtocolError(f"a {r.status} with {r.fields}")
            return
        if codings:
            if codings[0].lower() != "chunked" or r.minor == 0:
                raise ProtocolError(f"Transfer-Encoding: {codings[0]!r} in HTTP/1.{r.minor}")
            r.framing = "chunked"
            self._read_chunks(r)
        elif lengths:
            r.framing = "length"
            r.body = self.read_bytes(int(lengths[0]))
        else:
            r.framing = "close"
            if r.keeps_alive:
                raise ProtocolError(f"no end of the body can be known: {r.fields}")
            r.body = self.read_rest()

    def read_chunk(self) -> bytes:
        """One chunk's data; b"" is the last one, whose trailer section stays to be read."""
        line = self._line("chunk size")
        if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", line):
            raise ProtocolError(f"chunk size {line!r}")
        size = int(line, 16)
        if size == 0:
            return b""
        data = self.read_bytes(size + 2, "chunk")
        if data[-2:] != b"\r\n":
            raise ProtocolError("a chunk without CRLF at its end")
        return data[:-2]

    def _read_chunks(self, r: Response) -> None:
        parts = []
        while data := self.read_chunk():
            r.chunks.append(len(data))
            parts.append(data)
        r.trailers = self._fields()
        r.body = b"".join(parts)

    def read_rest(self) -> bytes:
        """Everything until the server closes; a reset counts as an end."""
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                break
            except TimeoutError:
                raise Closed(f"not closed in time; had {self.buffer[:200]!r}") from None
            if not data:
                break
            self.buffer += data
        data, self.buffer = self.buffer, b""
        return data

    def closed(self) -> bool:
        """True when the server has closed and nothing unread is left; waits up to the timeout."""
        return self.read_rest() == b""

    # --- whole requests ---

    def request(self, method: str, target: str, headers=None, body: bytes | None = None) -> Response:
        self.send(self.format(method, target, headers, body))
        response = self.read_response(method)
        response.url = target
        return response

    def format(self, method: str, target: str, headers=None, body: bytes | None = None) -> bytes:
        fields = list(headers.items()) if isinstance(headers, dict) else list(headers or [])
        names = {n.lower() for n, _ in fields}
        if "host" not in names:
            fields.insert(0, ("Host", self.authority))
        if body is not None and "content-length" not in names and "transfer-encoding" not in names:
            fields.append(("Content-Length", str(len(body))))
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields) + "\r\n"
        return head.encode("latin-1") + (body or b"")


def multipart(fields, files) -> tuple[str, bytes]:
    """(content type, body). `files`: (field, file name, content or path, type or None)."""
    boundary = "----sapidtest" + uuid.uuid4().hex
    out = []
    for name, value in fields:
        out.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
                   + str(value).encode() + b"\r\n")
    for name, filename, content, kind in files:
        if not isinstance(content, bytes):
            with open(content, "rb") as f:
                content = f.read()
        kind = kind or mimetypes.guess_type(filename)[0] or "application/octet-stream"
        out.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; '
                   f'filename="{filename}"\r\nContent-Type: {kind}\r\n\r\n'.encode()
                   + content + b"\r\n")
    out.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(out)


class Session:
    """A browser without scripts: cookies, redirects within the server, one keep-alive connection."""

    def __init__(self, address, timeout: float = 60.0):
        self.address, self.timeout = address, timeout
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.origin = f"http://{host}:{address[1]}"
        self.cookies: dict[tuple[str, str], str] = {}   # (path, name) -> value
        self.headers = {"User-Agent": "sapid-tests/1.0", "Accept": "*/*", "Accept-Language": "en"}
        self.connection: Connection | None = None
        self.requests = 0

    def close(self) -> None:
        if self.connection:
            self.connection.close()
            self.connection = None

    def cookie(self, name: str) -> str | None:
        return next((v for (_, n), v in self.cookies.items() if n == name), None)

    def get(self, url: str, **options) -> Response:
        return self.request("GET", url, **options)

    def post(self, url: str, data=None, **options) -> Response:
        return self.request("POST", url, data=data, **options)

    def request(self, method: str, url: str, data=None, files=None, json=None, body: bytes | None = None,
                headers=None, follow: bool = True) -> Response:
        """`url`: a path or an address on this server. `data`: a mapping or pairs, sent as a form."""
        kind = None
        pairs = list(data.items()) if isinstance(data, dict) else list(data or [])
        if files:
            kind, body = multipart(pairs, files)
        elif json is not None:
            kind, body = "application/json", jsonlib.dumps(json).encode()
        elif data is not None:
            kind, body = "application/x-www-form-urlencoded", urlencode(pairs).encode()
        extra = dict(headers or {})
        if kind:
            extra.setdefault("Content-Type", kind)
        for _ in range(12):
            response = self._once(method, urljoin(self.origin + "/", url), extra, body)
            location = response.header("location")
            if not follow or location is None or response.status not in (301, 302, 303, 307, 308):
                return response
            url = urljoin(response.url, location)
            if response.status in (301, 302, 303) and method != "HEAD":
                method, body = "GET", None
                extra.pop("Content-Type", None)
        raise AssertionError(f"more than 12 redirects, last to {url}")

    def _once(self, method: str, url: str, extra: dict, body: bytes | None) -> Response:
        parts = urlsplit(url)
        if f"{parts.scheme}://{parts.netloc}" != self.origin:
            raise AssertionError(f"led to another server than {self.origin}: {url}")
        target = (quote(parts.path, safe="/%:@!$&'()*+,;=~-._") or "/") + (f"?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?[]')}" if parts.query else "")
        headers = {**self.headers, **extra}
        cookie = self._cookie_header(parts.path or "/")
        if cookie:
            headers["Cookie"] = cookie
        for attempt in range(2):
            fresh = self.connection is None
            if fresh:
                self.connection = Connection(self.address, self.timeout)
            try:
                response = self.connection.request(method, target, headers, body)
                break
            except (Closed, BrokenPipeError, ConnectionResetError):
                # An idle connection may have been closed by the server meanwhile; a fresh one may not.
                self.close()
                if fresh or attempt:
                    raise
        self.requests += 1
        if not response.keeps_alive:
            self.close()
        response.url = url
        self._take_cookies(response, parts.path or "/")
        return response

    def _cookie_header(self, path: str) -> str:
        def matches(scope: str) -> bool:
            return path == scope or path.startswith(scope if scope.endswith("/") else scope + "/")
        found = [(p, n, v) for (p, n), v in self.cookies.items() if matches(p)]
        found.sort(key=lambda c: -len(c[0]))
        return "; ".join(f"{n}={v}" for _, n, v in found)

    def _take_cookies(self, response: Response, request_path: str) -> None:
        for line in response.headers("set-cookie"):
            first, *attributes = [part.strip() for part in line.split(";")]
            name, _, value = first.partition("=")
            path = os.path.dirname(request_path) or "/"
            gone = value == "deleted"
            for attribute in attributes:
                key, _, setting = attribute.partition("=")
                if key.lower() == "path" and setting.startswith("/"):
                    path = setting
                elif key.lower() == "max-age" and setting.lstrip("-").isdigit():
                    gone = gone or int(setting) <= 0
                elif key.lower() == "expires":
                    year = re.search(r"\b(19[0-9]{2}|20[0-9]{2})\b", setting)
                    gone = gone or (year is not None and int(year[0]) < time.gmtime().tm_year - 0)
            if gone:
                self.cookies.pop((path, name), None)
            else:
                self.cookies[path, name] = value
