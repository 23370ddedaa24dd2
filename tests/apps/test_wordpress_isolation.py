"""Five people in a WordPress blog, under PHP-FPM, in classic mode and from an image that was frozen when
wp-includes/pluggable-deprecated.php had returned: equal answers, and nobody's data in another's.

They log in and out in random order, change their profiles, comment, search, read posts, feeds and the REST API, and work in
the admin pages. What may differ between servers is MASKS, values and times of Set-Cookie, and lib.crowd's FIELDS_APART.
"""
import html
import re
from datetime import datetime, timezone

import pytest

from lib.crowd import Crowd, Person
from lib.forms import form, forms
from lib.wordpress import Blogs

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

DAY = datetime.now(timezone.utc)
MASKS = [(r"\b[0-9a-f]{10}\b", "NONCE"),   # of a time of day, a user and a session
         (r'data-pw="[^"]*"', 'data-pw'),        # a password that WordPress proposes
         (r"\w{3}, \d\d \w{3} 2\d{3} \d\d:\d\d:\d\d (GMT|\+0000)", "TIME"),
         (r'^"[0-9a-f]{32}"$', "ETAG"),   # of a feed, reckoned from its Last-Modified
         (DAY.strftime("%Y-%m-%d[T ]") + r"\d\d:\d\d:\d\d", "NOW"),   # of comments and changes
         (r"\b[0-2]\.gravatar", "N.gravatar"),   # chosen at random for people without an address
         (r"\b\d+:\d\d (am|pm)\b", "MINUTE")]
PEOPLE = [Person(i, "wordpress") for i in range(5)]
for person in PEOPLE:
    person.login = f"person{person.number}"
FREEZE = "require ABSPATH . WPINC . '/pluggable-deprecated.php';"
AGAIN = "snapshot_state(); timer_start(); wp_fix_server_vars(); wp_debug_mode(); wp_maintenance(); wp_cache_flush();"
SERVERS = {"fpm": {}, "classic": {}, "image": {"snapshot_sockets": "sever", "max_images": 12}}


@pytest.fixture(scope="module")
def servers(launch_module, mariadb):
    blogs, found = Blogs(launch_module.folder, mariadb, PEOPLE), {}
    for kind in SERVERS:
        root, port = blogs.make(kind)
        if kind == "image":
            settings = (root / "wp-settings.php").read_text()
            assert settings.count(FREEZE) == 1
            (root / "wp-settings.php").write_text(settings.replace(FREEZE, FREEZE + AGAIN))
        found[kind] = launch_module(root, kind="fpm" if kind == "fpm" else "sapid", workers=3, port=port, expect_errors=True,
                                    ini={"memory_limit": "256M"}, php=SERVERS[kind])
    return found


@pytest.fixture
def crowd(servers):
    crowd = Crowd(servers, PEOPLE, MASKS)
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
                               "/tag/tag1/", "/2026/03/", "/author/person1/", "/feed/", "/comments/feed/", "/?p=9", "/wp-sitemap.xml",
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


def test_answers_are_equal_and_nobody_meets_anothers_data(crowd):
    crowd.walk(ACTIONS, 100, "a walk")
    assert crowd.compared > 150
