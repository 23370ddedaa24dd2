"""What images tell of themselves: what is loaded late and learned, what requests leave behind, what rollbacks cost."""
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from lib import account, roles
from lib.operations import upgrade
from lib.process import accepts, wait_until
from lib.sapid import binary

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]
SITE = Path(__file__).parent / "late"


@pytest.fixture
def root(launch):
    folder = launch.folder / "late"
    shutil.copytree(SITE, folder)
    account.give(folder)
    return folder


def start(launch, root, num=1, *, worker=None, **options):
    keys = {"script": str(root / "worker.php"), "num": num, "isolation": "rollback", "warmup": []}
    return launch(root, workers=1, worker={**keys, **(worker or {})}, **options)


def status(server, *options) -> str:
    return subprocess.run([binary(), "status", "--socket", server.admin_path, *options], check=True, text=True,
                          stdout=subprocess.PIPE).stdout


def images(server) -> list[dict]:
    """The report of each generation of the worker script's pool, the newest last."""
    pool = json.loads(status(server, "--json", "--isolation"))["pools"][1]
    return [g["image"] for g in sorted(pool["generations"], key=lambda g: g["generation"])]


def image(server) -> dict:
    return images(server)[-1]


def reload(server):
    subprocess.run([binary(), "reload", "--socket", server.admin_path], check=True, stdout=subprocess.PIPE)


def loaded(server, url="/") -> list[str]:
    return json.loads(server.get(url).header("x-loaded"))


def route(report: dict, name: str) -> dict:
    none = {"requests": 0, "late_requests": 0, "compared": 0, "left_behind": []}
    return next((r for r in report["routes"] if r["route"] == name), none)


def late(report: dict) -> dict[str, dict]:
    return {n["name"]: n for n in report["loaded_late"]}


# --- loaded late, learned -------------------------------------------------------------------------

def test_classes_and_declaring_files_are_in_the_next_image(launch, root):
    s = start(launch, root)
    for _ in range(2):
        assert s.get("/late").text == "page" and s.get("/view").text == "ab"
    assert loaded(s) == []
    wait_until(lambda: image(s)["rollbacks"] == 5, "the last rollback")
    before = image(s)
    assert late(before)["Late\\Page"]["kind"] == "class" and late(before)["Late\\Base"]["requests"] == 2
    assert late(before)["@/views/a.php"] == {"kind": "file", "name": "@/views/a.php", "requests": 2, "tried": False, "banned": False}
    assert route(before, "GET /late")["late_requests"] == 2 and route(before, "GET /")["late_requests"] == 0
    reload(s)
    assert loaded(s) == ["Late\\Page", "Late\\Base", "View_a", "View_b"]
    assert s.get("/late").text == "page" and s.get("/view").text == "ab"
    after = image(s)
    assert after["learned"] == 8 and after["late_requests"] == 0 and after["late_names_untried"] == 0
    reload(s)                                                # handed on again
    assert loaded(s) == ["Late\\Page", "Late\\Base", "View_a", "View_b"]


def test_what_one_request_loads_is_not_learned(launch, root):
    s = start(launch, root)
    s.get("/late")
    reload(s)
    assert loaded(s) == []


def test_learning_can_be_switched_off(launch, root):
    s = start(launch, root, worker={"learn": "off"})
    for _ in range(3):
        s.get("/late")
    reload(s)
    assert loaded(s) == [] and late(image(s)) == {}


def test_a_file_with_effects_is_compiled_but_not_run(launch, root):
    s = start(launch, root)
    for _ in range(2):
        assert s.get("/effect").text == "effect"
    wait_until(lambda: image(s)["rollbacks"] == 2, "the last rollback")
    assert route(image(s), "GET /effect")["compiled"] == 1
    reload(s)
    assert s.get("/effect").text == "effect"
    wait_until(lambda: image(s)["rollbacks"] == 1, "the last rollback")
    assert route(image(s), "GET /effect")["compiled"] == 0 and image(s)["learned"] == 0
    assert late(image(s))["@/effect.php"]["tried"]


@pytest.mark.parametrize("path, answer, kind", [("/locale", "C.UTF-8", "locale"), ("/iconv", "d9", "library")], ids=["locale", "iconv"])
def test_what_the_c_library_loads_is_learned(launch, root, path, answer, kind):
    s = start(launch, root)
    for _ in range(2):
        assert s.get(path).text == answer
    wait_until(lambda: image(s)["rollbacks"] == 2, "the last rollback")
    [name] = [n["name"] for n in image(s)["loaded_late"]]
    assert late(image(s))[name]["kind"] == kind
    reload(s)
    assert s.get(path).text == answer
    wait_until(lambda: image(s)["rollbacks"] == 1, "the last rollback")
    assert image(s)["learned"] == 1 and image(s)["late_requests"] == 0


