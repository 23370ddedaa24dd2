"""Five people in the Laravel shop, under PHP-FPM, in classic mode and rolled back (as worker scripts, and as a front
controller with restore_state() and snapshot_state()): equal answers, and nobody's data in another's. What
test_symfony_isolation.py does, with Laravel's forms, tokens, encrypted cookies and authentication.
"""
import pytest

from lib.crowd import Crowd, Person, from_images
from lib.forms import form
from lib.laravel import SHOP, LaravelApp
from lib.shop import PASSWORD, launch_each_way

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
    def make(kind):
        database = f"laravel_{kind}"
        app = LaravelApp(launch_module.folder / kind, mariadb, database)
        for p in PEOPLE:
            mariadb.sql(f"INSERT INTO users (name, email, password) VALUES ('{p.name}', '{p.email}', '{PASSWORD}')", database)
        return app

    return launch_each_way(launch_module, make, WORKERS, {})


@pytest.fixture
def crowd(servers):
    crowd = Crowd({name: s for name, s in servers.items() if name != "loop"}, PEOPLE, MASKS)
    yield crowd
    crowd.close()


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


def be_told(browser, dice, person):
    answer = browser.get(f"/echo/{person.mark}?{person.mark}={dice.random()}")
    assert answer.json()["rest"] == person.mark


def change_whatever_can_be_changed(browser, dice, person):
    browser.get(dice.choice(["/change", "/state", "/transaction"]))


def meet_an_error(browser, dice, person):
    browser.get(dice.choice(["/boom", "/teapot", f"/no/{person.mark}", "/product/0", "/dd"]))


ACTIONS = [*SHOP.common_actions(), read_pages, read_pages, send_a_wrong_product, save_a_product, be_told,
           change_whatever_can_be_changed, meet_an_error]


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
        crowd.walk([SHOP.meet_a_careless_page], 20, "careless")
    crowd.close()
