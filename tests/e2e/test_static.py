"""Static files: types, validators, ranges, precompressed neighbours, and what must never be sent."""
import gzip
import os
import re
import time
from email.utils import formatdate

import pytest

from lib.httpclient import Connection
from lib.process import wait_until

SECRET = "<?php $password = 'do not show'; echo 'ran';"
BODY = bytes(range(256)) * 100


@pytest.fixture(scope="module")
def site(launch_module):
    root = launch_module.folder / "site"
    root.mkdir()
    files = {
        "index.html": b"<h1>home</h1>", "a.css": b"a{}", "a.js": b"1", "a.json": b"{}", "a.svg": b"<svg/>", "a.png": b"\x89PNG",
        "a.woff2": b"w", "a.txt": b"text", "a.unknownext": b"?", "noext": b"?", "data.bin": BODY, "empty.txt": b"",
        "sp ace & \xc3\xa4.txt".encode("latin-1").decode(): b"odd name", "a.wasm": b"\0asm", "a.xml": b"<a/>", "a.mjs": b"1",
        "a.pdf": b"%PDF", "a.jpg": b"j", "a.gif": b"g", "a.ico": b"i", "a.webp": b"w", "a.mp4": b"m", "a.html": b"h", "a.map": b"{}",
        "script.php": SECRET.encode(), "upper.PHP": SECRET.encode(), "mixed.PhP": SECRET.encode(), "evil.php.jpg": b"jpg of a php",
        "lib.inc": b"inc", ".env": b"SECRET=1", ".htaccess": b"deny", ".hidden/file.txt": b"hidden", "sub/.git/config": b"git",
        ".well-known/security.txt": b"Contact: x", "sub/index.html": b"<h1>sub</h1>", "sub/page.html": b"page", "nodir/x.txt": b"x",
        "%41.txt": b"percent", "back\\slash.txt": b"backslash", "phpfile.phps": SECRET.encode(), "s.phtml": SECRET.encode(),
        "compressed.css": b"body{color:red}" * 100, "compressed.css.gz": gzip.compress(b"body{color:red}" * 100),
        "compressed.css.br": b"\x0bfake brotli", "compressed.css.zst": b"\x28\xb5\x2f\xfdfake",
        "onlygz.js": b"f();" * 100, "onlygz.js.gz": gzip.compress(b"f();" * 100),
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        # a date is a strong validator only when it is not of this minute (RFC 9110 section 8.8.2.2)
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3600))
    outside = launch_module.folder / "outside.txt"
    outside.write_text("outside")
    (root / "link-out.txt").symlink_to(outside)
    (root / "link-in.txt").symlink_to("a.txt")
    os.mkfifo(root / "fifo.txt")
    return root


@pytest.fixture(scope="module")
def server(launch_module, site):
    return launch_module(site, workers=2)


@pytest.mark.parametrize("name,kind", [
    ("index.html", "text/html"), ("a.css", "text/css"), ("a.js", "(text|application)/javascript"), ("a.json", "application/json"),
    ("a.svg", r"image/svg\+xml"), ("a.png", "image/png"), ("a.woff2", "font/woff2"), ("a.txt", "text/plain"), ("a.pdf", "application/pdf"),
    ("a.jpg", "image/jpeg"), ("a.gif", "image/gif"), ("a.webp", "image/webp"), ("a.mp4", "video/mp4"), ("a.wasm", "application/wasm"),
    ("a.xml", "(text|application)/xml"), ("a.ico", r"image/(x-icon|vnd\.microsoft\.icon)")])
def test_types(server, name, kind):
    r = server.get("/" + name)
    assert r.status == 200 and re.fullmatch(kind, r.header("content-type").split(";")[0])


@pytest.mark.sapid_only
@pytest.mark.parametrize("name,kind", [("a.mjs", "(text|application)/javascript"), ("a.unknownext", "application/octet-stream"),
                                       ("noext", "application/octet-stream"), ("a.map", "application/(json|octet-stream)")])
