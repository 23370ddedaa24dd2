"""`sapid audit`: what a boot reads of its request, opens and fixes, and where it can be frozen."""
import json
import os
import subprocess

import pytest

from lib import account
from lib.sapid import binary

FREEZE = "\nsnapshot_state();\n"


class Report:
    def __init__(self, status: int, data: dict):
        self.status = status
        self.data = data

    def of(self, kind: str) -> list[dict]:
        return [e for e in self.data["events"] if e["kind"] == kind]

    def reads(self) -> dict[str, str | None]:
        """What guards compare: "_SERVER.HTTP_HOST" -> value."""
        return {f"{e['global']}.{e['name'] or '*'}": e["value"] for e in self.of("read") if e["guarded"]}

    def place(self, key: str) -> str:
        for e in self.of("read"):
            if f"{e['global']}.{e['name'] or '*'}" == key:
                return f"{e['file'].rpartition('/')[2]}:{e['line']}"
        raise KeyError(key)

    def problems(self) -> str:
        return "\n".join(self.data["problems"])


@pytest.fixture
def audit(workdir):
    def run(files: str | dict[str, str], *options: str) -> Report:
        if isinstance(files, str):
            files = {"index.php": files}
        for name, text in files.items():
            path = workdir / "site" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        command = [binary(), "audit", "--json", *options, str(workdir / "site/index.php")]
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
        assert p.returncode in (0, 3), p.stderr
        return Report(p.returncode, json.loads(p.stdout))

    return run


@pytest.mark.parametrize("options, wanted", [
    pytest.param((), {}, id="as-debian-has-it"),
    pytest.param(("-d", "variables_order=EGPCS"), {"_ENV.*": None}, id="with-cgi-variables"),
])
def test_all_of_env(audit, options, wanted):
    report = audit("<?php\nforeach ($_ENV as $x);" + FREEZE, *options)
    assert report.reads() == wanted
    assert report.status == (3 if wanted else 0)


@pytest.mark.as_root
def test_root_audits_as_the_user_of_the_pool(audit, workdir):
    (workdir / "site").mkdir()
    account.give(workdir / "site")
    report = audit("<?php\nif (posix_geteuid()) file_put_contents(__DIR__ . '/mine', 'x');" + FREEZE)
    assert report.status == 0
    assert (workdir / "site/mine").stat().st_uid == (workdir / "site").stat().st_uid != 0


def one(audit, code: str, *options: str) -> dict[str, str | None]:
    report = audit("<?php\n" + code + FREEZE, *options)
    assert report.data["reached"], report.data
    return report.reads()


HOST = {"_SERVER.HTTP_HOST": "localhost"}


