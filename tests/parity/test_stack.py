"""Recursion that has no end: within PHP, where memory_limit is the end, and within PHP's C code, where the stack is."""
import re
from pathlib import Path
from urllib.parse import urlencode

import pytest

from lib.parity import alike, seen_by
from lib.process import wait_until

# Starts the oracle by itself.
pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

SCRIPT = "/stack-parity.php"
DOINGS = re.findall(r"^case '([^']+)':", (Path(__file__).parent / "php" / SCRIPT[1:]).read_text(), re.M)
DEEP = 200_000


def ask(server, do, n, **more):
    with server.connect() as c:
        return c.request("GET", f"{SCRIPT}?{urlencode({'do': do, 'n': n, **more})}")


def records(server):
    return [p.read_text() for p in sorted((server.folder / "crashes").glob("crash-*.txt"))]


@pytest.mark.parametrize("do", DOINGS)
def test_recursion(pair, do):
    """To the same end: an answer, an error of PHP's, or a dead worker and 502. And the next request has an answer."""
    ours, theirs = (ask(server, do, DEEP) for server in pair)
    if theirs.status == 502:
        assert ours.status == 502
    else:
        alike(*(seen_by(s, r) for s, r in zip(pair, (ours, theirs))))
    assert pair[0].get("/hello.php").text == "Hello World!"


OVERFLOWS = ["json_encode", "unserialize", "var_dump", "compare", "free objects", "destructors", "destructors at the end", "collect", "__toString", "array_map",
             "compile concat", "output callback"]


@pytest.fixture(scope="module")
def one(launch_module, scripts):
    return launch_module(scripts, workers=1, expect_errors=True, log={"crash_dir": "crashes"})


def records(server):
    return [p.read_text() for p in sorted((server.folder / "crashes").glob("crash-*.txt"))]


@pytest.mark.parametrize("do", OVERFLOWS)
def test_an_overflow_costs_one_request_and_leaves_a_record(one, do):
    before = len(records(one))
    assert ask(one, do, DEEP).status == 502
    assert one.get("/hello.php").text == "Hello World!"   # by the worker's successor
    text = wait_until(lambda: len(now := records(one)) > before and now[-1], "a record")
    assert re.search(r"what: killed by signal 11 \(SIGSEGV\) at address 0x\w+: stack overflow\n", text), text
    assert f"request: GET {SCRIPT}?" in text and SCRIPT in text.split("PHP stack:")[1].split("C stack:")[0]
