"""What scripts do to the head of their answers: line breaks in it, names that are none, sizes, status lines, and heads that
are sent already. From sapid and from nginx with PHP-FPM."""
import json
import re
from urllib.parse import quote, urlencode

import pytest

from lib.httpclient import ProtocolError
from lib.parity import alike, same, seen_by

# Starts the oracle by itself.
pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

SCRIPT = "/calls-parity.php"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def target(*calls):
    return f"{SCRIPT}?calls={quote(json.dumps(calls))}"


def ask(server, *calls, method="GET"):
    with server.connect() as c:
        return c.request(method, target(*calls))


def shown(call):
    return " ".join(str(part) for part in call)[:40]


# --- injection ----------------------------------------------------------------------------------

BREAKS = {"CR": "\r", "LF": "\n", "CRLF": "\r\n", "NUL": "\0", "fold": "\r\n ", "tab fold": "\r\n\t", "LF NUL": "\n\0", "VT": "\v", "FF": "\f", "ESC": "\x1b", "DEL": "\x7f",
          "NEL": "\x85", "tab": "\t", "bell": "\x07", "0xff": "\xff", "u2028": "\xe2\x80\xa8"}
SESSION = [["ini_set", "session.use_strict_mode", "0"], ["session_id", "injection"], ["session_start"]]
PLACES = {
    "value": lambda b: ["header", f"X-A: one{b}X-B: two"],
    "name": lambda b: ["header", f"X-A{b}X-B: two"],
    "front": lambda b: ["header", f"{b}X-A: one"],
    "end": lambda b: ["header", f"X-A: one{b}"],
    "behind the colon": lambda b: ["header", f"X-A:{b}X-B: two"],
    "location": lambda b: ["header", f"Location: /x{b}Set-Cookie: a=b"],
    "type": lambda b: ["header", f"Content-Type: text/plain{b}X-B: two"],
    "status line": lambda b: ["header", f"HTTP/1.1 404 Not{b}Found"],
    "status": lambda b: ["header", f"Status: 404 Not{b}Found"],
    "cookie name": lambda b: ["setcookie", f"a{b}b", "1"],
    "cookie value": lambda b: ["setcookie", "a", f"1{b}X-B: two"],
    "raw cookie value": lambda b: ["setrawcookie", "a", f"1{b}X-B: two"],
    "cookie path": lambda b: ["setcookie", "a", "1", 0, f"/{b}X-B: two"],
    "cookie domain": lambda b: ["setcookie", "a", "1", 0, "/", f"example.org{b}X-B: two"],
    "cookie options": lambda b: ["setcookie", "a", "1", {"path": f"/{b}", "samesite": f"Lax{b}X-B: two"}],
    "mime type of the ini": lambda b: ["ini_set", "default_mimetype", f"text/plain{b}X-B: two"],
    "charset of the ini": lambda b: ["ini_set", "default_charset", f"utf-8{b}X-B: two"],
    "session name": lambda b: ["session_name", f"name{b}X-B: two"],
    "session path": lambda b: ["session_set_cookie_params", 60, f"/{b}X-B: two"],
    "session limiter": lambda b: ["session_cache_limiter", f"private{b}X-B: two"],
    "removed": lambda b: ["header_remove", f"X-Powered-By{b}"],
}


# What is left of the answer where a name or value that HTTP does not allow is left out (DIFFERENCES.md).
STATUS_LEFT = {"status line": 404, "status": 404, "location": 302}
NO_TYPE_LEFT = ("type", "mime type of the ini", "charset of the ini")


def answer_of_nginx(pair, calls):
    """None: nginx passed on what is no HTTP."""
    try:
        return ask(pair[1], *calls)
    except ProtocolError:
        return None


def left_out(pair, calls, theirs, expected):
    """Our answer has no such field; or is a 502 as nginx's, where the head came from PHP-FPM."""
    ours = seen_by(pair[0], ask(pair[0], *calls))
    if theirs and pair[0].site.php.get("use_fpm"):
        assert ours[0] == theirs.status == 502
    else:
        assert ours[:2] == expected


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", BREAKS)
def test_injection(pair, place, what):
    before, around = [["header", "X-Before: 1"]], []
    if place.startswith("session"):
        around = SESSION
    calls = [*before, PLACES[place](BREAKS[what]), *around]
    theirs = answer_of_nginx(pair, calls)
    if theirs and theirs.status != 502:
        return alike(seen_by(pair[0], ask(pair[0], *calls)), seen_by(pair[1], theirs))
    status, left, _ = seen_by(pair[1], ask(pair[1], *before, *around))
    gone = "content-type" if place in NO_TYPE_LEFT else "set-cookie" if place == "session path" else None
    left = [(n, v) for n, v in left if n != gone]
    left_out(pair, calls, theirs, (STATUS_LEFT.get(place, status), left))


