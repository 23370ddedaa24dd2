"""Worker mode: a script that boots once and takes requests by frankenphp_handle_request()."""
import os
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lib import account, roles, sapid
from lib.httpclient import Connection, multipart
from lib.process import wait_until

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]
SCRIPTS = Path(__file__).parent / "worker"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def scripts(launch_module):
    root = launch_module.folder / "worker"
    shutil.copytree(SCRIPTS, root)
    (root / "sessions").mkdir()
    (root / "classic.php").write_text("<?php echo 'classic ', $_SERVER['SCRIPT_NAME'], $_SERVER['PATH_INFO'] ?? '';")
    (root / "folder").mkdir()
    (root / "folder/index.php").write_text("<?php echo 'index of folder';")
    (root / "index.php").write_text("<?php echo 'the front controller of classic mode';")
    (root / "page.txt").write_text("a file")
    account.give(root)
    return root


def start(launch, root, script="app.php", num=1, *, worker=None, ini=None, **options):
    return launch(root, workers=2, worker={"script": str(root / script), "num": num, **(worker or {})},
                  ini={"session.save_path": str(root / "sessions"), **(ini or {})}, **options)


@pytest.fixture(scope="module")
def server(launch_module, scripts):
    """One process runs the script, so that every request meets the state of the one before."""
    return start(launch_module, scripts, expect_errors=True)


def instance(r) -> str:
    return r.header("x-instance")


# --- which requests are the script's --------------------------------------------------------------

@pytest.mark.parametrize("target", ["/", "/any/path", "/app.php", "/app.php?x=1", "/missing.php", "/folder/none"])
def test_urls_of_the_worker_script(server, target):
    r = server.get(target)
    assert r.status == 200 and r.text.startswith("count ")


def test_other_scripts_and_files_are_as_ever(server):
    assert server.get("/classic.php").text == "classic /classic.php"
    assert server.get("/classic.php/info").text == "classic /classic.php/info"
    assert server.get("/folder/").text == "index of folder"
    assert server.get("/index.php").text == "the front controller of classic mode"
    assert server.get("/page.txt").text == "a file"
    assert server.get("/folder").status == 301


def test_script_name_is_the_worker_scripts(server, scripts):
    s = server.get("/globals/../globals?a=1").json()["server"]
    assert s["SCRIPT_NAME"] == s["PHP_SELF"] == "/app.php" and s["SCRIPT_FILENAME"] == str(scripts / "app.php")
    assert s["DOCUMENT_ROOT"] == str(scripts) and s["QUERY_STRING"] == "a=1"
    s = server.get("/app.php/globals").json()["server"]
    assert s["PATH_INFO"] == "/globals" and s["PHP_SELF"] == "/app.php/globals"


def test_outside_of_worker_mode_it_is_an_error(launch, scripts):
    s = launch(scripts, ini={"display_errors": "1", "html_errors": "0"}, expect_errors=True)
    r = s.get("/app.php")
    assert "Uncaught RuntimeException: frankenphp_handle_request() called while not in worker mode" in r.text


# --- state of a request ---------------------------------------------------------------------------

def test_code_stays_and_requests_are_counted(server):
    a, b = server.get("/x"), server.get("/x")
    assert instance(a) == instance(b) and int(b.header("x-count")) == int(a.header("x-count")) + 1


def test_superglobals_are_the_requests(server):
    with server.connect() as c:
        first = c.request("POST", "/globals?g=1", {"Cookie": "c=1", "Content-Type": FORM, "X-Mine": "1"}, b"p=1").json()
        second = c.request("GET", "/globals").json()
    assert first["get"] == {"g": "1"} and first["post"] == {"p": "1"} and first["cookie"] == {"c": "1"} and first["input"] == "p=1"
    assert first["request"] == {"g": "1", "p": "1"} and first["server"]["HTTP_X_MINE"] == "1"
    assert all(second[name] == [] for name in ("get", "post", "cookie", "request", "files")) and second["input"] == ""
    assert "HTTP_X_MINE" not in second["server"] and second["server"]["CONTENT_TYPE"] == ""
    assert second["server"]["REQUEST_METHOD"] == "GET"
    assert second["server"]["REQUEST_TIME_FLOAT"] >= first["server"]["REQUEST_TIME_FLOAT"]


