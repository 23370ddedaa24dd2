"""Worker mode with isolation = "rollback": what a request leaves in memory is not there for the next one."""
import gzip
import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lib import account, roles
from lib.httpclient import multipart
from lib.process import wait_until

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]
SCRIPTS = Path(__file__).parent / "worker"
CLEAN = [1, 1, 1, 0, "14"]


@pytest.fixture(scope="module")
def scripts(launch_module):
    root = launch_module.folder / "rollback"
    shutil.copytree(SCRIPTS, root)
    for name in ("sessions", "data"):
        (root / name).mkdir()
    account.give(root)
    return root


def start(launch, root, num=1, *, worker=None, ini=None, **options):
    keys = {"script": str(root / "rollback.php"), "num": num, "isolation": "rollback", "warmup": [], "snapshot_verify": True}
    return launch(root, workers=1, worker={**keys, **(worker or {})},
                  ini={"session.save_path": str(root / "sessions"), "display_errors": "0", "precision": "14",
                       "ffi.enable": "1", **(ini or {})}, **options)


@pytest.fixture(scope="module")
def server(launch_module, scripts):
    """One worker, every page compared with the image after every request."""
    return start(launch_module, scripts, expect_errors=True)


@pytest.fixture(autouse=True)
def clean(request):
    """Whatever a test's request did, the next one finds what the first one found."""
    yield
    if "server" in request.fixturenames:
        assert_clean(request.getfixturevalue("server").get("/"))


def assert_clean(r):
    assert r.status == 200 and r.text == "ok"
    state = json.loads(r.header("x-state"))
    assert state[:5] == CLEAN and state[5] != "/" and state[6] != 0


def image(server) -> int:
    return next(p for p in roles.workers(server) if "sapid: image" in roles.title(p))


# --- what is restored -----------------------------------------------------------------------------

def test_every_request_meets_the_state_of_the_image(server):
    answers = [server.get("/") for _ in range(50)]
    for r in answers:
        assert_clean(r)
    assert len({r.header("x-boot") for r in answers}) == 1       # the boot was before the image
    assert len({r.header("x-pid") for r in answers}) == 1        # and it is always the same process


def test_random_values_are_unique(launch, scripts):
    s = start(launch, scripts, num=3)
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda _: s.get("/random").json(), range(600)))
    for source in zip(*answers):
        assert len(set(source)) >= 590 if isinstance(source[0], int) and source[0] < 1 << 17 else len(set(source)) == 600


def test_exit_answers_and_needs_no_new_boot(server):
    boot = server.get("/").header("x-boot")
    assert server.get("/exit").text == "before shutdown"
    assert server.get("/").header("x-boot") == boot


def test_shutdown_functions_of_a_request_print_into_its_answer(server):
    assert server.get("/shutdown").text == "handler shutdown"


@pytest.mark.parametrize("how", ["fatal", "memory", "forever", "throw"])
def test_fatal_errors_are_500_and_leave_the_process_as_it_was(server, how):
    before = server.get("/")
    r = server.get("/" + how)
    assert r.status == 500
    after = server.get("/")
    assert_clean(after)
    assert after.header("x-pid") == before.header("x-pid") and after.header("x-boot") == before.header("x-boot")


def test_large_memory_goes_back(server):
    assert [server.get("/large").text for _ in range(3)] == [str(60 << 20)] * 3
    pid = int(server.get("/").header("x-pid"))
    assert int(roles.status_field(pid, "RssAnon").split()[0]) < 40 << 10


@pytest.mark.as_root
def test_an_idle_worker_gives_its_memory_back(launch, scripts):
    """And answers as before; what it does then is no request's rollback."""
    (scripts / "rest.php").write_text(
        "<?php $all = array_fill(0, 200000, 1);"
        "while (frankenphp_handle_request(function () use (&$all) {"
        " for ($i = 0; $i < 200000; $i += 200) $all[$i]++;"
        " echo array_sum($all); }));")
    server = start(launch, scripts, worker={"script": str(scripts / "rest.php")})
    pid, = wait_until(lambda: [p for p in roles.workers(server) if "worker www-worker" in roles.title(p)], "the worker")

    def own_kib() -> int:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(next(line for line in rollup.splitlines() if line.startswith("Private_Dirty:")).split()[1])

    def rollbacks() -> int:
        pools = json.loads(server.admin("/server?json&full").text)["pools"]
        processes = next(p for p in pools if p["name"] == "www-worker")["processes"]
        return processes[0].get("rollbacks", 0) if processes else -1

    for n in (1, 2, 3):
        assert [server.get("/").text for _ in range(5)] == ["201000"] * 5
        wait_until(lambda: own_kib() < 1500, "3 MiB to be given back", timeout=60)
        wait_until(lambda: rollbacks() == 5 * n, "the worker to be told of with its rollbacks")


