"""Five people in a WordPress blog, under PHP-FPM, in classic mode and from an image that was frozen when
wp-includes/pluggable-deprecated.php had returned: equal answers, and nobody's data in another's.

They log in and out in random order, change their profiles, comment, search, read posts, feeds and the REST API, and work in
the admin pages. What may differ between servers is MASKS, values and times of Set-Cookie, and lib.crowd's FIELDS_APART.
"""
import html
import re
import tomllib
from datetime import datetime, timezone

import pytest

from lib.crowd import Crowd, Person, from_images
from lib.forms import form, forms
from lib.process import wait_until
from lib.wordpress import EXAMPLE, Blogs

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

DAY = datetime.now(timezone.utc)
MASKS = [(r"\b[0-9a-f]{10}\b", "NONCE"),   # of a time of day, a user and a session
         (r'data-pw="[^"]*"', 'data-pw'),        # a password that WordPress proposes
         (r"\w{3}, \d\d \w{3} 2\d{3} \d\d:\d\d:\d\d (GMT|\+0000)", "TIME"),
         (r'^"[0-9a-f]{32}"$', "ETAG"),   # of a feed, reckoned from its Last-Modified
         (DAY.strftime("%Y-%m-%d[T ]") + r"\d\d:\d\d:\d\d", "NOW"),   # of drafts and changes
         (r"\b[0-2]\.gravatar", "N.gravatar"),   # chosen at random for people without an address
         (r"\b\d+:\d\d (am|pm)\b", "MINUTE")]
PEOPLE = [Person(i, "wordpress") for i in range(5)]
for person in PEOPLE:
    person.login = f"person{person.number}"
