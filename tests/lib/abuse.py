"""Random scripts that abuse what PHP offers for the head of an answer, settings and output, and random requests to them:
forms, uploads and fields that are broken in every way. What comes from one seed is always the same."""
import random
import string

BYTES = [bytes([n]).decode("latin-1") for n in range(256)]
PIECES = ["", " ", "\t", "\r", "\n", "\r\n", "\0", "\x01", "\x7f", "\x80", "\xff", ":", ";", ",", "=", "\"", "'", "\\", "/", "//", "..", "%", "%00", "%0d%0a", "<b>", "&amp;",
          "a", "Z", "0", "-1", "9" * 30, "1e999", "true", "null", "\xc3\xa4", "\xf0\x9f\x90\x98", "[", "]", "[]", "{", "}", "(", ")", "$", "${x}", "php://input", "php://output",
          "/etc/passwd", "/dev/null", "HTTP/1.1 200", "Content-Length: 0", "Status: 204", "x" * 255, "y" * 4096]
FIELDS = ["X-A", "x-a", "Content-Type", "Content-Length", "Location", "Set-Cookie", "Status", "Date", "Server", "Connection", "Transfer-Encoding", "Trailer", "Upgrade",
          "Content-Encoding", "ETag", "Last-Modified", "Cache-Control", "Link", "WWW-Authenticate", "X-Accel-Redirect", "X-Sendfile", "X-Accel-Buffering", "X-Accel-Expires",
          "Expires", "Refresh", "Vary", "Content-Range", "Accept-Ranges", "Content-Disposition", "Keep-Alive", "TE", ":reason", "HTTP/1.1 204", "X-Powered-By", "Pragma"]
VALUES = ["0", "1", "5", "-1", "100000", "18446744073709551616", "text/html", "text/plain; charset=utf-8", "chunked", "close", "keep-alive", "gzip", "identity", "/", "/x y", "//h/",
          "no", "yes", "bytes", "bytes 0-4/10", "404 Not Found", "204", "304", "999", "100", "Mon, 01 Jan 2024 00:00:00 GMT", "\"tag\"", "*", "/files/a.txt", "/files/../code", "a=b"]
USUAL = [200, 201, 204, 205, 206, 301, 302, 304, 400, 401, 404, 416, 500, 503, 599]
LINES = ["HTTP/1.1 200 OK", "HTTP/1.1 204", "HTTP/1.1 304", "HTTP/1.1 404 ", "HTTP/1.1 999 Much", "HTTP/1.1 100", "HTTP/2 500", "HTTP/1.1 abc", "HTTP/1.1", "http/1.0 201 Made", "HTTP/"]


