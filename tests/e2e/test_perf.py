"""`sapid perf`: what it starts, measures, keeps and says. Short loads: figures are not judged here."""
import json
import os
import re
import subprocess

import pytest

from lib.sapid import binary
from lib.target import Target

pytestmark = pytest.mark.sapid_only

SHORT = ["--loads", "light", "--rounds", "2", "--duration", "400ms", "--warmup", "50ms"]
BLOCKS = ["--blocks", "5", "--max-blocks", "5", "--turns", "2", "--slice", "100ms", "--verdict-load", "light"]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "index.php").write_text("<?php echo 'hello, ', $_GET['n'] ?? '';")
    (folder / "broken.php").write_text("<?php http_response_code(500); echo 'no';")
    (folder / "changing.php").write_text("<?php echo random_int(0, PHP_INT_MAX);")
    for path in [tmp_path, folder]:
        path.chmod(0o755)
    return folder


def perf(*args, root, status=0, cwd=None):
    done = subprocess.run([binary(), "perf", *args, "--root", str(root)], capture_output=True, text=True,
                          timeout=120, cwd=cwd)
    assert done.returncode in (status if isinstance(status, tuple) else (status,)), done.stdout + done.stderr
    return done


ANY_VERDICT = (0, 3)    # 3: regress. A few short blocks on a busy machine may say anything of two equal programs.


def wrapper(path, *arguments):
    """A program that is sapid with further arguments of serve."""
    path.write_text(f'#!/bin/sh\nexec {binary()} "$@" {" ".join(arguments)}\n')
    path.chmod(0o755)
    return path


def test_run_reports_rates_latency_cpu_and_memory(root):
    done = perf("run", *SHORT, "--format", "json", root=root)
    light = json.loads(done.stdout)["loads"]["light"]
    assert light["errors"] == 0
    for name in ["requests_per_sec", "p50", "p99", "cpu_us_per_request", "server_pss",
                 "context_switches_per_request"]:
        assert len(light[name]) == 2 and all(value > 0 for value in light[name]), name
    assert light["cores_busy"] and all(0 <= value <= 100 for value in light["cores_busy"])
    assert "200, 7 bytes" in done.stderr
    text = perf("run", *SHORT, root=root).stdout
    assert re.search(r"light: 1 thread, 10 connections; median of 2 rounds", text)
    assert re.search(r"cores, busy +[0-9.]+%", text)


def test_a_page_that_is_not_200_is_not_measured(root):
    done = perf("run", *SHORT, "--path", "/broken.php", root=root, status=1)
    assert "answers 500; expected 200" in done.stderr
    assert done.stdout == ""


def test_a_page_that_changes_is_measured_by_its_status(root):
    assert "different each time" in perf("run", *SHORT, "--path", "/changing.php", root=root).stderr


def test_a_server_that_cannot_start_shows_its_log(root, tmp_path):
    done = perf("run", *SHORT, "--serve-arg=--listen=nonsense", root=root, status=1)
    assert "its log ends" in done.stderr and "nonsense" in done.stderr


def test_a_busy_port_is_named(root):
    import socket
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = perf("run", *SHORT, "--listen", address, root=root, status=1)
    assert address in done.stderr and "in use" in done.stderr.lower()


def test_a_server_that_has_the_port_already_is_not_measured_instead(root):
    with Target(lambda r: r.answer()) as target:
        done = perf("run", *SHORT, "--listen", target.url[7:-1], root=root, status=1)
        assert target.url[7:-1] in done.stderr and "in use" in done.stderr and not target.lines


def test_a_build_that_fails_ends_the_run(root):
    done = perf("run", *SHORT, "--build", "echo compiling; exit 7", root=root, status=1)
    assert "the build failed" in done.stderr and "status 7" in done.stderr


