"""A Symfony application with Doctrine, Twig, forms and sessions, installed from Packagist."""
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib import sapid
from lib.forms import form
from lib.image import png
from lib.pages import check_assets, check_page
from lib.process import wait_until
from lib.symfony import SymfonyApp


@pytest.fixture(scope="module")
def app(launch_module, mariadb, server_kind):
    php = [str(sapid.binary()), "php"] if server_kind == "sapid" else ["php"]
    app = SymfonyApp(launch_module.folder / "app", mariadb, php)
    app.fill(mariadb, 120)
    return app


@pytest.fixture(scope="module")
def server(launch_module, app):
    return launch_module(app.root / "public", workers=3, env=app.env, ini={"upload_max_filesize": "8M", "post_max_size": "9M"},
                         server={"max_body_size": "10M"})


@pytest.fixture
def user(server):
    s = server.session()
    yield s
    s.close()


def test_console_lists_its_routes(app):
    out = app.console("debug:router")
    assert "/product/new" in out and "download" in out


@pytest.mark.usefixtures("quiet")
def test_list_page(user):
    page = check_page(user.get("/"), text="<h1>120 products</h1>")
    assert page.text.count("<tr class=") == 50 and "TOOLS &amp; TOYS" in page.text and "50,50 €" in page.text
    assert 'href="/product/50"' in page.text and 'href="/product/51"' not in page.text
    check_assets(user, page, 2)
    last = check_page(user.get("/?page=3"))
    assert last.text.count("<tr class=") == 20 and "Product 120" in last.text


@pytest.mark.usefixtures("quiet")
def test_form_errors_then_success(user, mariadb):
    page = check_page(user.get("/product/new"))
    f = form(page, field="product[name]")
    bad = check_page(f.set("product[name]", "").set("product[price]", "-3").submit(user, page, "product[save]"), 422, "A product needs a name.")
    assert "A price is above zero." in bad.text
    bad = check_page(form(page, field="product[name]").set("product[price]", "abc").submit(user, page, "product[save]"), 422)
    assert "This value is not a valid number." in bad.text
    f = form(page, field="product[name]").set("product[name]", "Gouda <jung>").set("product[price]", "12.34")
    f.set("product[description]", "first line\nÜber 猫").set("product[category]", "3")
    done = check_page(f.submit(user, page, "product[save]"), text="Saved “Gouda &lt;jung&gt;”.")
    assert re.search(r"/product/\d+$", done.url) and "first line<br />\nÜber 猫" in done.text and "Käse, 12.34 €" in done.text
    assert mariadb.sql("SELECT price, category_id FROM product WHERE name = 'Gouda <jung>'", "symfony") == [["12.34", "3"]]
    assert "Saved" not in user.get(done.url).text, "a flash message is shown once"


@pytest.mark.usefixtures("quiet")
def test_edit_and_delete(user, mariadb):
    page = user.get("/product/7/edit")
    f = form(page, field="product[name]")
    assert f.get("product[name]") == "Product 7" and f.get("product[category]") == "2"
    check_page(f.set("product[name]", "Seven").submit(user, page, "product[save]"), text="Seven")
    assert user.get("/api/products/7").json() == {"id": 7, "name": "Seven", "price": "7.50", "category": "Tools & Toys"}
    r = user.request("DELETE", "/product/7")
    assert r.status == 204 and r.body == b""
    assert user.get("/product/7").status == 404
    assert mariadb.sql("SELECT COUNT(*) FROM product WHERE id = 7", "symfony") == [["0"]]


@pytest.mark.parametrize("target,status,text", [
    ("/product/99999", 404, "Error 404"), ("/no/such/route", 404, "Error 404"), ("/teapot", 418, "Error 418"), ("/boom", 500, "Error 500")])
def test_error_pages(user, target, status, text):
    page = check_page(user.get(target), status, text)
    assert "the boom of the test" not in page.text and page.header("content-type") == "text/html; charset=UTF-8"


def test_exceptions_reach_the_servers_log(user, server):
    user.get("/boom")
    wait_until(lambda: "the boom of the test" in server.log_text(), "the exception in the log")


def test_method_not_allowed(user):
    r = user.request("PUT", "/product/8")
    assert r.status == 405 and r.header("allow") == "GET, DELETE"


@pytest.mark.usefixtures("quiet")
def test_session(user, server):
    assert [user.get("/counter").text for _ in range(5)] == ["1", "2", "3", "4", "5"]
    other = server.session()
    assert other.get("/counter").text == "1"
    other.close()


