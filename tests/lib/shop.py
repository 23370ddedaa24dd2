"""The shop that tests/apps has twice, with Symfony and with Laravel: how it is served, and what people do in either."""
import hashlib
import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lib import roles
from lib.forms import form, forms
from lib.image import png
from lib.process import pss_bytes

PASSWORD = "$2y$04$ejn11nMlkmi4BJyH7FHinumW.BR/3Rkz05U4pHBF6BoRXU48yxBH."   # "secret"


def launch_each_way(launch, make, sockets: dict, seed_env: dict) -> dict:
    """One shop each for PHP-FPM, classic mode, a loop, images, and for each way of rolled back workers with `sockets` (to the
    pages that warm them). `make(kind)` gives each an application with a database of its own, so that all see the same
    requests and no others."""
    found = {}
    for kind in ("fpm", "classic", "loop", "seed", *sockets):
        app = make(kind)
        options = {"workers": 2, "env": app.env, "expect_errors": True, "front_controller": "index.php",
                   "ini": {"upload_max_filesize": "8M", "post_max_size": "9M"}, "server": {"max_body_size": "10M"}}
        if kind == "loop" or kind in sockets:
            del options["front_controller"]
            options["worker"] = {"script": str(app.root / "public/worker.php"), "num": 3}
        if kind in sockets:
            options["worker"] |= {"isolation": "rollback", "snapshot_sockets": kind, "warmup": sockets[kind]}
        if kind == "seed":
            shutil.copy(app.root / "public/seed.php", app.root / "public/index.php")
            options["php"] = {"snapshot_warmup": ["/", "/teapot"]}
            options["env"] = {**app.env, **seed_env}
        found[kind] = launch(app.root / "public", kind="fpm" if kind == "fpm" else "sapid", **options)
    return found


@dataclass(frozen=True)
class Shop:
    """What differs between the two; and the actions of lib.crowd's people that do not."""
    account: str              # page of the notes, and of the way out
    file: str                 # field and button of uploads
    send: str
    refusal: str              # of a file that is no picture
    forged: tuple[int, ...]   # status of the answer to a form without its token

    def send_file(self, browser, name: str, content: bytes):
        page = browser.get("/upload")
        return form(page, field=self.file).submit(browser, page, self.send, files=[(self.file, name, content, "image/png")])

    def log_in(self, browser, dice, person):
        page = browser.get("/login")
        form(page, field="email").set("email", person.email).set("password", "secret").submit(browser, page, "in")

    def fail_to_log_in(self, browser, dice, person):
        page, email = browser.get("/login"), f"not-{person.email}"
        again = form(page, field="email").set("email", email).set("password", "secret").submit(browser, page, "in")
        assert "Nobody of that name" in again.text and email in again.text

    def log_out(self, browser, dice, person):
        page = browser.get(self.account)
        if any(f.id == "logout" for f in forms(page)):
            form(page, id="logout").submit(browser, page, "out")

    def who_am_i(self, browser, dice, person):
        browser.get("/me")

    def write_a_note(self, browser, dice, person):
        page = browser.get(self.account)
        if any(f.id == "note" for f in forms(page)):
            note = dice.choice(["", f"{person.mark} <i>Notiz</i> {dice.randint(0, 999)} ä€", person.mark * 12])
            form(page, id="note").set("note", note).submit(browser, page, "save")

    def forge(self, browser, dice, person):
        """A form without the token of the session."""
        assert browser.request("POST", self.account, data={"note": person.mark, "_token": "0" * 40}).status in self.forged

    def upload(self, browser, dice, person):
        picture = png(20 + dice.randint(0, 40), 30) + person.mark.encode()
        done = self.send_file(browser, "p.png", picture)
        assert done.body == picture and done.url.endswith(f"/download/{hashlib.sha1(picture).hexdigest()}.png")

    def upload_what_is_refused(self, browser, dice, person):
        assert self.refusal in self.send_file(browser, f"{person.mark}.png", f"%PDF-1.7 {person.mark}".encode()).text

    def count(self, browser, dice, person):
        browser.get("/counter")

    def meet_a_careless_page(self, browser, dice, person):
        assert browser.get("/careless").status == 200

    def common_actions(self) -> list:
        return [self.log_in, self.log_in, self.fail_to_log_in, self.log_out, self.who_am_i, self.write_a_note, self.write_a_note,
                self.forge, self.upload, self.upload_what_is_refused, self.count, self.meet_a_careless_page]


class Visitor:
    """Somebody who does a bit of everything, and checks that the answer is theirs. An action returns how many requests it was."""
    shop: Shop

    def __init__(self, server, number: int):
        self.user, self.number, self.count = server.session(), number, 0
        self.random = random.Random(number)

    def actions(self) -> list:
        """As often as each is likely."""
        return [self.session] * 5 + [self.database] * 4 + [self.error, self.exception, self.upload]

    def session(self):
        self.count += 1
        assert self.user.get("/counter").text == str(self.count)
        return 1

    def error(self):
        assert self.user.get("/teapot").status == 418
        return 1

    def exception(self):
        r = self.user.get("/boom")
        assert r.status == 500 and "boom of the test" not in r.text
        return 1

    def database(self):
        i = self.random.randint(10, 100)
        assert self.user.get(f"/api/products/{i}").json()["name"] == f"Product {i}"
        return 1

    def upload(self):
        picture = png(20 + self.number, 20 + self.random.randint(0, 50))
        assert self.shop.send_file(self.user, "p.png", picture).body == picture
        return 3


def loops(server) -> list[int]:
    """Its processes of worker mode."""
    return [pid for pid in roles.workers(server) if "www-worker" in roles.title(pid)]


def check_ten_thousand_requests(server, visitor_class: type[Visitor]) -> None:
    """Six visitors at once; afterwards no process of worker mode is much larger than the largest was."""
    total, lock = 0, threading.Lock()

    def visit(number):
        nonlocal total
        visitor = visitor_class(server, number)
        actions = visitor.actions()
        try:
            while total < 10_000:
                done = visitor.random.choice(actions)()
                with lock:
                    total += done
        finally:
            visitor.user.close()

    before = max(pss_bytes(pid) for pid in loops(server))
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(visit, range(6)))
    assert total >= 10_000
    assert max(pss_bytes(pid) for pid in loops(server)) < before + (24 << 20)
