"""Five people in the Symfony shop, under PHP-FPM, in classic mode and rolled back (as worker scripts, and as a front
controller with restore_state() and snapshot_state()): equal answers, and nobody's data in another's.

They log in and out in random order, write notes, send forms with and without their token, upload, download, and meet
error pages. What may differ between servers is MASKS, values and times of Set-Cookie, and lib.crowd's FIELDS_APART.
"""
import hashlib
import shutil

import pytest

from lib import sapid
from lib.crowd import Crowd, Person, from_images
from lib.forms import form, forms
from lib.image import png
from lib.symfony import SymfonyApp

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

MASKS = [(r'(name="_token" value=")[0-9a-f]{32}"', r'\1TOKEN"'),   # of the session
         (r"\w{3}, \d\d \w{3} 2\d{3} \d\d:\d\d:\d\d GMT", "TIME")]   # Expires: now; Last-Modified of an upload
PASSWORD = "$2y$04$ejn11nMlkmi4BJyH7FHinumW.BR/3Rkz05U4pHBF6BoRXU48yxBH."   # "secret"
PEOPLE = [Person(i, "symfony") for i in range(5)]
WITHOUT_DATABASE = ["/teapot", "/echo/x?a=1", "/upload", "/stream", "/no/such/route", "/cached", "/counter", "/login", "/en/blog/list"]
WORKERS = {"refuse": WITHOUT_DATABASE,
           "reset": [*WITHOUT_DATABASE, "/", "/?page=2", "/product/9", "/product/new", "/api/products/9", "/en/blog/"]}


@pytest.fixture(scope="module")
def servers(launch_module, mariadb):
    """Each with a copy of the application and a database of its own, so that they see the same requests and no others."""
    found = {}
    for kind in ("fpm", "classic", "loop", "seed", *WORKERS):
        database = f"symfony_{kind}"
        app = SymfonyApp(launch_module.folder / kind, mariadb, [str(sapid.binary()), "php"], database)
        app.fill(mariadb, 60, database)
        app.write_a_blog()
        for p in PEOPLE:
            mariadb.sql(f"INSERT INTO account (name, email, password) VALUES ('{p.name}', '{p.email}', '{PASSWORD}')", database)
        options = {"workers": 2, "env": app.env, "expect_errors": True, "front_controller": "index.php",
                   "ini": {"upload_max_filesize": "8M", "post_max_size": "9M"}, "server": {"max_body_size": "10M"}}
        if kind == "loop" or kind in WORKERS:
            app.take_runner()
            del options["front_controller"]
            options["worker"] = {"script": str(app.root / "public/worker.php"), "num": 3}
        if kind in WORKERS:
            options["worker"] |= {"isolation": "rollback", "snapshot_sockets": kind, "warmup": WORKERS[kind]}
        if kind == "seed":
            shutil.copy(app.root / "public/seed.php", app.root / "public/index.php")
            options["php"] = {"snapshot_warmup": ["/", "/teapot"]}
            options["env"] = {**app.env, "APP_WARM": "/en/blog/list /en/blog/ /en/blog/posts/post-7 /api/products/9"}
        found[kind] = launch_module(app.root / "public", kind="fpm" if kind == "fpm" else "sapid", **options)
    return found


@pytest.fixture
def crowd(servers):
    crowd = Crowd({name: s for name, s in servers.items() if name != "loop"}, PEOPLE, MASKS)
    yield crowd
    crowd.close()


def log_in(browser, dice, person):
    page = browser.get("/login")
    form(page, id="login").set("email", person.email).set("password", "secret").submit(browser, page, "in")


def fail_to_log_in(browser, dice, person):
    page = browser.get("/login")
    form(page, id="login").set("email", f"not-{person.email}").set("password", "secret").submit(browser, page, "in")


def log_out(browser, dice, person):
    page = browser.get("/me")
    if any(f.id == "logout" for f in forms(page)):
        form(page, id="logout").submit(browser, page, "out")


def who_am_i(browser, dice, person):
    browser.get("/me")


def write_a_note(browser, dice, person):
    page = browser.get("/me")
    if any(f.id == "note" for f in forms(page)):
        note = f"{person.mark} <i>Notiz</i> {dice.randint(0, 999)} ä€"
        form(page, id="note").set("note", note).submit(browser, page, "save")