# Those that nginx passes on though they are no tokens, and those that it does not.
PASSED_ON = ["X(A", "X{A}", "X\"A", "X/A", "X@A", "X[A]", "X;A", "X,A", "X=A", "X?A", "X<A>", "X\\A", "\xc3\xa4", "X\xff"]
REFUSED = ["X A", "X-A ", " X-A", "", "X\x01A", "X\x7f", ":", "no colon", "HTTP 404 none", "Status "]
NAMES = ["X!#$%&'*+.^_`|~A", "0", "-", "_", "x" * 300, "X:A", "X-Content-Length", "Set-Cookie", "server", "DATE"]


@pytest.mark.parametrize("name", PASSED_ON + REFUSED + NAMES, ids=range(len(PASSED_ON + REFUSED + NAMES)))
def test_names(pair, name):
    field = name if name == "no colon" or name.startswith("HTTP") else f"{name}: 404"
    calls = [["header", field], ["header", "X-After: 1"]]
    if name in NAMES:
        return same(pair, "GET", target(*calls))
    expected = seen_by(pair[1], ask(pair[1], calls[1]))[:2]
    left_out(pair, calls, answer_of_nginx(pair, calls) if name in REFUSED else None, expected)


def test_what_is_left_out_is_told(pair):
    def count():
        return int(re.search(r'"dropped_answer_fields":(\d+)', pair[0].admin("/server?json").text)[1])
    before = count()
    ask(pair[0], ["header", "X(A: 1"], ["header", "X-B: a\x01b"])
    assert count() == before + 2
    log = pair[0].log_text()
    assert '"X(A: 1" in the answer\'s head is left out' in log and '"X-B: a\\x01b" in the answer\'s head is left out' in log


# --- sizes --------------------------------------------------------------------------------------

SIZES = {"a long value": [["header", ["long", "X-Long: ", 7000]]], "4 KiB": [["header", ["long", "X-Long: ", 4096 - 8]]], "32 KiB": [["header", ["long", "X-Long: ", 32768]]],
         "65535": [["header", ["long", "X-Long: ", 65535 - 8]]], "64 KiB": [["header", ["long", "X-Long: ", 65536]]], "200 KiB": [["header", ["long", "X-Long: ", 200_000]]],
         "100 fields": [["repeat", 100, "header", "X-Field-%d: value"]], "1,000 fields": [["repeat", 1000, "header", "X-Field-%d: value"]],
         "5,000 fields": [["repeat", 5000, "header", "X-Field-%d: value %1$d"]], "1,000 cookies": [["repeat", 1000, "setcookie", "c%d", "value"]],
         "1,000 of one name": [["repeat", 1000, "header", "X-Same: %d", False]], "a long name": [["header", "X-" + "n" * 3000 + ": 1"]],
         "a long location": [["header", ["long", "Location: /", 20_000]]], "a long status": [["header", ["long", "HTTP/1.1 404 ", 2000]]],
         "a long cookie": [["setcookie", "c", ["long", "", 60_000]]]}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("more", [[], [["echo", "text"], ["flush"]]], ids=["", "flushed"])
def test_sizes(pair, size, more):
    same(pair, "GET", target(*SIZES[size], *more))
    same(pair, "HEAD", target(*SIZES[size], *more))


TOO_LARGE = {"300 KB": [["header", ["long", "X-Long: ", 300_000]]], "5 MB": [["header", ["long", "X-Long: ", 5_000_000]]],
             "40,000 fields": [["repeat", 40_000, "header", "X-Field-%d: value", False]], "60 of 5 KB": [["repeat", 60, "header", "X-%d: " + "v" * 5000]]}


