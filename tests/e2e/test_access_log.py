"""Lines of the access log: whose address, which bytes."""
import json
import re
import socket
import struct

import pytest

from lib.process import wait_until

pytestmark = pytest.mark.sapid_only
COMBINED = re.compile(r'(\S+) - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "(.*)" (\d{3}) (\d+) "(.*)" "(.*)"')


@pytest.fixture
def logged(launch, scripts, request):
    """A server behind a trusted proxy, and its log's lines once there are so many."""
    (scripts / "static.txt").write_text("static text\n")
    server = launch(scripts, workers=1, server={"trusted_proxies": ["127.0.0.1"]},
                    log={"access": "access.log", "format": request.param})

    def lines(n: int) -> list[str]:
        path = server.folder / "access.log"
        wait_until(lambda: path.exists() and len(path.read_text().splitlines()) >= n, f"{n} lines in the access log")
        return path.read_text().splitlines()
    return server, lines


@pytest.mark.parametrize("logged", ["combined"], indirect=True)
def test_combined(logged):
    server, lines = logged
    headers = {"X-Forwarded-For": "203.0.113.7", "Referer": 'http://x/"\t', "User-Agent": "tester/1"}
    with server.connect() as c:
        for target in ("/hello.php", "/static.txt", "/life.php?do=big&n=100000"):
            c.request("GET", target, headers)
        c.request("HEAD", "/hello.php")
        missing = c.request("GET", "/missing.php")
    found = [COMBINED.fullmatch(line).groups() for line in lines(5)]
    assert found[0] == ("203.0.113.7", "GET /hello.php HTTP/1.1", "200", "12", r"http://x/\x22", "tester/1")
    assert found[1][1:4] == ("GET /static.txt HTTP/1.1", "200", "12")
    assert 100_000 <= int(found[2][3]) < 101_000   # with the lines of chunks
    assert found[3] == ("127.0.0.1", "HEAD /hello.php HTTP/1.1", "200", "0", "-", "-")
    assert found[4][1:4] == ("GET /missing.php HTTP/1.1", "404", str(len(missing.body)))


@pytest.mark.parametrize("logged", ["json"], indirect=True)
def test_json(logged):
    server, lines = logged
    server.get("/hello.php?a=\"b\"", {"X-Forwarded-For": "2001:db8::7", "User-Agent": "ä\\"})
    line = json.loads(lines(1)[0])
    assert line["remote_addr"] == "2001:db8::7" and line["status"] == 200 and line["uri"] == '/hello.php?a="b"'
    assert line["bytes"] > 12 and line["duration_us"] > 0 and line["protocol"] == "HTTP/1.1"


@pytest.mark.parametrize("logged", ["combined"], indirect=True)
def test_what_is_no_request_is_logged(logged):
    server, lines = logged
    for sent in (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"\x16\x03\x01\x00\"\xff\r\n\r\n"):
        with server.connect() as c:
            c.send(sent)
            assert c.read_head().status == 400
    found = [COMBINED.fullmatch(line).groups() for line in lines(2)]
    assert found[0][:3] == ("127.0.0.1", "GET / HTTP/1.1", "400") and int(found[0][3]) > 50
    assert found[1][:3] == ("127.0.0.1", r"\x16\x03\x01\x00\x22\xff", "400") and found[1][4:] == ("-", "-")


@pytest.mark.parametrize("logged", ["json"], indirect=True)
def test_what_is_no_request_is_logged_as_json(logged):
    server, lines = logged
    with server.connect() as c:
        c.send(b"GET /\"\r\n\r\n")
        assert c.read_head().status == 505
    line = json.loads(lines(1)[0])
    assert line["status"] == 505 and line["request_line"] == 'GET /"' and line["remote_addr"] == "127.0.0.1"


@pytest.mark.parametrize("logged", ["combined"], indirect=True)
def test_client_that_leaves_before_its_answer_is_499(logged, scripts):
    server, lines = logged
    (scripts / "hold.php").write_text("<?php touch(__DIR__ . '/held'); "
                                      "while (!file_exists(__DIR__ . '/free')) { usleep(2000); clearstatcache(); }")
    with server.connect() as c:
        c.send(c.format("GET", "/hold.php"))
        wait_until((scripts / "held").exists, "it to run")
        c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert COMBINED.fullmatch(lines(1)[0]).groups()[1:3] == ("GET /hold.php HTTP/1.1", "499")
    (scripts / "free").touch()
    with server.connect() as c:
        c.send(b"POST /hello.php HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        c.finish_sending()
        assert c.closed()
    assert COMBINED.fullmatch(lines(2)[1]).groups()[1:3] == ("POST /hello.php HTTP/1.1", "400")
