"""`sapid bench https://`: nginx with a CA of our own, and everything that can be wrong with the other side."""
import hashlib
import os
import socket
import ssl
import subprocess
import threading

import pytest

from lib import ports
from lib.bench import bench, run
from lib.process import Process, accepts
from lib.target import Target

pytestmark = pytest.mark.sapid_only

LARGE = os.urandom(1 << 20) * 5


def causes(result) -> dict[str, int]:
    return {f"{cause['kind']}: {cause['text']}": cause["count"] for cause in result["causes"]}


def openssl(*args, cwd, text=""):
    subprocess.run(["openssl", *args], cwd=cwd, check=True, capture_output=True, text=True, input=text, timeout=60)


class Certificates:
    """A CA and what it has signed: "good" for localhost and 127.0.0.1, "other" for another name, "old" which is over."""
    EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]

    def __init__(self, folder):
        self.folder, self.ca = folder, folder / "ca.pem"
        openssl("req", "-x509", *self.EC, "-days", "2", "-subj", "/CN=sapid test CA", "-keyout", "ca.key", "-out", "ca.pem",
                cwd=folder)
        self.sign("good", "DNS:localhost,IP:127.0.0.1")
        self.sign("other", "DNS:other.example")
        # OpenSSL 3.5 refuses a negative number of days; 3.0 has no other way.
        dated = "-not_after" in subprocess.run(["openssl", "x509", "-help"], capture_output=True, text=True, timeout=60).stderr
        self.sign("old", "DNS:localhost,IP:127.0.0.1",
                  ["-not_before", "20200101000000Z", "-not_after", "20200102000000Z"] if dated else ["-days", "-1"])

    def sign(self, name, alt_names, valid=("-days", "2")):
        (self.folder / "ext").write_text(f"subjectAltName={alt_names}\n")
        openssl("req", *self.EC, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr", cwd=self.folder)
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", *valid,
                "-set_serial", str(len(name)), "-extfile", "ext", "-out", f"{name}.pem", cwd=self.folder)

    def context(self, name="good") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


class Nginx:
    def __init__(self, folder, certificates, protocol):
        self.port = ports.free_port()
        root = folder / "root"
        root.mkdir()
        (root / "hello.txt").write_text("hello")
        (root / "large.bin").write_bytes(LARGE)
        os.chmod(folder, 0o755)
        config = folder / "nginx.conf"
        temp = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in
                       ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        user = "user root;\n" if os.geteuid() == 0 else ""
        config.write_text(f"""{user}daemon off; worker_processes 1; pid {folder}/pid;
events {{ }}
http {{
    access_log off; {temp}
    server {{
        listen 127.0.0.1:{self.port} ssl;
        ssl_protocols {protocol}; ssl_session_cache shared:all:1m;
        ssl_certificate {certificates.folder}/good.pem; ssl_certificate_key {certificates.folder}/good.key;
        root {root};
        location /name {{ return 200 "$ssl_server_name $ssl_protocol"; }}
        location /close {{ keepalive_requests 1; return 200 "hello"; }}
    }}
}}
""")
        self.process = Process(["/usr/sbin/nginx", "-e", folder / "error.log", "-p", folder, "-c", config],
                               folder / "nginx.log")
        self.process.wait_until(lambda: accepts(("127.0.0.1", self.port)), "its port to open")

    def url(self, path, host="localhost"):
        return f"https://{host}:{self.port}/{path}"


@pytest.fixture(scope="module", params=["TLSv1.2", "TLSv1.3"])
def nginx(request, tmp_path_factory, certificates):
    server = Nginx(tmp_path_factory.mktemp("nginx"), certificates, request.param)
    server.protocol = request.param
    yield server
    server.process.stop()


# --- right -------------------------------------------------------------------------------------------

def test_kept_connections(nginx, certificates):
    result = bench(nginx.url("hello.txt"), "--cacert", certificates.ca, "--requests", 2000, "--concurrency", 8,
                   "--threads", 2, "--expect-text", "hello", "--expect-length", 5)
    assert result["total_requests"] == 2000 and result["success_rate"] == 100 and result["causes"] == []
    assert result["tls"]["protocol"].startswith(nginx.protocol + ", ")
    assert 8 <= result["tls"]["handshakes"] <= 12


@pytest.mark.parametrize("how", ["--no-keepalive", "close"])
def test_a_session_shortens_the_handshakes_that_follow(nginx, certificates, how):
    args = [nginx.url("close")] if how == "close" else [nginx.url("hello.txt"), how]
    result = bench(*args, "--cacert", certificates.ca, "--requests", 200, "--concurrency", 2)
    assert result["success_rate"] == 100
    assert result["tls"]["handshakes"] == 200
    assert result["tls"]["resumed"] >= 190


def test_large_bodies_are_whole(nginx, certificates):
    result = bench(nginx.url("large.bin"), "--cacert", certificates.ca, "--requests", 10, "--concurrency", 3,
                   "--expect-sha256", hashlib.sha256(LARGE).hexdigest())
    assert result["success_rate"] == 100


def test_the_name_is_sent_and_an_address_is_not(nginx, certificates):
    for host, said in (("localhost", "localhost"), ("127.0.0.1", "")):
        result = bench(nginx.url("name", host), "--cacert", certificates.ca, "--requests", 5,
                       "--expect-text", f"{said} {nginx.protocol}", "--expect-length", len(f"{said} {nginx.protocol}"))
        assert result["success_rate"] == 100


def test_open_loop(nginx, certificates):
    result = bench(nginx.url("hello.txt"), "--cacert", certificates.ca, "--rps", 300, "--duration", "1s")
    assert result["total_requests"] == 300 and result["success_rate"] == 100


def test_every_report_has_the_handshakes(nginx, certificates, tmp_path):
    args = [nginx.url("hello.txt"), "--cacert", certificates.ca, "--requests", 5, "--concurrency", 1]
    text = run(*args, "--html", tmp_path / "r.html").stdout
    assert f"TLS:                   {nginx.protocol}, " in text and "; 1 handshakes, 0 of them resumed" in text
    assert "tls_handshakes=1\n" in run(*args, "--format", "kv").stdout
    assert "TLS handshakes" in (tmp_path / "r.html").read_text()


def test_a_request_body_larger_than_the_socket_takes_at_once(certificates):
    with Target(lambda request: request.answer(hashlib.sha256(request.body).hexdigest().encode()),
                tls=certificates.context()) as target:
        (certificates.folder / "body").write_bytes(LARGE)
        result = bench(target.url, "--cacert", certificates.ca, "--body-file", certificates.folder / "body", "--requests", 6,
                       "--concurrency", 2, "--expect-text", hashlib.sha256(LARGE).hexdigest())
    assert result["success_rate"] == 100


def test_unix_sockets(certificates, tmp_path):
    with Target(lambda request: request.answer(), unix=tmp_path / "s", tls=certificates.context("other")) as target:
        result = bench("https://other.example/", "--unix", tmp_path / "s", "--cacert", certificates.ca, "--requests", 20)
    assert result["success_rate"] == 100
    assert target.connections == 10


@pytest.mark.parametrize("step", [1, 100])
def test_an_answer_in_many_records(certificates, step):
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"

    def behave(request):
        for i in range(0, len(answer), step):
            request.send(answer[i:i + step])

    with Target(behave, tls=certificates.context()) as target:
        result = bench(target.url, "--cacert", certificates.ca, "--requests", 20, "--concurrency", 2, "--expect-length", 5)
    assert result["success_rate"] == 100


# --- wrong -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, options, why", [
    ("good", [], "TLS: certificate: unable to get local issuer certificate"),
    ("other", ["ca"], "TLS: certificate: IP address mismatch"),
    ("old", ["ca"], "TLS: certificate: certificate has expired"),
], ids=["unknown-ca", "other-name", "expired"])
def test_certificates_are_checked_unless_insecure(certificates, name, options, why):
    trust = ["--cacert", certificates.ca] if options else []
    with Target(lambda request: request.answer(), tls=certificates.context(name)) as target:
        result = bench(target.url, *trust, "--requests", 20, "--concurrency", 2, status=1)
        assert result["errors"]["connect"] == result["errors"]["total"] == 20
        assert causes(result) == {f"connect: {why}": 20}
        assert target.lines == [], "the request went out although nobody knows to whom"
        assert bench(target.url, "--insecure", "--requests", 20)["success_rate"] == 100


