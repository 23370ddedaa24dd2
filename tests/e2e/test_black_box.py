"""What an operator can know of a worker from outside: the slow log, deadlines, and the record of one that died."""
import json
import os
import re
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from lib import account, phpini
from lib.fpm import Fpm
from lib.process import wait_until
from lib.roles import alive, gateway, pools, status_field, workers
from lib.sapid import binary
from lib.site import Site

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

SCRIPTS = {
    "ok": "<?php echo 'ok';",
    # sleeps below a method, a closure, an internal function and an included file
    "slow": """<?php
class Foo {
    function bar($s) {
        return inner($s);
    }
    static function each($s) {
        array_map(function ($x) {
            usleep($x);
        }, [$s]);
    }
}
function inner($s) {
    Foo::each($s);
    return 1;
}
require __DIR__ . '/included.php';
echo 'slept';
""",
    "included": "<?php\n(new Foo)->bar((int)($_GET['ms'] ?? 0) * 1000);\n",
    "loop": """<?php
register_shutdown_function(function () { file_put_contents(__DIR__ . '/shutdown', 'ran'); });
function spin() { while (true) { $x = 1; } }
spin();
""",
    "sleep": "<?php sleep((int)$_GET['s']); echo 'slept';",
    "destructor": "<?php class D { function __destruct() { while (true) { $x = 1; } } }\n$d = new D; $d = null; echo 'x';",
    # waits in poll(), which PHP begins again after every signal
    "read": """<?php
$pair = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
stream_set_timeout($pair[0], 600);
touch(__DIR__ . '/reading' . getmypid());
function read_on($s) { return fread($s, 10); }
read_on($pair[0]);
""",
    "endless_shutdown": "<?php register_shutdown_function(function () { while (true) { $x = 1; } }); while (true) { $x = 1; }",
    "sent": "<?php echo 'first'; ob_end_flush(); flush(); while (true) { $x = 1; }",
    "die": """<?php
function boom($signal) { posix_kill(getmypid(), $signal); usleep(1000000); }
function before($signal) { boom($signal); }
before((int)$_GET['signal']);
""",
    "fault": """<?php
function touch_it() { FFI::cdef('void *memset(long p, int c, size_t n);')->memset(0x1238, 1, 8); }
touch_it();
""",
    "overflow": """<?php
class Deep { function __toString() { return 'x' . new Deep; } }
echo new Deep;
""",
    # makes everything PHP knows of itself nonsense, then crashes
    "ruin": """<?php
$c = FFI::cdef('extern char executor_globals[1]; void *memset(void *p, int c, size_t n);');
$c->memset($c->executor_globals, 0x40, 1000);
""",
    "abort_in_c": "<?php FFI::cdef('void abort(void);')->abort();",
    "exit_in_c": "<?php function leave() { FFI::cdef('void exit(int);')->exit(3); } leave();",
    "apcu": """<?php
if (isset($_GET['die']))
    apcu_entry('k' . mt_rand(), function () { posix_kill(getmypid(), SIGKILL); });
if (isset($_GET['hold']))
    apcu_entry('k' . mt_rand(), function () { touch(__DIR__ . '/holding'); usleep(1500000); return 1; });
echo apcu_store('x', 1) ? 'stored' : 'not stored';
""",
    "wait": "<?php touch(__DIR__ . '/' . $_GET['tell']); while (!file_exists(__DIR__ . '/go')) { usleep(2000); clearstatcache(); } echo 'done';",
    "note": "<?php touch(__DIR__ . '/ran'); echo 'ran';",
    "grow": """<?php
ini_set('memory_limit', '-1');
function grow() { $a = []; while (true) { $a[] = random_bytes(500000); usleep(20000); } }
grow();
""",
    "neighbours": """<?php
foreach (explode(',', $_GET['pids']) as $p)
    if ($p != getmypid())
        echo $p, ' ', @fopen("/proc/$p/mem", 'r') ? 'open' : 'closed', "\\n";
""",
}


