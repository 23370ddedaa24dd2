"""A memory control group of the tests' own, in version 1 or 2, where this account may make one."""
import os
from pathlib import Path


def _parent() -> Path | None:
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if controllers == "memory":
            return Path("/sys/fs/cgroup/memory" + path.rstrip("/"))
    for _, controllers, path in lines:
        here = Path("/sys/fs/cgroup" + path.rstrip("/"))
        if controllers == "" and "memory" in _read(here / "cgroup.subtree_control").split():
            return here
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


class MemoryGroup:
    def __init__(self):
        parent = _parent()
        if parent is None:
            raise OSError("no memory control group")
        self.path = parent / f"sapid-test-{os.getpid()}"
        self.path.mkdir()

    def add(self, pid: int, limit: int | None) -> None:
        """Moves the process there; with `limit`, that many bytes are all the group may have."""
        if limit is not None:
            for name in ("memory.max", "memory.limit_in_bytes"):
                if (self.path / name).exists():
                    (self.path / name).write_text(str(limit))
        (self.path / "cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        self.path.rmdir()


def available() -> bool:
    try:
        MemoryGroup().close()
    except OSError:
        return False
    return True
