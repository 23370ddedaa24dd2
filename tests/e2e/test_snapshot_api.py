"""restore_state() and snapshot_state(): a script that says itself where it is frozen answers as if it had run from its first line.

Each script stands twice in the document root: seed.php is the worker script of a pool with rollback, classic.php runs as ever.
"""
import gzip
import json
import os
import signal
from pathlib import Path

import pytest

from lib import account, roles
from lib.process import wait_until

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]


def script(name: str) -> str:
    return (Path(__file__).parent / "snapshot" / f"{name}.php").read_text()


class Pair:
    """One application in both modes."""

    def __init__(self, server):
        self.server = server

    def classic(self, target="", headers=None, method="GET", body=None):
        with self.server.connect(timeout=60) as c:
            return c.request(method, "/classic.php" + target, headers, body)

    def seed(self, target="", headers=None, method="GET", body=None):
        with self.server.connect(timeout=60) as c:
            return c.request(method, "/seed.php" + target, headers, body)

    def same(self, target="", *args, times=3, **options):
        """The answer, which is the same in both modes, again and again."""
        expected = self.classic(target, *args, **options)
        for _ in range(times):
            r = self.seed(target, *args, **options)
            text = r.text.replace("seed.php", "classic.php").replace("SEED.PHP", "CLASSIC.PHP")
            assert (r.status, text) == (expected.status, expected.text)
        return expected

    def reason(self):
        """Why the script could not be frozen."""
        assert self.server.get("/seed.php").status == 500
        self.server.expect_log("cannot be frozen")
        return next(line for line in self.server.log_text().splitlines() if "cannot be frozen" in line)


@pytest.fixture
def app(launch):
    def start(code, files=None, *, worker=None, refused=False, ini=None, **options):
        root = launch.new_root()
        for name, text in {"seed.php": code, "classic.php": code, **(files or {})}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        (root / "data").mkdir()
        account.give(root)
        keys = {"script": str(root / "seed.php"), "num": 1, "isolation": "rollback", "warmup": [], "snapshot_verify": True}
        pair = Pair(launch(root, workers=1, worker={**keys, **(worker or {})}, expect_errors=refused,
                           ini={"session.save_path": str(root / "data"), "session.use_strict_mode": "0",
                                "opcache.file_update_protection": "0", **(ini or {})}, **options))
        pair.root = root
        return pair
    return start


# --- where requests go on -------------------------------------------------------------------------

