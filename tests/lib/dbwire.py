"""Database connections by hand, as raw sockets: log in without a password, ask, read. And db_tool, which runs
src/php/db on such a socket."""
import os
import socket
import struct
import subprocess

from lib.sapid import REPOSITORY


class Tool:
    """build/tests/unit/php/db_tool on a connection of ours, which stays usable here."""

    def __init__(self, protocol: str, sock: socket.socket):
        os.set_inheritable(sock.fileno(), True)
        self.process = subprocess.Popen([REPOSITORY / "build/tests/unit/php/db_tool", protocol, str(sock.fileno())],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[sock.fileno()])

    def tell(self, word: str) -> None:
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        line = self.process.stdout.readline().strip()
        assert line, f"db_tool ended with status {self.process.wait(5)}"
        return line

    def __call__(self, word: str) -> str:
        self.tell(word)
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(10) == 0


class Wire:
    protocol: str

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=60)
        self.tool = Tool(self.protocol, self.socket)

    def close(self) -> None:
        self.tool.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            more = self.socket.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data


class MySQL(Wire):
    protocol = "mysql"

    def __init__(self, address, user: str, database: str = ""):
        super().__init__(address)
        self._packet()
        # CLIENT_PROTOCOL_41, SECURE_CONNECTION, TRANSACTIONS, MULTI_RESULTS, PLUGIN_AUTH, CONNECT_WITH_DB
        flags = 0x200 | 0x8000 | 0x2000 | 0x20000 | 0x80000 | (8 if database else 0)
        head = struct.pack("<IIB23x", flags, 1 << 24, 45) + user.encode() + b"\0\0"
        self.send(head + (database.encode() + b"\0" if database else b"") + b"mysql_native_password\0", 1)
        answer = self._packet()
        if answer[0] == 0xfe:   # another plugin: still no password
            self.send(b"", 3)
            answer = self._packet()
        assert answer[0] == 0, answer

    def send(self, body: bytes, number: int = 0) -> None:
        self.socket.sendall(struct.pack("<I", len(body))[:3] + bytes([number]) + body)

    def _packet(self) -> bytes:
        head = self._exactly(4)
        return self._exactly(int.from_bytes(head[:3], "little"))

    def ask(self, sql: str) -> list[list[str | None]]:
        self.send(b"\x03" + sql.encode())
        return self.read()

    def read(self) -> list[list[str | None]]:
        first = self._packet()
        if first[0] == 0xff:
            raise RuntimeError(first[9:].decode())
        if first[0] == 0:
            return []
        for _ in range(first[0] + 1):
            self._packet()
        rows = []
        while (packet := self._packet())[0] != 0xfe or len(packet) > 8:
            row, at = [], 0
            while at < len(packet):
                n = packet[at]
                at += 1
                if n == 0xfb:
                    row.append(None)
                    continue
                if n == 0xfc:
                    n, at = int.from_bytes(packet[at:at + 2], "little"), at + 2
                row.append(packet[at:at + n].decode())
                at += n
            rows.append(row)
        return rows

    def prepare(self, sql: str) -> None:
        self.send(b"\x16" + sql.encode())
        answer = self._packet()
        assert answer[0] == 0
        columns, parameters = struct.unpack_from("<HH", answer, 5)
        for n in (parameters, columns):
            for _ in range(n + 1 if n else 0):
                self._packet()

    def change_user(self, user: str, database: str) -> None:
        self.send(b"\x11" + user.encode() + b"\0\0" + database.encode() + b"\0" + b"\x2d\0mysql_native_password\0")
        answer = self._packet()
        assert answer[0] in (0, 0xfe), answer
        if answer[0] == 0xfe:
            self.send(b"", 2)
            assert self._packet()[0] == 0


class PgSQL(Wire):
    protocol = "pgsql"

    def __init__(self, address, user: str, database: str = "postgres"):
        super().__init__(address)
        text = f"user\0{user}\0database\0{database}\0client_encoding\0UTF8\0\0".encode()
        self.socket.sendall(struct.pack(">II", len(text) + 8, 196608) + text)
        self.read()

    def send(self, kind: bytes, body: bytes) -> None:
        self.socket.sendall(kind + struct.pack(">I", len(body) + 4) + body)

    def ask(self, sql: str) -> list[list[str | None]]:
        self.send(b"Q", sql.encode() + b"\0")
        return self.read()

    def read(self) -> list[list[str | None]]:
        rows, error = [], None
        while True:
            kind, n = struct.unpack(">cI", self._exactly(5))
            body = self._exactly(n - 4)
            if kind == b"Z":
                if error:
                    raise RuntimeError(error)
                return rows
            if kind == b"E":
                error = body.decode("utf-8", "replace")
            if kind == b"D":
                row, at = [], 2
                for _ in range(int.from_bytes(body[:2], "big")):
                    size = struct.unpack_from(">i", body, at)[0]
                    row.append(None if size < 0 else body[at + 4:at + 4 + size].decode())
                    at += 4 + max(size, 0)
                rows.append(row)


class Redis(Wire):
    protocol = "redis"

    def send(self, *words: str) -> None:
        data = f"*{len(words)}\r\n" + "".join(f"${len(w.encode())}\r\n{w}\r\n" for w in words)
        self.socket.sendall(data.encode())

    def ask(self, *words: str):
        self.send(*words)
        return self.read()

    def _line(self) -> str:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._exactly(1)
        return line[:-2].decode()

    def read(self):
        line = self._line()
        kind, rest = line[0], line[1:]
        if kind in "$=":
            return None if rest == "-1" else self._exactly(int(rest) + 2)[:-2].decode()
        if kind in "*%>":
            return [self.read() for _ in range(int(rest) * (2 if kind == "%" else 1))]
        return line
