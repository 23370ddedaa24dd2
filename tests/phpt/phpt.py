"""The .phpt format of php-src: its sections, the request a test describes, and what its output must be.

Follows php-src's documentation (qa.php.net/phpt_details.php) and the behaviour of run-tests.php where
that is silent. Everything is bytes: many tests are not UTF-8.
"""
from __future__ import annotations

import gzip
import os
import re
import signal
import zlib
from dataclasses import dataclass, field
from urllib.parse import quote

SECTION = re.compile(rb"^--([A-Z_]+)--\s*$")
BLANK = b" \t\n\r\0\x0b"            # what PHP's trim() takes off
MATCH_SECONDS_MAX = 10              # a pattern with many %a can backtrack for ever

# What needs a command line, another engine or a look into the process, and so no HTTP server.
IMPOSSIBLE = ("STDIN", "ARGS", "PHPDBG", "CAPTURE_STDIO", "REDIRECTTEST", "XFAIL", "FLAKY")
# Environment variables that are CGI's: a server sets them from the request.
CGI_VARIABLE = re.compile(r"^(HTTP_|REQUEST_|CONTENT_|SERVER_|REMOTE_|SCRIPT_|PATH_|QUERY_STRING|"
                          r"AUTH_TYPE|REDIRECT_|GATEWAY_|DOCUMENT_|HTTPS|PHP_)")
# Escapes of EXPECTF.
ESCAPES = {
    b"e": b"/", b"s": rb"[^\r\n]+", b"S": rb"[^\r\n]*", b"a": b".+", b"A": b".*", b"w": rb"\s*",
    b"i": rb"[+-]?[0-9]+", b"d": b"[0-9]+", b"x": b"[0-9a-fA-F]+", b"c": b".", b"0": rb"\x00",
    b"f": rb"[+-]?(?:[0-9]+|(?=\.[0-9]))(?:\.[0-9]+)?(?:[Ee][+-]?[0-9]+)?",
}


class Unsupported(Exception):
    """The test cannot be run over HTTP; the text says why."""


@dataclass
class Request:
    method: str = "GET"
    query: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | None = None


class Phpt:
    def __init__(self, source: str, name: str):
        """`name`: path inside the source tree, such as tests/basic/001.phpt."""
        self.name = name
        self.folder = os.path.dirname(name)
        self.base = name[:-len(".phpt")]
        self._source = source
        with open(os.path.join(source, name), "rb") as f:
            self.sections = split_sections(f.read())
        for wanted in IMPOSSIBLE:
            if wanted in self.sections:
                raise Unsupported(f"--{wanted}--")
        if self.code is None:
            raise Unsupported("no --FILE--")

    def text(self, name: str) -> str:
        """Latin-1, as header fields are sent in it: every byte survives."""
        return self.sections.get(name, b"").decode("latin-1")

    def _external(self, name: str) -> bytes | None:
        """A section, or the file beside the test that its _EXTERNAL form names."""
        if name in self.sections:
            return self.sections[name]
        if f"{name}_EXTERNAL" not in self.sections:
            return None
        file = self.text(f"{name}_EXTERNAL").strip().replace("..", "")
        with open(os.path.join(self._source, self.folder, file), "rb") as f:
            return f.read()

    @property
    def code(self) -> bytes | None:
        if "FILEEOF" in self.sections:
            return self.sections["FILEEOF"].rstrip(b"\r\n")
        return self._external("FILE")

    @property
    def extensions(self) -> list[str]:
        return self.text("EXTENSIONS").split()

    def ini(self, docroot: str) -> tuple[str, ...]:
        """Lines for a php.ini. Values are quoted by the rule of `php -d`."""
        lines = []
        for line in self.text("INI").splitlines():
            key, equals, value = (part.strip() for part in line.partition("="))
            if not key or key.startswith(";"):
                continue
            if "{MAIL" in value or key in ("extension", "zend_extension"):
                raise Unsupported(f"--INI-- {line}")
            value = value.replace("{PWD}", os.path.join(docroot, self.folder)).replace("{TMP}", "/tmp")
            if value and not value[0].isalnum() and value[0] not in "\"'":
                value = f'"{value}"'
            lines.append(f"{key}={value}")
        return tuple(lines)

    def env(self, docroot: str) -> tuple[tuple[str, str], ...]:
        pairs = []
        for line in self.text("ENV").splitlines():
            key, equals, value = line.strip().partition("=")
            if not equals:
                continue
            if CGI_VARIABLE.match(key):
                raise Unsupported(f"--ENV-- {key}: a CGI variable")
            if not value:       # an FPM pool cannot set an empty variable
                raise Unsupported(f"--ENV-- {key} is empty")
            pairs.append((key, value.replace("{PWD}", os.path.join(docroot, self.folder))))
        return tuple(pairs)

    def request(self) -> Request:
        request = Request(query=quote(self.sections.get("GET", b"").strip(), safe="%!$&'()*+,;=:@/?-._~[]"))
        if "COOKIE" in self.sections:
            # Cookies may stand on lines of their own.
            request.headers.append(("Cookie", " ".join(self.text("COOKIE").split())))
        for line in self.text("HEADERS").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                request.headers.append((name.strip(), value.strip()))
        for name, method, encode in (("POST", "POST", None), ("POST_RAW", "POST", None),
                                     ("PUT", "PUT", None), ("GZIP_POST", "POST", gzip.compress),
                                     ("DEFLATE_POST", "POST", zlib.compress)):
            if name in self.sections:
                self._body(request, name, method, encode)
        return request

    def _body(self, request: Request, name: str, method: str, encode) -> None:
        body = self.sections[name].strip(BLANK)
        content_type = "application/x-www-form-urlencoded"
        if name in ("POST_RAW", "PUT"):
            kept = []
            content_type = None
            for line in body.split(b"\n"):
                found = re.match(rb"^Content-Type:(.*)", line, re.S | re.I)
                if content_type is None and found:
                    content_type = found.group(1).decode("latin-1").strip()
                else:
                    kept.append(line)
            body = b"\n".join(kept)
        if encode:
            body = encode(body)
            request.headers.append(("Content-Encoding", "gzip" if encode is gzip.compress else "deflate"))
        if content_type:
            request.headers.append(("Content-Type", content_type))
        request.method, request.body = method, body

    def check(self, response) -> str | None:
        """None when the answer is what the test expects, else one line that says why not."""
        wrong = self._check_headers(response)
        if wrong:
            return wrong
        got = self._normal(response.body)
        for name, matches in (("EXPECT", equals), ("EXPECTF", matches_format),
                              ("EXPECTREGEX", matches_regex)):
            expected = self._external(name)
            if expected is not None:
                return None if matches(self._normal(expected), got) else f"output differs from {name}"
        return "the test has no expectation"

    def _normal(self, output: bytes) -> bytes:
        if "WHITESPACE_SENSITIVE" not in self.sections:
            output = output.strip(BLANK)
        return output.replace(b"\r\n", b"\n")

    def _check_headers(self, response) -> str | None:
        for line in self.text("EXPECTHEADERS").splitlines():
            name, colon, value = (part.strip() for part in line.partition(":"))
            if not colon:
                continue
            found = [str(response.status)] if name.lower() == "status" else response.headers(name)
            if name.lower() == "status":
                value = value[:3]
            if value not in found:
                return f"header {name}: expected '{value}', found {found or 'none'}"
        return None


