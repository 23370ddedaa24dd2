"""What the supervisor promises: deaths cost what they must and no more, reloads cost nothing, an end
leaves nothing behind, and a start that cannot succeed says why."""
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from lib import account, phpini, ports
from lib.httpclient import Connection
from lib.process import Process, accepts, descendants, wait_until
from lib.roles import (Load, alive, descriptors, gateway, gateways, pools, status_field, title, workers)
from lib.sapid import binary

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

ECHO = "<?php echo $_GET['n'];"
PID = "<?php echo getmypid();"
SLEEP = "<?php usleep((int)$_GET['ms'] * 1000); echo 'slept';"
WAIT = "<?php $f = __DIR__ . '/' . basename($_GET['until']); " \
       "file_put_contents(\"$f.pid\", getmypid()); rename(\"$f.pid\", \"$f.started\"); " \
       "while (!file_exists($f)) { usleep(2000); clearstatcache(); } echo 'done';"


@pytest.fixture
def root(launch):
    folder = launch.folder / "app"
    folder.mkdir()
    for name, text in {"echo": ECHO, "pid": PID, "sleep": SLEEP, "wait": WAIT}.items():
        (folder / f"{name}.php").write_text(text)
    account.give(folder)
    return folder


def in_background(run):
    """Runs it in a thread; .join() gives its result."""
    class Thread(threading.Thread):
        def run(self):
            try:
                self.result = run()
            except (AssertionError, OSError) as e:
                self.result = e

        def join(self, timeout=60):
            super().join(timeout)
            assert not self.is_alive(), "still running"
            return self.result
    t = Thread()
    t.start()
    return t


def started(root, name):
    """Waits until /wait.php?until=name runs; the pid of its worker."""
    wait_until((root / f"{name}.started").exists, "the request to start")
    return int((root / f"{name}.started").read_text())


def settled(server, n):
    """Waits until the pool has n workers and answers."""
    wait_until(lambda: len(workers(server)) == n and len(pools(server)) == 1, f"{n} workers")
    assert server.get("/echo.php?n=settled").text == "settled"


# --- deaths ---------------------------------------------------------------------------------------

def test_death_of_a_worker_costs_its_own_request_only(launch, root):
    server = launch(root, workers=3, expect_errors=True)
    lost = in_background(lambda: server.get("/wait.php?until=a"))
    kept = in_background(lambda: server.get("/wait.php?until=b"))
    started(root, "b")
    victim = started(root, "a")
    os.kill(victim, signal.SIGKILL)
    assert lost.join().status == 502
    (root / "b").touch()
    assert kept.join().text == "done"
    settled(server, 3)
    server.expect_log_match(rf"worker \d+ \[{victim}\] ended .*SIGKILL")


def test_death_of_the_pool_process_is_a_new_generation(launch, root):
    server = launch(root, workers=2, expect_errors=True)
    (old,) = pools(server)
    old_workers = workers(server)
    with Load(server.address, "/echo.php?n=") as load:
        wait_until(lambda: load.count() > 200, "load")
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: pools(server) and pools(server) != [old], "another pool process")
        before = load.count()
        wait_until(lambda: load.count() > before + 200, "load on the new generation")
    assert not load.mixed and not load.broken
    assert set(load.answers) <= {200, 502} and load.answers.get(502, 0) <= 4, load.answers
    wait_until(lambda: not any(alive(w) for w in old_workers), "the old workers to be gone")
    server.expect_log("SIGKILL")
    settled(server, 2)


def test_death_of_the_gateway_keeps_engine_and_listeners(launch, root):
    server = launch(root, workers=2, expect_errors=True)
    pool, old = pools(server), gateway(server)
    idle = server.connect()
    assert idle.request("GET", "/echo.php?n=1").text == "1"
    os.kill(old, signal.SIGKILL)
    assert idle.closed()                                    # its clients are gone with it
    assert server.get("/echo.php?n=2").text == "2"          # the backlog is served by the next one
    assert gateway(server) != old and pools(server) == pool
    settled(server, 2)
    assert server.log_text().count("www g") >= 1 and " g2" not in server.log_text()


