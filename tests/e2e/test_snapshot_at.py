"""snapshot_at: a script that knows nothing of it is frozen when a file has been included, or a function has returned, and
answers what it answers without.
"""
import json

import pytest

from lib import account
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
        return next(line for line in self.server.log_text().splitlines() if "cannot be frozen" in line or "ended before" in line)

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
        options = {"workers": 1, "ini": ini or {}, "expect_errors": expect_errors}
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
