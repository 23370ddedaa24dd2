"""MediaWiki: installed by its own command on the same engine, then used over HTTP: accounts, pages, files, its API."""
import re
import subprocess

import pytest

from lib import ports, sapid
from lib.forms import form, forms
from lib.image import png
from lib.mediawiki import PASSWORD, make_mediawiki
from lib.pages import check_assets, check_page

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def php(server_kind):
    """The command line of the engine that serves."""
    return [str(sapid.binary()), "php"] if server_kind == "sapid" else ["php"]


@pytest.fixture(scope="module")
def server(launch_module, mariadb, php):
    port = ports.free_port()
    root = make_mediawiki(launch_module.folder / "mw", mariadb, f"http://127.0.0.1:{port}", php)
    return launch_module(root, port=port, workers=3, ini={"upload_max_filesize": "16M", "post_max_size": "17M"},
                         server={"max_body_size": "20M"},
                         internal=("/includes/", "/maintenance/", "/languages/", "/vendor/", "/cache/"))


@pytest.fixture(scope="module")
def visitor(server):
    s = server.session()
    yield s
    s.close()


@pytest.fixture(scope="module")
def admin(server):
    s = server.session()
    page = check_page(s.get("/index.php?title=Special:UserLogin"))
    f = form(page, field="wpPassword").set("wpName", "Admin").set("wpPassword", PASSWORD)
    check_page(f.submit(s, page, "wploginattempt"))
    assert any("UserName" in name for _, name in s.cookies)
    yield s
    s.close()


@pytest.fixture
def sql(mariadb):
    return lambda statement: mariadb.sql(statement, "mediawiki")


def edit(session, title, text, summary="by the test"):
    page = check_page(session.get(f"/index.php?title={title}&action=edit"))
    f = form(page, id="editform").set("wpTextbox1", text).set("wpSummary", summary)
    return check_page(f.submit(session, page, "wpSave"))


def test_main_page(visitor):
    page = check_page(visitor.get("/"), text="MediaWiki has been installed")
    assert page.url.endswith("/wiki/Main_Page")
    check_assets(visitor, page)


def test_styles_and_scripts_of_the_resource_loader(visitor):
    page = visitor.get("/wiki/Main_Page")
    for pattern, kind in ((r'<link rel="stylesheet" href="(/load\.php[^"]+)"', "text/css"), (r'<script async="" src="(/load\.php[^"]+)"', "text/javascript")):
        for target in re.findall(pattern, page.text):
            r = visitor.get(target.replace("&amp;", "&"))
            assert r.status == 200 and r.header("content-type").split(";")[0] == kind and len(r.body) > 1000


def test_anonymous_may_not_edit(visitor):
    page = check_page(visitor.get("/index.php?title=New_page&action=edit"))
    assert not [f for f in forms(page) if ("wpSave", "Save page") in f.buttons]


def test_wrong_password(server):
    s = server.session()
    page = s.get("/index.php?title=Special:UserLogin")
    f = form(page, field="wpPassword").set("wpName", "Admin").set("wpPassword", "wrong")
    check_page(f.submit(s, page, "wploginattempt"), text="Incorrect username or password")
    s.close()


def test_edit_a_page(admin, visitor, sql):
    edit(admin, "Zürich", "== Überschrift ==\n'''fett''' und [[Main Page|ein Link]], 猫.\n\n{{#if:x|ja|nein}} Quelle<ref>Buch</ref>\n"
         "{| class=\"wikitable\"\n! Kopf\n|-\n| Zelle\n|}\n<references/>\n[[Category:Städte]]")
    page = check_page(visitor.get("/wiki/Z%C3%BCrich"), text="<b>fett</b>")
    assert "猫" in page.text and "ja Quelle" in page.text and "Zelle" in page.text and 'class="references"' in page.text
    assert sql("SELECT page_len > 100 FROM page WHERE page_title = 'Zürich'") == [["1"]]
    raw = visitor.get("/index.php?title=Z%C3%BCrich&action=raw")
    assert raw.text.startswith("== Überschrift ==") and raw.header("content-type").startswith("text/x-wiki")
    assert visitor.get("/wiki/Z%C3%BCrich", headers={"If-Modified-Since": page.header("last-modified") or "x"}).status in (200, 304)
    check_page(visitor.get("/wiki/Category:St%C3%A4dte"), text="Zürich")


def test_second_revision_and_difference(admin, visitor):
    edit(admin, "Zürich", "shorter now", "second")
    check_page(visitor.get("/wiki/Z%C3%BCrich"), text="shorter now")
    page = check_page(visitor.get("/index.php?title=Z%C3%BCrich&action=history"), text="second")
    diff = re.search(r'href="([^"]*diff=\d+[^"]*oldid=\d+[^"]*)"', page.text) or re.search(r'href="([^"]*diff=prev[^"]*)"', page.text)
    check_page(visitor.get(diff[1].replace("&amp;", "&")), text="shorter now")