@pytest.mark.usefixtures("quiet")
def test_session_locking(server):
    first = server.session()
    first.get("/counter")
    cookie = {"Cookie": f"PHPSESSID={first.cookie('PHPSESSID')}"}
    first.close()
    with ThreadPoolExecutor(6) as threads:
        counts = list(threads.map(lambda _: int(server.get("/counter", cookie).text), range(24)))
    assert sorted(counts) == list(range(2, 26))


@pytest.mark.usefixtures("quiet")
def test_upload_and_download(user, app):
    picture = png(500, 400)
    page = user.get("/upload")
    done = form(page, field="form[file]").submit(user, page, "form[send]", files=[("form[file]", "p.png", picture, "image/png")])
    assert done.status == 200 and done.body == picture and done.header("content-type") == "image/png"
    name = hashlib.sha1(picture).hexdigest() + ".png"
    assert done.url.endswith(f"/download/{name}") and (app.root / "var/uploads" / name).read_bytes() == picture
    assert f"filename={name}" in done.header("content-disposition") and "filename*=utf-8''l%C3%B6ad-" in done.header("content-disposition")
    part = user.get(done.url, headers={"Range": "bytes=10-19"})
    assert part.status == 206 and part.body == picture[10:20] and part.header("content-range") == f"bytes 10-19/{len(picture)}"
    assert user.get(done.url, headers={"If-None-Match": done.header("etag")}).status == 304
    head = user.request("HEAD", done.url)
    assert head.status == 200 and head.header("content-length") == str(len(picture))


@pytest.mark.usefixtures("quiet")
def test_refused_uploads(user):
    page = user.get("/upload")
    f = form(page, field="form[file]")
    for content, text in ((b"%PDF-1.4 not wanted", "Only pictures and text."), (b"x" * (5 << 20), "The file is too large")):
        check_page(f.submit(user, page, "form[send]", files=[("form[file]", "f", content, "image/png")]), 422, text)
    over = f.submit(user, page, "form[send]", files=[("form[file]", "f", b"x" * (11 << 20), "image/png")])
    assert over.status == 413


@pytest.mark.usefixtures("quiet")
def test_streamed_response(user):
    r = user.get("/stream")
    assert r.text.count("\n") == 1000 and r.text.startswith("row 1,xxx") and r.header("content-type") == "text/csv; charset=UTF-8"


@pytest.mark.usefixtures("quiet")
def test_cookies_and_caching(user):
    assert user.get("/cookie").text == "none" and user.get("/cookie").text == "sweet & sour"
    first = user.get("/cached")
    assert first.text == "the content" and first.header("cache-control") == "max-age=60, public"
    for headers in ({"If-None-Match": first.header("etag")}, {"If-Modified-Since": first.header("last-modified")}):
        r = user.get("/cached", headers=headers)
        assert r.status == 304 and r.body == b"" and r.header("etag") == first.header("etag")


@pytest.mark.usefixtures("quiet")
def test_what_the_request_object_says(user, server):
    e = user.get("/echo/a%20b/c?x[]=1&x[]=2&y=%C3%A4").json()
    assert e["path"] == "/echo/a%20b/c" and e["rest"] == "a b/c" and e["base"] == "" and e["query"] == {"x": ["1", "2"], "y": "ä"}
    assert e["host"] == "127.0.0.1" and e["port"] == server.port and not e["secure"] and e["client"] == "127.0.0.1"
    assert e["uri"].startswith(f"{server.origin}/echo/a%20b/c?")
    e = user.request("POST", "/echo/", data={"k": "v"}).json()
    assert e["form"] == {"k": "v"} and e["method"] == "POST"
    e = user.request("PATCH", "/echo/", json={"a": 1}).json()
    assert e["content"] == '{"a": 1}' and e["type"] == "application/json" and e["form"] == []
    e = user.get("/index.php/echo/with-front").json()
    assert e["base"] == "/index.php" and e["path"] == "/echo/with-front"


@pytest.mark.usefixtures("quiet")
def test_nothing_of_the_project_is_served(user):
    for target in ("/../composer.json", "/..%2fcomposer.json", "/%2e%2e/src/Kernel.php", "/../var/log/prod.log"):
        assert "symfony" not in user.get(target).text.lower().replace("symfony.com", "")


@pytest.mark.usefixtures("quiet")
def test_many_visitors_at_once(server):
    def visit(i):
        s = server.session()
        try:
            own = [s.get("/counter").text for _ in range(3)]
            return own == ["1", "2", "3"] and f"Product {i + 10}<" in s.get(f"/product/{i + 10}").text and s.get("/").status == 200
        finally:
            s.close()
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(visit, range(24)))
