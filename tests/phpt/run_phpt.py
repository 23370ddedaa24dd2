#!/usr/bin/python3
"""Runs php-src's own tests over real HTTP against sapid, with nginx + php-fpm as the oracle.

    tests/phpt/run_phpt.py                        the selection of the test suite (a minute or two)
    tests/phpt/run_phpt.py --all                  every suite that makes sense over HTTP
    tests/phpt/run_phpt.py Zend/tests ext/date    these folders
    tests/phpt/run_phpt.py -v tests/basic/025.phpt  one test, with both outputs

Each test's --FILE-- becomes a script in a document root, one copy of the tree per server; --GET--,
--POST--, --POST_RAW--, --PUT--, --COOKIE-- and --HEADERS-- become the request; --SKIPIF-- and --CLEAN--
are requests too. Tests with the same --INI-- and --ENV-- form a group, for which both servers are started
anew. A test counts against sapid when php-fpm passes it and sapid does not (FAIL), or when status, headers
or body differ although they are the same each time on php-fpm (DIFFERENT). What differs by intention
stands in known_differences.txt with its reason.

php-src comes from --source, $PHP_SRC, /tmp/phpsrc/php or, with --fetch, from Debian's source package; it
is never part of this repository.
"""
from __future__ import annotations

import argparse
import collections
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from lib import account, phpini                                                      # noqa: E402
from lib.httpclient import LENIENT_STATUS_LINE, Closed, Connection, ProtocolError    # noqa: E402
from lib.nginx import NginxFpm                                                       # noqa: E402
from lib.process import ProcessError                                                 # noqa: E402
from lib.sapid import Sapid                                                          # noqa: E402
from lib.site import Site                                                            # noqa: E402
from lib.workdir import new_workdir, remove_workdir                                  # noqa: E402
from phpt import Phpt, Unsupported                                                   # noqa: E402

SELECTION = ["tests/basic", "tests/output", "ext/standard/tests/general_functions",
             "ext/standard/tests/http", "ext/session/tests"]
ALL = ["tests/basic", "tests/output", "tests/lang", "tests/classes", "tests/func", "tests/security",
       "tests/strings", "Zend/tests", "ext/standard/tests", "ext/session/tests", "ext/json/tests",
       "ext/date/tests", "ext/pcre/tests", "ext/spl/tests", "ext/ctype/tests", "ext/filter/tests",
       "ext/hash/tests", "ext/tokenizer/tests", "ext/reflection/tests", "ext/zlib/tests",
       "ext/opcache/tests", "ext/mbstring/tests", "ext/random/tests", "ext/sockets/tests",
       "ext/posix/tests", "ext/pdo_sqlite/tests", "ext/simplexml/tests", "ext/dom/tests",
       "ext/fileinfo/tests", "ext/ffi/tests", "ext/gd/tests", "ext/intl/tests", "ext/phar/tests",
       "ext/curl/tests", "ext/libxml/tests", "ext/xml/tests", "sapi/cgi/tests"]
# Beside the engine's defaults (an empty php.ini), as run-tests.php sets them.
BASE_INI = ["output_buffering=Off", "error_reporting=32767", "display_errors=1",
            "display_startup_errors=1", "log_errors=0", "html_errors=0", "precision=14",
            "serialize_precision=-1", "memory_limit=128M", "opcache.file_update_protection=0",
            "opcache.revalidate_freq=0", "zend.assertions=1", "zend.exception_ignore_args=0",
            "zend.exception_string_param_max_len=15", "short_open_tag=0", "max_execution_time=60"]
ENVIRONMENT = {"SKIP_SLOW_TESTS": "1", "SKIP_ONLINE_TESTS": "1", "NO_INTERACTION": "1",
               "TEST_PHP_EXECUTABLE": "/usr/bin/php" + phpini.version(),
               "TEST_PHP_CGI_EXECUTABLE": "/usr/bin/php-cgi" + phpini.version(),
               "TEMP": "/tmp"}