def test_boot_has_the_scripts_own_superglobals(server, scripts):
    boot = server.get("/boot").json()
    assert boot["server"]["FRANKENPHP_WORKER"] == "1" and boot["server"]["SCRIPT_FILENAME"] == str(scripts / "app.php")
    assert "FRANKENPHP_WORKER" not in server.get("/globals").json()["server"]


def test_environment_reaches_boot_and_requests(launch, scripts):
    s = start(launch, scripts, env={"FRANKENPHP_LOOP_MAX": "7", "MAX_REQUESTS": "9"})
    boot, request = s.get("/boot").json()["server"], s.get("/globals").json()["server"]
    for seen in (boot, request):
        assert (seen["FRANKENPHP_LOOP_MAX"], seen["MAX_REQUESTS"]) == ("7", "9")


@pytest.mark.parametrize("size", [1, 20_000, 3_000_000])
def test_bodies(server, size):
    body = os.urandom(size).hex().encode()
    r = server.get("/globals", {"Content-Type": "text/plain"}, "POST", body)
    assert r.json()["input"] == body.decode() and server.get("/globals").json()["input"] == ""


def test_unread_bodies_are_dropped(server):
    with server.connect() as c:
        for _ in range(3):
            assert c.request("POST", "/x", {"Content-Type": "application/octet-stream"}, b"z" * 200_000).status == 200
        assert c.request("GET", "/globals").json()["input"] == ""


def test_uploads_live_for_their_request(server):
    kind, body = multipart([], [("f", "a.bin", b"0123456789" * 5000, "application/octet-stream")])
    r = server.get("/upload", {"Content-Type": kind}, "POST", body)
    name, size, uploaded, path = r.text.split(" ")
    assert (name, size, uploaded) == ("a.bin", "50000", "1")
    assert server.get(f"/exists?path={path}").text == "0" and server.get("/globals").json()["files"] == []


def test_headers_and_status_are_forgotten(server):
    r = server.get("/status?code=418")
    assert r.status == 418 and r.header("x-once") == "yes"
    r = server.get("/x")
    assert r.status == 200 and r.header("x-once") is None
    assert server.get("/headers", {"Accept-Language": "de"}).json()["Accept-Language"] == "de"
    assert "Accept-Language" not in server.get("/headers").json()


def test_output_buffers_are_flushed_and_closed(server):
    level = server.get("/ob-level").text
    assert server.get("/buffers").text == "two levels left open"
    assert server.get("/ob-level").text == level


def test_output_between_requests_goes_nowhere(server):
    server.get("/x")
    assert "nobody hears this" not in server.get("/x").text


def test_error_state_is_forgotten(server):
    assert "Undefined variable $nothing" in server.get("/warn").text
    assert server.get("/last-error").text == "none"


def test_temporary_streams_are_freed(server):
    body = {"headers": {"Content-Type": "text/plain"}, "method": "POST", "body": b"b" * 100}
    counts = {server.get("/streams", **body).text for _ in range(5)}
    assert len(counts) == 1


def test_sessions(server):
    a, b = server.session(), server.session()
    assert [a.get("/session").text for _ in range(3)] == ["1", "2", "3"]
    assert b.get("/session").text == "1" and b.get("/globals").json()["session"] is False
    assert server.get("/session-id").text == "|1"
    assert a.get("/session").text == "4"


def test_session_handlers_set_at_boot_stay(launch, scripts):
    s = start(launch, scripts, "handler.php")
    user, other = s.session(), s.session()
    assert [user.get("/").text for _ in range(3)] == ["1", "2", "3"]
    assert other.get("/?session=0").text == "none" and other.get("/").text == "1" and user.get("/").text == "4"


def test_parse_errors_reach_the_handler_not_the_error_handler(launch, scripts):
    s = start(launch, scripts, "parse_errors.php", expect_errors=True,
              ini={"max_input_vars": "10", "post_max_size": "1K", "display_errors": "0"})
    r = s.get("/?" + "&".join(f"p{i}={i}" for i in range(20)))
    assert r.status == 400 and "requests:1" in r.text and "Input variables exceeded" in r.text and '"type":2' in r.text
    r = s.get("/", {"Content-Type": FORM}, "POST", b"a=1&" * 600)
    assert r.status == 400 and "requests:2" in r.text and "exceeds the limit" in r.text
    r = s.get("/")
    assert r.status == 200 and r.text == "requests:3\n[]"


