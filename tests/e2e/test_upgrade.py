"""Another program takes over without a lost request, and the service manager is told what it must know."""
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess

import pytest

from lib import account, ports, toml
from lib.httpclient import Connection
from lib.process import Process, accepts, descendants, wait_until
from lib.roles import Load, alive, descriptors, gateway, gateways, pools
from lib.sapid import binary
from lib.service import Adopted, NotifySocket, activated

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

ECHO = "<?php echo $_GET['n'];"
WAIT = "<?php $f = __DIR__ . '/' . basename($_GET['until']); touch(\"$f.started\"); " \
       "while (!file_exists($f)) { usleep(2000); clearstatcache(); } echo 'done';"


@pytest.fixture
def root(launch):
    folder = launch.folder / "app"
    folder.mkdir()
    (folder / "echo.php").write_text(ECHO)
    (folder / "wait.php").write_text(WAIT)
    account.give(folder)
    return folder


def upgrade(server):
    """SIGUSR2, until the new program serves; the server object goes on with it. The old process is returned."""
    old = server.process
    before = server.log_text().count("upgrade done: ")
    old.send_signal(signal.SIGUSR2)
    wait_until(lambda: server.log_text().count("upgrade done: ") > before, "the upgrade")
    pid = int(re.findall(r"upgrade done: process (\d+)", server.log_text())[-1])
    server.process = Adopted(pid, old)
    return old


def images(server):
    return json.loads(server.admin("/server?json").text)["pools"][0]["images"]


def gone(process):
    wait_until(lambda: not process.running(), "the old program to end")


def test_upgrade_under_load_fails_no_request(launch, root):
    server = launch(root, workers=2, unix_socket=True)
    with Load(server.address, "/echo.php?n=", clients=6) as load, \
            Load(str(server.socket_path), "/echo.php?n=", clients=2, keep_alive=False) as short:
        for _ in range(3):
            before = load.count(), short.count()
            wait_until(lambda: load.count() > before[0] + 50 and short.count() > before[1] + 50, "answers")
            old = upgrade(server)
            gone(old)
        before = load.count()
        wait_until(lambda: load.count() > before + 100, "answers of the last program")
    for each in (load, short):
        assert not each.broken and not each.mixed and set(each.answers) == {200}, each.broken[:3]
    assert stat.S_ISSOCK(server.socket_path.stat().st_mode)


def test_old_program_finishes_its_requests(launch, root):
    server = launch(root, workers=2)
    with server.connect() as busy, server.connect() as idle:
        assert idle.request("GET", "/echo.php?n=1").text == "1"
        busy.send(busy.format("GET", "/wait.php?until=w"))
        wait_until((root / "w.started").exists, "the request to run")
        old = upgrade(server)
        assert server.get("/echo.php?n=new").text == "new"
        answer = idle.request("GET", "/echo.php?n=2")
        assert answer.text == "2" and not answer.keeps_alive
        assert old.running()
        (root / "w").touch()
        assert busy.read_response().text == "done"
    gone(old)
    assert old.popen.returncode == 0


