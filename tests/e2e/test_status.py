"""What the server says of itself: the admin socket, status_path and ping_path as PHP-FPM's, /healthz, metrics,
and the commands status, reload and stop."""
import json
import os
import re
import signal
import stat
import subprocess
import threading
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib import account, fastcgi, phpini, roles
from lib.fpm import Fpm
from lib.process import wait_until
from lib.sapid import binary
from lib.site import Site

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

POOL_FIELDS = ["pool", "process manager", "start time", "start since", "accepted conn", "listen queue",
               "max listen queue", "listen queue len", "idle processes", "active processes", "total processes",
               "max active processes", "max children reached", "slow requests", "memory peak"]
PROCESS_FIELDS = ["pid", "state", "start time", "start since", "requests", "request duration", "request method",
                  "request uri", "content length", "user", "script", "last request cpu", "last request memory"]
PAGES = {"status_path": "/st", "ping_path": "/pg"}

WAIT = "<?php $f = __DIR__ . '/' . basename($_GET['until']); touch(\"$f.started\"); " \
       "while (!file_exists($f)) { usleep(2000); clearstatcache(); } echo 'done';"
BURN = "<?php $x = str_repeat('x', 8 << 20); function cpu() { $r = getrusage(); return $r['ru_utime.tv_sec'] * 1e6 + " \
       "$r['ru_utime.tv_usec']; } $end = cpu() + 20000; while (cpu() < $end); echo 'burnt';"


@pytest.fixture
def root(launch):
    folder = launch.folder / "app"
    folder.mkdir()
    for name, text in {"index": "<?php echo 'hi';", "wait": WAIT, "burn": BURN}.items():
        (folder / f"{name}.php").write_text(text)
    (folder / "file.txt").write_text("text")
    account.give(folder)
    return folder


def ended(launch, server):
    """The test has ended it, and nothing of it is left."""
    launch.started.remove((server, False))
    assert not server.process.running() and not server.admin_path.exists()


class Held:
    """Requests that run until let go."""

    def __init__(self, server, root, names):
        self.root, self.names = root, list(names)
        self.threads = [threading.Thread(target=lambda n=n: server.get(f"/wait.php?until={n}")) for n in self.names]
        for t in self.threads:
            t.start()

    def all_run(self):
        wait_until(lambda: all((self.root / f"{n}.started").exists() for n in self.names), "the requests to run")
        return self

    def let_go(self):
        for n in self.names:
            (self.root / n).touch()
        for t in self.threads:
            t.join(60)