@pytest.mark.parametrize("calls", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_head_that_is_too_large(pair, calls):
    """502, as from nginx, whose limit here is 256 KiB, too; and the connection, if it goes on, is in order."""
    for server in pair:
        with server.connect() as c:
            r = c.request("GET", target(*calls))
            assert (r.status, "x-long" in dict(r.fields)) == (502, False), server.kind
            if r.keeps_alive:
                assert c.request("GET", "/hello.php").text == "Hello World!"
        assert server.get("/hello.php").text == "Hello World!"


# --- status lines -------------------------------------------------------------------------------

LINES = ["HTTP/1.1 999", "HTTP/1.1 999 Nine", "HTTP/1.1 600 Six", "HTTP/1.1 99 Little", "HTTP/1.1 0 None", "HTTP/1.1 -1 Less", "HTTP/1.1", "HTTP/1.1 ",
         "HTTP/1.1 abc", "HTTP/1.1 20", "HTTP/1.1 404", "HTTP/1.1  404  Two  spaces", "HTTP/1.1\t404 Tab", "http/1.1 404 small", "HTTP/2 404", "HTTP/2 404 Two", "HTTP/3 204",
         "HTTP/0.9 404 Old", "HTTP/9.9 404 New", "HTTP/x 404 x", "HTTP/1.1 404 <b>&amp;\"'", "HTTP/1.1 404 \xe4\xf6", "HTTP/1.1 404 Not: Found", "HTTP/1.1 200 Fine",
         "HTTP/1.0 200 Old", "HTTP/1.1 204 None", "HTTP/1.1 205 Reset", "HTTP/1.1 304 Same", "HTTP/1.1 304", "HTTP/1.1 206 Part", "HTTP/1.1 416 Not", "HTTP/1.1 401 Who",
         "Status: 404", "Status: 404 Not", "Status: 999 Nine", "Status: 204", "Status: 304", "Status: 600", "Status: abc", "Status: 20", "Status:", "Status: 404 \xe4", "status: 404 small"]
# nginx sends these as they are: an interim answer as the last one, and a code of four digits.
NO_STATUS = ["HTTP/1.1 100 Continue", "HTTP/1.1 101 Switching", "HTTP/1.1 102 Processing", "HTTP/1.1 103 Hints", "HTTP/1.1 199 x", "Status: 100", "Status: 101", "Status: 103",
             "HTTP/1.1 1000 Much", "HTTP/1.1 2000", "Status: 1000"]
CODES = [0, 1, 99, 200, 204, 205, 206, 304, 305, 306, 416, 418, 499, 599, 600, 666, 700, 999, -1, -200]
NO_CODES = [100, 101, 102, 103, 199, 1000, 9999, 65536, 65736, 1 << 31]


def same_or_502(pair, method, page, headers=None, body=None):
    """The page of a 502 is each server's own."""
    with pair[0].connect() as c:
        ours = c.request(method, page, headers, body)
    try:
        with pair[1].connect() as c:
            theirs = c.request(method, page, headers, body)
    except ProtocolError as e:   # nginx passes on a script's Content-Length with 204
        assert "204 with" in str(e) and ours.status == 204
        return
    if theirs.status == 502:
        assert ours.status == 502
    else:
        alike(seen_by(pair[0], ours), seen_by(pair[1], theirs))


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_status_lines(pair, line, method):
    headers, body = (FORM, urlencode({"calls": json.dumps([["header", line]])}).encode()) if method == "POST" else (None, None)
    same_or_502(pair, method, SCRIPT if body else target(["header", line]), headers, body)
    if method == "GET":
        same_or_502(pair, method, target(["header", line], ["header", "Content-Length: 3"], ["echo", "abcdef"]))
        same_or_502(pair, method, target(["header", line], ["echo", "abc"], ["flush"]))


def code_calls(how, code):
    return [["http_response_code", code] if how == "http_response_code" else ["header", "X-A: b", True, code], ["echo", "body"]]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("how", ["http_response_code", "header"])
def test_codes(pair, code, how):
    same_or_502(pair, "GET", target(*code_calls(how, code)))


@pytest.mark.parametrize("calls", [[["header", line]] for line in NO_STATUS] + [code_calls("header", code) for code in NO_CODES] +
                         [code_calls("http_response_code", code) for code in NO_CODES], ids=lambda calls: shown(calls[0]))
def test_what_is_no_status(pair, calls):
    """502, with a page of the server's own; the connection is in order."""
    for more in ([], [["echo", "text"], ["flush"], ["echo", "more"]]):
        with pair[0].connect() as c:
            for _ in range(2):
                r = c.request("GET", target(*calls, *more))
                assert r.status == 502 and "X-A" not in dict(r.fields) and "text" not in r.text.split("<title>")[0]
            assert c.request("GET", "/hello.php").text == "Hello World!"


# --- behind the head ----------------------------------------------------------------------------

LATE = [["header", "X-Late: 1"], ["header", "HTTP/1.1 404 Late"], ["header", "Location: /late"], ["setcookie", "a", "b"], ["setrawcookie", "a", "b"], ["header_remove"],
        ["http_response_code", 404], ["http_response_code", 0], ["session_start", {"use_cookies": 0, "cache_limiter": ""}], ["session_name", "x"], ["session_id", "x"], ["session_set_cookie_params", 1],
        ["session_cache_limiter", "private"], ["ini_set", "session.name", "x"], ["ini_set", "zlib.output_compression", "1"], ["output_add_rewrite_var", "a", "b"],
        ["headers_sent"], ["headers_list"], ["header_register_callback"], ["missing"], ["exit", "left"], ["ini_set", "default_charset", "x"], ["header", "X-A: b\r\nc: d"]]
SENT_BY = {"echo and flush": [["echo", "first"], ["flush"]], "flush alone": [["flush"]], "an include": [["flush"], ["include", "printing.inc"]],
           "an error": [["ini_set", "display_errors", "1"], ["flush"], ["trigger_error", "early", 512]], "much": [["repeat", 3000, "echo", "line %d of many\n"]],
           "a file": [["flush"], ["readfile", "/etc/hostname"]]}


@pytest.mark.parametrize("late", LATE, ids=shown)
@pytest.mark.parametrize("by", SENT_BY)
def test_behind_the_head(pair, late, by):
    same(pair, "GET", target(["header", "X-Early: 1"], *SENT_BY[by], late, ["headers_list"]))


@pytest.mark.parametrize("display", ["0", "1"])
def test_headers_already_sent_names_the_place(pair, display):
    """As PHP prints it, with file and line of the output, as an error nobody handles."""
    same(pair, "GET", f"/late-parity.php?display={display}")
    same(pair, "GET", f"/late-parity.php?display={display}&do=session")
    r = pair[0].get(f"/late-parity.php?display={display}")
    assert ("headers already sent by (output started at " in r.text) == (display == "1")
    assert display == "0" or "late-parity.php:5)" in r.text, r.text


# --- whole conversations ------------------------------------------------------------------------

MIXED = [[["header", "X-A: 1"], ["header", "x-a: 2"], ["header", "X-A: 3", False], ["header_remove", "x-A"], ["headers_list"]],
         [["header", "Content-Type: text/html"], ["header", "Content-Type: text/plain; charset=x"], ["headers_list"]], [["header", "Content-Type:"], ["headers_list"]],
         [["header_remove", "Content-Type"], ["headers_list"]], [["header", "content-type: TEXT/HTML"]], [["header", "Content-Type: text/x; a=b; charset=c"]],
         [["ini_set", "default_charset", ""]], [["ini_set", "default_mimetype", "text/x"]], [["header", "Content-Type: text/x"], ["ini_set", "default_charset", "koi8-r"]],
         [["header", "Location: /x"], ["header_remove", "Location"]], [["header", "Location: /x"], ["http_response_code", 200]], [["http_response_code", 201], ["header", "Location: /x"]],
         [["header", "Location: /x", True, 308]], [["header", "Location:"]], [["header", "location: /x"]], [["header", "WWW-Authenticate: Basic"], ["http_response_code", 200]],
         [["header", "HTTP/1.1 404 A"], ["http_response_code", 500]], [["http_response_code", 500], ["header", "HTTP/1.1 404 A"]], [["header", "HTTP/1.1 404 A"], ["header", "HTTP/1.1 405 B"]],
         [["header", "Status: 404"], ["header", "HTTP/1.1 500 B"]], [["header", "HTTP/1.1 500 B"], ["header", "Status: 404"]], [["header", "Status: 404"], ["http_response_code", 500]],
         [["header_register_callback"], ["header", "X-Gone: 1"]], [["header_register_callback"], ["missing"]], [["header", "X-A: 1"], ["missing"]], [["header", "HTTP/1.1 404 A"], ["missing"]],
         [["header", "Location: /x"], ["missing"]], [["http_response_code", 503], ["exit", 3]], [["ob_start"], ["echo", "x"], ["header", "X-A: 1"], ["ob_end_flush"]],
         [["session_cache_limiter", "public"], ["session_cache_limiter"]], [["session_name", "1"]], [["session_name", "a b"]], [["session_id", "bad id!"], ["session_start", {"use_cookies": 0}]],
         [["setcookie", ""]], [["setcookie", "a=b"]], [["setcookie", "a", "b", -1]], [["setcookie", "a", "b", {"expires": 9999999999999}]], [["setcookie", "a", "b", {"nonsense": 1}]],
         [["setcookie", "a", ""]], [["setcookie", "a[b]", "\xe4 ;,"]], [["setcookie", "a", "b", {"samesite": "None", "secure": True, "httponly": True}]],
         [["header", "Trailer: X"], ["header", "Upgrade: x"], ["header", "Keep-Alive: 5"]], [["header", "Content-Length: 999999999999999999999"]], [["header", "Content-Length: x"]],
         [["header", "Content-Type: text/a"], ["header", "X-A: 1"], ["header", "content-type: text/b", False], ["header", "X-B: 1"], ["headers_list"]],
         [["header", "Content-Type: text/a"], ["header", "Content-Type:", False], ["header", "X-B: 1"]],
         [["header", "Content-Length: 1, 1"]], [["header", "Content-Length: -5"]], [["header", "Content-Length: 1"], ["header", "Content-Length: 2", False]]]


@pytest.mark.parametrize("calls", MIXED, ids=range(len(MIXED)))
def test_calls_together(pair, calls):
    for method in ("GET", "HEAD"):
        same(pair, method, target(*calls))
