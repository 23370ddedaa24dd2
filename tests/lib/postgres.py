"""A PostgreSQL server of our own: fresh cluster, unix socket and free port, everybody trusted, durability switched off."""
import signal
import subprocess
from pathlib import Path

from lib import account, ports
from lib.process import Process


def binaries() -> Path:
    """Debian keeps the server's programs out of PATH, one folder a version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        raise RuntimeError("no /usr/lib/postgresql: apt-get install postgresql")
    return found[-1]


class Postgres:
    host = "127.0.0.1"
    user = "postgres"

    def __init__(self, folder: Path):
        run_as = account.web()
        self.folder, data = folder, folder / "pg"
        data.mkdir()
        account.give(folder, run_as)
        drop = {"user": run_as.uid, "group": run_as.gid, "extra_groups": []} if account.is_root() else {}
        subprocess.run([binaries() / "initdb", "-D", data, "-U", self.user, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"],
                       check=True, stdout=subprocess.DEVNULL, timeout=120, cwd=str(folder), **drop)
        self.port = ports.free_port()
        self.process = Process([binaries() / "postgres", "-D", data, "-p", str(self.port), "-h", self.host, "-k", folder, "-F",
                                "-c", "max_connections=60", "-c", "shared_buffers=16MB"],
                               folder / "pg.log", account=run_as, cwd=str(folder))
        self.process.wait_until(self._ready, "an answer", 60)

    def _client(self, sql: str, database: str = "postgres"):
        return subprocess.run([binaries() / "psql", "-X", "-A", "-t", "-q", "-h", self.host, "-p", str(self.port), "-U", self.user,
                               "-v", "ON_ERROR_STOP=1", database], input=sql, capture_output=True, text=True, timeout=60)

    def _ready(self) -> bool:
        return self._client("SELECT 1").returncode == 0

    def sql(self, statement: str, database: str = "postgres") -> list[list[str]]:
        done = self._client(statement, database)
        if done.returncode != 0:
            raise RuntimeError(f"SQL failed: {statement}\n{done.stderr}")
        return [line.split("|") for line in done.stdout.splitlines()]

    def stop(self) -> None:
        self.process.stop(signal.SIGINT, 30)
