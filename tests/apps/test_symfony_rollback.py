"""The Symfony application in worker mode with isolation = "rollback": the tests of worker mode, PHP-FPM's answers."""
import pytest

from lib import roles
from lib.process import wait_until
from apps.test_symfony_worker import *  # noqa: F401,F403  every test of it runs here too, on the server below

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]


@pytest.fixture(scope="module")
def server(launch_module, app):
    return launch_module(app.root / "public", workers=2, env=app.env,
                         worker={"script": str(app.root / "public/worker.php"), "num": 3, "isolation": "rollback",
                                 "warmup": ["/teapot", "/echo/x", "/upload", "/stream", "/no/such/route"]},
                         ini={"upload_max_filesize": "8M", "post_max_size": "9M"}, server={"max_body_size": "10M"})


def test_worker_mode_is_on(server):
    for _ in range(20):
        assert server.get("/").status == 200

    def complete() -> bool:
        titles = [roles.title(pid) for pid in roles.workers(server)]
        return titles.count("sapid: image www-worker") == 1 and titles.count("sapid: worker www-worker") == 3
    wait_until(complete, "an image and its workers")
