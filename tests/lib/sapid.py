"""Starts build/sapid for a Site."""
import json
import os
import re
import signal
from pathlib import Path

from lib import account, phpini, ports, toml
from lib.fpm import Fpm
from lib.httpclient import Connection
from lib.process import Process, ProcessError, accepts, descendants, wait_until
from lib.site import Server, Site

REPOSITORY = Path(__file__).resolve().parents[2]
# A line of the error log that says something is wrong with the server (src/base/log.h).
ERROR_LINE = re.compile(r"^\S+Z error .*$", re.M)


def binary() -> Path:
    """SAPID_BINARY, else the build in the tree that ./run --build makes."""
    path = Path(os.environ.get("SAPID_BINARY", REPOSITORY / "build" / "sapid"))
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"no program at {path}: build it (./run --build) or set SAPID_BINARY")
    return path


class Sapid(Server):
    kind = "sapid"

    def __init__(self, site: Site, folder: Path):
        self.site, self.folder = site, folder
        self.host = site.hosts[0]
        self.port = site.port or ports.free_port(self.host)
        self.socket_path = folder / "http.sock"
        self.admin_path = folder / "admin.sock"
        # SAPID_TEST_BACKEND=fpm: every test with PHP-FPM behind sapid instead of the engine.
        self.fpm = None
        if os.environ.get("SAPID_TEST_BACKEND", "engine") == "fpm" and "use_fpm" not in site.php:
            self.fpm = Fpm(site, folder)
        self.config_path = folder / "sapid.toml"
        self.config_path.write_text(toml.document(self._tables()) + self._routes())
        self.process = Process([binary(), "serve", "--config", self.config_path, *(["--dev"] if site.dev else [])],
                               folder / "sapid.log", cwd=str(folder), name="sapid",
                               env={"LSAN_OPTIONS": os.environ.get("LSAN_OPTIONS", ""),
                                    "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", ""),
                                    "UBSAN_OPTIONS": os.environ.get("UBSAN_OPTIONS", "")})
        try:
            self.process.wait_until(lambda: accepts(self.address), f"port {self.port} to open")
        except ProcessError:
            self.process.kill()
            raise

    def _tables(self) -> dict[str, dict]:
        site, run_as = self.site, account.web()
        listen = [f"[{h}]:{self.port}" if ":" in h else f"{h}:{self.port}" for h in site.hosts]
        if site.unix_socket:
            listen.append(f"unix:{self.socket_path}")
        php = {"document_root": str(site.root), "worker_pool_size": site.workers,
               "ini_path": str(phpini.ini_file()),
               "ini_scan_dir": str(phpini.make_scan_dir(self.folder))}
        if account.is_root():
            php.update(user=run_as.name, group=run_as.group)
        if site.ini:
            php["ini"] = site.ini
        if site.env:
            php["env"] = site.env
        if site.front_controller is not None:
            php["front_controller"] = site.front_controller
        php.update(site.php)
        fastcgi = dict(site.fastcgi)
        if self.fpm:
            php.update(use_fpm=True, fpm_socket=str(self.fpm.socket_path))
            fastcgi.setdefault("connections", site.workers)
        tables = {"server": {"listen": listen, **site.server}, "php": php}
        if fastcgi:
            tables["fastcgi"] = fastcgi
        if site.worker:
            tables["worker"] = dict(site.worker)
        if site.log:
            tables["log"] = dict(site.log)
        tables["admin"] = {"socket": str(self.admin_path), **site.admin}
        for name, keys in site.pools.items():
            tables[f"pool.{name}"] = dict(keys)
        # SAPID_TEST_SETTINGS='{"php": {"worker_max_requests": 3}}' runs every test under other settings.
        for table, keys in json.loads(os.environ.get("SAPID_TEST_SETTINGS", "{}")).items():
            tables.setdefault(table, {}).update(keys)
        return tables

    def _routes(self) -> str:
        internal = [{"match": {"prefix": prefix}, "backend": "deny", "status": 404} for prefix in self.site.internal]
        return "".join("[[route]]\n" + "".join(f"{k} = {toml.value(v)}\n" for k, v in route.items()) + "\n"
                       for route in [*internal, *self.site.routes])

    def admin(self, target: str, method: str = "GET", timeout: float = 60.0):
        """A request to the admin socket."""
        with Connection(str(self.admin_path), timeout=timeout) as c:
            return c.request(method, target)

    def log_text(self) -> str:
        return self.process.log() + (self.fpm.log_text() if self.fpm else "")

    def errors(self) -> list[str]:
        return ERROR_LINE.findall(self.log_text())

    def pids(self) -> list[int]:
        roots = [self.process.pid] + ([self.fpm.process.pid] if self.fpm else [])
        return [pid for root in roots for pid in [root, *descendants(root)]]

    def role_pids(self, role: str) -> list[int]:
        """Processes started as `sapid @role` (and, for the pool, the workers forked from it)."""
        found = []
        for pid in self.pids():
            try:
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"@{role}".encode() in argv:
                found.append(pid)
        return found

    def gateway_pid(self) -> int:
        return self.role_pids("gateway")[0]

    def stop(self) -> None:
        """SIGTERM; then nothing of it may be left."""
        if self.fpm:
            fpm, self.fpm = self.fpm, None
            try:
                self.stop()
            finally:
                fpm.stop()
            return
        pids = self.pids()
        if not self.process.running():
            raise ProcessError(f"sapid ended by itself with status {self.process.popen.returncode}\n"
                               f"{self.log_text()[-4000:]}")
        status = self.process.stop(signal.SIGTERM)
        wait_until(lambda: not [p for p in pids if _alive(p)], "all processes of sapid to end")
        if status != 0:
            raise ProcessError(f"sapid ended with status {status} on SIGTERM\n{self.log_text()[-4000:]}")

    def kill(self) -> None:
        self.process.kill()
        if self.fpm:
            self.fpm.process.kill()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
