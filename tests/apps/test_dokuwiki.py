"""DokuWiki: its installation form, pages, revisions, media, access control. Keeps everything in files."""
import html
import re
import time

import pytest

from lib.dokuwiki import make_dokuwiki
from lib.forms import form, forms
from lib.image import png
from lib.pages import check_assets, check_page
from lib.process import wait_until

pytestmark = pytest.mark.usefixtures("quiet")

USER, PASSWORD = "super", "a long pass word"


@pytest.fixture(scope="module")
def site(launch_module):
    return make_dokuwiki(launch_module.folder / "doku")


@pytest.fixture(scope="module")
def server(launch_module, site):
    # Its manual tells the web server to deny these.
    return launch_module(site, workers=3, internal=("/data/", "/conf/", "/bin/", "/inc/", "/vendor/"), front_controller=False)


@pytest.fixture(scope="module")
def visitor(server):
    s = server.session()
    yield s
    s.close()


@pytest.fixture(scope="module")
def author(server):
    s = server.session()
    yield s
    s.close()


def edit(session, page: str, text: str, summary: str = "by the test"):
    shown = check_page(session.get(f"/doku.php?id={page}&do=edit"))
    f = form(shown, field="wikitext").set("wikitext", text).set("summary", summary)
    return check_page(f.submit(session, shown, "do[save]"))


def test_install(visitor, site):
    page = check_page(visitor.get("/install.php"), text="DokuWiki Installer")
    f = form(page, field="d[title]").set("d[title]", "The Test Wiki").set("d[superuser]", USER).set("d[fullname]", "Super User")
    f.set("d[email]", "super@example.org").set("d[password]", PASSWORD).set("d[confirm]", PASSWORD).set("d[policy]", "1")
    if "d[acl]" not in f.names():
        f.set("d[acl]", "on")
    done = f.submit(visitor, page, "submit") if ("submit", "") in f.buttons else f.submit(visitor, page)
    check_page(done, text="success")
    assert (site / "conf/users.auth.php").read_text().splitlines()[-1].startswith(f"{USER}:$")
    assert "The Test Wiki" in (site / "conf/local.php").read_text()


def test_empty_front_page(visitor):
    page = check_page(visitor.get("/"), text="This topic does not exist yet")
    assert "The Test Wiki" in page.text
    check_assets(visitor, page)


def unchanged(session, url) -> bool:
    tag = session.get(url).header("etag")
    again = session.get(url, headers={"If-None-Match": tag})
    return again.status == 304 and again.body == b""


def test_generated_styles_and_scripts(visitor):
    page = visitor.get("/doku.php")
    for pattern, kind in ((r'href="([^"]*/lib/exe/css\.php[^"]*)"', "text/css"), (r'src="([^"]*/lib/exe/js\.php[^"]*)"', "application/javascript"),
                          (r'src="([^"]*/lib/exe/jquery\.php[^"]*)"', "application/javascript")):
        r = visitor.get(html.unescape(re.search(pattern, page.text)[1]))
        assert r.status == 200 and r.header("content-type").split(";")[0] == kind and len(r.body) > 5000
        # Made anew while files it depends on are younger than a second; then it stays.
        wait_until(lambda: unchanged(visitor, r.url), f"304 for {r.url}")


def test_anonymous_may_not_edit(visitor):
    page = check_page(visitor.get("/doku.php?id=start&do=edit"))
    assert not [f for f in forms(page) if "wikitext" in f.names()]


def test_log_in(author):
    page = check_page(author.get("/doku.php?id=start&do=login"))
    f = form(page, id="dw__login").set("u", USER).set("p", "wrong")
    check_page(f.submit(author, page), 403, "username or password was wrong")
    f = form(page, id="dw__login").set("u", USER).set("p", PASSWORD)
    check_page(f.submit(author, page), text="Super User")


def test_edit_a_page(author, visitor, site):
    text = ("====== Welcome ======\n\nSome **bold** text & an [[other:page|inner link]], Umlaute: äöü, 猫.\n\n"
            "  * one\n  * two\n\n^ head ^\n| cell |\n\n<code php>\n<?php echo 1;\n</code>\n")
    edit(author, "start", text)
    page = check_page(visitor.get("/doku.php?id=start"), text="<strong>bold</strong>")
    assert "Umlaute: äöü, 猫." in page.text and "other:page" in page.text and "<td" in page.text
    assert (site / "data/pages/start.txt").read_text() == text
    raw = visitor.get("/doku.php?id=start&do=export_raw")
    assert raw.text == text and raw.header("content-type").startswith("text/plain")


def test_internal_folders_are_denied(server):
    for target in ("/data/pages/start.txt", "/conf/users.auth.php", "/conf/dokuwiki.php", "/inc/init.php", "/bin/wantedpages.php",
                   "/data/", "//data/pages/start.txt", "/x/../data/pages/start.txt", "/%64ata/pages/start.txt"):
        assert server.get(target).status == 404, target


