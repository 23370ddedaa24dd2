"""Bodies and answers in spool files: their account, and what waits when there is no room for more."""
import select

import pytest

from lib.process import ProcessError, wait_until

pytestmark = pytest.mark.sapid_only
HELLO = b"GET /hello.php HTTP/1.1\r\nHost: x\r\n\r\n"


def chunked(path: str, body: bytes) -> bytes:
    pieces = [body[i:i + 8192] for i in range(0, len(body), 8192)]
    return (f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode() +
            b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n")


def test_refused_bodies_leave_the_account_as_it_was(launch, scripts):
    server = launch(scripts, workers=2, expect_errors=True, server={"max_spool_size": "1M", "max_body_size": "10M"})
    with server.connect() as holder:
        holder.send(b"POST /input.php HTTP/1.1\r\nHost: x\r\nContent-Length: 1040000\r\n\r\n" + b"x" * 1039999)

        wait_until(lambda: holder.unread() == 0, "the gateway to hold the large body")
        for _ in range(5):
            with server.connect() as c:
                c.send(chunked("/input.php", b"y" * 100_000))
                assert c.read_response("POST").status == 507
        with server.connect() as c:   # in memory
            assert c.request("POST", "/input.php", body=b"z" * 10_000).json()["bytes"] == 10_000
        holder.send(b"x")
        assert holder.read_response("POST").json()["bytes"] == 1040000
    with server.connect() as c:
        for _ in range(3):
            c.send(b"POST /input.php HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" + b"y" * 100)
            wait_until(lambda: c.unread() == 0, "the first bytes to be read")
            c.send(b"y" * 899_900)
            assert c.read_response("POST").json()["bytes"] == 900_000


def test_a_slow_client_gets_all_of_its_answer_without_room_in_the_spool(launch, scripts):
    server = launch(scripts, workers=2, server={"max_spool_size": "1K"})
    with server.connect(receive_buffer=4096) as c:
        c.send(b"GET /life.php?do=big&n=20000000 HTTP/1.1\r\nHost: x\r\n\r\n" + HELLO)
        select.select([c.socket], [], [])                        # its answer has begun
        assert server.get("/hello.php").text == "Hello World!"   # by the other worker
        assert len(c.read_response().body) == 20_000_000
        assert c.read_response().text == "Hello World!"


@pytest.mark.engine_only   # about the rings of the engine's workers
def test_an_answer_behind_one_whose_client_is_slow_is_sent(launch, scripts):
    """The only worker has done with a request whose client takes nothing, and answers the next one behind it in its ring."""
    (scripts / "mark.php").write_text("<?php touch(__DIR__ . '/sessions/' . $_GET['n']); echo 'marked';")
    server = launch(scripts, workers=1, server={"max_spool_size": "1K"})
    behind = 0
    for n in range(2_200_000, 4_200_000, 50_000):
        with server.connect(receive_buffer=4096) as slow, server.connect() as next_one:
            slow.send(b"GET /life.php?do=big&n=%d HTTP/1.1\r\nHost: x\r\n\r\n" % n)
            select.select([slow.socket], [], [])   # the worker has begun it
            next_one.send(b"GET /mark.php?n=%d HTTP/1.1\r\nHost: x\r\n\r\n" % n)
            try:
                wait_until((scripts / "sessions" / str(n)).exists, "the next one", timeout=5)
                ran = True
            except ProcessError:
                ran = False   # the answer is larger than the ring and the sockets: the worker waits
            if ran:   # while the slow one still reads nothing
                assert next_one.read_response().text == "marked"
                behind += 1
            assert len(slow.read_response().body) == n
            if not ran:
                assert next_one.read_response().text == "marked"
                break
    assert behind