# Of the gateway or nginx, not of PHP.
SERVER_FIELDS = {"date", "server", "connection", "transfer-encoding", "content-length", "keep-alive"}
TIMEOUT_S = 40.0
SESSION_ID = re.compile(r"(?<=^set-cookie: )(\w+)=[0-9A-Za-z,-]{22,}")
SESSION_ID_IN_BODY = re.compile(rb"\b([0-9a-f]{32}|[0-9a-v]{26}|[0-9A-Za-z,-]{40})\b")
ANONYMOUS_CLASS = re.compile(rb"(\.php:[0-9]+\$)[0-9a-f]+")
UPLOAD_NAME = re.compile(rb"/tmp/php[0-9A-Za-z]{6}\b")


class LenientConnection(Connection):
    status_line = LENIENT_STATUS_LINE


class Failed:
    """Stands for a Response when there was none."""

    def __init__(self, why: str):
        self.status, self.reason, self.fields, self.body = 0, why, [], why.encode()

    def headers(self, _name):
        return []


class Side:
    """One server with its copy of the tests."""

    def __init__(self, kind: str, work: Path):
        # Names of one length: scripts print the length of their paths.
        self.kind, self.work = kind, work / {"fpm": "nginx", "sapid": "sapid"}[kind]
        self.docroot, self.tmp = self.work / "www", self.work / "tmp"
        for folder in (self.docroot, self.tmp):
            folder.mkdir(parents=True)
        account.give(self.tmp)
        self.server = None
        self.starts = 0

    def start(self, ini: list[str], env: tuple[tuple[str, str], ...]) -> None:
        self.stop()
        self.starts += 1
        folder = self.work / str(self.starts)
        folder.mkdir()
        scan = phpini.make_scan_dir(folder)
        (scan / "zz-phpt.ini").write_text("\n".join([*BASE_INI, f"session.save_path={self.tmp}", *ini])
                                          + "\n")
        # TMPDIR and save_path: session files and uploads of the two servers must not meet.
        site = Site(self.docroot, workers=2, front_controller=False,
                    env={**ENVIRONMENT, "TMPDIR": str(self.tmp), **dict(env)})
        self.server = (Sapid if self.kind == "sapid" else NginxFpm)(site, folder)

    def stop(self) -> str | None:
        """None, or what was wrong with the way the server ended."""
        if not self.server:
            return None
        server, self.server = self.server, None
        try:
            server.stop()
        except ProcessError as error:
            server.kill()
            return str(error)
        return None

    def put(self, name: str, code: bytes) -> None:
        path = self.docroot / name
        path.write_bytes(code)
        if account.is_root():
            os.chown(path, account.web().uid, account.web().gid)

    def remove(self, name: str) -> None:
        (self.docroot / name).unlink(missing_ok=True)

    def ask(self, name: str, request=None):
        kind = Connection if self.kind == "sapid" else LenientConnection
        target = "/" + name + ("?" + request.query if request and request.query else "")
        try:
            with kind(self.server.address, timeout=TIMEOUT_S) as connection:
                if request is None:
                    return connection.request("GET", target, headers=[("Connection", "close")])
                return connection.request(request.method, target, body=request.body,
                                          headers=[*request.headers, ("Connection", "close")])
        except (Closed, ProtocolError, OSError) as error:
            return Failed(f"{type(error).__name__}: {error}")

    def run_code(self, name: str, code: bytes, request=None):
        self.put(name, code)
        try:
            return self.ask(name, request)
        finally:
            self.remove(name)