@pytest.fixture
def root(launch):
    folder = launch.folder / "app"
    folder.mkdir()
    for name, text in SCRIPTS.items():
        (folder / f"{name}.php").write_text(text)
    account.give(folder)
    return folder


@pytest.fixture
def serve(launch, root):
    def start(**options):
        options.setdefault("workers", 1)
        options.setdefault("expect_errors", True)
        log = {"slow": "slow.log", "crash_dir": "crashes", **options.get("log", {})}
        options["log"] = {k: v for k, v in log.items() if v is not None}
        options["ini"] = {"ffi.enable": "1", **options.get("ini", {})}
        return launch(root, **options)
    return start


def slow_log(server, entries: int = 1) -> str:
    """Once it has so many entries: the supervisor writes them, in its own time."""
    path = server.folder / "slow.log"
    first = '{"' if server.site.log.get("slow_format") == "json" else "script_filename = "

    def read() -> str:
        text = path.read_text() if path.exists() else ""
        return text if text.endswith("\n") and text.count("\n" + first) + text.startswith(first) >= entries else ""
    return wait_until(read, f"{entries} entries in the slow log")


def records(server) -> list[str]:
    return [p.read_text() for p in sorted((server.folder / "crashes").glob("crash-*.txt"))]


def the_record(server) -> str:
    wait_until(lambda: records(server), "a crash record")
    (text,) = records(server)
    return text


# --- slow log -------------------------------------------------------------------------------------

HEAD = re.compile(r"\n\[\d\d-[A-Z][a-z]{2}-\d{4} \d\d:\d\d:\d\d\]  \[pool www\] pid (\d+)\nscript_filename = (\S+)\n")
CALL = re.compile(r"\[0x[0-9a-f]{16}\] (.+)\(\) (\S+):(\d+)")


def plain(function: str) -> str:
    """Since PHP 8.4 a closure is named after where it was made."""
    return re.sub(r"\{closure:.*\}", "{closure}", function)


def test_slow_request_is_logged_once_with_its_calls(serve, root):
    server = serve(php={"slow_log_after": "200ms"})
    (worker,) = workers(server)
    assert server.get("/slow.php?ms=2000").text == "slept"
    assert server.get("/slow.php?ms=0").text == "slept"
    text = slow_log(server)
    (found,) = HEAD.findall(text)
    assert found == (str(worker), f"{root}/slow.php")
    for line in ("request_method = GET", "request_uri = /slow.php?ms=2000", f"position = {root}/slow.php:8"):
        assert line + "\n" in text, text
    assert re.search(r"\nrequest_id = [0-9a-f]{16}\n", text)
    duration, cpu, waiting = map(float, re.search(r"duration = (\S+) s \(cpu (\S+) s, waiting (\S+) s\)", text).groups())
    assert 0.2 <= duration and cpu < 0.1 < waiting
    assert [(plain(f), Path(p).name, int(n)) for f, p, n in CALL.findall(text)] == [
        ("usleep", "slow.php", 8), ("Foo::{closure}", "slow.php", 7), ("array_map", "slow.php", 7),
        ("Foo::each", "slow.php", 13), ("inner", "slow.php", 4), ("Foo::bar", "included.php", 2),
        ("[INCLUDE_OR_EVAL]", "slow.php", 16)]


def test_slow_log_has_the_calls_that_php_fpm_writes(serve, root, launch):
    """FPM names functions without their class; everything else is the same."""
    server = serve(php={"slow_log_after": "1s"})
    assert server.get("/slow.php?ms=3000").text == "slept"
    ours = [(re.sub(r"^[\w\\]+::", "", f), p, n) for f, p, n in CALL.findall(slow_log(server))]

    folder = launch.folder / "oracle"
    folder.mkdir()
    os.chmod(folder, 0o755)
    path = folder / "fpm-slow.log"
    fpm = Fpm(Site(root=root, workers=1, ini={}), folder, extra=[f"slowlog = {path}", "request_slowlog_timeout = 1s"])
    try:
        proxy = launch(root, php={"use_fpm": True, "fpm_socket": str(fpm.socket_path)})
        assert proxy.get("/slow.php?ms=5000").text == "slept"
        wait_until(lambda: path.exists() and CALL.search(path.read_text()), "FPM's slow log")
        wait_until(lambda: "[INCLUDE_OR_EVAL]" in path.read_text(), "all of it")
        assert HEAD.search(path.read_text())
        assert CALL.findall(path.read_text()) == ours
    finally:
        fpm.stop()