def test_sessions_are_written(server):
    s = server.session()
    assert [s.get("/session").text for _ in range(4)] == ["1", "2", "3", "4"]
    s.close()


def test_uploaded_files_are_removed(server):
    content_type, body = multipart([], [("f", "a.txt", b"x" * 30000, "text/plain")])
    size, path = server.get("/upload", {"Content-Type": content_type}, "POST", body).text.split()
    assert size == "30000"
    wait_until(lambda: not os.path.exists(path), "the end of the file")


def test_boot_objects_and_shutdown_functions_end_with_each_request(server, scripts):
    log = scripts / "data/ends"
    for n in range(1, 4):
        assert server.get(f"/ends?log={log}").text == "ends"
        wait_until(lambda: log.exists() and log.read_text() == "boot ended " * n, "the ends of the request")


def test_open_files_are_flushed_and_closed(server, scripts):
    path = scripts / "data/file.gz"
    server.get(f"/file?path={path}")
    wait_until(lambda: path.exists() and path.stat().st_size > 10, "the file")
    assert gzip.decompress(path.read_bytes()) == b"written"


def test_a_copy_of_a_worker_never_answers(server):
    assert server.get("/fork").text == "parent 0"


def test_descriptors_of_the_image_that_a_request_closed_are_put_back(server):
    before = server.get("/")
    assert server.get("/close").text == "closed"
    after = server.get("/")
    assert_clean(after)
    assert after.header("x-pid") == before.header("x-pid")


# --- processes ------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["kill", "crash"])
def test_a_dead_worker_is_forked_from_the_image(server, how):
    before = server.get("/")
    assert server.get("/" + how).status == 502
    after = server.get("/")
    assert_clean(after)
    assert after.header("x-pid") != before.header("x-pid") and after.header("x-boot") == before.header("x-boot")


def test_a_dead_image_is_booted_again(server):
    before = server.get("/")
    os.kill(image(server), signal.SIGKILL)
    assert server.get("/").header("x-boot") == before.header("x-boot")   # running workers go on
    os.kill(int(before.header("x-pid")), signal.SIGKILL)
    after = server.get("/")
    assert_clean(after)
    assert after.header("x-boot") != before.header("x-boot")


def test_workers_of_the_next_gateway_come_from_the_same_image(launch, scripts):
    s = start(launch, scripts, num=2, expect_errors=True)
    before = s.get("/")
    for _ in range(3):
        old = roles.gateway(s)
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: roles.gateways(s) and roles.gateways(s) != [old], "the next gateway")
        wait_until(lambda: answers(s), "an answer")
        after = s.get("/")
        assert_clean(after)
        assert after.header("x-boot") == before.header("x-boot")


def answers(server) -> bool:
    try:
        return server.get("/").status == 200
    except (AssertionError, OSError):
        return False


def test_the_status_page_tells_what_rollbacks_cost(server):
    for _ in range(3):
        assert_clean(server.get("/"))
    def worker():
        pools = json.loads(server.admin("/server?json&full").text)["pools"]
        return next(p for p in pools if p["name"] == "www-worker")["processes"][0]
    wait_until(lambda: worker().get("rollbacks", 0) >= 3, "three rollbacks")
    assert worker()["rollback_us"] > 0 and 0 < worker()["rollback_pages"] < 2000 and worker()["image_kib"] > 4000


def test_max_requests(launch, scripts):
    s = start(launch, scripts, worker={"max_requests": 5})
    answered = [s.get("/") for _ in range(30)]
    for r in answered:
        assert_clean(r)
    assert len({r.header("x-pid") for r in answered}) >= 6 and len({r.header("x-boot") for r in answered}) == 1


def test_killed_all_the_time_every_answer_is_right(launch, scripts):
    s = start(launch, scripts, num=2, expect_errors=True, worker={"snapshot_verify": False})
    good = bad = 0
    for i in range(300):
        r = s.get("/kill" if i % 3 == 0 else "/")
        if i % 3 == 0:
            assert r.status == 502
            bad += 1
        else:
            assert_clean(r)
            good += 1
    assert (good, bad) == (200, 100)


