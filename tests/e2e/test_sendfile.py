"""X-Sendfile and X-Accel-Redirect: a script names a file, the server sends it."""
import json
import os
import subprocess

import pytest

from lib import account
from lib.process import wait_until

pytestmark = pytest.mark.sapid_only

DATA = bytes(range(256)) * 4096    # 1 MiB


@pytest.fixture(params=["engine", "fpm"], autouse=True)
def backend(request, monkeypatch):
    """Every test with the engine, where the worker opens the file, and with PHP-FPM, where the gateway does."""
    monkeypatch.setenv("SAPID_TEST_BACKEND", request.param)
    return request.param


@pytest.fixture
def site(launch, backend):
    """A site whose files lie beside the document root, in a folder that only who opens them can read."""
    top = launch.new_root()
    root, files, other = top / "public", top / "files", top / "other"
    for folder in (root, files, other, files / "sub"):
        folder.mkdir()
    (files / "a.bin").write_bytes(DATA)
    (files / "sub" / "page.html").write_text("<p>page</p>")
    (files / "späce d.txt").write_text("decoded")
    (files / "empty").write_bytes(b"")
    (other / "secret").write_text("secret")
    (files / "out").symlink_to(other / "secret")
    (files / "in").symlink_to("sub/page.html")
    (root / "send.php").write_text("""<?php
        foreach ($_GET['h'] ?? [] as $line) header($line);
        if (isset($_GET['s'])) http_response_code((int)$_GET['s']);
        if (isset($_GET['work'])) { ignore_user_abort(true); }
        echo 'body of the script';
        if (isset($_GET['work'])) { flush(); file_put_contents($_GET['work'], connection_status()); }
    """)
    (root / "type.php").write_text("<?php echo json_encode($_SERVER['HTTP_X_SENDFILE_TYPE'] ?? null);")
    for folder in (files, other):
        account.give(folder)
        for path in folder.rglob("*"):
            if not path.is_symlink():
                account.give(path)
        folder.chmod(0o700 if backend == "engine" else 0o755)
    return root, files, other


@pytest.fixture
def server(launch, site):
    root, files, _ = site
    return launch(root, expect_errors=True,
                  php={"sendfile_roots": [str(files)],
                       "accel_locations": {"/protected/": str(files), "/protected/deep/": str(files / "sub")}})


def fields(response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.fields}


def target(*headers, **more):
    from urllib.parse import urlencode
    return "/send.php?" + urlencode([("h[]", h) for h in headers] + list(more.items()))


def test_the_file_is_sent_and_not_the_output(server, site):
    response = server.get(target(f"X-Sendfile: {site[1]}/a.bin", "Content-Type: application/x-a",
                                 "Content-Disposition: attachment; filename=a", "Set-Cookie: c=1", "Cache-Control: private"))
    assert response.status == 200 and response.body == DATA
    head = fields(response)
    assert head["content-type"] == "application/x-a" and head["content-length"] == str(len(DATA))
    assert head["content-disposition"] == "attachment; filename=a" and head["set-cookie"] == "c=1"
    assert head["cache-control"] == "private" and head["etag"] and head["last-modified"] and head["accept-ranges"] == "bytes"
    assert not any(name.startswith("x-sendfile") or name.startswith("x-accel") for name in head)


@pytest.mark.parametrize("url, body", [("/protected/a.bin", DATA), ("/protected/sub/page.html", b"<p>page</p>"),
                                       ("/protected/deep/page.html", b"<p>page</p>"),
                                       ("/protected/sp%C3%A4ce%20d.txt", b"decoded"), ("/protected/in", b"<p>page</p>"),
                                       ("/protected/empty", b"")],
                         ids=["file", "sub", "deeper", "decoded", "link", "empty"])
def test_internal_locations(server, url, body):
    response = server.get(target(f"X-Accel-Redirect: {url}"))
    assert response.status == 200 and response.body == body


def test_ranges_and_conditions(server, site):
    path = target(f"X-Sendfile: {site[1]}/a.bin", "Content-Type: application/x-a", "ETag: \"of-the-script\"")
    whole = server.get(path)
    tag = fields(whole)["etag"]
    assert tag != '"of-the-script"'
    part = server.get(path, {"Range": "bytes=100-199"})
    assert part.status == 206 and part.body == DATA[100:200]
    assert fields(part)["content-range"] == f"bytes 100-199/{len(DATA)}"
    several = server.get(path, {"Range": "bytes=0-0,5-6"})
    assert several.status == 206 and fields(several)["content-type"].startswith("multipart/byteranges")
    assert b"Content-Type: application/x-a" in several.body
    assert server.get(path, {"Range": f"bytes={len(DATA)}-"}).status == 416
    unchanged = server.get(path, {"If-None-Match": tag})
    assert unchanged.status == 304 and unchanged.body == b""
    assert server.get(path, {"If-Modified-Since": fields(whole)["last-modified"]}).status == 304
    assert server.get(path, {"If-Match": '"other"'}).status == 412


