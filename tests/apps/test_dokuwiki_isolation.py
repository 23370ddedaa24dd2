"""Four people in a DokuWiki, under PHP-FPM, in classic mode and from images (examples/dokuwiki): equal answers, and
nobody's data in another's. They log in and out, read, write, search, upload and change their profiles.
"""
import hashlib
import html
import re
import tomllib

import pytest

from lib import account
from lib.crowd import Crowd, Person, from_images
from lib.dokuwiki import EXAMPLE, make_dokuwiki
from lib.forms import form, forms
from lib.image import png
from lib.process import wait_until

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

MASKS = [(r"(\b|DW)[0-9a-f]{32}\b", "TOKEN"),   # of a session and a form; a cookie is named after the port
         (r"\b1[78]\d{8}\b", "TIME"),      # revisions, and what keeps pages out of caches
         (r"\b20\d\d\\?[/-]\d\d\\?[/-]\d\d[ T]\d\d:\d\d(:\d\d)?(\+00:?00)?\b", "MINUTE"),
         (r"\w{3}, \d\d \w{3} 20\d\d \d\d:\d\d:\d\d (GMT|\+0000)", "DATE"),
         (r"in \d+\.\d+ s", "in SECONDS")]
PEOPLE = [Person(i, "dokuwiki") for i in range(4)]
PASSWORD = "a long pass word"
IMAGE = {key: value for key, value in tomllib.loads((EXAMPLE / "sapid.toml").read_text())["php"].items() if key != "document_root"}
SERVERS = {"fpm": {}, "classic": {"max_images": 0}, "image": IMAGE}


def make(root):
    site = make_dokuwiki(root)
    (site / "install.php").unlink()
    (site / "inc/preload.php").write_text((EXAMPLE / "preload.php").read_text())
    (site / "conf/local.php").write_text(
        "<?php\n$conf['title'] = 'The Test Wiki'; $conf['license'] = '0'; $conf['useacl'] = 1; $conf['superuser'] = '@admin';\n"
        "$conf['updatecheck'] = 0; $conf['locktime'] = 0; $conf['recent_days'] = 7; $conf['dformat'] = '%Y/%m/%d %H:%M';\n")
    (site / "conf/acl.auth.php").write_text("# <?php exit()?>\n*\t@ALL\t1\n*\t@user\t8\n")
    secret = hashlib.md5(PASSWORD.encode()).hexdigest()
    (site / "conf/users.auth.php").write_text("# <?php exit()?>\n" + "".join(
        f"person{p.number}:{secret}:{p.name}:{p.email}:user\n" for p in PEOPLE))
    for name, text in {"start": "====== Welcome ======\n\nRead the [[wiki:syntax]].\n", "news:one": "====== News ======\n\n  * one\n  * two\n"}.items():
        page = site / "data/pages" / (name.replace(":", "/") + ".txt")
        page.parent.mkdir(exist_ok=True)
        page.write_text(text)
    for name in ("_htcookiesalt", "_htcookiesalt2"):   # random otherwise, and part of addresses of small pictures
        (site / "data/meta" / name).write_text("0123456789abcdef" * 8)
    for folder in ("conf", "data"):
        account.give(site / folder)
    return site


@pytest.fixture(scope="module")
def servers(launch_module):
    return {kind: launch_module(make(launch_module.folder / kind), kind="fpm" if kind == "fpm" else "sapid", workers=3,
                                front_controller=False, expect_errors=True, php=php)
            for kind, php in SERVERS.items()}


@pytest.fixture
def crowd(servers):
    crowd = Crowd(servers, PEOPLE, MASKS)
    yield crowd
    crowd.close()


def log_in(browser, dice, person):
    page = browser.get("/doku.php?id=start&do=login")
    if any(f.id == "dw__login" for f in forms(page)):
        done = form(page, id="dw__login").set("u", f"person{person.number}").set("p", PASSWORD).submit(browser, page)
        assert person.mark in done.text


def fail_to_log_in(browser, dice, person):
    page = browser.get("/doku.php?id=start&do=login")
    if any(f.id == "dw__login" for f in forms(page)):
        done = form(page, id="dw__login").set("u", person.email).set("p", person.mark).submit(browser, page)
        assert "username or password was wrong" in done.text


def log_out(browser, dice, person):
    link = re.search(r'href="([^"]*do=logout[^"]*)"', browser.get("/doku.php?id=start").text)
    if link:
        browser.get(html.unescape(link[1]))


def read(browser, dice, person):
    for target in dice.sample(["/doku.php?id=start", "/doku.php?id=wiki:syntax", "/doku.php/wiki/dokuwiki", "/doku.php?id=news:one",
                               f"/doku.php?id=no:such:page:{person.mark}", "/doku.php", "/doku.php?id=start&do=index",
                               "/doku.php?id=wiki:syntax&do=export_xhtml", "/doku.php?id=start&do=backlink", "/lib/exe/css.php?t=dokuwiki"], 4):
        browser.get(target)


def write(browser, dice, person):
    where = f"/doku.php?id=people:p{person.number}"   # a name is seen by all
    page = browser.get(where + "&do=edit")
    if any("wikitext" in f.names() for f in forms(page)) and not re.search(r"<textarea[^>]*readonly", page.text):
        f = form(page, field="wikitext").set("wikitext", f"====== {person.mark} ======\n\n{dice.random()} **bold** äöü\n").set("summary", person.mark)
        assert person.mark in f.submit(browser, page, "do[save]").text
    browser.get(where)


def search(browser, dice, person):
    browser.get(f"/doku.php?id=start&do=search&q={person.mark}")
    browser.post("/lib/exe/ajax.php", {"call": "qsearch", "q": "syntax"})


def upload(browser, dice, person):
    page = browser.get(f"/lib/exe/mediamanager.php?ns=p{person.number}")
    f = next((f for f in forms(page) if "upload" in f.file_fields), None)
    if f:
        f.set("id" if "id" in f.names() else "mediaid", "picture.png")
        f.submit(browser, page, files=[("upload", "picture.png", png(40 + person.number, 30), "image/png")])
        browser.get(f"/lib/exe/fetch.php?media=p{person.number}:picture.png")


def change_the_profile(browser, dice, person):
    page = browser.get("/doku.php?id=start&do=profile")
    if any(f.id == "dw__register" for f in forms(page)):
        f = form(page, id="dw__register").set("fullname", f"{person.name} {dice.randint(0, 9)}").set("oldpass", PASSWORD)
        assert person.mark in f.submit(browser, page).text


ACTIONS = [log_in, log_in, fail_to_log_in, log_out, read, read, read, write, write, search, upload, change_the_profile]


def test_answers_are_equal_and_nobody_meets_anothers_data(crowd, servers):
    image = servers["image"]
    image.get("/doku.php?id=start")
    wait_until(lambda: from_images(image)[0] > 0 or image.get("/doku.php?id=start").status != 200, "an answer from the image", 30)
    for n, person in enumerate(PEOPLE):
        crowd.act(person, log_in, f"log in {n}")
    crowd.walk(ACTIONS, 120, "a walk")
    assert crowd.compared > 150
    images, all_of_them = from_images(image)
    assert images > all_of_them / 4, f"images have answered only {images} of {all_of_them} requests"


def test_all_at_once(crowd):
    crowd.rush("image", ACTIONS, 300, "a rush")
