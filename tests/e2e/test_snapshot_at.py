"""snapshot_at: a script that knows nothing of it is frozen when a file has been included, or a function has returned, and
answers what it answers without.
"""
import json
import os
import signal

import pytest

from lib import account, roles
from lib.process import wait_until

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]


class Frozen:
    """The script in a pool that freezes it, and in one that does not."""

    def __init__(self, server, plain):
        self.server, self.plain = server, plain

    def images(self):
        return json.loads(self.server.admin("/server?json").text)["pools"][0]["images"]

    def wait(self, target="/seed.php?a=0"):
        self.server.get(target)                                  # which has the image made
        wait_until(lambda: self.images()["active"], "the image")

    def refusal(self):
        self.server.get("/seed.php?a=0")
        wait_until(lambda: self.images()["refused"], "the refusal")
        return wait_until(lambda: [line for line in self.server.log_text().splitlines()
                                   if "cannot be frozen" in line or "ended before" in line], "the log to say why")[0]

    def same(self, target, times=3):
        expected = self.plain.get(target)
        served = self.images()["served"]
        for _ in range(times):
            r = self.server.get(target)
            assert (r.status, r.text) == (expected.status, expected.text)
        assert self.images()["served"] == served + times, self.images()


@pytest.fixture
def frozen(launch):
    def start(at, code, files=None, *, ini=None, expect_errors=False, **php):
        root = launch.new_root()
        for name, text in {"seed.php": code, **(files or {})}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        account.give(root)
        options = {"workers": 1, "ini": {"opcache.file_update_protection": "0", **(ini or {})}, "expect_errors": expect_errors}
        return Frozen(launch(root, php={"snapshot_at": at, "snapshot_scripts": ["seed.php"], **php}, **options),
                      launch(root, php={"max_images": 0}, **options))
    return start