def test_types_that_nginx_has_not(server, name, kind):
    assert re.fullmatch(kind, server.get("/" + name).header("content-type").split(";")[0])


def test_a_file(server, site):
    r = server.get("/data.bin")
    assert r.status == 200 and r.body == BODY and r.header("content-length") == str(len(BODY))
    assert r.header("accept-ranges") == "bytes" and re.fullmatch(r'(W/)?"[^"]+"', r.header("etag"))
    assert r.header("last-modified") == formatdate(os.stat(site / "data.bin").st_mtime, usegmt=True)


def test_empty_file(server):
    r = server.get("/empty.txt")
    assert r.status == 200 and r.body == b"" and r.header("content-length") == "0"


def test_odd_names(server):
    assert server.get("/sp%20ace%20&%20%C3%A4.txt").body == b"odd name"
    assert server.get("/%2541.txt").body == b"percent" and server.get("/%41.txt").status == 404
    assert server.get("/back%5Cslash.txt").body == b"backslash"


def test_query_is_ignored(server):
    assert server.get("/a.txt?v=1&x=%00").body == b"text"


def test_index_and_folders(server):
    assert server.get("/").text == "<h1>home</h1>"
    assert server.get("/sub/").text == "<h1>sub</h1>"
    r = server.get("/sub?x=1")
    assert r.status == 301 and r.header("location").endswith("/sub/?x=1")
    assert server.get("/nodir/").status in (403, 404)
    assert server.get("/a.txt/").status == 404


def test_redirect_to_a_folder_stays_on_this_server(server):
    """//sub must not become a Location of another host."""
    r = server.get("//sub")
    assert not (r.header("location") or "").startswith("//")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_405(server, method):
    r = server.get("/a.txt", method=method, body=b"x")
    assert r.status == 405
    if server.kind == "sapid":
        assert {m.strip() for m in r.header("allow").split(",")} >= {"GET", "HEAD"}


def test_missing(server):
    r = server.get("/missing.txt")
    assert r.status == 404 and server.get("/sub/missing/deep.css").status == 404


# --- conditional requests -----------------------------------------------------------------------

def test_if_none_match(server):
    with server.connect() as c:
        tag = c.request("GET", "/data.bin").header("etag")
        for value in (tag, "*", f'"x", {tag}', f'W/{tag.removeprefix("W/")}', f' , {tag} ,'):
            r = c.request("GET", "/data.bin", {"If-None-Match": value})
            if server.kind == "fpm" and value.startswith(" "):
                continue
            assert r.status == 304 and r.header("etag") == tag, value
        for value in ('"other"', "x", tag.strip('"')):
            assert c.request("GET", "/data.bin", {"If-None-Match": value}).status == 200
        assert c.request("HEAD", "/data.bin", {"If-None-Match": tag}).status == 304


def test_if_modified_since(server, site):
    modified = os.stat(site / "data.bin").st_mtime
    with server.connect() as c:
        def status(t):
            return c.request("GET", "/data.bin", {"If-Modified-Since": t}).status
        assert status(formatdate(modified, usegmt=True)) == 304
        assert status(formatdate(modified - 10, usegmt=True)) == 200
        assert status("yesterday") == 200
        if server.kind == "sapid":
            assert status(formatdate(modified + 10, usegmt=True)) == 304
            assert status(time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(modified))) == 304
            assert status(time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(modified))) == 304


def test_if_none_match_beats_if_modified_since(server):
    with server.connect() as c:
        first = c.request("GET", "/data.bin")
        r = c.request("GET", "/data.bin", {"If-None-Match": '"other"', "If-Modified-Since": first.header("last-modified")})
        assert r.status == 200


def test_if_match_and_if_unmodified_since(server, site):
    tag = server.get("/data.bin").header("etag")
    assert server.get("/data.bin", {"If-Match": '"other"'}).status == 412
    assert server.get("/data.bin", {"If-Match": "*"}).status == 200
    if not tag.startswith("W/"):
        assert server.get("/data.bin", {"If-Match": tag}).status == 200
    old = formatdate(os.stat(site / "data.bin").st_mtime - 10, usegmt=True)
    assert server.get("/data.bin", {"If-Unmodified-Since": old}).status == 412
    assert server.get("/data.bin").body == BODY