def test_gateway_dies_while_a_request_runs(launch, root):
    server = launch(root, workers=2, expect_errors=True)
    lost = in_background(lambda: server.get("/wait.php?until=w"))
    started(root, "w")
    os.kill(gateway(server), signal.SIGKILL)
    assert isinstance(lost.join(), Exception)               # no answer, and no wrong one
    for i in range(20):
        assert server.get(f"/echo.php?n={i}").text == str(i)
    (root / "w").touch()
    settled(server, 2)


def test_gateway_killed_again_and_again_under_load(launch, root):
    server = launch(root, workers=2, expect_errors=True)
    with Load(server.address, "/echo.php?n=", keep_alive=False) as load:
        for _ in range(5):
            before = load.count()
            wait_until(lambda: load.count() > before + 50, "answers")
            victim = gateway(server)
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: gateways(server) not in ([], [victim]), "a new gateway")
        before = load.count()
        wait_until(lambda: load.count() > before + 50, "answers")
    assert not load.mixed and set(load.answers) <= {200}, load.answers
    settled(server, 2)


def test_crash_loop_of_the_gateway_is_slowed_down(launch, root):
    server = launch(root, workers=1, expect_errors=True)
    for _ in range(3):
        wait_until(lambda: gateways(server),
                   "a gateway")
        os.kill(gateway(server), signal.SIGKILL)
        time.sleep(0.01)
    wait_until(lambda: "after a pause" in server.log_text(), "the backoff")
    assert server.get("/echo.php?n=back").text == "back"


def test_pool_that_cannot_start_again_is_retried_until_it_can(launch, root, workdir):
    library = Path(f"/usr/lib/libphp{phpini.version()}.so")
    copy = workdir / "libphp.so"
    shutil.copy(library, copy)
    server = launch(root, workers=1, expect_errors=True, php={"libphp_path": str(copy)})
    copy.rename(workdir / "away.so")
    os.kill(pools(server)[0], signal.SIGKILL)
    wait_until(lambda: server.log_text().count("did not start") >= 3, "three attempts")
    server.expect_log("trying again in 200 ms")
    (workdir / "away.so").rename(copy)
    wait_until(lambda: pools(server), "the pool")
    assert server.get("/echo.php?n=back").text == "back"


def test_killed_supervisor_takes_everything_with_it(launch, root):
    server = launch(root, workers=2, unix_socket=True)
    everyone = server.pids()
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.popen.wait()
    wait_until(lambda: not any(alive(p) for p in everyone), "all processes to end")
    assert not accepts(server.address)
    launch.started.remove((server, False))
    # whatever is left of the unix socket does not stand in the way of the next server
    again = Process([binary(), "serve", "--config", server.config_path], launch.folder / "again.log",
                    cwd=str(server.folder))
    again.wait_until(lambda: accepts(server.socket_path), "its socket")
    assert again.stop() == 0
    assert not server.socket_path.exists()


def test_request_beyond_its_limit_is_ended_also_when_nobody_waits(launch, root):
    server = launch(root, workers=1, php={"request_timeout": "3s"}, expect_errors=True)
    with server.connect() as c:
        c.send(c.format("GET", "/wait.php?until=never"))
        victim = started(root, "never")
    wait_until(lambda: "Maximum execution time" in server.log_text(), "the request to be ended")
    settled(server, 1)
    assert server.get("/sleep.php?ms=200").text == "slept"
    assert workers(server) == [victim]                      # PHP ended the script: no need to kill


# --- reload ---------------------------------------------------------------------------------------

def test_reload_under_load_fails_no_request(launch, root):
    server = launch(root, workers=2)
    with Load(server.address, "/echo.php?n=") as load:
        for generation in range(2, 6):
            before, old = load.count(), pools(server)
            wait_until(lambda: load.count() > before + 100, "answers")
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: f"g{generation} takes over" in server.log_text(), "the new generation")
            wait_until(lambda: not alive(old[0]), "the old generation to end")
    assert not load.broken and not load.mixed and set(load.answers) == {200}, \
        (load.answers, load.broken[:3])
    settled(server, 2)