def test_fibers(server):
    assert server.get("/fiber").text == "in a fiber"


def test_a_request_within_a_request_is_refused(server):
    assert server.get("/nested").text == "frankenphp_handle_request() called while handling a request"


def test_finish_request_answers_early(server, scripts):
    path = scripts / "sessions/after"
    assert server.get(f"/finish?path={path}").text == "early"
    wait_until(path.exists, "what the handler does after its answer")


def test_a_client_that_leaves_does_not_end_the_script(server, scripts):
    path = scripts / "sessions/aborted"
    before = instance(server.get("/x"))
    with server.connect(receive_buffer=4096) as c:
        c.send(c.format("GET", f"/abort?path={path}"))
        c.read_bytes(1000)
    wait_until(path.exists, "the handler to go on")
    wait_until(lambda: path.read_text() == "1 1", "its last line")
    assert instance(server.get("/x")) == before


def test_a_fork_of_the_script_does_not_take_requests(server):
    before = instance(server.get("/x"))
    assert server.get("/fork").text == "parent 0"
    assert instance(server.get("/x")) == before


def test_frankenphp_log(server):
    server.get("/log")
    line = wait_until(lambda: re.search(r".*said by a handler.*", server.log_text()), "the line")[0]
    assert " warn " in line and line.endswith('said by a handler {"who":"Ä/b","n":[1,2]}')


# --- ends of a script -----------------------------------------------------------------------------

def test_uncaught_exception_is_500_and_the_script_goes_on(server):
    before = instance(server.get("/x"))
    r = server.get("/throw")
    assert r.status == 500 and r.text == "hello "
    server.expect_log("Uncaught RuntimeException: request")
    assert instance(server.get("/x")) == before


def test_uncaught_exception_shows_where_errors_are_displayed(launch, scripts):
    s = start(launch, scripts, ini={"display_errors": "1", "html_errors": "0"}, expect_errors=True)
    r = s.get("/throw")
    assert r.status == 500 and r.text.startswith("hello ") and "Uncaught RuntimeException: request 1" in r.text


def test_exit_ends_the_request_and_restarts_the_script(server):
    before = instance(server.get("/x"))
    r = server.get("/exit")
    assert r.status == 200 and r.text == "before shutdown"
    after = server.get("/x")
    assert instance(after) != before and after.header("x-count") == "1"
    assert server.get("/die-text").text == "last words"
    assert server.get("/x").header("x-count") == "1"


@pytest.mark.parametrize("what", ["memory", "forever"])
def test_fatal_errors_are_500_and_restart_the_script(server, what):
    before = server.get("/x")
    assert server.get(f"/{what}").status == 500
    after = server.get("/x")
    assert instance(after) != instance(before) and after.header("x-count") == "1"
    assert after.header("x-pid") == before.header("x-pid"), "the process is the same"


def test_restarts_lose_nothing(launch, scripts):
    s = start(launch, scripts, num=2)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda i: s.get("/exit" if i % 5 == 0 else "/x"), range(400)))
    assert all(r.status == 200 for r in answers)
    assert len({instance(r) for r in answers}) >= 80


def test_max_requests(launch, scripts):
    s = start(launch, scripts, num=2, worker={"max_requests": 5})
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: s.get("/x"), range(100)))
    counts = {}
    for r in answers:
        assert r.status == 200
        counts[instance(r)] = counts.get(instance(r), 0) + 1
    assert max(counts.values()) <= 5 and len(counts) >= 20
    assert len({r.header("x-pid") for r in answers}) == len(counts), "each has its own process"


def test_a_killed_worker_is_replaced(launch, scripts):
    s = start(launch, scripts, expect_errors=True)
    os.kill(int(s.get("/x").header("x-pid")), signal.SIGKILL)
    r = s.get("/x")
    assert r.status == 200 and r.header("x-count") == "1"