@pytest.mark.parametrize("code", [
    pytest.param("$x = $_SERVER['HTTP_HOST'];", id="plain"),
    pytest.param("$x = \"to $_SERVER[HTTP_HOST]\";", id="string"),
    pytest.param("$x = isset($_SERVER['HTTP_HOST']);", id="isset"),
    pytest.param("$x = empty($_SERVER['HTTP_HOST']);", id="empty"),
    pytest.param("$x = $_SERVER['HTTP_HOST'] ?? 'none';", id="coalesce"),
    pytest.param("['HTTP_HOST' => $x] = $_SERVER;", id="list"),
    pytest.param("$x = $GLOBALS['_SERVER']['HTTP_HOST'];", id="globals"),
    pytest.param("$n = '_SERVER'; $x = $$n['HTTP_HOST'];", id="variable-variable"),
    pytest.param("$r = &$_SERVER; $x = $r['HTTP_HOST']; unset($r);", id="reference"),
    pytest.param("$k = 'HTTP_' . strtoupper('host'); $x = $_SERVER[$k];", id="computed-key"),
    pytest.param("function f(array $s) { return $s['HTTP_HOST']; } $x = f($_SERVER);", id="parameter"),
    pytest.param("function f() { return $_SERVER; } $x = f()['HTTP_HOST'];", id="returned"),
    pytest.param("$f = fn() => $_SERVER['HTTP_HOST']; $x = $f();", id="closure"),
    pytest.param("$s = $_SERVER; $f = function () use ($s) { return $s['HTTP_HOST']; }; $x = $f(); unset($s, $f);",
                 id="bound"),
    pytest.param("class A { static function go() { return $_SERVER['HTTP_HOST']; } } $x = A::go();", id="static"),
    pytest.param("class A { public $s; function __construct($s) { $this->s = $s; }"
                 " function get($k) { return $this->s[$k]; } } $x = (new A($_SERVER))->get('HTTP_HOST');", id="property"),
    pytest.param("function g() { yield $_SERVER['HTTP_HOST']; } foreach (g() as $x);", id="generator"),
    pytest.param("$x = array_key_exists('HTTP_HOST', $_SERVER);", id="array_key_exists"),
    pytest.param("$x = getenv('HTTP_HOST');", id="getenv"),
    pytest.param("$x = call_user_func('getenv', 'HTTP_HOST');", id="called-getenv"),
    pytest.param("$x = filter_input(INPUT_SERVER, 'HTTP_HOST');", id="filter_input"),
    pytest.param("$x = filter_input_array(INPUT_SERVER, ['HTTP_HOST' => FILTER_DEFAULT]);", id="filter_input_array"),
    pytest.param("$x = call_user_func_array(fn($s) => $s['HTTP_HOST'], [$_SERVER]);", id="call_user_func_array"),
    pytest.param("eval('$x = $_SERVER[\"HTTP_HOST\"];');", id="eval"),
    pytest.param("$_SERVER += ['HTTP_HOST' => 'x', 'MINE' => 1];", id="defaults"),
    pytest.param("$_SERVER['HTTP_HOST'] ??= 'x';", id="assign-coalesce"),
    pytest.param("$_SERVER['HTTP_HOST'] .= ':80';", id="assign-op"),
    pytest.param("$x = &$_SERVER['HTTP_HOST'];", id="element-reference"),
])
def test_each_way_to_read_one_key(audit, code):
    assert one(audit, code) == HOST