class Runner:
    def __init__(self, source: Path, options):
        self.source, self.options = source, options
        self.work = new_workdir()
        (self.work / "php.ini").write_text("")
        # Both servers read an empty php.ini instead of the distribution's, as run-tests.php does.
        phpini.ini_file = lambda: self.work / "php.ini"
        self.sides = [Side("fpm", self.work), Side("sapid", self.work)]
        if options.oracle_only:
            self.sides[1].kind = "fpm"      # keeping its folder
        self.loaded: set[str] = set()
        self.counts = collections.Counter()
        self.findings: list[dict] = []
        self.known = read_known()

    def close(self) -> None:
        for side in self.sides:
            side.stop()
        remove_workdir(self.work)

    # --- preparation ---
    def groups(self, names: list[str]) -> dict:
        """(ini, env) -> tests; the largest group first. {PWD} stays symbolic, as the roots differ."""
        grouped = collections.defaultdict(list)
        for name in names:
            try:
                test = Phpt(str(self.source), name)
                key = (test.ini("{ROOT}"), test.env("{ROOT}"))
            except (Unsupported, OSError) as error:
                self.counts["not for HTTP"] += 1
                self.say(f"NOHTTP    {name}: {error}", 1)
                continue
            grouped[key].append(test)
        return dict(sorted(grouped.items(), key=lambda item: -len(item[1])))

    def copy_tree(self, folders: set[str]) -> None:
        for side in self.sides:
            for folder in sorted(folders):
                target = side.docroot / folder
                if not target.exists():
                    shutil.copytree(self.source / folder, target, symlinks=True, dirs_exist_ok=True,
                                    ignore=shutil.ignore_patterns("*.phpt"))
            account.give(side.docroot)

    def start(self, ini, env, tests: list[Phpt]) -> bool:
        """Starts both servers for a group. Settings with which php-fpm does not start are no test."""
        for side in self.sides:
            def put_root(text):
                return text.replace("{ROOT}", str(side.docroot))
            try:
                side.start([*self.options.ini, *map(put_root, ini)], tuple((k, put_root(v)) for k, v in env))
            except ProcessError as error:
                if side is self.sides[0]:
                    self.counts["not for HTTP"] += len(tests)
                else:
                    self.record("NOSTART", tests[0], f"group of {len(tests)}, ini {ini}: {error}")
                return False
        if not self.loaded:
            listed = self.sides[0].run_code("loaded.php", b"<?php echo json_encode("
                                            b"array_map('strtolower', get_loaded_extensions()));")
            self.loaded = set(json.loads(listed.body))
        return True

    # --- running ---
    def run(self, names: list[str]) -> None:
        # Suites share files across folders (ext/standard/tests/file/file.inc and the like).
        self.copy_tree({suite_of(name) for name in names})
        for (ini, env), tests in self.groups(names).items():
            if not self.start(ini, env, tests):
                continue
            for test in tests:
                self.run_one(test)
            for side in self.sides:
                complaint = side.stop()
                if complaint:
                    self.record("STOP", tests[-1], f"{side.kind} after group {ini}: {complaint}")

    def run_one(self, test: Phpt) -> None:
        missing = [e for e in test.extensions if e.lower().replace("opcache", "zend opcache")
                   not in self.loaded and e.lower() not in self.loaded]
        if missing:
            self.counts["skipped"] += 1
            return
        skips = [self.skip_reason(side, test) for side in self.sides]
        if skips[0]:
            self.counts["skipped"] += 1
            return
        if skips[1]:
            self.record("FAIL", test, f"--SKIPIF-- skips only on sapid: {skips[1]}")
            return
        oracle = self.answer(self.sides[0], test)
        ours = self.answer(self.sides[1], test)
        self.judge(test, oracle, ours)

    def skip_reason(self, side: Side, test: Phpt) -> str | None:
        code = test.sections.get("SKIPIF")
        if not code or not code.strip():
            return None
        text = side.run_code(test.base + ".skip.php", code).body.strip()
        if text[:4].lower() == b"skip" or text[:5].lower() == b"xfail":
            return text.decode("utf-8", "replace")[:200]
        return None

    def answer(self, side: Side, test: Phpt):
        response = side.run_code(test.base + ".php", test.code, test.request())
        if test.sections.get("CLEAN", b"").strip():
            side.run_code(test.base + ".clean.php", test.sections["CLEAN"])
        return response

    def judge(self, test: Phpt, oracle, ours) -> None:
        wrong = test.check(ours)
        oracle_wrong = test.check(oracle)
        self.counts["passed by sapid"] += wrong is None
        self.counts["passed by php-fpm"] += oracle_wrong is None
        difference = self.difference(test, oracle, ours)
        if difference and self.unstable(test, oracle, oracle_wrong):
            self.counts["changes on php-fpm too"] += 1
            self.say(f"CHANGES   {test.name}: {difference}", 1)
            difference = None
        if wrong and not oracle_wrong and (difference or not self.difference(test, oracle, ours)):
            self.record("FAIL", test, f"{wrong}; {difference}", oracle, ours)
        elif difference:
            self.record("DIFFERENT", test, difference, oracle, ours)
        elif self.options.verbose > 1:
            self.show(test, oracle, ours)

    def unstable(self, test: Phpt, oracle, oracle_wrong) -> bool:
        """Whether php-fpm itself gives another answer when asked again: random or timed output."""
        for _ in range(3):
            again = self.answer(self.sides[0], test)
            if test.check(again) != oracle_wrong or self.difference(test, oracle, again):
                return True
        return False

    def difference(self, test: Phpt, a, b) -> str | None:
        """The first thing in which two answers differ, paths and ports aside."""
        if a.status != b.status or a.reason != b.reason:
            return f"status {a.status} {a.reason[:80]!r} against " \
                   f"{b.status} {b.reason[:80]!r}"
        if a.status >= 500 and not (a.headers("x-powered-by") or b.headers("x-powered-by")):
            return None     # neither PHP answered: both servers' own error pages
        fields = [sorted(SESSION_ID.sub(r"\1=ID", f"{n.lower()}: {v}") for n, v in r.fields
                         if n.lower() not in SERVER_FIELDS) for r in (a, b)]
        if fields[0] != fields[1]:
            return f"headers {sorted(set(fields[0]) ^ set(fields[1]))}"
        if self.neutral(test, a.body) != self.neutral(test, b.body):
            return "bodies differ"
        return None

    def neutral(self, test: Phpt, body: bytes) -> bytes:
        """Without what differs between two servers or two runs by nature."""
        if test.folder.startswith("ext/session"):
            body = SESSION_ID_IN_BODY.sub(b"ID", body)
        for side in self.sides:
            body = body.replace(str(side.work).encode(), b"{WORK}")
            if side.server:
                body = body.replace(str(side.server.port).encode(), b"{PORT}")
        # Object and resource numbers stay: they are the engine's state.
        return ANONYMOUS_CLASS.sub(rb"\1KEY", UPLOAD_NAME.sub(b"/tmp/phpUPLOAD", body))

    # --- results ---
    def record(self, kind: str, test: Phpt, what: str, oracle=None, ours=None) -> None:
        reason = self.known.match(test.name)
        if reason:
            self.counts["known differences"] += 1
            return
        self.counts[kind] += 1
        self.findings.append({"kind": kind, "test": test.name, "what": what})
        self.say(f"{kind:9} {test.name}: {what}", 0)
        if oracle is not None:
            self.save(test, oracle, ours)
            if self.options.verbose:
                self.show(test, oracle, ours)

    def save(self, test: Phpt, oracle, ours) -> None:
        if not self.options.keep:
            return
        stem = os.path.join(self.options.keep, test.base.replace("/", "__"))
        for end, response in ((".fpm", oracle), (".sapid", ours)):
            with open(stem + end, "wb") as f:
                f.write(as_text(response))

    def show(self, test: Phpt, oracle, ours) -> None:
        for title, response in (("php-fpm", oracle), ("sapid", ours)):
            print(f"--- {test.name} on {title}: {test.check(response) or 'passes'}")
            sys.stdout.flush()
            sys.stdout.buffer.write(as_text(response) + b"\n")

    def say(self, text: str, level: int) -> None:
        if level <= self.options.verbose:
            print(text, flush=True)