def test_slow_log_as_json_and_again(serve, root):
    server = serve(php={"slow_log_after": "200ms", "slow_log_repeat": True, "slow_log_depth": 2},
                   log={"slow_format": "json"},
                   routes=[{"match": {"prefix": "/slow"}, "priority": 1}])
    assert server.get("/slow.php?ms=2000&\"x").text == "slept"
    lines = [json.loads(line) for line in slow_log(server, 3).splitlines()]
    assert [line["times"] for line in lines] == list(range(1, len(lines) + 1))
    for line in lines:
        assert line["uri"] == '/slow.php?ms=2000&"x' and line["script"] == f"{root}/slow.php" and line["pool"] == "www"
        assert line["route"] == "prefix /slow" and line["method"] == "GET"
    sleeping = [line for line in lines if line["stack"] and line["stack"][0] == {"function": "usleep"}]
    assert len(sleeping) > 1 and len(sleeping) >= len(lines) - 2, lines     # the last may see the script's end
    for line in sleeping:
        assert line["stack"][1].pop("function") in ("Foo::{closure}", "Foo::{closure:Foo::each():7}")
        assert line["stack"][1] == {"file": f"{root}/slow.php", "line": 8}
    assert lines[0]["duration_ms"] >= 200 and lines[2]["duration_ms"] >= 600   # each 200 ms after the last


def test_processor_time_is_told_from_waiting(serve):
    server = serve(php={"slow_log_after": "1s", "request_timeout": "3s"}, log={"slow_format": "json"})
    server.get("/sleep.php?s=50")
    server.get("/loop.php")
    sleeping, spinning = [json.loads(line) for line in slow_log(server, 2).splitlines()]
    assert sleeping["cpu_ms"] < 50 and sleeping["wait_ms"] >= 900
    assert spinning["cpu_ms"] > sleeping["cpu_ms"] + 20


def test_slow_log_without_a_file_is_the_error_log(serve, root):
    server = serve(php={"slow_log_after": "100ms"}, log={"slow": "stderr"}, expect_errors=False)
    assert server.get("/slow.php?ms=2000").text == "slept"
    wait_until(lambda: HEAD.search(server.log_text()) and CALL.search(server.log_text()), "the entry")


def test_slow_log_is_opened_anew(serve):
    server = serve(php={"slow_log_after": "100ms"})
    server.get("/slow.php?ms=1500")
    slow_log(server)
    (server.folder / "slow.log").rename(server.folder / "slow.log.1")
    server.process.send_signal(signal.SIGUSR1)
    wait_until((server.folder / "slow.log").exists, "the new file")
    server.get("/slow.php?ms=1500")
    assert HEAD.search(slow_log(server))


@pytest.mark.parametrize("jit", ["disable", "tracing", "function"])
def test_stack_of_every_kind_of_frame_under_load(serve, root, jit):
    """Samples of a stack that changes all the time: nobody crashes, and what is read is sound."""
    (root / "busy.php").write_text("""<?php
function a($n) { return $n ? b($n - 1) : strlen(str_repeat('x', 2000)); }
function b($n) { return array_sum(array_map(fn($x) => a($x), [$n])); }
$until = microtime(true) + 0.8;
while (microtime(true) < $until) { a(random_int(0, 12)); eval('a(3);'); }
echo 'busy';
""")
    server = serve(workers=2, php={"slow_log_after": "10ms", "slow_log_repeat": True, "slow_log_depth": 64},
                   log={"slow_format": "json"}, expect_errors=False,
                   ini={"opcache.jit": jit, "opcache.jit_buffer_size": "32M"})
    def seen() -> list[str]:
        assert server.get("/busy.php").text == "busy"
        lines = slow_log(server).splitlines()
        return lines if len(lines) > 100 else []
    lines = [json.loads(line) for line in wait_until(seen, "samples")]
    known = {"a", "b", "strlen", "str_repeat", "array_sum", "array_map", "{closure}", "random_int", "microtime",
             "[INCLUDE_OR_EVAL]", "{main}"}
    sane = [line for line in lines if line["stack"] and {plain(f["function"]) for f in line["stack"]} <= known]
    assert len(sane) > len(lines) * 0.8, [line["stack"] for line in lines if line not in sane][:3]