def test_path_info_urls(visitor):
    check_page(visitor.get("/doku.php/start"), text="<strong>bold</strong>")
    check_page(visitor.get("/doku.php/other/page"), text="This topic does not exist yet")


def test_preview_and_revisions(author, visitor):
    shown = author.get("/doku.php?id=start&do=edit")
    f = form(shown, field="wikitext").set("wikitext", "====== Preview only ======")
    check_page(f.submit(author, shown, "do[preview]"), text="Preview only")
    assert "Preview only" not in visitor.get("/doku.php?id=start").text
    first = time.time()
    wait_until(lambda: int(time.time()) > int(first), "another second: revisions are named after it")
    edit(author, "start", "====== Second ======\n\nshorter\n", "second version")
    page = check_page(visitor.get("/doku.php?id=start&do=revisions"), text="second version")
    old = re.search(r'href="([^"?]*\?rev=\d+)"', page.text)
    check_page(visitor.get(html.unescape(old[1])), text="<strong>bold</strong>")
    check_page(author.get("/doku.php?id=start&do=recent"), text="second version")


def test_media_upload(author, visitor, site):
    picture = png(400, 300)
    page = check_page(author.get("/lib/exe/mediamanager.php?ns=wiki"))
    f = next(f for f in forms(page) if "upload" in f.file_fields)
    f.set("id" if "id" in f.names() else "mediaid", "test picture.png")
    done = f.submit(author, page, files=[("upload", "test picture.png", picture, "image/png")])
    check_page(done, text="successful")
    assert (site / "data/media/wiki/test_picture.png").read_bytes() == picture
    r = visitor.get("/lib/exe/fetch.php?media=wiki:test_picture.png")
    assert r.body == picture and r.header("content-type") == "image/png"
    part = visitor.get("/lib/exe/fetch.php?media=wiki:test_picture.png", headers={"Range": "bytes=0-7"})
    assert part.status == 206 and part.body == picture[:8]
    small = visitor.get("/lib/exe/fetch.php?w=100&tok=" + _token(visitor, author) + "&media=wiki:test_picture.png")
    assert small.status == 200 and small.header("content-type") == "image/png"


def _token(visitor, author) -> str:
    """The token of a resized picture, from a page that shows it."""
    edit(author, "gallery", "{{wiki:test_picture.png?100}}")
    page = check_page(visitor.get("/doku.php?id=gallery"))
    return re.search(r"w=100&amp;tok=([0-9a-f]+)", page.text)[1]


def test_search_and_feed(visitor):
    visitor.get("/lib/exe/taskrunner.php?id=start")
    visitor.get("/lib/exe/taskrunner.php?id=gallery")
    check_page(visitor.get("/doku.php?do=search&q=shorter"), text="shorter")
    feed = visitor.get("/feed.php")
    assert feed.status == 200 and "<rdf:RDF" in feed.text and feed.header("content-type").startswith("application/xml")


def test_ajax(author, visitor):
    r = visitor.post("/lib/exe/ajax.php", {"call": "qsearch", "q": "gallery"})
    assert r.status == 200 and "gallery" in r.text
    r = author.post("/lib/exe/ajax.php", {"call": "linkwiz", "q": "gal"})
    assert r.status == 200 and "gallery" in r.text


def test_page_locked_by_another(author, server):
    other = server.session()
    page = other.get("/doku.php?do=login")
    form(page, id="dw__login").set("u", USER).set("p", PASSWORD).submit(other, page)
    check_page(other.get("/doku.php?id=start&do=edit"))
    other.close()


def test_acl(author, visitor):
    """The administrator closes a namespace to visitors."""
    edit(author, "secret:plan", "====== Plan ======\n\nnot for everybody\n")
    check_page(visitor.get("/doku.php?id=secret:plan"), text="not for everybody")
    page = check_page(author.get("/doku.php?id=secret:plan&do=admin&page=acl"))
    f = next(f for f in forms(page) if f.id == "acl__detail" or "acl_w" in f.names())
    data = [p for p in f.fields if p[0] not in ("acl_t", "acl_w", "acl", "current_ns")]
    data += [("acl_t", "@ALL"), ("acl", "0"), ("current_ns", "secret:*"), ("ns", "secret"), ("id", "secret:plan"), ("cmd[save]", "Save")]
    check_page(author.post("/doku.php?id=secret:plan&do=admin&page=acl", data))
    r = visitor.get("/doku.php?id=secret:plan")
    assert r.status == 200 and "Permission Denied" in r.text and "not for everybody" not in r.text
    check_page(author.get("/doku.php?id=secret:plan"), text="not for everybody")


def test_log_out(author):
    page = author.get("/doku.php?id=start")
    link = html.unescape(re.search(r'href="([^"]*do=logout[^"]*)"', page.text)[1])
    author.get(link)
    check_page(author.get("/doku.php?id=secret:plan"), text="Permission Denied")