BROWSERS = ["sapid-tests/1.0", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/108.0 Safari/537.36",
            "Mozilla/5.0 (X11; Linux x86_64; rv:108.0) Gecko/20100101 Firefox/108.0", "Lynx/2.8.9",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 16_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.1 Mobile Safari/604.1"]
IMAGE = {key: value for key, value in tomllib.loads((EXAMPLE / "sapid.toml").read_text())["php"].items() if key != "document_root"}
IMAGE |= {"max_images": 6, "snapshot_scripts": [*IMAGE["snapshot_scripts"], "wp-admin/profile.php", "wp-admin/edit.php"]}
SERVERS = {"fpm": {}, "classic": {}, "image": IMAGE}


@pytest.fixture(scope="module")
def servers(launch_module, mariadb):
    blogs, found = Blogs(launch_module.folder, mariadb, PEOPLE), {}
    for kind in SERVERS:
        root, port = blogs.make(kind)
        found[kind] = launch_module(root, kind="fpm" if kind == "fpm" else "sapid", workers=3, port=port, expect_errors=True,
                                    ini={"memory_limit": "256M"}, php=SERVERS[kind])
    return found


@pytest.fixture
def crowd(servers):
    crowd = Crowd(servers, PEOPLE, MASKS)
    for browser in crowd.browsers.values():
        browser.headers["User-Agent"] = BROWSERS[browser.person.number]
    yield crowd
    crowd.close()


def log_in(browser, dice, person):
    page = browser.get("/wp-login.php")
    if any(f.id == "loginform" for f in forms(page)):
        form(page, id="loginform").set("log", person.login).set("pwd", "secret").submit(browser, page, "wp-submit")


def fail_to_log_in(browser, dice, person):
    page = browser.get("/wp-login.php?reauth=1")
    form(page, id="loginform").set("log", person.email).set("pwd", "wrong").submit(browser, page, "wp-submit")


def log_out(browser, dice, person):
    page = browser.get("/wp-admin/profile.php")
    link = re.search(r'href="([^"]*wp-login\.php\?action=logout[^"]*)"', page.text)
    if link:
        browser.get(html.unescape(link[1]))


def change_the_profile(browser, dice, person):
    page = browser.get("/wp-admin/profile.php")
    if any(f.id == "your-profile" for f in forms(page)):
        f = form(page, id="your-profile").set("first_name", person.mark).set("description", f"{person.mark} {dice.randint(0, 999)} ä “x”")
        assert "Profile updated." in f.submit(browser, page, "submit").text


def work_in_the_admin_pages(browser, dice, person):
    browser.get("/wp-admin/" + dice.choice(["", "edit.php", "profile.php", "post-new.php", "upload.php", "edit-comments.php", "tools.php",
                                            "options-general.php"]))


def ask_who_i_am(browser, dice, person):
    nonce = browser.get("/wp-admin/admin-ajax.php?action=rest-nonce").text
    browser.get("/wp-json/wp/v2/users/me?context=edit", headers={"X-WP-Nonce": nonce} if len(nonce) == 10 else {})


def read_the_blog(browser, dice, person):
    for target in dice.sample(["/", "/page/2/", "/2026/03/post-7/", f"/2026/03/post-{dice.randint(1, 25)}/", "/about-us/", "/category/news/",
                               "/tag/tag1/", "/2026/03/", "/author/admin/", "/feed/", "/comments/feed/", "/?p=9", "/wp-sitemap.xml",
                               "/robots.txt", "/xmlrpc.php?rsd", "/2026/03/post-7"], 3):
        browser.get(target)


def search(browser, dice, person):
    text = dice.choice(["Post 7", "nothing at all"])
    assert person.mark in browser.get(f"/?s={text.replace(' ', '+')}+{person.mark}").text
    browser.get(f"/?s={text.replace(' ', '+')}")


def get_lost(browser, dice, person):
    assert browser.get(f"/no-such-page/{person.mark}/").status == 404


def use_the_rest_api(browser, dice, person):
    for target in dice.sample(["/wp-json/", "/wp-json/wp/v2/posts?per_page=3", "/wp-json/wp/v2/posts?search=7", "/wp-json/wp/v2/categories",
                               f"/wp-json/sapid/v1/echo/{person.mark}", "/wp-json/wp/v2/users/me", "/?rest_route=/wp/v2/types"], 2):
        browser.get(target)


def comment(browser, dice, person):
    page = browser.get(f"/2026/03/post-{dice.randint(1, 25)}/")
    f = form(page, id="commentform").set("comment", f"Comment {dice.random()} of a test")
    if "author" in f.names():
        f.set("author", "Guest").set("email", f"{dice.randint(0, 9)}@example.org")
    f.submit(browser, page, "submit")


def send_what_is_refused(browser, dice, person):
    browser.request("POST", "/wp-json/wp/v2/posts", json={"title": person.mark})
    browser.post("/wp-comments-post.php", {"comment": "", "comment_post_ID": "7", "author": person.mark, "email": person.email})
    browser.post("/wp-admin/admin-ajax.php", {"action": "sapid_test", "say": f"<b>{person.mark}</b>"})


ACTIONS = [log_in, log_in, fail_to_log_in, log_out, change_the_profile, change_the_profile, work_in_the_admin_pages,
           work_in_the_admin_pages, ask_who_i_am, read_the_blog, read_the_blog, search, get_lost, use_the_rest_api, comment,
           send_what_is_refused]


def test_answers_are_equal_and_nobody_meets_anothers_data(crowd, servers):
    crowd.walk(ACTIONS, 100, "a walk")
    assert crowd.compared > 150
    images, all_of_them = from_images(servers["image"])
    assert images > all_of_them / 3, f"images have answered only {images} of {all_of_them} requests"


def test_all_at_once(crowd):
    crowd.rush("image", ACTIONS, 500, "a rush")


def test_an_option_that_changes_is_seen_at_once(servers, mariadb):
    image = servers["image"]
    for name in ("First name", "Second name", "The Sapid Blog"):
        mariadb.sql(f"UPDATE wp_options SET option_value = '{name}' WHERE option_name = 'blogname'", "wp_image")
        before = from_images(image)
        for _ in range(3):
            assert f"<title>{name}" in image.get("/").text
        assert from_images(image)[0] == before[0] + 3


def test_the_image_is_made_anew_when_plugins_change(servers):
    """What a plugin is, the boot has taken from the database; the mu-plugin touches a file of the image."""
    admin = servers["image"].session()
    page = admin.get("/wp-login.php")
    form(page, id="loginform").set("log", "admin").set("pwd", "secret").submit(admin, page, "wp-submit")
    page = admin.get("/wp-admin/plugins.php")
    link = re.search(r'href="(plugins\.php\?action=deactivate[^"]*sapid-test[^"]*)"', page.text)[1]
    assert "Plugin deactivated" in admin.get(f"/wp-admin/{html.unescape(link)}").text
    wait_until(lambda: admin.get("/wp-json/sapid/v1/echo/x").status == 404, "an image without the plugin")
    before = from_images(servers["image"])[0]
    answered = lambda: admin.get("/").status == 200 and from_images(servers["image"])[0] > before
    wait_until(answered, "requests that an image answers")
    assert all(admin.get("/wp-json/sapid/v1/echo/x").status == 404 for _ in range(5))
    admin.close()