CALLS = {
    "top": ["<?php if (!restore_state()) { $n = boot(); snapshot_state(); } echo $n++, $_GET['a']; function boot() { return 7; }"],
    "alone": ["<?php $n = 7; snapshot_state(); echo $n++, $_GET['a'];"],
    "alias": ["<?php if (!sapid_restore_state()) { $n = 7; sapid_snapshot_state(); } echo $n++, $_GET['a'];"],
    "namespace": ["<?php namespace A\\B; if (!restore_state()) { $n = 7; snapshot_state(); } echo $n++, $_GET['a'];"],
    "function": ["<?php function main($n) { if (!restore_state()) { $n += 5; snapshot_state(); } return $n++ . $_GET['a']; } echo main(2);"],
    "method": ["<?php class A { public $n = 2; function run() { if (!restore_state()) { $this->n += 5; snapshot_state(); }"
               " return $this->n++ . $_GET['a']; } static function main() { return (new self)->run(); } } echo A::main();"],
    "closure": ["<?php $n = 2; $f = function () use (&$n) { if (!restore_state()) { $n += 5; snapshot_state(); } return $n++ . $_GET['a']; };"
                " echo $f();"],
    "include": ["<?php $m = 3; echo include 'part.php'; echo $m, $n;",
                {"part.php": "<?php if (!restore_state()) { $n = 7; snapshot_state(); } $m++; return $n++ . $_GET['a'];"}],
    "deep": ["<?php function f($x) { $y = [$x]; if ($x) return f($x - 1); snapshot_state(); } class A { function __destruct() { echo 'D'; } }"
             " if (!restore_state()) { $n = 7; f(20); } echo $n++, $_GET['a'];"],
    "frozen in include": ["<?php $a = 1; $b = 2; if (!restore_state()) { include 'one.php'; }"
                          " echo $a, $b, $c, $d, $e, $_GET['a']; $a++; $GLOBALS['b']++; echo $GLOBALS['a'], $b;",
                          {"one.php": "<?php $b = 3; $c = 4; $e = 8; include 'two.php';",
                           "two.php": "<?php $d = $a + $b; $e++; snapshot_state();"}],
    "frozen in eval": ["<?php function f($a) { if (!restore_state()) { eval('$b = $a + 1; snapshot_state();'); } return $b . $a; }"
                       " echo f(4), $_GET['a'];"],
    "alone in callback": ["<?php $n = 7; array_map(function ($x) use (&$n) { $n += $x; snapshot_state(); echo $x; }, [1, 2, 3]); echo $n, $_GET['a'];"],
    "alone in generator": ["<?php function g() { yield 1; snapshot_state(); yield $_GET['a']; } foreach (g() as $x) $s[] = $x; echo implode($s);"],
    "alone in foreach": ["<?php foreach ([1, 2, 3] as $x) { $s[] = $x; if ($x == 2) snapshot_state(); } echo json_encode($s), $_GET['a'];"],
    "both in foreach": ["<?php foreach ([4, 5] as $k => $x) { if (!restore_state()) { $n = $x; snapshot_state(); } break; } echo $n++, $k, $_GET['a'];"],
    "finally": ["<?php try { if (!restore_state()) { $n = 7; snapshot_state(); } if ($_GET['a'] == 1) throw new Exception('x'); }"
                " catch (Exception $e) { echo 'caught'; } finally { echo 'finally', $n; }"],
    "numbers": ["<?php function f(int $a) { $s = 0; $x = 0.5; for ($i = 0; $i < $a; $i++) { $s += $i * 2; $x *= 1.5; }"
                " if (!restore_state()) { snapshot_state(); } for ($j = 0; $j < $a; $j++) { $s += $j + $i; $x /= 1.25; } return $s . ':' . $x; }"
                " echo f(20), $_GET['a'];"],
    "ternary": ["<?php restore_state() || (($n = 7) && snapshot_state() === null); echo $n++, $_GET['a'];"],
    "portable": ["<?php if (!function_exists('restore_state') || !restore_state()) { $n = 7; function_exists('snapshot_state') && snapshot_state(); }"
                 " echo $n++, $_GET['a'];"],
    "result": ["<?php $r = restore_state(); if (!$r) { $n = 7; snapshot_state(); } echo $n++, $_GET['a'];"],
    "unused": ["<?php restore_state(); $n ??= 7; if ($n++ == 7) { snapshot_state(); } echo 7, $_GET['a'];"],
    "arguments": ["<?php function f(...$a) { if (!restore_state()) { $n = count(func_get_args()); snapshot_state(); } return $n . implode($a); }"
                  " echo f(1, 'x', 2.5, 4), $_GET['a'];"],
    "static": ["<?php function f() { static $n = 3; $n++; if (!restore_state()) { snapshot_state(); } return ++$n; } echo f(), f(), $_GET['a'];"],
    "variables": ["<?php function f() { extract(['p' => 1, 'q' => 2]); if (!restore_state()) { $v = 'p'; $$v = 5; $x = 'w'; $$x = 6; snapshot_state(); }"
                  " return json_encode(get_defined_vars()); } echo f(), $_GET['a'];"],
}


@pytest.mark.parametrize("name", CALLS)
def test_place_of_the_call(app, name):
    a = app(*CALLS[name])
    for n in (1, 2):
        a.same(f"?a={n}")


def test_what_stands_between_the_calls_is_left(app):
    """Here classic mode differs: it comes back from snapshot_state()."""
    a = app("<?php if (!restore_state()) { $n = 7; array_map(function ($x) use (&$n) { $n++; snapshot_state(); }, [1, 2, 3]); echo 'no'; }"
            " echo $n, $_GET['a'];")
    assert a.classic("?a=1").text == "no101"
    assert [a.seed(f"?a={n}").text for n in (1, 2)] == ["81", "82"]


