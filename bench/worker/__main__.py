"""Classic mode, worker mode and worker mode with isolation = "rollback": requests/s, and the CPU time of each role for
one request.

    /usr/bin/python3 bench/worker [--seconds 5] [--rounds 3] [--connections 64] [--only NAME,NAME]
    /usr/bin/python3 bench/worker --memory --seconds 1

hello (a script of one line) and the pages of the Symfony application of tests/apps/symfony (Doctrine, Twig, forms,
sessions; MariaDB of our own). The modes of one page run one after the other, `rounds` times, and the round with the
least CPU time counts. CPU time is that of /proc/PID/task/*/schedstat, so it means something beside other work, too;
requests/s only on a quiet machine. The load is that of `sapid bench`.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from lib import account, roles, sapid  # noqa: E402
from lib.bench import bench  # noqa: E402
from lib.mariadb import MariaDB  # noqa: E402
from lib.nginx import NginxFpm  # noqa: E402
from lib.sapid import Sapid  # noqa: E402
from lib.site import Site  # noqa: E402
from lib.symfony import SymfonyApp  # noqa: E402
from lib.workdir import new_workdir, remove_workdir  # noqa: E402

import memory  # noqa: E402

PAGES = {"hello": "/hello.php", "row": "/api/products/9", "show": "/product/9", "list": "/", "form": "/product/new",
         "session": "/counter", "echo": "/echo/a", "cached": "/cached", "plain": "/teapot"}
HELLO = "<?php echo 'Hello, world';"
HELLO_LOOP = "<?php while (frankenphp_handle_request(static function () { echo 'Hello, world'; }));"


def cpu_ns(pids) -> int:
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(task.read_text().split()[0])
            except OSError:
                pass   # it ended
    return total


def load(server, path: str, connections: int, seconds: float) -> dict:
    """What `sapid bench` says, in the closed loop. Every answer must be right."""
    status = 418 if path == PAGES["plain"] else 200
    return bench("--url", f"http://127.0.0.1:{server.port}{path}", "--concurrency", connections, "--duration", f"{seconds}s",
                 "--expect-status", status)


def measure(server, path, seconds, connections, database) -> dict:
    gateway, php = [roles.gateway(server)], [*roles.workers(server)]
    mariadb = [database.process.popen.pid] if database else []
    load(server, path, connections, 1)   # warm
    before = [cpu_ns(pids) for pids in (gateway, php, mariadb)]
    done = load(server, path, connections, seconds)
    after = [cpu_ns(pids) for pids in (gateway, php, mariadb)]
    g, p, m = ((b - a) / 1000 / done["total_requests"] for a, b in zip(before, after))
    return {"rps": done["requests_per_sec"], "gateway": g, "php": p, "database": m}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=5)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--connections", type=int, default=64)
    options.add_argument("--loops", type=int, default=2)
    options.add_argument("--only", help="pages, with commas: " + ",".join(PAGES))
    options.add_argument("--memory", action="store_true", help="memory of their own of the workers of the Symfony application, and of "
                         "nginx with PHP-FPM, after the same traffic")
    options.add_argument("--hold", action="store_true", help="start the servers, say where, and wait")
    o = options.parse_args()
    folder, servers, db = new_workdir(), [], None
    try:
        hello = folder / "hello"
        hello.mkdir()
        (hello / "hello.php").write_text(HELLO)
        (hello / "loop.php").write_text(HELLO_LOOP)
        account.give(hello)
        (folder / "mariadb").mkdir()
        db = MariaDB(folder / "mariadb")
        app = SymfonyApp(folder / "app", db, [str(sapid.binary()), "php"], "bench", runtime=True)
        app.fill(db, 120, "bench")
        ini = {"opcache.validate_timestamps": "0"}

        def serve(name, root, **kw):
            (folder / name).mkdir()
            servers.append(Sapid(Site(root=root, log={"access": "off"}, ini=ini, **kw), folder / name))
            return servers[-1]
        script, loop = str(app.root / "public/index.php"), {"num": o.loops}
        rollback = {**loop, "isolation": "rollback"}
        env = {**app.env, "APP_RUNTIME": "Sapid\\Runtime\\SymfonyRuntime", "FRANKENPHP_LOOP_MAX": "0"}
        # An open database connection is refused at the freeze unless it is kept; every page is warmed.
        kept = {**rollback, "script": script, "snapshot_sockets": "reset",
                "warmup": [path for name, path in PAGES.items() if name != "hello"]}
        sites = {
            "hello": (serve("hc", hello, workers=4),
                      serve("hw", hello, workers=1, worker={**loop, "script": str(hello / "loop.php")}),
                      serve("hr", hello, workers=1, worker={**rollback, "script": str(hello / "loop.php")})),
            "app": (serve("ac", app.root / "public", workers=4, env=app.env),
                    serve("aw", app.root / "public", workers=1, env=env, worker={**loop, "script": script}),
                    serve("ar", app.root / "public", workers=1, env=env, worker=kept))}
        if o.hold:
            for s in servers:
                print(s.folder.name, f"http://127.0.0.1:{s.port}/", "gateway", roles.gateway(s), "workers", roles.workers(s))
            sys.stdin.read()
            return
        if o.memory:
            (folder / "fpm").mkdir()
            servers.append(NginxFpm(Site(root=app.root / "public", workers=o.loops, env=app.env, ini=ini), folder / "fpm"))
            classic, leaking, rolled = sites["app"]
            memory.table({"nginx, PHP-FPM": servers[-1], "classic": classic, "leaking loop": leaking, "rollback": rolled},
                         [path for name, path in PAGES.items() if name != "hello"],
                         lambda server, path: load(server, path, o.connections, o.seconds))
            return
        print("| page | req/s: classic | loop | rollback | PHP us: classic | loop | rollback | classic / loop | "
              "rollback / loop | rollback / classic | gateway us: classic | loop | rollback |")
        print("|" + "---|" * 13)
        for name, path in PAGES.items():
            if o.only and name not in o.only.split(","):
                continue
            servers_of = sites["hello" if name == "hello" else "app"]
            paths = (path, "/", "/") if name == "hello" else (path,) * 3
            rounds = [[measure(server, target, o.seconds, o.connections, db)
                       for server, target in zip(servers_of, paths)] for _ in range(o.rounds)]
            c, w, r = best = [min((one[i] for one in rounds), key=lambda m: m["php"]) for i in range(3)]
            print(f"| {name} |" + "".join(f" {m['rps']:.0f} |" for m in best) + "".join(f" {m['php']:.1f} |" for m in best)
                  + f" {c['php'] / w['php']:.2f} | {r['php'] / w['php']:.2f} | {r['php'] / c['php']:.2f} |"
                  + "".join(f" {m['gateway']:.1f} |" for m in best), flush=True)
    finally:
        for s in servers:
            s.kill()
        if db:
            db.stop()
        remove_workdir(folder)


if __name__ == "__main__":
    main()