def test_reload_lets_a_running_request_finish(launch, root):
    server = launch(root, workers=1)
    running = in_background(lambda: server.get("/wait.php?until=w"))
    started(root, "w")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "g2 takes over" in server.log_text(), "the new generation")
    assert server.get("/echo.php?n=new").text == "new"
    (root / "w").touch()
    assert running.join().text == "done"
    settled(server, 1)


def test_reload_ends_what_outlives_drain_timeout(launch, root):
    server = launch(root, workers=1, server={"drain_timeout": "300ms"})
    running = in_background(lambda: server.get("/wait.php?until=never"))
    started(root, "never")
    server.process.send_signal(signal.SIGHUP)
    assert running.join().status == 502
    settled(server, 1)


def test_reload_follows_a_moved_symlink(launch, root):
    releases = launch.folder / "releases"
    for name in ("one", "two"):
        (releases / name).mkdir(parents=True)
        (releases / name / "who.php").write_text(f"<?php echo '{name}', ' ', __DIR__;")
        (releases / name / "who.txt").write_text(name)
    link = releases / "current"
    link.symlink_to("one")
    server = launch(link, workers=2)
    assert server.get("/who.php").text == f"one {releases}/one"
    (releases / "next").symlink_to("two")
    (releases / "next").rename(link)
    assert server.get("/who.php").text == f"one {releases}/one"      # not before it is asked for
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "g2 takes over" in server.log_text(), "the new generation")
    assert server.get("/who.php").text == f"two {releases}/two"
    assert server.get("/who.txt").text == "two"


def test_reload_with_an_invalid_file_changes_nothing(launch, root):
    server = launch(root, workers=1, expect_errors=True)
    pool = pools(server)
    good = server.config_path.read_text()
    server.config_path.write_text(good + "\n[server2]\nx = 1\n")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reload refused" in server.log_text(), "the refusal")
    server.expect_log_match(rf"{server.config_path}:\d+:\d+: .*server2")
    assert pools(server) == pool and server.get("/echo.php?n=1").text == "1"
    server.config_path.write_text(good.replace("worker_pool_size = 1", "worker_pool_size = 3"))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "g2 takes over" in server.log_text(), "the new generation")
    settled(server, 3)


def test_reload_whose_engine_does_not_start_keeps_the_old_generation(launch, root):
    server = launch(root, workers=1, expect_errors=True)
    text = server.config_path.read_text()
    server.config_path.write_text(text.replace("[php]", '[php]\nlibphp_path = "/no/such/libphp.so"'))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "generation 1 keeps serving" in server.log_text(), "the failure")
    server.expect_log("/no/such/libphp.so")
    settled(server, 1)


def test_reload_without_descriptors_keeps_the_old_generation(launch, root):
    server = launch(root, workers=1, expect_errors=True)
    settled(server, 1)
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    used = max(int(fd) for fd in os.listdir(f"/proc/{server.process.pid}/fd")) + 1
    for room in range(12):      # a limit for each step of the start to fail at
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + room, limits[1]))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(re.findall("did not start|reload refused|takes over", server.log_text()))
                   > room, "the end of the reload")
        assert server.get(f"/echo.php?n={room}").text == str(room)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
    before = server.log_text().count("takes over")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.log_text().count("takes over") > before, "the new generation")
    settled(server, 1)


@pytest.mark.as_root
def test_many_reloads_leave_no_descriptor(launch, root):
    server = launch(root, workers=1)
    settled(server, 1)
    before = {role: len(descriptors(pid)) for role, pid in
              (("supervisor", server.process.pid), ("gateway", gateway(server)))}
    for generation in range(2, 12):
        old = pools(server)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not alive(old[0]) and len(pools(server)) == 1, "the switch")
    settled(server, 1)

    def after():
        return {role: len(descriptors(pid)) for role, pid in
                (("supervisor", server.process.pid), ("gateway", gateway(server)))}
    wait_until(lambda: all(after()[role] <= before[role] for role in before),
               f"descriptors to be {before}, they are {after()}")


# --- stop -----------------------------------------------------------------------------------------

