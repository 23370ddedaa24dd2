"""What a reload promises beyond generations of PHP: every key takes effect without a lost request, a release
that is not fit never serves, and a failure anywhere changes nothing."""
import os
import signal
import socket
import subprocess

import pytest

from lib import account, ports
from lib.httpclient import Connection
from lib.process import accepts, wait_until
from lib.roles import Load, alive, descriptors, gateway, gateways, pools, workers
from lib.sapid import binary

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

ECHO = "<?php echo $_GET['n'];"
WAIT = "<?php $f = __DIR__ . '/' . basename($_GET['until']); touch(\"$f.started\"); " \
       "while (!file_exists($f)) { usleep(2000); clearstatcache(); } echo 'done';"


def folder(launch, name, **scripts):
    root = launch.folder / name
    root.mkdir(parents=True)
    for script, text in {"echo": ECHO, "wait": WAIT, **scripts}.items():
        (root / f"{script}.php").write_text(text)
    account.give(root)
    return root


@pytest.fixture
def root(launch):
    return folder(launch, "app")


def edit(server, old, new):
    text = server.config_path.read_text()
    assert old in text
    server.config_path.write_text(text.replace(old, new, 1))


def outcomes(server):
    return [line for line in server.log_text().splitlines()
            if " reload done in" in line or " reload failed:" in line or " reload refused:" in line]


def reload(server):
    """Asks for a reload and waits for its outcome, the line of the log."""
    before = len(outcomes(server))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(outcomes(server)) > before, "the end of the reload")
    return outcomes(server)[before]


def alone(server):
    """Waits until nothing of an old release is left."""
    wait_until(lambda: len(gateways(server)) == 1, "one gateway")
    wait_until(lambda: len(pools(server)) == 1, "one pool process")


# --- [server], [log], the list of pools -----------------------------------------------------------------------

def test_server_keys_change_under_load(launch, root):
    server = launch(root, workers=2, server={"max_request_line": 1000})
    long_url = "/echo.php?n=1&x=" + "y" * 2000
    assert server.get(long_url).status == 414
    old = gateway(server)
    with Load(server.address, "/echo.php?n=", clients=8) as load:
        wait_until(lambda: load.count() > 100, "answers")
        edit(server, "max_request_line = 1000", "max_request_line = 4000")
        assert "done" in reload(server)
        before = load.count()
        wait_until(lambda: load.count() > before + 100, "answers of the new gateway")
    assert not load.broken and not load.mixed and set(load.answers) == {200}, load.broken[:3]
    assert server.get(long_url).status == 200
    server.expect_log("server.max_request_line is different")
    wait_until(lambda: not alive(old), "the old gateway to end")
    alone(server)


def test_threads_of_the_gateway_change_under_load(launch, root):
    server = launch(root, workers=2, server={"gateway_threads": 3})
    for before, after in ((3, 1), (1, 4), (4, 2)):
        with Load(server.address, "/echo.php?n=", clients=6, keep_alive=False) as load:
            wait_until(lambda: load.count() > 50, "answers")
            edit(server, f"gateway_threads = {before}", f"gateway_threads = {after}")
            assert "done" in reload(server)
            count = load.count()
            wait_until(lambda: load.count() > count + 100, "answers of the new gateway")
        assert not load.broken and not load.mixed and set(load.answers) == {200}, load.broken[:3]
    alone(server)


def test_listen_addresses_come_and_go(launch, root):
    server = launch(root, workers=1, unix_socket=True)
    port, unix = ports.free_port("127.0.0.1"), server.socket_path
    inode = os.stat(unix).st_ino
    first = server.config_path.read_text()
    edit(server, "listen = [", f'listen = ["127.0.0.1:{port}", ')
    assert "done" in reload(server)
    with Connection(("127.0.0.1", port)) as c:
        assert c.request("GET", "/echo.php?n=new").text == "new"
    alone(server)
    with Connection(unix) as c:                     # the same socket, not a new one at its place
        assert c.request("GET", "/echo.php?n=unix").text == "unix"
    assert os.stat(unix).st_ino == inode
    server.config_path.write_text(first.replace(f', "unix:{unix}"', ""))
    assert "done" in reload(server)
    alone(server)
    assert not accepts(("127.0.0.1", port)) and not unix.exists()
    assert server.get("/echo.php?n=1").text == "1"


