"""Runs what lib/abuse.py makes up against a server, and looks at every answer: strict HTTP, of this request and no other, from a
server none of whose processes died of it."""
import re
import socket
import threading
import time
from pathlib import Path

from lib import account
from lib.abuse import Abuse
from lib.httpclient import Closed, ProtocolError
from lib.roles import gateway

# The settings that would make every later statement the same, or that write where tests have no business. Of opcache.jit_debug
# PHP's own handler crashes where opcache is switched off (also in php-cli).
KEPT = ["error_log", "memory_limit", "open_basedir", "include_path", "max_execution_time", "opcache.jit", "opcache.jit_debug"]
RUN = f"""
    $ini = array_values(array_diff(array_keys(ini_get_all(null, false)), {KEPT}));
    $dir = __DIR__ . '/sessions';
    $token = basename($_SERVER['PATH_INFO'] ?? parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));
    $code = file_get_contents(__DIR__ . "/code/$token");
    header("X-Token: $token");
    echo "$token\\n";
    eval($code);
"""


def make_root(folder: Path) -> Path:
    root = folder / "app"
    for name in ("code", "sessions", "files"):
        (root / name).mkdir(parents=True)
    (root / "files" / "a.txt").write_text("a file to be sent\n" * 1000)
    (root / "hello.php").write_text("<?php echo 'Hello World!';")
    (root / "eval.php").write_text(f"<?php {RUN}")
    (root / "loop.php").write_text("<?php while (frankenphp_handle_request(function () { %s }));" % RUN)
    account.give(root)
    return root


def settings(root: Path) -> dict:
    """Of a Site: small limits, so that forms and uploads meet them."""
    return {"ini": {"upload_max_filesize": "16K", "post_max_size": "200K", "max_file_uploads": "20", "max_input_vars": "200", "max_multipart_body_parts": "60",
                    "session.save_path": str(root / "sessions"), "session.upload_progress.min_freq": "0", "log_errors": "0", "display_errors": "1"},
            "php": {"sendfile_roots": [str(root / "files")], "accel_locations": {"/files/": str(root / "files")}, "request_timeout": "60s"},
            "log": {"crash_dir": "crashes"}, "routes": [{"match": {"prefix": "/eval.php/stream"}, "request_buffering": False}]}


class Attack:
    def __init__(self, server, seed: str, prefixes=("/eval.php/", "/eval.php/stream/")):
        self.server, self.seed, self.prefixes = server, seed, prefixes
        self.root = server.site.root
        self.problems: list[str] = []
        self.statuses: dict[int, int] = {}
        self.answers = self.cut = 0
        self.lock = threading.Lock()
        self.gateway = gateway(server)

    def run(self, threads: int, *, until: float | None = None, requests: int = 0) -> None:
        """`until` that time (monotonic), or that many `requests` by each thread."""
        def go(thread):
            connection, n = None, 0
            while (time.monotonic() < until if until else n < requests) and len(self.problems) < 20:
                n += 1
                connection = self.one(thread, n, connection)
            if connection:
                connection.close()
        workers = [threading.Thread(target=go, args=(i,)) for i in range(threads)]
        [w.start() for w in workers]
        [w.join() for w in workers]

    def one(self, thread, n: int, connection):
        token = f"token-{thread}-{n}"
        abuse = Abuse(f"{self.seed}-{thread}-{n}")
        script = self.root / "code" / token
        code = abuse.script()
        script.write_text(code, "latin-1")
        prefix = self.prefixes[n % len(self.prefixes)]
        method, request = abuse.request(prefix + token, self.server.host)
        try:
            for fresh in (connection is None, True):
                connection = connection or self.server.connect(timeout=60)
                try:
                    connection.send(request)
                    answer = connection.read_response(method)
                    break
                except (Closed, BrokenPipeError, ConnectionResetError) as e:
                    connection.close()
                    connection = None
                    if fresh and not ("reading body" in str(e) or "chunk" in str(e)):
                        raise
                    if fresh:   # it promised a longer body than it had, or was ended half-way
                        self.cut += 1
                        return None
            self.judge(token, code, answer)
        except Exception as e:   # whatever it is, it is news of this case
            self.problem(token, f"{type(e).__name__}: {str(e)[:300]}")
            connection = None
        finally:
            script.unlink(missing_ok=True)
        if connection and not answer.keeps_alive:
            connection.close()
            connection = None
        return connection

    def judge(self, token: str, code: str, answer) -> None:
        with self.lock:
            self.answers += 1
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        others = {t for t in re.findall(r"token-\d+-\d+", answer.text + str(answer.fields))} - {token}
        if others:
            self.problem(token, f"its answer has {sorted(others)[:3]}")
        if answer.status == 504 and "504" not in code:
            self.problem(token, "request_timeout ended it")

    def problem(self, token: str, what: str) -> None:
        with self.lock:
            self.problems.append(f"seed {self.seed}, {token}: {what}")

    def finish(self) -> list[str]:
        """What was wrong, also with the server as a whole."""
        log = self.server.log_text()
        crashes = self.server.folder / "crashes"
        found = list(self.problems)
        found += [line for line in log.splitlines() if re.search(r"AddressSanitizer|runtime error:| died: |CHECK", line)][:20]
        found += [p.read_text()[:3000] for p in sorted(crashes.glob("*.txt"))[:3]]
        if gateway(self.server) != self.gateway:
            found.append("the gateway is another one")
        if self.server.get("/hello.php").text != "Hello World!":
            found.append("hello.php has another answer")
        return found


class ValgrindLog:
    """What the processes of a server under valgrind report, by --log-socket (a log file would be its first user's)."""

    def __init__(self):
        self.text: dict[int, str] = {}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        for n in range(1 << 30):
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._read, args=(n, connection), daemon=True).start()

    def _read(self, n: int, connection) -> None:
        while data := connection.recv(65536):
            self.text[n] = self.text.get(n, "") + data.decode(errors="replace")

    def errors(self) -> dict[str, int]:
        """Each error, without process ids and addresses, and how many reports of it there were."""
        found: dict[str, int] = {}
        for text in self.text.values():
            for report in re.split(r"^==\d+== *\n", text, flags=re.M):
                lines = [re.sub(r"^==\d+== ?|0x[0-9A-F]+: ", "", line) for line in report.splitlines() if line.startswith("==")]
                if lines and any(" at " in line for line in lines):
                    key = "\n".join(lines[:12])
                    found[key] = found.get(key, 0) + 1
        return found
