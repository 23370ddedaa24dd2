"""Guards: a request that differs in what the boot of an image has read runs in classic mode."""
import json
import random

import pytest

from lib import account
from lib.process import wait_until

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SCRIPT = """<?php
function boot() {
    global $seen, $born;
    $born = bin2hex(random_bytes(8));
    $seen = [];
    foreach (READS as [$global, $key])
        $seen["$global.$key"] = $GLOBALS[$global][$key] ?? null;
    CODE
    snapshot_state();
}
boot();
header('Content-Type: application/json');
echo json_encode(['born' => $born, 'seen' => $seen, 'method' => $_SERVER['REQUEST_METHOD'], 'post' => $_POST,
                  'input' => strlen(file_get_contents('php://input')),
                  'has' => isset($_GET['a']) || isset($_COOKIE['c'])]);
"""


class Guarded:
    """A script with an image, and requests that may have it or not."""

    def __init__(self, server, first):
        self.server = server
        self.first = first
        self.born = wait_until(self.image, "an image of the script")

    def ask(self, path="/index.php", headers=None, method="GET", body=None) -> dict:
        r = self.server.get(path, headers=headers, method=method, body=body)
        assert r.status == 200, r.text
        return json.loads(r.text)

    def image(self) -> str | None:
        """The boot that two requests share: classic mode boots for each."""
        born = self.ask(**self.first)["born"]
        return born if self.ask(**self.first)["born"] == born else None

    def holds(self, *args, **options) -> bool:
        """Of several, which any worker may answer."""
        answers = [self.ask(*args, **options) for _ in range(3)]
        image = {a["born"] == self.born for a in answers}
        assert len(image) == 1, answers
        return image.pop()


@pytest.fixture
def guarded(launch):
    def start(*reads: str, code="", first=None, **php):
        root = launch.new_root()
        (root / "data").mkdir()
        account.give(root)
        pairs = json.dumps([r.split(".", 1) for r in reads])
        (root / "index.php").write_text(SCRIPT.replace("READS", pairs).replace("CODE", code))
        return Guarded(launch(root, workers=2, php=php, server={"trusted_proxies": ["127.0.0.1"]}), first or {})

    return start


def test_the_host(guarded):
    s = guarded("_SERVER.HTTP_HOST")
    assert s.holds()
    assert s.holds("/index.php?any=thing", {"Cookie": "a=b", "Accept": "x/y"})
    assert not s.holds(headers={"Host": "other.example"})
    assert s.holds()


def test_headers(guarded):
    s = guarded("_SERVER.HTTP_ACCEPT_LANGUAGE", "_SERVER.HTTP_X_A")
    assert s.holds(headers={"User-Agent": "any", "X-AB": "1"})
    assert not s.holds(headers={"Accept-Language": "de"})
    assert not s.holds(headers={"x-a": "1"})


def test_the_method_and_its_body(guarded):
    s = guarded("_SERVER.REQUEST_METHOD")
    assert s.holds()
    assert not s.holds(method="POST", body=b"a=1", headers=FORM)
    assert s.ask(method="POST", body=b"a=1", headers=FORM)["post"] == {"a": "1"}
    assert s.ask(method="PUT", body=b"x" * 300_000)["input"] == 300_000


def test_a_body_that_is_not_waited_for(guarded):
    s = guarded("_SERVER.REQUEST_METHOD", request_buffering=False)
    for size in (1, 40_000, 3_000_000):
        assert s.ask(method="PUT", body=b"x" * size)["input"] == size
    assert s.holds()


def test_all_of_the_query_of_a_url(guarded):
    s = guarded(code="global $kept; $kept = $_GET; $x = count($_REQUEST);", snapshot_url="/index.php?a=1",
                first={"path": "/index.php?a=1"})
    assert s.holds("/index.php?a=1")
    assert not s.holds("/index.php")
    assert not s.holds("/index.php?a=2")


