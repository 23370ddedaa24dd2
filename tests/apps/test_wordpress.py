"""WordPress, from its installation form to posts with pictures, over HTTP and in a real browser. The tests
build on each other in the order of the file, as an administrator would work."""
import html
import re
import time
from urllib.parse import urlsplit

import pytest

from lib.browser import open_browser
from lib.forms import form
from lib.image import png
from lib.pages import check_assets, check_page
from lib.process import wait_until
from lib.wordpress import make_wordpress

pytestmark = pytest.mark.usefixtures("quiet")

TITLE, USER, PASSWORD = "The Sapid Blog", "admin", "correct horse battery staple"


@pytest.fixture(scope="module")
def site(launch_module, mariadb):
    return make_wordpress(launch_module.folder / "wp", mariadb)


@pytest.fixture(scope="module")
def server(launch_module, site):
    return launch_module(site, workers=4, ini={"upload_max_filesize": "32M", "post_max_size": "40M", "memory_limit": "256M"},
                         server={"max_body_size": "64M"})


@pytest.fixture(scope="module")
def visitor(server):
    s = server.session()
    yield s
    s.close()


@pytest.fixture(scope="module")
def admin(server):
    """The administrator's browser; logs in on first use."""
    s = server.session()
    s.logged_in = False
    yield s
    s.close()


@pytest.fixture
def logged_in(admin):
    if not admin.logged_in:
        log_in(admin)
    return admin


def log_in(session):
    page = check_page(session.get("/wp-login.php"))
    f = form(page, id="loginform").set("log", USER).set("pwd", PASSWORD)
    check_page(f.submit(session, page, "wp-submit"), text="Dashboard")
    session.logged_in = True


@pytest.fixture
def sql(mariadb):
    return lambda statement: mariadb.sql(statement, "wordpress")


def option(sql, name):
    rows = sql(f"SELECT option_value FROM wp_options WHERE option_name = '{name}'")
    return rows[0][0] if rows else None


def first_link(page, pattern) -> str:
    """The first address on a page that matches."""
    return html.unescape(re.search(f'href="{pattern}"', page.text)[1])


def nonce(session) -> dict:
    """What a script of the admin pages sends with a REST request."""
    return {"X-WP-Nonce": session.get("/wp-admin/admin-ajax.php?action=rest-nonce").text}


def test_install(visitor, sql):
    page = visitor.get("/")
    assert urlsplit(page.url).path == "/wp-admin/install.php"
    f = form(page, id="setup")
    f.set("weblog_title", TITLE).set("user_name", USER).set("admin_password", PASSWORD).set("admin_email", "admin@example.org")
    f.fields = [p for p in f.fields if p[0] != "admin_password2"] + [("admin_password2", PASSWORD), ("pw_weak", "on")]
    check_page(f.submit(visitor, page, "Submit"), text="WordPress has been installed")
    assert option(sql, "blogname") == TITLE
    assert sql("SELECT user_login FROM wp_users") == [[USER]]
    check_page(visitor.get("/wp-admin/install.php"), text="already installed")


def test_front_page(visitor):
    page = check_page(visitor.get("/"), text="Hello world!")
    assert TITLE in page.text and page.header("content-type") == "text/html; charset=UTF-8"
    assert 'rel="https://api.w.org/"' in (page.header("link") or "")
    check_assets(visitor, page, 3)


def test_wrong_password(server):
    s = server.session()
    page = s.get("/wp-login.php")
    form(page, id="loginform").set("log", USER).set("pwd", "wrong").submit(s, page, "wp-submit")
    again = form(page, id="loginform").set("log", USER).set("pwd", "wrong").submit(s, page, "wp-submit")
    check_page(again, text="is incorrect")
    assert urlsplit(s.get("/wp-admin/").url).path == "/wp-login.php"


