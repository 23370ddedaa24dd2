"""The Symfony application in worker mode with isolation by rollback, its connection to MariaDB put back after every request:
the same tests, PHP-FPM's answers, and users who see only their own."""
import random
import threading
import time

import pytest

from lib import roles
from lib.process import wait_until
from apps.test_symfony_worker import *  # noqa: F401,F403  its tests run here too, on the server below

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]


@pytest.fixture(scope="module")
def server(launch_module, app):
    worker = {"script": str(app.root / "public/worker.php"), "num": 3, "isolation": "rollback", "snapshot_sockets": "reset"}
    return launch_module(app.root / "public", workers=2, worker=worker, env={**app.env, "FRANKENPHP_LOOP_MAX": "400"},
                         ini={"upload_max_filesize": "8M", "post_max_size": "9M"}, server={"max_body_size": "10M"}, log={"level": "info"})


def test_worker_mode_is_on(server):
    for _ in range(20):
        assert server.get("/").status == 200
    wait_until(lambda: len([pid for pid in roles.workers(server) if "worker www-worker" in roles.title(pid)]) == 3, "its workers")
    server.expect_log("is reset after every request")


def test_ten_thousand_requests(server):
    """Worker mode's own; here it is users in random order, each of whom must see nobody else's text."""
    problems, end = [], time.monotonic() + 15

    def browse(name):
        dice = random.Random(name)
        with_session = server.session()
        while time.monotonic() < end and not problems:
            target = dice.choice(["/", "/product/9", "/product/new", "/api/products/9", "/teapot", f"/echo/{name}?user={name}"])
            r = with_session.get(target, headers={"X-User": name})
            others = [other for other in names if other != name and other in r.text]
            if others or (target.startswith("/echo") and name not in r.text):
                problems.append(f"{name} {target}: {others} {r.text[:200]}")
        with_session.close()
    names = [f"user{i}of{i}" for i in range(4)]
    threads = [threading.Thread(target=browse, args=(name,)) for name in names]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not problems, problems[:3]


def test_nothing_that_the_warmup_read_is_in_the_image(server, mariadb):
    """Doctrine gives an entity that it knows without looking again."""
    for i in range(4):
        mariadb.sql(f"UPDATE product SET name = 'name {i}' WHERE id = 11", "symfony")
        assert server.get("/api/products/11").json()["name"] == f"name {i}"