def as_text(response) -> bytes:
    head = [f"{response.status} {response.reason}"] + [f"{n}: {v}" for n, v in response.fields]
    return "\n".join(head).encode("latin-1", "replace") + b"\n\n" + response.body


class read_known:
    """known_differences.txt: `pattern<spaces># reason` a line; the pattern is a glob of test names."""

    def __init__(self):
        self.rules = []
        for line in (HERE / "known_differences.txt").read_text().splitlines():
            pattern, hash_sign, reason = line.partition("#")
            if pattern.strip():
                self.rules.append((pattern.strip(), reason.strip()))

    def match(self, name: str) -> str | None:
        return next((reason for pattern, reason in self.rules if fnmatch.fnmatch(name, pattern)), None)


def suite_of(name: str) -> str:
    """The folder of `name` that is copied as a whole: up to and with "tests"."""
    parts = name.split("/")
    at = parts.index("tests")
    return "/".join(parts[:2] if at == 0 and len(parts) > 2 else parts[:at + 1])


def find_source(options) -> Path | None:
    for place in (options.source, os.environ.get("PHP_SRC"), "/tmp/phpsrc/php"):
        if place and (Path(place) / "run-tests.php").exists():
            return Path(place)
    if not options.fetch:
        return None
    try:
        return fetch_source(Path("/tmp/phpsrc"))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"run_phpt: php-src was not to be had from Debian: {error}")
        return None


