"""fpm_get_status(): the same keys in the same order, of the same types, as PHP-FPM's."""
import shutil
from pathlib import Path

import pytest

from lib import account

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]


def test_fpm_get_status(launch):
    root = launch.new_root()
    shutil.copy(Path(__file__).parents[1] / "e2e" / "php" / "fpm-status.php", root)
    account.give(root)
    ours, theirs = (launch(root, kind=kind, workers=2) for kind in ("sapid", "fpm"))
    types = [server.get("/fpm-status.php?types=1").json() for server in (ours, theirs)]
    assert types[0] == types[1]
    assert [list(part) for part in types[0]] == [list(part) for part in types[1]]
    told = ours.get("/fpm-status.php?a=b", headers={"Authorization": "Basic dXNlcjpzZWNyZXQ="}).json()
    assert told["pool"] == "www" and told["process-manager"] == "static" and told["accepted-conn"] == 2
    assert (told["active-processes"], told["total-processes"]) == (1, 2)
    [running] = [p for p in told["procs"] if p["state"] == "Running"]
    assert running["request-uri"] == "/fpm-status.php" and running["query-string"] == "a=b" and running["user"] == "user"
    assert running["script"] == f"{root}/fpm-status.php" and running["request-method"] == "GET" and running["pid"] > 1


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
        assert [p["request-uri"] for p in told["procs"] if p["state"] == "Running"] == ["/x"]