POINTS = {
    "include": ["include:part.php", "<?php $m = 3; function f($p) { $r = include $p; return [$r, get_defined_vars()]; } echo json_encode(f('part.php')), $_GET['a'];",
                {"part.php": "<?php $n = $p . 'x'; $list = [1]; return ['v' => $n];"}],
    "require_once": ["include:lib/part.php", "<?php $m = 3; $r = require_once 'lib/part.php'; $again = require_once 'lib/part.php';"
                     " $names = array_map('basename', get_included_files());"
                     " echo $m++, $n, json_encode([$r, $again, $names, f(), $n, $GLOBALS['n']]), $_GET['a'];",
                     {"lib/part.php": "<?php $m++; $n = count(get_included_files()); function f() { return __FILE__; } return $m;"}],
    "object": ["include:part.php", "<?php $o = (require __DIR__ . '/part.php')->with($_GET['a']); echo $o->n; class A { public $n = 5;"
               " function with($a) { $this->n .= $a; return $this; } }", {"part.php": "<?php return new A;"}],
    "no value": ["include:part.php", "<?php var_dump(include 'part.php'); var_dump((include 'part.php') + 1); echo $_GET['a'];", {"part.php": "<?php $x = 1;"}],
    "constant": ["include:part.php", "<?php $c = include 'part.php'; echo $c, $_GET['a'];", {"part.php": "<?php return 'c';"}],
    "reference": ["include:part.php", "<?php $x = [1]; $y = &$x; $c = include 'part.php'; $c[] = 2; echo json_encode([$x, $y, $c]), $_GET['a'];",
                  {"part.php": "<?php $y[] = 5; return $y;"}],
    "in a method": ["include:part.php", "<?php class A { private $p = 7; function run() { $l = 2; $r = include 'part.php'; return [$r, $l, $this->p++]; } }"
                    " echo json_encode((new A)->run()), $_GET['a'];", {"part.php": "<?php $l++; return $this->p . static::class . self::class;"}],
    "nested": ["include:one.php", "<?php echo json_encode(include 'one.php'), $a, $b, $_GET['a'];",
               {"one.php": "<?php $a = 1; $r = include 'two.php'; return [$r, $a];", "two.php": "<?php $b = ++$a; return 'two';"}],
    "inner": ["include:two.php", "<?php $r = include 'one.php'; echo json_encode($r), $a, $b, $_GET['a'];",
              {"one.php": "<?php $a = 1; $r = include 'two.php'; $a++; return [$r, $a];", "two.php": "<?php $b = ++$a; return 'two';"}],
    "autoloaded": ["include:Lib.php", "<?php spl_autoload_register(fn ($c) => require \"$c.php\"); echo Lib::f(), Lib::$n++, $_GET['a'];",
                   {"Lib.php": "<?php class Lib { static $n = 4; static function f() { return 'f' . self::$n; } }"}],
    "thrown first": ["include:part.php", "<?php try { include 'part.php'; } catch (Exception $e) { $m[] = $e->getMessage(); } include 'part.php';"
                     " echo json_encode($m), $_GET['a'];", {"part.php": "<?php if (empty($m)) throw new Exception('x'); $m[] = 'y';"}],
    "function": ["function:boot", "<?php function boot(int $a, &$by, ...$more) { $by = 'changed'; static $n = 0; return [$a, ++$n, $more, 'lit']; }"
                 " $r = boot(5, $x, 'y', 'z'); echo json_encode([$r, $x, boot(6, $x)]), $_GET['a'];"],
    "namespaced": ["function:\\App\\boot", "<?php namespace App; include 'part.php'; $r = boot(...)(2); echo $r, boot(3), $_GET['a'];",
                   {"part.php": "<?php namespace App; function boot($x) { for ($i = 0, $s = 'c'; $i < $x; $i++) $s .= $i; switch ($s) { case 'c01': return 'two'; } return $s; }"}],
    "conditional": ["function:boot", "<?php if (!function_exists('boot')) { function boot($x) { try { return $x . 'r'; } finally { $GLOBALS['f'] = 1; } } }"
                    " echo boot('b'), $f, $_GET['a'];"],
    "returns reference": ["function:boot", "<?php function &boot(array &$l) { $l[] = 1; return $l; } $l = [0]; $r = &boot($l); $r[] = 2;"
                          " echo json_encode([$l, $r]), $_GET['a'];"],
    "void": ["function:boot", "<?php function boot(): void { $GLOBALS['x'][] = 1; } boot(); echo json_encode($x), $_GET['a'];"],
    "recursive": ["function:boot", "<?php function boot($n) { return $n ? $n + boot($n - 1) : 100; } echo boot(4), $_GET['a'];"],
    "thrown through": ["function:boot", "<?php function boot($n) { if ($n) throw new Exception('x'); return 'ok'; } try { boot(1); } catch (Exception $e) { $m = 1; }"
                       " echo boot(0), $m, $_GET['a'];"],
    "method": ["function:App\\Kernel::boot", "<?php namespace App; class Kernel { public $n = 1; function boot() { $this->n += 4; return $this; } }"
               " $k = (new Kernel)->boot(); echo $k->n++, $k->n, $_GET['a'];"],
    "static method": ["function:Kernel::boot", "<?php spl_autoload_register(fn ($c) => require \"$c.php\"); echo App::go(), Kernel::$n++, $_GET['a'];",
                      {"App.php": "<?php class App extends Kernel { static function go() { return static::boot() . static::class; } }",
                       "Kernel.php": "<?php abstract class Kernel { static $n = 0; static function boot() { self::$n += 7; return static::class . self::$n; } }"}],
    "inherited method": ["function:App::boot", "<?php class App extends Base { function go() { return $this->boot(); } } class Base { public $n = 3;"
                         " function boot() { return $this->n++ . static::class; } } echo (new App)->go(), $_GET['a'];"],
    "method of php": ["function:ArrayObject::append", "<?php $a = new ArrayObject([1]); $a->append(2); $a->append(3); echo count($a), $_GET['a'];"],
    "function of php": ["function:date_default_timezone_set", "<?php date_default_timezone_set('Asia/Tokyo'); echo date_default_timezone_get(), $_GET['a'];"],
}


@pytest.mark.parametrize("jit", ["off", "tracing"])
@pytest.mark.parametrize("name", POINTS)
def test_snapshot_at(frozen, name, jit):
    a = frozen(*POINTS[name], ini={"opcache.jit": jit, "opcache.jit_buffer_size": "16M", "opcache.jit_hot_func": "2"})
    a.wait()
    for n in (1, 2):
        a.same(f"/seed.php?a={n}")


# --- what does not work, and says so --------------------------------------------------------------