def test_drain_ends_the_loop_after_the_running_request(launch, scripts):
    s = start(launch, scripts)
    path = scripts / "sessions/running"
    with s.connect() as c:
        c.send(c.format("GET", f"/slow?ms=700&path={path}"))
        wait_until(path.exists, "the request to run")
        s.process.send_signal(signal.SIGHUP)
        r = c.read_response()
    assert r.text == "slow"
    wait_until(lambda: not roles.alive(int(r.header("x-pid"))), "the end of the drained process")
    assert instance(s.get("/x")) != instance(r)


@pytest.fixture
def numbered(launch, workdir):
    """A server whose script echoes `n`, and a way to write another script."""
    root = workdir / "site"
    root.mkdir()
    script = root / "w.php"

    def write(before: str, code: str) -> None:
        handler = f"function () {{ header('X-Code: {code}'); echo $_GET['n'] ?? ''; }}"
        script.write_text(f"<?php {before} while (frankenphp_handle_request({handler}));")
    write("", "old")
    account.give(root)
    s = launch(root, workers=1, worker={"script": str(script), "num": 2}, expect_errors=True)
    assert s.get("/").header("x-code") == "old"
    return s, write


def test_reload_brings_new_code_and_loses_nothing(numbered):
    s, write = numbered
    with roles.Load(s.address, "/?n=", clients=3) as load:
        write("", "new")
        s.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "pool www-worker g2 takes over" in s.log_text(), "the new generation")
        wait_until(lambda: s.get("/").header("x-code") == "new", "the new code")
        wait_until(lambda: "pool www g2 takes over" in s.log_text(), "the new generation of the other pool")
    assert set(load.answers) == {200} and not load.mixed and not load.broken


def test_a_reload_waits_for_the_boot(numbered):
    """The old generation serves until the new one has booted."""
    s, write = numbered
    root = Path(s.site.root)
    write("touch(__DIR__ . '/boots'); while (!file_exists(__DIR__ . '/go')) { clearstatcache(); usleep(2000); }", "new")
    s.process.send_signal(signal.SIGHUP)
    wait_until((root / "boots").exists, "the boot to begin")
    assert [s.get("/").header("x-code") for _ in range(20)] == ["old"] * 20
    (root / "go").touch()
    wait_until(lambda: s.get("/").header("x-code") == "new", "the new code")


def test_a_reload_whose_script_fails_changes_nothing(numbered):
    s, write = numbered
    write("exit(1);", "never")
    with roles.Load(s.address, "/?n=", clients=2) as load:
        s.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "did not get to its first frankenphp_handle_request()" in s.log_text(), "the refusal")
        wait_until(lambda: "generation 1 keeps serving" in s.log_text(), "its consequence")
    assert set(load.answers) == {200} and not load.mixed and not load.broken
    write("", "new")
    s.process.send_signal(signal.SIGHUP)
    wait_until(lambda: s.get("/").header("x-code") == "new", "the next reload")


# --- opcache --------------------------------------------------------------------------------------

def test_opcache_reset_becomes_a_new_generation(launch, scripts):
    s = start(launch, scripts, num=2)
    assert s.get("/reset-opcache").text == "bool(true)\n"

    def renewed():
        assert s.get("/x").status == 200
        return "pool www-worker g2 takes over" in s.log_text()
    wait_until(renewed, "the next generation", interval=0.05)
    s.expect_log("opcache is to be restarted")
    assert s.get("/reset-opcache").text == "bool(true)\n", "opcache of the new generation is in use"


def test_every_process_locks_opcache_for_itself(launch, scripts):
    s = start(launch, scripts, num=3)
    loops = lambda: {pid for pid in roles.workers(s) if "www-worker" in roles.title(pid)}
    locked = lambda: {int(line.split()[4]) for line in Path("/proc/locks").read_text().splitlines() if " READ " in line}
    wait_until(lambda: len(loops()) == 3 and loops() <= locked(), "three read locks")


# --- what a request leaves behind -----------------------------------------------------------------

@pytest.fixture(scope="module")
def leaky(launch_module, scripts):
    s = start(launch_module, scripts, "leaks.php", worker={"report_leaks": True})
    for _ in range(2):   # what every first request brings
        assert s.get("/clean").text == "done"
    return s


