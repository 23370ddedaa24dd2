"""The distribution's php-fpm on a unix socket: the PHP half of the oracle."""
import signal
from pathlib import Path

from lib import account, phpini
from lib.process import Process, accepts


class Fpm:
    def __init__(self, site, folder: Path, name: str = "fpm", extra: list[str] | None = None):
        self.socket_path = folder / f"{name}.sock"
        self.status_path = folder / f"{name}-status.sock"   # the status page has a process of its own
        self.error_log = folder / f"{name}-error.log"
        run_as = account.web()
        lines = ["[global]", f"error_log = {self.error_log}", "daemonize = no", "[www]",
                 f"listen = {self.socket_path}", "listen.mode = 0666", "pm = static",
                 f"pm.max_children = {site.workers}", "pm.status_path = /status",
                 f"pm.status_listen = {self.status_path}", "catch_workers_output = yes",
                 "decorate_workers_output = no"]
        if account.is_root():
            lines += [f"user = {run_as.name}", f"group = {run_as.group}"]
        if "worker_max_requests" in site.php:
            lines.append(f"pm.max_requests = {site.php['worker_max_requests']}")
        if "request_timeout" in site.php:
            lines.append(f"request_terminate_timeout = {site.php['request_timeout']}")
        lines += [f'env[{k}] = "{v}"' for k, v in site.env.items()]
        lines += [f'php_admin_value[{k}] = "{v}"' for k, v in site.php.get("admin_ini", {}).items()]
        lines += extra or []
        config = folder / f"{name}.conf"
        config.write_text("\n".join(lines) + "\n")
        argv = [f"/usr/sbin/php-fpm{phpini.version()}", "--nodaemonize", "-y", config,
                "-c", phpini.ini_file()]
        for k, v in site.ini.items():
            argv += ["-d", f"{k}={v}"]
        self._start = lambda: Process(argv, folder / f"{name}.log", cwd=str(folder),
                                      env={"PHP_INI_SCAN_DIR": str(phpini.make_scan_dir(folder))})
        self.start()

    def start(self) -> None:
        """Also again, after the process has ended."""
        self.process = self._start()
        self.process.wait_until(lambda: accepts(self.socket_path), "its socket")

    def log_text(self) -> str:
        return self.process.log() + self.error_log.read_text(errors="replace")

    def stop(self) -> None:
        self.process.stop(signal.SIGTERM)
