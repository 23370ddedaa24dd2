"""PHP-FPM behind sapid: what only FastCGI has. That requests and answers are the same as with the engine
is what SAPID_TEST_BACKEND=fpm shows with all other tests."""
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from lib import account
from lib.fastcgi import END, STDERR, STDOUT, FakeServer, answer, end, fpm_status, record, stream
from lib.fpm import Fpm
from lib.process import pss_bytes, wait_until
from lib.roles import gateway, gateways, pools
from lib.sapid import binary
from lib.site import Site

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

SCRIPTS = {
    "hello": "<?php echo 'hello ', getenv('WHO') ?: 'engine';",   # PHP_SAPI is fpm-fcgi in either
    "pid": "<?php echo getmypid();",
    "who": "<?php echo getenv('WHO');",
    "server": "<?php header('Content-Type: application/json'); echo json_encode($_SERVER);",
    "length": "<?php echo strlen($_SERVER[$_GET['of']]);",
    "sleep": "<?php usleep((int)$_GET['ms'] * 1000); echo 'slept';",
    "finish": "<?php echo 'finished'; fastcgi_finish_request(); usleep((int)$_GET['ms'] * 1000);",
    "digest": "<?php echo hash_file('sha256', 'php://input');",
    "big": "<?php header('Content-Length: ' . $_GET['mb'] * 1048576); $b = str_repeat('0123456789abcdef', 4096);"
           "for ($i = 0; $i < $_GET['mb'] * 16; $i++) { echo $b; }",
    "drip": "<?php while (ob_get_level()) ob_end_flush(); for ($i = 0; $i < 100; $i++) { echo str_repeat('x', 100); flush(); usleep(50000); }",
    "forever": "<?php ignore_user_abort(false); while (true) { echo str_repeat('x', 8192); flush(); }",
    "log": "<?php error_log('a word to the log'); echo 'logged';",
    "crash": "<?php posix_kill(getmypid(), SIGSEGV); sleep(9);",
    "die": "<?php posix_kill(getmypid(), 9); sleep(9);",
    "bare": "<?php header_remove(); ini_set('default_mimetype', ''); echo 'body';",
}


@pytest.fixture
def root(launch):
    folder = launch.folder / "app"
    folder.mkdir()
    for name, text in SCRIPTS.items():
        (folder / f"{name}.php").write_text(text)
    (folder / "file.txt").write_text("a file")
    account.give(folder)
    return folder


@pytest.fixture
def fpm(launch, root):
    """fpm(name, **Site fields) -> Fpm"""
    started = []

    def start(name="fpm", **options):
        options.setdefault("workers", 2)
        options.setdefault("env", {"WHO": name})
        started.append(Fpm(Site(root=root, **options), launch.folder, name))
        return started[-1]

    yield start
    for one in started:
        if one.process.running():
            one.stop()


@pytest.fixture
def fake(launch):
    """fake(serve, **FakeServer options) -> FakeServer on a socket of its own"""
    started = []

    def start(serve, **options):
        started.append(FakeServer(launch.folder / f"fake{len(started)}.sock", serve, **options))
        return started[-1]

    yield start
    for one in started:
        one.close()
        assert not one.problems, one.problems


def serve(launch, root, *servers, php=None, **fastcgi):
    """sapid before these servers: anything with a socket_path or path, or an entry of `servers`."""
    def entry(s):
        path = getattr(s, "socket_path", None) or getattr(s, "path", None)
        return f"unix:{path}" if path else s
    options = {"servers": [entry(s) for s in servers], **fastcgi}
    return launch(root, expect_errors=True, fastcgi=options,
                  php={"use_fpm": True, "libphp_path": "/nonexistent/libphp.so", **(php or {})})


def parallel(n, work):
    """work(i) in n threads; raises what any of them raised."""
    problems = []

    def run(i):
        try:
            work(i)
        except BaseException as e:
            problems.append(e)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    if problems:
        raise problems[0]


# --- the usual -----------------------------------------------------------------------------------------

def test_no_engine_and_no_pool_process(launch, root, fpm):
    server = serve(launch, root, fpm(), connections=2)
    assert server.get("/hello.php").text == "hello fpm"
    assert server.get("/file.txt").text == "a file"
    assert server.get("/missing.php").status == 404
    assert pools(server) == []