@pytest.mark.parametrize("what,said", [
    ("static", "static Cache::$rows array(0) -> array(1); static Cache::$hits 0 -> 1"),
    ("function", "static variable $seen of remembers() 0 -> 1"),
    ("global", "global $log array(0) -> array(1)"),
    ("new-global", "global $fresh is new: 1"),
    ("ini", 'ini precision is new: "7"'),
    ("handler", "error handler unset -> Closure"),
    ("constant", "constant MADE_BY_A_REQUEST is new"),
    ("class", "class Evaluated is new"),
    ("object", "objects of Bag is new: 1"),
    ("resource", "resources of type stream"),
    ("memory", "memory +"),
    ("shutdown", "shutdown functions"),
])
def test_report_leaks_names_what_and_where(leaky, what, said):
    assert leaky.get(f"/{what}?x=1").text == "done"
    line = wait_until(lambda: re.search(rf"GET /{what} left behind: (.*)", leaky.log_text()), "the report")
    assert said in line[1]


def test_report_leaks_counts_and_stays_quiet(leaky):
    for _ in range(9):
        leaky.get("/static?again")
    leaky.get("/clean")
    leaky.expect_log("(8 times now)")
    text = leaky.log_text()
    lines = [line for line in text.splitlines() if "GET /static left behind" in line and "$hits" in line]
    assert 2 <= len(lines) <= 4 and "(8 times now)" in lines[-1]


@pytest.mark.parametrize("what", ["clean", "cycle"])
def test_report_leaks_finds_nothing_where_nothing_is(leaky, what):
    leaky.get(f"/{what}")
    before = leaky.log_text().count(f"GET /{what} left behind")
    for _ in range(4):
        leaky.get(f"/{what}")
    assert leaky.log_text().count(f"GET /{what} left behind") == before


# --- boots that fail ------------------------------------------------------------------------------

@pytest.fixture
def failing(launch, workdir):
    root = workdir / "site"
    root.mkdir()
    (root / "other.php").write_text("<?php echo 'other';")
    script = root / "w.php"
    script.write_text("<?php echo 'on the way'; throw new Exception('the database of the test is away');")
    account.give(root)
    ini = {"display_errors": "1", "html_errors": "0"}
    return lambda: (launch(root, workers=1, worker={"script": str(script), "num": 2}, ini=ini, expect_errors=True), script)


def test_a_boot_that_fails_is_500_soon_and_told_to_the_log_only(failing):
    s, _ = failing()
    r = s.get("/x")
    assert r.status == 500 and "database" not in r.text and "on the way" not in r.text
    assert s.get("/other.php").text == "other"
    s.expect_log("ended before it called frankenphp_handle_request()")
    s.expect_log("the database of the test is away")


def test_a_boot_that_fails_is_tried_again(failing):
    s, script = failing()
    assert s.get("/x").status == 500
    script.write_text("<?php while (frankenphp_handle_request(function () { echo 'mended'; }));")
    wait_until(lambda: s.get("/x").text == "mended", "the next try")


def test_a_script_that_takes_no_request_is_a_failure(failing):
    s, script = failing()
    script.write_text("<?php echo 'I am a page';")
    wait_until(lambda: "exit status 0" in s.log_text(), "the message")
    assert s.get("/x").status == 500


def test_a_missing_script_is_said(launch, workdir):
    root = workdir / "site"
    root.mkdir()
    account.give(root)
    s = launch(root, workers=1, worker={"script": str(root / "none.php"), "num": 1}, expect_errors=True)
    assert s.get("/x").status == 500
    s.expect_log_match(r"worker script .*/none\.php cannot be opened: No such file or directory")


@pytest.fixture
def hanging(launch, workdir):
    """A server whose script waits in its boot until the file `go` is there; before, it makes `boots-PID`, afterwards `booted-PID`."""
    root = workdir / "site"
    root.mkdir()
    (root / "w.php").write_text("<?php touch(__DIR__ . '/boots-' . getmypid()); while (!file_exists(__DIR__ . '/go')) { clearstatcache(); "
                                "usleep(20000); } touch(__DIR__ . '/booted-' . getmypid()); while (frankenphp_handle_request(function () { if (isset($_GET['exit'])) exit('bye'); "
                                "echo 'booted'; }));")
    account.give(root)

    def start(**options):
        return launch(root, workers=1, worker={"script": str(root / "w.php"), "num": 2}, expect_errors=True, **options), root
    return start