def test_sigterm_finishes_the_running_request(launch, root):
    server = launch(root, workers=2)
    idle = server.connect()
    assert idle.request("GET", "/echo.php?n=1").text == "1"
    running = in_background(lambda: server.get("/wait.php?until=w"))
    started(root, "w")
    server.process.send_signal(signal.SIGTERM)
    assert idle.closed()
    wait_until(lambda: "stopping" in server.log_text(), "the drain")
    wait_until(lambda: not accepts(server.address), "the port to refuse")
    (root / "w").touch()
    assert running.join().text == "done"
    assert server.process.popen.wait(60) == 0
    launch.started.clear()


def test_request_on_the_wire_is_answered_when_the_server_stops(launch, root):
    server = launch(root, workers=1)
    with server.connect() as idle:
        assert idle.request("GET", "/echo.php?n=1").text == "1"
        stopped = gateway(server)
        os.kill(stopped, signal.SIGSTOP)
        idle.send(idle.format("GET", "/echo.php?n=2"))
        with server.connect() as waiting:               # in the backlog, which nobody else will serve
            waiting.send(waiting.format("GET", "/echo.php?n=3"))
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "stopping" in server.log_text(), "the drain")
            os.kill(stopped, signal.SIGCONT)
            for connection, text in ((idle, "2"), (waiting, "3")):
                answer = connection.read_response()
                assert answer.text == text and not answer.keeps_alive
    assert server.process.popen.wait(60) == 0
    launch.started.clear()


def test_sigterm_waits_no_longer_than_drain_timeout(launch, root):
    server = launch(root, workers=1, server={"drain_timeout": "500ms"})
    running = in_background(lambda: server.get("/wait.php?until=never"))
    started(root, "never")
    begin = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.popen.wait(60) == 0
    assert 0.4 < time.monotonic() - begin < 25   # the request itself never ends
    running.join()
    launch.started.clear()


@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM),
                                     (signal.SIGTERM, signal.SIGINT)])
def test_stop_at_once(launch, root, signals):
    server = launch(root, workers=1, server={"drain_timeout": "30s"})
    everyone = server.pids()
    running = in_background(lambda: server.get("/wait.php?until=never"))
    started(root, "never")
    begin = time.monotonic()
    for i, number in enumerate(signals):
        server.process.send_signal(number)
        wait_until(lambda: server.log_text().count("stopping") > i, "the signal to be taken")
    assert server.process.popen.wait(60) == 0
    assert time.monotonic() - begin < 25   # not drain_timeout
    assert not any(alive(p) for p in everyone)
    running.join()
    launch.started.clear()


def test_work_after_fastcgi_finish_request_is_finished(launch, root):
    (root / "after.php").write_text(
        "<?php echo 'answered'; fastcgi_finish_request(); usleep(300000); touch(__DIR__ . '/after.done');")
    server = launch(root, workers=1)
    assert server.get("/after.php").text == "answered"
    server.process.send_signal(signal.SIGTERM)
    assert server.process.popen.wait(60) == 0
    assert (root / "after.done").exists()
    launch.started.clear()


def folder_listing():
    """Where a server might leave something."""
    places = ("/tmp", "/var/tmp", "/dev/shm", "/run")
    return {f"{p}/{name}" for p in places for name in os.listdir(p)
            if "sapid-" not in name and not name.startswith((".", "pytest"))}


def test_many_starts_and_stops_leave_nothing(launch, root, workdir):
    sock = workdir / "s.sock"
    log = workdir / "log"
    before = folder_listing()
    mine = set()
    for i in range(12):
        p = Process([binary(), "serve", "--root", root, "--workers", "2", "--listen", f"unix:{sock}",
                     "--listen", "127.0.0.1:0"], log)
        p.wait_until(lambda: log.read_text().count(" serves ") == i + 1, "the start")
        with Connection(str(sock)) as c:
            assert c.request("GET", "/echo.php?n=x").text == "x"
        mine |= {p.pid, *descendants(p.pid)}
        assert p.stop(signal.SIGTERM if i % 2 else signal.SIGINT) == 0
        assert not sock.exists()
        assert not any(alive(pid) for pid in mine)
    ours = {name for name in folder_listing() - before
            if any(str(pid) in name for pid in mine) or "opcache" in name or "ZendSem" in name}
    assert not ours