def test_track_keeps_history_and_baseline_and_compares(root, tmp_path):
    history = tmp_path / "history"
    options = [*SHORT, *BLOCKS, "--history", str(history), "--format", "kv"]
    first = perf("track", *options, root=root)
    assert "no baseline yet" in first.stderr
    assert "verdict=" not in first.stdout
    assert (history / "baseline" / "sapid").exists()
    # Neither damaged runs nor those of other pages are what the next one is compared with.
    (history / "29990101T000000Z-damaged.perf").write_bytes(os.urandom(3000) + b"\0\n=\n\nlight.requests_per_sec")
    (history / "29990101T000000Z-empty.perf").touch()
    (history / "29990101T000000Z-other.perf").write_text("time=29990101T000000Z\nmachine=-\nlight.requests_per_sec=0.001\n")
    second = perf("track", *options, "--baseline", binary(), root=root, status=ANY_VERDICT)
    assert re.search(r"^verdict=(noise|accept|regress)$", second.stdout, re.M)
    assert re.search(r"^light\.requests_per_sec=[0-9.]+ \([+-][0-9.]+%\)$", second.stdout, re.M)
    assert "against the last run (29" not in second.stdout
    entries = sorted(set(history.glob("*.perf")) - set(history.glob("2999*")))
    assert len(entries) == 2
    kept = dict(line.split("=", 1) for line in entries[-1].read_text().splitlines())
    for name in ["time", "commit", "machine", "cpus", "kernel", "light.requests_per_sec",
                 "light.cpu_us_per_request", "verdict", "verdict.cpu_us_per_request"]:
        assert name in kept, name
    assert "<svg" in (history / "history.html").read_text()


def test_what_is_no_run_in_the_history_is_named_before_anything_is_measured(root, tmp_path):
    (tmp_path / "folder.perf").mkdir()
    done = perf("track", *SHORT, "--history", str(tmp_path), root=root, status=1)
    assert f"{tmp_path}/folder.perf: Is a directory; " in done.stderr and "round 1" not in done.stderr


def test_wrong_answers_make_no_baseline(root, tmp_path):
    (root / "changing.php").write_text("<?php if (apcu_inc('n') > 20) http_response_code(503);")
    done = perf("track", *SHORT, "--history", str(tmp_path), "--path", "/changing.php", root=root, status=1)
    assert "does not become the baseline" in done.stderr and not (tmp_path / "baseline").exists()


def test_the_kept_baseline_runs(root, tmp_path):
    options = [*SHORT, *BLOCKS, "--history", str(tmp_path / "history")]
    perf("track", *options, root=root, status=ANY_VERDICT)
    done = subprocess.run([binary(), "perf", "track", *options, "--root", str(root)], capture_output=True,
                          text=True, timeout=120)
    assert done.returncode in (0, 3), done.stderr
    assert "B against A: 5 blocks" in done.stdout


def test_much_more_work_is_a_regress_and_much_less_is_accepted(root, tmp_path):
    burn = root / "burn.php"
    burn.write_text("<?php for ($i = 0; $i < 60000; $i++) { $x = $i * 3; }")
    slow = wrapper(tmp_path / "slow", "-d", f"auto_prepend_file={burn}")
    worse = perf("compare", binary(), str(slow), *BLOCKS, "--format", "json", root=root, status=3)
    assert json.loads(worse.stdout)["verdict"] == "regress"
    better = perf("compare", str(slow), binary(), *BLOCKS, "--format", "json", root=root)
    verdict = json.loads(better.stdout)
    assert verdict["verdict"] == "accept"
    assert verdict["cpu_us_per_request"]["ratio"] < 0.8


def test_answers_that_take_longer_than_a_slice_have_a_rate(root, tmp_path):
    (root / "index.php").write_text("<?php usleep(150000); echo 'slow';")
    done = perf("compare", binary(), binary(), *BLOCKS, "--format", "json", root=root, status=ANY_VERDICT)
    found = json.loads(done.stdout)["requests_per_sec"]
    assert found["a"] > 1 and found["b"] > 1 and 0.1 < found["ratio"] < 10


def test_wrong_answers_are_no_ground_for_a_verdict(root, tmp_path):
    wrong = wrapper(tmp_path / "wrong", "-d", f"auto_append_file={root}/changing.php")
    # Not the first: what is asked before the load has to be right.
    (root / "changing.php").write_text("<?php if (apcu_inc('n') > 20) http_response_code(503);")
    done = perf("compare", binary(), str(wrong), *BLOCKS, root=root, status=1)
    assert "a verdict on speed would mean nothing" in done.stderr


