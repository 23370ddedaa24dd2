"""One child process: its log, waiting for a condition, and its end."""
import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

# How long a test waits for what has to come: only a hang may use it up, never a busy machine.
PATIENCE_S = 60.0


class ProcessError(AssertionError):
    pass


def wait_until(condition, what: str, timeout: float = PATIENCE_S, interval: float = 0.01):
    """Polls `condition` until it returns something true, which is returned."""
    end = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise ProcessError(f"waited {timeout:g} s in vain for: {what}")
        time.sleep(interval)


@contextmanager
def undisturbed():
    """For this thread and the threads and processes it starts: where it is allowed (root), other programs cannot delay them."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        pass
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def accepts(address) -> bool:
    """Whether something listens on (host, port) or on a unix-socket path."""
    unix = isinstance(address, (str, Path))
    family = socket.AF_UNIX if unix else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(2)
        try:
            s.connect(str(address) if unix else address)
        except OSError:
            return False
    return True


def descendants(pid: int) -> list[int]:
    """All living descendants of a process, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
        except OSError:
            continue
        fields = stat[stat.rindex(")") + 2:].split()
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        for child in children.get(todo.pop(0), []):
            found.append(child)
            todo.append(child)
    return found


def pss_bytes(pid: int) -> int:
    """Proportional share of memory, from smaps_rollup."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ProcessError(f"no Pss line in /proc/{pid}/smaps_rollup")


class Process:
    def __init__(self, argv, log: Path, *, env=None, cwd="/", account=None, name=None, pass_fds=()):
        self.name = name or os.path.basename(str(argv[0]))
        self.log_path = Path(log)
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                       "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
        environment.update(env or {})
        drop = {}
        if account is not None and os.geteuid() == 0:
            drop = {"user": account.uid, "group": account.gid, "extra_groups": []}
        with open(self.log_path, "ab") as out:
            self.popen = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL,
                                          stdout=out, stderr=subprocess.STDOUT, env=environment,
                                          cwd=cwd, start_new_session=True, pass_fds=pass_fds, **drop)
        self.pid = self.popen.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def running(self) -> bool:
        return self.popen.poll() is None

    def wait_until(self, condition, what: str, timeout: float = PATIENCE_S):
        """As wait_until above, but a process that has ended fails the wait at once, with its log."""
        def check():
            if not self.running():
                raise ProcessError(f"{self.name} ended with status {self.popen.returncode} while the "
                                   f"test waited for: {what}\n{self.log()[-4000:]}")
            return condition()
        try:
            return wait_until(check, f"{self.name}: {what}", timeout)
        except ProcessError as e:
            if "in vain" in str(e):
                raise ProcessError(f"{e}\n{self.log()[-4000:]}") from None
            raise

    def send_signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, timeout: float = PATIENCE_S) -> int:
        """Ends the process and returns its status. One that does not end in time is killed with all it
        started, and that is an error."""
        if self.running():
            self.popen.send_signal(number)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProcessError(f"{self.name} did not end within {timeout:g} s of signal {number}\n"
                               f"{self.log()[-4000:]}") from None

    def kill(self) -> None:
        """Ends the process and every process of its session, whatever state they are in."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait()