def test_a_class_that_is_gone_is_forgotten(launch, root):
    s = start(launch, root)
    for _ in range(2):
        s.get("/late")
    (root / "src/Late/Page.php").unlink()
    reload(s)
    report = image(s)
    assert loaded(s) == ["Late\\Base"]
    assert report["learned_gone"] == 2 and "Late\\Page" not in late(report)


def test_what_was_learned_survives_a_pool_process_that_dies(launch, root):
    s = start(launch, root, expect_errors=True)
    for _ in range(2):
        s.get("/late")
    pool = next(p for p in roles.pools(s) if "www-worker" in roles.title(p))
    generation = len(images(s))
    os.kill(pool, signal.SIGKILL)
    wait_until(lambda: s.get("/").status == 200 and loaded(s) == ["Late\\Page", "Late\\Base"], "the next generation")
    assert generation == 1


def test_what_was_learned_goes_to_the_next_program(launch, root):
    s = start(launch, root)
    for _ in range(2):
        s.get("/late")
    assert loaded(s) == []
    old = upgrade(s)
    assert loaded(s) == ["Late\\Page", "Late\\Base"]
    wait_until(lambda: not old.running(), "the old program to end", 60)
    assert "upgrade: what images have learned is forgotten" not in s.log_text()


@pytest.fixture
def state(launch):
    """A state_dir, of the user that starts sapid."""
    folder = launch.folder / "state"
    folder.mkdir(mode=0o700)
    return folder


def end(launch, server):
    server.stop()
    assert not server.errors()
    launch.started.clear()


def test_what_was_learned_is_kept_over_a_stop(launch, root, state):
    s = start(launch, root, server={"state_dir": str(state)})
    for _ in range(2):
        s.get("/late")
    end(launch, s)
    text = (state / "learned").read_text()
    assert "\tLate\\Page\n" in text and (state / "learned").stat().st_mode & 0o777 == 0o600
    s = start(launch, root, server={"state_dir": str(state)})
    assert loaded(s) == ["Late\\Page", "Late\\Base"]
    end(launch, s)
    s = start(launch, root)
    assert loaded(s) == []


@pytest.mark.parametrize("what", ["damaged", "cut", "foreign", "link", "folder"])
def test_a_file_of_learned_names_that_is_not_ours_is_ignored(launch, root, state, what):
    kept = state / "learned"
    whole = "sapid-state 1\npool\twww-worker\t0\t\nname\t1\t0\t9\tLate\\Page\nend\t3\n"
    if what == "folder":
        kept.mkdir()
    else:
        text = {"damaged": whole.replace("9", "nine"), "cut": whole[:-9]}.get(what, whole)
        (state / "other" if what == "link" else kept).write_text(text)
    if what == "link":
        kept.symlink_to("other")
    if what == "foreign":
        kept.chmod(0o666)
    s = start(launch, root, server={"state_dir": str(state)})
    assert loaded(s) == [] and s.get("/late").text == "page"
    said = [line for line in s.log_text().splitlines() if f"{kept}" in line and " warn " in line]
    assert len(said) == 1, said
    end(launch, s)
    assert what == "folder" or (kept.read_text().startswith("sapid-state 1\n") and not kept.is_symlink())


def test_a_state_dir_that_cannot_be_written_is_said(launch, root):
    s = start(launch, root, server={"state_dir": str(launch.folder / "nowhere")})
    s.get("/late")
    end(launch, s)
    assert f"{launch.folder}/nowhere/learned, with what images have learned, cannot be written: No such file" in s.log_text()


@pytest.mark.parametrize("name", ["Exits", "Throws", "Fatal"])
def test_a_file_that_does_not_load_outside_of_a_request_is_left_out(launch, root, name):
    s = start(launch, root, expect_errors=True)
    for _ in range(2):
        assert s.get(f"/class/{name}").text == "there" and s.get("/late").text == "page"
    reload(s)
    report = image(s)
    assert loaded(s) == ["Late\\Page", "Late\\Base"] and late(report)[f"Late\\{name}"]["banned"]
    assert s.get(f"/class/{name}").text == "there"
    reload(s)                                                # not tried again
    assert loaded(s) == ["Late\\Page", "Late\\Base"] and s.get(f"/class/{name}").text == "there"


def test_a_class_that_spoils_the_image_does_not_spoil_a_reload(launch, root):
    s = start(launch, root, expect_errors=True)
    for _ in range(2):
        assert s.get("/class/Opens").text == "there" and s.get("/late").text == "page"
    reload(s)
    assert loaded(s) == [] and s.get("/late").text == "page"
    s.expect_log("made without")
    reload(s)
    assert s.get("/class/Opens").text == "there"


