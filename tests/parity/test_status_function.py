"""fpm_get_status(): the same keys in the same order, of the same types, as PHP-FPM's."""
import shutil
from pathlib import Path

import pytest

from lib import account
from lib.process import wait_until

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]


def all_idle(server) -> None:
    """Both workers have come, and have done with the requests that were answered."""
    wait_until(lambda: server.admin("/status?json").json()["idle processes"] == 2, "the workers to be idle")


def test_fpm_get_status(launch):
    root = launch.new_root()
    shutil.copy(Path(__file__).parents[1] / "e2e" / "php" / "fpm-status.php", root)
    account.give(root)
    ours, theirs = (launch(root, kind=kind, workers=2) for kind in ("sapid", "fpm"))
    # PHP-FPM crashes (8.2.36: a 502) when it is asked while one of its processes has not begun.
    wait_until(lambda: theirs.get("/fpm-status.php?types=1").status == 200, "FPM to know all of its processes")
    types = [server.get("/fpm-status.php?types=1").json() for server in (ours, theirs)]
    assert types[0] == types[1]
    assert [list(part) for part in types[0]] == [list(part) for part in types[1]]
    all_idle(ours)
    told = ours.get("/fpm-status.php?a=b", headers={"Authorization": "Basic dXNlcjpzZWNyZXQ="}).json()
    assert told["pool"] == "www" and told["process-manager"] == "static" and told["accepted-conn"] == 2
    assert (told["active-processes"], told["total-processes"]) == (1, 2)
    [running] = [p for p in told["procs"] if p["state"] == "Running"]
    assert running["request-uri"] == "/fpm-status.php" and running["query-string"] == "a=b" and running["user"] == "user"
    assert running["script"] == f"{root}/fpm-status.php" and running["request-method"] == "GET" and running["pid"] > 1


def test_what_was_the_most_at_once(launch):
    """Two workers and six requests at once: later, the script knows of it."""
    root = launch.new_root()
    (root / "status.php").write_text("<?php echo json_encode(fpm_get_status());")
    (root / "wait.php").write_text("<?php while (!file_exists(__DIR__ . '/go')) { usleep(2000); clearstatcache(); }")
    account.give(root)
    server = launch(root, workers=2)
    all_idle(server)
    before = server.get("/status.php").json()
    assert (before["max-active-processes"], before["max-listen-queue"], before["max-children-reached"]) == (1, 0, 0)
    waiting = [server.connect() for _ in range(6)]
    for c in waiting:
        c.send(c.format("GET", "/wait.php"))
    wait_until(lambda: server.admin("/status?json").json()["listen queue"] == 4, "four to wait")
    most = server.admin("/status?json").json()["max listen queue"]    # more, if the workers were slow to take two
    assert 4 <= most <= 6
    (root / "go").touch()
    for c in waiting:
        assert c.read_response().status == 200
        c.close()
    all_idle(server)
    after = server.get("/status.php").json()
    assert (after["max-active-processes"], after["max-listen-queue"], after["max-children-reached"]) == (2, most, 1)
    assert (after["active-processes"], after["listen-queue"]) == (1, 0)


@pytest.mark.parametrize("isolation", ["none", "rollback"])
def test_in_worker_mode(launch, isolation):
    root = launch.new_root()
    (root / "loop.php").write_text("<?php while (frankenphp_handle_request(fn () => print json_encode(fpm_get_status())));")
    account.give(root)
    worker = {"script": str(root / "loop.php"), "num": 2}
    server = launch(root, worker=worker | ({"isolation": "rollback"} if isolation == "rollback" else {}))
    for n in (1, 2):
        told = server.get("/x").json()
        assert told["pool"] == "www-worker" and told["accepted-conn"] == n
        # the one before may be about to end
        assert {p["request-uri"] for p in told["procs"] if p["state"] == "Running"} == {"/x"}