@pytest.mark.parametrize("jit", ["tracing", "function"])
@pytest.mark.parametrize("name", ["top", "include", "frozen in include", "deep", "both in foreach"])
def test_place_of_the_call_with_jit(app, name, jit):
    a = app(*CALLS[name], ini={"opcache.jit": jit, "opcache.jit_buffer_size": "16M", "opcache.jit_hot_func": "2", "opcache.jit_hot_loop": "2"},
            worker={"warmup": ["/"]})
    for n in (1, 2):
        a.same(f"?a={n}", times=20)


@pytest.mark.parametrize("name", ["function", "method", "numbers"])
def test_functions_with_the_tracing_jit(app, name):
    a = app(*CALLS[name], ini={"opcache.jit": "tracing", "opcache.jit_buffer_size": "16M"}, worker={"warmup": ["/"]})
    for n in (1, 2):
        a.same(f"?a={n}", times=20)


def test_functions_that_the_jit_has_compiled_are_refused(app):
    """They have variables in registers."""
    a = app(*CALLS["numbers"], ini={"opcache.jit": "function", "opcache.jit_buffer_size": "16M"}, refused=True)
    assert "in a function that the JIT has compiled" in a.reason()


# --- what is restored -----------------------------------------------------------------------------

def test_what_the_boot_made_is_there_and_what_a_request_made_is_not(app):
    a = app(script("state"), {"state_part.php": "<?php const PART = 1; function part() { return __FUNCTION__; }", "state_late.php": "<?php "})
    for target in ("?a=1", "?a[]=2&b=3", "?throw=1", ""):
        r = a.same(target, headers={"Cookie": "c=" + target.strip("?")})
        assert json.loads(r.text[:r.text.rindex("]") + 1])[:4] == [10, 3, 3, "yes"] and "destroyed 4" in r.text


def test_a_request_is_its_own(app):
    """Superglobals, body, environment, time, arguments: nothing of the boot's request or of the one before."""
    a = app(script("request"), ini={"register_argc_argv": "1"})
    a.same("?a=1+2&b=3", {"X-A": "5", "Cookie": "q=1"})
    a.same("?c=1", {"Content-Type": "application/x-www-form-urlencoded"}, "POST", b"x=1&y[]=2")
    a.same("/info?c=1", {"Content-Type": "application/json"}, "POST", b"{}" * 5000)
    a.same("", {"Content-Type": "multipart/form-data; boundary=b"}, "POST",
           b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + b"x" * 300 + b"\r\n--b--\r\n")
    a.same("", method="PUT", body=b"12345")
    a.same("")


def test_headers_of_the_boot_are_sent_with_each_answer(app):
    a = app("<?php if (!restore_state()) { header('X-Boot: 1'); header('X-Two: a'); header('X-Two: b', false); http_response_code(203);"
            " setcookie('c', 'v'); header('Content-Type: text/x-own'); header_register_callback(fn () => header('X-Late: 1')); snapshot_state(); }"
            " if (isset($_GET['gone'])) header_remove('X-Two'); header('X-Request: ' . count(headers_list())); echo 'body';")
    for target in ("", "?gone=1", ""):
        expected = a.classic(target)
        assert expected.status == 203 and expected.header("x-boot") == expected.header("x-late") == "1"
        for _ in range(3):
            r = a.seed(target)
            names = {n.lower() for n, _ in expected.fields} - {"date"}
            assert r.status == 203 and {n.lower() for n, _ in r.fields} - {"date"} == names
            assert [r.headers(n) for n in sorted(names)] == [expected.headers(n) for n in sorted(names)]


def test_output_buffers_of_the_boot_run_in_each_request(app):
    a = app("<?php ob_start(fn ($b) => strtoupper($b)); if (!restore_state()) { ob_start(); ob_start(fn ($b) => '[' . $b . ']'); snapshot_state(); }"
            " echo 'a', ob_get_level(); ob_end_flush(); echo 'b'; if (isset($_GET['exit'])) exit('bye'); echo json_encode(ob_list_handlers());")
    for ini in ("", "?exit=1"):
        a.same(ini)