def test_address_that_was_taken_away_is_closed_while_the_old_gateway_drains(launch, root):
    server = launch(root, workers=2, server={"drain_timeout": "30s", "gateway_threads": 2})
    first, port = server.config_path.read_text(), ports.free_port("127.0.0.1")
    edit(server, "listen = [", f'listen = ["127.0.0.1:{port}", ')
    assert "done" in reload(server)
    with Connection(("127.0.0.1", port)) as busy:
        busy.send(busy.format("GET", "/wait.php?until=w"))
        wait_until((root / "w.started").exists, "the request to run")
        second = server.config_path.read_text()
        server.config_path.write_text(first)
        assert "done" in reload(server)
        assert not accepts(("127.0.0.1", port))
        server.config_path.write_text(second)           # and comes back before the old one has gone
        assert "done" in reload(server)
        with Connection(("127.0.0.1", port)) as c:
            assert c.request("GET", "/echo.php?n=again").text == "again"
        (root / "w").touch()
        assert busy.read_response().text == "done"
    wait_until(lambda: len(gateways(server)) == 1, "the old gateways to end")


def test_address_in_use_refuses_the_reload(launch, root):
    server = launch(root, workers=1, expect_errors=True)
    before = gateway(server), pools(server)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        edit(server, "listen = [", f'listen = ["127.0.0.1:{taken.getsockname()[1]}", ')
        assert "another program listens there" in reload(server)
    assert (gateway(server), pools(server)) == before
    assert server.get("/echo.php?n=1").text == "1"
    assert "done" in reload(server)                 # now that the port is free


def test_pools_come_and_go(launch, root):
    server = launch(root, workers=1)
    other = folder(launch, "other", who="<?php echo 'other ', $_GET['n'];")
    first = server.config_path.read_text()
    user = f'user = "{account.web().name}"\n' if account.is_root() else ""
    with Load(server.address, "/echo.php?n=") as load:
        wait_until(lambda: load.count() > 20, "answers")
        server.config_path.write_text(
            f'{first}\n[pool.other]\ndocument_root = "{other}"\nworker_pool_size = 1\n{user}'
            '[[route]]\nmatch = { prefix = "/who" }\npool = "other"\n')
        assert "pool other g1" in reload(server)
        assert server.get("/who.php?n=1").text == "other 1"
        wait_until(lambda: len(pools(server)) == 2, "the old generation to end")
        # one pool's key: the other pool stays as it is
        edit(server, f'"{other}"\nworker_pool_size = 1', f'"{other}"\nworker_pool_size = 3')
        line = reload(server)
        assert "pool other g2" in line and "pool www" not in line
        wait_until(lambda: len(workers(server)) == 4, "three workers of the other pool")
        server.config_path.write_text(first)
        assert "pool www g3" in reload(server)
        assert server.get("/who.php?n=1").status == 404
        wait_until(lambda: len(pools(server)) == 1 and len(gateways(server)) == 1, "the other pool to end")
    assert not load.broken and not load.mixed and set(load.answers) == {200}, load.broken[:3]


def test_log_files_change(launch, root):
    one, two = launch.folder / "one.log", launch.folder / "two.log"
    os.chmod(launch.folder, 0o777)
    server = launch(root, workers=1, log={"access": str(one)})
    server.get("/echo.php?n=first")
    edit(server, str(one), str(two))
    assert "done" in reload(server)
    server.get("/echo.php?n=second")
    wait_until(lambda: two.exists() and "n=second" in two.read_text(), "the line in the new file")
    assert "n=second" not in one.read_text()