def split_sections(text: bytes) -> dict[str, bytes]:
    sections: dict[str, bytes] = {}
    name, lines, done = None, [], False
    for line in re.findall(rb"[^\n]*\n|[^\n]+", text):   # not splitlines(): a lone \r is text
        found = SECTION.match(line)
        if found:
            if name:
                sections[name] = b"".join(lines)
            name, lines, done = found.group(1).decode(), [], False
        elif not done:
            lines.append(line)
            # Whatever follows ===DONE=== in the code is notes of the author.
            done = name == "FILE" and line.strip() == b"===DONE==="
    if name:
        sections[name] = b"".join(lines)
    return sections


def equals(expected: bytes, got: bytes) -> bool:
    return expected == got


def matches_regex(pattern: bytes, got: bytes) -> bool:
    return bounded_match(rb"^(?:" + pattern + rb")$", got)


def matches_format(pattern: bytes, got: bytes) -> bool:
    return bounded_match(b"^" + format_to_regex(pattern) + b"$", got)


def format_to_regex(pattern: bytes) -> bytes:
    """EXPECTF: literal text with %-escapes; what stands between two %r is a regular expression."""
    parts = pattern.split(b"%r")
    if len(parts) % 2 == 0:     # a single last %r is text
        parts[-2:] = [parts[-2] + b"%r" + parts[-1]]
    result = []
    for i, part in enumerate(parts):
        if i % 2 == 1:
            result.append(b"(" + part + b")")
            continue
        pieces = re.split(rb"%([esSaAwidxfc0])", part)
        result += [re.escape(p) if j % 2 == 0 else ESCAPES[p] for j, p in enumerate(pieces)]
    return b"".join(result)


def bounded_match(pattern: bytes, text: bytes) -> bool:
    """A match that takes longer than MATCH_SECONDS_MAX counts as none. Only in the main thread."""
    def give_up(*_):
        raise TimeoutError
    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(MATCH_SECONDS_MAX)
    try:
        # PCRE's $ and Python's agree on a last newline; both sides were trimmed anyway.
        return re.match(pattern.replace(rb"(?s)", b""), text, re.S) is not None
    except (TimeoutError, re.error):
        return False
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
