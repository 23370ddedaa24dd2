"""Database connections that a worker script has open when it is frozen: worker.snapshot_sockets."""
import json
import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import pytest

from lib import account
from lib.process import wait_until
from lib.redis import Redis

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]
SCRIPT = Path(__file__).parent / "sockets/app.php"


@pytest.fixture(scope="module")
def databases(mariadb, postgres, redis):
    mariadb.create("sockets")
    mariadb.sql("CREATE TABLE sockets.t(a INT) ENGINE=InnoDB")
    return {"pdo_mysql": mariadb, "mysqli": mariadb, "pdo_pgsql": postgres, "pgsql": postgres, "redis": redis}


class App:
    def __init__(self, server):
        self.server = server

    def raw(self, *questions: str, **options):
        return self.server.get("/?" + urlencode([("ask[]", q) for q in questions] + list(options.items())))

    def ask(self, *questions: str, **options):
        r = self.raw(*questions, **options)
        assert r.status == 200, f"{r}\n{self.server.log_text()[-3000:]}"
        return r.json()


@pytest.fixture
def start(launch, workdir, databases):
    """start(client, policy, boot statements, workers) -> App"""
    def go(kind, policy, boot=(), num=1, db=None, **options):
        root = workdir / "site"
        root.mkdir()
        shutil.copy(SCRIPT, root / "app.php")
        account.give(root)
        db = db or databases[kind]
        keys = {"script": str(root / "app.php"), "num": num, "isolation": "rollback", "warmup": ["/warm"]}
        if policy:
            keys["snapshot_sockets"] = policy
        return App(launch(root, workers=1, worker=keys, expect_errors=True, log={"level": "info"}, ini={"display_errors": "0"},
                          env={"DB": f"{db.host}:{db.port}", "KIND": kind, "BOOT": json.dumps(list(boot))}, **options))
    return go


# --- refuse ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("policy", [None, "refuse"])
def test_an_open_connection_is_refused_by_name(start, policy):
    app = start("pdo_mysql", policy)
    assert app.raw().status == 500
    text = app.server.log_text()
    assert "cannot be frozen" in text and "socket" in text and "PDO" in text


# --- sever: who reconnects ------------------------------------------------------------------------

def test_severed_redis_connects_again_by_itself(start):
    app = start("redis", "sever")
    for i in range(5):
        assert app.ask("CLIENT LIST", f"SET key{i} 1")[1] in (True, "OK")
        assert "db=4" in app.ask("CLIENT INFO")[0], "with its database"
    app.server.expect_log("is severed")


@pytest.mark.parametrize("kind,error", [
    ("pdo_mysql", "PDOException: SQLSTATE[HY000]: General error: 2006 MySQL server has gone away"),
    ("mysqli", "mysqli_sql_exception: MySQL server has gone away"),
    ("pdo_pgsql", "PDOException: SQLSTATE[HY000]: General error: 7"),
    ("pgsql", None),
])
def test_severed_clients_that_find_out_say_so(start, kind, error):
    """These do not reconnect by themselves: the application has to, as it would after the server's wait_timeout."""
    app = start(kind, "sever")
    for _ in range(3):
        answer = app.raw("SELECT 1").text
        assert error is None and "[[[" not in answer or error in answer, answer


# --- reset ----------------------------------------------------------------------------------------

BOOT = {"pdo_mysql": ["SET time_zone='+03:00'", "SET SESSION sql_mode='STRICT_ALL_TABLES'"],
        "pdo_pgsql": ["SET TIME ZONE 'Asia/Tokyo'", "SET statement_timeout = '9s'"], "redis": ["CLIENT SETNAME boot"]}
LOOK = {"pdo_mysql": "SELECT @@time_zone, @@sql_mode, DATABASE(), @@character_set_client, @v, @@in_transaction, (SELECT COUNT(*) FROM t)",
        "pdo_pgsql": "SELECT current_setting('TimeZone'), current_setting('statement_timeout'), current_setting('my.v', true), "
                     "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')",
        "redis": "CLIENT INFO"}