def test_rotated_access_log_is_opened_anew_by_a_reload(launch, root):
    log = launch.folder / "access.log"
    os.chmod(launch.folder, 0o777)
    server = launch(root, workers=1, log={"access": str(log)})
    server.get("/echo.php?n=first")
    wait_until(lambda: "n=first" in log.read_text(), "the line")
    log.rename(launch.folder / "access.log.1")
    assert "done" in reload(server)
    server.get("/echo.php?n=second")
    wait_until(lambda: log.exists() and "n=second" in log.read_text(), "the line in the new file")


# --- all or nothing -------------------------------------------------------------------------------------------

def test_one_pool_that_does_not_start_keeps_all_old(launch, root):
    other = folder(launch, "other")
    web = account.web().name
    pool = {"document_root": str(other), "worker_pool_size": 1}
    if account.is_root():
        pool["user"] = web
    server = launch(root, workers=1, pools={"other": pool}, expect_errors=True)
    before = sorted(pools(server))
    edit(server, "[pool.other]", '[pool.other]\nlibphp_path = "/no/such/libphp.so"\nenv = { A = "1" }')
    edit(server, "[php]", '[php]\nenv = { A = "1" }')
    line = reload(server)
    assert "failed" in line and "/no/such/libphp.so" in line and "pool other" in line
    wait_until(lambda: sorted(pools(server)) == before, "the failed generations to end")
    assert "takes over" not in server.log_text()


def test_requests_finish_in_the_old_gateway(launch, root):
    server = launch(root, workers=2)
    with server.connect() as busy, server.connect() as idle:
        assert idle.request("GET", "/echo.php?n=0").text == "0"
        busy.send(busy.format("GET", "/wait.php?until=w"))
        wait_until((root / "w.started").exists, "the request to run")
        edit(server, "[server]", '[server]\nkeepalive_requests = 1000')
        assert "done" in reload(server)
        # whoever is idle may send one more request, and is told then
        answer = idle.request("GET", "/echo.php?n=1")
        assert answer.text == "1" and not answer.keeps_alive and idle.closed()
        (root / "w").touch()
        answer = busy.read_response()
        assert answer.text == "done" and not answer.keeps_alive and busy.closed()
    alone(server)


def test_idle_connections_close_in_the_end(launch, root):
    server = launch(root, workers=1, server={"drain_timeout": "500ms"})
    with server.connect() as idle:
        assert idle.request("GET", "/echo.php?n=0").text == "0"
        edit(server, "[server]", '[server]\nkeepalive_requests = 1000')
        assert "done" in reload(server)
        assert idle.closed()
    alone(server)


# --- warmup and probe -----------------------------------------------------------------------------------------

COUNT = "<?php file_put_contents(__DIR__ . '/log', $_SERVER['REQUEST_URI'] . ' ' . " \
        "$_SERVER['HTTP_USER_AGENT'] . ' ' . $_SERVER['REMOTE_ADDR'] . \"\\n\", FILE_APPEND); " \
        "http_response_code((int)@file_get_contents(__DIR__ . '/status') ?: 200); echo $_GET['n'] ?? '';"


def test_release_is_asked_before_it_serves(launch):
    root = folder(launch, "app", count=COUNT)
    server = launch(root, workers=1, php={"warmup": ["/count.php?w"], "probe": ["/count.php?p"]})
    asked = ["/count.php?w sapid-probe 127.0.0.1", "/count.php?p sapid-probe 127.0.0.1"]
    assert (root / "log").read_text().splitlines() == asked        # also before the first client
    assert "done" in reload(server)
    assert (root / "log").read_text().splitlines() == asked * 2


