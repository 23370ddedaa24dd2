"""Five people in the Laravel shop, under PHP-FPM, in classic mode and rolled back (as worker scripts, and as a front
controller with restore_state() and snapshot_state()): equal answers, and nobody's data in another's. What
test_symfony_isolation.py does, with Laravel's forms, tokens, encrypted cookies and authentication.
"""
import hashlib
import shutil

import pytest

from lib.crowd import Crowd, Person, from_images
from lib.forms import form, forms
from lib.image import png
from lib.laravel import PASSWORD, LaravelApp

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

MASKS = [(r'(name="_token" value=")\w{40}"', r'\1TOKEN"'),   # of the session
         (r"sf-dump-\d+", "sf-dump-N"),
         (r"\w{3}, \d\d \w{3} 2\d{3} \d\d:\d\d:\d\d GMT", "TIME")]   # Last-Modified of an upload
PEOPLE = [Person(i, "laravel") for i in range(5)]
WITHOUT_DATABASE = ["/product/new", "/login", "/upload", "/teapot", "/echo/x", "/counter", "/no/such/route"]
WITH_DATABASE = [*WITHOUT_DATABASE, "/", "/?page=2", "/product/9", "/api/products/9"]
WORKERS = {"refuse": WITHOUT_DATABASE, "sever": WITH_DATABASE, "reset": WITH_DATABASE}


@pytest.fixture(scope="module")
def servers(launch_module, mariadb):
    """Each with a copy of the application and a database of its own, so that they see the same requests and no others."""
    found = {}
    for kind in ("fpm", "classic", "loop", "seed", *WORKERS):
        app = LaravelApp(launch_module.folder / kind, mariadb, f"laravel_{kind}")
        for p in PEOPLE:
            mariadb.sql(f"INSERT INTO users (name, email, password) VALUES ('{p.name}', '{p.email}', '{PASSWORD}')", f"laravel_{kind}")
        options = {"workers": 2, "env": app.env, "expect_errors": True, "front_controller": "index.php",
                   "ini": {"upload_max_filesize": "8M", "post_max_size": "9M"}, "server": {"max_body_size": "10M"}}
        if kind == "loop" or kind in WORKERS:
            del options["front_controller"]
            options["worker"] = {"script": str(app.root / "public/worker.php"), "num": 3}
        if kind in WORKERS:
            options["worker"] |= {"isolation": "rollback", "snapshot_sockets": kind, "warmup": WORKERS[kind]}
        if kind == "seed":
            shutil.copy(app.root / "public/seed.php", app.root / "public/index.php")
            options["php"] = {"snapshot_warmup": ["/", "/teapot"]}
        found[kind] = launch_module(app.root / "public", kind="fpm" if kind == "fpm" else "sapid", **options)
    return found


@pytest.fixture
def crowd(servers):
    crowd = Crowd({name: s for name, s in servers.items() if name != "loop"}, PEOPLE, MASKS)
    yield crowd
    crowd.close()


def log_in(browser, dice, person):
    page = browser.get("/login")
    form(page, field="email").set("email", person.email).set("password", "secret").submit(browser, page, "in")


def fail_to_log_in(browser, dice, person):
    page = browser.get("/login")
    again = form(page, field="email").set("email", f"not-{person.email}").set("password", "secret").submit(browser, page, "in")
    assert "Nobody of that name." in again.text and f"not-{person.email}" in again.text


def log_out(browser, dice, person):
    page = browser.get("/notes")
    if any(f.id == "logout" for f in forms(page)):
        form(page, id="logout").submit(browser, page, "out")


def who_am_i(browser, dice, person):
    browser.get("/me")


def write_a_note(browser, dice, person):
    page = browser.get("/notes")
    if any(f.id == "note" for f in forms(page)):
        note = dice.choice(["", f"{person.mark} <i>Notiz</i> {dice.randint(0, 999)} ä€", person.mark * 12])
        form(page, id="note").set("note", note).submit(browser, page, "save")


def forge(browser, dice, person):
    """A form without the token of the session."""
    assert browser.request("POST", "/notes", data={"note": person.mark, "_token": "0" * 40}).status == 419


def read_pages(browser, dice, person):
    for target in dice.sample(["/", "/?page=2", "/?page=99", "/product/9", f"/product/{dice.randint(1, 130)}",
                               f"/api/products/{dice.randint(1, 130)}", "/api/products/x"], 2):
        browser.get(target)


def send_a_wrong_product(browser, dice, person):
    page = browser.get("/product/new")
    f = form(page, field="name").set("name", "").set("price", "-1").set("description", person.mark)
    assert person.mark in f.submit(browser, page, "save").text


def save_a_product(browser, dice, person):
    page = browser.get("/product/new")
    form(page, field="name").set("name", f"Käse {dice.randint(0, 999)}").set("price", "12.34").submit(browser, page, "save")


def upload(browser, dice, person):
    picture = png(20 + dice.randint(0, 40), 30) + person.mark.encode()
    page = browser.get("/upload")
    done = form(page, field="file").submit(browser, page, "send", files=[("file", "p.png", picture, "image/png")])
    assert done.body == picture and done.url.endswith(f"/download/{hashlib.sha1(picture).hexdigest()}.png")


def upload_what_is_refused(browser, dice, person):
    page = browser.get("/upload")
    done = form(page, field="file").submit(browser, page, "send", files=[
        ("file", f"{person.mark}.png", f"%PDF-1.7 {person.mark}".encode(), "image/png")])
    assert "must be a file of type: png" in done.text


def be_told(browser, dice, person):
    answer = browser.get(f"/echo/{person.mark}?{person.mark}={dice.random()}")
    assert answer.json()["rest"] == person.mark


def count(browser, dice, person):
    browser.get("/counter")


def change_whatever_can_be_changed(browser, dice, person):
    browser.get(dice.choice(["/change", "/state", "/transaction"]))


def meet_a_careless_page(browser, dice, person):
    assert browser.get("/careless").status == 200


def meet_an_error(browser, dice, person):
    browser.get(dice.choice(["/boom", "/teapot", f"/no/{person.mark}", "/product/0", "/dd"]))


ACTIONS = [log_in, log_in, fail_to_log_in, log_out, who_am_i, write_a_note, write_a_note, forge, read_pages, read_pages,
           send_a_wrong_product, save_a_product, upload, upload_what_is_refused, be_told, count, change_whatever_can_be_changed,
           meet_a_careless_page, meet_an_error]


def test_answers_are_equal_and_nobody_meets_anothers_data(crowd, servers):
    crowd.walk(ACTIONS, 150, "a walk")
    assert crowd.compared > 200
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