def test_etag_changes_with_the_file(server, site):
    path = site / "changing.txt"
    path.write_text("one")
    first = server.get("/changing.txt")
    path.write_text("three")

    def newer():
        r = server.get("/changing.txt")
        return r if r.text == "three" else None
    second = wait_until(newer, "the new text")
    assert second.header("etag") != first.header("etag")


def test_replaced_and_removed_files_are_noticed(server, site):
    path = site / "replaced.txt"
    path.write_text("old text")
    assert server.get("/replaced.txt").text == "old text"
    (site / "new.tmp").write_text("new text, longer")
    os.replace(site / "new.tmp", path)
    wait_until(lambda: server.get("/replaced.txt").text == "new text, longer", "the new text")
    path.unlink()
    wait_until(lambda: server.get("/replaced.txt").status == 404, "its end")


# --- ranges -------------------------------------------------------------------------------------

SIZE = len(BODY)


@pytest.mark.parametrize("value,first,last", [
    ("bytes=0-0", 0, 0), ("bytes=0-99", 0, 99), ("bytes=100-", 100, SIZE - 1), ("bytes=-100", SIZE - 100, SIZE - 1),
    (f"bytes={SIZE - 1}-", SIZE - 1, SIZE - 1), (f"bytes=0-{SIZE * 2}", 0, SIZE - 1), (f"bytes=-{SIZE * 2}", 0, SIZE - 1),
    ("bytes= 5-9", 5, 9), ("bytes=0-99999999999999999", 0, SIZE - 1)])
def test_range(server, value, first, last):
    r = server.get("/data.bin", {"Range": value})
    assert r.status == 206 and r.body == BODY[first:last + 1]
    assert r.header("content-range") == f"bytes {first}-{last}/{SIZE}"


@pytest.mark.sapid_only   # empty list elements are allowed (RFC 9110 5.6.1.2)
def test_range_with_an_empty_element(server):
    assert server.get("/data.bin", {"Range": "bytes=5-9, "}).body == BODY[5:10]