def test_a_boot_that_hangs_is_500_within_ten_seconds(hanging):
    s, root = hanging()
    begin = time.monotonic()
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda _: s.get("/x"), range(3)))
    assert time.monotonic() - begin < 25   # 5 s, and a busy machine
    assert all(r.status == 500 and r.header("retry-after") == "5" and "worker script" not in r.text for r in answers)
    s.expect_log("has called frankenphp_handle_request() yet")
    assert s.log_text().count("has called frankenphp_handle_request() yet") == 1, "told once, not for every request"
    (root / "go").write_text("")
    wait_until(lambda: s.get("/x").text == "booted", "the end of the boot")


def test_a_script_that_hangs_when_it_starts_again_is_500(hanging):
    s, root = hanging()
    (root / "go").write_text("")
    wait_until(lambda: s.get("/x").text == "booted", "the first boot")
    pids = lambda name="boots": len(list(root.glob(f"{name}-*")))
    wait_until(lambda: pids("booted") == 2, "both processes")
    (root / "go").unlink()
    for path in root.glob("boots-*"):
        path.unlink()
    for n in (1, 2):
        assert s.get("/x?exit").text == "bye"
        wait_until(lambda: pids() == n, "the next boot")
    begin = time.monotonic()
    assert s.get("/x").status == 500 and time.monotonic() - begin < 25
    (root / "go").write_text("")
    wait_until(lambda: s.get("/x").text == "booted", "the end of the boot")


def test_a_boot_that_hangs_does_not_delay_the_end(launch, hanging):
    s, _ = hanging(server={"drain_timeout": "30s"})
    launch.started.clear()
    begin = time.monotonic()
    s.stop()
    assert time.monotonic() - begin < 25   # not drain_timeout


def test_a_boot_that_hangs_is_explained_with_dev(hanging):
    s, _ = hanging(dev=True)
    r = s.get("/x")
    assert r.status == 500 and "has not called frankenphp_handle_request() yet" in r.text


def test_a_busy_script_is_no_hanging_one(launch, scripts):
    """Requests that wait behind a long one are not refused."""
    s = start(launch, scripts)
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda i: s.get(f"/slow?ms=2600&path={scripts}/sessions/busy{i}"), range(3)))
    assert [r.status for r in answers] == [200, 200, 200]


# --- development ----------------------------------------------------------------------------------

def dev(launch, workdir, *, code="<?php require __DIR__ . '/../src/hello.php'; "
        "while (frankenphp_handle_request(function () { header('X-Text: ' . hello()); echo $_GET['n'] ?? ''; }));"):
    root = workdir / "project"
    for name in ("public", "src", "var/cache", "vendor/composer", "vendor/other"):
        (root / name).mkdir(parents=True)
    (root / "composer.json").write_text("{}")
    (root / "src/hello.php").write_text("<?php function hello() { return 'one'; }")
    (root / "public/index.php").write_text(code)
    account.give(root)
    s = launch(root / "public", workers=1, worker={"script": str(root / "public/index.php"), "num": 2, "watch": True},
               ini={"opcache.revalidate_freq": "0"}, expect_errors=True)
    return s, root


def generations(server) -> int:
    return server.log_text().count("has changed: the worker script starts afresh")


def test_watch_restarts_the_script(launch, workdir):
    s, root = dev(launch, workdir)
    assert s.get("/").header("x-text") == "one"
    with roles.Load(s.address, "/?n=", clients=2) as load:
        (root / "src/hello.php").write_text("<?php function hello() { return 'two'; }")
        wait_until(lambda: s.get("/").header("x-text") == "two", "the changed code")
    assert set(load.answers) == {200} and not load.mixed and not load.broken