def test_fpm_socket_names_the_server(launch, root, fpm):
    server = launch(root, php={"use_fpm": True, "fpm_socket": str(fpm().socket_path)})
    assert server.get("/hello.php").text == "hello fpm"


def test_parameters_php_sees(launch, root, fpm):
    server = serve(launch, root, fpm(), connections=2)
    seen = server.get("/server.php/info?a=b", headers={"X-Twice": "1", "Proxy": "evil"}).json()
    assert seen["SCRIPT_NAME"] == "/server.php" and seen["PATH_INFO"] == "/info"
    assert seen["SCRIPT_FILENAME"] == str(root / "server.php")
    assert seen["REQUEST_URI"] == "/server.php/info?a=b" and seen["QUERY_STRING"] == "a=b"
    assert seen["DOCUMENT_ROOT"] == str(root) and seen["GATEWAY_INTERFACE"] == "CGI/1.1"
    assert seen["HTTP_X_TWICE"] == "1" and "HTTP_PROXY" not in seen


def test_parameters_beyond_one_record(launch, root, fpm):
    """php-fpm wants every pair within one record; together they are more than a record holds."""
    server = launch(root, server={"max_header_size": "256K"}, fastcgi={"connections": 2},
                    php={"use_fpm": True, "fpm_socket": str(fpm().socket_path)})
    with server.connect() as c:
        for size in (100, 127, 128, 30000, 60000):
            headers = {f"X-Big-{i}": "v" * size for i in range(4 if size > 30000 else 1)}
            for name in headers:
                variable = "HTTP_" + name.upper().replace("-", "_")
                assert c.request("GET", f"/length.php?of={variable}", headers=headers).text == str(size)


def test_connections_are_kept_and_used_again(launch, root, fake):
    upstream = fake(lambda params, body, connection: answer(b"ok"), children=2)
    server = serve(launch, root, upstream, connections=2, keep_alive=True)
    with server.connect() as c:
        for _ in range(20):
            assert c.request("GET", "/hello.php").text == "ok"
    assert upstream.connections == 1 and upstream.requests == 20


@pytest.mark.parametrize("settings", [{"connections": 0, "keep_alive": True}, {"connections": 2}])
def test_connections_are_not_kept(launch, root, fake, settings):
    upstream = fake(lambda params, body, connection: answer(b"ok"), children=2)
    server = serve(launch, root, upstream, **settings)
    for _ in range(5):
        assert server.get("/hello.php").text == "ok"
    assert upstream.connections == 5


def test_head_that_is_only_an_empty_line(launch, root, fake):
    upstream = fake(lambda params, body, connection: answer(b"body\r\n\r\nmore", head=b"\r\n"))
    r = serve(launch, root, upstream).get("/hello.php")
    assert r.status == 200 and r.body == b"body\r\n\r\nmore" and r.header("content-type") is None


def test_answer_in_single_bytes(launch, root, fake):
    def dribble(params, body, connection):
        for byte in answer(b"slowly", head=b"Status: 201 Made\r\nX-A: b\r\n\r\n"):
            connection.sendall(bytes([byte]))
        return b""
    r = serve(launch, root, fake(dribble), connections=1).get("/hello.php")
    assert (r.status, r.reason, r.header("x-a"), r.text) == (201, "Made", "b", "slowly")


def test_stderr_is_in_the_log_with_the_request(launch, root, fpm):
    server = serve(launch, root, fpm(ini={"log_errors": "1", "error_log": ""}), connections=2)
    assert server.get("/log.php").text == "logged"
    wait_until(lambda: re.search(r"request [0-9a-f]{16}: fastcgi: .*a word to the log", server.log_text()),
               "PHP's message in the error log")


# --- bodies ----------------------------------------------------------------------------------------------

