"""What a test wants served, in words that sapid and the oracle both understand, and their common face."""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from lib.httpclient import Connection, Session
from lib.process import wait_until


@dataclass
class Site:
    root: Path
    workers: int = 4
    ini: dict[str, str] = field(default_factory=dict)        # as php -d
    env: dict[str, str] = field(default_factory=dict)        # what getenv() shows the application
    front_controller: str | bool | None = None               # None: the default rule
    server: dict[str, object] = field(default_factory=dict)  # keys of [server] in sapid.toml
    php: dict[str, object] = field(default_factory=dict)     # further keys of [php]
    fastcgi: dict[str, object] = field(default_factory=dict)  # keys of [fastcgi] in sapid.toml
    log: dict[str, object] = field(default_factory=dict)     # further keys of [log]
    admin: dict[str, object] = field(default_factory=dict)   # keys of [admin]: sapid only
    worker: dict[str, object] = field(default_factory=dict)  # keys of [worker]: sapid only
    port: int | None = None                                  # a port chosen beforehand
    hosts: tuple[str, ...] = ("127.0.0.1",)                  # one listener each
    unix_socket: bool = False                                # and one on a unix socket
    internal: tuple[str, ...] = ()                           # URL prefixes that must not be served
    routes: list[dict] = field(default_factory=list)         # [[route]] tables; sapid only
    pools: dict[str, dict] = field(default_factory=dict)     # [pool.NAME] tables; sapid only
    dev: bool = False                                        # `sapid serve --dev`


class Server:
    """A running server. Subclasses start it in __init__ and set the attributes below."""
    kind: str
    site: Site
    host: str
    port: int
    socket_path: Path

    @property
    def address(self):
        return self.host, self.port

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connect(self, timeout: float = 60.0, **options) -> Connection:
        return Connection(self.address, timeout=timeout, **options)

    def session(self) -> Session:
        return Session(self.address)

    def get(self, target: str, headers=None, method: str = "GET", body: bytes | None = None):
        """One request on a connection of its own; redirects are not followed."""
        with self.connect() as c:
            return c.request(method, target, headers=headers, body=body)

    def log_text(self) -> str:
        raise NotImplementedError

    def expect_log(self, *texts: str) -> None:
        """Each of these is in the log, or will be: who writes it need not have done so when a request is answered."""
        for text in texts:
            wait_until(lambda: text in self.log_text(), f"the log to say {text!r}")

    def expect_log_match(self, pattern: str) -> None:
        wait_until(lambda: re.search(pattern, self.log_text()), f"the log to have {pattern}")

    def pids(self) -> list[int]:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError
