"""Requests that must be refused, as data: (name, bytes, statuses allowed).

Each is sent with a well-formed request behind it, which must never be answered: after a malformed
message nobody knows where the next one begins (RFC 9112 2.2, 6.3, 11.2). 400 unless a more exact status
exists. Sources: RFC 9110, RFC 9112, RFC 3986, and the tricks of the request-smuggling literature.
"""

H = b"Host: x\r\n"


def _get(line: bytes = b"GET / HTTP/1.1", fields: bytes = H) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


def _post(fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST /input.php HTTP/" + version + b"\r\n" + H + fields + b"\r\n" + body


def _chunked(body: bytes) -> bytes:
    return _post(b"Transfer-Encoding: chunked\r\n", body)


def _name(data: bytes) -> str:
    return data.decode("latin-1").encode("unicode_escape").decode()[:60] or "empty"


def request_lines():
    for line in (b"GET", b"GET ", b"GET /", b"GET / ", b"GET /  ", b"GET  /", b"/ HTTP/1.1", b" / HTTP/1.1"):
        yield f"line {_name(line)}", _get(line), {400, 505}
    for line in (b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET / HTTP/1.1 ", b" GET / HTTP/1.1", b"GET\t/ HTTP/1.1",
                 b"GET /\tHTTP/1.1", b"GET / HTTP/1.1\t", b"GET\x0b/ HTTP/1.1", b"GET\x0c/ HTTP/1.1", b"GET /\x0bHTTP/1.1",
                 b"GET /a b HTTP/1.1", b"GET / x HTTP/1.1", b"GET / HTTP/1.1 x", b"GET\xa0/ HTTP/1.1", b"\tGET / HTTP/1.1",
                 b"GET / / HTTP/1.1", b"GET /\x85HTTP/1.1"):
        yield f"line {_name(line)}", _get(line), {400}
    for method in (b"", b"G\x00T", b"G(T", b"G)T", b"G<T", b"G>T", b"G@T", b"G,T", b"G;T", b"G:T", b'G"T', b"G/T", b"G[T",
                   b"G]T", b"G?T", b"G=T", b"G{T", b"G}T", b"G\\T", b"G\x7fT", b"G\x80T", b"\xffET", b"GE\x01", b"G\rT",
                   b"\xef\xbb\xbfGET", b"\x00GET", b"\x16\x03\x01"):
        yield f"method {_name(method)}", _get(method + b" / HTTP/1.1"), {400}
    for version in (b"HTTP", b"HTTP/", b"HTTP/1", b"HTTP/1.", b"HTTP/.1", b"HTTP/1.1.1", b"HTTP/11", b"HTTP/1.10",
                    b"HTTP/01.1", b"HTTP/1.01", b"HTTP/1,1", b"HTTP/ 1.1", b"HTTP /1.1", b"HTTP/1 .1", b"HTTP/1. 1",
                    b"http/1.1", b"Http/1.1", b"hTTP/1.1", b"HTTPS/1.1", b"HTTQ/1.1", b"XTTP/1.1", b"HTTP/a.b",
                    b"HTTP/1.a", b"HTTP/-1.1", b"HTTP/+1.1", b"HTTP/1.-1", b"HTTP/1.1a", b"HTTP/1.1\x00", b"HTTP/0x1.1",
                    b"HTTP/\xb9.1", b"HTTP\\1.1", b"ICY/1.1", b"RTSP/1.0", b"\x00", b"HTTP/1.1;q=1", b"HTTP/1.1,"):
        yield f"version {_name(version)}", _get(b"GET / " + version), {400, 505}
    for version in (b"HTTP/0.9", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9", b"HTTP/2.1", b"HTTP/0.0"):
        yield f"version {_name(version)}", _get(b"GET / " + version), {505, 400}


def targets():
    for target in (b"x", b"index.php", b"*", b"*x", b"?x", b"#", b"", b"\\", b"http:", b"http:/", b"http://", b"http:///",
                   b"http:///x", b"http://?x", b"http://@/", b"ftp://x/", b"file:///etc/passwd", b"mailto:a@b", b"://x/",
                   b"x:80", b"javascript:1", b"http//x/", b"h ttp://x/", b"http:\\\\x\\"):
        yield f"target {_name(target)}", _get(b"GET " + target + b" HTTP/1.1"), {400}
    for target in (b"/\x00", b"/a\x00b", b"/\x01", b"/\x08", b"/\x0b", b"/\x0c", b"/\x0e", b"/\x1f", b"/\x7f", b"/\r", b"/\rx"):
        yield f"target {_name(target)}", _get(b"GET " + target + b" HTTP/1.1"), {400}


def paths():
    """Framed well, so the connection may live on; but no such resource can be."""
    for target in (b"/%", b"/%4", b"/%zz", b"/%g0", b"/%0g", b"/a%", b"/%%30%30", b"/%u0041", b"/% 41", b"/%00", b"/x%00.php",
                   b"/hello.php%00.jpg", b"/hello.php%", b"/%2", b"/%-1", b"/%+1"):
        yield f"escape {_name(target)}", _get(b"GET " + target + b" HTTP/1.1"), {400}
    for target in (b"/..", b"/../", b"/../etc/passwd", b"/a/../../etc/passwd", b"/%2e%2e/etc/passwd", b"/%2e%2e%2fetc/passwd",
                   b"/.%2e/etc/passwd", b"/..%2f..%2fetc/passwd", b"/a/..//../x", b"/./../x", b"//../x"):
        yield f"climb {_name(target)}", _get(b"GET " + target + b" HTTP/1.1"), {400}
    for line in (b"CONNECT / HTTP/1.1", b"CONNECT x HTTP/1.1", b"CONNECT http://x/ HTTP/1.1", b"CONNECT x:y HTTP/1.1",
                 b"CONNECT x:80 HTTP/1.1", b"POST * HTTP/1.1", b"OPTIONS ** HTTP/1.1", b"OPTIONS x HTTP/1.1"):
        yield f"form {_name(line)}", _get(line), {400, 405, 501}


def field_lines():
    for name in (b"", b" ", b"\t", b"A B", b"A\tB", b"A ", b"A\t", b" A", b"A\x00", b"\x00A", b"A\x01", b"A\x7f", b"A\x80",
                 b"A(", b"A)", b"A<", b"A>", b"A@", b"A,", b"A;", b'A"', b"A/", b"A[", b"A]", b"A?", b"A=", b"A{", b"A}",
                 b"A\\", b"A\x0b", b"A\x0c", b"\xe4", b"A\r", b"\xef\xbb\xbfA", b"A\xa0"):
        yield f"name {_name(name)}", _get(fields=H + name + b": v\r\n"), {400}
        if name.strip() and name != b" A":
            yield f"first name {_name(name)}", _get(fields=name + b": v\r\n" + H), {400}
    for line in (b"NoColon", b"No Colon", b": v", b":", b" : v", b"A", b"GET / HTTP/1.1", b"A\x00: v", b"=", b"A;b", b"--", b"{}"):
        yield f"no field {_name(line)}", _get(fields=H + line + b"\r\n"), {400}
    for value in (b"\x00", b"a\x00b", b"\x01", b"\x02", b"\x03", b"\x04", b"\x05", b"\x06", b"\x07", b"\x08", b"\x0b", b"\x0c",
                  b"\x0e", b"\x10", b"\x1b[31m", b"\x1f", b"a\x7fb", b"a\rb", b"\ra", b"a\r", b"a\r\r", b"a\r \r"):
        yield f"value {_name(value)}", _get(fields=H + b"A: " + value + b"\r\n"), {400}
    for fold in (b"A: b\r\n c\r\n", b"A: b\r\n\tc\r\n", b"A:\r\n b\r\n", b"A: b\r\n \r\n", b"A: b\r\n\t\r\n",
                 b"Transfer-Encoding:\r\n chunked\r\n", b"Content-Length: 1\r\n 2\r\n", b" A: b\r\n", b"\tA: b\r\n"):
        yield f"fold {_name(fold)}", _get(fields=H + fold), {400}
        yield f"fold first {_name(fold)}", _get(fields=fold + H), {400}
    yield "fold of Host", _get(fields=b"Host:\r\n x\r\n"), {400}
    yield "white space behind the request line", b"GET / HTTP/1.1\r\n \r\nHost: x\r\n\r\n", {400}
    yield "field behind white space", b"GET / HTTP/1.1\r\n\tHost: x\r\n\r\n", {400}


def line_ends():
    yield "bare LF after the request line", b"GET / HTTP/1.1\nHost: x\r\n\r\n", {400}
    yield "bare LF after a field", b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", {400}
    yield "bare LF at the end", b"GET / HTTP/1.1\r\nHost: x\r\n\n", {400}
    yield "only bare LF", b"GET / HTTP/1.1\nHost: x\n\n", {400}
    yield "LF CR", b"GET / HTTP/1.1\n\rHost: x\n\r\n\r", {400}
    yield "bare CR after the request line", b"GET / HTTP/1.1\rHost: x\r\n\r\n", {400}
    yield "bare CR after a field", b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", {400}
    yield "only bare CR", b"GET / HTTP/1.1\rHost: x\r\r", {400}
    yield "CR CR LF after the request line", b"GET / HTTP/1.1\r\r\nHost: x\r\n\r\n", {400}
    yield "CR CR LF after a field", b"GET / HTTP/1.1\r\nHost: x\r\r\n\r\n", {400}
    yield "CR CR LF at the end", b"GET / HTTP/1.1\r\nHost: x\r\n\r\r\n", {400}
    yield "LF before the request line", b"\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", {400}
    yield "CR before the request line", b"\rGET / HTTP/1.1\r\nHost: x\r\n\r\n", {400}
    yield "space before the request line", b" GET / HTTP/1.1\r\nHost: x\r\n\r\n", {400}
    yield "two empty lines before the request line", b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", {400, 200}
    yield "NUL at the end of the head", b"GET / HTTP/1.1\r\nHost: x\r\n\x00\r\n", {400}
    yield "vertical tab as a line end", b"GET / HTTP/1.1\x0bHost: x\r\n\r\n", {400}
    yield "form feed as a line end", b"GET / HTTP/1.1\r\nHost: x\x0cA: b\r\n\r\n", {400}
    yield "next line as a line end", b"GET / HTTP/1.1\x85Host: x\r\n\r\n", {400}


def hosts():
    yield "no Host", b"GET / HTTP/1.1\r\n\r\n", {400}
    yield "no Host but another field", b"GET / HTTP/1.1\r\nA: b\r\n\r\n", {400}
    yield "two Hosts", _get(fields=H + b"Host: y\r\n"), {400}
    yield "two equal Hosts", _get(fields=H + H), {400}
    yield "two Hosts apart", _get(fields=H + b"A: b\r\nhOST: y\r\n"), {400}
    yield "two Hosts in HTTP/1.0", _get(b"GET / HTTP/1.0", H + b"Host: y\r\n"), {400}
    yield "two Hosts with an absolute target", _get(b"GET http://x/ HTTP/1.1", H + H), {400}
    yield "no Host with an absolute target", b"GET http://x/ HTTP/1.1\r\n\r\n", {400}
    for host in (b"a b", b"a,b", b"x, y", b"x y", b"a/b", b"a?b", b"a#b", b"a@b", b"user@x", b"http://x", b"x:", b"x:a", b"x:-1",
                 b"x:99999", b"x:80:80", b"x:8 0", b"x :80", b"[", b"]", b"[::1", b"::1]", b"[::1]x", b"[zz]", b"[::1]:a", b"x\\y",
                 b"<x>", b'"x"', b"x^y", b"x`y", b"x{y}", b"x|y", b"x%", b"x%zz", b"[]", b"[::1]]", b"[[::1]]", b"x\x80", b"x;y"):
        if host != b"x:":   # an empty port is allowed (RFC 3986 3.2.3)
            yield f"Host {_name(host)}", _get(fields=b"Host: " + host + b"\r\n"), {400}
    yield "space before the colon of Host", _get(fields=b"Host : x\r\n"), {400}
    yield "bad authority in an absolute target", _get(b"GET http://a%zz/ HTTP/1.1"), {400}
    yield "user in an absolute target", _get(b"GET http://u:p@x/ HTTP/1.1"), {400}


def lengths():
    for value in (b"", b" ", b"a", b"-1", b"+1", b"1a", b"a1", b"0x5", b"5.0", b"5,", b",5", b"5, 5", b"5,5", b"5 5", b"5, 6", b"1e1",
                  b"\xb2", b"9" * 19, b"9" * 20, b"9" * 40, b"18446744073709551616", b"18446744073709551621",
                  b"9223372036854775808", b"-0", b"+0", b"0 0", b"0;", b"5;a", b"'5'", b'"5"', b"5\x00", b"\x005", b"0b1", b"1_0",
                  b"5\x0b", b"\x0c5", b"four", b"NaN", b"0,0", b"5\t5", b"4294967296 0"):
        yield f"Content-Length {_name(value)}", _post(b"Content-Length: " + value + b"\r\n", b"hello"), {400, 413}
    for fields in (b"Content-Length: 5\r\nContent-Length: 5\r\n", b"Content-Length: 5\r\nContent-Length: 6\r\n",
                   b"Content-Length: 0\r\nContent-Length: 5\r\n", b"Content-Length: 5\r\ncontent-length: 0\r\n",
                   b"Content-Length: 5\r\nA: b\r\nContent-Length: 5\r\n", b"Content-Length: 5\r\nContent-Length:\r\n",
                   b"Content-Length : 5\r\n", b"Content-Length\t: 5\r\n", b"Content-Length\x00: 5\r\n",
                   b"Content-Length: 5\r\nContent-Length : 5\r\n", b"Content-Length\x0b: 5\r\n"):
        yield f"lengths {_name(fields)}", _post(fields, b"hello"), {400}


def codings():
    end = b"0\r\n\r\n"
    for value in (b"", b"chunked, chunked", b"chunked,chunked", b"chunked, identity", b"identity", b"chunked, gzip", b"xchunked",
                  b"chunkedx", b"x chunked", b"chunked x", b"chunked;", b"chunked;q=1", b"chunked; a=b", b"'chunked'",
                  b'"chunked"', b"\x0bchunked", b"chunked\x0b", b"\x00chunked", b"chunked\x00", b"chunked,", b",chunked",
                  b"chunked, ", b" , chunked", b"cow", b"cow, identity", b"chunk", b"chunke", b"c\xe4hunked", b"nchunked", b"chunked\xa0",
                  b"[chunked]", b"{chunked}", b"chunked chunked", b"gzip", b"deflate", b"compress", b"chunked\x7f"):
        yield f"coding {_name(value)}", _post(b"Transfer-Encoding: " + value + b"\r\n", end), {400, 501}
    for value in (b"gzip, chunked", b"cow, chunked", b"identity, chunked", b"deflate,chunked", b"x, y, chunked"):
        yield f"coding {_name(value)}", _post(b"Transfer-Encoding: " + value + b"\r\n", end), {501, 400}
    for fields in (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                   b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
                   b"Transfer-Encoding: gzip, chunked\r\nContent-Length: 5\r\n", b"Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
                   b"Content-Length: 5\r\ntRANSFER-eNCODING: cHUNKED\r\n", b"Content-Length: 5\r\nTransfer-Encoding: x\r\n",
                   b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                   b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                   b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
                   b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n",
                   b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding\t: chunked\r\n", b" Transfer-Encoding: chunked\r\n",
                   b"Transfer-Encoding\x00: chunked\r\n", b"X: y\r\n Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:\r\n\tchunked\r\n",
                   b"Transfer-Encoding: chunked\r\nContent-Length: abc\r\n", b"X: y\nTransfer-Encoding: chunked\r\n",
                   b"X: y\rTransfer-Encoding: chunked\r\n", b"Transfer-Encoding\x0b: chunked\r\n"):
        yield f"codings {_name(fields)}", _post(fields, end), {400, 501}
    yield "chunked in HTTP/1.0", _post(b"Transfer-Encoding: chunked\r\n", end, b"1.0"), {400, 501}
    yield "chunked in HTTP/1.0 kept alive", _post(b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n", end, b"1.0"), {400, 501}


def chunks():
    for size in (b"", b" ", b"g", b"-1", b"+1", b"0x1", b"1 1", b" 1", b"\t1", b"1\x00", b"x", b"1,", b"1g", b"\xb2", b"1.0", b"0x0",
                 b"1\x0b", b"\x001", b"'1'", b"--", b"1_0", b"f" * 16, b"f" * 17, b"1" + b"0" * 16,
                 b"0" * 4096 + b"1", b"80000000" * 3,
                 b"10000000000000001", b"5 hello", b"{5}", b"h5", b"5h", b"0 0", b"%35", b"1\x7f", b"-0", b"+0"):
        yield f"chunk size {_name(size)}", _chunked(size + b"\r\nx\r\n0\r\n\r\n"), {400, 413}
    for body in (b"1\nx\r\n0\r\n\r\n", b"1\rx\r\n0\r\n\r\n", b"1\r\nx\n0\r\n\r\n", b"1\r\nx\r0\r\n\r\n", b"1\r\nx0\r\n\r\n", b"1\r\nxy\r\n0\r\n\r\n",
                 b"1\r\nx\r\n0\n\r\n", b"2\r\nx\r\n0\r\n\r\n", b"1\r\nx\r\n0\r\n\n", b"1\r\nx\r\r\n0\r\n\r\n", b"1\r\r\nx\r\n0\r\n\r\n", b"1\r\nx\n\r0\r\n\r\n",
                 b"1\n\nx\r\n0\r\n\r\n", b"\r\n1\r\nx\r\n0\r\n\r\n", b"1\r\nx\r\n\r\n0\r\n\r\n", b"1\r\nx\r\n0\r\n\r\r\n"):
        yield f"chunk {_name(body)}", _chunked(body), {400}
    for extension in (b";\x00", b";a=\x00", b";a=\nb", b";a=\rb", b";a=b\x01", b';a="\n"', b';a="\x00"', b";a\x7f", b"; a=\x0b", b" x", b"=a",
                      b",a", b';a="b', b";=", b";a==", b";(", b";a=b c=d"):
        yield f"extension {_name(extension)}", _chunked(b"1" + extension + b"\r\nx\r\n0\r\n\r\n"), {400}
    for trailer in (b" A: b\r\n", b"A : b\r\n", b"A\r\n", b": b\r\n", b"A: b\n", b"A: \x00\r\n", b"A: b\r\n c\r\n", b"A: b\rB: c\r\n", b"A\x00: b\r\n",
                    b"GET / HTTP/1.1\r\n", b"A: \x7f\r\n", b"A: b\r\r\n", b"(: b\r\n", b"A b: c\r\n"):
        yield f"trailer {_name(trailer)}", _chunked(b"1\r\nx\r\n0\r\n" + trailer + b"\r\n"), {400}
    yield "an endless chunk extension", _chunked(b"1;" + b"a" * 100_000), {400}
    yield "endless trailers", _chunked(b"0\r\n" + b"A: b\r\n" * 50_000), {400, 431}


def others():
    yield "Expect of something else", _post(b"Expect: 200-ok\r\nContent-Length: 5\r\n", b"hello"), {417}
    yield "Expect twice", _post(b"Expect: 100-continue\r\nExpect: x\r\nContent-Length: 5\r\n", b"hello"), {417, 400}
    yield "TLS client hello", bytes.fromhex("16030100c8010000c40303") + b"\x55" * 190, {400}
    yield "SSH", b"SSH-2.0-OpenSSH_9.2\r\n", {400}
    yield "SMTP", b"EHLO x\r\n", {400, 505}
    yield "HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}
    yield "a response", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", {400}
    yield "zeroes", b"\x00" * 64, {400}
    yield "PROXY line to a listener without it", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + _get(), {400}
    yield "PROXY v2 to a listener without it", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + b"\x7f" * 12, {400}
    yield "a long method", b"A" * 20_000, {400, 414, 501}
    yield "a long target", _get(b"GET /" + b"a" * 20_000 + b" HTTP/1.1"), {414}
    yield "a long target without end", b"GET /" + b"a" * 200_000, {414}
    yield "a long query", _get(b"GET /?" + b"a" * 20_000 + b" HTTP/1.1"), {414}
    yield "a long field name", _get(fields=H + b"A" * 100_000 + b": b\r\n"), {431, 400}
    yield "a long field value", _get(fields=H + b"A: " + b"b" * 100_000 + b"\r\n"), {431, 400}
    yield "a long field without end", b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 300_000, {431, 400}
    yield "many fields", _get(fields=H + b"".join(b"A%d: b\r\n" % i for i in range(1000))), {431, 400}
    yield "many empty fields", _get(fields=H + b"A:\r\n" * 5000), {431, 400}


# (name, bytes, statuses, whether the connection must be closed)
CASES = [(*case, group is not paths)
         for group in (request_lines, targets, paths, field_lines, line_ends, hosts, lengths, codings, chunks, others)
         for case in group()]
