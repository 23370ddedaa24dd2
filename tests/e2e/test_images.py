"""Images of entry scripts: made when they are asked for, used by the requests of their script, replaced and given up
without anybody noticing. What is frozen, and how, is test_snapshot_api.py's."""
import contextlib
import hashlib
import json
import os
import random
import signal
import threading

import pytest

from lib import account, roles
from lib.httpclient import Connection
from lib.images import active, ask, from_image, generation, image_pools, images, wait_for_image
from lib.process import descendants, wait_until
from lib.roles import Load, pools, title

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

# Answers with ?n=, or says which boot it goes on from and how many requests that one has seen: always 1 from an image.
APP = """<?php
if (!restore_state()) {
    $boot = getmypid();
    $seen = 0;
    %s
    snapshot_state();
}
$seen++;
if (isset($_GET['wait'])) {
    $f = __DIR__ . '/' . basename($_GET['wait']);
    touch("$f.started");
    while (!file_exists($f)) { usleep(2000); clearstatcache(); }
}
if (isset($_GET['n'])) {
    echo $_GET['n'];
} else {
    echo json_encode(['boot' => $boot, 'pid' => getmypid(), 'seen' => $seen, 'host' => $_SERVER['HTTP_HOST'],
                      'body' => md5(file_get_contents('php://input')), 'method' => $_SERVER['REQUEST_METHOD']]);
}
"""

# The same in classic mode.
PLAIN = "<?php echo json_encode(['boot' => getmypid(), 'pid' => getmypid()]);"