def test_wrong_usage_is_refused_before_a_server_is_started(root):
    for args, message in ((["run", "--path", "/a b"], "--path: expected a path"), (["run", "--url", "foo"], "--url: expected a URL"),
                          (["run", "--url", "http://127.0.0.1/", "--pid", "999999999"], "the id of a process that runs")):
        assert message in perf(*args, root=root, status=2).stderr
    assert "found /tmp: no regular file" in perf("compare", "/tmp", binary(), root=root, status=1).stderr


def test_neither_program_nor_commit(root):
    done = perf("compare", binary(), "no-such-thing", *BLOCKS, root=root, status=1)
    assert "checking out the commit failed" in done.stderr


def test_profile_writes_stacks_and_a_flame_graph(root, tmp_path):
    done = perf("profile", "--duration", "700ms", "--warmup", "100ms", "--output", str(tmp_path / "out"), root=root)
    stacks = (tmp_path / "out" / "c.collapsed").read_text()
    assert re.search(r"^sapid-worker;.*;php_execute_script;.* \d+$", stacks, re.M)
    assert re.search(r"gateway_main.* \d+$", stacks, re.M)
    assert (tmp_path / "out" / "c.svg").read_text().startswith("<svg")
    assert re.search(r"^ +[0-9.]+% +[0-9.]+%  \S*worker_run", done.stdout, re.M)


def php_shares(path):
    """Of each function: the share of samples with it on the stack."""
    total, shares = 0, {}
    for line in path.read_text().splitlines():
        frames, _, count = line.rpartition(" ")
        total += int(count)
        for name in set(frames.split(";")):
            shares[name] = shares.get(name, 0) + int(count)
    return total, {name: count / total for name, count in shares.items()}


def test_profile_tells_which_php_functions_take_the_time(root, tmp_path):
    (root / "index.php").write_text("""<?php
        class Shop {
            static function work(int $n) { for ($i = 0; $i < $n; $i++) { $x = $i * 3; } }
            static function most() { self::work(300000); }
            static function little() { self::work(100000); }
        }
        Shop::most(); Shop::little(); echo 'ok';""")
    done = perf("profile", "--stacks", "php", "--duration", "3s", "--warmup", "100ms", "--verdict-load", "light",
                "--output", str(tmp_path / "out"), "--serve-arg=--workers", "--serve-arg=2", root=root)
    total, shares = php_shares(tmp_path / "out" / "php.collapsed")
    assert total > 300
    assert shares["www"] == 1
    script = shares[f"{{main}} {root}/index.php"]  # the rest is start and end of requests
    assert script > 0.5
    assert shares["Shop::work"] > 0.9 * script
    assert 2 < shares["Shop::most"] / shares["Shop::little"] < 4.5
    assert (tmp_path / "out" / "php.svg").read_text().startswith("<svg")
    assert re.search(r"^ +[0-9.]+% +[0-9.]+%  Shop::most$", done.stdout, re.M)
    assert not (tmp_path / "out" / "c.collapsed").exists()


def test_profile_of_a_server_without_admin_socket_says_what_is_missing(root, tmp_path):
    conf = tmp_path / "sapid.toml"
    conf.write_text('[admin]\nsocket = "off"\n')
    done = perf("profile", "--stacks", "php", "--duration", "200ms", "--warmup", "50ms", "--config", str(conf),
                "--output", str(tmp_path / "out"), root=root, status=1)
    assert "no admin socket" in done.stderr and "--stacks c" in done.stderr


