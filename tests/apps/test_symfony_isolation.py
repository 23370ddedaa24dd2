"""Five people in the Symfony shop, under PHP-FPM, in classic mode and rolled back (as worker scripts, and as a front
controller with restore_state() and snapshot_state()): equal answers, and nobody's data in another's.

They log in and out in random order, write notes, send forms with and without their token, upload, download, and meet
error pages. What may differ between servers is MASKS, values and times of Set-Cookie, and lib.crowd's FIELDS_APART.
"""
import pytest

from lib import sapid
from lib.crowd import Crowd, Person, from_images
from lib.forms import form
from lib.shop import PASSWORD, launch_each_way
from lib.symfony import SHOP, SymfonyApp

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

MASKS = [(r'(name="_token" value=")[0-9a-f]{32}"', r'\1TOKEN"'),   # of the session
         (r"\w{3}, \d\d \w{3} 2\d{3} \d\d:\d\d:\d\d GMT", "TIME")]   # Expires: now; Last-Modified of an upload
PEOPLE = [Person(i, "symfony") for i in range(5)]
WITHOUT_DATABASE = ["/teapot", "/echo/x?a=1", "/upload", "/stream", "/no/such/route", "/cached", "/counter", "/login", "/en/blog/list"]
WORKERS = {"refuse": WITHOUT_DATABASE,
           "reset": [*WITHOUT_DATABASE, "/", "/?page=2", "/product/9", "/product/new", "/api/products/9", "/en/blog/"]}


@pytest.fixture(scope="module")
def servers(launch_module, mariadb):
    def make(kind):
        database = f"symfony_{kind}"
        app = SymfonyApp(launch_module.folder / kind, mariadb, [str(sapid.binary()), "php"], database)
        app.take_runner()
        app.fill(mariadb, 60, database)
        app.write_a_blog()
        for p in PEOPLE:
            mariadb.sql(f"INSERT INTO account (name, email, password) VALUES ('{p.name}', '{p.email}', '{PASSWORD}')", database)
        return app

    return launch_each_way(launch_module, make, WORKERS,
                           {"APP_WARM": "/en/blog/list /en/blog/ /en/blog/posts/post-7 /api/products/9"})


@pytest.fixture
def crowd(servers):
    crowd = Crowd({name: s for name, s in servers.items() if name != "loop"}, PEOPLE, MASKS)
    yield crowd
    crowd.close()


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


def be_told(browser, dice, person):
    method = dice.choice(["GET", "POST", "PUT", "PATCH", "DELETE"])
    data = {"secret": person.mark} if method != "GET" else None
    answer = browser.request(method, f"/echo/{person.mark}?{person.mark}={dice.random()}", data=data)
    assert answer.json()["rest"] == person.mark


def take_a_cookie(browser, dice, person):
    browser.get("/cookie")


def meet_an_error(browser, dice, person):
    browser.request(dice.choice(["GET", "POST"]), dice.choice(["/boom", "/teapot", f"/no/{person.mark}", "/product/0"]))


ACTIONS = [*SHOP.common_actions(), read_pages, read_pages, send_a_wrong_product, save_a_product, change_a_product, be_told,
           take_a_cookie, meet_an_error]


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
        crowd.walk([SHOP.meet_a_careless_page], 20, "careless")
    crowd.close()