# --- deadlines ------------------------------------------------------------------------------------

def timed(server, target: str):
    begin = time.monotonic()
    r = server.get(target)
    return r, time.monotonic() - begin


@pytest.mark.parametrize("script", ["loop", "sleep", "destructor"])
def test_request_timeout_interrupts(serve, root, script):
    server = serve(php={"request_timeout": "400ms"})
    before = workers(server)
    r, took = timed(server, f"/{script}.php?s=50")
    assert r.status == 504 and 0.39 < took < 40, (r.status, took)
    assert workers(server) == before                # PHP ended the script; the worker lives
    server.expect_log("Maximum execution time of 0.400 seconds exceeded (request_timeout, wall-clock time)")
    assert server.get("/ok.php").text == "ok"
    if script == "loop":
        assert (root / "shutdown").read_text() == "ran"
    assert not records(server)


@pytest.mark.parametrize("script", ["read", "endless_shutdown"])
def test_what_does_not_end_within_the_grace_is_killed(serve, script):
    server = serve(php={"request_timeout": "300ms", "request_timeout_grace": "300ms"})
    (before,) = workers(server)
    r, took = timed(server, f"/{script}.php")
    assert r.status == 504 and 0.59 < took < 40, (r.status, took)
    assert not alive(before)
    assert server.get("/ok.php").text == "ok"
    text = the_record(server)
    assert "what: killed because its request ran longer than request_timeout" in text
    assert f"request: GET /{script}.php\n" in text
    if script == "read":
        assert re.search(r"PHP stack, as it was \d+ ms before the end:\n  #0 fread\(\)\n  #1 read_on\(\) \S+read.php:5\n", text)
        assert re.search(r"C stack at the last interrupt:\n(  #.*\n)*  #\d+ \S+ libphp\S*\(zif_fread", text)


def test_answer_that_was_begun_ends_as_with_max_execution_time(serve):
    server = serve(php={"request_timeout": "300ms", "request_timeout_grace": "300ms"})
    with server.connect() as c:
        r = c.request("GET", "/sent.php")
    assert r.status == 200 and r.body.startswith(b"first")
    assert server.get("/ok.php").text == "ok"


def test_route_has_a_limit_of_its_own(serve):
    server = serve(php={"request_timeout": "10s"},
                   routes=[{"match": {"prefix": "/loop"}, "request_timeout": "200ms"}])
    r, took = timed(server, "/loop.php")
    assert r.status == 504 and took < 9
    server.expect_log("0.200 seconds")


def test_wedged_pool_recovers_within_a_second_of_request_timeout(serve, root):
    """All workers in an endless read, and a queue behind them."""
    server = serve(workers=3, php={"request_timeout": "1s"})
    begin = time.monotonic()
    threads = [threading.Thread(target=server.get, args=("/read.php",)) for _ in range(3)]
    for t in threads:
        t.start()
    wait_until(lambda: len(list(root.glob("reading*"))) == 3, "three wedged workers")
    assert server.get("/ok.php").text == "ok"
    assert time.monotonic() - begin < 30    # about 1.1 s; bench/ and the fault runs measure it on a machine that lets them
    for t in threads:
        t.join()
    wait_until(lambda: len(records(server)) == 3, "three records")


