"""A service manager's side: the notify socket, socket activation, and following the main process through an
upgrade, after which it is nobody's child here."""
import os
import signal
import socket
from pathlib import Path

from lib.process import Process, ProcessError, wait_until
from lib.roles import alive
from lib.sapid import binary


class NotifySocket:
    """What sd_notify(3) sends to, as a list of messages."""

    def __init__(self, path: Path):
        self.path, self.messages = path, []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def read(self) -> list[str]:
        while True:
            try:
                self.messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return self.messages

    def wait(self, start: str, times: int = 1) -> str:
        """The last message that begins so, when there are `times` of them."""
        def found():
            matching = [m for m in self.read() if m.startswith(start)]
            return matching[-1] if len(matching) >= times else None
        return wait_until(found, f"{start} of the service")


class Adopted:
    """A process that we did not start but that took over from one: the interface of Process."""

    def __init__(self, pid: int, before):
        self.pid, self.before, self.log_path, self.name = pid, before, before.log_path, before.name

    def log(self) -> str:
        return self.before.log()

    def running(self) -> bool:
        return alive(self.pid)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 60.0) -> int:
        if self.running():
            self.send_signal(number)
        try:
            wait_until(lambda: not self.running(), f"{self.name} [{self.pid}] to end", timeout)
        except ProcessError:
            self.kill()
            raise
        return 0 if "notice sapid[%d] stopped" % self.pid in self.log() else 1

    def kill(self) -> None:
        self.before.kill()     # the session is the same


def activated(sockets, arguments, log: Path, env=None) -> Process:
    """`sapid serve` with sockets as systemd would pass them: from descriptor 3 on."""
    spare = [os.dup(s.fileno()) for s in sockets]
    high = [os.dup2(fd, 100 + i) for i, fd in enumerate(spare)]
    moves = " ".join(f"{3 + i}<&{fd} {fd}<&-" for i, fd in enumerate(high))
    script = f'export LISTEN_PID=$$ LISTEN_FDS={len(high)}; exec {moves}; exec "$@"'
    try:
        return Process(["bash", "-c", script, "bash", binary(), "serve", *arguments], log, env=env, name="sapid",
                       pass_fds=high)
    finally:
        for fd in spare + high:
            os.close(fd)