@pytest.mark.parametrize("code, wanted", [
    pytest.param("foreach ($_GET as $k => $v);", {"_GET.*": "[]"}, id="foreach"),
    pytest.param("extract($_GET);", {"_GET.*": "[]"}, id="extract"),
    pytest.param("$x = count($_COOKIE);", {"_COOKIE.*": "[]"}, id="count"),
    pytest.param("$x = array_merge([], $_POST);", {"_POST.*": "[]"}, id="array_merge"),
    pytest.param("$x = json_encode([['deep' => $_FILES]]);", {"_FILES.*": "[]"}, id="nested"),
    pytest.param("$o = new stdClass; $o->g = $_GET; $x = serialize($o); unset($o);", {"_GET.*": "[]"}, id="object"),
    pytest.param("$x = [...$_GET];", {"_GET.*": "[]"}, id="spread"),
    pytest.param("function f(...$a) {} f(...$_GET);", {"_GET.*": "[]"}, id="arguments"),
    pytest.param("$x = (object)$_GET; unset($x);", {"_GET.*": "[]"}, id="cast"),
    pytest.param("$x = $_GET + ['a' => 1];", {"_GET.*": "[]"}, id="union"),
    pytest.param("$x = $_GET == [];", {"_GET.*": "[]"}, id="compared"),
    pytest.param("if ($_POST) { $x = 1; }", {"_POST.*": "[]"}, id="if"),
    pytest.param("$x = !$_POST;", {"_POST.*": "[]"}, id="not"),
    pytest.param("$x = empty($_POST);", {"_POST.*": "[]"}, id="empty"),
    pytest.param("$x = $_REQUEST['a'] ?? 1;", {"_REQUEST.a": None}, id="request"),
    pytest.param("$x = $_GET['a']['b'] ?? 1;", {"_GET.a": None}, id="two-levels"),
    pytest.param("$x = $_COOKIE[5] ?? 1;", {"_COOKIE.5": None}, id="number"),
    pytest.param("$x = file_get_contents('php://input');", {"php://input.*": None}, id="input"),
    pytest.param("$x = $_SERVER['argv'] ?? null;", {"_SERVER.argv": None}, id="argv"),
    pytest.param("$o = new stdClass; $o->g = ['x' => 1]; $o->g += $_GET;", {"_GET.*": "[]"}, id="added-to-property"),
    pytest.param("$o = new stdClass; $o->g = $_GET; $o->g += ['x' => 1];", {"_GET.*": "[]"}, id="property-grows"),
    pytest.param("$a = ['g' => []]; $a['g'] += $_GET;", {"_GET.*": "[]"}, id="added-to-element"),
    pytest.param("class A { static $g = []; } A::$g += $_GET;", {"_GET.*": "[]"}, id="added-to-static"),
    pytest.param("class A { static $g; static function f() { self::$g = $_GET; self::$g += [1]; } } A::f();", {"_GET.*": "[]"}, id="static-grows"),
    pytest.param("$g = $_GET; $x = empty($g); unset($g);", {"_GET.*": "[]"}, id="empty-variable"),
    pytest.param("$o = new stdClass; $o->g = $_GET; $x = empty($o->g); unset($o);", {"_GET.*": "[]"}, id="empty-property"),
    pytest.param("class A { private $g; function __construct() { $this->g = $_GET; } function e() { return empty($this->g); } }"
                 " $a = new A; $a->e(); unset($a);", {"_GET.*": "[]"}, id="empty-own-property"),
    pytest.param("$a = ['g' => $_GET]; $x = empty($a['g']); unset($a);", {"_GET.*": "[]"}, id="empty-element"),
    pytest.param("class A { static $g; } class B extends A { static function f() { parent::$g = $_GET; return empty(static::$g)"
                 " || empty(parent::$g); } } B::f(); A::$g = null;", {"_GET.*": "[]"}, id="empty-static"),
    pytest.param("class A { static $g; } $n = 'A'; A::$g = $_GET; $x = empty($n::$g); A::$g = null;", {"_GET.*": "[]"}, id="empty-named-static"),
    pytest.param("$x = true xor $_GET;", {"_GET.*": "[]"}, id="xor"),
    pytest.param("$x = ['g' => $_GET] == ['g' => []];", {"_GET.*": "[]"}, id="compared-deep"),
    pytest.param("$o = (object)['g' => $_GET]; $p = (object)['g' => []]; $x = $o == $p; unset($o, $p);", {"_GET.*": "[]"}, id="compared-objects"),
    pytest.param("$c = $_GET; array_push($c, 'x'); unset($c);", {"_GET.*": "[]"}, id="array_push"),
    pytest.param("proc_open(['true'], [], $p, null, $_GET);", {"_GET.*": "[]"}, id="environment-of-a-child"),
    pytest.param("$x = http_build_query((object)['a' => $_GET]);", {"_GET.*": "[]"}, id="query-of-an-object"),
])
def test_reads_of_other_superglobals(audit, code, wanted):
    assert one(audit, code) == wanted


@pytest.mark.parametrize("code", [
    pytest.param("$_SERVER['MINE'] = 'mine'; $x = $_SERVER['MINE'];", id="written-first"),
    pytest.param("$_ENV = ['a' => 1]; $x = $_ENV['a'] + count($_ENV);", id="replaced"),
    pytest.param("$x = is_array($_SERVER); $s = $_SERVER; unset($s);", id="passed-on"),
    pytest.param("$a = []; array_push($a, $_GET); $o = new stdClass; $o->g = $a[0]; $x = empty($o->other) || empty($a) || empty($o);"
                 " $o->n = 1; $o->n += 2; $x = $o === $a; unset($a, $o);", id="stored"),
    pytest.param("$a = ['HTTP_HOST' => 1]; $x = $a['HTTP_HOST']; foreach ([] as $y);", id="other-arrays"),
    pytest.param("$x = getenv('HTTP_HOST', true);", id="local-only"),
    pytest.param("$x = getenv('PATH') . ($_SERVER['APP_ENV'] ?? '');", id="environment"),
    pytest.param("$x = $_SERVER['REQUEST_TIME'] + $_SERVER['REQUEST_TIME_FLOAT'];", id="time"),
    pytest.param("function never() { return $_GET['a']; }", id="not-called"),
])
def test_what_is_no_read(audit, code):
    assert one(audit, code) == {}