def test_log_in(admin):
    log_in(admin)
    assert any(name.startswith("wordpress_logged_in_") for _, name in admin.cookies)
    page = check_page(admin.get("/wp-admin/"), text="Dashboard")
    check_assets(admin, page, 2)
    for kind, url in (("css", r"/wp-admin/load-styles\.php[^'\"]+"), ("javascript", r"/wp-admin/load-scripts\.php[^'\"]+")):
        for target in re.findall(url, page.text):
            r = admin.get(html.unescape(target))
            assert r.status == 200 and kind in r.header("content-type") and len(r.body) > 10_000


@pytest.mark.parametrize("target,text", [
    ("edit.php", "Hello world!"), ("upload.php", "Media Library"), ("edit.php?post_type=page", "Sample Page"),
    ("edit-comments.php", "A WordPress Commenter"), ("themes.php", "Twenty Twenty-Three"), ("plugins.php", "Akismet"), ("users.php", USER),
    ("tools.php", "Tools"), ("options-general.php", "admin@example.org"), ("options-permalink.php", "Permalink"), ("profile.php", "Profile"),
    ("site-health.php?tab=debug", "Server"), ("post-new.php", "block-editor"), ("site-editor.php", "edit-site"), ("export.php", "Export")])
def test_admin_pages(logged_in, target, text):
    check_page(logged_in.get(f"/wp-admin/{target}"), text=text)


def test_plugin_activation(logged_in, sql, visitor):
    page = check_page(logged_in.get("/wp-admin/plugins.php"), text="Sapid Test")
    link = first_link(page, r'(plugins\.php\?action=activate[^"]*sapid-test[^"]*)')
    check_page(logged_in.get(f"/wp-admin/{link}"), text="Plugin activated")
    assert option(sql, "sapid_test_activated") == "yes" and "sapid-test.php" in option(sql, "active_plugins")
    link = first_link(page, r'(plugins\.php\?action=activate[^"]*akismet[^"]*)')
    check_page(logged_in.get(f"/wp-admin/{link}"), text="Akismet")
    page = check_page(logged_in.get("/wp-admin/plugins.php"))
    link = first_link(page, r'(plugins\.php\?action=deactivate[^"]*akismet[^"]*)')
    check_page(logged_in.get(f"/wp-admin/{link}"), text="Plugin deactivated")


def test_cron_runs_by_loopback(visitor, sql):
    """WordPress asks its own server for wp-cron.php, while the request that asks is running."""
    def ran():
        visitor.get("/")
        return option(sql, "sapid_test_cron_ran") == "yes"
    wait_until(ran, "the scheduled event to run", 20, 0.2)


def test_pretty_permalinks(logged_in, visitor, sql):
    page = logged_in.get("/wp-admin/options-permalink.php")
    f = form(page, field="permalink_structure")
    f.set("selection", "custom").set("permalink_structure", "/%year%/%monthnum%/%postname%/")
    check_page(f.submit(logged_in, page, "submit"), text="Permalink structure updated")
    assert option(sql, "permalink_structure") == "/%year%/%monthnum%/%postname%/"
    year, month = time.gmtime()[:2]
    check_page(visitor.get(f"/{year}/{month:02}/hello-world/"), text="Welcome to WordPress. This is your first post")
    check_page(visitor.get("/sample-page/"), text="This is an example page")
    check_page(visitor.get(f"/{year}/"), text="Hello world!")
    check_page(visitor.get("/category/uncategorized/"), text="Hello world!")
    r = visitor.get(f"/{year}/{month:02}/hello-world", follow=False)
    assert r.status == 301 and r.header("location").endswith(f"/{year}/{month:02}/hello-world/")
    check_page(visitor.get("/no-such-page/"), 404, "could not be found")