def test_a_folder_of_certificates(certificates):
    openssl("rehash", ".", cwd=certificates.folder)
    with Target(lambda request: request.answer(), tls=certificates.context()) as target:
        assert bench(target.url, "--cacert", certificates.folder, "--requests", 5)["success_rate"] == 100


class Raw:
    """A server of bytes: `behave(connection)` in a thread for each."""

    def __init__(self, behave):
        self.behave = behave
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"https://127.0.0.1:{self.listener.getsockname()[1]}/"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        with connection:
            try:
                self.behave(connection)
            except OSError:
                pass


def plain_http(connection):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def noise(connection):
    connection.recv(65536)
    connection.sendall(bytes(range(256)) * 100)


def close_at_once(connection):
    connection.recv(65536)


def alert(connection):
    connection.recv(65536)
    connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")  # fatal, handshake_failure


@pytest.mark.parametrize("behave, why", [
    (plain_http, "what the server sends is not TLS"), (noise, "what the server sends is not TLS"),
    (close_at_once, "closed"), (alert, "handshake failure"),
], ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("load", [[], ["--rps", 200]], ids=["closed", "open"])
def test_what_is_no_handshake_is_a_connect_error(behave, why, load):
    with Raw(behave) as server:
        result = bench(server.url, "--insecure", "--requests", 10, "--timeout", "5s", *load, status=1)
    assert result["errors"]["connect"] == result["errors"]["total"] == 10
    assert all(why in text for text in causes(result)), causes(result)
    assert result["tls"]["handshakes"] == 0


def test_a_handshake_that_never_ends_times_out():
    release = threading.Event()
    with Raw(lambda connection: release.wait(60)) as server:
        result = bench(server.url, "--insecure", "--duration", "1s", "--concurrency", 3, "--timeout", "600ms", status=1)
        release.set()
    assert 3 <= result["errors"]["timeout"] == result["errors"]["total"] <= 6
    assert causes(result) == {"timeout: the TLS handshake did not end": result["errors"]["total"]}


def test_an_end_without_notice_is_no_end_of_an_answer(certificates):
    """Anybody on the way can close a connection; only the server can say that its answer ends there."""
    def behave(request):
        request.send(b"HTTP/1.1 200 OK\r\n\r\nhel")
        if "/told" in request.line:
            request.connection.unwrap()
        request.close()

    with Target(behave, tls=certificates.context()) as target:
        assert bench(target.url + "told", "--insecure", "--requests", 5, "--expect-text", "hel")["success_rate"] == 100
        result = bench(target.url + "cut", "--insecure", "--requests", 5, status=1)
    assert result["errors"]["read"] == 5
    assert list(causes(result)) == ["read: closed without notice"]


def test_garbage_after_the_handshake(certificates):
    def behave(request):
        socket.socket(fileno=os.dup(request.connection.fileno())).sendall(b"this is no record of TLS" * 100)

    with Target(behave, tls=certificates.context()) as target:
        result = bench(target.url, "--insecure", "--requests", 6, "--concurrency", 2, "--timeout", "5s", status=1)
    assert result["errors"]["read"] == result["errors"]["total"] == 6


def test_a_server_that_dies_in_the_middle(certificates):
    with Target(lambda request: target.stop() if request.number == 100 else request.answer(),
                tls=certificates.context()) as target:
        result = bench(target.url, "--insecure", "--duration", "1s", status=1)
    assert result["status"]["200"] >= 90 and result["errors"]["connect"] > 5
    assert result["duration_s"] < 1.5


def test_one_server_is_one_scheme(tmp_path):
    (tmp_path / "urls").write_text("http://127.0.0.1:1/\nhttps://127.0.0.1:1/\n")
    done = run("--urls", tmp_path / "urls")
    assert done.returncode == 2 and "urls:2: expected URLs of one server" in done.stderr