def test_replaced_file_is_found(launch, root, workdir):
    """What a package upgrade does: another file under the same name, behind a link of the administrator's."""
    installed, link = workdir / "sapid-1", workdir / "sapid"
    shutil.copy(binary(), installed)
    link.symlink_to(installed)
    for module in (binary().parent / "src/php").rglob("*.so"):
        target = workdir / module.relative_to(binary().parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(module)
    port = ports.free_port("127.0.0.1")
    log = workdir / "log"
    first = Process([link, "serve", "--root", root, "--listen", f"127.0.0.1:{port}", "--workers", "1"], log)
    first.wait_until(lambda: accepts(("127.0.0.1", port)), "the port")
    second = workdir / "sapid-2"
    shutil.copy(binary(), second)
    installed.unlink()
    (workdir / "next").symlink_to(second)
    (workdir / "next").rename(link)
    first.send_signal(signal.SIGUSR2)
    assert first.popen.wait(60) == 0
    pid = int(re.findall(r"upgrade done: process (\d+)", log.read_text())[-1])
    assert os.readlink(f"/proc/{pid}/exe") == str(second)
    with Connection(("127.0.0.1", port)) as c:
        assert c.request("GET", "/echo.php?n=2").text == "2"
    assert Adopted(pid, first).stop() == 0


def test_new_program_that_does_not_start_changes_nothing(launch, root):
    server = launch(root, workers=1, expect_errors=True)
    before = server.process.pid, gateway(server), pools(server)
    text = server.config_path.read_text()
    server.config_path.write_text(text.replace("[php]", '[php]\nlibphp_path = "/no/such/libphp.so"'))
    server.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: "upgrade failed: " in server.log_text(), "the failure")
    server.expect_log_match(r"upgrade failed: .*/no/such/libphp.so.*; this program goes on")
    wait_until(lambda: (server.process.pid, gateway(server), pools(server)) == before and
               len(gateways(server)) == 1, "the failed program to be gone")
    assert server.get("/echo.php?n=1").text == "1"
    server.config_path.write_text("nonsense")
    server.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: server.log_text().count("upgrade failed: ") == 2, "the second failure")
    server.expect_log(f"{server.config_path}:1:")
    server.config_path.write_text(text)
    gone(upgrade(server))
    assert server.get("/echo.php?n=2").text == "2"


def test_new_program_that_fails_its_probe_changes_nothing(launch, root):
    (root / "health.php").write_text("<?php http_response_code(is_file(__DIR__ . '/sick') ? 503 : 200);")
    server = launch(root, workers=1, php={"probe": ["/health.php"]}, expect_errors=True)
    before = server.process.pid, gateway(server), pools(server)
    (root / "sick").touch()
    server.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: "upgrade failed: " in server.log_text(), "the failure")
    server.expect_log("probe /health.php: expected a status below 500, found 503; this program goes on")
    assert (server.process.pid, gateway(server), pools(server)) == before
    assert server.get("/echo.php?n=1").text == "1"
    (root / "sick").unlink()
    gone(upgrade(server))


def test_new_program_that_is_killed_changes_nothing(launch, root):
    server = launch(root, workers=1, unix_socket=True, expect_errors=True)
    (root / "hang.php").write_text("<?php usleep(30000000);")
    text = server.config_path.read_text()
    server.config_path.write_text(text.replace("[php]", '[php]\nwarmup = ["/hang.php"]'))
    mine = set(server.pids())
    server.process.send_signal(signal.SIGUSR2)

    def new():
        return [p for p in descendants(server.process.pid) if p not in mine and "serve" in title_of(p)]
    wait_until(lambda: new() and len(descendants(new()[0])) >= 3, "the new program's processes")
    family = [*new(), *descendants(new()[0])]
    os.kill(family[0], signal.SIGKILL)
    wait_until(lambda: "upgrade failed: " in server.log_text(), "the failure")
    wait_until(lambda: not any(alive(p) for p in family), "its processes to end")
    assert set(server.pids()) == mine and server.get("/echo.php?n=1").text == "1"
    with Connection(str(server.socket_path)) as c:      # the file is still there
        assert c.request("GET", "/echo.php?n=2").text == "2"


def title_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().decode().replace("\0", " ")
    except OSError:
        return ""


def test_new_program_goes_on_when_the_old_one_dies(launch, root):
    server = launch(root, workers=1, expect_errors=True)
    gone(upgrade(server))
    old = server.process
    flag = root / "w"
    text = server.config_path.read_text()
    server.config_path.write_text(text.replace("[php]", '[php]\nwarmup = ["/wait.php?until=w"]'))
    old.send_signal(signal.SIGUSR2)
    wait_until((root / "w.started").exists, "the new program to warm up")
    children = [p for p in descendants(old.pid) if "serve" in title_of(p)]
    os.kill(old.pid, signal.SIGKILL)
    server.process = Adopted(children[0], old)
    gone(old)
    flag.touch()
    assert server.get("/echo.php?n=1").text == "1"      # the backlog was not lost either
    assert alive(children[0])