def test_head_and_post(server, site):
    path = target(f"X-Sendfile: {site[1]}/a.bin")
    head = server.get(path, method="HEAD")
    assert head.status == 200 and fields(head)["content-length"] == str(len(DATA)) and head.body == b""
    assert server.get(path, method="POST", body=b"x=1").body == DATA


@pytest.mark.parametrize("name, status", [("gone", 404), ("sub", 404), ("out", 403), ("../other/secret", 403),
                                          ("sub/../../other/secret", 403), ("", 403)])
def test_nothing_outside_of_the_roots(server, site, name, status):
    response = server.get(target(f"X-Sendfile: {site[1]}/{name}"))
    assert response.status == status and b"secret" not in response.body and b"script" not in response.body


@pytest.mark.parametrize("header", ["X-Sendfile: /etc/passwd", "X-Sendfile: a.bin", "X-Accel-Redirect: /other/secret",
                                    "X-Accel-Redirect: /protected/../other/secret",
                                    "X-Accel-Redirect: /protected/%2e%2e/other/secret",
                                    "X-Accel-Redirect: /protected/a.bin%00.txt"])
def test_what_is_refused(server, header):
    response = server.get(target(header))
    assert response.status in (403, 404) and b"secret" not in response.body and b"root:" not in response.body


def test_the_roots_of_one_pool_are_not_those_of_another(launch, site):
    root, files, other = site
    second = root.parent / "second"
    (second / "b").mkdir(parents=True)
    (second / "b" / "send.php").write_text((root / "send.php").read_text())
    server = launch(root, expect_errors=True, php={"sendfile_roots": [str(files)]},
                    pools={"b": {"document_root": str(second), "sendfile_roots": [str(other)],
                                 **({"user": account.web().name} if account.is_root() else {})}},
                    routes=[{"match": {"prefix": "/b/"}, "backend": "php", "pool": "b"}])
    assert server.get(target(f"X-Sendfile: {files}/empty")).status == 200
    assert server.get(target(f"X-Sendfile: {other}/secret")).status == 403
    assert server.get("/b" + target(f"X-Sendfile: {other}/secret")).text == "secret"
    assert server.get("/b" + target(f"X-Sendfile: {files}/a.bin")).status == 403


def test_without_roots_the_headers_are_only_headers(launch, site):
    root, files, _ = site
    server = launch(root)
    response = server.get(target(f"X-Sendfile: {files}/a.bin"))
    assert response.text == "body of the script" and fields(response)["x-sendfile"]
    assert server.get("/type.php", {"X-Sendfile-Type": "X-Sendfile"}).json() == "X-Sendfile"


def test_scripts_are_told_and_clients_cannot_tell_otherwise(server):
    assert server.get("/type.php").json() == "X-Sendfile"
    assert server.get("/type.php", {"X-Sendfile-Type": "X-Accel-Redirect"}).json() == "X-Sendfile"


def test_the_worker_is_free_while_a_slow_client_reads(launch, site):
    root, files, _ = site
    (files / "big").write_bytes(b"x" * (64 << 20))
    account.give(files / "big")
    server = launch(root, workers=1, php={"sendfile_roots": [str(files)]})
    with server.connect() as slow:
        slow.send(f"GET {target(f'X-Sendfile: {files}/big')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for _ in range(5):    # the only worker answers others meanwhile
            assert server.get("/type.php").json() == "X-Sendfile"


def test_the_script_goes_on_behind_the_answer(server, site):
    mark = site[1] / "mark"
    assert server.get(target(f"X-Sendfile: {site[1]}/a.bin", work=str(mark))).body == DATA
    wait_until(mark.exists, "the script to go on")


def test_keep_alive_and_many_files(server, site):
    with server.connect() as c:
        for n in range(200):
            name, body = (("a.bin", DATA), ("sub/page.html", b"<p>page</p>"), ("empty", b""))[n % 3]
            response = c.request("GET", target(f"X-Sendfile: {site[1]}/{name}"))
            assert response.status == 200 and response.body == body


def test_accel_headers_never_reach_the_client(launch, site):
    server = launch(site[0])
    response = server.get(target("X-Accel-Expires: 60", "X-Accel-Buffering: no", "X-Accelerate: yes", "Expires: 0"))
    names = [name for name in fields(response) if name.startswith("x-accel")]
    assert names == ["x-accelerate"] and fields(response)["expires"] == "0"