@pytest.fixture
def site(launch):
    root = launch.new_root()

    def start(scripts=None, *, boot="", workers=2, expect_errors=False, ini=None, **php):
        for name, text in (scripts or {"index.php": APP % boot}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        account.give(root)
        server = launch(root, workers=workers, expect_errors=expect_errors,
                        ini={"opcache.revalidate_freq": "1", "opcache.validate_timestamps": "1", **(ini or {})}, php=php)
        server.root = root
        return server
    return start


# --- made by demand -------------------------------------------------------------------------------------------

def test_nothing_is_there_until_a_script_asks(site):
    server = site({"index.php": APP % "", "plain.php": PLAIN})
    assert not from_image(ask(server, "/plain.php"))
    assert len(pools(server)) == 1
    assert images(server) == {"active": [], "served": 0, "passed_on": 0, "refused": 0}
    assert "image" not in server.log_text()
    assert "image" not in server.admin("/server").text


def test_the_first_request_runs_in_classic_mode_and_asks(site):
    server = site()
    first = ask(server)
    assert not from_image(first) and first["seen"] == 1
    boot = wait_for_image(server)["boot"]
    for _ in range(5):
        answer = ask(server)
        assert answer["boot"] == boot and answer["seen"] == 1
    found = active(server)["/index.php"]
    assert found["pool"] == "www-image1" and found["served"] >= 6 and found["passed_on"] == 0
    assert images(server)["served"] == found["served"]
    assert "image of /index.php (www-image1 g1)" in server.admin("/server").text
    assert 'sapid_script_images{pool="www"} 1' in server.admin("/metrics").text


def test_a_boot_may_take_its_time(site):
    """Longer than a server that starts would wait for a worker script; requests go on in classic mode meanwhile."""
    server = site(boot="if (snapshot_boots()) usleep(6000000);")
    assert not from_image(ask(server))
    wait_until(lambda: image_pools(server), "the boot")
    assert not from_image(ask(server))
    wait_for_image(server)


def test_other_scripts_stay_in_classic_mode(site):
    server = site({"index.php": APP % "", "plain.php": PLAIN, "sub/index.php": APP % ""})
    wait_for_image(server)
    assert not from_image(ask(server, "/plain.php"))
    wait_for_image(server, "/sub/")
    assert set(active(server)) == {"/index.php", "/sub/index.php"}
    assert ask(server)["boot"] != ask(server, "/sub/")["boot"]


def test_zero_images_are_none(site):
    server = site(max_images=0)
    for _ in range(5):
        assert not from_image(ask(server))
    assert len(pools(server)) == 1


def test_a_named_script_gets_one_without_asking(site):
    code = "<?php if (!isset($_GET['plain'])) { snapshot_state(); } echo 'hi';"
    server = site({"index.php": code, "other.php": code}, snapshot_scripts=["index.php"])
    assert server.get("/other.php?plain=1").text == "hi"
    assert server.get("/?plain=1").text == "hi"     # never calls snapshot_state()
    wait_until(lambda: active(server), "an image")
    assert list(active(server)) == ["/index.php"]
    assert server.get("/").text == "hi"


@pytest.mark.parametrize("at", ["include:boot.php", "function:boot"])
def test_a_script_that_knows_nothing_of_it(site, at):
    code = "<?php require __DIR__ . '/boot.php'; $boot = boot(); echo json_encode(['boot' => $boot, 'pid' => getmypid()]);"
    server = site({"front.php": code, "other.php": code,
                   "boot.php": "<?php $pid = getmypid(); function boot() { return $GLOBALS['pid']; }"},
                  front_controller="front.php", snapshot_at=at)
    assert not from_image(ask(server, "/nowhere"))
    wait_for_image(server, "/nowhere")
    for _ in range(3):
        assert not from_image(ask(server, "/other.php"))
    assert list(active(server)) == ["/front.php"]


@pytest.mark.parametrize("size", [0, 10, 16384, 16385, 300000], ids=["none", "inline", "most", "file", "large"])
def test_bodies_reach_the_image(site, size):
    server = site()
    wait_for_image(server)
    body = b"x" * size
    r = server.get("/", method="POST", body=body).json()
    assert from_image(r) and r["body"] == hashlib.md5(body).hexdigest() and r["method"] == "POST"


def test_every_thread_of_the_gateway_knows_it(launch):
    root = launch.new_root()
    (root / "index.php").write_text(APP % "")
    account.give(root)
    server = launch(root, workers=2, server={"gateway_threads": 4})
    wait_for_image(server)
    for _ in range(40):
        assert from_image(ask(server))


# --- kept and replaced ----------------------------------------------------------------------------------------

def test_the_least_recently_used_makes_room(site):
    server = site({f"{n}.php": APP % "" for n in "abc"}, max_images=2)
    wait_for_image(server, "/a.php")
    wait_for_image(server, "/b.php")
    assert not from_image(ask(server, "/c.php"))    # both were used a moment ago
    wait_until(lambda: "/c.php wants an image, but the 2 that it may have are in use" in server.log_text(), "a word of it")

    def a_goes():
        ask(server, "/b.php")
        ask(server, "/c.php")
        return set(active(server)) == {"/b.php", "/c.php"}
    wait_until(a_goes, "c to get a's place", interval=0.3)
    assert from_image(ask(server, "/b.php")) and not from_image(ask(server, "/a.php"))
    wait_until(lambda: len(image_pools(server)) == 2, "a's processes to end")
    server.expect_log("the image of /a.php was used least recently and makes room")


def test_a_changed_file_makes_another_one(site):
    server = site({"index.php": APP % "$text = require __DIR__ . '/part.php';", "part.php": "<?php return 1;"})
    before = wait_for_image(server)["boot"]
    (server.root / "part.php").write_text("<?php return 22;")
    wait_until(lambda: ask(server)["boot"] != before and generation(server) == 2, "another image", interval=0.05)
    server.expect_log("part.php has changed")


def test_age_makes_another_one(site):
    server = site(snapshot_max_age="1s")
    wait_for_image(server)
    with Load(server.address, "/?n=", clients=2) as load:
        wait_until(lambda: generation(server) >= 3, "two more of them")
    assert set(load.answers) == {200} and not load.mixed and not load.broken


def test_a_change_that_cannot_be_frozen_ends_the_image(site):
    server = site(expect_errors=True)
    wait_for_image(server)
    (server.root / "index.php").write_text("<?php echo 'x'; restore_state(); flush(); snapshot_state(); echo 'new';")
    wait_until(lambda: server.get("/").text == "xnew" and not active(server), "classic mode", interval=0.05)
    wait_until(lambda: not image_pools(server), "its processes to end")


def test_a_file_that_boots_rewrite_does_not_make_images_for_ever(site):
    """Requests in classic mode, here those of another host, change what the image was made of."""
    server = site(boot="$host = $_SERVER['HTTP_HOST']; file_put_contents(__DIR__ . '/cache.php', '<?php return ' . hrtime(true) . ';');"
                       "$at = require __DIR__ . '/cache.php';")

    def paused():
        assert server.get("/").status == 200
        assert server.get("/", headers=[("Host", "other.example")]).status == 200
        return "/index.php runs in classic mode for a while: " in server.log_text()
    wait_until(paused, "the pause", 120, interval=0.05)
    text = server.log_text()
    assert text.count("is made anew: ") == 3 and text.count(" for a while: ") == 1
    assert f"{server.root}/cache.php has changed, as in the images before" in text
    wait_until(lambda: not active(server), "the image to go", 60)
    assert images(server)["refused"] == 1 and "cache.php has changed" in images(server)["last_refusal"]
    wait_until(lambda: not image_pools(server), "its processes to end", 60)


# --- refused --------------------------------------------------------------------------------------------------

def test_a_boot_that_fails_is_said_once_and_requests_go_on(site):
    server = site(boot="if (!isset($_COOKIE['ok'])) throw new Exception('no visitor');", expect_errors=True)
    for _ in range(3):
        r = server.get("/", headers=[("Cookie", "ok=1")])
        assert r.status == 200 and not from_image(r.json())
    wait_until(lambda: images(server)["refused"] == 1, "the refusal")
    for _ in range(20):
        assert server.get("/", headers=[("Cookie", "ok=1")]).status == 200
    server.expect_log("there is no image of /index.php")
    said = [line for line in server.log_text().splitlines() if "there is no image of /index.php" in line]
    assert len(said) == 1
    assert images(server)["refused"] == 1 and images(server)["last_refusal"].startswith("/index.php: ")
    text = server.admin("/server").text
    assert "no image of /index.php, which runs in classic mode: " in text and "refused 1 times, last " in text
    assert " s from now, if its file changes, or after `sapid reload`" in text
    wait_until(lambda: not image_pools(server), "the process that tried to end")
    assert 'sapid_script_image_refusals_total{pool="www"} 1' in server.admin("/metrics").text


def test_a_repaired_script_is_tried_at_once(site):
    server = site(boot="throw new Exception('not yet');", expect_errors=True)
    assert server.get("/").status == 500
    (server.root / "index.php").write_text("<?php echo 'out'; flush(); snapshot_state();")
    os.utime(server.root / "index.php", (1, 1))
    wait_until(lambda: server.get("/").text == "out" and images(server)["refused"] == 1, "a refusal", interval=0.05)
    (server.root / "index.php").write_text(APP % "")
    wait_until(lambda: b"boot" in server.get("/").body, "opcache to see it", interval=0.05)
    wait_for_image(server)


# --- deaths and reloads under load ----------------------------------------------------------------------------

def only_these(load, *statuses):
    assert set(load.answers) <= set(statuses), load.answers
    assert not load.mixed and not load.broken, (load.mixed[:3], load.broken[:3])


def test_reloads_under_load_lose_nothing(site):
    server = site()
    wait_for_image(server)
    with Load(server.address, "/?n=", clients=4) as load:
        for number in (2, 3, 4):
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: server.log_text().count(" reload done in") == number - 1, "the reload")
            wait_until(lambda: generation(server) >= number, "the image of the new generation")
    only_these(load, 200)
    assert from_image(ask(server))
    wait_until(lambda: len(image_pools(server)) == 1 and len(pools(server)) == 2, "the old ones to end")


