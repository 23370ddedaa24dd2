"""The same requests to sapid and to nginx with PHP-FPM, on the same folder: the answers must be the same, byte for
byte, but for what DIFFERENCES.md lists. sapid runs twice: with its own engine, and with that PHP-FPM behind it."""
import base64
import hashlib
import re

import pytest

from lib.httpclient import Closed, Connection, multipart
from lib.parity import OWN_FIELDS, alike, fields, normal, same, seen_by
from lib.process import wait_until

# Starts the oracle by itself.
pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


TARGETS = ["/echo-all.php", "/echo-all.php?", "/echo-all.php?a=1&b[]=2&b[]=3&c[x][y]=z", "/echo-all.php?a%5B%5D=1&a+b=c+d&e%20f=g",
           "/echo-all.php?=x&&&y=&z", "/echo-all.php?a.b=1&a_b=2&[x]=3&a[b=4&a[=5", "/echo-all.php?%00=1&x=%00", "/echo-all.php?a=%zz&b=%1",
           "/echo-all.php?" + "&".join(f"k{i}=v{i}" for i in range(300)), "/echo-all.php?a=1;b=2", "/echo-all.php?a=1?b=2",
           "/echo-all.php/path/info", "/echo-all.php/", "/echo-all.php/a%20b/%C3%A4?x=1", "/echo-all.php/a//b", "/echo-all.php/a/../b", "/echo-all.php/%41%2Fb",
           "//echo-all.php", "/./echo-all.php", "/x/../echo-all.php", "/%65cho-all.php", "/echo-all.php/x.php/y",
           "/", "/?a=1", "/no/such/page", "/no/such/page?a=1", "/index.php", "/index.php/rest", "/missing.css"]


@pytest.mark.parametrize("target", TARGETS, ids=range(len(TARGETS)))
def test_targets(pair, target):
    same(pair, "GET", target)