@pytest.mark.parametrize("code, hidden", [
    pytest.param("$_SERVER['HTTP_HOST'] = 'mine'; $x = $_SERVER['HTTP_HOST'];", {"_SERVER.HTTP_HOST": "localhost"}, id="written"),
    pytest.param("unset($_SERVER['HTTP_X_A']); $x = $_SERVER['HTTP_X_A'] ?? 1;", {"_SERVER.HTTP_X_A": None}, id="unset"),
    pytest.param("$_COOKIE['a'] = 1;", {"_COOKIE.a": None}, id="added"),
])
def test_what_the_boot_hides_of_a_request(audit, code, hidden):
    assert one(audit, code) == hidden


@pytest.mark.parametrize("code", ["$_GET = ['a' => 1]; $x = $_GET['a'] + count($_GET);", "unset($_GET);"])
def test_a_superglobal_that_the_boot_replaces(audit, code):
    assert list(one(audit, code)) == ["_GET.*"]


@pytest.mark.parametrize("code", [
    pytest.param("foreach ($_SERVER as $k => $v);", id="foreach"),
    pytest.param("$x = array_filter($_SERVER);", id="function"),
    pytest.param("$s = $_SERVER; $s['a'] = 1; unset($s);", id="changed-copy"),
    pytest.param("$kept = $_SERVER;", id="kept"),
    pytest.param("class A { public static $s; } A::$s = [[$_SERVER]];", id="kept-deep"),
    pytest.param("$kept = &$_SERVER;", id="kept-reference"),
    pytest.param("$x = getenv();", id="getenv"),
    pytest.param("$x = getallheaders();", id="getallheaders"),
])
def test_all_of_server_cannot_be_frozen(audit, code):
    report = audit("<?php\n" + code + FREEZE)
    assert report.status == 3
    assert "no two requests agree" in report.problems()
    assert "index.php:2" in report.problems()


def test_the_place_is_that_of_the_first_read(audit):
    report = audit({"index.php": "<?php\nrequire 'lib/a.php';\n$x = $_SERVER['HTTP_HOST'];\n"
                                 "$y = a();" + FREEZE,
                    "lib/a.php": "<?php\nfunction a() {\n    return $_GET['q'] ?? $_SERVER['HTTP_HOST'];\n}\n"})
    assert report.place("_SERVER.HTTP_HOST") == "index.php:3"
    assert report.place("_GET.q") == "a.php:3"
    assert report.status == 0
    assert report.data["problems"] == []


def test_the_url_is_what_the_boot_sees(audit):
    wanted = {"_SERVER.HTTP_HOST": "shop.example:8443", "_SERVER.HTTPS": "on", "_GET.page": "2", "_GET.a": '["x"]',
              "_SERVER.REQUEST_URI": "/index.php?page=2&a[]=x"}
    code = ("$x = $_SERVER['HTTP_HOST'] . $_SERVER['HTTPS'] . $_GET['page'] . $_SERVER['REQUEST_URI']"
            ". $_GET['a'][0];")
    assert one(audit, code, "--url", "https://shop.example:8443/index.php?page=2&a[]=x") == wanted


def test_the_other_name_of_the_function(audit):
    report = audit("<?php\n$x = $_GET['a'] ?? 1;\nif (!sapid_restore_state()) sapid_snapshot_state();\n$x = $_GET['b'];")
    assert report.reads() == {"_GET.a": None}


def test_what_was_merged_is_still_the_request_s(audit):
    report = audit("<?php\n$_SERVER = array_merge(['MINE' => 1], $_SERVER);\n$x = $_SERVER['HTTP_HOST'];\n"
                   "$_SERVER['HTTPS'] = 'on';\n$x = $_SERVER['HTTPS'];" + FREEZE)
    assert report.reads() == {"_SERVER.*": None, **HOST, "_SERVER.HTTPS": None}  # what the boot has hidden
    assert report.place("_SERVER.HTTP_HOST") == "index.php:3"


