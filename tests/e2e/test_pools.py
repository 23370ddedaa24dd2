"""[pool.NAME]: several pools, each with its own user, settings, files and shared memory."""
import json
import os
import pwd
import subprocess

import pytest

from lib import account, phpini
from lib.process import wait_until
from lib.roles import pools, status_field
from lib.sapid import binary

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

SCRIPT = """<?php
$do = $_GET['do'] ?? '';
if ($do === 'store') { apcu_store('k', $_GET['v']); }
echo json_encode(['uid' => posix_geteuid(), 'gid' => posix_getegid(), 'root' => $_SERVER['DOCUMENT_ROOT'],
    'limit' => ini_get('memory_limit'),
    'env' => getenv('SECRET'), 'apcu' => apcu_fetch('k'), 'scripts' => array_keys(opcache_get_status(true)['scripts'] ?? []),
    'memory' => ini_get('opcache.memory_consumption'), 'pid' => getmypid(), 'input' => strlen(file_get_contents('php://input')),
    'script' => $_SERVER['SCRIPT_FILENAME']]);
"""
OTHER = "games"   # an account without any right to the first pool's files


def second_account():
    return account.Account(OTHER) if account.is_root() else account.web()


@pytest.fixture(scope="module")
def server(launch_module):
    roots = []
    for name, owner in (("one", account.web()), ("two", second_account())):
        root = launch_module.folder / name
        root.mkdir(mode=0o755)
        (root / "index.php").write_text(SCRIPT)
        (root / "own.txt").write_text(name)
        account.give(root, owner)
        roots.append(root)
    fresh = {"opcache.file_update_protection": "0"}   # scripts are cached although they were just written
    two = {"document_root": str(roots[1]), "worker_pool_size": 2, "ini_path": str(phpini.ini_file()),
           "ini_scan_dir": str(phpini.make_scan_dir(launch_module.folder)),
           "ini": {"memory_limit": "77M", "opcache.memory_consumption": "16", **fresh}}
    if account.is_root():
        two.update(user=OTHER)
    routes = [{"match": {"prefix": "/two/"}, "pool": "two", "try": ["/index.php"]},
              {"match": {"exact": "/two.txt"}, "pool": "two", "backend": "static", "try": ["/own.txt"]}]
    return launch_module(roots[0], workers=2, env={"SECRET": "of one"}, pools={"two": two}, routes=routes, expect_errors=True,
                         ini={"memory_limit": "99M", "opcache.memory_consumption": "32", **fresh})


def test_each_pool_has_its_own_files_and_settings(server):
    one, two = server.get("/x").json(), server.get("/two/x").json()
    assert one["root"].endswith("/one") and two["root"].endswith("/two")
    assert (one["limit"], two["limit"]) == ("99M", "77M")
    assert (one["memory"], two["memory"]) == ("32", "16")
    assert one["env"] == "of one" and two["env"] is False   # nothing is taken over from [php]
    assert server.get("/own.txt").text == "one" and server.get("/two.txt").text == "two"
    assert one["script"].endswith("/one/index.php") and two["script"].endswith("/two/index.php")


@pytest.mark.as_root
def test_each_pool_has_its_own_user(server):
    web, other = account.web(), second_account()
    one, two = server.get("/x").json(), server.get("/two/x").json()
    assert (one["uid"], one["gid"]) == (web.uid, web.gid)
    assert (two["uid"], two["gid"]) == (other.uid, other.gid)


def test_shared_memory_of_one_pool_is_not_the_others(server):
    """APCu and opcache belong to a process tree; what one pool stores the other must not see."""
    assert server.get("/?do=store&v=mine").json()["apcu"] == "mine"
    for _ in range(8):
        assert server.get("/two/x").json()["apcu"] is False
    assert server.get("/two/x?do=store&v=theirs").json()["apcu"] == "theirs"
    for _ in range(8):
        assert server.get("/").json()["apcu"] == "mine"
    one, two = server.get("/").json(), server.get("/two/x").json()
    assert one["scripts"] and all("/one/" in name for name in one["scripts"])
    assert two["scripts"] and all("/two/" in name for name in two["scripts"])


