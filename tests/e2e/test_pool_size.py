"""Pools whose number of workers changes, and workers that are replaced: on demand, one at a time, never missed."""
import json
import threading

import pytest

from lib import account
from lib.process import wait_until
from lib.roles import Load, workers

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

WAIT = "<?php $f = __DIR__ . '/' . basename($_GET['until']); touch(\"$f.started\"); " \
       "while (!file_exists($f)) { usleep(2000); clearstatcache(); } echo 'done';"


@pytest.fixture
def root(launch):
    folder = launch.folder / "app"
    folder.mkdir()
    for name, text in {"index": "<?php echo 'hi';", "wait": WAIT,
                       "echo": "<?php echo $_GET['n'];"}.items():
        (folder / f"{name}.php").write_text(text)
    account.give(folder)
    return folder


class Held:
    def __init__(self, server, root, names):
        self.root, self.names, self.answers = root, list(names), {}
        self.threads = [threading.Thread(target=self._get, args=(server, n)) for n in self.names]
        for t in self.threads:
            t.start()

    def _get(self, server, name):
        with server.connect() as c:
            self.answers[name] = c.request("GET", f"/wait.php?until={name}").status

    def running(self):
        return sum((self.root / f"{n}.started").exists() for n in self.names)

    def let_go(self):
        for n in self.names:
            (self.root / n).touch()
        for t in self.threads:
            t.join(60)


def size(server):
    pool = json.loads(server.admin("/server?json").text)["pools"][0]
    return pool["idle"] + pool["active"]


def start(launch, root, pool_size, **php):
    return launch(root, php={"worker_pool_size": pool_size, **php})


def test_workers_start_on_demand_and_end_when_idle(launch, root):
    server = start(launch, root, {"min": 0, "max": 4}, worker_idle_timeout="100ms", slow_lane=False)
    wait_until(lambda: len(workers(server)) == 0, "the first worker to end")
    assert "ondemand" in server.admin("/status").text
    held = Held(server, root, "abc")
    try:
        wait_until(lambda: held.running() == 3, "three requests to run")
        wait_until(lambda: len(workers(server)) == 3, "no worker more than they need")
    finally:
        held.let_go()
    assert list(held.answers.values()) == [200] * 3
    wait_until(lambda: len(workers(server)) == 0, "all of them to end")
    assert server.get("/").text == "hi"


def test_there_are_never_more_than_max(launch, root):
    server = start(launch, root, {"min": 0, "max": 2}, worker_idle_timeout="100ms", slow_lane=False)
    held = Held(server, root, "abcd")
    try:
        wait_until(lambda: json.loads(server.admin("/status?json").text)["listen queue"] == 2
                   and held.running() == 2, "two to run and two to wait")
        assert len(workers(server)) == 2
    finally:
        held.let_go()
    assert list(held.answers.values()) == [200] * 4


def test_spare_workers_are_started_in_advance(launch, root):
    server = start(launch, root, {"min": 1, "max": 8, "spare": 2}, worker_idle_timeout="100ms", slow_lane=False)
    wait_until(lambda: size(server) == 2, "two idle ones")
    assert "dynamic" in server.admin("/status").text
    held = Held(server, root, "abc")
    try:
        wait_until(lambda: held.running() == 3 and size(server) == 5, "three busy ones and two idle ones")
    finally:
        held.let_go()
    wait_until(lambda: size(server) == 2, "the rest to end")


def test_a_pool_that_grows_and_shrinks_loses_nothing(launch, root):
    server = start(launch, root, {"min": 0, "max": 4}, worker_idle_timeout="1ms")
    with Load(server.address, "/echo.php?n=") as load:
        wait_until(lambda: load.count() > 1500, "answers")
    assert list(load.answers) == [200] and not load.mixed and not load.broken


@pytest.mark.parametrize("setting", [{"worker_max_age": "200ms"}, {"worker_max_requests": 3000},
                                     {"worker_max_memory": "1M"}])
def test_workers_are_replaced_while_they_serve(launch, root, setting):
    server = start(launch, root, 2, **setting)

    def both():
        found = set(workers(server))
        return found if len(found) >= 2 else None
    first = wait_until(both, "two workers")
    least, most = 2, 0
    with server.connect() as c:
        def all_replaced():
            nonlocal least, most
            for _ in range(20):
                assert c.request("GET", "/echo.php?n=1").text == "1"
            now = set(workers(server))
            least, most = min(least, len(now)), max(most, len(now))
            return not first & now
        wait_until(all_replaced, "both workers to be replaced")
    assert least >= 2 and most <= 3, (least, most)


def test_what_the_size_means_is_said_at_the_start(launch, root):
    server = start(launch, root, {"min": 1, "max": 3, "spare": 1})
    server.expect_log("3 workers (at most; at least 1, 1 idle in advance)")