def test_a_key_that_differs_in_each_request(audit):
    report = audit("<?php\n$x = $_SERVER['REMOTE_PORT'];" + FREEZE)
    assert report.status == 3
    assert "$_SERVER['REMOTE_PORT'] is read at index.php:2" in report.problems()


def test_what_a_boot_opens_and_fixes(audit, workdir):
    report = audit({"index.php": """<?php
namespace App;
define('ROOT', __DIR__ . '/x');
define('NOW', \\time());
define('LITERAL', 'a');
ini_set('memory_limit', '200M');
date_default_timezone_set('Europe/Berlin');
spl_autoload_register(static function ($c) {});
set_error_handler(null);
register_shutdown_function('strlen');
putenv('A=b');
file_put_contents(__DIR__ . '/written.txt', 'x');
$x = file(__DIR__ . '/index.php');
$s = stream_socket_client('udp://127.0.0.1:9');
$s = null;
$x = random_int(1, 9) . uniqid() . microtime();
$x = new \\DateTime('now');
$x = new \\DateTime('2020-01-01 00:00:00');
mkdir(__DIR__ . '/folder');
unlink(__DIR__ . '/written.txt');
header('X-A: b');
ob_start();
""" + FREEZE})
    names = {kind: [(e["name"].rpartition("/")[2], e["line"]) for e in report.of(kind)]
             for kind in ("constant", "setting", "handler", "environment", "opened", "connected", "random", "time",
                          "header", "buffer")}
    assert report.status == 0, report.problems()
    assert names["constant"] == [("NOW", 4)]
    assert names["setting"] == [("memory_limit", 6), ("date_default_timezone_set", 7)]
    assert names["handler"] == [("spl_autoload_register", 8), ("set_error_handler", 9), ("register_shutdown_function", 10)]
    assert names["environment"] == [("putenv", 11)]
    assert [(e["name"].rpartition("/")[2], e["value"]) for e in report.of("written")] == \
        [("written.txt", "wb"), ("folder", "folder made"), ("written.txt", "deleted")]
    assert names["opened"] == [("index.php", 13)]
    assert names["connected"] == [("127.0.0.1:9", 14)]
    assert names["random"] == [("random_int", 16), ("uniqid", 16)]
    assert names["time"] == [("time", 4), ("microtime", 16), ("datetime::__construct", 17)]
    assert names["header"] == [("header", 21)]
    assert names["buffer"] == [("ob_start", 22)]
    assert (workdir / "site/folder").is_dir()


def test_an_open_connection_cannot_be_frozen(audit):
    report = audit("<?php\n$s = stream_socket_client('udp://127.0.0.1:9');" + FREEZE)
    assert report.status == 3
    assert "udp://127.0.0.1:9 at index.php:2" in report.problems()


@pytest.mark.parametrize("code", [
    pytest.param("echo 'hello';", id="sent"),
    pytest.param("ob_start(); print 'hello';", id="buffered"),
])
def test_output_cannot_be_frozen(audit, code):
    report = audit("<?php\n" + code + FREEZE)
    assert report.status == 3
    assert "5 bytes of output come before the freeze, from index.php:2" in report.problems()


def test_a_session_cannot_be_frozen(audit, workdir):
    report = audit(f"<?php\nsession_save_path('{workdir}');\nsession_start();" + FREEZE)
    assert report.status == 3
    assert "a session is active, which was started at index.php:3" in report.problems()


def test_a_session_that_was_closed_would_be_everybody_s(audit, workdir):
    start = f"<?php\nsession_save_path('{workdir}');\nsession_start();\nsession_write_close();" + FREEZE
    report = audit(start)
    assert report.status == 3
    assert "a session was begun, or its id set, which all visitors would share, at index.php:3" in report.problems()
    assert report.reads() == {"_COOKIE.PHPSESSID": None}
    (workdir / "sapid.toml").write_text(f'[php]\ndocument_root = "{workdir}"\nsnapshot_guards = {{ "_COOKIE.PHPSESSID" = "any" }}\n')
    assert audit(start, "--config", str(workdir / "sapid.toml")).status == 0


