"""[[route]]: what docs/routes.md says, asked of a running server; and `sapid check --explain` saying the same."""
import subprocess
import time

import pytest

from lib import account
from lib.fpm import Fpm
from lib.process import wait_until
from lib.sapid import binary
from lib.site import Site

pytestmark = pytest.mark.sapid_only

SHOW = ("<?php echo json_encode(['script' => $_SERVER['SCRIPT_NAME'], 'query' => $_SERVER['QUERY_STRING'] ?? '', "
        "'uri' => $_SERVER['REQUEST_URI'], 'get' => $_GET, 'info' => $_SERVER['PATH_INFO'] ?? '']);")

ROUTES = [
    # No PHP in the upload folder: one line each.
    {"match": {"prefix": "/uploads/"}, "backend": "static"},
    {"match": {"regex": r"^/wp-content/.*\.php$"}, "backend": "deny"},
    {"match": {"prefix": "/data/"}, "backend": "deny", "status": 404},
    {"match": {"exact": "/data/public.txt"}, "backend": "static"},
    {"match": {"suffix": ".bak"}, "backend": "deny", "status": 410},
    {"match": {"exact": "/old"}, "redirect": "/new", "status": 301},
    {"match": {"exact": "/https"}, "redirect": "https://$host$request_uri"},
    {"match": {"prefix": "/moved/"}, "redirect": "$scheme://$host/to$uri$query", "status": 308},
    {"match": {"regex": "^/u/([0-9]+)/([a-z]+)$"}, "try": ["$uri", "/app.php?id=$1&what=$2"]},
    {"match": {"prefix": "/spa/"}, "try": ["$uri", "$uri/", "/spa/index.html"]},
    {"match": {"prefix": "/only/"}, "try": ["$uri", "=404"]},
    {"match": {"prefix": "/front/"}, "try": ["$uri", "/app.php"]},
    {"match": {"exact": "/small"}, "max_body_size": 10},
    {"match": {"prefix": "/big"}, "max_body_size": "2M"},
    {"match": {"prefix": "/p/"}, "backend": "deny"},
    {"match": {"regex": "^/p/open"}, "backend": "php", "priority": 1},
    {"match": {"exact": "/slow.php"}, "request_timeout": "3s"},
]


@pytest.fixture(scope="module")
def server(launch_module):
    root = launch_module.new_root()
    files = {"index.php": SHOW, "app.php": SHOW, "uploads/evil.php": "<?php echo 'run';", "uploads/a.txt": "a", "data/secret.txt": "s",
             "data/public.txt": "p", "wp-content/x.php": "<?php echo 'run';", "wp-content/a.css": "a{}", "x.bak": "b", "spa/index.html": "spa",
             "spa/a.js": "js", "spa/d/index.html": "d", "only/a.txt": "a", "u/1/list": "a file", "big.php": "<?php echo strlen(file_get_contents('php://input'));",
             "slow.php": "<?php usleep((int)$_GET['ms'] * 1000); echo 'slept';", "quick.php": "<?php usleep(4000000); echo 'slept';"}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    account.give(root)
    return launch_module(root, routes=ROUTES, workers=2, expect_errors=True, server={"max_body_size": "1M"})


def run(*argv):
    return subprocess.run([binary(), *argv], capture_output=True, text=True, timeout=60)


def explain(server, url: str) -> str:
    done = run("check", "--config", server.config_path, "--explain", url)
    assert done.returncode == 0, done.stderr
    return done.stdout


ANSWERS = [
    ("/uploads/a.txt", 200, "a"), ("/uploads/evil.php", 404, None), ("/uploads/evil.php/x", 404, None), ("/uploads/none", 404, None),
    ("/%75ploads/evil.php", 404, None), ("/x/../uploads//evil.php", 404, None),
    ("/wp-content/x.php", 403, None), ("/wp-content/a.css", 200, "a{}"), ("/wp-content/none.php", 403, None),
    ("/data/secret.txt", 404, None), ("/data/public.txt", 200, "p"), ("/x.bak", 410, None), ("/no.bak", 410, None),
    ("/spa/a.js", 200, "js"), ("/spa/any/thing", 200, "spa"), ("/spa/d/", 200, "d"), ("/spa/d", 200, "d"), ("/spa/", 200, "spa"),
    ("/only/a.txt", 200, "a"), ("/only/b.txt", 404, None), ("/u/1/list", 200, "a file"), ("/p/x", 403, None),
]


@pytest.mark.parametrize("target,status,body", ANSWERS, ids=[a[0] for a in ANSWERS])
def test_answers(server, target, status, body):
    r = server.get(target)
    assert r.status == status
    assert body is None or r.text == body