@pytest.mark.as_root
def test_descriptors_do_not_grow_with_upgrades(launch, root):
    server = launch(root, workers=1, unix_socket=True)
    first = None
    for _ in range(4):
        gone(upgrade(server))
        wait_until(lambda: len(gateways(server)) == 1 and len(pools(server)) == 1, "one of each")
        assert server.get("/echo.php?n=1").text == "1"

        def count():
            return (len(descriptors(server.process.pid)), len(descriptors(gateway(server))),
                    len(descriptors(pools(server)[0])))
        first = first or count()
        wait_until(lambda: count() <= first, f"descriptors to be {first}")


def test_admin_socket_leads_to_the_new_program(launch, root):
    server = launch(root, workers=1)
    for _ in range(2):
        gone(upgrade(server))
        assert server.admin("/server?json").json()["pid"] == server.process.pid
        assert not server.admin_path.with_name(server.admin_path.name + "~").exists()


def command(server):
    return subprocess.run([binary(), "upgrade", "--socket", server.admin_path], capture_output=True, text=True, timeout=60)


def test_command_waits_for_the_new_program_and_says_which_it_is(launch, root):
    server = launch(root, workers=1)
    old = server.process
    done = command(server)
    assert done.returncode == 0, done.stderr
    pid = int(re.fullmatch(r"upgrade done: process (\d+) serves now; this one finishes its requests\n", done.stdout)[1])
    server.process = Adopted(pid, old)
    gone(old)
    assert server.admin("/server?json").json()["pid"] == pid
    assert server.get("/echo.php?n=7").text == "7"


def test_command_says_why_nothing_changed(launch, root):
    server = launch(root, workers=1, expect_errors=True)
    server.config_path.write_text("[server\n")
    done = command(server)
    assert done.returncode == 1 and done.stdout == ""
    assert "upgrade failed" in done.stderr and "this program goes on" in done.stderr
    assert server.get("/echo.php?n=8").text == "8"


# --- systemd --------------------------------------------------------------------------------------------------

def serve(root, workdir, notify, *, env=None, config=None):
    port = ports.free_port("127.0.0.1")
    log = workdir / "log"
    path = workdir / "sapid.toml"
    php = {"document_root": str(root), "worker_pool_size": 1}
    path.write_text(toml.document(config or {"server": {"listen": [f"127.0.0.1:{port}"]}, "php": php}))
    p = Process([binary(), "serve", "--config", path], log, name="sapid",
                env={"NOTIFY_SOCKET": str(notify.path), **(env or {})})
    notify.wait("READY=1")
    return p, port


def test_service_manager_is_told_of_everything(root, workdir):
    with NotifySocket(workdir / "notify") as notify:
        p, port = serve(root, workdir, notify)
        with Connection(("127.0.0.1", port)) as c:
            assert c.request("GET", "/echo.php?n=1").text == "1"
        p.send_signal(signal.SIGHUP)
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", notify.wait("RELOADING=1"))
        notify.wait("READY=1", 2)
        (workdir / "sapid.toml").rename(workdir / "away")       # refused: that ends it, too
        p.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload refused" in p.log(), "the refusal")
        notify.wait("RELOADING=1", 2)
        notify.wait("READY=1", 3)
        (workdir / "away").rename(workdir / "sapid.toml")
        p.send_signal(signal.SIGUSR2)
        pid = int(notify.wait("MAINPID=").partition("=")[2])
        assert p.popen.wait(60) == 0
        assert "STOPPING=1" not in notify.read()
        new = Adopted(pid, p)
        new.send_signal(signal.SIGHUP)
        notify.wait("RELOADING=1", 3)
        assert new.stop() == 0
        assert "STOPPING=1" in notify.read()