def run(*args, **environment):
    environment.setdefault("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    return subprocess.run([binary(), *map(str, args)], env=environment, capture_output=True, text=True, timeout=60)


def text_page(text):
    return [tuple(part.strip() for part in line.split(":", 1)) for line in text.splitlines() if ":" in line]


# --- PHP-FPM's page ----------------------------------------------------------------------------------

def all_idle(server, workers: int) -> None:
    """They have all come, and have done with the requests that were answered."""
    wait_until(lambda: json.loads(server.admin("/server?json").text)["pools"][0]["idle"] == workers, "the workers to be idle")


def test_status_page_has_the_fields_of_php_fpm_in_its_order(launch, root):
    server = launch(root, workers=2, php=PAGES)
    server.get("/")
    wait_until(lambda: json.loads(server.get("/st?json").text)["idle processes"] == 2, "the workers to be idle")
    page = server.get("/st")
    assert page.status == 200 and page.header("content-type").startswith("text/plain")
    assert "no-cache" in page.header("cache-control")
    pairs = text_page(page.text)
    assert [name for name, _ in pairs] == POOL_FIELDS
    values = dict(pairs)
    assert values["pool"] == "www" and values["process manager"] == "static"
    assert (values["idle processes"], values["active processes"], values["total processes"]) == ("2", "0", "2")
    assert values["accepted conn"] == "1" and values["listen queue len"] == "1024"
    assert re.fullmatch(r"\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}", values["start time"])
    assert server.get("/st", method="HEAD").body == b""


def test_full_json_shows_each_process_and_what_it_runs(launch, root):
    server = launch(root, workers=2, php=PAGES)
    held = Held(server, root, ["a"]).all_run()
    try:
        wait_until(lambda: json.loads(server.get("/st?json").text)["total processes"] == 2, "both workers")
        page = json.loads(server.get("/st?json&full").text)
    finally:
        held.let_go()
    assert list(page) == POOL_FIELDS + ["processes"]
    assert all(list(p) == PROCESS_FIELDS for p in page["processes"]) and len(page["processes"]) == 2
    [running] = [p for p in page["processes"] if p["state"] == "Running"]
    assert running["request uri"] == "/wait.php?until=a" and running["request method"] == "GET"
    assert running["script"] == str(root / "wait.php") and running["requests"] == 1
    assert 0 < running["request duration"] < 20e6 and running["pid"] in server.pids()


def test_a_finished_request_leaves_its_cost_and_user(launch, root):
    server = launch(root, workers=1, php=PAGES)
    for _ in range(2):  # processor time is measured from the end of a long request on
        server.get("/burn.php?x=1", headers={"Authorization": "Basic YWxpY2U6c2VjcmV0"})
    wait_until(lambda: json.loads(server.get("/st?json&full").text)["active processes"] == 0, "the worker to be idle")
    [process] = json.loads(server.get("/st?json&full").text)["processes"]
    assert process["user"] == "alice" and process["requests"] == 2
    assert process["last request memory"] > 8 << 20
    assert process["request duration"] >= 20000
    assert 15000 < process["last request cpu"] / 100 * process["request duration"] < 1e6
    assert "secret" not in server.get("/st?full").text


@pytest.mark.parametrize("form,kind", [("json", "application/json"), ("html", "text/html"), ("xml", "text/xml"),
                                       ("openmetrics", "application/openmetrics-text"), ("", "text/plain")])
def test_every_format_survives_a_hostile_url(launch, root, form, kind):
    server = launch(root, workers=1, php=PAGES)
    server.get("/index.php?%22<script>&\\x\"'%00")
    for full in ("", "&full"):
        page = server.get(f"/st?{form}{full}")
        assert page.header("content-type").startswith(kind)
        if form == "json":
            json.loads(page.text)
        elif form == "xml":
            tree = ElementTree.fromstring(page.text)
            assert [e.tag.replace("-", " ") for e in tree][:len(POOL_FIELDS)] == POOL_FIELDS
        elif form == "html":
            assert "<script>" not in page.text and page.text.rstrip().endswith("</html>")
        elif form == "openmetrics":
            assert page.text.endswith("# EOF\n") and "\nphpfpm_accepted_connections 1\n" in page.text


@pytest.mark.as_root
def test_pages_agree_with_php_fpm_itself(launch, root, workdir):
    """The same names, order and types as the real php-fpm gives, in every format."""
    fpm = Fpm(Site(root=root, workers=2), workdir)
    try:
        theirs = {form: fastcgi.fpm_status_page(fpm.status_path, form) for form in
                  ("full", "json&full", "xml&full", "html&full", "openmetrics")}
    finally:
        fpm.stop()
    server = launch(root, workers=2, php=PAGES)
    all_idle(server, 2)

    def names(form, text):
        if "json" in form:
            page = json.loads(text)
            return list(page), [list(p) for p in page["processes"]][:1]
        if "xml" in form:
            tree = ElementTree.fromstring(text)
            return [e.tag for e in tree], [[f.tag for f in p] for p in tree.find("processes")][:1]
        if "html" in form:
            return re.findall(r"<th>([^<]*)</th>", text)
        if form == "openmetrics":
            return re.findall(r"^# TYPE (\S+ \S+)", text, re.M)
        return [name for name, _ in text_page(text)][:len(POOL_FIELDS) + 13]

    def as_old(found):
        """Without the field that PHP-FPM has since 8.4, and all that one process has of the text of two."""
        if isinstance(found, tuple):
            return tuple(map(as_old, found))
        return [n for n in found if n not in ("memory peak", "memory-peak", "phpfpm_memory_peak gauge")][:14 + 13]
    for form, text in theirs.items():
        a, b = names(form, server.get(f"/st?{form}").text), names(form, text)
        assert (a == b) if phpini.branch() >= (8, 4) else (as_old(a) == as_old(b)), form


def test_pages_are_off_unless_named_and_only_for_those_allowed(launch, root):
    server = launch(root, workers=1, php={"front_controller": False})
    assert server.get("/st").status == 404 and server.get("/status").status == 404
    server = launch(root, workers=1, php={**PAGES, "status_allow": ["10.1.2.3"]},
                    server={"trusted_proxies": ["127.0.0.1"]})
    assert server.get("/st").status == 403 and server.get("/pg").status == 403
    assert server.get("/st", headers={"X-Forwarded-For": "10.1.2.3"}).status == 200
    assert server.get("/pg", headers={"X-Forwarded-For": "10.1.2.3"}).text == "pong"


def test_pages_are_answered_while_all_workers_are_busy(launch, root):
    server = launch(root, workers=2, php=PAGES)
    held = Held(server, root, ["a", "b", "c"])
    try:
        def look():
            page = json.loads(server.get("/st?json").text)
            return page if page["active processes"] == 2 and page["listen queue"] == 1 else None
        page = wait_until(look, "two requests to run and one to wait")
        assert page["active processes"] == page["max active processes"] == 2 and page["idle processes"] == 0
        assert page["max children reached"] == 1 and page["max listen queue"] >= 1
        assert server.get("/pg").text == "pong"
    finally:
        held.let_go()
    assert json.loads(server.get("/st?json").text)["listen queue"] == 0


def test_slow_requests_and_crashes_are_counted(launch, root):
    (root / "crash.php").write_text("<?php posix_kill(getmypid(), SIGSEGV); sleep(1);")
    server = launch(root, workers=2, php={**PAGES, "slow_log_after": "100ms"}, expect_errors=True)
    held = Held(server, root, ["a"])
    try:
        wait_until(lambda: json.loads(server.get("/st?json").text)["slow requests"] == 1, "it to be slow")
    finally:
        held.let_go()
    assert server.get("/crash.php").status == 502
    wait_until(lambda: json.loads(server.admin("/server?json").text)["pools"][0]["crashes"] == 1, "the crash")
    assert 'sapid_worker_crashes_total{pool="www"} 1' in server.admin("/metrics").text


def test_full_shows_where_the_php_of_each_busy_worker_is(launch, root):
    (root / "deep.php").write_text("<?php\nfunction deep($f) {\n    while (!file_exists($f)) { usleep(2000); clearstatcache(); }\n}\n"
                                   "class Site {\n    static function run($f) {\n        deep($f);\n    }\n}\n"
                                   "touch(__DIR__ . '/deep.started');\nSite::run(__DIR__ . '/go');\n")
    server = launch(root, workers=2)
    thread = threading.Thread(target=lambda: server.get("/deep.php"))
    thread.start()
    try:
        wait_until((root / "deep.started").exists, "the request")
        wait_until(lambda: "Site::run" in server.admin("/server?full").text, "its stack")
        text = wait_until(lambda: "Site::run" in (shown := run("status", "--socket", server.admin_path, "--full").stdout)
                          and shown, "the command to show it")
        lines = [line.split() for line in text.splitlines() if line.strip().startswith("#")]
        functions = [(line[1], line[2].removeprefix(str(root))) for line in lines]
        assert functions[-3:] == [("deep", "/deep.php:3"), ("Site::run", "/deep.php:7"), ("{main}", "/deep.php:11")]
        def both():
            shown = run("status", "--socket", server.admin_path, "--full", "--json").stdout
            found = sorted(json.loads(shown)["pools"][0]["processes"], key=lambda p: p["state"] == "idle")
            return found if len(found) == 2 and "stack" in found[0] else None
        busy, idle = wait_until(both, "both workers and the stack of one")
        assert busy["stack"][-1] == {"function": "{main}", "file": f"{root}/deep.php", "line": 11} and "stack" not in idle
        assert "stacks" not in server.log_text()             # a question is no event
    finally:
        (root / "go").touch()
        thread.join(60)


def test_a_pool_process_that_hangs_does_not_keep_the_page_waiting(launch, root):
    server = launch(root, workers=1, expect_errors=True)
    pool = roles.pools(server)[0]
    os.kill(pool, signal.SIGSTOP)
    try:
        assert "pool www" in server.admin("/server?full").text and server.admin("/server").status == 200
    finally:
        os.kill(pool, signal.SIGCONT)
    assert server.get("/").text == "hi"


# --- health ------------------------------------------------------------------------------------------

def test_healthz_is_green_without_traffic_and_red_when_the_pool_is_wedged(launch, root):
    server = launch(root, workers=2, admin={"health_window": "3s"})
    green = server.admin("/healthz")
    assert green.status == 200 and json.loads(green.text)["status"] == "ok"
    held = Held(server, root, ["a", "b"]).all_run()
    try:
        wait_until(lambda: server.admin("/healthz").status == 503, "red")
        red = json.loads(server.admin("/healthz").text)
        assert red["status"] == "failing" and red["pools"][0]["ok"] is False
        assert server.admin("/ping").text == "pong"
    finally:
        held.let_go()
    wait_until(lambda: server.admin("/healthz").status == 200, "green again")


def test_healthz_does_not_judge_php_fpm(launch, root):
    """A restart of this server would not mend it."""
    server = launch(root, php={"use_fpm": True, "fpm_socket": str(launch.folder / "nobody.sock")}, expect_errors=True)
    assert server.get("/").status == 502
    answer = server.admin("/healthz")
    assert answer.status == 200 and json.loads(answer.text)["pools"] == [{"name": "www", "ok": True, "judged": False}]


def test_healthz_probe_is_no_request_of_the_application(launch, root):
    log = launch.folder / "seen.log"
    (root / "index.php").write_text(f"<?php file_put_contents('{log}', 'x', FILE_APPEND); echo 'hi';")
    server = launch(root, workers=1, log={"access": "stdout"})
    for _ in range(3):
        assert server.admin("/healthz").status == 200
    assert not log.exists() and "HTTP/1.1\"" not in server.log_text()


def test_healthz_of_a_worker_script(launch, root):
    (root / "worker.php").write_text(
        "<?php while (frankenphp_handle_request(function () { if (isset($_GET['until'])) require 'wait.php'; "
        "echo 'loop'; }));")
    server = launch(root, workers=1, worker={"script": str(root / "worker.php"), "num": 1},
                    admin={"health_window": "3s"})
    assert server.admin("/healthz").status == 200
    held = Held(server, root, [])
    held.names = ["a"]
    held.threads = [threading.Thread(target=lambda: server.get("/x?until=a"))]
    held.threads[0].start()
    held.all_run()
    try:
        wait_until(lambda: server.admin("/healthz").status == 503, "red")
    finally:
        held.let_go()
    wait_until(lambda: server.admin("/healthz").status == 200, "green again")
    assert server.get("/x").text == "loop"


# --- the whole server --------------------------------------------------------------------------------

def test_server_page_counts_by_place(launch, root):
    server = launch(root, workers=2, routes=[{"match": {"prefix": "/wait"}}, {"match": {"exact": "/no"},
                                                                             "backend": "deny"}])
    for target in ("/", "/", "/file.txt", "/missing.php", "/no"):
        server.get(target)
    all_idle(server, 2)
    wait_until(lambda: json.loads(server.admin("/server?json").text)["requests"] == 5, "all to be counted")
    page = json.loads(server.admin("/server?json&full").text)
    places = {p["place"]: p for p in page["places"]}
    assert places["pool www"]["requests"] == 2 and places["pool www"]["status"]["2xx"] == 2
    assert places["files"]["requests"] == 1 and places["own"]["status"]["4xx"] == 1
    assert places["route exact /no"]["status"]["4xx"] == 1
    assert 0 < places["pool www"]["latency_ms"]["p50"] <= places["pool www"]["latency_ms"]["max"] < 20000
    assert places["files"]["bytes_out"] > 4 and page["requests"] == 5
    assert page["pid"] == server.process.pid and page["config"] == str(server.config_path)
    assert page["pools"][0]["generations"][0]["done"] == 2
    metrics = server.admin("/metrics").text
    assert metrics.endswith("# EOF\n")
    assert 'sapid_requests_total{place="pool www",status="2xx"} 2' in metrics
    assert 'sapid_request_duration_seconds_count{place="files"} 1' in metrics
    assert 'phpfpm_idle_processes{pool="www"} 2' in metrics
    types = re.findall(r"^# TYPE (\S+)", metrics, re.M)
    assert len(types) == len(set(types))


def test_figures_of_all_gateway_threads_are_added_up(launch, root):
    server = launch(root, workers=2, server={"gateway_threads": 3}, php=PAGES)
    for _ in range(30):
        server.get("/")

    def places() -> dict[str, int]:
        return {p["place"]: p["requests"] for p in json.loads(server.admin("/server?json").text)["places"]}
    wait_until(lambda: places() == {"pool www": 30}, "all to be counted")
    for _ in range(6):  # whichever thread gets it
        assert json.loads(server.get("/st?json").text)["accepted conn"] == 30


def test_admin_socket_is_private_and_refuses_other_methods(launch, root):
    server = launch(root, workers=1)
    mode = os.stat(server.admin_path)
    assert stat.S_IMODE(mode.st_mode) == 0o600 and mode.st_uid == os.geteuid()
    assert server.admin("/stop").status == 405 and server.admin("/status", method="POST").status == 405
    assert server.admin("/nothing").status == 404 and server.admin("/status?pool=no").status == 404
    assert "/metrics" in server.admin("/").text
    server.stop()
    ended(launch, server)


def test_profile_of_what_the_workers_do_now(launch, root):
    """The sampler runs in the pool process: one worker that computes is seen in nearly every sample."""
    (root / "spin.php").write_text("<?php function spin() { while (!file_exists(__DIR__ . '/enough')) {} } spin();")
    server = launch(root, workers=2)
    with ThreadPoolExecutor(2) as threads:
        spinning = threads.submit(server.get, "/spin.php")
        wait_until(lambda: json.loads(server.admin("/status?json").text)["active processes"] == 1, "the script to run")
        first = threads.submit(server.admin, "/profile?ms=2000&rate=500", method="POST")
        stacks = first.result()
        assert stacks.status == 200
        (root / "enough").touch()
        assert spinning.result().status == 200
    lines = dict(line.rsplit(" ", 1) for line in stacks.text.splitlines())
    spun = sum(int(n) for frames, n in lines.items() if frames.split(";")[2:3] == ["spin"])
    assert spun > 20 and spun >= 0.9 * sum(int(n) for n in lines.values()), lines
    assert server.admin("/profile?ms=50", method="POST").text == ""  # nobody is at a request
    for wrong in ["ms=0", "ms=x", "rate=10001", "seconds=1"]:
        refused = server.admin(f"/profile?{wrong}", method="POST")
        assert refused.status == 409 and "expected profile?ms=" in refused.text
    server.stop()
    ended(launch, server)


def test_a_socket_that_cannot_be_made_is_a_warning(launch, root):
    server = launch(root, workers=1, admin={"socket": "/nonexistent/admin.sock"})
    assert server.get("/").text == "hi"
    server.expect_log("no admin socket: cannot listen on /nonexistent/admin.sock: No such file")


# --- commands ----------------------------------------------------------------------------------------

def test_status_finds_the_server_by_its_configuration(launch, root):
    server = launch(root, workers=1)
    shown = run("status", "--config", server.config_path)
    assert shown.returncode == 0 and f"sapid[{server.process.pid}]" in shown.stdout, shown
    assert "pool www (generation 1, static): " in shown.stdout
    all_idle(server, 1)
    shown = run("status", "--socket", server.admin_path, "--json", "--full")
    assert json.loads(shown.stdout)["pools"][0]["processes"][0]["state"] == "idle"


def test_status_finds_servers_without_a_named_socket(launch, root, workdir):
    account.give(workdir)
    runtime = workdir / "run"
    runtime.mkdir(mode=0o700)
    one = launch(root, workers=1, admin={"socket": "auto"})
    shown = run("status", "--config", one.config_path)
    assert shown.returncode == 0 and f"sapid[{one.process.pid}]" in shown.stdout, shown
    two = launch(root, workers=1, admin={"socket": "auto"})
    shown = run("status")
    assert shown.returncode == 1 and "servers are running; choose one with --socket" in shown.stderr
    assert str(one.config_path) in shown.stderr and str(two.config_path) in shown.stderr
    shown = run("status", "--config", two.config_path)
    assert f"sapid[{two.process.pid}]" in shown.stdout


def test_commands_say_what_is_wrong(launch, root):
    server = launch(root, workers=1)
    server.stop()
    ended(launch, server)
    shown = run("status", "--config", server.config_path)
    assert shown.returncode == 1 and "the server is not running" in shown.stderr, shown
    off = launch(root, workers=1, admin={"socket": "off"})
    shown = run("reload", "--config", off.config_path)
    assert shown.returncode == 1 and 'socket = "off"' in shown.stderr
    assert run("status", "--wurst").returncode == 2


def test_reload_command_starts_a_new_generation(launch, root):
    server = launch(root, workers=1)
    shown = run("reload", "--config", server.config_path)
    assert shown.returncode == 0, shown
    wait_until(lambda: json.loads(server.admin("/server?json").text)["pools"][0]["generations"][-1]["generation"] == 2,
               "generation 2")


def test_stop_command_waits_until_the_server_has_ended(launch, root):
    server = launch(root, workers=1)
    held = Held(server, root, ["a"]).all_run()
    stopper = threading.Thread(target=lambda: setattr(held, "shown", run("stop", "--config", server.config_path)))
    stopper.start()
    wait_until(lambda: "stopping: running requests" in server.log_text(), "the stop to begin")
    held.let_go()
    stopper.join(60)
    assert held.shown.returncode == 0 and "stopping" in held.shown.stdout
    wait_until(lambda: not server.process.running(), "its end")
    ended(launch, server)