def test_post_with_a_picture_by_rest(logged_in, visitor, sql, site):
    picture = png(1200, 900)
    headers = nonce(logged_in)
    r = logged_in.request("POST", "/wp-json/wp/v2/media", body=picture, headers={
        **headers, "Content-Type": "image/png", "Content-Disposition": 'attachment; filename="rest picture.png"'})
    assert r.status == 201, r
    media = r.json()
    assert media["mime_type"] == "image/png" and {"thumbnail", "medium", "large"} <= set(media["media_details"]["sizes"])
    served = visitor.get(media["source_url"])
    assert served.body == picture and served.header("content-type") == "image/png"
    for size in media["media_details"]["sizes"].values():
        assert visitor.get(size["source_url"]).status == 200
    r = logged_in.request("POST", "/wp-json/wp/v2/posts", headers=headers, json={
        "title": "Über REST", "status": "publish", "featured_media": media["id"],
        "content": f'<p>With a picture. [sapid say="hi"]</p><img src="{media["source_url"]}" alt="the picture">'})
    assert r.status == 201, r
    post = r.json()
    page = check_page(visitor.get(post["link"]), text='<em class="sapid">from the shortcode: hi</em>')
    assert "Über REST" in page.text and media["source_url"] in page.text
    check_assets(visitor, page, 4)
    assert sql(f"SELECT post_status FROM wp_posts WHERE ID = {post['id']}") == [["publish"]]
    r = logged_in.request("PUT", f"/wp-json/wp/v2/posts/{post['id']}", headers=headers, json={"title": "Changed by PUT"})
    assert r.status == 200 and "Changed by PUT" in visitor.get(post["link"]).text
    r = logged_in.request("DELETE", f"/wp-json/wp/v2/posts/{post['id']}", headers=headers)
    assert r.status == 200 and visitor.get(post["link"]).status == 404


def test_rest_api_for_visitors(visitor):
    index = visitor.get("/wp-json/").json()
    assert index["name"] == TITLE and "wp/v2" in index["namespaces"] and "sapid/v1" in index["namespaces"]
    r = visitor.get("/wp-json/wp/v2/posts?per_page=1&_fields=id,title")
    assert r.status == 200 and r.header("x-wp-total") and r.header("content-type") == "application/json; charset=UTF-8"
    assert visitor.get("/wp-json/sapid/v1/echo/word").json() == {"word": "word", "twice": "wordword"}
    assert visitor.get("/?rest_route=/sapid/v1/echo/x").json()["twice"] == "xx"
    r = visitor.request("POST", "/wp-json/wp/v2/posts", json={"title": "not allowed"})
    assert r.status == 401 and r.json()["code"] == "rest_cannot_create"
    assert visitor.get("/wp-json/nothing/here").json()["code"] == "rest_no_route"
    assert visitor.request("HEAD", "/wp-json/wp/v2/posts").status == 200
    assert visitor.request("OPTIONS", "/wp-json/wp/v2/posts").json()["namespace"] == "wp/v2"


def test_admin_ajax(logged_in, visitor):
    data = {"action": "sapid_test", "say": "Grüße & <b>more</b>"}
    assert logged_in.post("/wp-admin/admin-ajax.php", data).json()["data"] == {"user": USER, "said": "Grüße & more"}
    assert visitor.post("/wp-admin/admin-ajax.php", data).json()["data"]["user"] is False
    r = visitor.post("/wp-admin/admin-ajax.php", {"action": "nothing"})
    assert r.status == 400 and r.text == "0"


def test_upload_as_the_media_library_does(logged_in, visitor, sql):
    page = check_page(logged_in.get("/wp-admin/media-new.php"))
    token = re.search(r'"_wpnonce":"([0-9a-f]+)"', page.text)[1]
    r = logged_in.request("POST", "/wp-admin/async-upload.php", data={"name": "async.png", "action": "upload-attachment", "_wpnonce": token},
                          files=[("async-upload", "async.png", png(640, 480), "image/png")])
    answer = r.json()
    assert r.status == 200 and answer["success"], answer
    assert visitor.get(answer["data"]["url"]).status == 200
    assert sql(f"SELECT post_mime_type FROM wp_posts WHERE ID = {answer['data']['id']}") == [["image/png"]]
    text = b"plain text\n" * 400_000
    r = logged_in.request("POST", "/wp-admin/async-upload.php", data={"name": "large.txt", "action": "upload-attachment", "_wpnonce": token},
                          files=[("async-upload", "large.txt", text, "text/plain")])
    assert visitor.get(r.json()["data"]["url"]).body == text