def test_pools_are_process_trees_of_their_own(server):
    trees = pools(server)
    assert len(trees) == 2
    shared = []
    for pid in trees:
        with open(f"/proc/{pid}/maps") as f:
            shared.append({line.split()[4] for line in f if "rw-s" in line and line.split()[4] != "0"})
    assert shared[0] and shared[1] and not shared[0] & shared[1]


def test_spooled_body_reaches_the_right_pool(server):
    assert server.get("/two/x", method="POST", body=b"b" * 300_000).json()["input"] == 300_000
    assert server.get("/x", method="POST", body=b"b" * 300_000).json()["input"] == 300_000


@pytest.mark.as_root
def test_pool_that_dies_leaves_the_other_alone(server):
    other = second_account().uid
    victim = next(p for p in pools(server) if status_field(p, "Uid").split()[0] == str(other))
    before = server.get("/").json()["apcu"]
    os.kill(victim, 9)
    assert server.get("/").json()["apcu"] == before

    def is_new():
        r = server.get("/two/x")
        return r.status == 200 and r.json()["apcu"] is False   # its memory is gone with it
    wait_until(is_new, "the pool to be back, with memory of its own")
    assert server.get("/").json()["apcu"] == before


def test_reload_renews_every_pool(server):
    before = set(pools(server))
    server.process.popen.send_signal(1)
    wait_until(lambda: len(pools(server)) == 2 and not before & set(pools(server)), "new generations")
    assert server.get("/x").status == server.get("/two/x").status == 200


def refused(tmp_path, text: str) -> str:
    config = tmp_path / "s.toml"
    config.write_text(text)
    os.chmod(tmp_path, 0o755)
    outputs = []
    for command in ("check", "serve"):
        done = subprocess.run([binary(), command, "--config", config], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, done.stdout + done.stderr
        outputs.append(done.stderr)
    assert outputs[0].splitlines()[0].split(": ", 1)[-1] in outputs[1]
    return outputs[0]


@pytest.fixture
def root(workdir):
    (workdir / "www").mkdir(mode=0o755)
    account.give(workdir / "www")
    return workdir / "www"


def tables(root, pool: str) -> str:
    user = f'user = "{account.web().name}"\n' if account.is_root() else ""
    return f'[server]\nlisten = "127.0.0.1:0"\n[php]\ndocument_root = "{root}"\n{user}[pool.two]\n{pool}'


def test_unknown_user_of_a_pool(root, workdir):
    message = refused(workdir, tables(root, f'document_root = "{root}"\nuser = "nobody-here"\n'))
    if account.is_root():
        assert 'pool.two.user = "nobody-here": there is no such user' in message
    else:
        assert "which cannot become another user" in message


@pytest.mark.as_root
def test_pool_user_who_may_not_read_the_document_root(root, workdir):
    closed = workdir / "closed"
    closed.mkdir(mode=0o700)
    message = refused(workdir, tables(root, f'document_root = "{closed}"\nuser = "{OTHER}"\n'))
    assert f"PHP (user {OTHER}, uid {pwd.getpwnam(OTHER).pw_uid}) cannot read the document root {closed}" in message


def test_missing_document_root_of_a_pool(root, workdir):
    assert "pool.two.document_root is missing" in refused(workdir, tables(root, "worker_pool_size = 1\n"))
    assert "pool.two.document_root" in refused(workdir, tables(root, f'document_root = "{root}/none"\n'))


def test_effective_configuration_of_pools_loads_again(server, tmp_path):
    first = subprocess.run([binary(), "check", "--config", server.config_path], capture_output=True, text=True, timeout=60)
    assert first.returncode == 0, first.stderr
    (tmp_path / "again.toml").write_text(first.stdout)
    second = subprocess.run([binary(), "check", "--config", tmp_path / "again.toml"], capture_output=True, text=True, timeout=60)
    assert second.returncode == 0, second.stderr
    assert "[pool.two]" in second.stdout
    assert json.dumps("77M") in second.stdout
