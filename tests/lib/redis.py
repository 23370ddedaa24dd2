"""A Redis server of our own, in memory only."""
import signal
from pathlib import Path

from lib import account, ports
from lib.process import Process, accepts


class Redis:
    host = "127.0.0.1"

    def __init__(self, folder: Path, port: int | None = None):
        self.port = port or ports.free_port()
        self.process = Process(["redis-server", "--port", self.port, "--bind", self.host, "--save", "",
                                "--appendonly", "no", "--dir", folder],
                               folder / "redis.log", account=account.web(), cwd=str(folder))
        self.process.wait_until(lambda: accepts((self.host, self.port)), "its port")

    def stop(self) -> None:
        self.process.stop(signal.SIGTERM)
