"""Images of entry scripts across reloads: a deployed release begins to serve together with its images, so nobody who asks
for such a script finds it without one; a release whose image is slow, or cannot be made, serves all the same."""
import collections
import os
import re
import signal
import subprocess
import threading

import pytest

from lib import account
from lib.httpclient import Connection
from lib.images import active, images
from lib.operations import upgrade
from lib.process import wait_until
from lib.roles import pools, title
from lib.sapid import binary

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

RELEASE = """<?php
if (!restore_state()) {
    $boot = getmypid();
    %s
    snapshot_state();
}
echo '%s ', getmypid() === $boot ? 'classic' : 'image';
"""
SCRIPTS = ("/", "/b.php", "/c.php")


class Site:
    """A document root that is a link to the release of the moment."""

    def __init__(self, launch, **options):
        self.folder = launch.new_root()
        self.link = self.folder / "current"
        self.release("v1")
        self.server = launch(self.link, workers=options.pop("workers", 2), server=options.pop("server", {}),
                             expect_errors=options.pop("expect_errors", False), php={"snapshot_wait": "5m", **options})
        for path in SCRIPTS:
            wait_until(lambda path=path: self.server.get(path).text == "v1 image", f"an image of {path}", 60, interval=0.05)

    def release(self, name, boot=""):
        root = self.folder / name
        root.mkdir()
        for script in ("index.php", "b.php", "c.php"):
            (root / script).write_text(RELEASE % (boot, name))
        account.give(self.folder)
        new = self.folder / "next"
        new.symlink_to(name)
        os.rename(new, self.link)
        return root

    def reload(self):
        done = self.server.log_text().count("reload done in")
        self.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.server.log_text().count("reload done in") > done, "the reload", 120)


class Load:
    """Clients that ask for all scripts and keep what they are answered."""

    def __init__(self, server, clients=3):
        self.server, self.answers, self.broken = server, collections.Counter(), []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]

    def _ask(self, n):
        while not self._stop.is_set():
            try:
                with Connection(self.server.address, timeout=60) as c:
                    for _ in range(20):
                        r = c.request("GET", SCRIPTS[n % len(SCRIPTS)])
                        n += 1
                        with self._lock:
                            self.answers[r.text if r.status == 200 else r.status] += 1
                        if not r.keeps_alive or self._stop.is_set():
                            break
            except (AssertionError, OSError) as e:
                self.broken.append(repr(e))

    def __enter__(self):
        for t in self._threads:
            t.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for t in self._threads:
            t.join()

    def await_answers(self, text, more=60):
        target = self.answers[text] + more
        wait_until(lambda: self.answers[text] >= target, f"{more} answers {text!r}, not {self.answers}", 60)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_release_begins_with_its_images(launch, threads):
    site = Site(launch, server={"gateway_threads": threads})
    with Load(site.server) as load:
        load.await_answers("v1 image")
        for name in ("v2", "v3"):
            site.release(name)
            site.reload()
            load.await_answers(f"{name} image")
    assert set(load.answers) == {"v1 image", "v2 image", "v3 image"} and not load.broken, (load.answers, load.broken[:3])
    assert {i["generation"] for i in active(site.server).values()} == {3}
    wait_until(lambda: len(pools(site.server)) == 1 + len(SCRIPTS), "the old ones to end", 60)


def test_with_another_gateway(launch):
    site = Site(launch)
    with Load(site.server) as load:
        site.release("v2")
        text = site.server.config_path.read_text()
        site.server.config_path.write_text(text.replace("[server]", "[server]\nmax_header_count = 90"))
        site.reload()
        load.await_answers("v2 image")
    assert set(load.answers) <= {"v1 image", "v2 image"} and not load.broken, (load.answers, load.broken[:3])


def test_a_slow_boot_follows(launch):
    site = Site(launch, snapshot_wait="100ms")
    with Load(site.server) as load:
        load.await_answers("v1 image")
        root = site.release("v2", "while (snapshot_boots() && !file_exists(__DIR__ . '/go')) { usleep(2000); clearstatcache(); }")
        site.reload()
        load.await_answers("v2 classic")
        site.server.expect_log("is not ready within snapshot_wait")
        (root / "go").touch()
        load.await_answers("v2 image")
    assert set(load.answers) <= {"v1 image", "v1 classic", "v2 classic", "v2 image"} and not load.broken, load.answers
    wait_until(lambda: len(active(site.server)) == len(SCRIPTS), "all of them", 60)


def test_a_broken_boot_leaves_classic_mode(launch):
    site = Site(launch, expect_errors=True)
    with Load(site.server) as load:
        load.await_answers("v1 image")
        site.release("v2", "if (snapshot_boots()) throw new Exception('not as an image');")
        site.reload()
        load.await_answers("v2 classic")
    assert set(load.answers) == {"v1 image", "v2 classic"} and not load.broken, (load.answers, load.broken[:3])
    said = re.findall(r"there is no image of (\S+), whose requests will run in classic mode: ", site.server.log_text())
    assert sorted(said) == ["/b.php", "/c.php", "/index.php"]
    found = images(site.server)
    assert found["refused"] == 3 and not found["active"] and found["last_refusal"]
    wait_until(lambda: not [p for p in pools(site.server) if "-image" in title(p)], "the old images to end", 60)
    site.release("v3")
    site.reload()
    for path in SCRIPTS:    # nobody has one to bring along, but each may ask at once
        wait_until(lambda path=path: site.server.get(path).text == "v3 image", f"an image of {path}", 60, interval=0.05)


def test_a_release_that_fails_its_probe_leaves_the_images_alone(launch):
    site = Site(launch, expect_errors=True, probe=["/b.php"])
    with Load(site.server) as load:
        load.await_answers("v1 image")
        site.release("v2", "if (!snapshot_boots()) throw new Exception('unfit');")
        site.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "not fit to serve" in site.server.log_text(), "the refusal", 120)
        load.await_answers("v1 image")
    assert set(load.answers) == {"v1 image"} and not load.broken, (load.answers, load.broken[:3])
    wait_until(lambda: len(pools(site.server)) == 1 + len(SCRIPTS), "what was begun to end", 60)


def test_a_rollback_at_once_brings_the_images_back(launch):
    site = Site(launch)
    (site.folder / "v1" / "wait.php").write_text("<?php touch(__DIR__ . '/started'); "
                                                 "while (!file_exists(__DIR__ . '/go')) { usleep(2000); clearstatcache(); }")
    with site.server.connect() as c, Load(site.server) as load:
        c.send(b"GET /wait.php HTTP/1.1\r\nHost: a\r\n\r\n")    # keeps release v1's generation there
        wait_until(lambda: (site.folder / "v1" / "started").exists(), "a request to run")
        site.release("v2")
        site.reload()
        load.await_answers("v2 image")
        command = [binary(), "reload", "--rollback", "--config", site.server.config_path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "rollback done" in done.stdout, done
        load.await_answers("v1 image")
        (site.folder / "v1" / "go").touch()
        assert c.read_response().status == 200
    assert {"v1 image", "v2 image"} <= set(load.answers) and "v2 classic" not in load.answers and not load.broken, load.answers


def test_an_upgrade_begins_with_the_images_too(launch):
    site = Site(launch)
    with Load(site.server) as load:
        load.await_answers("v1 image")
        site.release("v2")
        old = upgrade(site.server)
        load.await_answers("v2 image")
    wait_until(lambda: not old.running(), "the old program to end", 60)
    assert set(load.answers) == {"v1 image", "v2 image"} and not load.broken, (load.answers, load.broken[:3])