def test_large_upload_at_constant_memory(launch, root, fpm):
    megabytes = 100
    server = launch(root, server={"max_body_size": "200M"}, fastcgi={"connections": 2},
                    php={"use_fpm": True, "fpm_socket": str(fpm(ini={"post_max_size": "200M"}).socket_path)})
    piece, digest = bytes(range(256)) * 4096, hashlib.sha256()
    assert server.get("/hello.php").status == 200
    before = pss_bytes(gateway(server))
    with server.connect(timeout=60) as c:
        c.send(f"POST /digest.php HTTP/1.1\r\nHost: x\r\nContent-Length: {megabytes * len(piece)}\r\n\r\n".encode())
        for _ in range(megabytes):
            c.send(piece)
            digest.update(piece)
        assert c.read_response("POST").text == digest.hexdigest()
    assert pss_bytes(gateway(server)) - before < 4 << 20


def test_large_answer_at_constant_memory_and_the_client_sets_the_pace(launch, root, fpm):
    megabytes = 100
    server = launch(root, server={"max_spool_size": "8M"}, fastcgi={"connections": 2, "response_timeout": "2s"},
                    php={"use_fpm": True, "fpm_socket": str(fpm().socket_path)})
    assert server.get("/hello.php").status == 200
    before, digest = pss_bytes(gateway(server)), hashlib.sha256()
    with server.connect(receive_buffer=65536) as c:
        c.send(f"GET /big.php?mb={megabytes} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = c.read_head()
        assert head.status == 200 and head.header("content-length") == str(megabytes << 20)
        time.sleep(4.5)   # twice response_timeout: it is the client that is slow, not the server
        for _ in range(megabytes):
            digest.update(c.read_bytes(1 << 20))
    assert digest.digest() == hashlib.sha256(b"0123456789abcdef" * (megabytes << 16)).digest()
    assert pss_bytes(gateway(server)) - before < 4 << 20


def test_answer_before_the_body_was_read(launch, root):
    """A server may answer, and close, while we still send."""
    listener = socket.socket(socket.AF_UNIX)
    path = launch.folder / "rude.sock"
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen(5)

    def run():
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(answer(b"enough"))
        connection.close()

    threading.Thread(target=run, daemon=True).start()
    server = serve(launch, root, f"unix:{path}", connections=1)
    r = server.get("/hello.php", method="POST", body=b"x" * (4 << 20))
    assert (r.status, r.text) == (200, "enough")
    listener.close()


# --- failures of one request ---------------------------------------------------------------------------------

BAD = {
    "garbage": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "zeros": bytes(100),
    "no head": stream(STDOUT, b"<html>\n\n") + end(),
    "head never ends": stream(STDOUT, b"A: b\r\n" * 60000) + end(),
    "nothing": b"",
    "end without answer": end(),
    "another request": record(STDOUT, b"Content-Type: a/b\r\n\r\nx", request_id=2),
    "unknown record": record(11, b"12345678"),
    "overloaded": end(protocol_status=2),
    "half a head": record(STDOUT, b"Content-Type: a/b\r\n\r\nhello")[:20],
    "bad status": stream(STDOUT, b"Status: 99999\r\n\r\n") + end(),
    "end of a wrong size": record(END, b"123"),
}


@pytest.mark.parametrize("kind", BAD)
def test_nonsense_costs_its_own_request_a_502(launch, root, fake, kind):
    def serve_it(params, body, connection):
        if "bad" not in params["QUERY_STRING"]:
            return answer(b"fine")
        connection.sendall(BAD[kind])
        return None
    server = serve(launch, root, fake(serve_it, children=4), connections=4)
    for _ in range(3):
        assert server.get("/hello.php?bad", method="POST", body=b"x").status == 502
        assert server.get("/hello.php").text == "fine"


@pytest.mark.parametrize("rest", [b"", bytes(50), record(STDERR, b"oops")],
                         ids=["closed", "nonsense", "stderr"])
def test_answer_cut_in_its_body_is_cut_for_the_client(launch, root, fake, rest):
    passed_on = threading.Event()

    def half(params, body, connection):
        if "ok" in params["QUERY_STRING"]:
            return answer(b"fine")
        connection.sendall(record(STDOUT, b"Content-Type: text/plain\r\n\r\n" + b"y" * 1000))
        passed_on.wait(60)
        connection.sendall(rest)
        return None
    server = serve(launch, root, fake(half, children=4), connections=4)
    with server.connect() as c:
        c.send(b"GET /hello.php HTTP/1.1\r\nHost: x\r\n\r\n")
        assert c.read_head().header("transfer-encoding") == "chunked"
        passed_on.set()
        assert not c.read_rest().endswith(b"0\r\n\r\n")
    assert server.get("/hello.php?ok").text == "fine"


def test_child_that_dies_is_a_502_and_no_reason_to_leave_the_server_out(launch, root, fpm):
    server = serve(launch, root, fpm(), connections=2)
    for _ in range(4):
        assert server.get("/die.php", method="POST").status == 502
        assert server.get("/hello.php").status == 200
    assert "left out" not in server.log_text()


def test_server_that_says_nothing_is_a_504(launch, root, fpm):
    server = serve(launch, root, fpm(), connections=2, response_timeout="2s")
    assert server.get("/sleep.php?ms=50000").status == 504
    assert server.get("/hello.php").status == 200


def test_request_timeout_holds_for_a_running_answer(launch, root, fpm):
    server = serve(launch, root, fpm(), connections=2, php={"request_timeout": "2s"})
    assert server.get("/sleep.php?ms=50000").status == 504
    with server.connect() as c:
        c.send(b"GET /drip.php HTTP/1.1\r\nHost: x\r\n\r\n")
        assert c.read_head().status == 200
        assert len(c.read_rest()) < 9000   # of 10,000 in at least 5 s
    assert server.get("/hello.php").status == 200


def test_no_server_is_a_502_then_503_until_it_comes(launch, root, fpm):
    one = fpm()
    one.stop()
    server = serve(launch, root, one, connections=2, backoff="200ms", max_backoff="400ms")
    seen = {server.get("/hello.php").status for _ in range(5)}
    assert seen <= {502, 503}
    assert server.get("/file.txt").status == 200
    one.start()
    wait_until(lambda: server.get("/hello.php").status == 200, "the server to be used again")
    server.expect_log("is back")


# --- clients that go -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("keep_alive", [True, False])
def test_clients_that_go_never_starve_others(launch, root, fpm, keep_alive):
    """The children of aborted requests run on; no request may wait for one of them beside an idle child."""
    one = fpm(workers=3)
    server = serve(launch, root, one, connections=3, keep_alive=keep_alive)

    def abort(i):
        for _ in range(10):
            with server.connect() as c:
                c.send(b"GET /sleep.php?ms=300 HTTP/1.1\r\nHost: x\r\n\r\n")
                time.sleep(0.02)
                c.close()

    aborting = threading.Thread(target=parallel, args=(4, abort))
    aborting.start()
    longest = 0.0
    while aborting.is_alive():
        start = time.monotonic()
        assert server.get("/hello.php").text == "hello fpm"
        longest = max(longest, time.monotonic() - start)
    aborting.join()
    assert longest < 25
    assert fpm_status(one.status_path)["listen queue"] == 0


def test_work_after_the_answer_keeps_nobody_waiting(launch, root, fpm):
    """fastcgi_finish_request(): the child works on; its place is taken until it is done."""
    server = serve(launch, root, fpm(workers=3), connections=3)
    start = time.monotonic()
    for _ in range(2):
        assert server.get("/finish.php?ms=40000").text == "finished"
    for _ in range(20):
        assert server.get("/hello.php").status == 200
    assert time.monotonic() - start < 30


def test_script_whose_client_has_gone_is_told(launch, root, fpm):
    one = fpm(workers=1)
    server = serve(launch, root, one, connections=1)
    with server.connect() as c:
        c.send(b"GET /forever.php HTTP/1.1\r\nHost: x\r\n\r\n")
        c.read_bytes(10000)
    assert server.get("/hello.php").status == 200   # the only child is free again


# --- how many connections ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("keep_alive", [True, False])
def test_never_more_connections_than_the_server_has_children(launch, root, fake, keep_alive):
    """A fake with 5 children counts; every request is answered, also those whose neighbours go away."""
    def slowly(params, body, connection):
        time.sleep(0.002)
        return answer(b"ok")
    upstream = fake(slowly, children=64)
    server = serve(launch, root, upstream, connections=5, keep_alive=keep_alive)

    def ask(i):
        for n in range(15):
            if (i + n) % 5 == 0:
                with server.connect() as c:
                    c.send(b"GET /hello.php HTTP/1.1\r\nHost: x\r\n\r\n")
            assert server.get("/hello.php").text == "ok"

    parallel(24, ask)
    assert upstream.most <= 5


def test_several_threads_share_the_limit(launch, root, fake):
    def slowly(params, body, connection):
        time.sleep(0.003)
        return answer(b"ok")
    upstream = fake(slowly, children=64)
    server = launch(root, server={"gateway_threads": 3}, php={"use_fpm": True},
                    fastcgi={"servers": [f"unix:{upstream.path}"], "connections": 4})
    parallel(24, lambda i: [server.get("/hello.php").text == "ok" or pytest.fail() for _ in range(10)])
    assert upstream.most <= 4


def test_reload_does_not_double_the_connections(launch, root, fake):
    def slowly(params, body, connection):
        time.sleep(0.005)
        return answer(b"ok")
    upstream = fake(slowly, children=64)
    server = serve(launch, root, upstream, connections=3, keep_alive=True)
    with _Asking(server) as load:
        for _ in range(5):
            time.sleep(0.1)
            server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: load.answers > 50, "answers")
    assert not load.wrong
    assert upstream.most <= 3


