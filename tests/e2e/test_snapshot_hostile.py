"""What a boot may leave behind that requests from its image would share: such a script is refused, or what was shared is put right
at the end of each request. Each of these was once a hole."""
import fcntl
import os
import sqlite3
from pathlib import Path

import pytest

from lib import account
from lib.process import wait_until

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]


@pytest.fixture
def site(launch):
    def start(code, *, refused=False, files=None, ini=None, **php):
        root = launch.new_root()
        (root / "data").mkdir()
        for name, text in {"index.php": "<?php " + code, **(files or {})}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        account.give(root)
        server = launch(root, workers=2, expect_errors=refused, php=php,
                        ini={"session.save_path": str(root / "data"), "opcache.revalidate_freq": "1", "opcache.file_update_protection": "0",
                             **(ini or {})})
        server.root = root
        return server
    return start


def until_image(server, path="/index.php"):
    def there():
        server.get(path)
        return f"is the image of {path}" in server.log_text()
    wait_until(there, "an image of the script", 60)


def refusal(server):
    def said():
        server.get("/index.php")
        return [line for line in server.log_text().splitlines() if "there is no image of" in line]
    return wait_until(said, "a refusal", 60)[0]


def session_ids(server, n=4):
    return {server.get("/index.php").text for _ in range(n)}


@pytest.mark.parametrize("boot", [
    pytest.param("session_start(); session_write_close();", id="closed"),
    pytest.param("session_start(); session_abort();", id="aborted"),
    pytest.param("session_start(); session_destroy();", id="cookie-only"),
    pytest.param("session_id('mine' . random_int(1, 1000000000));", id="id-set"),
])
def test_a_session_of_the_boot_is_not_everybody_s(site, boot):
    s = site(boot + " snapshot_state(); if (session_status() != PHP_SESSION_ACTIVE) session_start(); echo session_id();", refused=True)
    assert "all visitors would share it" in refusal(s)
    assert len(session_ids(s)) == 4


def test_a_session_of_which_nothing_stays_is_forgotten(site):
    s = site("session_start(); $_SESSION['boot'] = 1; session_write_close(); snapshot_state(); session_start();"
             " echo session_id(), count($_SESSION);",
             snapshot_guards={"_COOKIE.PHPSESSID": "any"})
    until_image(s)
    assert len(session_ids(s)) == 4
    r = s.get("/index.php")
    assert len(r.headers("set-cookie")) == 1 and r.text.endswith("0")
    cookie = r.header("set-cookie").partition(";")[0]
    assert cookie == "PHPSESSID=" + r.text[:-1]
    assert s.get("/index.php", headers={"Cookie": cookie}).text == r.text
    assert "/index.php" in s.log_text()


def test_a_session_whose_id_was_taken_away_is_none(site):
    """As Symfony's reset does it, with a page of a session that warms the boot."""
    s = site("session_start(['use_cookies' => 0]); session_write_close(); session_id(''); snapshot_state();"
             " session_id($_COOKIE['PHPSESSID'] ?? ''); session_start(); echo session_id();")
    until_image(s)
    assert len(session_ids(s)) == 4


def test_a_cookie_of_the_boot_is_told(site):
    s = site("setcookie('visitor', 'x'); snapshot_state(); echo 1;")
    until_image(s)
    assert "the boot sets the cookie visitor, whose value is now the same in all answers" in s.log_text()


@pytest.mark.parametrize("boot", [
    pytest.param("$f = tmpfile();", id="tmpfile"),
    pytest.param("$f = fopen('php://temp/maxmemory:10', 'w+'); fwrite($f, str_repeat('x', 100));", id="outgrown"),
    pytest.param("$f = new SplTempFileObject(10); $f->fwrite(str_repeat('x', 100));", id="spl"),
])
def test_a_temporary_file_is_not_shared(site, boot):
    s = site(boot + " snapshot_state(); echo 1;", refused=True)
    assert "a temporary file is open" in refusal(s)


def test_a_temporary_stream_in_memory_is_each_request_s_own(site):
    s = site("$f = fopen('php://temp', 'w+'); fwrite($f, 'boot'); snapshot_state(); rewind($f); echo strlen(stream_get_contents($f));"
             " fwrite($f, str_repeat('x', 3 << 20)); rewind($f); echo '-', strlen(stream_get_contents($f));")
    until_image(s)
    assert {s.get("/index.php").text for _ in range(4)} == {f"4-{(3 << 20) + 4}"}