def test_another_gateway_takes_over_under_load(site):
    server = site()
    wait_for_image(server)
    with Load(server.address, "/?n=", clients=4) as load:
        server.config_path.write_text(server.config_path.read_text().replace("[server]", "[server]\nmax_header_count = 90"))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: " reload done in" in server.log_text(), "the reload")
        wait_until(lambda: generation(server) >= 2, "the image of the new generation")
    only_these(load, 200)
    assert from_image(ask(server))


def test_fewer_images_after_a_reload(site):
    server = site({f"{n}.php": APP % "" for n in "ab"}, max_images=2)
    wait_for_image(server, "/a.php")
    wait_for_image(server, "/b.php")
    server.config_path.write_text(server.config_path.read_text().replace("max_images = 2", "max_images = 1"))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: " reload done in" in server.log_text(), "the reload")
    wait_until(lambda: len(active(server)) == 1 and len(image_pools(server)) == 1, "one image")
    server.config_path.write_text(server.config_path.read_text().replace("max_images = 1", "max_images = 0"))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.log_text().count(" reload done in") == 2, "the reload")
    wait_until(lambda: not image_pools(server), "none")
    assert not from_image(ask(server, "/a.php")) and not from_image(ask(server, "/b.php"))


def test_a_pool_that_goes_takes_its_images_along(site, launch):
    server = site()
    other = launch.new_root()
    (other / "index.php").write_text(APP % "")
    account.give(other)
    run_as = account.web()
    before = server.config_path.read_text()
    user = f'user = "{run_as.name}"\ngroup = "{run_as.group}"\n' if account.is_root() else ""
    server.config_path.write_text(before + f'\n[pool.b]\ndocument_root = "{other}"\nworker_pool_size = 1\n{user}'
                                  '[[route]]\nmatch = { prefix = "/b" }\npool = "b"\n'
                                  'try = ["/index.php"]\n')
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.log_text().count(" reload done in") == 1, "the reload")
    wait_for_image(server, "/b")
    assert [i["pool"] for i in images(server, 1)["active"]] == ["b-image1"]
    server.config_path.write_text(before)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.log_text().count(" reload done in") == 2, "the reload")
    wait_until(lambda: not image_pools(server), "its image to end")
    assert not from_image(ask(server, "/b"))
    wait_for_image(server, "/b")     # it is the first pool's script now