def test_worker_of_a_dead_gateway_is_ended_too(serve, root):
    server = serve(php={"request_timeout": "500ms", "request_timeout_grace": "100ms"})
    lost = threading.Thread(target=lambda: pytest.raises((OSError, AssertionError), server.get, "/read.php"))
    lost.start()
    wait_until(lambda: list(root.glob("reading*")), "it to hang")
    (hanging,) = [int(p.name.removeprefix("reading")) for p in root.glob("reading*")]
    os.kill(gateway(server), signal.SIGKILL)
    lost.join()
    assert server.get("/ok.php").text == "ok"
    wait_until(lambda: not alive(hanging), "the hanging worker to be ended")
    server.expect_log(f"worker [{hanging}], whose gateway has gone")


@pytest.mark.parametrize("isolation", ["none", "rollback"])
def test_worker_scripts_have_all_of_it(serve, root, isolation):
    (root / "worker.php").write_text("""<?php
function handle() {
    switch (strtok($_SERVER['REQUEST_URI'], '?')) {
    case '/spin': while (true) { $x = 1; }
    case '/slow': usleep(2000000); break;
    case '/die': posix_kill(getmypid(), SIGSEGV);
    }
    echo 'handled';
}
while (frankenphp_handle_request(handle(...))) { }
""")
    account.give(root)
    server = serve(worker={"script": str(root / "worker.php"), "num": 1, "isolation": isolation},
                   php={"request_timeout": "4s", "slow_log_after": "300ms"})
    for _ in range(2):          # also after the process was put back
        assert server.get("/x").text == "handled"
        r, took = timed(server, "/spin")
        assert r.status == 504 and 3.99 < took < 40, (r.status, took)
    assert server.get("/slow?n=1").text == "handled"
    text = slow_log(server, 3)      # /spin twice, /slow
    assert "[pool www-worker]" in text and "request_uri = /slow?n=1\n" in text
    assert [(f, int(n)) for f, _, n in CALL.findall(text[text.index("/slow?n=1"):])][:3] == [
        ("usleep", 5), ("handle", 10), ("frankenphp_handle_request", 10)]
    assert not records(server)
    assert server.get("/die?n=2").status == 502
    record = the_record(server)
    assert "request: GET /die?n=2\n" in record and f"  #1 handle() {root}/worker.php:6\n" in record
    assert re.search(r" 200 .* GET /slow\?n=1\n", record) and re.search(r" 504 .* GET /spin\n", record)
    assert server.get("/y").text == "handled"


# --- a worker that dies ---------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["SEGV", "ABRT", "BUS", "FPE", "ILL"])
def test_every_crash_leaves_a_record_with_url_and_stack(serve, root, name):
    server = serve(routes=[{"match": {"prefix": "/die"}}])
    number = getattr(signal, f"SIG{name}").value
    (victim,) = workers(server)
    assert server.get("/ok.php?earlier=1").text == "ok"
    r = server.get(f"/die.php?signal={number}")
    assert r.status == 502
    text = the_record(server)
    assert f"what: killed by signal {number} (SIG{name}), sent by itself\n" in text
    assert f"worker: 0 [{victim}] of pool www, generation 1, after 1 requests" in text
    assert f"request: GET /die.php?signal={number}\n" in text and f"script: {root}/die.php\n" in text
    assert "route: prefix /die\ncrashes on this route in this generation: 1\n" in text
    assert ("PHP stack:\n  #0 posix_kill()\n"
            f"  #1 boom() {root}/die.php:2\n  #2 before() {root}/die.php:3\n  #3 {{main}}() {root}/die.php:4\n") in text
    assert re.search(r"C stack:\n(  #.*\n)*  #\d+ \S+ libphp\S*\(zif_posix_kill|posix", text)
    assert re.search(r" 200 +\d+\.\d ms [0-9a-f]{16} GET /ok.php\?earlier=1\n", text)
    assert re.search(r" - +running +[0-9a-f]{16} GET /die.php", text)
    assert wait_until(lambda: "error " in server.log_text() and " died: " in server.log_text(), "the line of the log")
    assert re.search(rf"error .*worker 0 \[{victim}\] died: killed by signal {number} \(SIG{name}\), sent by itself in posix_kill\(\), "
                     rf"{root}/die.php:2; request [0-9a-f]{{16}} GET /die.php", server.log_text())