# --- starts that cannot succeed -------------------------------------------------------------------------

def fails(arguments, workdir, status=1):
    log = workdir / "failed.log"
    p = Process([binary(), "serve", *arguments], log)
    assert p.popen.wait(60) == status, log.read_text()
    assert not descendants(p.pid)
    return log.read_text()


def test_port_in_use(launch, root, workdir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = fails(["--root", root, "--listen", f"127.0.0.1:{port}"], workdir)
    assert f"127.0.0.1:{port}" in text and "another program listens there" in text


def test_port_in_use_by_another_sapid_with_threads(launch, root, workdir):
    server = launch(root, workers=1, server={"gateway_threads": 2})
    assert server.get("/echo.php?n=1").text == "1"
    copy = workdir / "copy.toml"
    copy.write_text(server.config_path.read_text())
    assert "another program listens there" in fails(["--config", copy], workdir)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may name a user")
def test_unknown_user(launch, root, workdir):
    text = fails(["--root", root, "--listen", "127.0.0.1:0", "--user", "no-such-user"], workdir)
    assert "no-such-user" in text and "there is no such user" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="root reads everything, others need not be tried")
def test_root_that_the_user_cannot_read(launch, workdir):
    closed = workdir / "closed"
    (closed / "public").mkdir(parents=True)
    (closed / "public" / "index.php").write_text(ECHO)
    closed.chmod(0o700)
    text = fails(["--root", closed / "public", "--listen", "127.0.0.1:0", "--user", "www-data"], workdir)
    assert "www-data" in text and f": {closed}: Permission denied" in text


def test_missing_root(workdir):
    text = fails(["--root", workdir / "nowhere", "--listen", "127.0.0.1:0"], workdir)
    assert f"{workdir}/nowhere" in text and "No such file" in text


def test_wrong_libphp(root, workdir):
    config = workdir / "sapid.toml"
    config.write_text(f'[server]\nlisten = ["127.0.0.1:0"]\n[php]\ndocument_root = "{root}"\n'
                      'libphp_path = "/etc/passwd"\n')
    text = fails(["--config", config], workdir)
    assert "/etc/passwd" in text and "cannot start pool www" in text


def test_invalid_configuration(root, workdir):
    config = workdir / "sapid.toml"
    config.write_text("[server]\nlisten = 3\n")
    assert f"{config}:2:10: " in fails(["--config", config], workdir)


def test_wrong_usage(workdir):
    assert "--rot" in fails(["--rot", "x"], workdir, status=2)


# --- listeners ------------------------------------------------------------------------------------------

def test_listeners_of_every_kind(launch, root, workdir):
    log = workdir / "log"
    p = Process([binary(), "serve", "--root", root, "--workers", "1", "--listen", "127.0.0.1:0",
                 "--listen", "[::1]:0", "--listen", f"unix:{workdir}/http.sock"], log)
    p.wait_until(lambda: " serves " in log.read_text(), "the start")
    line = re.search(r"serves (\S+) on (.*)", log.read_text())
    assert line[1] == str(root)
    v4, v6, unix = line[2].split(", ")
    assert unix == f"unix:{workdir}/http.sock"
    port4, port6 = int(v4.rpartition(":")[2]), int(v6.rpartition(":")[2])
    for address in (("127.0.0.1", port4), ("::1", port6), f"{workdir}/http.sock"):
        with Connection(address) as c:
            assert c.request("GET", "/echo.php?n=here").text == "here"
    assert (workdir / "http.sock").stat().st_mode & 0o777 == 0o666
    assert p.stop() == 0


def test_stale_socket_file_is_replaced_and_a_living_one_is_not(root, workdir):
    path = workdir / "http.sock"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
    log = workdir / "log"
    p = Process([binary(), "serve", "--root", root, "--workers", "1", "--listen", f"unix:{path}"], log)
    p.wait_until(lambda: " serves " in log.read_text(), "the start")
    assert "another program listens there" in fails(["--root", root, "--listen", f"unix:{path}"], workdir)
    with Connection(str(path)) as c:
        assert c.request("GET", "/echo.php?n=mine").text == "mine"
    assert p.stop() == 0