def test_a_form(guarded):
    s = guarded("_POST.name", "_FILES.upload")
    assert s.holds(method="POST", body=b"{}", headers={"Content-Type": "application/json"})
    assert not s.holds(method="POST", body=b"a=1", headers=FORM)
    assert s.ask(method="POST", body=b"a=1", headers=FORM)["post"] == {"a": "1"}


def test_the_body_as_it_comes(guarded):
    s = guarded(code="$x = file_get_contents('php://input');")
    assert s.holds()
    assert not s.holds(method="POST", body=b"{}", headers={"Content-Type": "application/json"})
    assert s.ask(method="POST", body=b"{}", headers={"Content-Type": "application/json"})["input"] == 2


@pytest.mark.parametrize("query, holds", [
    ("", True), ("b=1", True), ("aa=1", True), ("=1", True), ("A=1", True),
    ("a=", False), ("a", False), ("b=1&a=2", False), ("%61=1", False), ("+a=1", False), ("a[]=1", False), ("a%5Bx%5D=1", False),
    ("a%00x=1", False),
])
def test_a_key_of_the_query_that_was_absent(guarded_a, query, holds):
    answer = guarded_a.ask(f"/index.php?{query}")
    assert (answer["born"] == guarded_a.born) == holds
    if not holds:
        assert answer["seen"]["_GET.a"] is not None


@pytest.fixture(scope="module")
def guarded_a(launch_module):
    root = launch_module.new_root()
    (root / "index.php").write_text(SCRIPT.replace("READS", '[["_GET","a"],["_COOKIE","c"]]').replace("CODE", ""))
    return Guarded(launch_module(root, workers=2), {})


@pytest.mark.parametrize("cookies, holds", [
    ("d=1", True), ("cc=1; d=c", True), ("%63=1", True),
    ("c=1", False), ("d=1; c=", False), ("d=1;c=2", False), ("c[x]=1", False),
])
def test_a_cookie_that_was_absent(guarded_a, cookies, holds):
    answer = guarded_a.ask(headers={"Cookie": cookies})
    assert (answer["born"] == guarded_a.born) == holds


def test_no_request_that_php_sees_otherwise_gets_the_image(guarded_a):
    """Texts at random: whatever PHP finds in them, the guard has to."""
    rnd = random.Random(7)
    words = ["a", "c", "%61", "%63", "b", "=", "&", ";", "[", "]", ".", "_", "+", "%20", "%00", "%5B", "%", "%2", "x", " ", "\t", "A"]
    with guarded_a.server.connect() as c:
        held = absent = 0
        for _ in range(1500):
            query = "".join(rnd.choice(words) for _ in range(rnd.randrange(8))).replace(" ", "+").replace("\t", "%09")
            cookies = "".join(rnd.choice(words) for _ in range(rnd.randrange(8))).strip()
            answer = json.loads(c.request("GET", f"/index.php?{query}", headers={"Cookie": cookies} if cookies else {}).text)
            image = answer["born"] == guarded_a.born
            assert not (image and answer["has"]), (query, cookies)
            held += image
            absent += not answer["has"]
    assert held > 0.9 * absent > 500, (held, absent)


def test_the_values_of_a_url(guarded):
    s = guarded("_GET.page", "_SERVER.HTTPS", snapshot_url="/index.php?page=two+words&x=1",
                first={"path": "/index.php?page=two+words"})
    assert s.holds("/index.php?x=9&page=two%20words")
    assert s.holds("/index.php?page=1&page=two%20words")
    assert not s.holds("/index.php?page=two")
    assert not s.holds("/index.php")


def test_all_of_the_query_and_the_cookies(guarded):
    s = guarded(code="foreach ($_GET as $x); $n = count($_COOKIE);")
    assert s.holds()
    assert not s.holds("/index.php?a=1")
    assert not s.holds(headers={"Cookie": "a=1"})


