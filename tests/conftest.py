"""Fixtures of all tests of the running program. `sapid` or, with SAPID_TEST_SERVER=fpm, the oracle."""
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lib import account, memcgroup  # noqa: E402
from lib.mariadb import MariaDB  # noqa: E402
from lib.nginx import NginxFpm  # noqa: E402
from lib.postgres import Postgres  # noqa: E402
from lib.redis import Redis  # noqa: E402
from lib.sapid import Sapid, binary  # noqa: E402
from lib.site import Site  # noqa: E402
from lib.workdir import new_workdir, remove_workdir  # noqa: E402

KINDS = {"sapid": Sapid, "fpm": NginxFpm}


def _kind() -> str:
    kind = os.environ.get("SAPID_TEST_SERVER", "sapid")
    if kind not in KINDS:
        raise pytest.UsageError(f"SAPID_TEST_SERVER: expected one of {sorted(KINDS)}, found {kind!r}")
    return kind


def pytest_sessionstart(session):
    if _kind() == "sapid" and not session.config.option.collectonly:
        try:
            binary()
        except RuntimeError as e:
            raise pytest.UsageError(str(e)) from None


def pytest_collection_modifyitems(config, items):
    unfit = ([] if _kind() == "sapid" else ["sapid_only"]) + ([] if account.is_root() else ["as_root"])
    if any(item.get_closest_marker("memory_cgroup") for item in items) and not memcgroup.available():
        unfit.append("memory_cgroup")
    if os.environ.get("SAPID_TEST_BACKEND") == "fpm":
        unfit.append("engine_only")
    left_out = [item for item in items if any(item.get_closest_marker(m) for m in unfit)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def server_kind() -> str:
    return _kind()


class Launcher:
    """Starts servers and stops them again, checking that they ended well and complained of nothing."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.started = []
        self.count = 0

    def __call__(self, root=None, *, kind: str | None = None, expect_errors: bool = False, **options):
        self.count += 1
        folder = self.folder / f"s{self.count}"
        folder.mkdir()
        os.chmod(folder, 0o755)
        if root is None:
            root = self.new_root()
        server = KINDS[kind or _kind()](Site(root=Path(root), **options), folder)
        self.started.append((server, expect_errors))
        return server

    def new_root(self) -> Path:
        root = self.folder / f"root{self.count}"
        root.mkdir()
        return root

    def stop(self) -> None:
        problems = []
        for server, expect_errors in reversed(self.started):
            try:
                server.stop()
            except AssertionError as e:
                problems.append(str(e))
                server.kill()
            if not expect_errors and server.errors():
                problems.append("error lines in the log:\n" + "\n".join(server.errors()[:20]))
        self.started = []
        assert not problems, "\n\n".join(problems)


def _launcher():
    folder = new_workdir()
    launcher = Launcher(folder)
    yield launcher
    try:
        launcher.stop()
    finally:
        remove_workdir(folder)


@pytest.fixture
def launch():
    """launch(root, **Site fields) -> Server, for one test."""
    yield from _launcher()


@pytest.fixture(scope="module")
def launch_module():
    """The same for the tests of one file, which share a server."""
    yield from _launcher()


@pytest.fixture
def workdir():
    folder = new_workdir()
    yield folder
    remove_workdir(folder)


@pytest.fixture(scope="session")
def mariadb():
    folder = new_workdir()
    server = MariaDB(folder)
    yield server
    server.stop()
    remove_workdir(folder)


@pytest.fixture(scope="session")
def postgres():
    folder = new_workdir()
    server = Postgres(folder)
    yield server
    server.stop()
    remove_workdir(folder)


@pytest.fixture(scope="session")
def redis():
    folder = new_workdir()
    server = Redis(folder)
    yield server
    server.stop()
    remove_workdir(folder)


@pytest.fixture
def memory_cgroup(launch):
    """A memory control group; empty again when the servers of the test have ended."""
    group = memcgroup.MemoryGroup()
    yield group
    launch.stop()
    group.close()


@pytest.fixture
def as_web():
    """Hands a path to the account PHP runs as."""
    return account.give