def test_fault_tells_its_address(serve):
    server = serve()
    assert server.get("/fault.php").status == 502
    text = the_record(server)
    assert "what: killed by signal 11 (SIGSEGV) at address 0x1238: nothing is mapped there\n" in text
    assert "#1 touch_it()" in text and "libffi" in text


def test_stack_overflow_is_told(serve, root):
    server = serve(ini={"zend.max_allowed_stack_size": "-1"})
    assert server.get("/overflow.php").status == 502
    text = the_record(server)
    assert re.search(r"what: killed by signal 11 \(SIGSEGV\) at address 0x\w+: stack overflow\n", text)
    assert f"  #0 Deep::__toString() {root}/overflow.php:2\n" in text and "... (cut)" in text
    assert server.get("/ok.php").text == "ok"


def test_record_survives_a_second_crash(serve):
    """PHP's own state is nonsense: the handler cannot read it, and says what it can."""
    server = serve()
    assert server.get("/ruin.php").status == 502
    text = the_record(server)
    assert "what: killed by signal 11 (SIGSEGV)" in text and "request: GET /ruin.php\n" in text
    assert "C stack:\n" in text


def test_abort_and_exit_of_c_code(serve):
    server = serve()
    assert server.get("/abort_in_c.php").status == 502
    wait_until(lambda: len(records(server)) == 1, "a record")
    assert server.get("/exit_in_c.php").status == 502
    wait_until(lambda: len(records(server)) == 2, "a record")
    abort, leave = records(server)
    assert "killed by signal 6 (SIGABRT)" in abort and "(abort+" in abort
    assert "what: ended by itself with exit status 3, in exit() called by C code\n" in leave
    assert "#1 leave()" in leave


def test_killed_from_outside(serve, root):
    server = serve()
    (victim,) = workers(server)
    lost = threading.Thread(target=server.get, args=("/wait.php?tell=started",))
    lost.start()
    wait_until((root / "started").exists, "the request to run")
    until = time.monotonic() + 3        # of each second
    wait_until(lambda: time.monotonic() > until, "it to be sampled")
    os.kill(victim, signal.SIGKILL)
    lost.join()
    text = the_record(server)
    assert "what: killed by SIGKILL, not by sapid\n" in text and "request: GET /wait.php?tell=started\n" in text
    assert re.search(r"PHP stack, as it was \d+ ms before the end:\n", text)
    assert re.search(r"#\d \{main\}\(\) \S+wait.php:1", text)
    assert re.search(r"largest RSS: \d+ KiB\nRSS at the last sample: \d+ KiB", text)


@pytest.mark.memory_cgroup
def test_out_of_memory_is_told(serve, root, memory_cgroup):
    server = serve()
    pool, = pools(server)
    (victim,) = workers(server)
    memory_cgroup.add(victim, 60 << 20)
    memory_cgroup.add(pool, None)
    assert server.get("/grow.php?big=1").status == 502
    text = the_record(server)
    assert "what: killed by the kernel because memory ran out (OOM killer)\n" in text
    assert "request: GET /grow.php?big=1\n" in text and f"script: {root}/grow.php\n" in text
    assert int(re.search(r"largest RSS: (\d+) KiB", text).group(1)) > 30_000
    assert re.search(r"PHP stack, as it was \d+ ms before the end:\n(  #.*\n)*  #\d grow\(\)", text)
    assert re.search(r"memory of the control group .*:\n(  .*\n)*.*oom_kill [1-9]", text)


def test_without_a_folder_the_record_is_in_the_error_log(serve):
    server = serve(log={"crash_dir": None})
    assert server.get("/fault.php").status == 502
    wait_until(lambda: "crash: C stack:" in server.log_text(), "the record")
    server.expect_log("crash: request: GET /fault.php")


