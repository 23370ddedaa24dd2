"""What is asked of the servers. Each workload is a path of one document root that all servers share."""
import os
import shutil

import peers

WWW = os.path.join(os.path.dirname(os.path.abspath(__file__)), "www")
STATIC_BYTES = 8192


class Workload:
    expect = ()     # what else `sapid bench` is to look for in answers

    def __init__(self, name, title, path, body_bytes=None, host=None, modes=None, connections=None):
        self.name, self.title, self.path, self.body_bytes = name, title, path, body_bytes
        self.host = host                # virtual host the application expects
        self.modes = modes or {}        # the path for a server in this mode; elsewhere the mode is not measured
        self.connections = connections  # None: those of --connections

    def path_on(self, server):
        """None: this server has no part in it."""
        return self.modes.get(server.mode) if server.mode else self.path

    def min_seconds(self, connections):
        """The least time in which this many connections see enough answers."""
        return 1

    @property
    def headers(self):
        return {"Host": self.host} if self.host else {}

    def check(self, server):
        """Fetches the page once and raises when the answer is not the workload's."""
        path = self.path_on(server)
        status, body = server.get(path, self.headers, timeout=30)
        if status != 200:
            raise peers.PeerError(f"{server.name}: GET {path} answers {status}, expected 200")
        if self.body_bytes is not None and len(body) != self.body_bytes:
            raise peers.PeerError(f"{server.name}: GET {path} gives {len(body)} bytes, "
                                  f"expected {self.body_bytes}")
        return body


class WordPress(Workload):
    def min_seconds(self, connections):
        return max(3, connections // 16)    # a page takes tens of milliseconds

    expect = ("--expect-text", "</html>")

    def check(self, server):
        body = super().check(server)
        if b"</html>" not in body or b"wp-" not in body:
            raise peers.PeerError(f"{server.name}: GET {self.path} is not WordPress's front page")
        return body


class Page(Workload):
    """A page of the Symfony application, the same bytes from every server in every mode."""

    def __init__(self, name, title, path, connections):
        super().__init__(name, title, path, connections=connections)

    def path_on(self, server):
        return self.path

    def check(self, server):
        body = super().check(server)
        if self.body_bytes is None:
            self.body_bytes = len(body)
        return body


HELLO = Workload("hello", "hello.php", "/hello.php", 14, modes={"worker": "/", "rollback": "/"})
SLEEP = Workload("sleep", "a page that sleeps 20 ms", "/sleep.php")
WORKLOADS = [
    HELLO,
    Workload("50k", "50 KiB page (512 echoes)", "/page50k.php", 512 * 100),
    Workload("1m", "1 MiB page", "/page1m.php", 1 << 20),
    Workload("static", f"static file, {STATIC_BYTES // 1024} KiB", "/static.css", STATIC_BYTES),
    WordPress("wordpress", "WordPress front page", "/", host="bench.test", modes={"image": "/"}),
]
# Symfony 6.4, Doctrine, Twig, MariaDB; as issue 5 asks for them.
SYMFONY = [
    Page("list", "Symfony, a list of articles with Twig, no database", "/en/blog/list", 16),
    Page("row", "Symfony, one row with Doctrine, JSON", "/api/products/9", 16),
    Page("blog", "Symfony, the front page of a blog with Doctrine and Twig", "/en/blog/", 100),
]


def make_docroot(directory):
    """The document root of everything but WordPress, readable by the servers' user."""
    docroot = os.path.join(directory, "www")
    shutil.copytree(WWW, docroot)
    line = ".some-class { color: #123456; }\n"
    with open(os.path.join(docroot, "static.css"), "w") as f:
        f.write((line * (STATIC_BYTES // len(line) + 1))[:STATIC_BYTES])
    return docroot