def test_release_that_fails_its_probe_never_serves(launch):
    root = folder(launch, "app", count=COUNT)
    server = launch(root, workers=1, php={"probe": ["/count.php"]}, expect_errors=True)
    old = pools(server)
    (root / "status").write_text("503")
    line = reload(server)
    assert "probe /count.php: expected a status below 500, found 503" in line
    assert "everything goes on as it was" in line
    wait_until(lambda: pools(server) == old, "the unfit generation to end")
    assert server.get("/echo.php?n=1").text == "1"
    edit(server, "[server]", '[server]\nkeepalive_requests = 1000')    # the same with another gateway
    assert "found 503" in reload(server)
    wait_until(lambda: pools(server) == old and len(gateways(server)) == 1, "the unfit processes to end")
    (root / "status").write_text("404")                                # not the server's fault
    assert "done" in reload(server)


def test_probe_asks_the_new_release_not_the_old(launch):
    releases = launch.folder / "releases"
    good = folder(launch, "releases/good", health="<?php http_response_code(200); echo 'good';")
    folder(launch, "releases/bad", health="<?php http_response_code(500);")
    link = releases / "current"
    link.symlink_to(good)
    server = launch(link, workers=1, php={"probe": ["/health.php"]}, expect_errors=True)
    (releases / "next").symlink_to(releases / "bad")
    (releases / "next").rename(link)
    assert "found 500" in reload(server)
    assert server.get("/health.php").text == "good"


def test_failed_warmup_is_only_said(launch):
    root = folder(launch, "app", count=COUNT)
    server = launch(root, workers=1, php={"warmup": ["/count.php"]})
    (root / "status").write_text("500")
    assert "done" in reload(server)
    server.expect_log("warmup /count.php: expected a status below 500, found 500")


def test_probe_goes_to_the_worker_script(launch):
    root = folder(launch, "app", index="<?php $boot = getmypid(); while (frankenphp_handle_request(function () "
                  "{ file_put_contents(__DIR__ . '/log', $_SERVER['REQUEST_URI'] . \"\\n\", FILE_APPEND); }));")
    server = launch(root, workers=1, worker={"script": str(root / "index.php"), "num": 1}, php={"probe": ["/up"]})
    assert (root / "log").read_text() == "/up\n"
    assert "done" in reload(server)
    assert (root / "log").read_text() == "/up\n/up\n"


def test_server_whose_probe_fails_starts_all_the_same(launch):
    root = folder(launch, "app", count=COUNT)
    (root / "status").write_text("503")
    server = launch(root, workers=1, php={"probe": ["/count.php"]}, expect_errors=True)
    server.expect_log("starts all the same")
    assert server.get("/echo.php?n=1").text == "1"


def test_wrong_probe_path_is_an_error_of_the_configuration(launch, root):
    server = launch(root, workers=1, expect_errors=True)
    edit(server, "[php]", '[php]\nprobe = ["health"]')
    line = reload(server)
    assert "refused" in line and f"{server.config_path}:" in line and 'found "health"' in line


# --- the way back ---------------------------------------------------------------------------------------------

def command(server, *arguments):
    """Status and output of a command that finds the server by its configuration."""
    found = subprocess.run([binary(), *arguments, "--config", server.config_path], capture_output=True, text=True,
                           timeout=60)
    return found.returncode, found.stdout + found.stderr


def released(launch):
    """Two releases, and the link that leads to the first."""
    releases = launch.folder / "releases"
    for name in ("one", "two"):
        folder(launch, f"releases/{name}", who=f"<?php echo '{name}';")
    link = releases / "current"
    link.symlink_to("one")
    return releases, link


def move(link, to):
    (link.parent / "next").symlink_to(to)
    (link.parent / "next").rename(link)