def test_opcache_reset_becomes_a_new_generation(launch, scripts):
    s = start(launch, scripts, worker={"snapshot_verify": False}, ini={"opcache.enable": "1"})
    boot = s.get("/").header("x-boot")
    assert "true" in s.get("/reset-opcache").text
    wait_until(lambda: s.get("/").header("x-boot") != boot, "a new image")


# --- the boot -------------------------------------------------------------------------------------

def test_each_worker_holds_opcaches_lock_itself(launch, scripts):
    """Such locks are not inherited: without its own a worker would read memory that a restart may clear."""
    s = start(launch, scripts, num=2, expect_errors=True)

    def holders() -> set[int]:
        """Of read locks on byte 1, which is what opcache's accel_activate_add() takes."""
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return {int(f[4]) for f in locks if f[1] == "POSIX" and f[3] == "READ" and f[-2:] == ["1", "1"]}
    def both() -> set[int]:
        found = {p for p in roles.workers(s) if "sapid: worker www-worker" in roles.title(p)}
        return found if len(found) == 2 else set()
    workers = wait_until(both, "both workers")
    wait_until(lambda: workers <= holders(), "the locks of both")
    for path in ("/exit", "/fatal", "/"):
        s.get(path)
    wait_until(lambda: workers <= holders(), "the locks of both after a rollback")


@pytest.mark.as_root
def test_a_timer_of_a_request_does_not_cost_the_time_limit(launch, scripts):
    """timer_create() by an extension: it goes with the request, the timer behind max_execution_time stays."""
    s = start(launch, scripts, ini={"max_execution_time": "1"}, expect_errors=True)
    pid = s.get("/timer").text
    assert s.get("/timer").text == s.get("/").header("x-pid") == pid

    def timers() -> int:
        return sum(line.startswith("ID:") for line in Path(f"/proc/{pid}/timers").read_text().splitlines())
    wait_until(lambda: timers() == 1, "the end of the rollback")
    assert s.get("/forever").status == 500 and s.get("/").header("x-pid") == pid


def test_a_child_left_running_is_no_child_of_the_next_request(launch, scripts):
    s = start(launch, scripts)
    left = [s.get("/child").json() for _ in range(3)]
    try:
        assert len({worker for worker, _ in left}) == 3, "a worker for each"
        assert all(roles.alive(child) for _, child in left)
        wait_until(lambda: s.log_text().count("replaced by a fresh one of its image") == 3, "a word of each")
        assert "died" not in s.log_text() and "exit status 73" not in s.log_text()   # by design: no crash
    finally:
        for _, child in left:
            os.kill(child, signal.SIGKILL)


def test_warm_up_requests(launch, scripts):
    seen = scripts / "data/seen"
    s = start(launch, scripts, worker={"warmup": ["/a?b=1", "https://example.org/c", "/"]}, env={"SEEN": str(seen)})
    assert seen.read_text().split() == ["localhost/a?b=1", "example.org/c", "localhost/"] * 2
    s.get("/asked")
    assert seen.read_text().split()[6:] == [f"{s.host}:{s.port}/asked"]


def test_a_warm_up_request_that_ends_the_script_is_left_out(launch, scripts):
    s = start(launch, scripts, worker={"warmup": ["/die-warm", "/"]})
    assert s.get("/die-warm", {"X-Real": "1"}).text == "real"
    s.expect_log("warm-up GET /die-warm ended the worker script")


@pytest.mark.parametrize("what, said", [("socket", "a stream of type tcp_socket"), ("pipe", "a stream of type"), ("child", "children")])
def test_what_an_image_cannot_hold_is_named(launch, scripts, what, said):
    s = start(launch, scripts, env={"BOOT": what}, expect_errors=True)
    assert s.get("/").status == 500
    s.expect_log("cannot be frozen")
    line = next(line for line in s.log_text().splitlines() if "cannot be frozen" in line)
    assert said in line and "What to do:" in line


def test_a_boot_that_fails_is_tried_again(launch, scripts):
    (scripts / "broken").write_text("")
    s = start(launch, scripts, env={"BOOT": "broken"}, expect_errors=True)
    assert s.get("/").status == 500
    s.expect_log("broken boot", "the boot printed this")
    (scripts / "broken").unlink()
    wait_until(lambda: s.get("/").status == 200, "a boot that works")
    assert_clean(s.get("/"))