@pytest.mark.parametrize("victim", ["pool", "frozen", "worker"])
def test_kill_9_under_load(site, victim):
    server = site(expect_errors=True, workers=4)
    wait_for_image(server)
    load = Load(server.address, "/?n=", clients=8)
    with load:
        for number in range(3):
            pool = wait_until(lambda: active(server) and image_pools(server), "an image", 40)[0]
            inside = descendants(pool)
            frozen = [p for p in inside if "sapid: image" in title(p)]
            target = {"pool": [pool], "frozen": frozen, "worker": [p for p in inside if p not in frozen]}[victim]
            before = load.count()
            for pid in target[:1]:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: load.count() > before + 200, "answers meanwhile")
    only_these(load, 200, 502)
    assert load.answers[200] > 500 and load.answers.get(502, 0) <= 3 * 8
    if victim == "frozen":
        assert 502 not in load.answers
    assert not from_image(ask(server)) or active(server)


def victims(server, what):
    """Processes of that kind, as they are now."""
    kinds = {"classic": lambda p: "-image" not in title(p), "image": lambda p: "-image" in title(p)}
    if what in kinds:
        return [p for p in pools(server) if kinds[what](p)]
    inside = [p for pool in image_pools(server) for p in descendants(pool)]
    return [p for p in inside if ("sapid: image" in title(p)) == (what == "frozen")]


def test_whatever_happens_each_gets_its_own_answer(site):
    dice = random.Random(7)
    server = site({"inc.php": "<?php return 0;",
                   **{f"{n}.php": APP % "$inc = require __DIR__ . '/inc.php';" for n in "abc"}},
                  workers=3, max_images=2, expect_errors=True)
    loads = [Load(server.address, f"/{n}.php?n=", clients=2) for n in "abc"]
    try:
        for load in loads:
            load.__enter__()
        for event in range(40):
            what = dice.choice(["reload", "touch", "classic", "image", "image", "frozen", "frozen", "worker", "worker"])
            before = [load.count() for load in loads]
            if what == "reload":
                server.process.send_signal(signal.SIGHUP)
            elif what == "touch":
                (server.root / "inc.php").write_text(f"<?php return {event};")
            elif found := victims(server, what):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(dice.choice(found), signal.SIGKILL)
            wait_until(lambda: all(load.count() > n + 50 for load, n in zip(loads, before)), f"answers after {what}")
    finally:
        for load in loads:
            load.__exit__()
    for load in loads:
        only_these(load, 200, 502)
    assert "CHECK failed" not in server.log_text() and "wrote nonsense" not in server.log_text()


def test_kill_9_of_the_classic_pool_under_load(site):
    server = site(expect_errors=True, workers=4)
    wait_for_image(server)
    with Load(server.address, "/?n=", clients=4) as load:
        classic = next(p for p in pools(server) if "-image" not in title(p))
        os.kill(classic, signal.SIGKILL)
        wait_until(lambda: generation(server) == 2, "an image of the next generation")
    only_these(load, 200, 502)
    assert from_image(ask(server))


def test_the_next_gateway_gets_it(site):
    server = site(expect_errors=True)
    before = wait_for_image(server)["boot"]
    os.kill(server.gateway_pid(), signal.SIGKILL)
    wait_until(lambda: "accepts connections" in server.log_text(), "the next gateway")
    wait_until(lambda: active(server), "it to know the image")
    assert ask(server)["boot"] == before


