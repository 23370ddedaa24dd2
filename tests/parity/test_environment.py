"""What a script does to its process (locale, environment, signals, children, mail) and what the next request on the same
worker sees of it: as under PHP-FPM. And Debian's extensions, which load and work."""
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from lib import account, roles

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]
SCRIPT = "/environment-parity.php"


@pytest.fixture(scope="module")
def pair(launch_module):
    root = launch_module.folder / "php"
    root.mkdir()
    shutil.copy(Path(__file__).parent / "php" / SCRIPT[1:], root)
    (root / "sessions").mkdir()
    sendmail = root / "sendmail"
    sendmail.write_text('#!/bin/sh\ncase "$(cat | tee "$(dirname "$0")/sessions/mail")" in *fail@*) exit 75;; esac\n'
                        'echo "arguments $*" >> "$(dirname "$0")/sessions/mail"\n')
    sendmail.chmod(0o755)
    account.give(root)
    sendmail.chmod(0o755)
    # One worker: every request comes to the process that had the one before.
    return [launch_module(root, kind=kind, workers=1, ini={"sendmail_path": f"{sendmail} -t -i"}) for kind in ("sapid", "fpm")]


def same(pair, do: str):
    ours, theirs = (server.get(f"{SCRIPT}?do={do}") for server in pair)
    assert (ours.status, ours.text) == (theirs.status, theirs.text)
    return ours.text


@pytest.mark.parametrize("do", ["proc_open", "exec", "sockets", "mail", "mail_fails", "look"])
def test_twice(pair, do):
    assert same(pair, do) == same(pair, do) != ""


def test_nothing_is_left_for_the_next_request(pair):
    before = same(pair, "look")
    same(pair, "change")
    assert same(pair, "look") == before


def test_signal_handlers_end_with_their_request(pair):
    """PHP-FPM has no pcntl to compare with."""
    ours = pair[0]
    for do in ("change", "signal", "signal"):
        assert ours.get(f"{SCRIPT}?do={do}").text == ("mine set" if do == "signal" else "")
        assert ours.get(f"{SCRIPT}?do=handlers").json() == [False, False, False]


def test_programs_and_children_end_by_signals_of_terminals(pair):
    """The worker itself leaves them to the supervisor."""
    ours = pair[0]
    with ours.connect(timeout=60) as c:
        assert c.request("GET", f"{SCRIPT}?do=interrupt").text == "sleep ended by 2, child by 2\nsleep ended by 1, child by 1\n"
    [worker] = roles.workers(ours)
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(worker, number)
        assert "through" in ours.get(f"{SCRIPT}?do=proc_open").text
    assert roles.workers(ours) == [worker]


def test_a_forked_child_does_not_answer(pair):
    ours = pair[0]
    for _ in range(3):
        with ours.connect() as c:
            assert c.request("GET", f"{SCRIPT}?do=fork").text == "before parent 5"
            assert "through" in c.request("GET", f"{SCRIPT}?do=proc_open").text


EXTENSIONS = {
    "apcu": "apcu_store('k', [1, 2]); echo json_encode(apcu_fetch('k'));",
    "igbinary": "echo json_encode(igbinary_unserialize(igbinary_serialize([1, 2])));",
    "imagick": "$i = new Imagick(); $i->newImage(3, 2, 'red', 'png'); echo json_encode(array_slice(array_values($i->getImageGeometry()), 0, 2));",
    "redis": "echo json_encode([(int) !(new Redis())->isConnected(), 2]);",
    "xdebug": "function f() { return xdebug_call_function('%s') ?: 'f'; } echo json_encode([strlen(xdebug_info('mode')[0]) ? 1 : 0, 2]);",
    "pcov": "pcov\\start(); $a = 1; pcov\\stop(); echo json_encode([count(pcov\\waiting()) >= 0 ? 1 : 0, 2]);",
    "excimer": """
        function spin($until) { for ($end = hrtime(true) + 5e9; hrtime(true) < $end && !$until();) md5('x'); }
        $p = new ExcimerProfiler; $p->setPeriod(0.002); $p->setEventType(EXCIMER_REAL);
        $p->start(); spin(fn() => count($p->getLog()) > 3); $p->stop();
        $t = new ExcimerTimer; $t->setPeriod(0.005); $t->setCallback(function ($n) use (&$ticks) { $ticks += $n; });
        $t->start(); spin(function () use (&$ticks) { return $ticks > 2; }); $t->stop();
        echo json_encode([(int)str_contains($p->getLog()->formatCollapsed(), 'spin'), $ticks > 2 ? 2 : $ticks]);""",
}
WANTED = {"imagick": "[3,2]"}
LOADED_BY = {"xdebug": {"zend_extension": "xdebug", "xdebug.mode": "develop"}, "pcov": {"extension": "pcov", "pcov.enabled": "1"},
             "excimer": {"extension": "excimer"}}