# --- ends of a request ----------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["exit", "status", "die", "throw", "fatal", "undefined", "memory", "parse", "deep exit",
                                 "shutdown exit", "fiber", "finish", "forever"])
@pytest.mark.parametrize("where", ["top", "function", "alone"])
def test_ends(app, how, where):
    boot = "ini_set('log_errors', '0'); register_shutdown_function(function () { echo ' shutdown ', error_get_last()['type'] ?? '-'; });" \
           " $o = new class { function __destruct() { echo ' destroyed'; } };"
    code = {"top": f"<?php if (!restore_state()) {{ {boot} snapshot_state(); }} include 'ends.php';",
            "function": f"<?php function f() {{ if (!restore_state()) {{ {boot} snapshot_state(); }} include 'ends.php'; }} f(); echo 'behind';",
            "alone": f"<?php {boot} snapshot_state(); include 'ends.php';"}[where]
    a = app(code, {"ends.php": script("ends")}, refused=True, ini={"display_errors": "1", "html_errors": "0", "memory_limit": "64M"})
    before = a.same().text
    target = "?how=" + how.replace(" ", "%20")
    for _ in range(2):
        expected, r = a.classic(target), a.seed(target)
        if how == "memory":                                      # the message has the limit, the image's size included
            assert r.status == expected.status and "Allowed memory size" in r.text
        else:
            assert (r.status, r.text.replace("seed.php", "classic.php")) == (expected.status, expected.text)
        assert a.same(times=1).text == before
    assert "forked anew" not in a.server.log_text()


# --- refusals -------------------------------------------------------------------------------------

