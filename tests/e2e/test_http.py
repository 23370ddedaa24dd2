"""The gateway's HTTP over a real socket."""
import os
import re
import select
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from lib.httpclient import Closed, Connection
from lib.process import pss_bytes, wait_until

HELLO = b"GET /hello.php HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module", autouse=True)
def static_file(scripts):
    (scripts / "static.txt").write_text("static text\n")
    (scripts / "large.bin").write_bytes(bytes(range(256)) * 40960)   # 10 MiB


# --- keep-alive and pipelining ------------------------------------------------------------------

def test_keep_alive(server):
    with server.connect() as c:
        for _ in range(50):
            r = c.request("GET", "/hello.php")
            assert r.text == "Hello World!" and r.keeps_alive


def test_connection_close_is_obeyed(server):
    with server.connect() as c:
        r = c.request("GET", "/hello.php", {"Connection": "close"})
        assert r.text == "Hello World!" and not r.keeps_alive and c.closed()


@pytest.mark.parametrize("value", ["close", "CLOSE", "x, close", "close, keep-alive", " ,close"])
def test_connection_options_are_a_list(server, value):
    with server.connect() as c:
        assert not c.request("GET", "/hello.php", {"Connection": value}).keeps_alive and c.closed()


def test_http_1_0_closes_unless_asked(server):
    with server.connect() as c:
        c.send(b"GET /static.txt HTTP/1.0\r\n\r\n")
        assert c.read_response().text == "static text\n" and c.closed()
    with server.connect() as c:
        for _ in range(3):
            c.send(b"GET /static.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            r = c.read_response()
            assert r.text == "static text\n" and r.keeps_alive
            assert r.minor == 0 or "keep-alive" in (r.header("connection") or "").lower()


def test_pipelined_requests_are_answered_in_order(server):
    targets = []
    for i in range(100):
        targets.append([f"/server.php?n={i}", "/static.txt", f"/missing-{i}.txt", f"/life.php?do=big&n={i * 1000}"][i % 4])
    with server.connect() as c:
        c.send(b"".join(c.format("GET", t) for t in targets))
        for i, target in enumerate(targets):
            r = c.read_response()
            if i % 4 == 0:
                assert r.json()["get"]["n"] == str(i)
            elif i % 4 == 1:
                assert r.text == "static text\n"
            elif i % 4 == 2:
                assert r.text.startswith(f"front GET {target} ")
            else:
                assert len(r.body) == i * 1000
        assert c.request("GET", "/hello.php").status == 200


def test_pipelined_posts_keep_their_bodies(server):
    with server.connect() as c:
        bodies = [os.urandom(n * 777) for n in range(30)]
        sending = threading.Thread(target=lambda: c.send(
            b"".join(c.format("POST", "/input.php", None, b) for b in bodies)))
        sending.start()
        for body in bodies:
            assert c.read_response("POST").json()["bytes"] == len(body)
        sending.join()


def test_pipelined_heads_and_bodiless_answers(server):
    with server.connect() as c:
        c.send(b"HEAD /hello.php HTTP/1.1\r\nHost: x\r\n\r\n" + HELLO +
               b"GET /headers.php?do=code&code=204 HTTP/1.1\r\nHost: x\r\n\r\n" + HELLO +
               b"HEAD /static.txt HTTP/1.1\r\nHost: x\r\n\r\n" + HELLO)
        for method, status in [("HEAD", 200), ("GET", 200), ("GET", 204), ("GET", 200), ("HEAD", 200), ("GET", 200)]:
            r = c.read_response(method)
            assert r.status == status and r.body == (b"Hello World!" if method == "GET" and status == 200 else b"")


def test_requests_behind_connection_close_are_not_answered(server):
    with server.connect() as c:
        c.send(b"GET /hello.php HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + HELLO)
        assert c.read_response().text == "Hello World!"
        assert c.closed()


@pytest.mark.sapid_only   # nginx gives up a request of PHP when its client closes its half
def test_half_closed_client_gets_its_answers(server):
    with server.connect() as c:
        c.send(HELLO * 3)
        c.finish_sending()
        assert [c.read_response().text for _ in range(3)] == ["Hello World!"] * 3
        assert c.closed()


def test_request_byte_by_byte(server):
    with server.connect() as c:
        c.send_slowly(b"POST /input.php HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + HELLO)
        assert c.read_response("POST").json()["bytes"] == 5
        assert c.read_response().text == "Hello World!"


def test_every_split_of_a_request(server):
    request = b"POST /input.php?x=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nT: t\r\n\r\n"
    with server.connect() as c:
        for cut in range(1, len(request)):
            c.send(request[:cut])
            c.send(request[cut:])
            assert c.read_response("POST").json()["bytes"] == 5


def test_empty_line_before_a_request_is_ignored(server):
    with server.connect() as c:
        c.send(b"\r\n" + HELLO)
        assert c.read_response().text == "Hello World!"
        c.send(b"POST /input.php HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab\r\n" + HELLO)
        assert c.read_response("POST").json()["bytes"] == 2
        assert c.read_response().text == "Hello World!"


# --- framing of answers -------------------------------------------------------------------------

def test_framing_of_a_php_answer(server):
    r = server.get("/hello.php")
    assert r.framing in ("length", "chunked") and r.header("date") and r.reason == "OK"
    assert re.fullmatch(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", r.header("date"))


@pytest.mark.sapid_only
def test_a_small_answer_is_one_packet(server):
    """Head and body come with one write: the first read has both."""
    with server.connect() as c:
        for _ in range(10):
            c.send(HELLO)
            data = c.socket.recv(65536)
            assert data.endswith(b"Hello World!")


@pytest.mark.sapid_only
def test_a_small_answer_has_its_length(server):
    assert server.get("/hello.php").header("content-length") == "12"


@pytest.mark.parametrize("target", ["/hello.php", "/static.txt", "/missing.txt", "/life.php?do=big&n=200000", "/missing.php"])
def test_head_equals_get_without_body(server, target):
    with server.connect() as c:
        get, head = c.request("GET", target), c.request("HEAD", target)
        assert head.status == get.status and head.body == b""
        skip = {"date", "content-length", "transfer-encoding"}
        assert [f for f in head.fields if f[0].lower() not in skip] == [f for f in get.fields if f[0].lower() not in skip]
        if head.header("content-length") is not None and get.header("content-length") is not None:
            assert head.header("content-length") == get.header("content-length")
        assert c.request("GET", "/hello.php").text == "Hello World!"


@pytest.mark.sapid_only
def test_interim_answers_of_a_script(server, scripts):
    (scripts / "interim.php").write_text("<?php header('X-A: b'); headers_send((int)$_GET['s']); echo 'end';")
    with server.connect() as c:
        for status in (100, 101, 103, 199):   # 101 would end HTTP
            c.send(c.format("GET", f"/interim.php?s={status}") + HELLO)
            r = c.read_response()
            assert r.text == "end" and [i.status for i in r.interim] == ([status] if status != 101 else [])
            assert c.read_response().text == "Hello World!"
        c.send(b"GET /interim.php?s=103 HTTP/1.0\r\n\r\n")
        r = c.read_response()
        assert r.text == "end" and r.interim == [] and r.headers("x-a") == ["b"]


def test_204_and_304_have_no_body(server):
    with server.connect() as c:
        for code in (204, 304):
            c.send(c.format("GET", f"/headers.php?do=code&code={code}") + HELLO)
            assert c.read_response().status == code
            assert c.read_response().text == "Hello World!"


def test_http_1_0_answers_are_never_chunked(server):
    with server.connect() as c:
        c.send(b"GET /life.php?do=big&n=100000 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        r = c.read_response()
        assert r.framing in ("close", "length") and len(r.body) == 100000


def test_large_static_file(server, scripts):
    with server.connect() as c:
        assert c.request("GET", "/large.bin").body == (scripts / "large.bin").read_bytes()
        assert c.request("GET", "/hello.php").status == 200


# --- request targets and Host -------------------------------------------------------------------

def test_absolute_form(server):
    with server.connect() as c:
        c.send(b"GET http://other.example:81/server.php?a=1 HTTP/1.1\r\nHost: ignored.example\r\n\r\n")
        v = c.read_response().json()["server"]
        assert v["QUERY_STRING"] == "a=1" and v["SCRIPT_NAME"] == "/server.php"
        if server.kind == "sapid":   # RFC 9112 3.2.2: the target's authority replaces the field
            assert v["HTTP_HOST"] == "other.example:81" and v["SERVER_NAME"] == "other.example"


def test_absolute_form_without_a_path(server):
    with server.connect() as c:
        c.send(b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert c.read_response().status == 200
        c.send(b"GET HTTP://x?q HTTP/1.1\r\nHost: x\r\n\r\n")
        assert c.read_response().status == 200


@pytest.mark.sapid_only
def test_options_asterisk(server):
    with server.connect() as c:
        r = c.request("OPTIONS", "*")
        assert r.status in (200, 204) and r.body == b""
        assert c.request("GET", "/hello.php").status == 200


def test_trace_and_connect_are_refused(server):
    for method, target in (("TRACE", "/"), ("TRACE", "/hello.php"), ("CONNECT", "x:80")):
        with server.connect() as c:
            assert c.request(method, target).status in (400, 405, 501)


@pytest.mark.parametrize("host", ["x", "EXAMPLE.org", "example.org:8080", "127.0.0.1", "[::1]", "[::1]:80", "a-b.c_d", "x.", "1.2.3.4:5"])
def test_hosts(server, host):
    v = server.get("/server.php", {"Host": host}).json()["server"]
    assert v["HTTP_HOST"] == host


@pytest.mark.sapid_only   # nginx keeps tabs
def test_white_space_around_values_is_no_part_of_them(server):
    with server.connect() as c:
        c.send(b"GET /server.php HTTP/1.1\r\nHost:x\r\nA:  \t b c\t \r\nB:\r\nC: \r\n\r\n")
        v = c.read_response().json()["server"]
        assert v["HTTP_HOST"] == "x" and v["HTTP_A"] == "b c" and v["HTTP_B"] == "" and v["HTTP_C"] == ""


def test_paths_are_normalised(server, scripts):
    for target in ("//hello.php", "/./hello.php", "/a/../hello.php", "/%68ello.php", "/a/%2e%2e/hello.php", "/a//../hello.php",
                   "/x/y/../../hello.php", "/hello%2ephp", "/%2Fhello.php"):
        assert server.get(target).text == "Hello World!", target


# --- Expect -------------------------------------------------------------------------------------

def test_expect_continue(server):
    with server.connect() as c:
        c.send(b"POST /input.php HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert c.read_head().status == 100
        c.send(b"hello")
        assert c.read_response("POST").json()["bytes"] == 5
        c.send(b"POST /input.php HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-Continue\r\n\r\n")
        assert c.read_head().status == 100
        c.send(b"3\r\nabc\r\n0\r\n\r\n")
        assert c.read_response("POST").json()["bytes"] == 3


def test_expect_continue_with_the_body_sent_at_once(server):
    with server.connect() as c:
        c.send(b"POST /input.php HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
        assert c.read_response("POST").json()["bytes"] == 5
        assert c.request("GET", "/hello.php").status == 200


def test_no_100_for_http_1_0(server):
    with server.connect() as c:
        c.send(b"POST /input.php HTTP/1.0\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
        r = c.read_response("POST")
        assert r.interim == [] and r.json()["bytes"] == 5


@pytest.fixture(scope="module")
def small(launch_module, scripts):
    """A server with small limits."""
    return launch_module(scripts, workers=2, server={"max_body_size": "100K", "header_timeout": "3s", "body_timeout": "3s",
                                                     "keepalive_timeout": "3s"})


def test_too_large_a_body_is_refused_before_it_is_sent(small):
    with small.connect() as c:
        c.send(b"POST /input.php HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n")
        r = c.read_response("POST")
        assert r.status == 413 and r.interim == []


def test_too_large_a_body(small):
    r = small.get("/input.php", method="POST", body=b"x" * 102401)
    assert r.status == 413
    assert small.get("/input.php", method="POST", body=b"x" * 102400).json()["bytes"] == 102400


def test_client_that_sends_all_of_too_large_a_body_sees_the_answer(small):
    """No reset destroys the answer while the client is still sending (RFC 9112 9.6)."""
    with small.connect() as c:
        r = c.request("POST", "/input.php", body=b"x" * (20 << 20))
        assert r.status == 413 and not r.keeps_alive


def test_too_large_a_chunked_body(small):
    with small.connect() as c:
        c.send(b"POST /input.php HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(30):
                c.send(b"2000\r\n" + b"x" * 8192 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert c.read_response("POST").status == 413


# --- limits and time limits ---------------------------------------------------------------------

def test_request_line_limit(server):
    assert server.get("/server.php?" + "a" * 8000).status == 200
    assert server.get("/server.php?" + "a" * 9000).status == 414


@pytest.mark.sapid_only
def test_header_limits(server):
    assert server.get("/server.php", {"A": "b" * 30_000}).status == 200
    assert server.get("/server.php", {"A": "b" * 33_000}).status == 431
    assert server.get("/server.php", [(f"A{i}", "b") for i in range(98)]).status == 200
    assert server.get("/server.php", [(f"A{i}", "b") for i in range(101)]).status == 431


def test_slow_head_is_ended(small):
    with small.connect() as c:
        start = time.monotonic()
        c.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        rest = c.read_rest()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")
        assert 0.5 < time.monotonic() - start < 25


def test_dripping_head_is_ended(small):
    """One byte now and then does not extend the time for the head."""
    with small.connect() as c:
        start = time.monotonic()
        c.send(b"GET / HTTP/1.1\r\nHost: x\r\nA: ")
        while not select.select([c.socket], [], [], 0.1)[0]:
            c.send(b"b")
            assert time.monotonic() - start < 25
        rest = c.read_rest()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")


def test_slow_body_is_ended(small):
    with small.connect() as c:
        start = time.monotonic()
        c.send(b"POST /input.php HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab")
        rest = c.read_rest()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")
        assert 0.5 < time.monotonic() - start < 25
    assert small.get("/hello.php").text == "Hello World!"


def test_client_that_goes_on_after_its_time_sees_the_answer(small):
    with small.connect() as c:
        c.send(b"POST /input.php HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nab")
        assert select.select([c.socket], [], [], 60)[0]
        for _ in range(10):
            c.send(b"x" * 5000)
            time.sleep(0.01)
        assert c.read_response("POST").status == 408


def test_idle_connection_is_closed(small):
    with small.connect() as c:
        assert c.request("GET", "/hello.php").status == 200
        start = time.monotonic()
        assert c.closed() and 0.5 < time.monotonic() - start < 25


def test_silent_connection_is_closed(small):
    with small.connect() as c:
        start = time.monotonic()
        rest = c.read_rest()
        assert (rest == b"" or rest.startswith(b"HTTP/1.1 408 ")) and time.monotonic() - start < 25


# --- clients that leave -------------------------------------------------------------------------

def reset(c: Connection) -> None:
    c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()


def test_clients_that_leave_at_every_point(server):
    request = b"POST /input.php HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789"
    for cut in range(0, len(request) + 1, 3):
        for leave in (Connection.close, reset):
            c = server.connect()
            c.send(request[:cut])
            leave(c)
    for leave in (Connection.close, reset):
        for _ in range(20):
            c = server.connect()
            c.send(b"GET /life.php?do=big&n=500000 HTTP/1.1\r\nHost: x\r\n\r\n" + HELLO * 5)
            leave(c)
        for _ in range(10):
            c = server.connect()
            c.send(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            c.socket.recv(1000)
            leave(c)
    for _ in range(20):
        assert server.get("/hello.php").text == "Hello World!"


@pytest.mark.sapid_only
@pytest.mark.as_root
def test_nothing_leaks(server):
    """Descriptors of the gateway are those of before."""
    server.get("/hello.php")
    fds = Path(f"/proc/{server.gateway_pid()}/fd")
    before = len(os.listdir(fds))
    for i in range(300):
        with server.connect() as c:
            c.send((HELLO, b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n", b"GET", b"bad\r\n\r\n",
                    b"POST /input.php HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nx" + b"y" * 70000)[i % 5])
            if i % 5 in (0, 1, 3):   # the others wait for the rest of the request
                c.socket.recv(10)
    wait_until(lambda: len(os.listdir(fds)) <= before + 2, "descriptors to be closed")


# --- listeners ----------------------------------------------------------------------------------

def test_unix_socket_listener(launch, scripts):
    server = launch(scripts, unix_socket=True)
    wait_until(server.socket_path.exists, "the socket")
    with Connection(server.socket_path) as c:
        assert c.request("GET", "/hello.php", {"Host": "unix.example"}).text == "Hello World!"
        v = c.request("GET", "/server.php", {"Host": "unix.example"}).json()["server"]
        assert v["HTTP_HOST"] == "unix.example" and v["SERVER_NAME"] == "unix.example"
        assert v["REMOTE_ADDR"] in ("", "unix:", "127.0.0.1")
    assert server.get("/hello.php").text == "Hello World!"


@pytest.mark.sapid_only
def test_unix_socket_is_removed_at_the_end(launch, scripts):
    server = launch(scripts, unix_socket=True)
    wait_until(server.socket_path.exists, "the socket")
    launch.stop()
    assert not server.socket_path.exists()


def test_ipv6(launch, scripts):
    server = launch(scripts, hosts=("::1",))
    v = server.get("/server.php").json()["server"]
    assert v["REMOTE_ADDR"] == "::1" and v["SERVER_ADDR"] == "::1"
    assert v["HTTP_HOST"] == f"[::1]:{server.port}"


def test_two_listeners(launch, scripts):
    server = launch(scripts, hosts=("127.0.0.1", "::1"))
    for host in ("127.0.0.1", "::1"):
        with Connection((host, server.port)) as c:
            assert c.request("GET", "/server.php").json()["server"]["REMOTE_ADDR"] == host


# --- behind a proxy -----------------------------------------------------------------------------

FORGED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example",
          "X-Forwarded-Port": "443", "Forwarded": "for=203.0.113.9;proto=https;host=other.example"}


def test_nobody_is_trusted_by_default(server):
    v = server.get("/server.php", FORGED).json()["server"]
    assert v["REMOTE_ADDR"] == "127.0.0.1" and "HTTPS" not in v and v["REQUEST_SCHEME"] == "http"
    assert v["HTTP_HOST"] == f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def behind_proxy(launch_module, scripts):
    return launch_module(scripts, workers=2, unix_socket=True, server={"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8", "unix"]})


@pytest.mark.sapid_only
def test_x_forwarded_of_a_trusted_proxy(behind_proxy):
    headers = {k: v for k, v in FORGED.items() if k != "Forwarded"}
    v = behind_proxy.get("/server.php", headers).json()["server"]
    assert v["REMOTE_ADDR"] == "203.0.113.7" and v["HTTPS"] == "on" and v["REQUEST_SCHEME"] == "https"
    assert v["HTTP_HOST"].split(":")[0] == "shop.example" and v["SERVER_NAME"] == "shop.example"
    assert v["SERVER_PORT"] == "443"


@pytest.mark.sapid_only
@pytest.mark.parametrize("chain,address", [
    ("203.0.113.7", "203.0.113.7"), ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
    ("198.51.100.1, 203.0.113.7, 10.1.2.3", "203.0.113.7"), ("2001:db8::7", "2001:db8::7"),
    ("[2001:db8::7]:1234", "2001:db8::7"), ("203.0.113.7:999", "203.0.113.7"), ("10.1.2.3", "10.1.2.3"),
    ("garbage", "127.0.0.1"), ("", "127.0.0.1"), ("203.0.113.7, garbage", "127.0.0.1")])
def test_x_forwarded_for_chains(behind_proxy, chain, address):
    v = behind_proxy.get("/server.php", {"X-Forwarded-For": chain}).json()["server"]
    assert v["REMOTE_ADDR"] == address and "HTTPS" not in v


@pytest.mark.sapid_only
@pytest.mark.parametrize("value,address,https,host", [
    ("for=203.0.113.7", "203.0.113.7", False, None),
    ('for="[2001:db8::7]:4711";proto=https;host=shop.example', "2001:db8::7", True, "shop.example"),
    ("for=198.51.100.1, for=203.0.113.7;proto=https", "203.0.113.7", True, None),
    ("for=203.0.113.7;proto=http, for=10.1.1.1", "203.0.113.7", False, None),
    ("For=203.0.113.7;PROTO=https", "203.0.113.7", True, None)])
def test_forwarded(behind_proxy, value, address, https, host):
    v = behind_proxy.get("/server.php", {"Forwarded": value}).json()["server"]
    assert v["REMOTE_ADDR"] == address and ("HTTPS" in v) == https
    if host:
        assert v["HTTP_HOST"] == host


@pytest.mark.sapid_only
def test_unix_socket_as_a_trusted_proxy(behind_proxy):
    with Connection(behind_proxy.socket_path) as c:
        v = c.request("GET", "/server.php", {"Host": "x", "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}).json()["server"]
        assert v["REMOTE_ADDR"] == "203.0.113.7" and v["HTTPS"] == "on"


@pytest.fixture(scope="module")
def proxy_protocol(launch_module, scripts):
    return launch_module(scripts, workers=2, server={"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]})


V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def v2_header(command=0x21, family=0x11, addresses=None, extra=b"") -> bytes:
    if addresses is None:
        addresses = socket.inet_aton("203.0.113.7") + socket.inet_aton("192.0.2.1") + struct.pack(">HH", 5678, 443)
    return V2 + bytes([command, family]) + struct.pack(">H", len(addresses) + len(extra)) + addresses + extra


@pytest.mark.sapid_only
@pytest.mark.parametrize("header,address,port", [
    (b"PROXY TCP4 203.0.113.7 192.0.2.1 5678 443\r\n", "203.0.113.7", "5678"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 5678 443\r\n", "2001:db8::7", "5678"),
    (b"PROXY UNKNOWN\r\n", "127.0.0.1", None), (b"PROXY UNKNOWN a b c d\r\n", "127.0.0.1", None),
    (v2_header(), "203.0.113.7", "5678"), (v2_header(command=0x20), "127.0.0.1", None),
    (v2_header(extra=b"\x04\x00\x01x"), "203.0.113.7", "5678"),
    (v2_header(family=0x21, addresses=socket.inet_pton(socket.AF_INET6, "2001:db8::7") + socket.inet_pton(socket.AF_INET6, "::1")
               + struct.pack(">HH", 5678, 443)), "2001:db8::7", "5678")],
    ids=["v1-tcp4", "v1-tcp6", "v1-unknown", "v1-unknown-words", "v2-tcp4", "v2-local", "v2-tlv", "v2-tcp6"])
def test_proxy_protocol(proxy_protocol, header, address, port):
    with proxy_protocol.connect() as c:
        c.send_slowly(header, step=5)
        for _ in range(2):
            v = c.request("GET", "/server.php").json()["server"]
            assert v["REMOTE_ADDR"] == address and (port is None or v["REMOTE_PORT"] == port)


@pytest.mark.sapid_only
@pytest.mark.parametrize("start", [
    HELLO, b"PROXY\r\n", b"PROXY TCP4 1.2.3.4\r\n" + HELLO, b"PROXY TCP4 300.1.1.1 1.1.1.1 1 2\r\n" + HELLO,
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n" + HELLO, b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n" + HELLO,
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n" + HELLO, b"PROXY " + b"x" * 200, V2 + b"\x31\x11\x00\x0c" + b"x" * 12 + HELLO,
    V2 + b"\x21\x11\x00\x01x" + HELLO, b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + HELLO], ids=range(11))
def test_bad_proxy_protocol_is_closed_without_an_answer(proxy_protocol, start):
    with proxy_protocol.connect() as c:
        c.send(start)
        assert c.read_rest() == b""


# --- many connections ---------------------------------------------------------------------------

@pytest.mark.sapid_only
@pytest.mark.slow
@pytest.mark.as_root
def test_ten_thousand_idle_connections(launch, scripts):
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 25_000), hard))
    # Of the client's sockets only what this process may open; a machine that allows fewer fails here.
    count = 10_000
    server = launch(scripts, workers=2, server={"keepalive_timeout": "300s"})
    gateway = server.gateway_pid()
    for _ in range(200):
        server.get("/hello.php")
    before = pss_bytes(gateway)
    connections = []
    try:
        for i in range(count):
            c = server.connect()
            connections.append(c)
            c.send(HELLO)
            if i % 100 == 99:
                for idle in connections[-100:]:
                    assert idle.read_response().text == "Hello World!"
        each = (pss_bytes(gateway) - before) / count
        print(f"memory of the gateway per idle connection: {each:.0f} bytes")
        assert each < 2048
        assert all(connections[i].request("GET", "/hello.php").status == 200 for i in range(0, count, 500))
    finally:
        for c in connections:
            c.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_until(lambda: len(os.listdir(f"/proc/{gateway}/fd")) < 200, "the connections to be closed")


def test_many_clients_at_once(server):
    failures = []

    def client():
        try:
            with server.connect() as c:
                for _ in range(50):
                    assert c.request("GET", "/hello.php").text == "Hello World!"
                    assert c.request("GET", "/static.txt").text == "static text\n"
        except (AssertionError, OSError) as e:
            failures.append(repr(e))
    threads = [threading.Thread(target=client) for _ in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
