"""Bulkheads: what one part of an application may take from the rest. Limits of routes, and the slow lane that the
server finds by itself."""
import json
import socket
import struct
import threading

import pytest

from lib import account
from lib.process import wait_until

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

WAIT = "<?php $f = __DIR__ . '/' . basename($_GET['until']); touch(\"$f.started\"); " \
       "while (!file_exists($f)) { usleep(2000); clearstatcache(); } echo 'done';"


@pytest.fixture
def root(launch):
    folder = launch.folder / "app"
    folder.mkdir()
    for name, text in {"index": "<?php echo 'hi';", "wait": WAIT, "other": WAIT}.items():
        (folder / f"{name}.php").write_text(text)
    account.give(folder)
    return folder


class Held:
    """Requests that run until let go."""

    def __init__(self, server, root, names, script="/wait.php"):
        self.root, self.names, self.answers = root, list(names), {}
        self.threads = [threading.Thread(target=self._get, args=(server, script, n)) for n in self.names]
        for t in self.threads:
            t.start()

    def _get(self, server, script, name):
        with server.connect() as c:
            self.answers[name] = c.request("GET", f"{script}?until={name}").status

    def running(self):
        return sum((self.root / f"{n}.started").exists() for n in self.names)

    def let_go(self):
        for n in self.names:
            (self.root / n).touch()
        for t in self.threads:
            t.join(60)


def look(server, what="pools"):
    return json.loads(server.admin("/server?json").text)[what]


def gate(server, name):
    found = [g for g in look(server, "bulkheads") if g["gate"] == name]
    return found[0] if found else {"running": 0, "waiting": 0}


def lane(server):
    return gate(server, "slow lane of pool www")


def teach(server, n=20):
    """The server knows that the rest is fast."""
    with server.connect() as c:
        for _ in range(n):
            assert c.request("GET", "/").text == "hi"


def test_a_route_runs_as_often_as_it_may_and_the_rest_goes_on(launch, root):
    server = launch(root, workers=3, routes=[{"match": {"prefix": "/wait"}, "max_concurrency": 1}])
    held = Held(server, root, ["a", "b", "c"])
    try:
        wait_until(lambda: gate(server, "route prefix /wait")["waiting"] == 2 and held.running() == 1,
                   "one to run and two to wait")
        found = gate(server, "route prefix /wait")
        assert (found["limit"], found["running"], found["refused"]) == (1, 1, 0)
        assert server.get("/").text == "hi"
        assert look(server)[0]["active"] <= 2
        assert 'sapid_bulkhead_waiting{gate="route prefix /wait"} 2' in server.admin("/metrics").text
        assert "bulkhead, route prefix /wait: 1 of at most 1 running, 2 waiting" in server.admin("/server").text
    finally:
        held.let_go()
    assert set(held.answers.values()) == {200} and len(held.answers) == 3
    wait_until(lambda: gate(server, "route prefix /wait")["running"] == 0, "the gate to be empty")


def test_what_may_not_wait_is_refused_at_once(launch, root):
    server = launch(root, workers=3, routes=[{"match": {"prefix": "/wait"}, "max_concurrency": 1, "max_waiting": 0}])
    held = Held(server, root, ["a"])
    try:
        wait_until(lambda: held.running() == 1, "the first to run")
        refused = server.get("/wait.php?until=b")
        assert refused.status == 503 and refused.header("retry-after") == "1"
    finally:
        held.let_go()
    assert held.answers == {"a": 200}


def test_a_request_waits_at_the_gate_for_queue_timeout(launch, root):
    server = launch(root, workers=3, php={"queue_timeout": "100ms"},
                    routes=[{"match": {"prefix": "/wait"}, "max_concurrency": 1}])
    held = Held(server, root, ["a"])
    try:
        wait_until(lambda: held.running() == 1, "the first to run")
        assert server.get("/wait.php?until=b").status == 503
        assert gate(server, "route prefix /wait")["waiting"] == 0
    finally:
        held.let_go()


def test_a_client_that_leaves_does_not_free_the_worker_of_its_request(launch, root):
    server = launch(root, workers=3, routes=[{"match": {"prefix": "/wait"}, "max_concurrency": 1}])
    with server.connect() as c:
        c.send(b"GET /wait.php?until=left HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until((root / "left.started").exists, "the request to run")
        c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
    wait_until(lambda: look(server, "client_aborts") == 1, "the client to be missed")
    held = Held(server, root, ["a"])
    try:
        wait_until(lambda: gate(server, "route prefix /wait")["waiting"] == 1, "one to wait")
        assert held.running() == 0
        (root / "left").touch()
        wait_until(lambda: held.running() == 1, "the next to run")
    finally:
        (root / "left").touch()
        held.let_go()
    assert held.answers == {"a": 200}


def test_slow_requests_hold_a_share_of_the_workers_at_most(launch, root):
    server = launch(root, workers=4)
    teach(server)
    held = Held(server, root, "abcdef")
    try:
        wait_until(lambda: lane(server)["waiting"] == 4 and held.running() == 2, "two to run and four to wait")
        assert lane(server)["limit"] == 2
        teach(server, 30)
        wait_until(lambda: min(p["duration_us"] for p in json.loads(server.admin("/server?json&full").text)["pools"][0]
                               ["processes"] if p["state"] == "running") > 150000, "them to be slow")
    finally:
        held.let_go()
    assert list(held.answers.values()) == [200] * 6
    wait_until(lambda: lane(server)["running"] == 0 and lane(server)["waiting"] == 0, "the lane to be empty")
    [slow] = look(server)[0]["slow"]
    assert slow["requests"] == "/wait.php"


def test_slow_requests_of_two_kinds_share_the_lane(launch, root):
    server = launch(root, workers=4)
    teach(server)
    one, two = Held(server, root, "abc"), Held(server, root, "xyz", "/other.php")
    try:
        wait_until(lambda: lane(server)["waiting"] == 4 and one.running() + two.running() == 2, "four to wait")
        teach(server)
    finally:
        one.let_go()
        two.let_go()
    assert [*one.answers.values(), *two.answers.values()] == [200] * 6


@pytest.mark.parametrize("php", [{}, {"slow_lane": False}])
def test_all_workers_may_be_slow_where_nobody_suffers_or_it_is_switched_off(launch, root, php):
    server = launch(root, workers=4, php=php)
    if php:
        teach(server)
    held = Held(server, root, "abcd")
    try:
        wait_until(lambda: held.running() == 4, "all of them to run")
    finally:
        held.let_go()


def test_gates_count_over_all_gateway_threads(launch, root):
    server = launch(root, workers=4, server={"gateway_threads": 3},
                    routes=[{"match": {"prefix": "/wait"}, "max_concurrency": 2}])
    held = Held(server, root, "abcdefgh")
    try:
        wait_until(lambda: gate(server, "route prefix /wait")["waiting"] == 6 and held.running() == 2,
                   "two to run and six to wait")
    finally:
        held.let_go()
    assert list(held.answers.values()) == [200] * 8


def test_what_waits_at_a_gate_goes_to_the_next_generation(launch, root):
    server = launch(root, workers=3, routes=[{"match": {"prefix": "/wait"}, "max_concurrency": 1}])
    held = Held(server, root, ["a", "b"])
    try:
        wait_until(lambda: gate(server, "route prefix /wait")["waiting"] == 1, "one to wait")
        assert server.admin("/reload", method="POST").status == 200
    finally:
        held.let_go()
    assert held.answers == {"a": 200, "b": 200}