def test_several_gateway_threads(launch, root):
    server = launch(root, workers=2, server={"gateway_threads": 3})
    with Load(server.address, "/echo.php?n=", clients=9, keep_alive=False) as load:
        wait_until(lambda: load.count() > 500, "answers")
    assert set(load.answers) == {200} and not load.broken and not load.mixed
    assert len(os.listdir(f"/proc/{gateway(server)}/task")) == 3


# --- who runs as what, and holds what ---------------------------------------------------------------------

@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")
def test_users_are_dropped_for_good(launch, root, workdir):
    log = workdir / "log"
    p = Process([binary(), "serve", "--root", root, "--workers", "1", "--listen", "127.0.0.1:0"], log)
    p.wait_until(lambda: " serves " in log.read_text(), "the start")

    class Server:
        process = p
    web = account.web()
    for pid in pools(Server) + workers(Server):                 # owner of the document root
        assert status_field(pid, "Uid").split() == [str(web.uid)] * 4
        assert status_field(pid, "Gid").split() == [str(web.gid)] * 4
        assert status_field(pid, "CapEff") == status_field(pid, "CapPrm") == "0" * 16
    pid = gateway(Server)
    assert status_field(pid, "Uid").split() == ["65534"] * 4    # nobody
    assert status_field(pid, "CapEff") == "0" * 16 and status_field(pid, "NoNewPrivs") == "1"
    assert "runs PHP as user www-data (owner of the document root)" in log.read_text()
    assert p.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a folder of root's")
def test_root_runs_php_only_with_a_loud_warning(root, workdir):
    shutil.copytree(root, workdir / "rootapp")
    subprocess.run(["chown", "-R", "root:", workdir / "rootapp"], check=True)
    log = workdir / "log"
    p = Process([binary(), "serve", "--root", workdir / "rootapp", "--workers", "1", "--listen",
                 "127.0.0.1:0"], log)
    p.wait_until(lambda: " serves " in log.read_text(), "the start")
    assert re.search(r'warn .*as ROOT.*user = "www-data"', log.read_text())
    assert p.stop() == 0


@pytest.mark.as_root
def test_processes_hold_only_their_own_descriptors(launch, root):
    server = launch(root, workers=1, unix_socket=True)
    settled(server, 1)
    listeners = {os.stat(f"/proc/{server.process.pid}/fd/{fd}").st_ino
                 for fd in os.listdir(f"/proc/{server.process.pid}/fd") if is_listener(server, fd)}
    assert len(listeners) == 3  # TCP, unix, the admin socket
    for pid in pools(server) + workers(server):
        inodes = {os.stat(f"/proc/{pid}/fd/{fd}").st_ino for fd in os.listdir(f"/proc/{pid}/fd")}
        assert not inodes & listeners, title(pid)


def is_listener(server, fd):
    link = os.readlink(f"/proc/{server.process.pid}/fd/{fd}")
    if not link.startswith("socket:"):
        return False
    inode = link[8:-1]
    tcp = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return any(f[9] == inode and f[3] == "0A" for f in tcp) or \
        any(len(f) > 7 and f[6] == inode and f[3] == "00010000" for f in unix)


def test_workers_keep_the_descriptor_limit_they_were_given(launch, root):
    server = launch(root, workers=1)
    mine = Path("/proc/self/limits").read_text()
    limit = re.compile(r"Max open files\s+(\d+)")
    worker = Path(f"/proc/{workers(server)[0]}/limits").read_text()
    assert limit.search(worker)[1] == limit.search(mine)[1]
    raised = Path(f"/proc/{gateway(server)}/limits").read_text()
    assert int(limit.search(raised)[1]) >= int(limit.search(mine)[1])