def test_secrets_are_not_shown(audit, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "mysql://me:hunter2@db/x")
    report = audit("<?php\n$x = getenv('DATABASE_URL') . $_SERVER['DATABASE_URL'];\ndefine('DB_PASSWORD', strrev('2retnuh'));\n"
                   "putenv('TOKEN=hunter2');" + FREEZE)
    assert "hunter2" not in json.dumps(report.data)
    assert [e for e in report.of("read") if e["name"] == "DATABASE_URL" and e["hidden"]]


SITE = {"index.php": "<?php\nrequire 'config.php';\nrequire 'routes.php';\n(function () { handle(); })();\n",
        "config.php": "<?php\ndefine('A', strtolower('X'));\n",
        "routes.php": "<?php\n$h = $_SERVER['HTTP_HOST'];\nfunction boot() { return 1; }\n"
                      "class K { static function up() { $x = $_GET['q'] ?? 1; } }\n"
                      "class Child extends K {}\n"
                      "function handle() { boot(); K::up(); echo 'page'; }\n"}


@pytest.mark.parametrize("at, reads", [
    pytest.param("include:config.php", {}, id="file"),
    pytest.param("include:routes.php", HOST, id="file-that-reads"),
    pytest.param("function:boot", HOST, id="function"),
    pytest.param("function:K::up", {**HOST, "_GET.q": None}, id="method"),
    pytest.param("function:\\k::UP", {**HOST, "_GET.q": None}, id="other-case"),
    pytest.param("function:Child::up", {**HOST, "_GET.q": None}, id="inherited"),
    pytest.param("function:strtolower", {}, id="internal"),
])
def test_freeze_points_from_outside(audit, at, reads):
    report = audit(SITE, "--at", at)
    assert report.status == 0, report.problems()
    assert report.reads() == reads


def test_a_script_without_a_freeze_point_is_told_where_it_could_be(audit):
    report = audit(SITE)
    assert report.status == 3
    assert "without a freeze point" in report.problems()
    assert report.data["last_unread"].endswith("/config.php")
    assert report.data["last_guarded"].endswith("/routes.php")
    assert not report.data["reached"]


def test_a_freeze_point_that_is_not_reached(audit):
    report = audit(SITE, "--at", "include:other.php")
    assert report.status == 3
    assert "without include:other.php being reached" in report.problems()


def test_the_files_in_their_order(audit):
    report = audit(SITE)
    assert [e["name"].rpartition("/")[2] for e in report.of("include_end")] == ["config.php", "routes.php", "index.php"]
    assert [e["name"].rpartition("/")[2] for e in report.of("include")] == ["index.php", "config.php", "routes.php"]


def test_a_boot_that_fails_says_why(audit):
    report = audit("<?php\nnothing();\n")
    assert report.status == 3
    assert "exit status 255" in report.problems()


def test_a_boot_that_does_not_end(audit):
    report = audit("<?php\nwhile (true);\n", "--time-limit", "1")
    assert report.status == 3
    assert "took more than 1 s" in report.problems()


@pytest.mark.as_root
@pytest.mark.parametrize("jit", ["disable", "function", "tracing"])
def test_preloaded_code_is_seen(audit, workdir, jit):
    """Which opcache has compiled, optimised, and perhaps given to its JIT, before the audit began."""
    (workdir / "preload.php").write_text("""<?php
class P { static function go() { return isset($_GET['a']) || array_key_exists('b', $_GET) || (fn() => $_COOKIE['c'] ?? 0)(); } }
trait T { function go() { return getenv('HTTP_X_D') . filter_input(INPUT_GET, 'e'); } }
class Q { use T; function all() { for ($i = 0, $n = 0; $i < 2000; $i++) $n += count($_POST); return $n . $_SERVER['HTTP_HOST']; } }
function f(array $a) { return in_array(1, $a, true); }
""")
    settings = ["opcache.enable=1", f"opcache.preload={workdir}/preload.php", "opcache.preload_user=root", f"opcache.jit={jit}",
                "opcache.jit_buffer_size=16M"]
    report = audit("<?php\nP::go(); $q = new Q; $q->go(); $q->all(); f($_FILES);" + FREEZE,
                   *[x for s in settings for x in ("-d", s)])
    assert report.reads() == {"_GET.a": None, "_GET.b": None, "_COOKIE.c": None, "_SERVER.HTTP_X_D": None, "_GET.e": None,
                              "_POST.*": "[]", "_FILES.*": "[]", **HOST}
    assert report.data["preloaded"] == 0
    assert report.place("_GET.a") == "preload.php:2"