def fetch_source(into: Path) -> Path:
    """Debian's source package, unpacked without its patches (they do not touch tests). The newest version
    that is still in the archive: the tests of one branch hardly differ."""
    into.mkdir(parents=True, exist_ok=True)
    package = "php" + phpini.version()
    listed = subprocess.run(["apt-cache", "showsrc", package], capture_output=True, text=True,
                            timeout=60).stdout
    versions = re.findall(r"^Version: (\S+)$", listed, re.M)
    if not versions:
        raise OSError(f"apt knows no source package {package}")
    for version in sorted(set(versions), reverse=True):
        done = subprocess.run(["apt-get", "source", "--download-only", "-qq", f"{package}={version}"],
                              cwd=into, timeout=300, stderr=subprocess.PIPE, text=True)
        if done.returncode == 0:
            break
    else:
        raise OSError(done.stderr.strip())
    archive = sorted(into.glob(f"{package}_*.orig.tar.xz"))[-1]
    unpacked, target = into / "unpacking", into / "php"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", unpacked, "--strip-components=1"], check=True,
                   timeout=300)
    unpacked.rename(target)     # whole or not at all
    return target


def collect(source: Path, places: list[str]) -> list[str]:
    names = []
    for place in places:
        path = source / place
        if path.is_file():
            names.append(place)
        elif path.is_dir():
            names += sorted(str(p.relative_to(source)) for p in path.rglob("*.phpt"))
        else:
            sys.exit(f"run_phpt: no {place} in {source}")
    return names


def chosen_tests(source: Path, options) -> list[str]:
    names = collect(source, options.places or (ALL if options.all else SELECTION))
    if options.no_ini:
        names = [n for n in names if b"--INI--" not in (source / n).read_bytes()]
    return names


def read_options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("places", nargs="*", help="tests or folders, relative to php-src")
    p.add_argument("--all", action="store_true", help="every suite that makes sense over HTTP")
    p.add_argument("--no-ini", action="store_true", help="only tests without --INI-- (no restarts: fast)")
    p.add_argument("--ini", action="append", default=[], metavar="KEY=VALUE",
                   help="for both servers and every test, such as opcache.jit_buffer_size=64M")
    p.add_argument("--source", help="php-src")
    p.add_argument("--fetch", action="store_true", help="get php-src from Debian when it is not there")
    p.add_argument("--keep", metavar="DIR", help="write both answers of every finding here")
    p.add_argument("--json", metavar="FILE", help="write counts and findings here")
    p.add_argument("--oracle-only", action="store_true",
                   help="php-fpm against itself: shows how far the comparison can be trusted")
    p.add_argument("-v", "--verbose", action="count", default=0)
    return p.parse_args()


def main() -> int:
    options = read_options()
    source = find_source(options)
    if source is None:
        print("run_phpt: no php-src here (--source DIR, $PHP_SRC or --fetch)")
        return 2
    if options.keep:
        os.makedirs(options.keep, exist_ok=True)
    names = chosen_tests(source, options)
    started = time.monotonic()
    runner = Runner(source, options)
    try:
        runner.run(names)
    finally:
        runner.close()
    print(f"{len(names)} tests in {time.monotonic() - started:.0f} s: "
          + ", ".join(f"{n} {what}" for what, n in sorted(runner.counts.items())))
    if options.json:
        Path(options.json).write_text(json.dumps({"counts": runner.counts, "findings": runner.findings},
                                                 indent=1))
    return 1 if runner.findings else 0


if __name__ == "__main__":
    sys.exit(main())
