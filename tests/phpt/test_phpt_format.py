"""The .phpt reader by itself: sections, requests and expectations mean what run-tests.php means by them."""
import gzip

import pytest

from lib.httpclient import Response
from phpt.phpt import Phpt, Unsupported, format_to_regex, matches_format, matches_regex, split_sections


@pytest.fixture
def phpt(tmp_path):
    def make(text: str) -> Phpt:
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / "x.phpt").write_bytes(text.encode("latin-1"))
        return Phpt(str(tmp_path), "tests/x.phpt")
    return make


def answer(body: bytes, status: int = 200, fields=()) -> Response:
    return Response(status, "OK", list(fields), body)


def test_sections_keep_bytes_and_lone_carriage_returns():
    sections = split_sections(b"--TEST--\nt\n--FILE--\na\rb\n--not a section--\n--EXPECT--\n\xff")
    assert sections["FILE"] == b"a\rb\n--not a section--\n"
    assert sections["EXPECT"] == b"\xff"


def test_code_ends_at_done():
    sections = split_sections(b"--FILE--\n<?php\n?>\n===DONE===\nnotes\n--EXPECT--\nx")
    assert sections["FILE"] == b"<?php\n?>\n===DONE===\n"


@pytest.mark.parametrize("pattern, text", [
    (b"int(%d)", b"int(42)"), (b"%i", b"-7"), (b"%f", b"-1.5E+10"), (b"%f", b".5"), (b"%x", b"dEaD"),
    (b"a%sb", b"a b"), (b"a%Sb", b"ab"), (b"a%ab", b"a\n\nb"), (b"a%Ab", b"ab"), (b"a%wb", b"a \n b"),
    (b"%c%c", b"\n("), (b"%e%s", b"/x"), (b"a%0b", b"a\0b"), (b"%r[0-9]{2}|x%r!", b"42!"),
    (b"100%", b"100%"), (b"%z", b"%z"), (b"(.*)", b"(.*)"),
])
def test_format_matches(pattern, text):
    assert matches_format(pattern, text)


@pytest.mark.parametrize("pattern, text", [
    (b"%d", b"-7"), (b"%s", b""), (b"%s", b"a\nb"), (b"%x", b"g"), (b".", b"a"), (b"%d", b"1x"),
    (b"a%ab", b"ab"), (b"%f", b"."),
])
def test_format_does_not_match(pattern, text):
    assert not matches_format(pattern, text)


def test_a_last_single_r_is_text():
    assert format_to_regex(b"50%r") == b"50%r"


def test_a_pattern_that_backtracks_for_ever_is_no_match(monkeypatch):
    monkeypatch.setattr("phpt.phpt.MATCH_SECONDS_MAX", 1)
    assert not matches_regex(b"(a|a)*b", b"a" * 60)


def test_request_of_a_raw_post(phpt):
    request = phpt("--POST_RAW--\nContent-Type: text/x; a=b\nline 1\nline 2\n--FILE--\n<?php\n").request()
    assert (request.method, request.body) == ("POST", b"line 1\nline 2")
    assert ("Content-Type", "text/x; a=b") in request.headers


def test_request_of_a_form_query_and_cookies(phpt):
    request = phpt("--GET--\na[]=1&b= 2\n--POST--\nc=d\n--COOKIE--\na=1;\nb=2\n--FILE--\n<?php\n").request()
    assert request.query == "a[]=1&b=%202"
    assert request.body == b"c=d"
    assert ("Content-Type", "application/x-www-form-urlencoded") in request.headers
    assert ("Cookie", "a=1; b=2") in request.headers


def test_request_of_a_compressed_post(phpt):
    request = phpt("--GZIP_POST--\nc=d\n--FILE--\n<?php\n").request()
    assert gzip.decompress(request.body) == b"c=d"
    assert ("Content-Encoding", "gzip") in request.headers


def test_ini_lines_are_quoted_as_php_d_does(phpt):
    test = phpt("--INI--\na=1\nb=/x y\nc=\nd={PWD}/f\n;e=1\n--FILE--\n<?php\n")
    assert test.ini("/root") == ("a=1", 'b="/x y"', "c=", 'd="/root/tests/f"')


@pytest.mark.parametrize("section", ["--STDIN--\nx", "--ARGS--\nx", "--ENV--\nHTTP_X=1",
                                     "--INI--\nextension=x.so"])
def test_what_http_cannot_do_is_refused(phpt, section):
    with pytest.raises(Unsupported):
        test = phpt(f"{section}\n--FILE--\n<?php\n")
        test.ini("/root")
        test.env("/root")


def test_output_is_compared_trimmed_and_with_newlines_alike(phpt):
    test = phpt("--FILE--\n<?php\n--EXPECT--\na\nb\n\n")
    assert test.check(answer(b"\n a\r\nb\0".replace(b"\n a", b"a"))) is None
    assert test.check(answer(b"a b")) == "output differs from EXPECT"


def test_expected_headers_and_status(phpt):
    test = phpt("--FILE--\n<?php\n--EXPECTHEADERS--\nStatus: 404 Not Found\nX-A: 1\n--EXPECT--\n")
    assert test.check(answer(b"", 404, [("x-a", "1")])) is None
    assert test.check(answer(b"", 200, [("x-a", "1")])).startswith("header Status: expected '404'")
    assert test.check(answer(b"", 404)).startswith("header X-A: expected '1'")