@pytest.mark.parametrize("target,status,body", ANSWERS, ids=[a[0] for a in ANSWERS])
def test_explain_says_the_same(server, target, status, body):
    text = explain(server, target)
    assert f"answer: {status}" in text if status != 200 else "answer: the file " in text


@pytest.mark.parametrize("target,status,location", [
    ("/old", 301, "/new"), ("/old?a=1", 301, "/new"), ("/https?a=1&b=%20", 302, "https://h.example/https?a=1&b=%20"),
    ("/moved/x?q=1", 308, "http://h.example/to/moved/x?q=1"), ("/moved/x", 308, "http://h.example/to/moved/x")])
def test_redirects(server, target, status, location):
    r = server.get(target, {"Host": "h.example"})
    assert (r.status, r.header("location")) == (status, location)
    assert f"answer: {status}, redirect to {location}\n" in explain(server, f"http://h.example{target}")


def test_decoded_bytes_cannot_add_a_field_to_a_redirect(server):
    r = server.get("/moved/%0d%0aX-Evil:%201")
    assert r.status == 400 and r.header("x-evil") is None


@pytest.mark.parametrize("target,script,query", [
    ("/u/12/list", "/app.php", "id=12&what=list"), ("/u/12/list?x=1", "/app.php", "id=12&what=list"), ("/u/x/list", "/index.php", ""),
    ("/front/a?x=1", "/app.php", "x=1"), ("/p/open", "/index.php", ""), ("/none?x=1", "/index.php", "x=1")])
def test_scripts(server, target, script, query):
    seen = server.get(target).json()
    assert (seen["script"], seen["query"], seen["uri"]) == (script, query, target)
    text = explain(server, target)
    assert f"{server.site.root}{script}" in text
    assert not query or f'QUERY_STRING "{query}"' in text


def test_body_limit_of_a_route(server):
    big = b"x" * 1_500_000
    assert server.get("/big.php", method="POST", body=big).text == "1500000"
    assert server.get("/app.php", method="POST", body=big).status == 413
    assert server.get("/small", method="POST", body=b"x" * 11).status == 413
    assert server.get("/small", method="POST", body=b"x" * 10).status == 200


@pytest.mark.engine_only
def test_time_limit_of_a_route(server):
    start = time.monotonic()
    assert server.get("/slow.php?ms=50000").status == 504
    assert time.monotonic() - start < 40
    assert server.get("/slow.php?ms=1").text == "slept"
    assert server.get("/quick.php").text == "slept"   # other routes have no limit
    assert "request_timeout 3000 ms" in explain(server, "/slow.php")


@pytest.mark.engine_only
def test_longer_time_limit_of_a_route_than_of_its_pool(launch):
    root = launch.new_root()
    (root / "a.php").write_text("<?php usleep((int)$_GET['ms'] * 1000); echo 'slept';")
    account.give(root)
    server = launch(root, workers=2, php={"request_timeout": "2s"}, expect_errors=True,
                    routes=[{"match": {"exact": "/long"}, "try": ["/a.php"], "request_timeout": "50s"}])
    assert server.get("/long?ms=4000").text == "slept"
    assert server.get("/a.php?ms=50000").status == 504


def test_wrong_regex_is_reported_with_its_place_by_check_and_serve(launch, tmp_path):
    config = tmp_path / "s.toml"
    config.write_text(f'[php]\ndocument_root = "{tmp_path}"\n[[route]]\nmatch = {{ regex = "^/a(" }}\nbackend = "deny"\n')
    for command in ("check", "serve"):
        done = run(command, "--config", config)
        assert done.returncode == 1
        assert f'{config}:4:19: route.match.regex: "^/a(": missing closing parenthesis at character 5' in done.stderr


def test_catastrophic_regex_costs_a_request_no_more_than_its_match(launch):
    root = launch.new_root()
    (root / "index.php").write_text("<?php echo 'front';")
    account.give(root)
    server = launch(root, routes=[{"match": {"regex": "^/(a+)+$"}, "backend": "deny"}])
    start = time.monotonic()
    assert server.get("/" + "a" * 3000 + "!").text == "front"
    assert time.monotonic() - start < 25   # backtracking without an end takes hours
    assert server.get("/aaa").status == 403


def test_reload_takes_new_routes(launch):
    root = launch.new_root()
    (root / "a.txt").write_text("a")
    account.give(root)
    server = launch(root)
    assert server.get("/a.txt").status == 200
    server.config_path.write_text(server.config_path.read_text() + '[[route]]\nmatch = { suffix = ".txt" }\nbackend = "deny"\n')
    server.process.popen.send_signal(1)
    wait_until(lambda: server.get("/a.txt").status == 403, "the new route")