REFUSED = {
    "fiber": ["(new Fiber(function () { snapshot_state(); }))->start();", "snapshot_state() was called inside a Fiber"],
    "destructor": ["class D { function __destruct() { snapshot_state(); } } $d = new D; $d = null;", "inside a destructor"],
    "output callback": ["ob_start(function ($b) { snapshot_state(); return $b; }); ob_end_flush();", "inside an output callback"],
    "session": ["session_start();\n snapshot_state();", "while a session is active"],
    "shutdown": ["register_shutdown_function(function () { snapshot_state(); });", "when the script has ended"],
    "printed": ["echo 'a word';\n snapshot_state();", 'the boot has printed "a word" (6 bytes'],
    "buffered": ["ob_start(); echo 'word';\n snapshot_state();", 'the boot has printed "word" (4 bytes, in output buffer'],
    "headers": ["header('A: b');\n headers_send();\n snapshot_state();", "the boot has sent its headers"],
    "socket": ["$s = stream_socket_pair(1, 1, 0);\n snapshot_state();", "seed.php:1"],
    "pipe": ["posix_mkfifo('data/f', 0600);\n $p = fopen('data/f', 'r+');\n snapshot_state();", "seed.php:2"],
    "child": ["$p = popen('cat', 'w'); snapshot_state();", "the process has children. What to do: wait for child processes"],
    "listener": ["function open() {\n return stream_socket_server('tcp://127.0.0.1:0'); }\n $s = open();\n snapshot_state();",
                 "opened at", "seed.php:2. What to do: close connections before that"],
    "returned": ["function is_new() { return !restore_state(); } if (is_new()) snapshot_state();", "in a function that has returned since"],
    "called again": ["function f($i) { if ($i) { snapshot_state(); } else { restore_state(); } } f(0); f(1);", "in a function that has returned since"],
    "callback": ["array_map(function () { if (!restore_state()) snapshot_state(); }, [1]);", "in a function that PHP itself has called"],
    "dynamic": ["$r = call_user_func_array('array_map', ['restore_state', []]); array_map(fn ($x) => restore_state(), [1]); snapshot_state();",
                "in a function that has returned since"],
    "generator": ["function g() { if (!restore_state()) snapshot_state(); yield 1; } foreach (g() as $x);", "inside a generator"],
    "argument": ["function f($x) { snapshot_state(); } f(restore_state());", "as part of the arguments of another call"],
    "argument beneath": ["function f($x) { if ($x) return; snapshot_state(); } echo implode(',', [1, f(restore_state())]);",
                         "as part of the arguments of another call"],
    "foreach": ["restore_state(); foreach ([1, 2] as $x) { snapshot_state(); }", "with other loops or half-evaluated expressions"],
    "silence": ["@restore_state(); snapshot_state();", "with other loops or half-evaluated expressions"],
    "number": ["function f(int $a) { $r = $a * 3 + (restore_state() ? 1 : 2); snapshot_state(); return $r; } f(strlen($_SERVER['REQUEST_METHOD']));",
               "with other loops or half-evaluated expressions"],
    "expression": ["function f($a) { $r = \"x$a\" . (restore_state() ? 1 : 2); snapshot_state(); return $r; } f($_SERVER['REQUEST_URI']);",
                   "with other loops or half-evaluated expressions"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(app, name):
    code, *said = REFUSED[name]
    a = app("<?php " + code + " echo 'served';", refused=True)
    reason = a.reason()
    assert "/seed.php:" in reason
    for text in said:
        assert text in reason


@pytest.mark.parametrize("name", ["fiber", "destructor", "output callback", "session", "shutdown"])
def test_wrong_places_throw_in_classic_mode(app, name):
    code, said = REFUSED[name]
    a = app("<?php set_exception_handler(fn ($e) => print(get_class($e) . ': ' . $e->getMessage())); " + code + " snapshot_state(); echo 'served';",
            refused=True)
    text = a.classic().text + a.server.log_text()
    assert said in text and "SnapshotException: snapshot_state() was called" in text


def test_a_script_without_a_freeze_point_says_so(app):
    a = app("<?php echo 'printed';", refused=True)
    assert a.seed().status == 500
    a.server.expect_log("ended before it called frankenphp_handle_request() or snapshot_state() (exit status 0); its last output: printed")


def test_classic_mode_goes_on(app):
    a = app("<?php $a = restore_state(); $b = sapid_restore_state(); $c = snapshot_state(); var_dump($a, $b, $c); var_dump(restore_state());"
            " echo get_parent_class('Sapid\\SnapshotException');")
    assert a.classic().text.split() == ["bool(false)", "bool(false)", "NULL", "bool(false)", "RuntimeException"]


def test_the_boot_is_told_from_requests(app):
    code = ("<?php $boots = [snapshot_boots()]; if (!restore_state()) { $boots[] = sapid_snapshot_boots(); snapshot_state(); }"
            " $boots[] = snapshot_boots(); echo json_encode($boots);")
    a = app(code, worker={"warmup": ["/warm"]})
    assert [a.classic().text, a.seed().text, a.seed().text] == ["[false,false,false]", "[true,true,false]", "[true,true,false]"]


def test_warm_up_runs_the_whole_script(app):
    a = app("<?php $seen = file_exists(__DIR__ . '/data/seen') ? file(__DIR__ . '/data/seen') : [];"
            " file_put_contents(__DIR__ . '/data/seen', $_SERVER['REQUEST_URI'] . \"\\n\", FILE_APPEND);"
            " register_shutdown_function(fn () => file_put_contents(__DIR__ . '/data/seen', 's', FILE_APPEND));"
            " class_exists('A') or eval('class A { static $n = 0; }'); A::$n++; snapshot_state(); echo A::$n, count($seen);",
            worker={"warmup": ["/a?b=1", "/c"]})
    # found out by a first boot, then two rounds of warm-up, then the boot that is frozen
    assert (a.root / "data/seen").read_text() == "/seed.php\ns" + "/a?b=1\ns/c\ns" * 2 + "/seed.php\n"
    assert [a.seed().text for _ in range(3)] == ["16"] * 3      # classes of a warm-up request are gone, files it wrote are not
    assert (a.root / "data/seen").read_text().endswith("/seed.php\nsss")


def test_workers_are_forked_from_the_image(app):
    a = app("<?php $boot = bin2hex(random_bytes(8)); snapshot_state(); if (isset($_GET['pid'])) echo getmypid(); else echo $boot;",
            worker={"num": 3}, refused=True)
    boot = a.seed().text
    pid = int(a.seed("?pid=1").text)
    assert pid in roles.workers(a.server)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in roles.workers(a.server), "the worker's end")
    assert {a.seed().text for _ in range(30)} == {boot}


def test_a_child_of_a_request_is_no_worker(app):
    a = app("<?php snapshot_state(); if ($p = pcntl_fork()) { pcntl_waitpid($p, $s); echo 'parent ', pcntl_wexitstatus($s); }"
            " else { snapshot_state(); echo 'unheard'; exit(5); }")
    a.same()


def test_prepended_and_appended_files(app):
    """The boot holds auto_prepend_file; auto_append_file ends each request, also behind restore_state()."""
    for call in ("if (!restore_state()) { $n = 1; snapshot_state(); }", "$n = 1; snapshot_state();"):
        a = app(f"<?php {call} echo $n++, $_GET['a'] ?? '';", {"pre.php": "<?php $p = 5;", "post.php": "<?php echo ' post ', ++$p, $n, $_GET['a'] ?? '';"},
                ini={"auto_prepend_file": "pre.php", "auto_append_file": "post.php", "include_path": "."})
        assert a.same("?a=3").text == "13 post 623"
        a.same()


def test_restore_state_in_a_prepended_file_is_refused(app):
    a = app("<?php snapshot_state();", {"pre.php": "<?php restore_state();"}, ini={"auto_prepend_file": "pre.php", "include_path": "."}, refused=True)
    assert "in a function that has returned since" in a.reason()
    a = app("<?php echo 1;", {"pre.php": "<?php if (!restore_state()) snapshot_state();"}, refused=True,
            ini={"auto_prepend_file": "pre.php", "include_path": "."})
    assert "in auto_prepend_file or auto_append_file; call it in the script" in a.reason()


def test_what_the_boot_adds_to_the_environment_is_there(app):
    """As dotenv does; what it changes of the request's own is not: that was another request's."""
    code = "<?php if (!restore_state()) { $_SERVER['APP'] = ['prod', 1]; $_ENV['APP'] = 'e'; putenv('APP=p'); $_SERVER['HTTP_X_LATER'] = 'boot'; %s snapshot_state(); }" \
           " $_SERVER['APP'][] = $_SERVER['MINE'] = 2; echo json_encode([$_SERVER['APP'], $_ENV, getenv('APP'), $_SERVER['HTTP_X_LATER'],"\
           " filter_input(INPUT_SERVER, 'APP'), $_SERVER['QUERY_STRING'], $_SERVER['MINE']]);"
    for order in ("GPCS", "EGPCS"):
        a = app(code % "", ini={"variables_order": order, "filter.default": "unsafe_raw"})
        for target in ("?a=1", "?b=2"):
            expected, *answers = [json.loads(get(target).text) for get in (a.classic, a.seed, a.seed)]
            for found in answers:
                assert found[0] == ["prod", 1, 2] and found[1]["APP"] == "e"
                assert found[1].get("QUERY_STRING", target[1:]) == target[1:]
                assert [found[0], *found[2:]] == [expected[0], *expected[2:]] and set(found[1]) == set(expected[1])
    a = app(code % "$_SERVER['QUERY_STRING'] = 'changed';")
    assert json.loads(a.seed("?q=1", {"X-Later": "mine"}).text)[3::2] == ["mine", "q=1"]


@pytest.mark.parametrize("boot", ["", "ob_start();"], ids=["plain", "buffered"])
def test_zlib_output_compression(app, boot):
    a = app(f"<?php {boot} snapshot_state(); echo str_repeat('text', 5000), $_GET['a'];", ini={"zlib.output_compression": "1"})
    for n in (1, 2):
        for headers in ({"Accept-Encoding": "gzip"}, {}):
            expected, *answers = [get(f"?a={n}", headers) for get in (a.classic, a.seed, a.seed)]
            for r in answers:
                body = gzip.decompress(r.body) if r.header("content-encoding") == "gzip" else r.body
                assert body == b"text" * 5000 + b"%d" % n
                assert boot or r.header("content-encoding") == expected.header("content-encoding")