class _Asking:
    """Six clients that ask GET `target` again and again; `wrong` has every answer but 200."""

    def __init__(self, server, target="/hello.php", clients=6):
        self.server, self.target = server, target
        self.answers, self.wrong, self.texts = 0, [], []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self):
        while not self.stop.is_set():
            with self.server.connect() as c:
                for _ in range(50):
                    if self.stop.is_set():
                        break
                    r = c.request("GET", self.target)
                    self.answers += 1
                    self.texts.append(r.text)
                    if r.status != 200:
                        self.wrong.append((r.status, r.text))
                    if not r.keeps_alive:
                        break

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for t in self.threads:
            t.join(60)


def test_full_queue_is_a_503(launch, root, fake):
    free = threading.Event()

    def wait(params, body, connection):
        free.wait(60)
        return answer(b"ok")
    server = serve(launch, root, fake(wait), connections=1, queue_size=2)
    with server.connect() as a, server.connect() as b, server.connect() as c, server.connect() as d:
        for connection in (a, b, c):
            connection.send(b"GET /hello.php HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: connection.unread() == 0, "it to run, or to wait")
        r = d.request("GET", "/hello.php")
        assert r.status == 503 and r.header("retry-after")
        free.set()
        assert [x.read_response().text for x in (a, b, c)] == ["ok"] * 3


def test_waiting_too_long_is_a_503(launch, root, fake):
    running, free = threading.Event(), threading.Event()

    def wait(params, body, connection):
        running.set()
        free.wait(60)
        return answer(b"ok")
    server = serve(launch, root, fake(wait), connections=1, php={"queue_timeout": "200ms"})
    with server.connect() as a, server.connect() as b:
        a.send(b"GET /hello.php HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(running.is_set, "it to run")
        assert b.request("GET", "/hello.php").status == 503
        free.set()
        assert a.read_response().text == "ok"


# --- several servers ----------------------------------------------------------------------------------------------------

def test_weights(launch, root, fake):
    # Room for all: a connection counts as taken until its server has ended it, which the client does not wait for.
    one, three = (fake(lambda params, body, connection: answer(b"ok"), children=40) for _ in range(2))
    server = serve(launch, root, {"address": f"unix:{one.path}", "weight": 1},
                   {"address": f"unix:{three.path}", "weight": 3}, connections=40, balance="round-robin")
    with server.connect() as c:
        for _ in range(40):
            assert c.request("GET", "/hello.php").status == 200
    assert (one.requests, three.requests) == (10, 30)


def test_least_connections_avoids_the_slow_one(launch, root, fake):
    def slowly(params, body, connection):
        time.sleep(0.2)
        return answer(b"slow")
    slow, fast = fake(slowly, children=8), fake(lambda params, body, connection: answer(b"fast"), children=8)
    server = serve(launch, root, slow, fast, connections=8, balance="least-connections")
    parallel(4, lambda i: [server.get("/hello.php") for _ in range(20)])
    assert slow.requests < 40 < fast.requests


def test_one_of_two_is_killed_under_load(launch, root, fpm):
    """No idempotent request fails, and the other is used again within its backoff."""
    one, two = fpm("one"), fpm("two")
    server = serve(launch, root, one, two, connections=2, backoff="300ms", max_backoff="600ms")
    with _Asking(server, "/who.php") as load:
        wait_until(lambda: {"one", "two"} <= set(load.texts), "both servers to answer")
        one.process.kill()

        def only_two():     # of a hundred answers: those that were under way are among the first
            del load.texts[:]
            wait_until(lambda: len(load.texts) >= 100, "answers")
            return set(load.texts) == {"two"}
        wait_until(only_two, "the dead server to be left out")
        one.start()
        wait_until(lambda: "one" in load.texts, "the restarted server to be used again")
    assert not load.wrong, load.wrong[:5]
    assert load.answers > 100


def test_post_is_not_sent_twice(launch, root, fake):
    def die(params, body, connection):
        return None
    servers = [fake(die, children=4) for _ in range(2)]
    server = serve(launch, root, *servers, connections=4)
    assert server.get("/hello.php", method="POST", body=b"x").status == 502
    assert sum(s.requests for s in servers) == 1
    assert server.get("/hello.php").status == 502
    assert 2 <= sum(s.requests for s in servers) - 1 <= 3


def test_post_after_the_server_was_restarted(launch, root, fpm):
    """The kept connection is closed: that nothing was sent makes another try harmless."""
    one = fpm()
    server = serve(launch, root, one, connections=2, keep_alive=True)
    for _ in range(3):
        assert server.get("/hello.php").status == 200
        one.stop()
        one.start()
        r = server.get("/digest.php", method="POST", body=b"abc")
        assert r.text == hashlib.sha256(b"abc").hexdigest()


# --- engine and FPM -------------------------------------------------------------------------------------------------------

def test_one_line_and_a_reload_move_a_pool(launch, root, fpm):
    server = launch(root, fastcgi={"servers": [f"unix:{fpm().socket_path}"], "connections": 2})
    text = server.config_path.read_text()
    engine = "hello engine"
    assert server.get("/hello.php").text == engine
    with _Asking(server) as load:
        for _ in range(2):
            server.config_path.write_text(text.replace("[php]\n", "[php]\nuse_fpm = true\n"))
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: server.get("/hello.php").text == "hello fpm", "PHP-FPM to answer")
            wait_until(lambda: pools(server) == [], "the engine's process to end")
            server.config_path.write_text(text)
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: pools(server) and server.get("/hello.php").text == engine, "the engine to answer")
    assert not load.wrong, load.wrong[:5]