CLEAN = {"pdo_mysql": [["+03:00", "STRICT_ALL_TABLES", "sockets", "latin1", None, 0, 0]], "pdo_pgsql": [["Asia/Tokyo", "9s", None, 0]]}
DIRTY = {"pdo_mysql": ["SET @v='secret'", "SET time_zone='-11:00'", "SET NAMES utf8mb4", "BEGIN", "INSERT INTO t VALUES (1)", "USE mysql_"],
         "pdo_pgsql": ["SET TIME ZONE 'UTC'", "SET my.v = 'secret'", "BEGIN", "SELECT pg_advisory_lock(9)"],
         "redis": ["CLIENT SETNAME secret", "SELECT 7", "WATCH k", "MULTI"]}


def session(kind: str, answer) -> list:
    """What of it is the same in every request."""
    if kind == "redis":
        told = (w for w in answer.split() if w.split("=")[0] in ("name", "db", "multi", "watch", "user"))
        return sorted(w for w in told if w != "watch=0")   # which Redis 7.4 and later say
    if kind == "pdo_pgsql":   # a setting that was once made reads as empty
        return [[v or None if i == 2 else v for i, v in enumerate(answer[0])]]
    return answer


def expected(kind: str) -> list:
    return CLEAN.get(kind) or ["db=4", "multi=-1", "name=boot", "user=default"]


def number(kind: str) -> str:
    return {"pdo_mysql": "SELECT CONNECTION_ID()", "pdo_pgsql": "SELECT pg_backend_pid()", "redis": "CLIENT ID"}[kind]


@pytest.mark.parametrize("kind", ["pdo_mysql", "pdo_pgsql", "redis"])
def test_reset_keeps_the_connection_and_nothing_of_the_request(start, kind):
    app = start(kind, "reset", BOOT[kind])
    app.server.expect_log("is reset after every request")
    first = app.raw(number(kind))
    for i in range(20):
        assert session(kind, app.ask(LOOK[kind])[0]) == expected(kind), i
        app.raw(*[q for q in DIRTY[kind] if q != "USE mysql_"])
    assert session(kind, app.ask(LOOK[kind])[0]) == expected(kind)
    last = app.raw(number(kind))
    assert last.json() == first.json() and last.header("x-pid") == first.header("x-pid"), "the same connection, the same worker"


@pytest.mark.parametrize("kind", ["pdo_mysql", "pdo_pgsql", "redis"])
def test_every_worker_has_a_connection_of_its_own(start, kind):
    app = start(kind, "reset", BOOT[kind], num=4)
    question = {"pdo_mysql": ["SELECT CONNECTION_ID()", "SELECT SLEEP(0.2)"], "pdo_pgsql": ["SELECT pg_backend_pid()", "SELECT pg_sleep(0.2)"],
                "redis": ["CLIENT ID", "BLPOP nothing 0.2"]}[kind]
    with ThreadPoolExecutor(4) as threads:
        seen = {(r.header("x-pid"), str(r.json()[0])) for r in threads.map(lambda _: app.raw(*question), range(24))}
    assert len({pid for pid, _ in seen}) >= 2 and len(seen) == len({c for _, c in seen}) == len({pid for pid, _ in seen})


@pytest.mark.parametrize("kind", ["pdo_mysql", "pdo_pgsql", "redis"])
def test_a_connection_lost_is_opened_anew(start, databases, kind):
    app = start(kind, "reset", BOOT[kind])
    one = app.ask(number(kind))[0]
    which = one if kind == "redis" else one[0][0]
    {"pdo_mysql": lambda: databases[kind].sql(f"KILL {which}"),
     "pdo_pgsql": lambda: databases[kind].sql(f"SELECT pg_terminate_backend({which})"),
     "redis": lambda: app.raw(f"CLIENT KILL ID {which}")}[kind]()

    def works():
        r = app.raw(LOOK[kind])
        return r.status == 200 and r.text.startswith("[") and session(kind, r.json()[0]) == expected(kind)
    wait_until(works, "a new connection")
    for _ in range(5):
        assert works()


