"""How scripts fail: what the client gets and what the log says, from sapid and from nginx with PHP-FPM."""
import re
import socket
from pathlib import Path
from urllib.parse import urlencode

import pytest

from lib.parity import same
from lib.process import wait_until
from lib.sapid import binary

# Starts the oracle by itself.
pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

SCRIPT = "/failure-parity.php"
DOINGS = re.findall(r"^case '([^']+)':", (Path(__file__).parent / "php" / SCRIPT[1:]).read_text(), re.M)
SLOW = [do for do in DOINGS if do.startswith("time")]
QUICK = [do for do in DOINGS if do not in SLOW]
SHOWN = {"ini[display_errors]": "1", "ini[html_errors]": "0"}
SETTINGS = {
    "shown": SHOWN,
    "hidden": {"ini[display_errors]": "0"},
    "html": {"ini[display_errors]": "1", "ini[html_errors]": "1", "ini[docref_root]": "/manual/", "ini[docref_ext]": ".html"},
    "framed": SHOWN | {"ini[error_prepend_string]": "<<", "ini[error_append_string]": ">>"},
    "fatal only": SHOWN | {"ini[error_reporting]": "1"},
    "buffered": SHOWN | {"buffer": "1"},
    "flushed": SHOWN | {"flush": "1"},
    "hidden, flushed": {"ini[display_errors]": "0", "flush": "1"},
    "with a status": SHOWN | {"status": "404"},
    "hidden, with a status": {"ini[display_errors]": "0", "status": "404", "type": "application/json"},
    "stderr": {"ini[display_errors]": "stderr"},
}


def target(do, settings):
    return f"{SCRIPT}?{urlencode({'do': do, **settings})}"


# One of each kind: an exception, an error, a warning, a parse error, memory, and what happens around the end.
EACH = ["chain", "deep trace", "destructor at the end", "typed", "modulo", "include parse", "require missing", "deprecated", "user warning", "redeclare",
        "output callback at the end", "shutdown behind error", "shutdown sets type", "exit text", "memory at once", "memory in buffer", "recursion"]


@pytest.mark.parametrize("settings,do", [(s, d) for s in SETTINGS for d in (QUICK if s in ("shown", "hidden") else EACH)])
def test_failures(pair, settings, do):
    same(pair, "GET", target(do, SETTINGS[settings]))


@pytest.mark.parametrize("do", ["chain", "time", "memory at once"])
def test_failures_of_other_methods(pair, do):
    for method, body in (("HEAD", None), ("POST", b"a=1")):
        same(pair, method, target(do, SHOWN), {"Content-Type": "application/x-www-form-urlencoded"}, body)


@pytest.mark.parametrize("do", SLOW)
@pytest.mark.parametrize("settings", ["shown", "hidden"])
def test_time_limits(pair, do, settings):
    same(pair, "GET", target(do, SETTINGS[settings]))


# --- the log ------------------------------------------------------------------------------------

LOGGED = ["chain", "error_log", "error_log long", "user warning", "deprecated", "include parse", "memory at once", "undefined property", "shutdown throws", "silenced"]


def log_lines(server, query):
    """What one request writes into an error_log file of PHP's own."""
    path = server.site.root / "sessions" / f"log-{server.port}"
    path.unlink(missing_ok=True)
    server.get(f"{SCRIPT}?{query}&{urlencode({'ini[error_log]': path})}")
    text = path.read_text("latin-1") if path.exists() else ""
    return re.sub(r"^\[[^]]+\] ", "[time] ", text, flags=re.M)


@pytest.mark.parametrize("do", LOGGED)
@pytest.mark.parametrize("log", ["0", "1"])
def test_a_log_of_php(pair, do, log):
    query = urlencode({"do": do, "ini[log_errors]": log, "ini[display_errors]": "0"})
    ours, theirs = (log_lines(server, query) for server in pair)
    assert ours == theirs
    assert ("[time] " in ours) == (log == "1" and do != "silenced" or do.startswith("error_log"))


@pytest.mark.parametrize("ini", [{"ini[log_errors_max_len]": "40"}, {"ini[ignore_repeated_errors]": "1"}, {"ini[html_errors]": "1"},
                                 {"ini[error_prepend_string]": "<"}, {"ini[report_memleaks]": "0"}], ids=str)
def test_settings_of_a_log(pair, ini):
    for do in ("user warning", "chain"):
        query = urlencode({"do": do, "ini[log_errors]": "1", **ini})
        ours, theirs = (log_lines(server, query) for server in pair)
        assert ours == theirs != ""


@pytest.mark.parametrize("display", ["0", "1", "stderr"])
def test_the_log_of_the_server(pair, display):
    """Without an error_log, messages stand in the server's log, once, and those of error_log() with their lines."""
    ours = pair[0]
    before = len(ours.log_text())
    ours.get(target("error_log", {"ini[log_errors]": "1", "ini[display_errors]": display}))
    ours.get(target("chain", {"ini[log_errors]": "1", "ini[display_errors]": display}))
    ours.get(target("user warning", {"ini[log_errors]": "0", "ini[display_errors]": "0"}))
    wait_until(lambda: "LogicException: level 1" in ours.log_text()[before:], "the last message")
    text = ours.log_text()[before:]
    assert text.count("LogicException: level 1") == 1 and text.count("a line") == 1 and "quotes" not in text
    for message in ("PHP Fatal error:  Uncaught Error: beneath in ", "another\ttab ", "Stack trace:", "{main}"):
        assert message in text or message.replace("\t", "\\t") in text, text


@pytest.mark.as_root
def test_syslog(launch, scripts, workdir, monkeypatch):
    """error_log = syslog, on a /dev of the server's own whose log the test reads."""
    dev = workdir / "dev"
    dev.mkdir()
    nodes = ("null", "zero", "full", "random", "urandom")
    for name in nodes:
        (dev / name).touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(dev / "log"))
        log.settimeout(10)
        (dev / "log").chmod(0o666)
        program = workdir / "sapid"
        mounts = " && ".join(f"mount --bind /dev/{name} {dev}/{name}" for name in nodes)
        program.write_text(f"#!/bin/sh\nexec unshare -m sh -c '{mounts} && mount --rbind {dev} /dev && "
                           f"exec {binary()} \"$@\"' sapid \"$@\"\n")
        program.chmod(0o755)
        monkeypatch.setenv("SAPID_BINARY", str(program))
        ini = {"error_log": "syslog", "syslog.ident": "our-php", "syslog.facility": "local3"}
        server = launch(scripts, workers=1, ini=ini, expect_errors=True)
        for do, text, level in (("error_log", "a line", 5), ("user warning", "PHP Warning:  with <b>tags</b>", 4),
                                ("chain", "PHP Fatal error:  Uncaught Error: beneath", 3)):
            server.get(target(do, {"ini[log_errors]": "1"}))
            line = log.recv(4096).decode("latin-1")
            while text not in line:   # each line of a message is a message
                line = log.recv(4096).decode("latin-1")
            assert line.startswith(f"<{(19 << 3) + level}>") and "our-php" in line.split(text)[0], line
        assert "beneath" not in server.log_text()