def test_gateway_dies_and_the_next_one_knows_the_servers(launch, root, fpm):
    server = serve(launch, root, fpm(), connections=2)
    old = gateway(server)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: [p for p in gateways(server) if p != old], "another gateway")
    assert server.get("/hello.php").text == "hello fpm"


def test_fallback_after_crashes_until_the_reload(launch, root, fpm):
    server = launch(root, expect_errors=True, workers=2,
                    fastcgi={"servers": [f"unix:{fpm().socket_path}"], "connections": 2},
                    php={"fallback": True, "fallback_crashes": 3, "fallback_window": "30s"})
    engine = "hello engine"
    assert server.get("/hello.php").text == engine
    for _ in range(2):
        assert server.get("/crash.php", method="POST").status == 502
        assert server.get("/hello.php").text == engine
    assert server.get("/crash.php", method="POST").status == 502
    wait_until(lambda: server.get("/hello.php").text == "hello fpm", "the fallback")
    server.expect_log("PHP REQUESTS GO TO PHP-FPM NOW")
    old = gateway(server)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: [p for p in gateways(server) if p != old], "another gateway")
    assert server.get("/hello.php").text == "hello fpm"
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.get("/hello.php").text == engine, "the engine after the reload")


def test_route_falls_back_alone_and_stays_until_the_reload(launch, root, fpm):
    """Not the pool, not another route; nor does a new gateway or a new engine forget it."""
    shutil.copy(root / "hello.php", root / "other.php")
    shutil.copy(root / "crash.php", root / "hcrash.php")
    fallback = {"fallback": True, "fallback_crashes": 2, "fallback_window": "30s"}
    server = launch(root, expect_errors=True, workers=2, php={"fpm_socket": str(fpm().socket_path)},
                    routes=[{"match": {"prefix": "/h"}, **fallback}, {"match": {"prefix": "/c"}, "try": ["$uri"], **fallback}])

    def texts():
        return [server.get(path).text for path in ("/hello.php", "/other.php")]

    engine, moved = ["hello engine", "hello engine"], ["hello fpm", "hello engine"]
    for _ in range(2):
        assert server.get("/crash.php", method="POST").status == 502   # by the other route: this one is not touched
        assert texts() == engine
    wait_until(lambda: "/c\"): 2 workers crashed" in server.log_text(), "the other route to fall back")
    assert texts() == engine
    for _ in range(2):
        assert texts() == engine
        assert server.get("/hcrash.php", method="POST").status == 502
    wait_until(lambda: texts() == moved, "the fallback")
    server.expect_log_match(r'route \S+:\d+ \(prefix "/h"\): 2 workers crashed .* GO TO PHP-FPM NOW')

    old = gateway(server)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: [p for p in gateways(server) if p != old], "another gateway")
    assert texts() == moved
    old = pools(server)[0]
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: [p for p in pools(server) if p != old], "another engine")
    assert texts() == moved

    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: texts() == engine, "the engine after the reload")
    server.expect_log("the fallback to PHP-FPM has ended")