def test_effective_configuration_loads_again(server, tmp_path):
    done = run("check", "--config", server.config_path)
    again = tmp_path / "again.toml"
    again.write_text(done.stdout)
    second = run("check", "--config", again)
    assert second.returncode == 0, second.stderr

    def routes(text):
        return [line.split(" #")[0] for line in text[text.index("[[route]]"):].splitlines() if not line.startswith("#")]
    assert routes(done.stdout) == routes(second.stdout)
    assert done.stdout.count("[[route]]") == len(ROUTES)


@pytest.mark.parametrize("url,says", [("/../x", "answer: 400"), ("no-slash", "GET /no-slash"), ("https://h.example:444/old", "answer: 301, redirect to /new"),
                                      ("http://h.example", "GET /\n"), ("/a#frag", "GET /a\n"), ("?x=1", "GET /?x=1")])
def test_explain_takes_any_form_of_url(server, url, says):
    assert says in explain(server, url)


@pytest.mark.parametrize("url", ["/a b", "http://ho st/", "/\r\nX: y"])
def test_explain_refuses_what_is_no_request(server, url):
    done = run("check", "--config", server.config_path, "--explain", url)
    assert done.returncode == 1 and "no request can be made of it" in done.stderr


@pytest.mark.engine_only
def test_one_route_moves_to_php_fpm_by_one_line(launch, workdir):
    """The environment of that PHP-FPM says who answers."""
    root = launch.new_root()
    for name in ("index.php", "legacy/a.php"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("<?php echo getenv('BACKEND') ?: 'engine', ' ', $_SERVER['SCRIPT_NAME'], ' ', $_GET['q'] ?? '';"
                                 "if (isset($_GET['ms'])) usleep($_GET['ms'] * 1000);")
    (root / "legacy" / "a.txt").write_text("a file")
    account.give(root)
    fpm = Fpm(Site(root=root, workers=2, env={"BACKEND": "fpm"}), workdir)
    try:
        server = launch(root, workers=2, php={"fpm_socket": str(fpm.socket_path)}, expect_errors=True, routes=[
            {"match": {"prefix": "/legacy/"}, "backend": "fastcgi"},
            {"match": {"exact": "/rewritten"}, "backend": "fastcgi", "try": ["/legacy/a.php?q=7"]},
            {"match": {"exact": "/legacy/slow"}, "backend": "fastcgi", "try": ["/legacy/a.php"], "request_timeout": "2s"}])
        assert server.get("/legacy/a.php?q=1").text == "fpm /legacy/a.php 1"
        assert server.get("/rewritten").text == "fpm /legacy/a.php 7"
        assert server.get("/legacy/a.txt").text == "a file"
        assert server.get("/?q=2").text == "engine /index.php 2"
        assert server.get("/legacy/none").text == "fpm /index.php "
        assert server.get("/legacy/slow?ms=50000").status == 504
        assert "PHP runs " + str(root / "legacy/a.php") + " on a FastCGI server" in explain(server, "/legacy/a.php")
        assert "FastCGI" not in explain(server, "/")
    finally:
        fpm.stop()


@pytest.mark.engine_only
def test_backend_php_is_what_its_pool_runs(launch, workdir):
    """The engine of one pool, PHP-FPM for one with use_fpm, whichever the route names."""
    roots = [launch.new_root(), workdir / "other"]
    roots[1].mkdir()
    for i, root in enumerate(roots):
        (root / "a.php").write_text(f"<?php echo getenv('BACKEND') ?: 'engine', ' {i}';")
        account.give(root)
    fpm = Fpm(Site(root=roots[1], workers=2, env={"BACKEND": "fpm"}), workdir)
    try:
        server = launch(roots[0], workers=2,
                        pools={"other": {"document_root": str(roots[1]), "use_fpm": True, "fpm_socket": str(fpm.socket_path)}},
                        routes=[{"match": {"prefix": "/other"}, "backend": "php", "pool": "other", "try": ["/a.php"]},
                                {"match": {"prefix": "/mine"}, "backend": "php", "try": ["/a.php"]}])
        assert [server.get(path).text for path in ("/other", "/mine", "/a.php")] == ["fpm 1", "engine 0", "engine 0"]
    finally:
        fpm.stop()


def test_explain_knows_the_worker_script(tmp_path):
    (tmp_path / "loop.php").write_text("<?php")
    (tmp_path / "own.php").write_text("<?php")
    config = tmp_path / "s.toml"
    config.write_text(f'[php]\ndocument_root = "{tmp_path}"\n[worker]\nscript = "loop.php"\n')
    assert f"answer: the worker script {tmp_path}/loop.php, in its loop" in run("check", "--config", config, "--explain", "/any/path").stdout
    assert f"answer: PHP runs {tmp_path}/own.php" in run("check", "--config", config, "--explain", "/own.php").stdout
