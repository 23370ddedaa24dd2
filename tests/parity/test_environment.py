"""What a script does to its process (locale, environment, signals, children, mail) and what the next request on the same
worker sees of it: as under PHP-FPM. And Debian's extensions, which load and work."""
import shutil
from pathlib import Path

import pytest

from lib import account

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
}
WANTED = {"imagick": "[3,2]"}
LOADED_BY = {"xdebug": {"zend_extension": "xdebug", "xdebug.mode": "develop"}, "pcov": {"extension": "pcov", "pcov.enabled": "1"}}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extensions_of_debian(launch, name):
    """Those that slow everything down (xdebug, pcov) are off on the machine, and loaded here."""
    root = launch.new_root()
    (root / "x.php").write_text(f"<?php {EXTENSIONS[name]} echo ' ', extension_loaded('{name}');")
    account.give(root)
    server = launch(root, workers=1, ini={"apc.enabled": "1", **LOADED_BY.get(name, {})})
    for _ in range(3):
        answer = server.get("/x.php")
        assert (answer.status, answer.text) == (200, WANTED.get(name, "[1,2]") + " 1"), answer