def test_missing_page_is_404(visitor):
    check_page(visitor.get("/wiki/No_such_page"), 404, "There is currently no text in this page")


def test_upload(admin, visitor, sql):
    picture = png(640, 480)
    page = check_page(admin.get("/wiki/Special:Upload"))
    f = form(page, field="wpUploadFile")
    f.set("wpDestFile", "Test picture.png").set("wpUploadDescription", "a picture")
    done = f.submit(admin, page, "wpUpload", files=[("wpUploadFile", "test picture.png", picture, "image/png")])
    page = check_page(done, text="640 × 480")
    original = re.search(r'href="(/images/[^"]+Test_picture\.png)"', page.text)[1]
    r = visitor.get(original)
    assert r.body == picture and r.header("content-type") == "image/png"
    assert sql("SELECT img_size FROM image") == [[str(len(picture))]]
    edit(admin, "Gallery", "[[File:Test picture.png|120px]]")
    page = check_page(visitor.get("/wiki/Gallery"))
    thumb = re.search(r'src="(/images/thumb/[^"]+)"', page.text)[1]
    small = visitor.get(thumb)
    assert small.status == 200 and small.header("content-type") == "image/png" and small.body[:4] == b"\x89PNG"


def test_api(admin, visitor):
    r = visitor.get("/api.php?action=query&meta=siteinfo&format=json").json()
    assert r["query"]["general"]["sitename"] == "The Test Wiki" and r["query"]["general"]["phpsapi"] == "fpm-fcgi"
    token = admin.get("/api.php?action=query&meta=tokens&format=json").json()["query"]["tokens"]["csrftoken"]
    r = admin.post("/api.php", {"action": "edit", "title": "By API", "text": "written by the API", "token": token, "format": "json"}).json()
    assert r["edit"]["result"] == "Success"
    check_page(visitor.get("/wiki/By_API"), text="written by the API")
    r = visitor.post("/api.php", {"action": "edit", "title": "X", "text": "x", "token": "+\\", "format": "json"}).json()
    assert r["error"]["code"] in ("permissiondenied", "badtoken")
    assert visitor.get("/rest.php/v1/page/Gallery").json()["title"] == "Gallery"
    assert visitor.get("/rest.php/v1/search/page?q=Gallery").status == 200


def test_search_and_special_pages(visitor):
    for title in ("Special:RecentChanges", "Special:AllPages", "Special:Version", "Special:Statistics", "Special:ListFiles"):
        check_page(visitor.get(f"/wiki/{title}"), text="The Test Wiki")
    check_page(visitor.get("/index.php?search=shorter&fulltext=1"), text="Zürich")
    feed = visitor.get("/index.php?title=Special:RecentChanges&feed=atom")
    assert feed.status == 200 and "<feed" in feed.text


def test_create_an_account_and_log_out(server, sql):
    s = server.session()
    page = check_page(s.get("/wiki/Special:CreateAccount"))
    f = form(page, field="retype").set("wpName", "Ada").set("wpPassword", PASSWORD + "2").set("retype", PASSWORD + "2")
    check_page(f.submit(s, page, "wpCreateaccount"), text="Ada")
    assert ["Ada"] in sql("SELECT user_name FROM user")
    edit(s, "From_Ada", "hello from Ada")
    page = s.get("/wiki/Special:UserLogout")
    check_page(forms(page)[0].submit(s, page) if "logout" in page.text else page)
    s.close()


def test_maintenance_scripts_on_the_same_engine(server, php):
    """Arguments, exit codes, standard input and output, as php-cli has them."""
    root = server.site.root

    def run(script, *args, text=None):
        return subprocess.run([*php, str(root / "maintenance" / script), *args], input=text, capture_output=True,
                              text=True, timeout=120, cwd="/")
    done = run("showSiteStats.php")
    assert done.returncode == 0 and "Total pages" in done.stdout, done
    done = run("edit.php", "--user=Admin", "--summary=x", "From stdin", text="text that came on standard input\n")
    assert done.returncode == 0, done
    assert "came on standard input" in run("getText.php", "From stdin").stdout
    done = run("dumpBackup.php", "--current", "--quiet")
    assert done.returncode == 0 and "<mediawiki" in done.stdout and "came on standard input" in done.stdout
    assert "Usage: php edit.php" in run("edit.php", "--help").stdout
    assert run("getText.php", "No such page").returncode == 1
