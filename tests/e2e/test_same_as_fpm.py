"""The same requests to sapid and to nginx + php-fpm, at the same time, on the same folder: the answers must
be the same, byte for byte, but for what names the server."""
import difflib
import re

import pytest

from lib.httpclient import Closed, Connection, multipart

pytestmark = pytest.mark.sapid_only   # starts the oracle by itself

# Fields that belong to the server, not to the script.
OWN_FIELDS = {"server", "date", "connection", "transfer-encoding", "content-length", "keep-alive", "accept-ranges"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def pair(launch_module, scripts):
    settings = {"ini": {"upload_max_filesize": "20M", "post_max_size": "30M"}, "server": {"max_body_size": "40M"}, "workers": 2,
                "env": {"APP_MODE": "both"}, "expect_errors": True}
    return [launch_module(scripts, kind=kind, **settings) for kind in ("sapid", "fpm")]


def normal(server, text: str) -> str:
    """Takes out what must differ: ports, times, the server's name, and what FastCGI itself adds."""
    text = text.replace(f":{server.port}", ":PORT").replace(f"'{server.port}'", "'PORT'")
    text = re.sub(r"'REMOTE_PORT' => '\d+'", "'REMOTE_PORT' => 'N'", text)
    text = re.sub(r"'REQUEST_TIME(_FLOAT)?' => [\d.]+", r"'REQUEST_TIME\1' => N", text)
    text = re.sub(r"'SERVER_SOFTWARE' => '[^']*'", "'SERVER_SOFTWARE' => 'S'", text)
    text = re.sub(r" *'FCGI_ROLE' => 'RESPONDER',\n", "", text)
    # nginx passes these empty where there is nothing to say; CGI leaves them out.
    text = re.sub(r" *'(PATH_INFO|CONTENT_TYPE|CONTENT_LENGTH|HTTP_PROXY)' => '',\n", "", text)
    text = re.sub(r" *'Content-(Type|Length)' => '',\n", "", text)
    # With PATH_INFO it depends on how nginx is configured.
    text = re.sub(r" *'DOCUMENT_URI' => '[^']*',\n", "", text)
    text = re.sub(r"/tmp/php\w{6}", "/tmp/phpTMP", text)
    # Debian's nginx hands REMOTE_USER over, nginx.org's list does not.
    text = re.sub(r" *'REMOTE_USER' => '[^']*',\n", "", text)
    return re.sub(r"\bpid \d+|\[\d+\]", "pid N", text)


def fields(server, response):
    return sorted((n.lower(), normal(server, v)) for n, v in response.fields if n.lower() not in OWN_FIELDS)


def both(pair, method, target, headers=None, body=None):
    seen = []
    for server in pair:
        with server.connect(timeout=20) as c:
            r = c.request(method, target, headers, body)
            seen.append((r.status, fields(server, r), normal(server, r.body.decode("latin-1"))))
    return seen


def same(pair, method, target, headers=None, body=None):
    ours, theirs = (as_lines(answer) for answer in both(pair, method, target, headers, body))
    assert ours == theirs, "\n".join(difflib.unified_diff(theirs, ours, "php-fpm", "sapid", lineterm="", n=1))[:3000]


def as_lines(answer):
    status, fields, text = answer
    return [str(status), *(f"{n}: {v}" for n, v in fields), "", *text.split("\n")]


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
           {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AA"}, {"User-Agent": "x"}, {"1-Digit": "2"}, {"X.Dot": "1"}]


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
            seen.append(as_lines((r.status, fields(server, r), normal(server, r.text))))
    assert seen[0] == seen[1]


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
