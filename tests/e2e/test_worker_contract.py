"""What scripts written for FrankenPHP's worker mode rely on, one behaviour a test; the list is that of its own published
tests (frankenphp_test.go, worker_test.go), the scripts are ours. What test_worker_mode.py has is not repeated here."""
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lib import account
from lib.httpclient import multipart
from lib.process import wait_until

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]


@pytest.fixture(scope="module")
def root(launch_module):
    root = launch_module.folder / "contract"
    shutil.copytree(Path(__file__).parent / "worker", root)
    (root / "words.txt").write_text("word1\nword2\nword3\nword4\n")
    (root / "sessions").mkdir()
    account.give(root)
    return root


def start(launch, root, num=1, **options):
    ini = {"session.save_path": str(root / "sessions"), "output_buffering": "0", **options.pop("ini", {})}
    return launch(root, workers=1, worker={"script": str(root / "contract.php"), "num": num}, ini=ini, **options)


@pytest.fixture(scope="module")
def server(launch_module, root):
    return start(launch_module, root)


def do(server, what: str, **more):
    return server.get(f"/contract.php?do={what}" + "".join(f"&{k}={v}" for k, v in more.items()))


def test_objects_of_the_boot_persist(server):
    first, second = do(server, "object").text, do(server, "object").text
    assert first.split(",")[1:] == second.split(",")[1:] == [" class 1", " obj1", " " + first.split()[-1]]


def test_autoloaders_persist(server):
    assert [do(server, "autoload").text for _ in range(3)] == ["1", "2", "3"]


def test_a_stream_of_the_boot_keeps_its_place(server):
    assert [do(server, "word").text for _ in range(3)] == ["word1", "word2", "word3"]


def test_putenv_persists(server):
    do(server, "putenv", v="kept")
    assert do(server, "getenv").text == "kept"


def test_what_is_put_into_env_persists(launch, root):
    s = start(launch, root, ini={"variables_order": "EGPCS"})
    assert [do(s, "env").text for _ in range(3)] == ["not yet", "added", "added"]


def test_ini_settings_persist(server):
    assert do(server, "ini").text != "10" and do(server, "ini").text == "10"


def test_early_hints(server):
    for _ in range(2):
        with server.connect() as c:
            c.send(c.format("GET", "/contract.php?do=hints"))
            hints, final = c.read_until(b"\r\n\r\n"), c.read_response()
        assert hints.startswith(b"HTTP/1.1 103 ") and b"Link: </style.css>; rel=preload; as=style" in hints
        assert final.status == 200 and final.text == "Hello" and final.header("link") is None and final.header("x-request")


def test_flush_sends_what_there_is(server, root):
    with server.connect() as c:
        path = root / "sessions/go"
        c.send(c.format("GET", f"/contract.php?do=flush&path={path}"))
        assert c.read_head().status == 200 and c.read_chunk() == b"He"
        path.write_text("")
        assert c.read_chunk() == b"llo"


def test_an_answer_of_headers_only(server):
    for _ in range(2):
        r = do(server, "only-headers")
        assert r.status == 204 and r.body == b""


def test_server_variables(server):
    for _ in range(2):
        text = server.get("/contract.php/baz/bat?do=server&foo=a", {"Authorization": "Basic a2V2aW46cGFzc3dvcmQ=",
                          "Content-Type": "text/plain"}, "POST", b"foo").text
        for line in ("[REMOTE_HOST] => 127.0.0.1", "[REMOTE_USER] => kevin", "[PHP_AUTH_USER] => kevin", "[PHP_AUTH_PW] => password",
                     "[HTTP_AUTHORIZATION] => Basic a2V2aW46cGFzc3dvcmQ=", "[DOCUMENT_ROOT] => ", "[CONTENT_TYPE] => text/plain",
                     "[PHP_SELF] => /contract.php/baz/bat", "[PATH_INFO] => /baz/bat", "[QUERY_STRING] => do=server&foo=a",
                     "[REQUEST_URI] => /contract.php/baz/bat?do=server&foo=a", "[CONTENT_LENGTH] => 3", "[REMOTE_ADDR] => 127.0.0.1",
                     "[REMOTE_PORT] => ", "[REQUEST_SCHEME] => http", "[DOCUMENT_URI] => /contract.php", "[AUTH_TYPE] => ",
                     "[REMOTE_IDENT] => ", "[REQUEST_METHOD] => POST", "[SERVER_NAME] => 127.0.0.1", "[SERVER_PROTOCOL] => HTTP/1.1",
                     "[SCRIPT_FILENAME] => ", "[SERVER_SOFTWARE] => ", "[REQUEST_TIME_FLOAT] => ", "[REQUEST_TIME] => ",
                     f"[SERVER_PORT] => {server.port}", "[PATH_TRANSLATED] => "):
            assert line in text, line
        assert "FRANKENPHP_WORKER" not in text


def test_response_headers(server):
    for code in (200, 201, 404, 503, 200):
        r = do(server, "response-headers", i=code)
        assert r.status == code and r.header("foo") == "bar" and r.header("i") == str(code) and r.header("invalid") is None
        for line in ("'Foo' => 'bar'", "'Foo2' => 'bar2'", f"'I' => '{code}'"):
            assert line in r.text
        assert "Invalid" not in r.text


def test_error_log(server):
    for i in range(3):
        do(server, "error-log", i=i)
    for i in range(3):
        wait_until(lambda: f"request {i}" in server.log_text(), "the line")


def test_files_are_required_in_each_request(server):
    assert [do(server, "require").text for _ in range(2)] == ["required"] * 2


def test_large_answers(server):
    for _ in range(2):
        assert do(server, "large").body == b"Hey" * (1 << 20)


def test_output_behind_finish_request_goes_nowhere(server, root):
    path = root / "sessions/finished"
    assert do(server, "after-finish", path=path).text == "This is output"
    wait_until(lambda: path.exists() and path.read_text() == "0", "the rest of the handler")
    assert do(server, "").text.startswith("requests:")


def test_a_session_handler_set_in_each_request(server):
    user, other = server.session(), server.session()
    try:
        put = user.get("/contract.php?do=put-session")
        assert put.text == user.cookie("PHPSESSID")
        assert [user.get("/contract.php?do=read-session").text for _ in range(2)] == ["kept"] * 2
        assert user.get("/contract.php?do=see-session").text == "none", "without session_start() there is none"
        assert other.get("/contract.php?do=read-session").text == "none"
    finally:
        user.close()
        other.close()


def test_a_fiber_left_suspended(server):
    assert [do(server, "raw-fiber", i=i).text for i in range(5)] == [f"Fiber {i}" for i in range(5)]


def test_cookies_are_parsed_as_ever(server):
    text = server.get("/contract.php?do=server", {"Cookie": "foo =bar; ===;;==;  .dot.=val  ; PHPSESSID=1234"}).text
    assert "[HTTP_COOKIE] => foo =bar" in text


def test_a_hundred_requests_at_once(launch, root):
    s = start(launch, root, num=4)
    kind, body = multipart([("i", "1")], [("file", "foo.txt", b"bar", "text/plain")])
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda i: s.get(f"/any?do=server&i={i}", {"Content-Type": kind}, "POST", body).text, range(100)))
    assert all(f"[REQUEST_URI] => /any?do=server&i={i}\n" in text for i, text in enumerate(answers))