def test_a_class_that_requests_declare_again_is_taken_out(launch, root):
    s = start(launch, root, expect_errors=True)
    for _ in range(2):
        assert s.get("/twice").text == "declared"
    reload(s)
    assert "Late\\Twice" in loaded(s)
    assert s.get("/twice").status == 500
    wait_until(lambda: "Late\\Twice" not in loaded(s), "a generation without it")
    assert s.get("/twice").text == "declared"
    assert image(s)["why"].startswith("a class in the image is declared again")


# Of an entry script in classic mode, which has an image of its own.
SCRIPT = """<?php
spl_autoload_register(function ($class) { if (is_file($f = __DIR__ . "/$class.inc")) require $f; });
if (!restore_state()) {
    class Boot { static $seen = []; }
    $boot = getmypid();
    snapshot_state();
}
Boot::$seen[] = $mine = 'private';
header('X-Loaded: ' . json_encode([class_exists('Auto', false), class_exists('Plain', false)]));
header('X-Image: ' . (int) ($boot != getmypid()));
switch ($_GET['do'] ?? '') {
case 'auto': echo Auto::NAME; break;
case 'plain': require __DIR__ . '/Plain.php'; echo Plain::NAME; break;
}
"""


def test_an_image_of_an_entry_script_learns_what_the_autoloader_knows(launch):
    root = launch.new_root()
    (root / "index.php").write_text(SCRIPT)
    (root / "Auto.inc").write_text("<?php class Auto { const NAME = 'auto'; }")
    (root / "Plain.php").write_text("<?php class Plain { const NAME = 'plain'; }")
    account.give(root)
    s = launch(root, workers=1)

    def from_image():
        wait_until(lambda: s.get("/").header("x-image") == "1", "an image", interval=0.05)

    def report():
        return json.loads(s.admin("/server?json&isolation").text)["pools"][0]["images"]["active"][0]["image"]
    from_image()
    assert report()["why"] == "its script asked for it"
    for _ in range(2):
        assert s.get("/?do=auto").text == "auto" and s.get("/?do=plain").text == "plain"
    wait_until(lambda: route(report(), "GET /")["late_requests"] == 4, "the last rollback")
    assert route(report(), "GET /")["left_behind"] == ["static Boot::$seen: array(0) -> array(1)"]   # not the script's variables
    reload(s)
    from_image()
    assert s.get("/").header("x-loaded") == "[true,false]"  # a script may well declare with require in each request
    assert s.get("/?do=auto").text == "auto" and s.get("/?do=plain").text == "plain"
    assert report()["why"] == "a new generation of its pool"
    old = upgrade(s)
    assert s.get("/").header("x-image") == "1" and s.get("/").header("x-loaded") == "[true,false]"
    assert report()["why"] == "the server started"
    wait_until(lambda: not old.running(), "the old program to end", 60)


def test_what_an_image_of_an_entry_script_has_learned_is_kept_over_a_stop(launch, state):
    root = launch.new_root()
    (root / "index.php").write_text(SCRIPT)
    (root / "Auto.inc").write_text("<?php class Auto { const NAME = 'auto'; }")
    account.give(root)

    def run():
        s = launch(root, workers=1, server={"state_dir": str(state)})
        wait_until(lambda: s.get("/").header("x-image") == "1", "an image", interval=0.05)
        return s
    s = run()
    for _ in range(2):
        assert s.get("/?do=auto").text == "auto"
    assert s.get("/").header("x-loaded") == "[false,false]"
    end(launch, s)
    assert "pool\twww\t" in (state / "learned").read_text() and "\t/index.php\n" in (state / "learned").read_text()
    assert run().get("/").header("x-loaded") == "[true,false]"


# --- left behind ----------------------------------------------------------------------------------

LEFT = ["global $found: new, array(2)", "static Kept::$cache: array(0) -> array(1)", "static Kept::$secret: int -> int",
        "static variable $seen of remember(): array(0) -> array(1)", "ini precision: new, changed", "environment LEFT: new",
        "constant LEFT_BEHIND: new", "error handler: unset -> Closure", "working directory: changed"]