def test_upload_by_the_form_without_scripts(logged_in, sql):
    page = check_page(logged_in.get("/wp-admin/media-new.php?browser-uploader"))
    f = form(page, id="file-form")
    done = f.submit(logged_in, page, "html-upload", files=[("async-upload", "by-form.png", png(300, 200), "image/png")])
    check_page(done, text="Media Library")
    assert sql("SELECT post_mime_type FROM wp_posts WHERE post_title = 'by-form'") == [["image/png"]]


def test_post_with_a_picture_by_the_classic_form(logged_in, visitor, sql):
    media = logged_in.get("/wp-json/wp/v2/media?per_page=1", headers=nonce(logged_in)).json()[0]
    page = check_page(logged_in.get("/wp-admin/post-new.php?classic"))
    f = form(page, id="post").set("post_title", "Classic & quoted \"title\"")
    f.set("content", f'First line.\n\n<img src="{media["source_url"]}">\n\nUmlaut: ä, Euro: €, 猫.')
    f.set("post_status", "publish")
    check_page(f.submit(logged_in, page, "publish"), text="Post published")
    (link,) = [p["link"] for p in visitor.get("/wp-json/wp/v2/posts?search=Classic").json()]
    page = check_page(visitor.get(link), text="Umlaut: ä, Euro: €, 猫.")
    assert "Classic &#038; quoted &#8220;title&#8221;" in page.text and media["source_url"] in page.text
    assert sql("SELECT COUNT(*) FROM wp_posts WHERE post_title LIKE 'Classic%' AND post_status = 'publish'") == [["1"]]


def test_quick_draft(logged_in, sql):
    page = logged_in.get("/wp-admin/")
    f = form(page, id="quick-press").set("post_title", "Quick").set("content", "A draft.")
    check_page(f.submit(logged_in, page, "save"))
    assert sql("SELECT post_status FROM wp_posts WHERE post_title = 'Quick' AND post_type = 'post'") == [["draft"]]


def test_comment(visitor, sql):
    post = visitor.get("/wp-json/wp/v2/posts?slug=hello-world").json()[0]
    page = visitor.get(post["link"])
    f = form(page, id="commentform").set("comment", "First comment of a test").set("author", "Ada").set("email", "ada@example.org")
    done = f.submit(visitor, page, "submit")
    check_page(done, text="First comment of a test")
    assert sql("SELECT comment_author FROM wp_comments WHERE comment_content LIKE 'First comment%'") == [["Ada"]]
    again = f.submit(visitor, page, "submit")
    assert again.status == 409 and "Duplicate comment" in again.text


def test_search_feed_and_sitemap(visitor):
    check_page(visitor.get("/?s=Welcome"), text="Hello world!")
    feed = visitor.get("/feed/")
    assert feed.status == 200 and feed.header("content-type") == "application/rss+xml; charset=UTF-8" and "<rss" in feed.text
    again = visitor.get("/feed/", headers={"If-None-Match": feed.header("etag"), "If-Modified-Since": feed.header("last-modified")})
    assert again.status == 304
    assert "<sitemapindex" in visitor.get("/wp-sitemap.xml").text
    robots = visitor.get("/robots.txt")
    assert robots.header("content-type").startswith("text/plain") and "Disallow: /wp-admin/" in robots.text


def test_xmlrpc(visitor):
    call = ("<?xml version='1.0'?><methodCall><methodName>wp.getUsersBlogs</methodName><params><param><value>"
            f"<string>{USER}</string></value></param><param><value><string>{PASSWORD}</string></value></param></params></methodCall>")
    r = visitor.request("POST", "/xmlrpc.php", body=call.encode(), headers={"Content-Type": "text/xml"})
    assert r.status == 200 and "isAdmin" in r.text and r.header("content-type").startswith("text/xml")
    assert visitor.get("/xmlrpc.php").status == 405