HEADERS = [{"Cookie": "a=1; b=2"}, {"Cookie": "a=1;b=2; ;c; =d; a=3; x[]=1; x[]=2; e%20f=g%20h"}, {"Authorization": "Basic dTpw"},
           {"Authorization": "Basic !!!"}, {"Authorization": "Bearer x"}, {"Authorization": 'Digest username="u"'}, {"Authorization": ""},
           {"X-A": "1", "x-b": "2", "X-C-D-E": "f"}, {"Content-Type": "text/plain"}, {"Accept-Encoding": "gzip, br"}, {"Host": "other.example"},
           {"Host": "other.example:8080"}, {"X-Empty": ""}, {"X-Quotes": "a\"b'c\\d"}, {"X_Under_Score": "1"}, {"Range": "bytes=0-3"},
           {"If-None-Match": '"x"'}, {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"}, {"Proxy": "x"}, {"Content-Length": "0"},
           {"X-Latin": "\xe4"}, {"X-Long": "v" * 4000}, {"Referer": "http://x/?a=<b>"}, {"Connection": "close, X-Hop", "X-Hop": "1"}, {"TE": "trailers"},
           {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AA"}, {"User-Agent": "x"}, {"1-Digit": "2"}, {"X.Dot": "1"}, {"X-" + "n" * 600: "1"}]


@pytest.mark.parametrize("headers", HEADERS, ids=range(len(HEADERS)))
def test_request_fields(pair, headers):
    same(pair, "GET", "/echo-all.php", headers)


def form(text):
    return FORM, text.encode()


def files(*parts, data=()):
    kind, body = multipart(data, parts)
    boundary = kind.split("boundary=")[1].encode()
    return {"Content-Type": "multipart/form-data; boundary=fixed"}, body.replace(boundary, b"fixed")


BODIES = [form("a=1&b=2"), form(""), form("a[]=1&a[]=2&b[c]=d"), form("a=%C3%A4&b=+"),
          form("&".join(f"k{i}=v" for i in range(1500))),
          ({"Content-Type": "application/json"}, b'{"a":1}'), ({"Content-Type": "text/plain"}, b"x" * 100), ({}, b"no type"),
          ({"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}, b"a=1"), ({"Content-Type": "APPLICATION/X-WWW-FORM-URLENCODED"}, b"a=1"),
          ({"Content-Type": "multipart/form-data"}, b"no boundary"), ({"Content-Type": "multipart/form-data; boundary="}, b"x"),
          ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b--\r\n"),
          ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nunfinished"),
          ({"Content-Type": 'multipart/form-data; boundary="q b"'}, b'--q b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--q b--\r\n'),
          files(("f", "a.txt", b"text", "text/plain")), files(("f", "", b"", None)),
          files(("f[]", "a", b"1", None), ("f[]", "b", b"2", None)),
          files(("f", "../../x", b"1", None), data=[("a", "1"), ("b[]", "2")]),
          files(("f", "ä.txt", b"1", None)), files(*[(f"f{i}", f"{i}", b"x", None) for i in range(25)]),
          files(("f", "big", b"b" * 300_000, None)), files(data=[("a", "b" * 100_000)]), form("a=" + "x" * 200_000)]


@pytest.mark.parametrize("headers,body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_bodies(pair, headers, body, method):
    same(pair, method, "/echo-all.php?q=1", headers, body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "LONGMETHODNAME"])
def test_methods(pair, method):
    same(pair, method, "/echo-all.php")


DOINGS = ["many", "code&code=404", "code&code=201", "line&line=HTTP/1.1%20404%20Gone%20Away", "line&line=HTTP/1.0%20500%20x", "status&status=409%20Conflict", "redirect",
          "redirect301", "auth", "length", "callback", "list", "none", "inject", "late", "line&line=Location:%20/x", "line&line=X-Ok:%20a%09b", "line&line=x-lower:1",
          "line&line=X-Empty:", "line&line=Content-Type:%20text/plain", "line&line=Content-Type:%20image/png", "line&line=Content-type:%20text/css",
          "line&line=Refresh:%205", "line&line=HTTP/1.1%20200", "line&line=HTTP/1.1%20299%20%C3%A4", "line&line=Content-Encoding:%20x", "line&line=Set-Cookie:%20a=1",
          "line&line=Last-Modified:%20Mon,%2001%20Jan%202024%2000:00:00%20GMT", "line&line=WWW-Authenticate:%20Basic", "line&line=Status:%20418%20Teapot", "line&line=Vary:%20x"]


@pytest.mark.parametrize("doing", DOINGS)
def test_response_fields(pair, doing):
    same(pair, "GET", f"/headers.php?do={doing}")
    same(pair, "HEAD", f"/headers.php?do={doing}")


ENDS = ["exit", "exit_text", "exit_nested", "fatal", "fatal_after_flush", "parse", "exception", "memory", "shutdown", "shutdown_exit", "shutdown_fatal",
        "shutdown_after_fatal", "shutdown_memory", "destructor", "destructor_exit", "error_log&text=x", "warning&zero=0", "chdir", "state", "deep", "ob", "ob_discard", "empty",
        "big&n=100000", "once&n=5000000", "timeout", "nothing"]


@pytest.mark.parametrize("end", ENDS)
def test_ends_of_scripts(pair, end):
    same(pair, "GET", f"/life.php?do={end}")


def test_answers_to_http_1_0(pair):
    seen = []
    for server in pair:
        with server.connect() as c:
            c.send(b"GET /echo-all.php?x=1 HTTP/1.0\r\nX-A: b\r\nHost: h\r\n\r\n")
            r = c.read_response()
            seen.append(seen_by(server, r))
    alike(*seen)


def test_short_body_ends_the_connection_on_both(pair):
    for server in pair:
        with server.connect() as c:
            c.send(c.format("GET", "/headers.php?do=short"))
            with pytest.raises(Closed):
                c.read_response()


def test_ipv6_and_unix_sockets_look_the_same(launch, scripts):
    seen = []
    for kind in ("sapid", "fpm"):
        server = launch(scripts, kind=kind, hosts=("::1",), unix_socket=True)
        r = server.get("/echo-all.php")
        with Connection(server.socket_path) as c:
            u = c.request("GET", "/echo-all.php", {"Host": "u.example"})
        without_peers = re.sub(r"'(REMOTE_ADDR|SERVER_ADDR|REMOTE_PORT|SERVER_PORT)' => '[^']*'", r"'\1'",
                               normal(server, u.text))
        seen.append((normal(server, r.text), without_peers))
    assert seen[0] == seen[1]


# --- encodings ----------------------------------------------------------------------------------

@pytest.mark.parametrize("first", range(0, 256, 16), ids=lambda n: f"{n:02x}")
def test_every_byte_percent_encoded_in_a_query(pair, first):
    for byte in range(first, first + 16):
        same(pair, "GET", f"/echo-all.php?a%{byte:02X}b=c%{byte:02x}d")


@pytest.mark.parametrize("first", range(0x20, 0x80, 16), ids=lambda n: f"{n:02x}")
def test_every_byte_percent_encoded_in_path_info(pair, first):
    for byte in range(first, first + 16):
        if chr(byte) not in "./%":
            same(pair, "GET", f"/echo-all.php/a%{byte:02X}b")


@pytest.mark.parametrize("character", list("!$&'()*+,-:;=@_~"))
def test_characters_of_a_path_as_they_are(pair, character):
    same(pair, "GET", f"/echo-all.php/a{character}b?c{character}d={character}")
    same(pair, "GET", f"/no{character}such?x")


@pytest.mark.parametrize("text", ["%C3%A4", "%E4", "%F0%9F%90%98", "a%2Bb", "a+b", "%5B%5D=1", "a[]=1&a[]=2&a[k]=3", "a[b][c][d]=1", "x=%26&y=%3D",
                                  "%20=1", "a%00b=1", "a b".replace(" ", "%20"), "&&&", "=", "a", "a=", "=a", "a=1&a=2&a", "a.b.c=1", "[a]=1", "a]=1"])
def test_the_same_text_as_query_cookie_and_form(pair, text):
    same(pair, "GET", f"/echo-all.php?{text}")
    same(pair, "GET", "/echo-all.php", {"Cookie": text})
    same(pair, "POST", "/echo-all.php", FORM, text.encode())


# --- authentication -----------------------------------------------------------------------------

def basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


AUTHORIZATIONS = [basic(b"u:p"), basic(b"u:"), basic(b":p"), basic(b":"), basic(b"u"), basic(b""), basic(b"u:p:q"),
                  basic("\u00e4:\u00f6".encode()), basic(b"\xe4:\xf6"), basic(b"u\0v:p"), "basic dTpw", "BASIC dTpw", "Basic  dTpw", "Basic dTpw=", "Basic", "Bearer a.b.c", "Digest",
                  'Digest username="a", realm="b", nonce="c", uri="/", response="d"', "Negotiate abc", "Basic dTpw, Basic eDp5"]


@pytest.mark.parametrize("value", AUTHORIZATIONS, ids=range(len(AUTHORIZATIONS)))
def test_authorization(pair, value):
    same(pair, "GET", "/echo-all.php", {"Authorization": value})


# --- bodies -------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [0, 1, 100, 4095, 4096, 8191, 8192, 16383, 16384, 16385, 32768, 65535, 65536, 65537, 262144,
                                  1_000_000])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_body_of_any_size(pair, method, size):
    body = bytes(range(256)) * (size // 256 + 1)
    same(pair, method, "/digest.php", {"Content-Type": "application/octet-stream"}, body[:size])


@pytest.mark.parametrize("size", [1, 4096, 16384, 100_000])
def test_form_of_any_size(pair, size):
    same(pair, "POST", "/digest.php", FORM, b"a=" + b"x" * size)


@pytest.mark.parametrize("size", [0, 1, 8192, 16384, 65536, 500_000])
@pytest.mark.parametrize("count", [1, 3])
def test_uploads_of_any_size(pair, size, count):
    content = b"\0\xff" * (size // 2) + b"e" * (size % 2)
    headers, body = files(*[(f"f{i}", f"{i}.bin", content, "application/x-y") for i in range(count)])
    same(pair, "POST", "/digest.php", headers, body)


UPLOADS = [("f", "a.txt", b"x", "text/plain"), ("f", "a b.txt", b"x", None), ("f", 'q"q.txt', b"x", None), ("f", "C:\\x\\y.txt", b"x", None),
           ("f", "a/b.txt", b"x", None), ("f[a][b]", "c", b"x", None), ("f[", "c", b"x", None), ("f.g", "c", b"x", None),
           ("f", "", b"x", None), ("f", "x" * 300, b"x", None), ("f", "..", b"x", None), ("f", "\u2603.txt", b"x", None),
           ("", "noname", b"x", None), ("f", "e", b"", "a/b")]


@pytest.mark.parametrize("part", UPLOADS, ids=range(len(UPLOADS)))
def test_names_of_uploads(pair, part):
    same(pair, "POST", "/echo-all.php", *files(part))
    same(pair, "POST", "/echo-all.php", *files(part, data=[("MAX_FILE_SIZE", "0")]))


@pytest.mark.parametrize("chunks", [[b"a=1"], [b"a", b"=", b"1"], [b"x" * 20_000, b"y" * 20_000], [b"z" * 300_000]], ids=range(4))
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain"])
def test_chunked_bodies(pair, chunks, kind):
    """FastCGI wants a length, so both servers must know it before PHP starts."""
    seen = []
    for server in pair:
        with server.connect() as c:
            c.send(f"POST /digest.php HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            for chunk in chunks:
                c.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            c.send(b"0\r\n\r\n")
            seen.append(seen_by(server, c.read_response()))
    alike(*seen)


def test_expect_100_continue(pair):
    seen = []
    for server in pair:
        with server.connect() as c:
            c.send(b"POST /digest.php HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            c.send(b"hello")
            seen.append(seen_by(server, c.read_response()))
    alike(*seen)


# --- answers ------------------------------------------------------------------------------------

@pytest.mark.parametrize("code", [200, 201, 202, 203, 205, 206, 207, 226, 300, 301, 302, 303, 305, 307, 308, *range(400, 418),
                                  421, 422, 423, 424, 426, 428, 429, 431, 451,
                                  500, 501, 502, 503, 504, 505, 507, 511, 299, 399, 499, 599])
def test_status_codes(pair, code):
    same(pair, "GET", f"/headers.php?do=code&code={code}")
    same(pair, "POST", f"/answer.php?code={code}&location=/x", FORM, b"a=1")


LOCATIONS = ["/x", "x", "?a=1", "//h/x", "http://h.example/x?a=b%20c", "https://h.example", "/%C3%A4", "%23f", "mailto:a@b", "/a%0Ab"]


@pytest.mark.parametrize("location", LOCATIONS, ids=range(len(LOCATIONS)))
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_redirects(pair, location, method):
    headers, body = (FORM, b"a=1") if method == "POST" else (None, None)
    for code in ("", "301", "303", "307", "201"):
        same(pair, method, f"/answer.php?code={code}&location={location}", headers, body)


COOKIES = ["a=1", "a=1; path=/", "a=1; expires=Thu, 01-Jan-2037 00:00:00 GMT; Max-Age=9", "a=1; HttpOnly; Secure; SameSite=Strict", "a=%3B", "a="]


@pytest.mark.parametrize("cookie", COOKIES, ids=range(len(COOKIES)))
def test_cookies_of_answers(pair, cookie):
    same(pair, "GET", f"/answer.php?cookie={cookie.replace(' ', '%20').replace(';', '%3B')}")


STREAMS = ["pieces&n=5", "pieces&n=200", "big&n=1", "big&n=65536", "big&n=262143", "big&n=262144", "big&n=262145", "big&n=3000000", "late", "gzip", "nothing",
           "file", "binary", "implicit", "callback"]


@pytest.mark.parametrize("how", STREAMS)
def test_streams(pair, how):
    for method in ("GET", "HEAD"):
        same(pair, method, f"/stream-parity.php?do={how}", {"Accept-Encoding": "gzip"})


ERRORS = ["throw", "error", "warning", "notice", "type", "zero", "undefined", "require", "memory", "exit&code=3", "abort", "trigger", "shutdown", "after",
          "handler", "die"]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("display", ["0", "1"])
def test_errors(pair, error, display):
    same(pair, "GET", f"/errors-parity.php?do={error}&display={display}")


def test_one_connection_carries_no_state_from_request_to_request(pair):
    conversation = [("GET", "/echo-all.php?a=1", {"Cookie": "c=1", "Authorization": "Basic dTpw"}, None), ("POST", "/echo-all.php", FORM, b"a=1"),
                    ("GET", "/errors-parity.php?do=throw&display=0", None, None), ("GET", "/echo-all.php", None, None),
                    ("POST", "/digest.php", None, b"x" * 100_000), ("GET", "/headers.php?do=many", None, None),
                    ("GET", "/echo-all.php/p", None, None), ("HEAD", "/echo-all.php", None, None),
                    ("GET", "/echo-all.php", None, None)]
    seen = []
    for server in pair:
        with server.connect() as c:
            seen.append([seen_by(server, c.request(*request)) for request in conversation])
    for ours, theirs in zip(*seen):
        alike(ours, theirs)


# --- sessions -----------------------------------------------------------------------------------

def walk(pair, *steps):
    """Each step on one connection of each server, with the cookies that the answers before it set."""
    seen = []
    for server in pair:
        session = server.session()
        seen.append([seen_by(server, session.request(method, "/session-parity.php?" + target, follow=False, **options))
                     for method, target, options in steps])
        session.close()
    for ours, theirs in zip(*seen):
        alike(ours, theirs)
    return seen[0]


def test_session_from_login_to_logout(pair):
    seen = walk(pair, ("GET", f"do=page&id={fresh_name()}", {}), ("POST", "do=login", {"data": {"user": "anna"}}), ("GET", "do=page", {}),
                ("GET", "do=flash&text=a", {}), ("GET", "do=flash&text=%C3%A4", {}), ("HEAD", "do=page", {}), ("GET", "do=page", {}),
                ("POST", "do=upload", {"files": [("f", "a.txt", b"x" * 30_000, "text/plain")], "data": {"a": "b"}}), ("GET", "do=page", {}),
                ("GET", "do=destroy", {}), ("GET", "do=page", {}))
    assert "'user' => 'anna'" in seen[2][2] and "'visits' => 3" in seen[2][2]
    assert "'user'" not in seen[-1][2] and "'visits' => 1" in seen[-1][2]


@pytest.mark.parametrize("end", ["abort", "close", "fatal", "exit"])
def test_session_of_a_script_that_ends_otherwise(pair, end):
    walk(pair, ("GET", f"do=page&id={fresh_name()}", {}), ("GET", f"do={end}", {}), ("GET", "do=page", {}))


@pytest.mark.parametrize("options", ["read_and_close=1", "cookie_httponly=1", "cookie_samesite=Strict", "cookie_lifetime=60", "use_cookies=0", "cache_limiter=public",
                                     "cache_limiter=private", "cache_limiter=nocache", "name=other", "use_strict_mode=1"])
def test_session_options(pair, options):
    name, _, value = options.partition("=")
    if name in ("use_strict_mode", "cookie_lifetime") or value == "public":
        # An id, or a time, that no two servers have in common: only that both behave alike from then on.
        seen = [server.get(f"/session-parity.php?do=page&id={fresh_name()}&options[{name}]={value}") for server in pair]
        assert [sorted(n.lower() for n, _ in r.fields if n.lower() not in OWN_FIELDS) for r in seen[:1]] == \
            [sorted(n.lower() for n, _ in r.fields if n.lower() not in OWN_FIELDS) for r in seen[1:]]
        return
    session = fresh_name()
    walk(pair, *[("GET", f"do=page&id={session}&options[{name}]={value}", {}) for _ in range(3)])


def test_sessions_of_two_clients_between_each_other(pair):
    seen, ids = [], (fresh_name(), fresh_name())
    for server in pair:
        a, b = server.session(), server.session()
        steps = [a.get(f"/session-parity.php?do=flash&text=a&id={ids[0]}"), b.get(f"/session-parity.php?do=flash&text=b&id={ids[1]}"),
                 a.get("/session-parity.php?do=page"), b.get("/session-parity.php?do=page"), a.get("/session-parity.php?do=destroy"), b.get("/session-parity.php?do=page")]
        seen.append([seen_by(server, r) for r in steps])
    for ours, theirs in zip(*seen):
        alike(ours, theirs)


# --- behind the answer, and without a client ----------------------------------------------------

def notes(server, name):
    """What the script wrote down, once it has ended."""
    def read():
        return server.get(f"/after-parity.php?do=read&name={name}").text
    wait_until(lambda: read().endswith('"end"\n'), "the script to end")
    return read()


def fresh_name():
    fresh_name.count = getattr(fresh_name, "count", 0) + 1
    return f"n{fresh_name.count}"


@pytest.mark.parametrize("how", ["", "&buffer=1", "&fatal=1", "&buffer=1&fatal=1"])
@pytest.mark.parametrize("method,headers,body", [
    ("GET", None, None), ("POST", FORM, b"a=1"), ("POST", *files(("f", "a", b"x" * 40_000, None))), ("HEAD", None, None)],
    ids=["get", "form", "upload", "head"])
def test_fastcgi_finish_request(pair, how, method, headers, body):
    name = fresh_name()
    same(pair, method, f"/after-parity.php?do=finish&name={name}{how}", headers, body)
    ours, theirs = (notes(server, name) for server in pair)
    assert ours == theirs


@pytest.mark.parametrize("how", ["", "&fatal=1"])
def test_output_behind_fastcgi_finish_request_does_not_end_the_script(pair, how):
    """The one of DIFFERENCES.md that cannot be seen in an answer."""
    name = fresh_name()
    same(pair, "GET", f"/after-parity.php?do=finish&flush=1&name={name}{how}")
    ours, theirs = (notes(server, name) for server in pair)
    assert '"shutdown",[1,1,' in theirs and "[200," not in theirs
    if pair[0].site.php.get("use_fpm"):
        assert ours == theirs
    else:
        # http_response_code() behind the head: since PHP 8.3 it is refused and says so
        assert '"shutdown",[0,0,' in ours and ("[200,false," in ours or "[false,false," in ours)


@pytest.mark.parametrize("ignore", [0, 1])
@pytest.mark.parametrize("when", ["at once", "after the head", "in the body"])
def test_client_that_goes_away(pair, ignore, when):
    name = fresh_name()
    for server in pair:
        c = server.connect()
        c.send(c.format("GET", f"/after-parity.php?do=abort&name={name}&ignore={ignore}"))
        if when != "at once":
            c.read_head()
        if when == "in the body":
            c.read_chunk()
        wait_until(lambda: "started" in server.get(f"/after-parity.php?do=read&name={name}").text, "the script to start")
        c.close()
    ours, theirs = (notes(server, name) for server in pair)
    assert ours == theirs
    assert ("survived" in ours) == bool(ignore)


@pytest.mark.parametrize("n", [0, 1, 4096, 100_000, 2_000_000])
@pytest.mark.parametrize("flush", ["", "&flush=1"])
def test_head_runs_the_script_as_far(pair, n, flush):
    for method in ("HEAD", "GET"):
        name = fresh_name()
        same(pair, method, f"/after-parity.php?do=head&name={name}&n={n}{flush}")
        ours, theirs = (notes(server, name) for server in pair)
        assert ours == theirs


# --- not modified, chunked uploads, big answers -------------------------------------------------

@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("do", ["304", "304-body", "304-flush", "304-line", "etag", "204", "204-body", "205-body"])
def test_answers_without_a_body(pair, method, do):
    conditions = [None, {"If-None-Match": '"v1"'}, {"If-None-Match": '"v2"'}, {"If-None-Match": "*"}, {"If-None-Match": 'W/"v1", "v3"'},
                  {"If-Modified-Since": "Mon, 01 Jan 2024 00:00:00 GMT"}]
    headers, body = (FORM, b"a=1") if method == "POST" else ({}, None)
    for condition in conditions:
        same(pair, method, f"/none-parity.php?do={do}", {**headers, **(condition or {})}, body)


def test_connection_goes_on_behind_an_answer_without_a_body(pair):
    seen = []
    for server in pair:
        with server.connect() as c:
            requests = [("GET", f"/none-parity.php?do={do}") for do in ("304-body", "204-body", "304", "etag")]
            requests += [("HEAD", "/stream-parity.php?do=big&n=100000"), ("GET", "/echo-all.php")]
            seen.append([seen_by(server, c.request(*request)) for request in requests])
    for ours, theirs in zip(*seen):
        alike(ours, theirs)


CHUNKINGS = {"byte by byte": lambda b: [b[i:i + 1] for i in range(len(b))], "one": lambda b: [b],
             "prime": lambda b: [b[i:i + 1009] for i in range(0, len(b), 1009)],
             "growing": lambda b: [b[i * (i + 1) // 2:(i + 1) * (i + 2) // 2] for i in range(len(b)) if i * (i + 1) // 2 < len(b)]}


@pytest.mark.parametrize("cut", list(CHUNKINGS))
@pytest.mark.parametrize("size,extra", [(200, b""), (20_000, b";name=value"), (300_000, b"")])
def test_chunked_uploads(pair, cut, size, extra):
    if cut == "byte by byte" and size > 20_000:
        size = 20_000
    headers, body = files(("f", "a.bin", bytes(range(256)) * (size // 256 + 1), "application/x-y"), data=[("a", "1"), ("b[]", "2")])
    seen = []
    for server in pair:
        with server.connect() as c:
            c.send(f"POST /digest.php?q HTTP/1.1\r\nHost: h\r\nContent-Type: {headers['Content-Type']}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            c.send(b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extra, chunk) for chunk in CHUNKINGS[cut](body)) + b"0\r\n\r\n")
            seen.append(seen_by(server, c.read_response()))
    alike(*seen)


@pytest.mark.parametrize("n", [1 << 20, (1 << 20) + 1, 10_000_000, 33_554_432])
@pytest.mark.parametrize("do", ["big", "sized"])
def test_big_answers(pair, n, do):
    page = {"big": "/stream-parity.php?do=big", "sized": "/none-parity.php?do=sized"}[do]
    digests = []
    for server in pair:
        r = server.get(f"{page}&n={n}")
        digests.append((r.status, fields(server, r), len(r.body), hashlib.sha256(r.body).hexdigest()))
    assert digests[0] == digests[1] and digests[0][2] >= n


def test_big_answer_to_a_client_that_takes_its_time(pair):
    digests = []
    for server in pair:
        with server.connect(receive_buffer=16384) as c:
            c.send(c.format("GET", "/none-parity.php?do=sized&n=8000000"))
            wait_until(lambda: server.get("/echo-all.php").status == 200, "another request meanwhile")
            digests.append(hashlib.sha256(c.read_response().body).hexdigest())
    assert digests[0] == digests[1]