def test_crash_files_are_bounded_and_private(serve):
    server = serve(log={"crash_files": 3}, workers=2)
    for i in range(5):
        assert server.get(f"/die.php?signal=9&n={i}").status == 502
    wait_until(lambda: server.log_text().count("crash record: ") == 5, "five records")
    texts = records(server)
    assert len(texts) == 3 and "n=4" in texts[-1] and "n=2" in texts[0]
    assert "crashes on this route in this generation: 5\n" in texts[-1]
    for path in (server.folder / "crashes").iterdir():
        assert path.stat().st_mode & 0o777 == 0o640 and path.stat().st_uid == os.getuid()


CONTAINER = """#!/usr/bin/python3
# Executes sapid under a filter like Docker's: what reads other processes' memory is not permitted.
import ctypes, os, struct, sys
forbidden = {"x86_64": (101, 310, 311, 312, 434, 438), "aarch64": (117, 270, 271, 272, 434, 438)}[os.uname().machine]
load, equal, give = 0x20, 0x15, 0x06
code = [(load, 0, 0, 0)]
for number in forbidden:     # ptrace, process_vm_readv, process_vm_writev, kcmp, pidfd_open, pidfd_getfd
    code += [(equal, 0, 1, number), (give, 0, 0, 0x50000 | 1)]
code.append((give, 0, 0, 0x7fff0000))
program = b"".join(struct.pack("HBBI", *line) for line in code)
memory = ctypes.create_string_buffer(program, len(program))
filter = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(memory))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()
os.execv("SAPID", sys.argv)
"""


def test_stacks_are_read_without_ptrace_and_the_like(serve, root, launch, monkeypatch):
    wrapper = launch.folder / "container"
    wrapper.write_text(CONTAINER.replace("SAPID", str(binary())))
    wrapper.chmod(0o755)
    monkeypatch.setenv("SAPID_BINARY", str(wrapper))
    server = serve(php={"slow_log_after": "200ms"})
    for pid in pools(server):
        assert status_field(pid, "Seccomp") == "2" and status_field(pid, "NoNewPrivs") == "1"
        assert os.getuid() or int(status_field(pid, "CapEff"), 16) == 0
    assert server.get("/slow.php?ms=2000").text == "slept"
    assert ("Foo::bar", f"{root}/included.php", "2") in CALL.findall(slow_log(server))
    assert server.get("/die.php?signal=11").status == 502
    assert "#1 boom()" in the_record(server)


@pytest.mark.as_root
def test_workers_cannot_read_each_other_or_their_parent(serve):
    server = serve(workers=3, expect_errors=False)
    wait_until(lambda: len(workers(server)) == 3, "all workers")
    pids = ",".join(map(str, pools(server) + workers(server)))
    lines = server.get(f"/neighbours.php?pids={pids}").text.split("\n")[:-1]
    assert len(lines) == 3 and all(line.endswith(" closed") for line in lines), lines


# --- locks in shared memory -----------------------------------------------------------------------

def test_pool_serves_again_after_a_death_under_apcus_lock(serve):
    server = serve(workers=3, php={"request_timeout": "1s"})
    (old,) = pools(server)
    assert server.get("/apcu.php").text == "stored"
    begin = time.monotonic()
    assert server.get("/apcu.php?die").status == 502
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(server.get("/apcu.php"))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert server.get("/apcu.php").text == "stored"
    assert time.monotonic() - begin < 1 + 30
    # Up to three hung in the lock (two if the dead one's successor was slow to come), the others waited in the queue
    # and were answered by the next generation.
    statuses = [r.status for r in answers]
    assert 1 <= statuses.count(502) <= 3 and statuses.count(200) == 8 - statuses.count(502), statuses
    assert pools(server) != [old]
    server.expect_log("a worker died while it held a lock in shared memory")