def test_settings_form(logged_in, visitor):
    page = logged_in.get("/wp-admin/options-general.php")
    f = form(page, field="blogdescription").set("blogdescription", "Just another test")
    check_page(f.submit(logged_in, page, "submit"), text="Settings saved")
    assert visitor.get("/wp-json/").json()["description"] == "Just another test"


def test_configuration_is_not_readable(visitor):
    for target in ("/wp-config.php", "/wp-config.php/", "/wp-content/plugins/sapid-test.php", "/wp-content/debug.log", "/.htaccess"):
        r = visitor.get(target)
        assert b"DB_PASSWORD" not in r.body and b"Plugin Name" not in r.body


def test_many_visitors_at_once(server):
    from concurrent.futures import ThreadPoolExecutor

    def visit(_):
        s = server.session()
        try:
            return [s.get(t).status for t in ("/", "/sample-page/", "/wp-json/wp/v2/posts", "/?s=hello")]
        finally:
            s.close()
    with ThreadPoolExecutor(8) as threads:
        assert all(statuses == [200] * 4 for statuses in threads.map(visit, range(16)))


def test_log_out(server):
    s = server.session()
    log_in(s)
    page = s.get("/wp-admin/")
    link = first_link(page, r'([^"]*wp-login\.php\?action=logout[^"]*)')
    check_page(s.get(link), text="You are now logged out")
    assert urlsplit(s.get("/wp-admin/").url).path == "/wp-login.php"


@pytest.mark.slow
def test_log_in_and_publish_in_a_browser(server, launch_module, visitor, sql):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support import expected_conditions as ec
    from selenium.webdriver.support.ui import WebDriverWait

    browser = open_browser(launch_module.folder)
    try:
        wait = WebDriverWait(browser, 60)
        browser.get(f"{server.origin}/wp-login.php")
        # A script of the page moves the focus to the first field a moment after loading.
        wait.until(lambda b: b.switch_to.active_element.get_attribute("id") == "user_login")
        browser.find_element(By.ID, "user_login").send_keys(USER)
        browser.find_element(By.ID, "user_pass").send_keys(PASSWORD)
        assert browser.find_element(By.ID, "user_login").get_attribute("value") == USER
        browser.find_element(By.ID, "wp-submit").click()
        wait.until(ec.presence_of_element_located((By.ID, "wpadminbar")))
        assert "Dashboard" in browser.title

        browser.get(f"{server.origin}/wp-admin/post-new.php")
        title = wait.until(ec.presence_of_element_located((By.CSS_SELECTOR, ".editor-post-title__input")))
        # The guided tour of a first visit covers the page until it is told not to.
        browser.execute_script("wp.data.dispatch('core/preferences').set('core/edit-post', 'welcomeGuide', false)")
        wait.until(lambda b: not b.find_elements(By.CSS_SELECTOR, ".components-modal__screen-overlay"))
        title.click()
        title.send_keys("Published in Chromium\nThe first paragraph, typed in the block editor.")
        wait.until(ec.element_to_be_clickable((By.CSS_SELECTOR, ".editor-post-publish-panel__toggle"))).click()
        wait.until(ec.element_to_be_clickable((By.CSS_SELECTOR, ".editor-post-publish-panel .editor-post-publish-button"))).click()
        published = (By.CSS_SELECTOR, ".post-publish-panel__postpublish-header a")
        link = wait.until(ec.presence_of_element_located(published)).get_attribute("href")

        browser.get(link)
        assert "The first paragraph, typed in the block editor." in browser.find_element(By.TAG_NAME, "body").text
        broken = [e for e in browser.get_log("browser") if e["level"] == "SEVERE" and server.origin in e["message"]]
        assert not broken, broken
    finally:
        browser.quit()
    assert sql("SELECT post_status FROM wp_posts WHERE post_title = 'Published in Chromium' AND post_type = 'post'") == [["publish"]]
    check_page(visitor.get(link), text="Published in Chromium")