def test_watchdog_is_told_only_while_the_gateway_lives(root, workdir):
    with NotifySocket(workdir / "notify") as notify:
        p, _ = serve(root, workdir, notify, env={"WATCHDOG_USEC": "100000"})
        notify.wait("WATCHDOG=1", 3)
        server_gateway = [d for d in descendants(p.pid) if "@gateway" in title_of(d)][0]
        os.kill(server_gateway, signal.SIGSTOP)
        wait_until(lambda: "gives no sign of life" in p.log(), "the silence to be noticed")
        count = len([m for m in notify.read() if m == "WATCHDOG=1"])
        wait_until(lambda: p.log().count("gives no sign of life") >= 4, "more silence")
        assert len([m for m in notify.read() if m == "WATCHDOG=1"]) == count
        os.kill(server_gateway, signal.SIGCONT)
        notify.wait("WATCHDOG=1", count + 1)
        p.send_signal(signal.SIGUSR2)                           # the next program tells it too
        pid = int(notify.wait("MAINPID=").partition("=")[2])
        assert p.popen.wait(60) == 0
        count = len([m for m in notify.read() if m == "WATCHDOG=1"])
        notify.wait("WATCHDOG=1", count + 2)
        assert Adopted(pid, p).stop() == 0


def test_sockets_of_the_service_manager_are_served(root, workdir):
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        path = workdir / "web.sock"
        unix.bind(str(path))
        path.chmod(0o666)
        unix.listen(10)
        address = tcp.getsockname()
        with socket.create_connection(address) as early:        # before anybody serves
            p = activated([tcp, unix], ["--root", root, "--workers", "1"], workdir / "log")
            early.sendall(b"GET /echo.php?n=early HTTP/1.0\r\n\r\n")
            assert b"early" in b"".join(iter(lambda: early.recv(4096), b""))
        with Connection(str(path)) as c:
            assert c.request("GET", "/echo.php?n=unix").text == "unix"
        p.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload done" in p.log(), "the reload")
        p.send_signal(signal.SIGUSR2)
        assert p.popen.wait(60) == 0
        pid = int(re.findall(r"upgrade done: process (\d+)", p.log())[-1])
        with Connection(address) as c:
            assert c.request("GET", "/echo.php?n=2").text == "2"
        assert Adopted(pid, p).stop() == 0
        assert path.exists()                                    # it is the manager's
        assert "8080" not in p.log()


def test_socket_file_of_the_service_manager_outlives_a_killed_server(root, workdir):
    with socket.socket(socket.AF_UNIX) as unix:
        path = workdir / "web.sock"
        unix.bind(str(path))
        unix.listen(10)
        p = activated([unix], ["--root", root, "--workers", "1"], workdir / "log")
        p.wait_until(lambda: " serves " in p.log(), "the start")
        everyone = descendants(p.pid)
        os.kill(p.pid, signal.SIGKILL)
        p.popen.wait()
        wait_until(lambda: not any(alive(pid) for pid in everyone), "everything to end")
        assert path.exists()


def test_socket_that_no_key_names_is_said(root, workdir):
    port = ports.free_port("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        p = activated([tcp], ["--root", root, "--workers", "1", "--listen", f"127.0.0.1:{port}"], workdir / "log")
        p.wait_until(lambda: accepts(("127.0.0.1", port)), "the port")
        wait_until(lambda: f"{tcp.getsockname()[1]} is closed: [server] listen does not name it" in p.log(), "it")
        assert p.stop() == 0


def test_one_socket_for_both_families_stands_for_any_address(root, workdir):
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as tcp:
        port = tcp.getsockname()[1]
        p = activated([tcp], ["--root", root, "--workers", "1", "--listen", f"*:{port}"], workdir / "log")
        p.wait_until(lambda: " serves " in p.log(), "the start")
        for host in ("127.0.0.1", "::1"):
            with Connection((host, port)) as c:
                assert c.request("GET", "/echo.php?n=1").text == "1"
        assert p.stop() == 0


def test_the_next_program_makes_images_of_its_own(launch, root):
    (root / "frozen.php").write_text("<?php if (!restore_state()) { snapshot_state(); } echo $_GET['n'];")
    server = launch(root, workers=2)
    with Load(server.address, "/frozen.php?n=", clients=4) as load:
        wait_until(lambda: images(server)["served"] > 50, "answers from an image")
        old = upgrade(server)
        wait_until(lambda: images(server)["served"] > 50, "answers from the next program's image")
        gone(old)
    assert set(load.answers) == {200} and not load.mixed and not load.broken