def test_request(guarded):
    s = guarded("_REQUEST.a")
    assert s.holds("/index.php?b=1", {"Cookie": "a=1"})  # request_order is "GP" in Debian's php.ini
    assert not s.holds("/index.php?a=1")
    assert not s.holds(method="POST", body=b"a=1", headers=FORM)


def test_the_server_s_side(guarded):
    s = guarded("_SERVER.SERVER_PORT", "_SERVER.SERVER_NAME", "_SERVER.REQUEST_SCHEME", "_SERVER.PHP_SELF")
    assert s.holds()
    assert not s.holds(headers={"Host": "other.example"})


def test_https_of_the_proxy_before(guarded):
    https = {"X-Forwarded-Proto": "https", "Host": "shop.example"}
    s = guarded("_SERVER.HTTPS", "_SERVER.SERVER_PORT", first={"headers": https})
    assert s.holds(headers=https)
    assert s.holds(headers={"X-Forwarded-Proto": "https", "Host": "other.example"})
    assert not s.holds(headers={"Host": "shop.example"})
    assert s.ask(headers=https)["seen"] == {"_SERVER.HTTPS": "on", "_SERVER.SERVER_PORT": "443"}


def test_a_boot_that_finds_what_the_one_before_has_left(guarded):
    """The audit's run writes a file; the boot that is frozen finds it, and reads more of its request."""
    s = guarded(code="if (snapshot_boots()) { $f = __DIR__ . '/data/left';"
                     " if (is_file($f)) $x = $_COOKIE['late'] ?? 1; else file_put_contents($f, 'x'); clearstatcache(); }")
    assert s.holds()
    assert not s.holds(headers={"Cookie": "late=1"})


def test_credentials(guarded):
    s = guarded("_SERVER.PHP_AUTH_USER", "_SERVER.REMOTE_USER")
    assert s.holds()
    assert not s.holds(headers={"Authorization": "Basic dTpw"})
    assert s.ask(headers={"Authorization": "Basic dTpw"})["seen"]["_SERVER.PHP_AUTH_USER"] == "u"


def test_what_is_the_same_for_all(guarded):
    s = guarded("_SERVER.DOCUMENT_ROOT", "_SERVER.SCRIPT_FILENAME", "_SERVER.SERVER_SOFTWARE", "_SERVER.REQUEST_TIME",
                "_SERVER.PATH", "_SERVER.GATEWAY_INTERFACE", "_SERVER.SERVER_PROTOCOL", "_SERVER.SCRIPT_NAME")
    assert s.holds("/index.php?a=1", {"Cookie": "b=1"})


def test_predicates(guarded):
    s = guarded("_SERVER.HTTP_HOST", "_SERVER.HTTP_USER_AGENT", first={"headers": {"X-Api": "v2"}},
                snapshot_guards={"_SERVER.HTTP_HOST": "set", "_SERVER.HTTP_USER_AGENT": "any", "_COOKIE.sid": "absent",
                                 "_SERVER.HTTP_X_API": "regex:^v[0-9]+$"})
    good = {"X-Api": "v2"}
    assert s.holds(headers={**good, "Host": "other.example", "User-Agent": "x"})
    assert not s.holds(headers={**good, "Cookie": "sid=1"})
    assert not s.holds(headers={"X-Api": "w2"})
    assert not s.holds()


def test_a_boot_that_reads_all_of_server_when_it_is_allowed_to(guarded):
    s = guarded(code="foreach ($_SERVER as $x);", snapshot_guards={"_SERVER.*": "any"})
    assert s.holds(headers={"Host": "other.example"})


def test_no_cookies_at_all(guarded):
    s = guarded(snapshot_guards={"_COOKIE.*": "absent"})
    assert s.holds()
    assert not s.holds(headers={"Cookie": "x=1"})