def test_code_that_opcache_has_already_is_seen(audit, workdir):
    lib, cache = workdir / "lib.php", workdir / "cache"
    lib.write_text("<?php\nfunction lib() { return $_GET['seen'] ?? 1; }\n")
    os.utime(lib, (1e9, 1e9))  # opcache keeps no file that has only just been written
    cache.mkdir()
    subprocess.run([binary(), "php", "-d", "opcache.enable_cli=1", "-d", f"opcache.file_cache={cache}", str(lib)], check=True)
    assert list(cache.rglob("lib.php.bin"))
    report = audit(f"<?php\nrequire '{lib}';\n$x = lib();" + FREEZE, "-d", "opcache.enable=1",
                   "-d", f"opcache.file_cache={cache}")
    assert report.reads() == {"_GET.seen": None}


def test_settings_of_a_host_bind_the_image_to_it(audit, workdir):
    (workdir / "php.ini").write_text("[HOST=other.example]\nmemory_limit=77M\n")
    (workdir / "sapid.toml").write_text(f'[php]\ndocument_root = "{workdir}"\nini_path = "{workdir}/php.ini"\n')
    assert one(audit, "$x = 1;", "--config", str(workdir / "sapid.toml")) == {"_SERVER.SERVER_NAME": "localhost"}


def test_the_text_report(workdir):
    (workdir / "index.php").write_text("<?php\n$x = $_SERVER['HTTP_HOST'];\nforeach ($_SERVER as $v);\nsnapshot_state();\n")
    p = subprocess.run([binary(), "audit", "index.php"], cwd=workdir, stdout=subprocess.PIPE, text=True, timeout=60)
    assert p.returncode == 3
    assert "$_SERVER['HTTP_HOST'] = \"localhost\"" in p.stdout
    assert "index.php:2" in p.stdout
    assert "all of $_SERVER is read at index.php:3" in p.stdout


@pytest.mark.parametrize("code, files", [("snapshot_state();", True), ("nothing();", False)], ids=["returns", "fails"])
def test_the_text_report_has_no_empty_list_of_files(workdir, code, files):
    (workdir / "part.php").write_text("<?php")
    (workdir / "index.php").write_text(f"<?php {'include __DIR__ . %s;' % repr('/part.php') if files else ''} {code}")
    p = subprocess.run([binary(), "audit", "index.php"], cwd=workdir, stdout=subprocess.PIPE, text=True, timeout=60)
    assert ("Files in the order in which they returned" in p.stdout) == files == ("part.php" in p.stdout)


@pytest.mark.parametrize("arguments, wanted", [
    pytest.param([], "expected a script", id="none"),
    pytest.param(["no.php"], "no.php: No such file", id="missing"),
    pytest.param(["--at", "here", "a.php"], "include:FILE or function:NAME", id="at"),
    pytest.param(["--time-limit", "x", "a.php"], "expected seconds", id="limit"),
    pytest.param(["a.php", "b.php"], "expected one script", id="two"),
    pytest.param(["--nonsense", "a.php"], "--nonsense", id="unknown"),
])
def test_wrong_usage(workdir, arguments, wanted):
    p = subprocess.run([binary(), "audit", *arguments], cwd=workdir, stderr=subprocess.PIPE, text=True, timeout=60)
    assert p.returncode == (1 if "No such file" in wanted else 2)
    assert wanted in p.stderr