def test_profile_without_linux_perf_says_what_to_install(root, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    done = subprocess.run([binary(), "perf", "profile", "--root", str(root), "--output", str(tmp_path)],
                          capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": str(folder)})
    assert done.returncode == 1
    assert "apt-get install linux-perf" in done.stderr and "--stacks php" in done.stderr


# --- servers that are not what they should be --------------------------------------------------------

def perf_url(url, *args, status=1):
    done = subprocess.run([binary(), "perf", "run", *SHORT, "--url", url, *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("behave, message", [   # what waits in vain is given 300 ms, the others a minute
    (lambda r: None, "gives no whole answer within 0.3 s"),
    (lambda r: r.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel"), "gives no whole answer within 0.3 s"),
    (lambda r: [r.send(b"HTTP/1.1 200 OK\r\n\r\n")] + [r.send(b"x" * 65536) for _ in iter(int, 1)],
     "gives no whole answer within 0.3 s"),
    (lambda r: (r.send(b"\0\1\2garbage\r\n\r\n"), r.close()), "answers something that is not HTTP"),
    (lambda r: (r.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel"), r.close()), "answers something that is not HTTP"),
    (lambda r: r.close(), "answers something that is not HTTP"),
], ids=["silent", "stuck", "endless", "garbage", "cut", "closes"])
def test_a_server_that_does_not_answer_is_not_loaded(behave, message):
    with Target(behave) as target:
        done = perf_url(target.url, "--timeout", "300ms" if "0.3 s" in message else "60s")
        assert f"{target.url} {message}" in done.stderr and done.stdout == ""
        assert len(target.lines) <= 2


def test_nothing_listens():
    with Target(lambda r: r.answer()) as target:
        pass
    assert "Connection refused" in perf_url(target.url).stderr


def after(number, behave):
    return lambda request: request.answer() if request.number <= number else behave(request)


@pytest.mark.parametrize("behave, kind, cause", [
    (after(20, lambda r: r.target.stop()), "connect", "Connection refused"),
    (after(20, lambda r: r.send(b"garbage\r\n\r\n")), "read", ""),
    (after(20, lambda r: r.close()), "read", "closed without an answer"),
    (after(20, lambda r: None), "timeout", "no answer"),
    (after(20, lambda r: r.answer(b"other")), "body", ""),
    (after(20, lambda r: r.answer(status="503 No")), "status", ""),
], ids=["dies", "garbage", "closes", "falls-silent", "other-body", "fails"])
def test_what_goes_wrong_under_load_is_counted_and_named(behave, kind, cause):
    with Target(behave) as target:
        done = perf_url(target.url, "--duration", "1500ms", "--timeout", "1s" if kind == "timeout" else "30s", "--format", "json")
    light = json.loads(done.stdout)["loads"]["light"]
    assert light["errors"] > 0 and min(light["success_rate"]) < 100
    if cause:
        assert re.search(rf"\d+ errors: {kind}: {cause}", done.stderr), done.stderr


DYING = """#!/usr/bin/python3
import http.server, os, sys
left = 20
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")
    def log_message(self, *_):
        pass
host, port = sys.argv[sys.argv.index("--listen") + 1].rsplit(":", 1)
http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"""


def test_a_candidate_that_dies_gets_no_verdict(root, tmp_path):
    program = tmp_path / "dying"
    program.write_text(DYING)
    program.chmod(0o755)
    done = perf("compare", str(binary()), str(program), *BLOCKS, root=root, status=1)
    assert "answers were wrong; a verdict on speed would mean nothing" in done.stderr
    assert "verdict:" not in done.stdout


def test_https_is_refused(tmp_path):
    done = subprocess.run([binary(), "perf", "run", "--url", "https://127.0.0.1/"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "sapid perf does not" in done.stderr


def test_server_and_generator_run_on_processors_of_their_own(root, tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        return  # nothing to part
    seen = tmp_path / "seen"
    program = wrapper(tmp_path / "one", "2>/dev/null")
    program.write_text(f'#!/bin/sh\ngrep Cpus_allowed_list /proc/self/status >> {seen}\nexec {binary()} "$@"\n')
    perf("compare", str(program), str(program), *BLOCKS, root=root, status=ANY_VERDICT)
    pinned = set(seen.read_text().splitlines())
    seen.unlink()
    perf("compare", str(program), str(program), *BLOCKS, "--no-pinning", root=root, status=ANY_VERDICT)
    free = set(seen.read_text().splitlines())
    assert len(pinned) == len(free) == 1 and pinned != free
