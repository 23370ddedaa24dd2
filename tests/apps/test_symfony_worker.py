"""The Symfony application of test_symfony.py in worker mode: the same tests, ten thousand requests, PHP-FPM's answers."""
import random
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lib import roles, sapid
from lib.forms import form
from lib.image import png
from lib.process import pss_bytes
from lib.symfony import SymfonyApp
from apps.test_symfony import *  # noqa: F401,F403  every test of it runs here too, on the server below

pytestmark = pytest.mark.sapid_only
DATABASE = "symfony_worker"
PACKAGE = Path(__file__).resolve().parents[2] / "packaging" / "php"


class Database:
    """The tests name the database of classic mode; here they mean another."""

    def __init__(self, db, name):
        self.db, self.name = db, name

    def __getattr__(self, name):
        return getattr(self.db, name)

    def sql(self, statement, database=None):
        return self.db.sql(statement, self.name if database == "symfony" else database)


@pytest.fixture(scope="module")
def mariadb(mariadb):
    return Database(mariadb, DATABASE)


@pytest.fixture(scope="module")
def app(launch_module, mariadb):
    app = SymfonyApp(launch_module.folder / "app", mariadb, [str(sapid.binary()), "php"], DATABASE)
    shutil.copytree(PACKAGE, app.root / "vendor/sapid/runtime")
    app.fill(mariadb, 120, DATABASE)
    return app


@pytest.fixture(scope="module")
def server(launch_module, app):
    return launch_module(app.root / "public", workers=2, worker={"script": str(app.root / "public/worker.php"), "num": 3},
                         env={**app.env, "FRANKENPHP_LOOP_MAX": "400"},
                         ini={"upload_max_filesize": "8M", "post_max_size": "9M"}, server={"max_body_size": "10M"})


@pytest.fixture
def user(server):
    s = server.session()
    yield s
    s.close()


@pytest.mark.engine_only   # PHP-FPM has no loop to look at
def test_worker_mode_is_on(server):
    for _ in range(20):
        assert server.get("/").status == 200
    loops = [pid for pid in roles.workers(server) if "www-worker" in roles.title(pid)]
    assert len(loops) == 3
    assert all(int(roles.status_field(pid, "voluntary_ctxt_switches")) > 0 for pid in loops)


def plain(text: str) -> str:
    """Without what is random in each answer: tokens of forms."""
    return re.sub(r'(_token\]" value=")[^"]*', r"\1", text)


@pytest.mark.parametrize("target", ["/", "/?page=2", "/product/9", "/product/new", "/api/products/9", "/no/such/route",
                                    "/teapot", "/boom", "/echo/a%20b?x=1", "/cached", "/stream", "/upload"])
def test_answers_are_php_fpms(launch_module, app, server, target):
    fpm = _fpm(launch_module, app)
    ours, theirs = server.get(target), fpm.get(target)
    assert ours.status == theirs.status
    for name in ("content-type", "cache-control"):
        assert ours.header(name) == theirs.header(name)
    assert plain(ours.text).replace(str(server.port), "PORT") == plain(theirs.text).replace(str(fpm.port), "PORT")


_servers = {}


def _fpm(launch, app):
    if launch not in _servers:
        _servers[launch] = launch(app.root / "public", kind="fpm", workers=2, env=app.env, front_controller="index.php",
                                  expect_errors=True)
    return _servers[launch]


class Visitor:
    """Somebody who does a bit of everything, and checks that the answer is theirs."""

    def __init__(self, server, number: int):
        self.user, self.number, self.count = server.session(), number, 0
        self.random = random.Random(number)

    def page(self):
        assert "<h1>" in self.user.get("/?page=" + str(self.random.randint(1, 3))).text
        return 1

    def session(self):
        self.count += 1
        assert self.user.get("/counter").text == str(self.count)
        return 1

    def invalid(self):
        page = self.user.get("/product/new")
        f = form(page, field="product[name]").set("product[name]", "").set("product[price]", "-1")
        r = f.submit(self.user, page, "product[save]")
        assert r.status == 422 and "A product needs a name." in r.text
        return 2

    def echo(self):
        text = f"{self.number}-{self.random.random()}"
        assert self.user.request("POST", "/echo/", data={"k": text}).json()["form"] == {"k": text}
        return 1

    def error(self):
        assert self.user.get("/teapot").status == 418
        return 1

    def exception(self):
        r = self.user.get("/boom")
        assert r.status == 500 and "boom of the test" not in r.text
        return 1

    def database(self):
        i = self.random.randint(10, 100)
        assert self.user.get(f"/api/products/{i}").json()["name"] == f"Product {i}"
        return 1

    def upload(self):
        picture = png(20 + self.number, 20 + self.random.randint(0, 50))
        page = self.user.get("/upload")
        done = form(page, field="form[file]").submit(self.user, page, "form[send]",
                                                     files=[("form[file]", "p.png", picture, "image/png")])
        assert done.body == picture
        return 3


@pytest.mark.engine_only   # PHP-FPM has no loop to look at
def test_ten_thousand_requests(server):
    total, lock = [0], threading.Lock()
    loops = lambda: [pid for pid in roles.workers(server) if "www-worker" in roles.title(pid)]

    def visit(number):
        visitor = Visitor(server, number)
        actions = [visitor.page] * 6 + [visitor.session] * 6 + [visitor.echo] * 4 + [visitor.database] * 4 + \
            [visitor.error, visitor.exception, visitor.invalid, visitor.upload]
        try:
            while total[0] < 10_000:
                done = visitor.random.choice(actions)()
                with lock:
                    total[0] += done
        finally:
            visitor.user.close()

    before = max(pss_bytes(pid) for pid in loops())
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(visit, range(6)))
    assert total[0] >= 10_000
    assert max(pss_bytes(pid) for pid in loops()) < before + (24 << 20)