def test_what_a_route_leaves_behind_is_named_but_not_shown(launch, root):
    s = start(launch, root, worker={"report_leaks": True})
    for n in (17, 18, 19):
        assert s.get(f"/leak/{n}").text == "left" and s.get("/").text == "ok"
    wait_until(lambda: route(image(s), "GET /leak/*")["requests"] == 3, "the last rollback")
    report = image(s)
    found = route(report, "GET /leak/*")["left_behind"]
    assert set(LEFT) <= set(found)
    assert route(report, "GET /")["left_behind"] == [] and route(report, "GET /leak/*")["compared"] == 2
    text = status(s, "--isolation")
    assert "private" not in json.dumps(report) + text + s.log_text() and "4711" not in json.dumps(report) + text
    assert all(f"    {line}\n" in text for line in LEFT)
    s.expect_log("GET /leak/* left behind")
    assert s.log_text().count("GET /leak/* left behind (and rollback has put right): ") == 1


def test_without_report_leaks_nothing_is_logged(launch, root):
    s = start(launch, root)
    s.get("/leak")
    wait_until(lambda: route(image(s), "GET /leak")["left_behind"], "the comparison")
    assert "left behind" not in s.log_text()


# --- figures --------------------------------------------------------------------------------------

def test_image_and_rollbacks_are_described(launch, root):
    s = start(launch, root, worker={"warmup": ["/", "/late"]})
    for _ in range(20):
        s.get("/")
    wait_until(lambda: image(s)["rollbacks"] == 20, "the last rollback")
    i = image(s)
    assert i["made"] == 1 and i["why"] == "the server started" and i["warmup_requests"] == 4
    assert i["bytes"] > 1 << 20 and i["regions"] > 10 and i["boot_ms"] < 60000
    us = i["rollback_us"]
    assert 0 < us["mean"] <= us["max"] and us["p50"] <= us["p99"] <= us["max"]
    r = route(i, "GET /")
    assert r["requests"] == 20 and 0 < r["pages_mean"] <= r["pages_max"] < 2000 and r["compared"] == 2
    text = status(s)
    assert "because the server started" in text and "rollbacks: 20, " in text and "left behind" not in text
    metrics = s.admin("/metrics").text
    assert f'sapid_image_bytes{{pool="www-worker",generation="1"}} {i["bytes"]}\n' in metrics
    assert 'sapid_rollbacks_total{pool="www-worker",generation="1"} 20\n' in metrics
    assert 'sapid_rollback_seconds_count{pool="www-worker",generation="1"} 20\n' in metrics


def test_routes_have_no_ids(launch, root):
    s = start(launch, root)
    for path in ("/a/17", "/a/18?x=1", "/a/0cc175b9-c0f1-b6a8-31c3-99e269772661", "/a/2026-11-22", "/a/b/c/d/e/f/g", "/caf%C3%A9/%22"):
        s.get(path)
    wait_until(lambda: image(s)["rollbacks"] == 6, "the last rollback")
    names = {r["route"]: r["requests"] for r in image(s)["routes"]}
    assert names == {"GET /a/*": 4, "GET /a/b/c/d/e/...": 1, "GET /caf%C3%A9/%22": 1}


def test_more_routes_than_there_is_room_for(launch, root):
    s = start(launch, root)
    for n in range(140):
        s.get(f"/page{chr(97 + n // 26)}{chr(97 + n % 26)}")
    wait_until(lambda: image(s)["rollbacks"] == 140, "the last rollback")
    i = image(s)
    others = route(i, "(other routes)")["requests"]
    assert len(i["routes"]) <= 128 and others == i["dropped"]["routes"] >= 13
    assert sum(r["requests"] for r in i["routes"]) == 140


def test_the_report_outlives_the_gateway(launch, root):
    s = start(launch, root, expect_errors=True)
    for _ in range(5):
        s.get("/late")
    wait_until(lambda: image(s)["rollbacks"] == 5, "the last rollback")
    gateway = s.gateway_pid()
    os.kill(gateway, signal.SIGKILL)
    wait_until(lambda: [pid for pid in s.role_pids("gateway") if pid != gateway], "the next gateway")
    wait_until(lambda: accepts(s.address), "it to listen")
    s.get("/")
    wait_until(lambda: image(s)["rollbacks"] == 6, "the next rollback")
    assert image(s)["made"] == 1 and route(image(s), "GET /late")["requests"] == 5


def test_deaths_of_workers_have_reasons(launch, root):
    s = start(launch, root, expect_errors=True)
    assert s.get("/die").status == 502
    assert s.get("/").text == "ok"
    wait_until(lambda: image(s)["respawns"] == [{"why": "signal 11", "times": 1}], "the death")


def test_an_image_that_is_refused_says_why(launch, root):
    s = start(launch, root, env={"OPEN": "1"}, expect_errors=True)
    wait_until(lambda: image(s)["refusals"], "a boot")
    assert image(s)["made"] == 0 and "socket" in image(s)["refusals"][0]["why"]
    assert "    image (www-worker g1): NONE YET\n    could not be made: " in status(s)