@pytest.mark.parametrize("value", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0"])
def test_range_outside(server, value):
    r = server.get("/data.bin", {"Range": value})
    assert r.status == 416 and r.header("content-range") == f"bytes */{SIZE}"


@pytest.mark.sapid_only   # RFC 9110 14.2: what cannot be understood is ignored; nginx says 416 to some
@pytest.mark.parametrize("value", ["bytes=5-1", "bytes=a-b", "bytes=", "bytes", "lines=0-1", "bytes=--1", "bytes=1", "0-1", "bytes=-", "bytes=1-2-3"])
def test_range_not_understood(server, value):
    r = server.get("/data.bin", {"Range": value})
    assert r.status == 200 and r.body == BODY


def parts(r):
    boundary = re.fullmatch(r'multipart/byteranges; ?boundary="?([^"]+)"?', r.header("content-type"))[1].encode()
    out = []
    pieces = (b"\r\n" + r.body).split(b"\r\n--" + boundary)
    assert pieces[0].strip() == b"" and pieces[-1].strip() == b"--"
    for piece in pieces[1:-1]:
        head, _, body = piece.partition(b"\r\n\r\n")
        where = re.search(rb"(?i)content-range: bytes (\d+)-(\d+)/(\d+)", head)
        out.append((int(where[1]), int(where[2]), body))
    return out


def test_several_ranges(server):
    r = server.get("/data.bin", {"Range": "bytes=0-9, 1000-1999, -5"})
    assert r.status == 206
    assert parts(r) == [(0, 9, BODY[:10]), (1000, 1999, BODY[1000:2000]), (SIZE - 5, SIZE - 1, BODY[-5:])]


def test_several_ranges_by_head_and_keep_alive(server):
    with server.connect() as c:
        assert c.request("HEAD", "/data.bin", {"Range": "bytes=0-9,20-29"}).status in (200, 206)
        assert len(parts(c.request("GET", "/data.bin", {"Range": "bytes=0-9,20-29"}))) == 2
        assert c.request("GET", "/a.txt").text == "text"


def test_an_unsatisfiable_range_among_good_ones_is_left_out(server):
    r = server.get("/data.bin", {"Range": f"bytes=0-9, {SIZE * 2}-"})
    assert r.status == 206 and r.body[:10] == BODY[:10] or parts(r) == [(0, 9, BODY[:10])]


def test_too_many_ranges_do_not_multiply_the_file(server):
    r = server.get("/data.bin", {"Range": "bytes=" + ",".join(["0-"] * 500)})
    assert r.status in (200, 206, 416) and len(r.body) <= SIZE * 2


def test_if_range(server):
    with server.connect() as c:
        first = c.request("GET", "/data.bin")
        tag, date = first.header("etag"), first.header("last-modified")
        assert c.request("GET", "/data.bin", {"Range": "bytes=0-9", "If-Range": date}).status == 206
        assert c.request("GET", "/data.bin", {"Range": "bytes=0-9", "If-Range": '"other"'}).status == 200
        assert c.request("GET", "/data.bin", {"Range": "bytes=0-9", "If-Range": "Mon, 01 Jan 2001 00:00:00 GMT"}).status == 200
        if not tag.startswith("W/"):
            assert c.request("GET", "/data.bin", {"Range": "bytes=0-9", "If-Range": tag}).status == 206


def test_not_modified_beats_range(server):
    with server.connect() as c:
        tag = c.request("GET", "/data.bin").header("etag")
        assert c.request("GET", "/data.bin", {"Range": "bytes=0-9", "If-None-Match": tag}).status == 304


# --- precompressed neighbours -------------------------------------------------------------------

@pytest.mark.sapid_only
@pytest.mark.parametrize("accept,coding", [
    ("gzip", "gzip"), ("gzip, br", "br"), ("br", "br"), ("zstd", "zstd"), ("gzip;q=0.5, zstd", "zstd"), ("identity", None), ("", None),
    ("gzip;q=0", None), ("*;q=0", None), ("deflate", None), ("GZIP", "gzip"), ("br;q=0.1, gzip;q=0.9", "gzip"), ("gzip;q=1.0, identity;q=0.5", "gzip")])
def test_precompressed(server, site, accept, coding):
    r = server.get("/compressed.css", {"Accept-Encoding": accept})
    suffix = {"gzip": ".gz", "br": ".br", "zstd": ".zst", None: ""}[coding]
    assert r.status == 200 and r.header("content-encoding") == coding
    assert r.body == (site / f"compressed.css{suffix}").read_bytes()
    assert r.header("content-type").split(";")[0] == "text/css"
    assert "accept-encoding" in (r.header("vary") or "").lower()


@pytest.mark.sapid_only
def test_precompressed_has_its_own_validator(server):
    plain, packed = server.get("/compressed.css"), server.get("/compressed.css", {"Accept-Encoding": "gzip"})
    assert plain.header("etag") != packed.header("etag")
    assert server.get("/compressed.css", {"Accept-Encoding": "gzip", "If-None-Match": packed.header("etag")}).status == 304


@pytest.mark.sapid_only
def test_the_neighbour_that_exists_is_taken(server):
    r = server.get("/onlygz.js", {"Accept-Encoding": "br, gzip, zstd"})
    assert r.header("content-encoding") == "gzip" and gzip.decompress(r.body) == b"f();" * 100
    r = server.get("/a.css", {"Accept-Encoding": "br, gzip"})
    assert r.header("content-encoding") is None and r.body == b"a{}"


# --- what must never be sent --------------------------------------------------------------------

SOURCES = ["/script.php", "/script.php/", "/script.php/x", "/script.php/a.css", "/script.php/x.jpg", "/script.php%20", "/script.php.",
           "/script.php%00", "/script.php%00.css", "/script.php;.css", "/script.php%3b.css", "/script.php%2f", "/script.php%2fx.css", "//script.php",
           "/./script.php", "/sub/../script.php", "/sub/%2e%2e/script.php", "/script.php?x.css", "/script%2ephp", "/%73cript.php",
           "/script.php::$DATA", "/script.php%5c", "/script.php\\", "/SCRIPT.PHP", "/script.PHP", "/script.Php", "/script.php~",
           "/script.php%0a", "/script.php%0d%0a", "/script.php//", "/script.php/.", "/script.php/..", "/script.php/../script.php",
           "/upper.PHP", "/mixed.PhP", "/upper.php", "/upper.PHP/", "/mixed.PhP.", "/script.php/%2e", "/script.p%68p", "/script.php%e2%80%ae"]


@pytest.mark.sapid_only   # nginx sends upper.PHP as a file with this configuration
@pytest.mark.parametrize("target", SOURCES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_php_source_is_never_sent(server, target, method):
    with Connection(server.address) as c:
        c.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\nRange: bytes=0-9\r\n"
               f"Accept-Encoding: gzip\r\n\r\n".encode())
        answer = c.read_rest()
    assert b"do not show" not in answer and b"<?php" not in answer and answer.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("target", ["/.env", "/.htaccess", "/.hidden/file.txt", "/sub/.git/config", "/%2eenv", "//.env", "/./.env",
                                    "/sub/../.env", "/.env/", "/.hidden/", "/.hidden", "/sub/.git/", "/.ENV", "/.%65nv", "/sub/%2egit/config"])
def test_dotfiles_are_hidden(server, target):
    assert server.get(target).status in (403, 404)


def test_well_known_is_not_hidden(server):
    assert server.get("/.well-known/security.txt").text == "Contact: x"


@pytest.mark.parametrize("target", [
    "/../outside.txt", "/%2e%2e/outside.txt", "/..%2foutside.txt", "/sub/../../outside.txt", "/sub/..%2f..%2foutside.txt", "/%2e%2e%2foutside.txt",
    "/..\\outside.txt", "/..%5coutside.txt", "/.../outside.txt", "/%252e%252e/outside.txt", "/..%c0%afoutside.txt", "/%c0%ae%c0%ae/outside.txt",
    "/..;/outside.txt", "/sub/....//outside.txt", "//../outside.txt", "/..%00/outside.txt", "/%uff0e%uff0e/outside.txt"])
def test_nothing_outside_the_root(server, target):
    r = server.get(target)
    assert r.status in (400, 403, 404) and b"outside" not in r.body.replace(b"outside.txt", b"")


def test_links(server):
    """Links are followed, those that lead out of the root too: packages and release tools make them. What no
    URL can do is leave the root without a link (src/gateway/files.c)."""
    assert server.get("/link-in.txt").text == "text"
    assert server.get("/link-out.txt").text == "outside"


def test_special_files_are_not_opened(server):
    assert server.get("/fifo.txt").status in (403, 404)


@pytest.mark.sapid_only
def test_double_extension_is_a_file_and_not_run(server):
    r = server.get("/evil.php.jpg")
    assert r.body == b"jpg of a php" and r.header("content-type") == "image/jpeg"


def test_pipelined_files(server):
    with server.connect() as c:
        c.send(b"GET /a.txt HTTP/1.1\r\nHost: x\r\n\r\nGET /data.bin HTTP/1.1\r\nHost: x\r\n\r\nHEAD /data.bin HTTP/1.1\r\nHost: x\r\n\r\n"
               b"GET /a.css HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        for _ in range(10):
            assert c.read_response().body == b"text" and c.read_response().body == BODY
            assert c.read_response("HEAD").status == 200 and c.read_response().body == b"a{}"


def test_without_permission(launch):
    root = launch.new_root()
    (root / "private.txt").write_text("private")
    os.chmod(root / "private.txt", 0)
    (root / "open.txt").write_text("open")
    server = launch(root)
    assert server.get("/open.txt").text == "open"
    assert server.get("/private.txt").status in (403, 404)