REFUSED = {
    "generator": ["function:boot", "<?php function boot() { yield 1; } foreach (boot() as $x); echo 'served';", "names a generator", "seed.php:1"],
    "abstract": ["function:A::boot", "<?php abstract class A { abstract function boot(); } echo 'served';", "names an abstract method"],
    "never": ["function:nowhere", "<?php echo 'served';", "ended before it came to where it is to be frozen (snapshot_at) (exit status 0): there is no such function",
              "its last output: served"],
    "own file": ["include:seed.php", "<?php echo 'served';", ": that file was not included"],
    "thrown": ["function:boot", "<?php function boot() { throw new Exception; } try { boot(); } catch (Exception $e) { echo 'served'; }",
               ": that function did not return"],
    "inlined": ["function:boot", "<?php function boot() { return 5; } boot(); echo 'served';", "only returns a constant are compiled away"],
    "printed": ["function:boot", "<?php function boot() { echo 'served'; } boot();", 'seed.php:1: the boot has printed "served"'],
    "fiber": ["function:boot", "<?php function boot() { return trim(' served'); } $f = new Fiber(fn () => print(boot())); $f->start();",
              'snapshot_at ("function:boot") was reached inside a Fiber'],
    "socket": ["function:boot", "<?php function boot() {\n return stream_socket_server('tcp://127.0.0.1:0'); }\n $s = boot(); echo 'served';",
               "opened at", "seed.php:2. What to do"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(frozen, name):
    at, code, *said = REFUSED[name]
    a = frozen(at, code, expect_errors=True)
    reason = a.refusal()
    assert all(text in reason for text in said), reason
    assert a.server.get("/seed.php").text == "served"            # in classic mode


def test_a_missing_function_of_snapshot_rerun(frozen):
    a = frozen("function:boot", "<?php function boot() { return time(); } boot(); echo 'served';", expect_errors=True, snapshot_rerun=["boot", "later"])
    assert "snapshot_rerun names the function later(), which the boot has not declared" in a.refusal()


# --- around the freeze ----------------------------------------------------------------------------

def test_snapshot_rerun_makes_the_globals_of_a_request(frozen):
    code = "<?php class A { static function b() { $GLOBALS['order'][] = 'b'; } } function vars() { $GLOBALS['u'] = $_SERVER['QUERY_STRING'];" \
           " $GLOBALS['order'][] = 'v'; if (isset($_GET['throw'])) throw new Exception('from vars'); if (isset($_GET['exit'])) exit('out'); }" \
           " function boot() { vars(); A::b(); } $order = []; boot(); try { last(); } catch (Exception $e) { } echo $u, json_encode($order);" \
           " function last() { return 1; }"
    a = frozen("function:boot", code, snapshot_rerun=["vars", "A::b"], expect_errors=True,
               snapshot_guards={key: "any" for key in ("_SERVER.QUERY_STRING", "_GET.throw", "_GET.exit")})
    a.wait("/seed.php")
    for query in ("a=1", "b=2"):
        assert [a.server.get(f"/seed.php?{query}").text for _ in range(3)] == [query + '["v","b","v","b"]'] * 3
    assert a.server.get("/seed.php?throw=1").status == 500       # as if the call of boot() had thrown
    assert a.server.get("/seed.php?exit=1").text == "out"
    assert a.server.get("/seed.php?c=3").text == 'c=3["v","b","v","b"]'
    assert a.images()["served"] >= 8


def test_warm_up_runs_the_whole_script_with_the_host_of_the_request(frozen, launch):
    code = "<?php $url = $_SERVER['REQUEST_SCHEME'] . '://' . $_SERVER['HTTP_HOST'] . $_SERVER['REQUEST_URI'];" \
           " file_put_contents(__DIR__ . '/seen', \"$url\\n\", FILE_APPEND);" \
           " function boot() { static $n = 0; return ++$n; } echo boot();"
    a = frozen("function:boot", code, snapshot_warmup=["/a?b=1", "/c"], snapshot_url="https://example.org/boot?x=1",
               snapshot_guards={"_SERVER.*": "any"})
    a.server.site.root.chmod(0o777)
    a.wait("/seed.php")
    # the audit of the boot, again because it has written a file, two rounds of warm-up, the boot that is frozen:
    # all at the host that snapshot_url names
    boot = ["https://example.org/boot?x=1"]
    seen = (a.server.site.root / "seen").read_text().split()
    seen = [line for line in seen if "example.org" in line]
    assert seen == boot * 2 + ["https://example.org/a?b=1", "https://example.org/c"] * 2 + boot
    assert a.server.get("/seed.php").text == "1"


def test_a_changed_file_makes_a_new_image(frozen):
    a = frozen("include:lib/part.php", "<?php require 'lib/part.php'; echo $version;", {"lib/part.php": "<?php $version = 'one';"},
               ini={"opcache.revalidate_freq": "1", "opcache.file_update_protection": "0"})
    a.wait("/seed.php")
    assert a.server.get("/seed.php").text == "one"
    part = a.server.site.root / "lib/part.php"
    part.write_text("<?php $version = 'two, longer';")
    wait_until(lambda: a.server.get("/seed.php").text == "two, longer", "the new image")
    a.server.expect_log(f"is made anew: {part} has changed")
    assert a.images()["served"] > 1


def test_timestamps_that_nobody_asks_for(frozen):
    a = frozen("include:part.php", "<?php require 'part.php'; echo $version;", {"part.php": "<?php $version = 'one';"},
               ini={"opcache.validate_timestamps": "0"})
    a.wait("/seed.php")
    (a.server.site.root / "part.php").write_text("<?php $version = 'two, longer';")
    assert {a.server.get("/seed.php").text for _ in range(5)} == {"one"}


def test_a_script_asks_by_calling_snapshot_state(launch):
    """No configuration: the first request runs in classic mode and has the image made."""
    root = launch.new_root()
    (root / "index.php").write_text("<?php if (!restore_state()) { $boot = getmypid(); snapshot_state(); } echo json_encode([$boot, getmypid(), $_GET]);")
    account.give(root)
    s = launch(root, workers=1)
    boot, pid, _ = s.get("/").json()
    assert boot == pid

    def image():
        boot, pid, _ = s.get("/?a=1").json()
        return boot if boot != pid else None
    boot = wait_until(image, "the image")
    assert [s.get(f"/?a={n}").json()[2] for n in range(3)] == [{"a": str(n)} for n in range(3)]
    assert s.get("/").json()[0] == boot


def test_a_frozen_process_that_dies_is_replaced(launch):
    root = launch.new_root()
    (root / "index.php").write_text("<?php $boot = getmypid(); snapshot_state(); echo json_encode([$boot, getmypid()]);")
    account.give(root)
    s = launch(root, workers=1, expect_errors=True)

    def image(before=None):
        boot, pid = s.get("/").json()
        return boot if pid != boot and boot != before else None
    first = wait_until(image, "the image")
    os.kill(next(p for p in s.pids() if "sapid: image" in roles.title(p)), signal.SIGKILL)
    wait_until(lambda: image(first), "another image")


@pytest.mark.parametrize("jit", ["tracing", "function"])
def test_the_jit_is_on(frozen, jit):
    """Without this the tests above would prove nothing; and it still is on in requests."""
    a = frozen("function:boot", "<?php function boot($n) { for ($i = $s = 0; $i < $n; $i++) { $s += $i % 7; } return $s; } $x = boot(5);"
               " if (isset($_GET['jit'])) { $j = opcache_get_status(false)['jit']; echo json_encode([$j['on'], $j['buffer_free'] < $j['buffer_size'] - 10000]); }"
               " else { echo boot(200000), $x; }", ini={"opcache.jit": jit, "opcache.jit_buffer_size": "16M"})
    a.wait("/seed.php")
    a.same("/seed.php", times=20)
    assert a.server.get("/seed.php?jit=1").json()[0] is True


def test_a_new_user_ini_makes_a_new_image(frozen):
    a = frozen("function:boot", "<?php function boot() { global $n; $n++; } boot(); echo ini_get('precision');",
               ini={"opcache.revalidate_freq": "1", "user_ini.cache_ttl": "1"})
    a.wait("/seed.php")
    assert a.server.get("/seed.php").text == "14"
    (a.server.site.root / ".user.ini").write_text("precision = 5\n")
    wait_until(lambda: "/.user.ini is new" in a.server.log_text(), "the new image")
    wait_until(lambda: a.server.get("/seed.php").text == "5", "the new setting")
