"""Bodies that PHP reads while they come, answers that leave while they are made, and what both cost in memory."""
import hashlib
import json
import threading
from pathlib import Path

import pytest

from lib import streams
from lib.httpclient import Closed, multipart
from lib.process import wait_until

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

MIB = 1 << 20
SCRIPT = "/body-stream.php"


@pytest.fixture(scope="module")
def server(launch_module, scripts):
    return launch_module(scripts, workers=3, expect_errors=True, php={"request_buffering": False},
                         ini={"post_max_size": "600M", "upload_max_filesize": "600M", "session.upload_progress.enabled": "1", "session.upload_progress.min_freq": "0",
                              "session.upload_progress.freq": "1%", "output_buffering": "0"},
                         server={"max_body_size": "500M", "body_timeout": "10s"})


def head(target: str, *fields: str) -> bytes:
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def line_of(piece: bytes) -> bytes:
    return f"{len(piece)} {hashlib.sha1(piece).hexdigest()[:8]}\n".encode()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_script_reads_while_the_body_comes(server, framing):
    pieces = [bytes([65 + i]) * 8192 for i in range(4)]
    with server.connect() as c:
        c.send(head(f"{SCRIPT}?do=echo", "Content-Length: 32768" if framing == "length" else "Transfer-Encoding: chunked"))
        for piece in pieces:
            c.send(piece if framing == "length" else chunk(piece))
            assert c.read_until(line_of(piece))
        if framing == "chunked":
            c.send(b"0\r\n\r\n")
        assert c.read_until(b"end 0\n")
        c.read_until(b"0\r\n\r\n")
        assert c.request("GET", "/hello.php").text == "Hello World!"


def test_small_pieces_with_a_small_chunk_size(server):
    with server.connect() as c:
        c.send(head(f"{SCRIPT}?do=echo&piece=5", "Transfer-Encoding: chunked"))
        for piece in (b"hello", b"world", b"again"):
            c.send(b"".join(chunk(piece[i:i + 1]) for i in range(5)))   # chunks of one byte
            assert c.read_until(line_of(piece))
        c.send(b"0\r\n\r\n")
        assert c.read_until(b"end 0\n")


