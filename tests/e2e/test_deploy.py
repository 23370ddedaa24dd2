"""Deploys as people make them, under load: the document root is a symlink that moves and is followed by `sapid reload`, or files
change beneath opcache, which is told of it. No request fails, and none that comes behind the switch sees what was before."""
import shutil
import subprocess
import threading
import time

import pytest

from lib import account
from lib.process import wait_until
from lib.roles import pools
from lib.sapid import binary

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

PAGE = """<?php
require_once __DIR__ . '/lib/release.php';
$realpath = basename(dirname(realpath($_SERVER['DOCUMENT_ROOT'] . '/lib/release.php'), 2));
echo json_encode([RELEASE, trim(file_get_contents('release.txt')), basename(__DIR__), $realpath, basename(getcwd())]);
"""
LOOP = """<?php
require_once __DIR__ . '/lib/release.php';
while (frankenphp_handle_request(function () { chdir(__DIR__); include __DIR__ . '/page.php'; }));
"""


def make_release(releases, number: int):
    release = releases / f"r{number}"
    (release / "lib").mkdir(parents=True)
    (release / "page.php").write_text(PAGE)
    (release / "loop.php").write_text(LOOP)
    (release / "lib" / "release.php").write_text(f"<?php const RELEASE = 'r{number}';")
    (release / "release.txt").write_text(f"r{number}\n")
    account.give(releases)
    return release


def switch(releases, number: int) -> None:
    (releases / "next").symlink_to(f"r{number}")
    (releases / "next").rename(releases / "current")


class Load:
    """Requests from several threads; each answer with the times at which it was asked for and had."""

    def __init__(self, server, targets, threads=4):
        self.server, self.targets = server, targets
        self.stop_it = threading.Event()
        self.answers: list[tuple[float, float, int, str, str]] = []
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]
        [t.start() for t in self.threads]

    def _run(self, i: int) -> None:
        n, connection = i, None
        while not self.stop_it.is_set():
            n += 1
            target = self.targets[n % len(self.targets)]
            asked = time.monotonic()
            try:
                connection = connection or self.server.connect()
                answer = connection.request("GET", target)
                self.answers.append((asked, time.monotonic(), answer.status, target, answer.text.strip()))
                kept = answer.keeps_alive and n % 7
            except Exception as e:
                self.answers.append((asked, time.monotonic(), 0, target, repr(e)))
                kept = False
            if not kept and connection:
                connection.close()
                connection = None

    def more(self, count: int) -> None:
        before = len(self.answers)
        wait_until(lambda: len(self.answers) >= before + count, "answers")

    def stop(self):
        self.stop_it.set()
        [t.join() for t in self.threads]
        return sorted(self.answers)


@pytest.mark.parametrize("mode", ["classic", "worker", "rollback"])
def test_a_moved_symlink_under_load(launch, mode):
    releases = launch.folder / "releases"
    make_release(releases, 0)
    (releases / "current").symlink_to("r0")
    worker = {}
    if mode != "classic":
        worker = {"script": str(releases / "current" / "loop.php"), "num": 2, "isolation": "none" if mode == "worker" else mode}
    server = launch(releases / "current", workers=2, worker=worker,
                    ini={"opcache.revalidate_freq": "60", "realpath_cache_ttl": "600"})
    pages = ["/page.php", "/release.txt"] if mode == "classic" else ["/any", "/release.txt"]
    processes = len(pools(server))
    load = Load(server, pages)
    switches = [(0.0, 0.0)]
    for number in range(1, 6):
        load.more(100)
        make_release(releases, number)
        switch(releases, number)
        moved = time.monotonic()
        done = subprocess.run([str(binary()), "reload", "--socket", str(server.admin_path)],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        switches.append((moved, time.monotonic()))
        wait_until(lambda: len(pools(server)) == processes, "the old release to end")
        shutil.rmtree(releases / f"r{number - 1}") if number > 1 else None
    load.more(100)
    answers = load.stop()
    wrong = []
    for asked, had, status, target, text in answers:
        newest = max(n for n, (moved, _) in enumerate(switches) if moved <= had)
        oldest = max(n for n, (_, done) in enumerate(switches) if done <= asked)
        allowed = [f"r{n}" for n in range(oldest, newest + 1)]
        seen = [text] if target == "/release.txt" else text.strip("[]").replace('"', "").split(",")
        # One answer is of one release; and not of an old one once `sapid reload` has said that the new one serves.
        if status != 200 or len(set(seen)) != 1 or seen[0] not in allowed:
            wrong.append((target, status, text, allowed))
    assert not wrong, (len(wrong), len(answers), wrong[:5])
    assert {text for *_, text in answers if "release.txt" in _[-1]} == {f"r{n}" for n in range(6)}


@pytest.mark.parametrize("file_cache", [False, True], ids=["memory", "file-cache"])
def test_invalidated_scripts_under_load(launch, workdir, file_cache):
    """Without timestamps, opcache_invalidate() is how all workers learn of a change; opcache_get_status() looks on meanwhile."""
    root = launch.new_root()
    (root / "page.php").write_text("<?php require __DIR__ . '/version.inc'; echo VERSION;")
    (root / "look.php").write_text("<?php $s = opcache_get_status(true); echo json_encode([$s['opcache_enabled'], count($s['scripts']) > 0, opcache_get_configuration()"
                                   "['directives']['opcache.validate_timestamps']]);")
    (root / "change.php").write_text("<?php file_put_contents(__DIR__ . '/version.new', '<?php const VERSION = \"v' . $_GET['n'] . '\";');"
                                     "rename(__DIR__ . '/version.new', __DIR__ . '/version.inc'); echo (int)opcache_invalidate(__DIR__ . '/version.inc', true),"
                                     " (int)opcache_compile_file(__DIR__ . '/version.inc'), (int)opcache_is_script_cached(__DIR__ . '/version.inc');")
    (root / "version.inc").write_text("<?php const VERSION = 'v0';")
    (root / "cache").mkdir()
    account.give(root)
    ini = {"opcache.validate_timestamps": "0", "opcache.file_update_protection": "0",
           **({"opcache.file_cache": str(root / "cache")} if file_cache else {})}
    server = launch(root, workers=4, ini=ini)
    load = Load(server, ["/page.php", "/look.php", "/page.php"])
    changes = [(0.0, 0.0)]
    for n in range(1, 31):
        begun = time.monotonic()
        assert server.get(f"/change.php?n={n}").text == "111"
        changes.append((begun, time.monotonic()))
        load.more(12)
    wrong = []
    for asked, had, status, target, text in load.stop():
        newest = max(n for n, (begun, _) in enumerate(changes) if begun <= had)
        oldest = max(n for n, (_, done) in enumerate(changes) if done <= asked)
        good = text == "[true,true,false]" if target == "/look.php" else text in [f"v{n}" for n in range(oldest, newest + 1)]
        if status != 200 or not good:
            wrong.append((target, status, text, oldest, newest))
    assert not wrong, (len(wrong), wrong[:5])