def forge(browser, dice, person):
    """A form without the token of the session."""
    assert browser.request("POST", "/me", data={"note": person.mark, "_token": "0" * 32}).status in (200, 403)


def read_pages(browser, dice, person):
    for target in dice.sample(["/", "/?page=2", "/?page=99", "/product/9", f"/product/{dice.randint(1, 70)}",
                               f"/api/products/{dice.randint(1, 70)}", "/cached", "/stream",
                               "/en/blog/", "/de/blog/page/2", "/de/blog/list", f"/en/blog/posts/post-{dice.randint(1, 31)}",
                               "/de/blog/?tag=dolor"], 3):
        browser.get(target)


def send_a_wrong_product(browser, dice, person):
    page = browser.get("/product/new")
    f = form(page, field="product[name]").set("product[name]", "").set("product[price]", "-1")
    assert f.set("product[description]", person.mark).submit(browser, page, "product[save]").status == 422


def save_a_product(browser, dice, person):
    page = browser.get("/product/new")
    f = form(page, field="product[name]").set("product[name]", f"Käse {dice.randint(0, 999)}").set("product[price]", "12.34")
    f.set("product[category]", "3").submit(browser, page, "product[save]")


def change_a_product(browser, dice, person):
    page = browser.get(f"/product/{dice.randint(1, 60)}/edit")
    form(page, field="product[price]").set("product[price]", f"{dice.randint(1, 99)}.25").submit(browser, page, "product[save]")


def upload(browser, dice, person):
    picture = png(20 + dice.randint(0, 40), 30) + person.mark.encode()
    page = browser.get("/upload")
    done = form(page, field="form[file]").submit(browser, page, "form[send]", files=[("form[file]", "p.png", picture, "image/png")])
    assert done.body == picture and done.url.endswith(f"/download/{hashlib.sha1(picture).hexdigest()}.png")


def upload_what_is_refused(browser, dice, person):
    page = browser.get("/upload")
    done = form(page, field="form[file]").submit(browser, page, "form[send]", files=[
        ("form[file]", f"{person.mark}.png", f"%PDF-1.7 {person.mark}".encode(), "image/png")])
    assert "Only pictures and text." in done.text


def be_told(browser, dice, person):
    method = dice.choice(["GET", "POST", "PUT", "PATCH", "DELETE"])
    data = {"secret": person.mark} if method != "GET" else None
    answer = browser.request(method, f"/echo/{person.mark}?{person.mark}={dice.random()}", data=data)
    assert answer.json()["rest"] == person.mark


def count(browser, dice, person):
    browser.get("/counter")


def meet_a_careless_page(browser, dice, person):
    assert browser.get("/careless").status == 200


def take_a_cookie(browser, dice, person):
    browser.get("/cookie")


def meet_an_error(browser, dice, person):
    browser.request(dice.choice(["GET", "POST"]), dice.choice(["/boom", "/teapot", f"/no/{person.mark}", "/product/0"]))


ACTIONS = [log_in, log_in, fail_to_log_in, log_out, who_am_i, write_a_note, write_a_note, forge, read_pages, read_pages,
           send_a_wrong_product, save_a_product, change_a_product, upload, upload_what_is_refused, be_told, count,
           meet_a_careless_page, take_a_cookie, meet_an_error]


def test_answers_are_equal_and_nobody_meets_anothers_data(crowd, servers):
    crowd.walk(ACTIONS, 200, "a walk")
    assert crowd.compared > 280
    images, all_of_them = from_images(servers["seed"])
    assert images > all_of_them / 2, f"images have answered only {images} of {all_of_them} requests"


@pytest.mark.parametrize("kind", [*WORKERS, "seed"])
def test_all_at_once(crowd, kind):
    crowd.rush(kind, ACTIONS, 1_000, "a rush")


def test_the_hunt_finds_what_a_loop_without_isolation_gives_away(servers):
    crowd = Crowd({"loop": servers["loop"]}, PEOPLE)
    with pytest.raises(AssertionError, match="was given to person"):
        crowd.walk([meet_a_careless_page], 20, "careless")
    crowd.close()