@pytest.mark.parametrize("size", [1, 8191, 8192, 65536, 65537, 3_000_001], ids=str)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_bodies_of_every_size_are_whole(server, size, framing):
    body = bytes(i * 7 % 251 for i in range(9973)) * (size // 9973 + 1)
    body = body[:size]
    with server.connect() as c:
        for _ in range(2):
            if framing == "length":
                answer = c.request("POST", "/input.php", body=body)
            else:
                c.send(head("/input.php", "Transfer-Encoding: chunked") +
                       b"".join(chunk(body[i:i + 7777]) for i in range(0, size, 7777)) + b"0\r\n\r\n")
                answer = c.read_response("POST")
            told = answer.json()
            assert (told["bytes"], told["again"], told["sha1"]) == (size, size, hashlib.sha1(body).hexdigest())


def test_uploads_and_forms(server):
    content = b"0123456789abcdef" * 20_000
    kind, body = multipart([("a", "1")], [("f", "x.bin", content, None)])
    with server.connect() as c:
        c.send(head("/upload.php", f"Content-Type: {kind}", f"Content-Length: {len(body)}"))
        c.send_slowly(body, step=50_000, pause=0.002)
        told = c.read_response("POST").json()
    assert told["files"][0]["sha1"] == hashlib.sha1(content).hexdigest() and told["post"] == {"a": "1"}


def test_a_full_pipe_stops_the_client(server, scripts):
    total = 300 * MIB
    with server.connect() as c:
        c.send(head(f"{SCRIPT}?do=late&key=full", f"Content-Length: {total}"))
        c.read_until(b"started\n")
        c.socket.settimeout(0.5)
        sent, block = 0, b"x" * MIB
        with pytest.raises(TimeoutError):
            while sent < total:
                sent += c.socket.send(block[:total - sent])
        assert sent < 32 * MIB   # what two socket buffers, a pipe and the gateway's 64 KiB hold
        (scripts / "sessions" / "late-full").touch()
        c.socket.settimeout(30)
        while sent < total:
            sent += c.socket.send(block[:total - sent])
        assert c.read_until(str(total).encode())


def test_a_client_that_leaves_is_the_end_of_the_body(server, scripts):
    for how in ("close", "half"):
        told = scripts / "sessions" / f"aborted-{how}"
        with server.connect() as c:
            c.send(head(f"{SCRIPT}?do=aborted&key={how}", "Content-Length: 100000") + b"x" * 20_000)
            wait_until((scripts / "sessions" / f"started-{how}").exists, "the script to start")
            if how == "half":
                c.finish_sending()
            else:
                c.close()
            wait_until(lambda: told.exists() and told.read_text(), "the script to see the end")
        assert json.loads(told.read_text()) == [20_000, 1, 1]


def test_upload_progress(server):
    kind, body = multipart([("PHP_SESSION_UPLOAD_PROGRESS", "p1")], [("f", "x.bin", b"z" * 2 * MIB, None)])
    session = server.get(f"{SCRIPT}?do=login").text
    with server.connect() as c:
        c.send(head("/upload.php", f"Content-Type: {kind}", f"Content-Length: {len(body)}", f"Cookie: PHPSESSID={session}"))
        c.send(body[:MIB])

        def progress():
            return server.get(f"{SCRIPT}?do=progress&key=p1", headers={"Cookie": f"PHPSESSID={session}"}).json()
        seen = wait_until(lambda: (p := progress()) and p["bytes_processed"] > MIB // 2 and p, "progress")
        assert seen["content_length"] == len(body) and not seen["done"] and seen["files"][0]["name"] == "x.bin"
        c.send(body[MIB:])
        assert c.read_response("POST").json()["files"][0]["size"] == 2 * MIB


def test_an_unwanted_body_is_answered_before_it_is_sent(server):
    with server.connect() as c:
        c.send(head(f"{SCRIPT}?do=never", "Content-Length: 50000000", "Expect: 100-continue"))
        answer = c.read_response("POST")
        assert (answer.status, answer.interim) == (403, [])
        with pytest.raises(Closed):
            c.request("GET", "/hello.php")
    with server.connect() as c:
        c.send(head(f"{SCRIPT}?do=never", "Content-Length: 3") + b"abc")   # all there: the connection goes on
        assert c.read_response("POST").status == 403
        assert c.request("GET", "/hello.php").text == "Hello World!"


def test_100_continue_when_the_script_reads(server):
    with server.connect() as c:
        c.send(head("/input.php", "Content-Length: 10", "Expect: 100-continue"))
        assert c.read_head().status == 100
        c.send(b"0123456789")
        assert c.read_response("POST").json()["bytes"] == 10


@pytest.mark.parametrize("after, status", [(b"zz\r\n", 400), (None, 408), (chunk(b"y" * 70_000) * 8, 413)],
                         ids=["broken", "stalled", "large"])
def test_a_body_that_ends_badly(launch, scripts, after, status):
    server = launch(scripts, workers=1, routes=[{"match": {"prefix": "/"}, "request_buffering": False, "max_body_size": "200K"}],
                    server={"body_timeout": "2s"})
    with server.connect() as c:
        c.send(head("/input.php", "Transfer-Encoding: chunked") + chunk(b"x" * 10_000))
        if after:
            c.send(after)
        answer = c.read_response("POST")
        assert (answer.status, answer.keeps_alive) == (status, False)
    assert server.get("/hello.php").text == "Hello World!"   # the worker is free again


def test_a_worker_that_dies_half_way(server):
    with server.connect() as c:
        c.send(head(f"{SCRIPT}?do=kill", "Content-Length: 100000") + b"x" * 50_000)
        assert c.read_response("POST").status == 502
    assert server.get("/hello.php").text == "Hello World!"


def test_request_timeout_ends_a_script_that_waits_for_its_body(launch, scripts):
    server = launch(scripts, workers=1, php={"request_buffering": False, "request_timeout": "3s"}, expect_errors=True)
    with server.connect() as c:
        c.send(head("/input.php", "Content-Length: 100000") + b"x" * 10_000)
        answer = c.read_response("POST")
        assert answer.status == 504
    assert server.get("/hello.php").text == "Hello World!"


def test_queued_requests_wait_without_their_bodies(launch, scripts):
    server = launch(scripts, workers=1, php={"request_buffering": False})
    body = bytes(range(256)) * 4000
    answers = {}

    def post(i):
        with server.connect() as c:
            answers[i] = c.request("POST", "/input.php", body=body).json()["sha1"]
    threads = [threading.Thread(target=post, args=(i,)) for i in range(12)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert answers == dict.fromkeys(range(12), hashlib.sha1(body).hexdigest())


def test_a_route_decides(launch, scripts):
    server = launch(scripts, workers=2, ini={"output_buffering": "0"},
                    routes=[{"match": {"exact": SCRIPT}, "request_buffering": False}])
    piece = b"p" * 8192
    with server.connect() as c:
        c.send(head(f"{SCRIPT}?do=echo", "Content-Length: 16384") + piece)
        assert c.read_until(line_of(piece))
        c.send(piece)
        c.read_until(b"0\r\n\r\n")
    figures = server.admin("/server?json").json()
    text = json.dumps(figures)
    assert '"streamed_requests": 1' in text
    with server.connect() as c:
        assert c.request("POST", "/input.php", body=b"x" * 100_000).json()["bytes"] == 100_000
    assert '"streamed_requests": 1' in json.dumps(server.admin("/server?json").json())


def test_worker_mode(launch, scripts):
    (scripts / "stream-worker.php").write_text("""<?php
        while (frankenphp_handle_request(function () {
            $n = 0;
            for ($in = fopen('php://input', 'rb'); ($piece = fread($in, 8192)) != '';) {
                $n += strlen($piece);
                echo $n, "\\n";
                flush();
            }
            echo 'end';
        }));""")
    server = launch(scripts, workers=1, worker={"script": str(scripts / "stream-worker.php"), "num": 1},
                    ini={"output_buffering": "0"}, php={"request_buffering": False})
    for _ in range(2):
        with server.connect() as c:
            c.send(head("/any", "Content-Length: 16384") + b"a" * 8192)
            assert c.read_until(b"8192\n")
            c.send(b"b" * 8192)
            assert c.read_until(b"16384\n")
            assert c.read_until(b"end")


# --- answers ---

def test_x_accel_buffering_sends_every_write(server, scripts):
    with server.connect() as c:
        c.send(b"GET /answer-stream.php?do=unbuffered&key=u HTTP/1.1\r\nHost: x\r\n\r\n")
        for i in (1, 2, 3):
            assert c.read_until(b"data: %d\n\n" % i)
            (scripts / "sessions" / f"event-u-{i}").touch()
        assert c.read_until(b"0\r\n\r\n")


@pytest.mark.parametrize("how", ["readfile", "generator", "events"])
def test_a_large_answer_takes_no_memory(server, scripts, how):
    n = 200 * MIB
    target = f"/answer-stream.php?do={how}&n={n if how == 'generator' else 100_000}"
    if how == "readfile":
        with open(scripts / "large.bin", "wb") as f:
            f.truncate(n)
        target += f"&file={scripts}/large.bin"
    for _ in range(6):
        server.get("/answer-stream.php?do=events&n=1000")
    watch = streams.Watch(server)
    assert streams.download(server, target) > (6_000_000 if how == "events" else n)
    assert watch.stop() < 4096


@pytest.mark.parametrize("buffered", [False, True], ids=["as-it-comes", "spooled"])
def test_a_large_upload_takes_no_memory(launch, scripts, buffered):
    n = 200 * MIB
    server = launch(scripts, workers=1, php={"request_buffering": buffered}, ini={"post_max_size": "600M"},
                    server={"max_body_size": "500M"})
    (scripts / "disk.bin").touch()
    (scripts / "disk.bin").chmod(0o666)
    with server.connect() as c:
        c.request("POST", f"{SCRIPT}?do=disk", body=b"x" * 100_000)
    watch = streams.Watch(server)
    with server.connect(timeout=60) as c:
        c.send(head(f"{SCRIPT}?do=disk&to={scripts}/disk.bin", f"Content-Length: {n}", "Content-Type: application/octet-stream"))
        block = b"u" * MIB
        for _ in range(n // MIB):
            c.send(block)
        told = c.read_response("POST").json()
    assert told["bytes"] == n and told["memory"] < 4 * MIB
    assert (scripts / "disk.bin").stat().st_size == n
    assert watch.stop() < 4096


def test_events_to_a_client_that_takes_its_time(server):
    """The worker waits or is ahead by the spool, but nobody grows."""
    watch = streams.Watch(server)
    with server.connect(receive_buffer=4096) as c:
        c.send(b"GET /answer-stream.php?do=events&n=100000 HTTP/1.1\r\nHost: x\r\n\r\n")
        for i in range(0, 100_000, 5000):
            c.read_until(b"data: %d." % i)
        c.read_until(b"0\r\n\r\n")
    assert watch.stop() < 4096


def test_events_for_seconds(server):
    """The first seconds of what tests/fault/streaming does for minutes."""
    clients = [streams.Events(server, "/event-stream.php?seconds=3") for _ in range(2)]
    wait_until(lambda: all(c.count > 5 for c in clients), "events")
    watch = streams.Watch(server)
    wait_until(lambda: all(c.ended for c in clients), "the end of the events")
    assert watch.stop() < 1024 and all(c.count > 10 for c in clients)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs")
def test_a_spool_in_memory_is_warned_of(launch, scripts):
    server = launch(scripts, workers=1, server={"spool_dir": "/dev/shm"})
    wait_until(lambda: "spool_dir /dev/shm is kept in memory" in server.log_text(), "the warning")
    other = launch(scripts, workers=1, server={"max_spool_size": "900G"})
    wait_until(lambda: "is more than half of what is free" in other.log_text(), "the warning")


def test_slow_readers_leave_the_others_alone(launch, scripts):
    """Two hundred readers that take 10 MiB slowly, four workers: a short page does not wait for them. How quick it stays is
    measured by tests/fault/streaming."""
    server = launch(scripts, workers=4, server={"max_spool_size": "4G"})
    readers = streams.slow_readers(server, "/answer-stream.php?do=generator&n=10485760", 200)
    try:
        took = streams.short_page_beside(server, readers)
        assert took[989] < 5, [round(t * 1000, 1) for t in took[-20:]]
    finally:
        for s in readers:
            s.close()