class Abuse:
    def __init__(self, seed):
        self.random = random.Random(seed)

    # --- values ---

    def pick(self, *choices):
        return self.random.choice(choices)

    def junk(self, most=6) -> str:
        """Latin-1 text of pieces that somebody could read otherwise, or of any bytes."""
        r = self.random
        if most >= 6 and r.random() < 0.04:
            return r.choice("xy\xff,;a:") * r.choice([1000, 8190, 8192, 20_000, 65_535, 65_536, 70_000, 300_000])
        if r.random() < 0.2:
            return "".join(r.choice(BYTES) for _ in range(r.randrange(most * 4)))
        return "".join(r.choice(PIECES) if r.random() < 0.5 else r.choice(string.ascii_letters) for _ in range(r.randrange(most)))

    def number(self) -> int:
        r = self.random
        odd = [0, 1, -1, 2, 100, 103, 199, 600, 999, 1000, 65535, 65536, 2**31 - 1, -2**31, 2**63 - 1, r.randrange(1000)]
        return r.choice(odd if r.random() < 0.3 else USUAL)

    def value(self) -> str:
        """A PHP expression."""
        r = self.random
        return r.choice([lambda: php(self.junk()), lambda: str(self.number()), lambda: php(r.choice(VALUES)),
                         lambda: r.choice(["null", "true", "false", "[]", "1.5", "NAN", "new stdClass"]),
                         lambda: f"str_repeat({php(self.junk(3))}, {r.choice([0, 1, 7, 1000, 5000])})", lambda: f"[{php(self.junk(3))} => {php(self.junk(3))}]"])()

    # --- scripts ---

    def field(self) -> str:
        r = self.random
        name = r.choice(FIELDS) if r.random() < 0.7 else self.junk(4)
        value = r.choice(VALUES) if r.random() < 0.5 else self.junk()
        if r.random() < 0.1:
            return r.choice(LINES) + self.junk(2)
        return name + r.choice([": ", ":", ""] if r.random() < 0.8 else [" : ", ":\t", "=", ":: "]) + value

    def cookie(self) -> str:
        r = self.random
        arguments = [php(self.junk(4)), self.value(), str(self.number())]
        if r.random() < 0.5:
            options = ", ".join(f"{php(r.choice(['path', 'domain', 'secure', 'httponly', 'samesite', 'expires', self.junk(2)]))} => {self.value()}" for _ in range(r.randrange(4)))
            arguments[2:] = [f"[{options}]"]
        else:
            arguments += [php(self.junk(3)), php(self.junk(3)), r.choice(["true", "false"])]
        return f"{r.choice(['setcookie', 'setrawcookie'])}({', '.join(arguments[:r.randrange(1, len(arguments) + 1)])});"

    def session(self) -> str:
        r = self.random
        return r.choice([f"session_name({php(self.junk(3))});", f"session_id({php(self.junk(3))});", "@session_start();", "session_write_close();", "session_destroy();",
                         "session_regenerate_id(true);", "session_abort();", "$_SESSION['x'] = 1;", f"session_cache_limiter({php(r.choice(['public', 'private', '', self.junk(2)]))});",
                         f"session_set_cookie_params({self.number()}, {php(self.junk(3))}, {php(self.junk(3))});", f"session_cache_expire({self.number()});"])

    def setting(self) -> str:
        return f"ini_set($ini[{self.random.randrange(100_000)} % count($ini)], {self.value()});"

    def output(self) -> str:
        r = self.random
        return r.choice(["flush();", "ob_start();", "@ob_end_flush();", "@ob_end_clean();", "while (@ob_end_flush());", "ob_implicit_flush();", "@ob_clean();",
                         f"echo {php(self.junk())};", f"echo str_repeat({php(self.junk(3))}, {r.choice([1, 100, 5000])});", f"echo str_repeat('z', {r.choice([1, 8192, 65536, 300_000])});",
                         "ob_start(fn($t) => strrev($t));", f"ob_start(fn($t) => {php(self.junk(3))}, {r.choice([0, 1, 100])});", "ob_start('ob_gzhandler');",
                         f"output_add_rewrite_var({php(self.junk(2))}, {php(self.junk(2))});", "output_reset_rewrite_vars();", "readfile(__FILE__);", "phpinfo(INFO_VARIABLES);",
                         "ob_start(function ($t) { header('X-In: callback'); return $t; });", "ob_start(fn($t) => throw new Exception('callback'));"])

    def server(self) -> str:
        r = self.random
        return r.choice(["fastcgi_finish_request();", f"headers_send({self.number()});", "getallheaders();", "apache_response_headers();", f"apache_note({php(self.junk(2))}, {php(self.junk(2))});",
                         f"apache_setenv({php(self.junk(2))}, {php(self.junk(2))});", f"apache_getenv({php(self.junk(2))});", f"frankenphp_log({php(self.junk())}, {self.number()});",
                         "fpm_get_status();", "connection_status();", "ignore_user_abort(true);", f"error_log({php(self.junk())});", "header_register_callback(fn() => header('X-Callback: 1'));",
                         "header_register_callback(fn() => throw new Exception('callback'));", "header_register_callback(function () { echo 'more'; flush(); });"])

    def files(self) -> str:
        return self.pick("foreach ($_FILES as $f) echo strlen(serialize($f));", "foreach ($_FILES as $f) @move_uploaded_file($f['tmp_name'], $dir . '/moved' . getmypid());",
                         "echo strlen(file_get_contents('php://input'));", "echo strlen(serialize([$_GET, $_POST, $_COOKIE, $_SERVER, $_REQUEST]));", f"parse_str({php(self.junk(8))}, $parsed);",
                         "$in = fopen('php://input', 'r'); fseek($in, 10); echo strlen(fread($in, 100));")

    def end(self) -> str:
        r = self.random
        return r.choice([f"exit({self.value()});", "throw new Exception('end');", "missing_function();", f"trigger_error({php(self.junk())}, E_USER_ERROR);", "register_shutdown_function('flush');",
                         "register_shutdown_function(fn() => header('X-Late: 1'));", "register_shutdown_function(fn() => throw new Exception('late'));",
                         "register_shutdown_function(function () { exit('in shutdown'); });", "return;", "eval('parse error');", "ini_set('memory_limit', '4M'); str_repeat('x', 8 << 20);"])

    def statement(self) -> str:
        r = self.random
        kinds = [(6, lambda: f"header({php(self.field())});"), (2, lambda: f"header({php(self.field())}, {self.pick('true', 'false')}, {self.number()});"), (3, self.cookie),
                 (1, lambda: f"http_response_code({self.number()});"), (1, lambda: f"header_remove({self.pick('', php(self.junk(3)), php(r.choice(FIELDS)))});"), (2, self.session),
                 (3, self.setting), (4, self.output), (2, self.server), (2, self.files), (1, self.end)]
        make = r.choices([k for _, k in kinds], [w for w, _ in kinds])[0]
        return f"try {{ {make()} }} catch (Throwable $e) {{ }}" if r.random() < 0.7 else make()

    def script(self) -> str:
        """PHP code without its opening tag. $ini is a list of settings, $dir a folder to write in."""
        return "\n".join(self.statement() for _ in range(self.random.randrange(1, 14)))

    # --- requests ---

    def text_of_request(self, most=5) -> str:
        """As a header value: without what ends a line."""
        return "".join(c for c in self.junk(most) if c == "\t" or "\x20" <= c != "\x7f")[:4000]

    def headers(self) -> list[tuple[str, str]]:
        r = self.random
        found = []
        for _ in range(r.randrange(4)):
            name = r.choice(["Cookie", "Cookie", "Authorization", "Range", "If-None-Match", "If-Modified-Since", "Accept-Encoding", "Referer", "X-Forwarded-For", "Content-MD5", "Expect-CT"])
            value = r.choice([self.text_of_request(8), "PHPSESSID=" + self.text_of_request(2), "a=1; b[]=2; =; ;",
                              "Basic " + self.text_of_request(3), "bytes=0-1", "*", "gzip, br"])
            found.append((name, value.strip()))
        return found

    def multipart(self) -> tuple[str, bytes]:
        r = self.random
        boundary = r.choice(["b", "-" * 30 + "x", "a b", "q\"q", "", self.text_of_request(3), "z" * r.choice([70, 200, 2000])])
        line = f"\r\n--{boundary}"
        text = r.choice(["", "preamble"]) + line.lstrip("\r\n") if r.random() < 0.9 else line
        for _ in range(r.choice([0, 1, 2, 3, 30, 150])):
            text += r.choice(["\r\n", "\r\n", "\r\n", "\n", "", "  \r\n"])
            names = ["a", "f", "f[]", "f[a][b]", "f[", "f]", "[f]", "f[a", "a.b", "GLOBALS", "_FILES", "MAX_FILE_SIZE", "PHP_SESSION_UPLOAD_PROGRESS", "", self.junk(3), "n[" * 70 + "]" * 70]
            disposition = f'form-data; name="{r.choice(names)}"'
            if r.random() < 0.6:
                disposition += f'; filename={r.choice(chr(34) + chr(39) + " ")}{r.choice(["x.txt", "", "../../x", "C:" + chr(92) + "x", "a" * 300, self.junk(4)])}{r.choice([chr(34), ""])}'
            text += r.choice(["Content-Disposition: ", "content-disposition:", "Content-Disposition:\r\n ", "Content-Disposition "]) + disposition
            for _ in range(r.choice([0, 0, 1, 3, 40])):
                text += "\r\n" + r.choice(["Content-Type: text/plain", "Content-Type: multipart/mixed; boundary=c", "Content-Transfer-Encoding: base64", "X: " + self.junk(), ": ", " folded", "X" * 500])
            text += r.choice(["\r\n\r\n", "\r\n\r\n", "\r\n\r\n", "\n\n", "\r\n", ""])
            text += r.choice([self.junk(), "content", "", "0" * r.choice([1, 5000, 70_000]), line[2:], "\r\n--"]) + line
        body = (text + r.choice(["--\r\n", "--", "", "\r\n", "--\r\nepilogue"])).encode("latin-1", "replace")
        kind = r.choice(["multipart/form-data; boundary=", "multipart/form-data;boundary=", "multipart/form-data; charset=x; boundary=", "multipart/form-data, boundary="])
        kind += r.choice([boundary, f'"{boundary}"', f'"{boundary}', boundary + "; x=y"])
        return "".join(c for c in kind if "\x20" <= c != "\x7f"), self.mutate(body) if r.random() < 0.4 else body

    def mutate(self, body: bytes) -> bytes:
        r = self.random
        data = bytearray(body)
        for _ in range(r.randrange(1, 6)):
            if not data:
                break
            at, n = r.randrange(len(data)), r.randrange(1, 20)
            what = r.randrange(5)
            if what == 0:
                data[at] = r.randrange(256)
            elif what == 1:
                del data[at:at + n]
            elif what == 2:
                data[at:at] = data[at:at + n] * 3
            elif what == 3:
                del data[at:]
            else:
                data[at:at] = self.junk(3).encode("latin-1")
        return bytes(data)

    def body(self) -> tuple[str | None, bytes | None]:
        r = self.random
        make = r.choices(["none", self.multipart, self.form, "any", "json"], [3, 6, 3, 1, 1])[0]
        if make == "none":
            return None, None
        if make == "any":
            return self.text_of_request(3), self.junk(9).encode("latin-1")
        return ("application/json", b"{" * r.choice([1, 5000])) if make == "json" else make()

    def form(self) -> tuple[str, bytes]:
        fields = b"a=1&b[]=2&c[d][e]=f&" + b"k%d=v&" * self.pick(1, 10, 2000) + self.junk(9).encode("latin-1")
        return "application/x-www-form-urlencoded", self.mutate(fields)

    def request(self, target: str, host: str) -> tuple[str, bytes]:
        """(method, bytes of one well framed request)."""
        r = self.random
        kind, body = self.body()
        methods = ["POST", "POST", "PUT", "PATCH", "GET"] if body is not None else ["GET", "GET", "HEAD", "OPTIONS", "DELETE"]
        method = r.choice(methods)
        query = "".join(c for c in self.junk(8) if "\x21" <= c < "\x7f" and c not in "#\"<>\\^`{|}")[:2000]
        query = query.replace("%", self.pick("%25", "%41"))
        lines = [f"{method} {target}?{query} HTTP/1.1", f"Host: {host}", *(f"{n}: {v}" for n, v in self.headers())]
        if kind:
            lines.append(f"Content-Type: {kind.strip()}")
        if body is None:
            return method, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        if r.random() < 0.3:
            cut = r.randrange(1, len(body) + 2)
            framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:cut], body[cut:]) if piece) + b"0\r\n\r\n"
            lines.append("Transfer-Encoding: chunked")
        else:
            framed = body
            lines.append(f"Content-Length: {len(body)}")
        return method, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + framed


def php(text: str) -> str:
    """A PHP literal of these bytes."""
    if len(text) > 2000 and len(set(text)) == 1:
        return f"str_repeat({php(text[0])}, {len(text)})"
    return '"' + "".join(c if c.isascii() and (c.isalnum() or c in " :;,=/.-_[]()<>&*") else f"\\x{ord(c):02x}" for c in text) + '"'