@pytest.mark.parametrize("mode", ["classic", "rollback"])
@pytest.mark.parametrize("name", EXTENSIONS)
def test_extensions_of_debian(launch, name, mode):
    """Those that slow everything down (xdebug, pcov) are off on the machine, and loaded here."""
    root = launch.new_root()
    (root / "x.php").write_text(f"<?php {EXTENSIONS[name]} echo ' ', extension_loaded('{name}');")
    (root / "loop.php").write_text("<?php while (frankenphp_handle_request(static function () { require __DIR__ . '/x.php'; }));")
    account.give(root)
    worker = {"script": str(root / "loop.php"), "num": 1, "isolation": "rollback", "warmup": []} if mode == "rollback" else {}
    server = launch(root, workers=1, worker=worker, ini={"apc.enabled": "1", **LOADED_BY.get(name, {})})
    for _ in range(3):
        answer = server.get("/x.php" if mode == "classic" else "/")
        assert (answer.status, answer.text) == (200, WANTED.get(name, "[1,2]") + " 1"), answer


# --- excimer: a profiler that samples by timers, each with a thread of glibc's ------------------------

PROFILED = """
function profiled() {
    if (str_starts_with($_SERVER['REQUEST_URI'], '/plain')) return print 'plain ' . getmypid();
    $p = new ExcimerProfiler; $p->setPeriod(0.001); $p->setEventType(EXCIMER_%s); $p->start();
    for ($end = hrtime(true) + 5e9; hrtime(true) < $end && count($p->getLog()) < 4;) md5('x');
    if (str_starts_with($_SERVER['REQUEST_URI'], '/left')) { $GLOBALS['left'] = $p; return print 'left ' . getmypid(); }
    $p->stop();
    echo count($p->getLog()) > 3 ? 'sampled ' : 'none ', getmypid();
}
"""


def profiled_root(launch, event):
    root = launch.new_root()
    (root / "profiled.inc").write_text("<?php" + PROFILED % event)
    (root / "index.php").write_text("<?php require __DIR__ . '/profiled.inc'; profiled();")
    (root / "loop.php").write_text("<?php require __DIR__ . '/profiled.inc'; while (frankenphp_handle_request(profiled(...)));")
    account.give(root)
    return root


@pytest.mark.parametrize("event", ["REAL", "CPU"])
@pytest.mark.parametrize("isolation", ["classic", "none", "rollback"])
def test_a_profiler_in_every_mode(launch, event, isolation):
    """Started and stopped in a request, or left running at its end: every request is answered, and the next one is in order.
    Under rollback a worker is replaced whose thread cannot be taken back."""
    root = profiled_root(launch, event)
    worker = {} if isolation == "classic" else {"script": str(root / "loop.php"), "num": 1, "isolation": isolation}
    if isolation == "rollback":
        worker["warmup"] = ["/plain"]
    server = launch(root, workers=1, worker=worker, ini={"extension": "excimer"})
    for n in range(4):
        for page, text in (("/plain", "plain"), ("/sampled", "sampled"), ("/left", "left"), ("/plain", "plain")):
            answer = server.get(f"{page}?{n}")
            assert (answer.status, answer.text.split()[0]) == (200, text), answer
    assert "killed by signal" not in server.log_text()
    for pid in roles.workers(server):   # no thread more for each profiler that was left
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) <= 3


def test_an_image_with_a_profiler_is_refused(launch):
    """The thread stays when the profiler was used before the image was made: in the warm-up, here."""
    root = profiled_root(launch, "REAL")
    worker = {"script": str(root / "loop.php"), "num": 1, "isolation": "rollback", "warmup": ["/sampled"]}
    server = launch(root, workers=1, worker=worker, ini={"extension": "excimer"}, expect_errors=True)
    assert server.get("/plain").status == 500
    server.expect_log("cannot be frozen")
    server.expect_log_match(r"the process has \d threads, an image has one. What to do: end threads")