def test_a_running_request_ends_in_the_old_image(site):
    server = site(workers=2)
    before = wait_for_image(server)["boot"]
    answer = {}

    def get():
        with Connection(server.address) as c:
            answer["is"] = c.request("GET", "/?wait=go").json()
    waiting = threading.Thread(target=get)
    waiting.start()
    wait_until(lambda: (server.root / "go.started").exists(), "the request to run")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: generation(server) == 2, "the next image")
    (server.root / "go").touch()
    waiting.join(60)
    assert answer["is"]["boot"] == before
    wait_until(lambda: len(image_pools(server)) == 1, "the old one to end")


def test_stop_waits_for_what_runs_in_an_image(site, launch):
    server = site()
    wait_for_image(server)
    with Connection(server.address) as c:
        c.send(b"GET /?wait=go HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: (server.root / "go.started").exists(), "the request to run")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in server.log_text(), "the stop to begin")
        (server.root / "go").touch()
        assert c.read_response().status == 200
    assert server.process.popen.wait(60) == 0
    launch.started.clear()


# --- not this one ---------------------------------------------------------------------------------------------

def test_another_host_is_passed_on_with_its_body(site):
    """What the boot has read of the request must be the same; a body is kept for the classic worker."""
    server = site(boot="$host = $_SERVER['HTTP_HOST'];")
    assert wait_for_image(server)["seen"] == 1
    for size in (0, 100, 300000):
        body = b"y" * size
        r = server.get("/", method="POST", headers=[("Host", "other.example")], body=body).json()
        assert not from_image(r) and r["host"] == "other.example" and r["body"] == hashlib.md5(body).hexdigest()
    assert from_image(ask(server))
    found = images(server)
    assert found["passed_on"] == 3 and found["active"][0]["passed_on"] == 3


def test_the_boot_is_told_the_port_and_the_address_of_the_listener(site):
    """Behind a proxy or a mapped port they are not what the Host says."""
    server = site(boot="$where = [$_SERVER['SERVER_PORT'], $_SERVER['SERVER_ADDR'], $_SERVER['SERVER_NAME']];")
    shop = [("Host", "shop.example")]
    wait_until(lambda: from_image(server.get("/", headers=shop).json()), "an image", interval=0.05)


def test_an_image_for_the_wrong_host_is_made_again(site):
    """Whoever comes first names the host of the boot; that may be anybody."""
    server = site(boot="$host = $_SERVER['HTTP_HOST'];")
    wait_until(lambda: server.get("/", headers=[("Host", "evil.example")]) and active(server), "an image")
    assert from_image(server.get("/", headers=[("Host", "evil.example")]).json())
    wait_until(lambda: from_image(ask(server)), "an image for the host that people ask for", interval=0.02)
    assert not from_image(server.get("/", headers=[("Host", "evil.example")]).json())
    for _ in range(100):    # some of another host change nothing
        assert from_image(ask(server))
    server.get("/", headers=[("Host", "evil.example")])
    server.expect_log("are not for \"evil.example\"")
    assert server.log_text().count("are not for \"evil.example\"") == 1 and generation(server) == 2


def test_who_is_passed_on_is_told_with_what_helps(site):
    server = site(boot="$lang = $_COOKIE['lang'] ?? 'en'; $to = $_SERVER['HTTP_HOST'];")
    wait_for_image(server)
    for n in range(40):
        assert not from_image(server.get("/", headers=[("Cookie", f"lang={n}")]).json())
    assert not from_image(server.get("/", headers=[("Host", "other.example")]).json())
    found = active(server)["/index.php"]
    passed_on = sorted((g["why"], g["times"]) for g in found["image"]["passed_on_by"])
    assert passed_on == [("_COOKIE.lang", 40), ("_SERVER.HTTP_HOST", 1)]
    text = server.admin("/server").text
    assert "passed on, because not as in the boot's request: " in text and "40x _COOKIE.lang" in text
    assert 'snapshot_guards = { "_COOKIE.lang" = "any" }' in text
    server.expect_log("most requests of /index.php run in classic mode, because they are not like the image's boot in _COOKIE.lang")


def test_the_status_says_everything_of_each_script(site):
    """Two with an image, two that are refused for different reasons; a repaired one leaves the list."""
    server = site({"a.php": APP % "", "b.php": APP % "", "fails.php": APP % "if (snapshot_boots()) throw new Exception('no');",
                   "prints.php": APP % "if (snapshot_boots()) echo 'out';"}, expect_errors=True)
    wait_for_image(server, "/a.php")
    wait_for_image(server, "/b.php")

    def both_refused():   # a request asks for an image, and another one if it was not heard
        assert {server.get(path).status for path in ("/fails.php", "/prints.php")} == {200}
        return images(server)["refused"] == 2
    wait_until(both_refused, "both refusals", 60, 0.1)
    found = images(server)
    assert set(active(server)) == {"/a.php", "/b.php"}
    refused = {r["script"]: r for r in found["refusals"]}
    assert set(refused) == {"/fails.php", "/prints.php"} and "output" in refused["/prints.php"]["why"]
    assert all(r["times"] == 1 and r["not_before"] >= r["at"] + 10 for r in refused.values())
    text = server.admin("/server").text
    for script, seat in (("a", 1), ("b", 2)):
        assert f"    image of /{script}.php (www-image{seat} g1): " in text
    assert text.count("    no image of ") == 2 and text.count(" regions, made ") == 2
    (server.root / "fails.php").write_text(APP % "")
    wait_until(lambda: [server.get("/fails.php"), "/fails.php" in active(server)][1], "its image", 60, interval=0.1)
    assert [r["script"] for r in images(server)["refusals"]] == ["/prints.php"]
    server.process.send_signal(signal.SIGHUP)
    server.expect_log(" reload done in")
    wait_until(lambda: images(server)["refusals"] == [], "the new generation to begin afresh", 60)


def test_a_streamed_body_is_passed_on_whole(site):
    """The image's worker has not asked for the pipe, so the classic one gets all of it."""
    server = site(boot="$host = $_SERVER['HTTP_HOST'];", request_buffering=False)
    wait_for_image(server)
    parts = [bytes([65 + n]) * 50000 for n in range(6)]
    with server.connect() as c:
        c.send(b"POST / HTTP/1.1\r\nHost: other.example\r\nTransfer-Encoding: chunked\r\n\r\n")
        wait_until(lambda: images(server)["passed_on"] == 1, "the head to be passed on")
        for part in parts:
            c.send(b"%x\r\n%s\r\n" % (len(part), part))
        c.send(b"0\r\n\r\n")
        r = c.read_response("POST").json()
    assert not from_image(r) and r["body"] == hashlib.md5(b"".join(parts)).hexdigest()


def test_a_limit_counts_a_passed_on_request_once(launch):
    root = launch.new_root()
    (root / "index.php").write_text(APP % "$host = $_SERVER['HTTP_HOST'];")
    account.give(root)
    server = launch(root, workers=2, routes=[{"match": {"prefix": "/"}, "max_concurrency": 1}])
    wait_for_image(server)

    def gate():
        return json.loads(server.admin("/server?json").text)["bulkheads"][0]
    wait_until(lambda: gate()["running"] == 0, "the last worker to be done with it")
    before, answers = gate()["waited"], []

    def get(wait):
        with Connection(server.address) as c:
            answers.append(c.request("GET", wait, headers=[("Host", "other.example")]).status)
    threads = [threading.Thread(target=get, args=(f"/?wait={n}",)) for n in "ab"]
    for t in threads:
        t.start()
    wait_until(lambda: gate()["waiting"] == 1, "one to wait")
    assert (gate()["running"], gate()["waited"] - before, gate()["refused"]) == (1, 1, 0)
    wait_until(lambda: images(server)["passed_on"] == 1, "the other one to be passed on")
    for n in "ab":
        (root / n).touch()
    for t in threads:
        t.join(60)
    assert answers == [200, 200]
    wait_until(lambda: (gate()["running"], gate()["waiting"]) == (0, 0), "the gate to be free")

    def counted():
        page = json.loads(server.admin("/server?json").text)
        return page["pools"][0]["accepted"], next(p for p in page["places"] if p["place"].startswith("route"))["requests"]
    wait_until(lambda: len(set(counted())) == 1, f"the requests to be counted alike: {counted()}")


def test_php_fpm_has_none(launch):
    root = launch.new_root()
    (root / "index.php").write_text(PLAIN)
    account.give(root)
    server = launch(root, php={"use_fpm": True, "fpm_socket": str(root / "nobody.sock")})
    assert server.get("/").status == 502
    assert images(server) == {"active": [], "served": 0, "passed_on": 0, "refused": 0}