def test_check_names_a_route_that_cannot_fall_back(launch, root):
    match = '[[route]]\nmatch = { prefix = "/a" }\n'
    for route, why in [("fallback = true", "needs servers in [fastcgi], or php.fpm_socket"),
                       ('backend = "static"\nfallback = true', 'only a route with backend "php" can fall back'),
                       ('redirect = "/b"\nfallback = true', 'only a route with backend "php" can fall back')]:
        status, said = run_check(launch, root, match + route, use_fpm=False)
        assert status == 1 and why in said, said
    status, said = run_check(launch, root, f'fpm_socket = "/run/x.sock"\n{match}fallback = true\nfallback_crashes = 2\n', use_fpm=False)
    assert status == 0 and "fallback = true\nfallback_crashes = 2\n" in said, said


def test_killed_workers_are_no_crashes(launch, root, fpm):
    server = launch(root, expect_errors=True, workers=2,
                    fastcgi={"servers": [f"unix:{fpm().socket_path}"], "connections": 2},
                    php={"fallback": True, "fallback_crashes": 1})
    engine = "hello engine"
    assert server.get("/hello.php").text == engine
    assert server.get("/die.php", method="POST").status == 502
    assert server.get("/hello.php").text == engine


# --- what is checked before the start ----------------------------------------------------------------------------------------

