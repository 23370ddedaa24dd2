"""A MariaDB server of our own: fresh data folder, unix socket and free port, durability switched off."""
import shutil
import signal
import subprocess
from pathlib import Path

from lib import account, ports
from lib.process import Process

PASSWORD = "root-of-the-test"


class MariaDB:
    host = "127.0.0.1"

    def __init__(self, folder: Path):
        run_as = account.web()
        self.folder = folder
        data, self.socket_path = folder / "db", folder / "db.sock"
        data.mkdir()
        account.give(folder, run_as)
        subprocess.run(["mariadb-install-db", "--no-defaults", f"--datadir={data}",
                        "--auth-root-authentication-method=normal", "--skip-test-db",
                        *([f"--user={run_as.name}"] if account.is_root() else [])],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
        self.port = ports.free_port()
        self.process = Process(
            [shutil.which("mariadbd") or "/usr/sbin/mariadbd", "--no-defaults", f"--datadir={data}",
             f"--socket={self.socket_path}", f"--port={self.port}", "--bind-address=127.0.0.1",
             f"--pid-file={folder}/db.pid", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0",
             "--innodb-doublewrite=OFF", "--sync-binlog=0", "--innodb-buffer-pool-size=128M",
             "--character-set-server=utf8mb4", "--max-connections=300"],
            folder / "db.log", account=run_as, cwd=str(folder))
        self._password = ""
        self.process.wait_until(self._ready, "an answer", 60)
        self.sql(f"ALTER USER root@localhost IDENTIFIED BY '{PASSWORD}'")
        self._password = PASSWORD

    def _client(self, *args, input=None):
        return subprocess.run(["mariadb", "--no-defaults", f"--socket={self.socket_path}", "-uroot",
                               f"-p{self._password}" if self._password else "--skip-password",
                               "--default-character-set=utf8mb4", *args],
                              input=input, capture_output=True, text=True, timeout=60)

    def _ready(self) -> bool:
        return self._client("-e", "SELECT 1").returncode == 0

    def sql(self, statement: str, database: str | None = None) -> list[list[str]]:
        """Runs SQL as root; rows as lists of text."""
        done = self._client("-N", "-B", *([database] if database else []), input=statement)
        if done.returncode != 0:
            raise RuntimeError(f"SQL failed: {statement}\n{done.stderr}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    def dump(self, database: str) -> str:
        """All tables and rows as SQL."""
        done = subprocess.run(["mariadb-dump", "--no-defaults", f"--socket={self.socket_path}", "-uroot", f"-p{self._password}",
                               "--default-character-set=utf8mb4", database], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def create(self, name: str, password: str = "secret") -> None:
        """An empty database and a user of the same name who owns it, in the place of former ones."""
        self.sql(f"SET foreign_key_checks = 0; CREATE OR REPLACE DATABASE `{name}`;"
                 f"CREATE OR REPLACE USER '{name}'@'%' IDENTIFIED BY '{password}';"
                 f"GRANT ALL ON `{name}`.* TO '{name}'@'%'; FLUSH PRIVILEGES")

    def stop(self) -> None:
        self.process.stop(signal.SIGTERM, 30)
