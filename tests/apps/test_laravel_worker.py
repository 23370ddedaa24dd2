"""A Laravel application in worker mode by sapid/runtime's LaravelRunner: forms, sessions, authentication, uploads, ten
thousand requests, PHP-FPM's answers, and nothing of one request in the next.

laravel/octane cannot be had from Packagist here; its contract with FrankenPHP's worker mode (env, max requests, what is
put back between requests) is what LaravelRunner keeps.
"""
import hashlib
import re

import pytest

from lib.forms import form
from lib.image import png
from lib.laravel import SHOP, LaravelApp
from lib.pages import check_page
from lib.shop import Visitor, check_ten_thousand_requests

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]


@pytest.fixture(scope="module")
def app(launch_module, mariadb):
    return LaravelApp(launch_module.folder / "app", mariadb)


@pytest.fixture(scope="module")
def server(launch_module, app):
    return launch_module(app.root / "public", workers=2, worker={"script": str(app.root / "public/worker.php"), "num": 2},
                         env={**app.env, "MAX_REQUESTS": "700"}, ini={"upload_max_filesize": "8M", "post_max_size": "9M"},
                         expect_errors=True)


@pytest.fixture(scope="module")
def one(launch_module, app):
    """One process, so that every request meets what the one before left."""
    return launch_module(app.root / "public", workers=1, env=app.env,
                         worker={"script": str(app.root / "public/worker.php"), "num": 1})


@pytest.fixture(scope="module")
def fpm(launch_module, app):
    return launch_module(app.root / "public", kind="fpm", workers=2, env=app.env, front_controller="index.php", expect_errors=True)


@pytest.fixture
def user(server):
    s = server.session()
    yield s
    s.close()


def plain(text: str) -> str:
    """Without what is random in each answer: tokens of forms, names in dumps."""
    return re.sub(r"sf-dump-\d+", "sf-dump", re.sub(r'(name="_token" value=")[^"]*', r"\1", text))


@pytest.mark.parametrize("target", ["/", "/?page=2", "/product/9", "/product/999", "/product/new", "/api/products/9",
                                    "/api/products/999", "/no/such/route", "/teapot", "/boom", "/echo/a%20b?x=1&y[]=2", "/state",
                                    "/upload", "/me", "/dd"])
def test_answers_are_php_fpms(server, fpm, target):
    ours, theirs = server.get(target), fpm.get(target)
    assert ours.status == theirs.status
    for name in ("content-type", "cache-control"):
        assert ours.header(name) == theirs.header(name)
    port = lambda text, s: text.replace(str(s.port), "PORT")
    assert port(ours.header("location") or "", server) == port(theirs.header("location") or "", fpm)
    assert port(plain(ours.text), server) == port(plain(theirs.text), fpm)


def test_nothing_of_a_request_is_in_the_next(one):
    pristine = one.get("/state").json()
    for _ in range(3):
        assert one.get("/change").text == "changed"
        assert one.get("/state").json() == pristine
    assert pristine["locale"] == "en" and pristine["shop"] == "The Shop\n" and pristine["user"] is None and pristine["calls"] == 1


def test_an_open_transaction_is_rolled_back(one, mariadb):
    assert one.get("/transaction").text == "left open"
    assert "Product 1<" in one.get("/").text
    assert mariadb.sql("SELECT name FROM products WHERE id = 1", "laravel") == [["Product 1"]]


def test_form_errors_then_success(user, mariadb):
    page = check_page(user.get("/product/new"))
    f = form(page, field="name").set("name", "").set("price", "-3")
    bad = check_page(f.submit(user, page, "save"), text="The name field is required.")
    assert "The price field must be greater than 0." in bad.text and 'value="-3"' in bad.text
    assert "is required" not in user.get("/product/new").text, "errors are shown once"
    f = form(page, field="name").set("name", "Gouda <jung>").set("price", "12.34").set("description", "first\nÜber 猫")
    done = check_page(f.submit(user, page, "save"), text="Saved “Gouda &lt;jung&gt;”.")
    assert re.search(r"/product/\d+$", done.url) and "Über 猫" in done.text
    assert mariadb.sql("SELECT price FROM products WHERE name = 'Gouda <jung>'", "laravel") == [["12.34"]]
    assert "Saved" not in user.get(done.url).text, "a flash message is shown once"


def test_a_form_without_its_token_is_refused(user):
    assert user.request("POST", "/product/new", data={"name": "x", "price": "1"}).status == 419


def test_upload_and_download(user):
    picture = png(300, 200)
    page = user.get("/upload")
    done = form(page, field="file").submit(user, page, "send", files=[("file", "p.png", picture, "image/png")])
    assert done.status == 200 and done.body == picture and done.url.endswith(f"/download/{hashlib.sha1(picture).hexdigest()}.png")
    assert "filename*=utf-8''l%C3%B6ad.png" in done.header("content-disposition")
    page = user.get("/upload")
    bad = form(page, field="file").submit(user, page, "send", files=[("file", "p.txt", b"no picture", "image/png")])
    assert "must be a file of type: png" in bad.text


def log_in(s, email):
    page = s.get("/login")
    return form(page, field="email").set("email", email).set("password", "secret").submit(s, page, "in")


def test_each_visitor_is_logged_in_as_themselves(server):
    anna, ben, nobody = (server.session() for _ in range(3))
    try:
        assert log_in(anna, "anna@example.org").text == "Anna may edit"
        assert log_in(ben, "ben@example.org").text == "Ben may not edit"
        assert "Nobody of that name." in log_in(nobody, "carl@example.org").text
        for _ in range(10):
            assert anna.get("/me").text == "Anna may edit" and ben.get("/me").text == "Ben may not edit"
            assert nobody.get("/me").url.endswith("/login")
    finally:
        for s in (anna, ben, nobody):
            s.close()


class LaravelVisitor(Visitor):
    shop = SHOP

    def __init__(self, server, number: int):
        super().__init__(server, number)
        self.name = ("anna", "ben")[number % 2]
        log_in(self.user, f"{self.name}@example.org")

    def actions(self):
        return [*super().actions(), self.invalid, self.change] + [self.page] * 5 + [self.echo] * 4 + [self.who] * 4

    def page(self):
        assert "products</h1>" in self.user.get("/?page=" + str(self.random.randint(1, 3))).text
        return 1

    def who(self):
        assert self.user.get("/me").text.startswith(self.name.capitalize())
        return 1

    def invalid(self):
        page = self.user.get("/product/new")
        bad = form(page, field="name").set("name", "").set("price", str(self.number)).submit(self.user, page, "save")
        assert "The name field is required." in bad.text and f'value="{self.number}"' in bad.text
        return 3

    def echo(self):
        text = f"{self.number}-{self.random.random()}"
        assert self.user.get(f"/echo/x?k={text}").json()["query"] == {"k": text}
        return 1

    def change(self):
        assert self.user.get("/change").text == "changed"
        return 1


def test_ten_thousand_requests(server):
    check_ten_thousand_requests(server, LaravelVisitor)
