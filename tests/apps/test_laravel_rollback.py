"""The Laravel application in worker mode with isolation = "rollback": the tests of worker mode, PHP-FPM's answers."""
import pytest

from lib import roles
from lib.process import wait_until
from apps.test_laravel_worker import *  # noqa: F401,F403  every test of it runs here too, on the servers below

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

WARMUP = ["/", "/?page=2", "/product/9", "/product/new", "/api/products/9", "/login", "/upload", "/teapot", "/echo/x", "/state", "/me"]


def rolled_back(app, num: int) -> dict:
    """Its connection does not survive the freeze; Laravel connects again by itself."""
    return {"script": str(app.root / "public/worker.php"), "num": num, "isolation": "rollback", "snapshot_sockets": "sever", "warmup": WARMUP}


@pytest.fixture(scope="module")
def server(launch_module, app):
    return launch_module(app.root / "public", workers=2, worker=rolled_back(app, 2), env=app.env,
                         ini={"upload_max_filesize": "8M", "post_max_size": "9M"}, expect_errors=True)


@pytest.fixture(scope="module")
def one(launch_module, app):
    return launch_module(app.root / "public", workers=1, env=app.env, worker=rolled_back(app, 1))


def test_worker_mode_is_on(server):
    for _ in range(20):
        assert server.get("/").status == 200

    def complete() -> bool:
        titles = [roles.title(pid) for pid in roles.workers(server)]
        return titles.count("sapid: image www-worker") == 1 and titles.count("sapid: worker www-worker") == 2
    wait_until(complete, "an image and its workers")