@pytest.mark.parametrize("boot", [
    pytest.param("$f = fopen(__DIR__ . '/data/lock', 'c'); flock($f, LOCK_EX);", id="flock"),
    pytest.param("$p = new PDO('sqlite:' . __DIR__ . '/data/db'); $p->exec('begin immediate');", id="transaction"),
])
def test_a_lock_that_the_boot_holds_is_refused(site, boot):
    s = site(boot + " snapshot_state(); echo 1;", refused=True)
    assert "the boot holds a lock on" in refusal(s)
    assert s.get("/index.php").text == "1"          # nobody holds it for ever


def test_a_semaphore_is_refused(site):
    s = site("$s = sem_get(0x5a91d); snapshot_state(); echo sem_acquire($s, true) ? 'got' : 'not'; sem_release($s);", refused=True)
    assert "it has a semaphore" in refusal(s)
    assert s.get("/index.php").text == "got"


def test_a_lock_that_a_request_leaves_ends_with_it(site):
    """In a file that the boot has opened. Else the worker would hold it until it is asked for something again."""
    s = site("$f = fopen(__DIR__ . '/data/lock', 'c'); snapshot_state(); if (isset($_GET['take'])) flock($f, LOCK_EX); echo getmypid();")
    until_image(s)
    for _ in range(3):
        assert s.get("/index.php?take=1").status == 200
        with open(s.root / "data/lock") as f:
            def free():
                try:
                    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    return False
                fcntl.flock(f, fcntl.LOCK_UN)
                return True
            wait_until(free, "the lock to be free", 30)


@pytest.mark.parametrize("end", ["", "exit();", "undefined();"])
def test_a_transaction_that_a_request_leaves_ends_with_it(site, end):
    s = site("$p = new PDO('sqlite:' . __DIR__ . '/data/db'); $p->exec('create table if not exists t (a)'); snapshot_state();"
             " if (isset($_GET['take'])) { $p->exec('begin immediate'); $p->exec('insert into t values (1)'); " + end + " }"
             " else echo $p->query('select count(*) from t')->fetchColumn();", refused=bool(end))
    until_image(s)
    for _ in range(3):
        assert s.get("/index.php?take=1").status == (500 if "undefined" in end else 200)
        db = sqlite3.connect(s.root / "data/db", timeout=60, isolation_level=None)
        db.execute("begin immediate")               # waits for the lock
        assert db.execute("select count(*) from t").fetchone() == (0,)
        db.execute("rollback")
        db.close()
        assert s.get("/index.php").text == "0"


def test_what_the_boot_takes_out_of_the_environment_stays_away(site):
    code = ("unset($_SERVER['SECRET'], $_ENV['SECRET']); putenv('ADDED=1'); putenv('CHANGED=new'); snapshot_state();"
            " echo json_encode([$_SERVER['SECRET'] ?? null, $_ENV['SECRET'] ?? null, getenv('SECRET'), $_SERVER['ADDED'] ?? null, $_ENV['ADDED'] ?? null,"
            " getenv('ADDED'), $_SERVER['CHANGED'], $_ENV['CHANGED'], getenv('CHANGED'), $_SERVER['KEPT']]);")
    s = site(code, env={"SECRET": "hunter2", "CHANGED": "old", "KEPT": "yes"}, ini={"variables_order": "EGPCS"},
             files={"plain.php": "<?php " + code.replace("snapshot_state();", "")})
    until_image(s)
    wanted = s.get("/plain.php").text
    assert wanted == '[null,null,"hunter2",null,null,"1","old","old","new","yes"]'
    assert {s.get("/index.php?" + q).text for q in "abc"} == {wanted}


def test_code_that_was_preloaded_is_guarded(site, workdir):
    preload = workdir / "preload.php"
    preload.write_text("<?php class P { static function who() { return $_COOKIE['u'] ?? 'nobody'; }"
                       " static function n() { return count($_GET) . (array_key_exists('k', $_GET) ? 'k' : '')"
                       " . (filter_input(INPUT_GET, 'f') ?? '') . (fn() => getenv('HTTP_X_G') ?: '')(); } }\n")
    os.chmod(workdir, 0o755)
    code = "$who = P::who(); $n = P::n(); snapshot_state(); echo $who, $n;"
    user = {"opcache.preload_user": account.web().name} if account.is_root() else {}
    s = site(code, ini={"opcache.preload": str(preload), **user},
             files={"plain.php": "<?php " + code.replace("snapshot_state();", "")})
    until_image(s)
    assert "_COOKIE.u" in s.log_text()
    for target, headers in (("", {}), ("", {"Cookie": "u=alice"}), ("", {"Cookie": "u=bob"}), ("?k=1", {}), ("?f=2", {}),
                            ("?z", {}),
                            ("", {"X-G": "3"})):
        assert {s.get("/index.php" + target, headers).text for _ in range(3)} == {s.get("/plain.php" + target, headers).text}