def test_rollback_while_the_old_release_drains(launch):
    releases, link = released(launch)
    server = launch(link, workers=2, server={"drain_timeout": "30s"})
    with server.connect() as busy:
        busy.send(busy.format("GET", "/wait.php?until=w"))
        wait_until((releases / "one/w.started").exists, "the request to run")
        (old,) = pools(server)
        move(link, "two")
        assert command(server, "reload")[0] == 0
        assert server.get("/who.php").text == "two"
        status, said = command(server, "reload", "--rollback")
        assert status == 0 and "pool www g1" in said and "had not ended yet" in said
        assert server.get("/who.php").text == "one" and old in pools(server)
        wait_until(lambda: pools(server) == [old], "the second release to end")
        (releases / "one/w").touch()
        assert busy.read_response().text == "done"
    assert server.get("/who.php").text == "one"


def test_rollback_when_the_old_release_has_gone(launch):
    _, link = released(launch)
    server = launch(link, workers=2)
    with Load(server.address, "/echo.php?n=") as load:
        wait_until(lambda: load.count() > 50, "answers")
        for _ in range(2):
            move(link, "two")
            edit(server, "[server]", "[server]\nkeepalive_requests = 100000")     # another gateway as well
            assert command(server, "reload")[0] == 0
            assert server.get("/who.php").text == "two"
            alone(server)
            status, said = command(server, "reload", "--rollback")
            assert status == 0 and "rollback done" in said
            assert server.get("/who.php").text == "one"
            edit(server, "\nkeepalive_requests = 100000", "")
            move(link, "one")
        before = load.count()
        wait_until(lambda: load.count() > before + 50, "answers")
    assert not load.broken and not load.mixed and set(load.answers) == {200}, load.broken[:3]


def test_rollback_to_a_release_that_was_deleted_is_refused(launch):
    releases, link = released(launch)
    server = launch(link, workers=1, expect_errors=True)
    status, said = command(server, "reload", "--rollback")
    assert status != 0 and "there was no reload since the start" in said
    move(link, "two")
    assert command(server, "reload")[0] == 0
    alone(server)
    (releases / "one").rename(releases / "away")
    status, said = command(server, "reload", "--rollback")
    assert status != 0 and f"{releases}/one" in said
    assert server.get("/who.php").text == "two"


def test_reload_command_says_what_is_wrong(launch, root):
    server = launch(root, workers=1, expect_errors=True)
    edit(server, "[php]", "[phpp]")
    status, said = command(server, "reload")
    assert status != 0 and "phpp" in said
    assert server.get("/echo.php?n=1").text == "1"


def test_admin_socket_moves(launch, root):
    server = launch(root, workers=1)
    old = server.admin_path
    new = old.with_name("moved.sock")
    edit(server, str(old), str(new))
    assert "done" in reload(server)
    assert not old.exists()
    status, said = command(server, "status")
    assert status == 0 and "www" in said


def test_health_stays_green_through_reloads(launch, root):
    server = launch(root, workers=1)
    assert server.admin("/healthz").status == 200
    for n in range(1001, 1005):
        edit(server, "[server]\n", f"[server]\nkeepalive_requests = {n}\n")
        assert "done" in reload(server)
        assert server.admin("/healthz").status == 200
        edit(server, f"keepalive_requests = {n}\n", "")
        assert "done" in reload(server)
        assert server.admin("/healthz").status == 200
    alone(server)


# --- nothing is left ------------------------------------------------------------------------------------------

@pytest.mark.as_root
def test_many_switches_of_the_gateway_leave_no_descriptor(launch, root):
    server = launch(root, workers=1, unix_socket=True, server={"keepalive_requests": 1000})
    alone(server)
    before = len(descriptors(server.process.pid)), len(descriptors(gateway(server)))
    for n in range(1001, 1011):
        edit(server, f"keepalive_requests = {n - 1}", f"keepalive_requests = {n}")
        assert "done" in reload(server)
        alone(server)
    assert server.get("/echo.php?n=1").text == "1"
    wait_until(lambda: (len(descriptors(server.process.pid)), len(descriptors(gateway(server)))) <= before,
               f"descriptors to be {before}")
