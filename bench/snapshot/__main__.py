"""The bars of isolation by rollback on pages of Symfony: requests/s and CPU time against nginx and PHP-FPM, and against the
worker loop that keeps everything.

    /usr/bin/python3 bench/snapshot [--seconds 3] [--rounds 5] [--only PAGE,PAGE] [--servers NAME,NAME]

The pages are those of tests/apps/symfony, on a MariaDB of our own (blog-sqlite: on SQLite, as symfony/demo). All servers
run at once and one is loaded at a time, A B C A B C; a figure is the median of the rounds. CPU time is that of all processes
of the server (not of the database). Interfering load is in the last line: what the machine did beside both.
"""
import argparse
import os
import shutil
import statistics
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH / "compare"), str(BENCH.parent / "tests")]

import instructions  # noqa: E402
import peers  # noqa: E402
import symfony  # noqa: E402
from lib import account  # noqa: E402
from lib.mariadb import MariaDB  # noqa: E402
from lib.workdir import new_workdir, remove_workdir  # noqa: E402
from workloads import Page  # noqa: E402

# name -> application, path, connections
PAGES = {
    "list": ("mariadb", "/en/blog/list", 16),          # Twig, no database, 10 articles
    "list-28": ("mariadb", "/en/blog/list?rows=28", 16),
    "row": ("mariadb", "/api/products/9", 16),         # Doctrine, one entity, JSON
    "products": ("mariadb", "/", 16),                  # Doctrine, 50 entities, Twig
    "blog": ("mariadb", "/en/blog/", 100),             # as symfony/demo's front page
    "blog-sqlite": ("sqlite", "/en/blog/", 100),
    "post": ("mariadb", "/en/blog/posts/post-7", 100),
}


class Classic(peers.Sapid):
    name = "classic"


class Loop(Classic):
    """Worker mode: everything stays."""
    name, mode = "loop", "worker"


class Kept(Classic):
    """Rolled back; each worker has a connection to the database that is put back."""
    name, mode = "rollback", "rollback"


class Connect(Classic):
    """Rolled back; each request connects anew."""
    name, mode = "rollback-connect", "connect"


class Seed(Classic):
    """A front controller with restore_state() and snapshot_state(), from its image; each request connects anew."""
    name, mode = "image", "image"


SERVERS = [peers.NginxFpm, Classic, Loop, Kept, Connect, Seed]


def site(folder: Path, db, loops: int) -> peers.Site:
    app = symfony.application(folder, db)
    shutil.copy(Path(__file__).with_name("connect.php"), app.root / "public")
    account.give(app.root / "public")
    found = symfony.site(app, loops)
    found.modes["connect"] = found.modes["rollback"].replace("/worker.php", "/connect.php")
    return found


def start(kinds, sites, folder, php, options):
    """name of the application -> the servers that serve it."""
    servers = {}
    for name, one in sites.items():
        (folder / f"s-{name}").mkdir()
        account.give(folder / f"s-{name}")
        for kind in kinds:
            servers.setdefault(name, []).append(one.start(kind, str(folder / f"s-{name}"), php, options.workers, 100))
    return servers


def table(page, path, connections, rows):
    base = {key: statistics.median(r[key] for r in rows["nginx-fpm"]) if "nginx-fpm" in rows else None for key in ("rps", "cpu_us")}
    loop = statistics.median(r["cpu_us"] for r in rows["loop"]) if "loop" in rows else None
    print(f"\n**{page}**, `{path}`, {connections} connections\n")
    million = {name: statistics.median(r["instructions"] for r in found) / 1e6 for name, found in rows.items()}
    print("| server | requests/s (lowest to highest) | x nginx-fpm | CPU us a request | x nginx-fpm | x loop | instructions, M | "
          "x nginx-fpm | x loop | p99 ms |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, found in rows.items():
        rps = sorted(r["rps"] for r in found)
        cpu, median = statistics.median(r["cpu_us"] for r in found), statistics.median(rps)
        ratio = lambda value, of: f"{value / of:.2f}" if of else "-"
        p99 = statistics.median(r["p99_us"] for r in found) / 1000
        print(f"| {name} | {median:.0f} ({rps[0]:.0f} to {rps[-1]:.0f}) | {ratio(median, base['rps'])} | {cpu:.0f} | "
              f"{ratio(cpu, base['cpu_us'])} | {ratio(cpu, loop)} | {million[name]:.2f} | {ratio(million[name], million.get('nginx-fpm'))} | "
              f"{ratio(million[name], million.get('loop'))} | {p99:.1f} |", flush=True)
    foreign = statistics.median(r["foreign_cpu_percent"] for found in rows.values() for r in found)
    print(f"\nbeside it: {foreign:.0f} % of one CPU (the database included); load average {os.getloadavg()[0]:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4, help="processes of PHP-FPM and of classic mode")
    parser.add_argument("--loops", type=int, default=2, help="processes of worker mode")
    parser.add_argument("--only", help="pages, with commas: " + ",".join(PAGES))
    parser.add_argument("--servers", help="with commas: " + ",".join(kind.name for kind in SERVERS))
    options = parser.parse_args()
    pages = options.only.split(",") if options.only else list(PAGES)
    kinds = [kind for kind in SERVERS if not options.servers or kind.name in options.servers.split(",")]
    folder, db, servers = new_workdir(), None, {}
    try:
        needed = {PAGES[page][0] for page in pages}
        if "mariadb" in needed:
            (folder / "db").mkdir()
            db = MariaDB(folder / "db")
        sites = {name: site(folder / name, db if name == "mariadb" else None, options.loops) for name in sorted(needed)}
        php = peers.PhpSettings(str(folder), {"opcache.validate_timestamps": "0"})
        servers = start(kinds, sites, folder, php, options)
        for page in pages:
            app, path, connections = PAGES[page]
            workload = Page(page, page, path, connections)
            bodies = {s.name: workload.check(s) for s in servers[app]}
            assert len(set(bodies.values())) == 1, f"{path}: the servers' answers differ: { {n: len(b) for n, b in bodies.items()} }"
            table(page, path, connections,
                  instructions.in_turn(servers[app], workload, connections, options.seconds, options.rounds))
    finally:
        for found in servers.values():
            for server in found:
                server.stop()
        if db:
            db.stop()
        remove_workdir(folder)


if __name__ == "__main__":
    main()