def test_a_link_that_leads_elsewhere_makes_the_image_anew(site):
    code = "<?php require __DIR__ . '/lib.php'; snapshot_state(); echo RELEASE;"
    s = site("", ini={"realpath_cache_ttl": "1"}, files={f"r{n}/{name}": text for n in (1, 2) for name, text in (
        ("index.php", code), ("lib.php", f"<?php const RELEASE = 'release {n}';"))})
    os.symlink("r1", s.root / "current")
    until_image(s, "/current/index.php")
    assert s.get("/current/index.php").text == "release 1"
    os.symlink("r2", s.root / "next")
    os.rename(s.root / "next", s.root / "current")
    wait_until(lambda: s.get("/current/index.php").text == "release 2", "the other release", 60)
    wait_until(lambda: "current/index.php has changed" in s.log_text(), "the reason", 30)


def test_a_link_on_the_way_to_a_file_of_the_boot_makes_the_image_anew(site):
    s = site("require __DIR__ . '/current/lib.php'; snapshot_state(); echo RELEASE;",
             files={f"r{n}/lib.php": f"<?php const RELEASE = 'release {n}';" for n in (1, 2)}, ini={"realpath_cache_ttl": "1"})
    os.symlink("r1", s.root / "current")
    until_image(s)
    assert s.get("/index.php").text == "release 1"
    (s.root / "r1/other").write_text("what changes in the folder is no reason")
    os.symlink("r2", s.root / "next")
    os.rename(s.root / "next", s.root / "current")
    wait_until(lambda: s.get("/index.php").text == "release 2", "the other release", 60)
    assert "/current has changed" in s.log_text() or "/current/lib.php has changed" in s.log_text()


def test_a_file_that_requests_include_is_looked_at(site):
    """Opcache counts from the beginning of the request, which in an image is for it the boot's."""
    s = site("snapshot_state(); include __DIR__ . '/late.php';", files={"late.php": "<?php echo 'one';"}, ini={"opcache.enable": "1"})
    os.utime(s.root / "late.php", (1e9, 1e9))
    until_image(s)
    assert {s.get("/index.php").text for _ in range(4)} == {"one"}
    (s.root / "late.php").write_text("<?php echo 'two';")
    wait_until(lambda: s.get("/index.php").text == "two", "the changed file", 60)
    assert s.log_text().count("is the image of") == 1


def test_opcache_s_write_lock_does_not_stay_with_a_worker(site):
    """A bailout while opcache writes to its memory would leave the lock locked, and nobody could compile any more. None is known
    that can be made to happen; so the request takes that lock itself."""
    s = site("$lock = FFI::cdef('struct lock { short type, whence; long start, len; int pid; }; int fcntl(int, int, ...);');"
             " snapshot_state();"
             " $held = fn() => preg_match('/ POSIX .* WRITE ' . getmypid() . ' .* 0 0$/m', file_get_contents('/proc/locks'));"
             " if (isset($_GET['take'])) foreach (scandir('/proc/self/fd') as $fd)"
             " if (preg_match('/[.]ZendSem[.]|memfd:opcache_lock/', (string)@readlink(\"/proc/self/fd/$fd\"))) {"
             " $l = $lock->new('struct lock'); $l->type = 1; $l->start = 0; $l->len = 1; $lock->fcntl((int)$fd, 6, FFI::addr($l)); }"
             " echo json_encode([getmypid(), $held()]);", ini={"ffi.enable": "1", "opcache.enable": "1"})
    until_image(s)

    def held(pid) -> bool:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return any(f[1] == "POSIX" and f[3] == "WRITE" and f[4] == str(pid) and f[-2:] == ["0", "0"] for f in locks if len(f) > 6)
    for _ in range(3):
        pid, taken = s.get("/index.php?take=1").json()
        assert taken == 1
        wait_until(lambda: not held(pid), "the lock to be free", 30)
        assert s.get("/index.php").json()[1] == 0