def run_check(launch, root, text, use_fpm=True):
    config = launch.folder / "check.toml"
    config.write_text(f'[php]\ndocument_root = "{root}"\nuse_fpm = {str(use_fpm).lower()}\n' + text)
    done = subprocess.run([str(binary()), "check", "--config", str(config)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_check_names_too_few_connections_and_unknown_names(launch, root):
    status, said = run_check(launch, root, '[fastcgi]\nservers = ["127.0.0.1:9"]\nconnections = 2\n'
                                           '[server]\ngateway_threads = 3\n')
    assert status == 1 and "connections = 2 is less than the 3 gateway threads" in said
    status, said = run_check(launch, root, '[fastcgi]\nservers = ["nobody-knows.invalid:9000"]\n')
    assert status == 1 and "FastCGI server nobody-knows.invalid:9000: nobody-knows.invalid: " in said
    status, said = run_check(launch, root, '[fastcgi]\nservers = ["unix:/not/there.sock"]\n')
    assert status == 0, said


@pytest.mark.as_root
def test_gateway_becomes_who_may_connect(launch, root, fake):
    upstream = fake(lambda params, body, connection: answer(b"ok"))
    os.chmod(upstream.path, 0o660)
    user = account.web()
    os.chown(upstream.path, user.uid, user.gid)
    status, said = run_check(launch, root, f'fpm_socket = "{upstream.path}"\n')
    assert status == 0 and f"gateway: user {user.name} " in said and "it may connect to" in said
    status, said = run_check(launch, root, f'fpm_socket = "{upstream.path}"\n[server]\nuser = "nobody"\n')
    assert status == 1 and "cannot connect to the FastCGI server" in said
    assert serve(launch, root, upstream).get("/hello.php").text == "ok"