def test_crash_within_opcache_gives_the_next_generation_fresh_memory(serve, root):
    """opcache opens what it is to compile through a stream wrapper of the script, which crashes."""
    (root / "compile.php").write_text("""<?php
class Wrapper { function stream_open() { posix_kill(getmypid(), SIGSEGV); usleep(1000000); } }
stream_wrapper_register('crash', 'Wrapper');
opcache_compile_file('crash://file.php');
""")
    server = serve(workers=2)
    assert server.get("/compile.php").status == 502
    # since PHP 8.5 opcache is a part of libphp
    assert re.search(r"opcache\.so" if phpini.branch() < (8, 5) else r"libphp8\.", the_record(server))
    wait_until(lambda: "g2 takes over" in server.log_text(), "the next generation")
    server.expect_log("asks for a new generation: a worker died within opcache or APCu")
    assert server.get("/ok.php").text == "ok"


def test_death_elsewhere_keeps_the_generation(serve):
    server = serve(workers=2)
    before = pools(server)
    assert server.get("/apcu.php").text == "stored"
    for _ in range(3):
        assert server.get("/die.php?signal=9").status == 502
    wait_until(lambda: len(workers(server)) == 2, "the workers")
    assert server.get("/apcu.php").text == "stored"
    wait_until(lambda: len(workers(server)) == 2, "the probe's end")
    assert pools(server) == before


def test_lock_that_a_living_worker_holds_is_no_reason(serve, root):
    """apcu_entry() runs PHP code under the lock; another worker is killed meanwhile."""
    server = serve(workers=2)
    before = pools(server)
    holder = threading.Thread(target=server.get, args=("/apcu.php?hold",))
    holder.start()
    wait_until((root / "holding").exists, "the lock to be held")
    assert server.get("/die.php?signal=9").status == 502
    holder.join()
    assert server.get("/apcu.php").text == "stored"
    assert pools(server) == before


# --- clients that leave ---------------------------------------------------------------------------

@pytest.mark.parametrize("goodbye", ["reset", "close"])
def test_request_whose_client_has_left_the_queue_never_runs(serve, root, goodbye):
    server = serve(expect_errors=False, log={"access": "access.log"})
    access = server.folder / "access.log"
    running = threading.Thread(target=server.get, args=("/wait.php?tell=started",))
    running.start()
    wait_until((root / "started").exists, "the worker to be busy")
    with server.connect() as c:
        c.send(c.format("GET", "/note.php"))
        if goodbye == "reset":
            c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: access.exists() and '"GET /note.php HTTP/1.1" 499 ' in access.read_text(), "it to be dropped")
    (root / "go").touch()
    running.join()
    assert server.get("/ok.php").text == "ok"
    assert not (root / "ran").exists()


def test_half_closed_client_that_a_worker_serves_in_time_gets_its_answer(serve, root):
    server = serve(expect_errors=False)
    with server.connect() as c:
        c.send(c.format("GET", "/wait.php?tell=started"))
        c.finish_sending()
        wait_until((root / "started").exists, "it to run")
        until = time.monotonic() + 0.7      # longer than a queued one may wait
        wait_until(lambda: time.monotonic() > until, "the time to pass")
        (root / "go").touch()
        assert c.read_response().text == "done"


def test_queue_is_bounded_in_length_and_time(serve, root):
    server = serve(expect_errors=False, php={"queue_size": 2, "queue_timeout": "400ms"})
    running = threading.Thread(target=server.get, args=("/wait.php?tell=started",))
    running.start()
    wait_until((root / "started").exists, "the worker to be busy")
    with server.connect() as a, server.connect() as b:
        for c in (a, b):
            c.send(c.format("GET", "/note.php"))
        full = [server.get("/note.php") for _ in range(3)]
        late = [c.read_response() for c in (a, b)]
    assert {r.status for r in full + late} == {503} and all(r.header("Retry-After") for r in full + late)
    (root / "go").touch()
    running.join()
    assert server.get("/ok.php").text == "ok" and not (root / "ran").exists()