@pytest.mark.parametrize("code, wanted", [
    pytest.param("$x = array_keys($_SERVER);", "reads all of $_SERVER at ", id="all"),
    pytest.param("$x = getallheaders();", "reads all headers at ", id="headers"),
    pytest.param("$x = $_SERVER['REMOTE_PORT'];", "reads $_SERVER['REMOTE_PORT'] at ", id="port"),
])
def test_a_boot_that_no_request_could_agree_with(launch, code, wanted):
    root = launch.new_root()
    (root / "index.php").write_text(SCRIPT.replace("READS", "[]").replace("CODE", code))
    server = launch(root, workers=1, expect_errors=True)

    def refused():
        server.get("/index.php")
        return [line for line in server.log_text().splitlines() if wanted in line]

    line = wait_until(refused, "the refusal")[0]
    assert "index.php:8" in line
    assert "snapshot_guards" in line


SANITISED = """<?php
if (!restore_state()) {
    $boot = getmypid();
    CODE
    snapshot_state();
}
echo json_encode(['image' => $boot !== getmypid(), 'host' => $_SERVER['HTTP_HOST'], 'https' => $_SERVER['HTTPS'] ?? null,
                  'url' => $_SERVER['HTTP_X_ORIGINAL_URL'] ?? null, 'get' => $_GET, 'cookie' => $_COOKIE ?? 'gone',
                  'post' => $_POST, 'request' => $_REQUEST,
                  'numbers' => array_filter($_SERVER, 'is_int', ARRAY_FILTER_USE_KEY)]);
"""
SAYING = [("/index.php?0=client", {}, None), ("/index.php?8=client&-3=client&9=client", {}, None), ("/index.php", {"Cookie": "7=client"}, None),
          ("/index.php", {}, None), ("/index.php", {"Host": "evil.example"}, None), ("/index.php", {"X-Original-URL": "/admin"}, None),
          ("/index.php?a=1&b=2", {"Cookie": "a=c; b=d"}, None), ("/index.php", {"X-Forwarded-Proto": "https"}, None),
          ("/index.php", FORM, b"a=p")]


@pytest.mark.parametrize("code", [
    pytest.param("$_SERVER['HTTP_HOST'] = 'good.example'; $_SERVER['HTTPS'] = 'off';", id="pins"),
    pytest.param("unset($_SERVER['HTTP_X_ORIGINAL_URL'], $_COOKIE['a'], $_POST['a'], $_REQUEST['a']);", id="unsets"),
    pytest.param("$_GET['a'] = $_REQUEST['route'] = 'boot'; $_COOKIE['b'] = 'boot';", id="adds"),
    pytest.param("$_GET = []; $_COOKIE = ['a' => 'boot']; $_REQUEST = [];", id="replaces"),
    pytest.param("$_GET[0] = 'boot'; $_COOKIE[7] = 'boot'; $_SERVER[5] = 'boot'; unset($_GET[-3], $_REQUEST['9']);", id="numbers"),
    pytest.param("$_GET[] = 'boot'; $_SERVER[] = 'boot'; $_COOKIE[][] = 'boot';", id="appends"),
    pytest.param("unset($_COOKIE); function f(array &$s) { unset($s['HTTP_X_ORIGINAL_URL']); } f($_SERVER);", id="takes"),
])
def test_what_the_boot_changes_of_a_request(launch, code):
    """Whoever pins the host or takes a header away in his boot has it so behind it, with an image as without."""
    root = launch.new_root()
    (root / "index.php").write_text(SANITISED.replace("CODE", code))
    server, classic = [launch(root, workers=1, php=php, server={"trusted_proxies": ["127.0.0.1"]})
                       for php in ({}, {"max_images": 0})]
    same = {"Host": "site.example"}
    wait_until(lambda: server.get("/index.php", headers=same).json()["image"], "an image of the script")
    for path, headers, body in SAYING:
        method = "POST" if body else "GET"
        expected, found = [s.get(path, headers={**same, **headers}, method=method, body=body).json() for s in (classic, server)]
        image = found.pop("image")
        expected.pop("image")
        assert found == expected, (path, headers, image)
    assert server.get("/index.php", headers=same).json()["image"]