@pytest.mark.parametrize("kind", ["pdo_mysql", "pdo_pgsql", "redis"])
def test_a_request_that_drops_the_connection_harms_nobody(start, kind):
    app = start(kind, "reset", BOOT[kind], num=2)
    for i in range(12):
        app.raw(LOOK[kind], **({"drop": "1"} if i % 3 == 0 else {"exit": "1"} if i % 3 == 1 else {}))
        assert session(kind, app.ask(LOOK[kind])[0]) == expected(kind)


def test_what_a_request_did_with_a_connection_it_closed_is_nobodys(start):
    """A rollback opens it again from its spare: that must not be the session the request left."""
    app = start("redis", "reset", BOOT["redis"])
    for _ in range(4):
        app.ask("CLIENT SETNAME secret", "SELECT 7", drop="another")
        assert session("redis", app.ask(LOOK["redis"])[0]) == expected("redis")


def test_a_connection_that_was_not_used_is_not_reset(start):
    app = start("redis", "reset", BOOT["redis"])

    def resets() -> int:
        return int(re.search(r"cmdstat_discard:calls=(\d+)", app.ask("INFO commandstats")[0])[1])
    resets()
    before = resets()
    for _ in range(5):
        assert app.ask() == []
    assert resets() == before + 1, "one after the question of before"


def test_a_killed_worker_leaves_no_transaction(start, databases):
    app = start("pdo_mysql", "reset", BOOT["pdo_mysql"])
    for _ in range(5):
        r = app.raw("BEGIN", "INSERT INTO t VALUES (1)")
        os.kill(int(r.header("x-pid")), signal.SIGKILL)
        assert wait_until(lambda: app.raw(LOOK["pdo_mysql"]), "an answer").json() == [expected("pdo_mysql")]


def test_a_role_and_a_user_of_the_request_end_with_it(start, databases):
    databases["pdo_mysql"].sql("CREATE ROLE IF NOT EXISTS powerful; GRANT powerful TO sockets@'%'")
    app = start("pdo_mysql", "reset")
    for _ in range(4):
        assert app.ask("SELECT CURRENT_ROLE()") == [[[None]]]
        app.ask("SET ROLE powerful")


@pytest.mark.parametrize("kind", ["mysqli", "pgsql"])
def test_reset_severs_what_it_does_not_know(start, kind):
    app = start(kind, "reset")
    assert app.raw("SELECT 1").status == 200
    app.server.expect_log("is severed")


def test_what_the_boot_would_lose_is_severed_and_said(start):
    app = start("pdo_mysql", "reset", ["CREATE TEMPORARY TABLE mine(a INT)"])
    assert "2006 MySQL server has gone away" in app.raw("SELECT 1").text
    app.server.expect_log("cannot be reset: the boot has made a temporary table")


def test_a_database_that_comes_back_is_found(start, workdir):
    """While it is away requests are answered and fail by themselves; then workers connect again."""
    own = workdir / "own"
    own.mkdir()
    db = Redis(own)
    app = start("redis", "reset", BOOT["redis"], db=db)
    assert session("redis", app.ask(LOOK["redis"])[0]) == expected("redis")
    db.stop()
    for _ in range(5):
        assert app.raw(LOOK["redis"]).status == 200
    again = Redis(own, port=db.port)
    try:
        # The client finds it first, by itself; the worker's next one has the session of the boot, too.
        wait_until(lambda: "name=boot" in app.raw(LOOK["redis"]).text, "a connection as the boot's", 10, 0.1)
        for _ in range(5):
            assert session("redis", app.ask(LOOK["redis"])[0]) == expected("redis")
    finally:
        again.stop()
