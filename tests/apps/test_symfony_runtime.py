"""The Symfony application with symfony/runtime and Symfony's own public/index.php as the worker script.

symfony/runtime is Debian's 5.4, which knows no worker mode: sapid/runtime (packaging/php), installed by Composer, gives it
one by APP_RUNTIME. The same index.php answers under PHP-FPM with symfony/runtime alone.
"""
import os
import signal

import pytest

from lib import roles, sapid
from lib.process import wait_until
from lib.symfony import SymfonyApp
from apps.test_symfony_worker import Database, plain
from apps.test_symfony import *  # noqa: F401,F403  every test of it runs here too, on the server below

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]
DATABASE = "symfony_runtime"
LOOP_MAX = 40


@pytest.fixture(scope="module")
def mariadb(mariadb):
    return Database(mariadb, DATABASE)


@pytest.fixture(scope="module")
def app(launch_module, mariadb):
    app = SymfonyApp(launch_module.folder / "app", mariadb, [str(sapid.binary()), "php"], DATABASE, runtime=True)
    app.fill(mariadb, 120, DATABASE)
    return app


@pytest.fixture(scope="module")
def server(launch_module, app):
    return launch_module(app.root / "public", workers=2, worker={"script": str(app.root / "public/index.php"), "num": 2},
                         env={**app.env, "APP_RUNTIME": "Sapid\\Runtime\\SymfonyRuntime", "FRANKENPHP_LOOP_MAX": str(LOOP_MAX)},
                         ini={"upload_max_filesize": "8M", "post_max_size": "9M"}, server={"max_body_size": "10M"})


@pytest.fixture(scope="module")
def fpm(launch_module, app):
    return launch_module(app.root / "public", kind="fpm", workers=2, env=app.env, front_controller="index.php", expect_errors=True)


@pytest.fixture
def user(server):
    s = server.session()
    yield s
    s.close()


@pytest.mark.parametrize("target", ["/", "/?page=2", "/product/9", "/product/new", "/api/products/9", "/no/such/route",
                                    "/teapot", "/boom", "/echo/a%20b?x=1", "/cached", "/stream", "/upload"])
def test_answers_are_php_fpms(server, fpm, target):
    ours, theirs = server.get(target), fpm.get(target)
    assert ours.status == theirs.status
    for name in ("content-type", "cache-control"):
        assert ours.header(name) == theirs.header(name)
    assert plain(ours.text).replace(str(server.port), "PORT") == plain(theirs.text).replace(str(fpm.port), "PORT")


def test_the_kernel_stays_booted(server):
    """One page tells which process answered and how many requests its kernel has seen."""
    seen = {}
    for _ in range(3 * LOOP_MAX):
        life = server.get("/life").json()
        seen.setdefault((life["pid"], life["kernel"]), []).append(life["requests"])
        assert life["mode"] == "web=1&worker=1"
    assert max(max(numbers) for numbers in seen.values()) > LOOP_MAX // 4, "kernels outlive requests"
    assert max(max(numbers) for numbers in seen.values()) <= LOOP_MAX, "and the script starts afresh after FRANKENPHP_LOOP_MAX"
    assert len({pid for pid, _ in seen}) <= 2, "in the same processes"


def test_without_the_package_it_is_classic_mode(launch, app):
    """symfony/runtime 5.4 alone handles one request and ends: as a worker script it never asks for one."""
    s = launch(app.root / "public", workers=1, env=app.env, worker={"script": str(app.root / "public/index.php"), "num": 1},
               expect_errors=True)
    assert s.get("/").status == 500
    wait_until(lambda: "ended before it called frankenphp_handle_request()" in s.log_text(), "the reason in the log")


def test_a_killed_worker_is_replaced(launch, app):
    s = launch(app.root / "public", workers=1, worker={"script": str(app.root / "public/index.php"), "num": 1}, expect_errors=True,
               env={**app.env, "APP_RUNTIME": "Sapid\\Runtime\\SymfonyRuntime"})
    first = s.get("/life").json()
    os.kill(first["pid"], signal.SIGKILL)
    second = s.get("/life").json()
    assert second["pid"] != first["pid"] and second["requests"] == 1
    assert roles.alive(second["pid"])