def test_environment_is_clear_but_for_what_was_given(launch, root, monkeypatch):
    (root / "env.php").write_text("<?php echo json_encode(getenv());")
    server = launch(root, workers=1, env={"APP_ENV": "test"})
    seen = server.get("/env.php").json()
    assert seen["APP_ENV"] == "test"
    assert "LC_ALL" not in seen and "PATH" not in seen
    if os.geteuid() == 0:
        assert seen["USER"] == "www-data" and seen["HOME"] == "/var/www"


# --- service manager and logs ---------------------------------------------------------------------------

def test_service_manager_is_told(root, workdir):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(workdir / "notify"))
        manager.settimeout(60)
        log = workdir / "log"
        p = Process([binary(), "serve", "--root", root, "--workers", "1", "--listen", "127.0.0.1:0"], log,
                    env={"NOTIFY_SOCKET": str(workdir / "notify")})
        assert manager.recv(100) == b"READY=1"
        assert " serves " in log.read_text()
        p.send_signal(signal.SIGHUP)
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", manager.recv(100))
        assert manager.recv(100) == b"READY=1"
        assert "takes over" in log.read_text()
        p.send_signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        assert p.popen.wait(60) == 0


def test_rotated_logs_are_opened_anew(launch, root):
    logs = launch.folder / "logs"
    logs.mkdir()
    account.give(logs)
    logs.chmod(0o777)
    log = {"access": str(logs / "access.log"), "error": str(logs / "error.log")}
    server = launch(root, workers=1, log=log)
    assert server.get("/echo.php?n=one").text == "one"
    wait_until(lambda: "n=one" in (logs / "access.log").read_text(), "the access log")
    assert " serves " in (logs / "error.log").read_text()
    for name in ("access", "error"):
        (logs / f"{name}.log").rename(logs / f"{name}.log.1")
    server.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: (logs / "error.log").exists()
               and "takes over" in (logs / "error.log").read_text(), "the new error log")
    assert server.get("/echo.php?n=two").text == "two"
    wait_until(lambda: "n=two" in (logs / "access.log").read_text(), "the new access log")
    assert "n=two" not in (logs / "access.log.1").read_text()


def test_start_message_explains_itself(launch, root):
    text = launch(root, workers=2).log_text()
    assert re.search(r"sapid \d+\.\d+\.\d+, configuration /\S+/sapid.toml", text)
    assert f"document root {root}, 2 workers" in text
    assert re.search(r"PHP 8\.\d+\.\d+ .*php.ini", text)
    assert re.search(rf"serves {root} on http://127\.0\.0\.1:\d+", text)


# --- everything at once -------------------------------------------------------------------------

def chaos(server, seconds, pick, pause=0.1):
    """Kills what pick() names every `pause` seconds while clients ask; returns the load, once settled."""
    end = time.monotonic() + seconds
    kills = 0
    with Load(server.address, "/echo.php?n=", clients=8) as load:
        wait_until(lambda: load.count() > 100, "answers")
        while time.monotonic() < end:
            victims = pick()
            if victims:
                try:
                    os.kill(random.choice(victims), signal.SIGKILL)
                    kills += 1
                except ProcessLookupError:
                    pass
            time.sleep(pause)
        before = load.count()
        wait_until(lambda: load.count() > before + 100, "answers after the last death")
    assert kills > 5 and not load.mixed, load.mixed[:5]
    load.kills = kills
    return load


def test_random_workers_die_under_load(launch, root):
    server = launch(root, workers=4, expect_errors=True)
    load = chaos(server, 5, lambda: workers(server))
    assert not load.broken, load.broken[:5]
    assert set(load.answers) <= {200, 502} and load.answers.get(502, 0) <= load.kills, load.answers
    settled(server, 4)


def test_anything_but_the_supervisor_dies_under_load(launch, root):
    server = launch(root, workers=3, expect_errors=True)
    before = len(descriptors(server.process.pid))
    load = chaos(server, 6, lambda: workers(server) + pools(server) + gateways(server), 0.15)
    assert set(load.answers) <= {200, 502, 503}, load.answers
    settled(server, 3)
    wait_until(lambda: len(descriptors(server.process.pid)) == before, "the supervisor's descriptors")