def test_watch_sees_new_folders_and_gathers_changes(launch, workdir):
    s, root = dev(launch, workdir)
    s.get("/")
    (root / "src/more/deep").mkdir(parents=True)
    for i in range(50):
        (root / f"src/more/deep/f{i}.php").write_text("<?php")
    wait_until(lambda: generations(s) >= 1, "the restart")
    wait_until(lambda: "g2 takes over" in s.log_text(), "the new generation")
    assert generations(s) <= 2


def test_watch_ignores_what_the_application_writes(launch, workdir):
    s, root = dev(launch, workdir)
    s.get("/")
    for path in ("var/cache/a.php", "vendor/other/b.php", ".git-file.php~", "src/x.swp", "public/picture.png"):
        (root / path).write_text("x")
    (root / "vendor/composer/installed.php").write_text("<?php")
    wait_until(lambda: generations(s) >= 1, "the restart for Composer")
    s.expect_log("vendor/composer/installed.php has changed")
    assert generations(s) == 1


def test_boot_errors_are_in_the_browser_with_dev(workdir, launch):
    from lib.process import Process, accepts
    from lib import ports
    root = workdir / "project"
    root.mkdir()
    script = root / "w.php"
    script.write_text("<?php throw new Exception('what the developer must see');")
    account.give(root)
    port = ports.free_port()
    p = Process([str(sapid.binary()), "serve", "--root", str(root), "--worker", str(script), "--workers", "1", "--dev", "--listen",
                 f"127.0.0.1:{port}"], workdir / "log", cwd=str(root), name="sapid")
    try:
        p.wait_until(lambda: accepts(("127.0.0.1", port)), "the port")
        with Connection(("127.0.0.1", port)) as c:
            r = c.request("GET", "/x")
            assert r.status == 500 and "what the developer must see" in r.text
        script.write_text("<?php while (frankenphp_handle_request(function () { echo 'mended'; }));")

        def mended():
            with Connection(("127.0.0.1", port)) as c:
                return c.request("GET", "/x").text == "mended"
        wait_until(mended, "the watch to see the change")
    finally:
        assert p.stop() == 0


# --- several pools --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def two_pools(launch_module, scripts):
    """[worker] and [pool.api.worker], each with a folder, a script and a classic script of its own."""
    api = launch_module.folder / "api"
    (api / "api").mkdir(parents=True)
    (api / "worker.php").write_text("<?php $n = 0; while (frankenphp_handle_request(function () use (&$n) { "
                                    "echo 'api ', ++$n, ' ', $_SERVER['REQUEST_URI'], ' ', $_SERVER['SCRIPT_NAME']; }));")
    (api / "api/plain.php").write_text("<?php echo 'classic of api';")
    account.give(api)
    keys = {"document_root": str(api), "worker_pool_size": 1}
    if account.is_root():
        keys.update(user=account.web().name, group=account.web().group)
    server = start(launch_module, scripts, expect_errors=True,
                   pools={"api": keys, "api.worker": {"script": str(api / "worker.php"), "num": 1, "max_requests": 20,
                                                      "watch": True}},
                   routes=[{"match": {"prefix": "/api/"}, "pool": "api"}])
    return server, api


def test_each_pool_has_its_own_worker_script(two_pools):
    s, _ = two_pools
    assert s.get("/any").text.startswith("count ")
    first, second = (s.get(f"/api/{name}").text for name in ("a", "b"))
    assert re.fullmatch(r"api \d+ /api/a /worker.php", first) and re.fullmatch(r"api \d+ /api/b /worker.php", second)
    assert int(second.split()[1]) == int(first.split()[1]) + 1
    assert s.get("/api/plain.php").text == "classic of api"
    assert s.get("/classic.php").text == "classic /classic.php"


def test_max_requests_of_a_pools_worker_script(two_pools):
    s, _ = two_pools
    assert max(int(s.get("/api/x").text.split()[1]) for _ in range(50)) <= 20


def test_a_change_restarts_the_script_of_its_pool_only(two_pools):
    s, api = two_pools
    other = instance(s.get("/x"))
    (api / "worker.php").write_text("<?php while (frankenphp_handle_request(function () { echo 'changed'; }));")
    wait_until(lambda: s.get("/api/x").text == "changed", "the changed script")
    assert instance(s.get("/x")) == other and "pool www-worker g2" not in s.log_text()
