"""The Symfony application of test_symfony.py in worker mode: the same tests, ten thousand requests, PHP-FPM's answers."""
import re

import pytest

from lib import roles, sapid
from lib.forms import form
from lib.shop import Visitor, check_ten_thousand_requests, loops
from lib.symfony import SHOP, SymfonyApp
from apps.test_symfony import *  # noqa: F401,F403  every test of it runs here too, on the server below

pytestmark = pytest.mark.sapid_only
DATABASE = "symfony_worker"


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
    app.take_runner()
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
    found = loops(server)
    assert len(found) == 3
    assert all(int(roles.status_field(pid, "voluntary_ctxt_switches")) > 0 for pid in found)


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


class SymfonyVisitor(Visitor):
    shop = SHOP

    def actions(self):
        return [*super().actions(), self.invalid] + [self.page] * 5 + [self.echo] * 4

    def page(self):
        assert "<h1>" in self.user.get("/?page=" + str(self.random.randint(1, 3))).text
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


@pytest.mark.engine_only   # PHP-FPM has no loop to look at
def test_ten_thousand_requests(server):
    check_ten_thousand_requests(server, SymfonyVisitor)
