"""WordPress from an image: what it gains, frozen where it is right and frozen where it gains most.

    /usr/bin/python3 bench/snapshot/wordpress.py [--seconds 5] [--rounds 5]

All servers serve one blog (Debian's WordPress, 25 posts, MariaDB of our own) at once; one is loaded at a time, A B C A B C; a
figure is the median of the rounds. `image-late` is frozen at the end of wp-settings.php; nothing but pages for visitors who
are not logged in is right there, which is what is asked for. CPU time is that of all processes of the server, not the database's.
"""
import argparse
import os
import statistics
import sys
import tomllib
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH / "compare"), str(BENCH.parent / "tests")]

import instructions  # noqa: E402
import peers  # noqa: E402
from lib import toml  # noqa: E402
from lib.mariadb import MariaDB  # noqa: E402
from lib.wordpress import EXAMPLE, Blogs  # noqa: E402
from lib.workdir import new_workdir, remove_workdir  # noqa: E402
from workloads import Workload  # noqa: E402

PAGES = {"front": "/", "post": "/2026/03/post-7/", "search": "/?s=Post+7", "rest": "/wp-json/wp/v2/posts?per_page=3", "log-in": "/wp-login.php"}
LATE = """<?php
/* What WordPress does for a request between sapid_resume() and the end of wp-settings.php, for visitors who are not logged in. */
function sapid_resume_late(): void
{
    wp_fix_server_vars();
    timer_start();
    wp_debug_mode();
    ($GLOBALS['sapid_vars'])();
    wp_magic_quotes();
}
"""


class Classic(peers.Sapid):
    name = "classic"


class Image(peers.Sapid):
    """As examples/wordpress/sapid.toml says."""
    name = "image"
    more: dict = {}

    @property
    def extra_php(self):
        keys = tomllib.loads((EXAMPLE / "sapid.toml").read_text())["php"]
        del keys["document_root"]
        return "".join(f"{key} = {toml.value(value)}\n" for key, value in {**keys, **self.more}.items())


class Late(Image):
    name = "image-late"
    more = {"snapshot_at": "include:wp-settings.php", "snapshot_rerun": ["sapid_resume_late"], "snapshot_scripts": ["index.php", "wp-login.php"],
            "snapshot_guards": {"_SERVER.*": "any", "_COOKIE.*": "absent", "_SERVER.REQUEST_METHOD": "regex:^(GET|HEAD)$",
                                "_SERVER.REQUEST_URI": "set", "_SERVER.HTTP_USER_AGENT": "any", "_SERVER.QUERY_STRING": "any",
                                "_SERVER.HTTP_ACCEPT": "any", "_SERVER.CONTENT_TYPE": "any", "_GET.*": "any", "_REQUEST.*": "any",
                                "_POST.*": "absent", "_SERVER.HTTP_AUTHORIZATION": "any",
                                # The Host asked for is the blog's, the port each server's own.
                                "_SERVER.SERVER_PORT": "any"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--only", help="pages, with commas: " + ",".join(PAGES))
    options = parser.parse_args()
    folder, db, servers = new_workdir(), None, []
    try:
        (folder / "db").mkdir()
        db = MariaDB(folder / "db")
        root, port = Blogs(folder, db, []).make("bench")
        (root / "wp-content/mu-plugins/late.php").write_text(LATE)
        php = peers.PhpSettings(str(folder), {"opcache.validate_timestamps": "0", "memory_limit": "256M"})
        for kind in (peers.NginxFpm, Classic, Image, Late):
            servers.append(kind(str(root), str(folder), php, workers=4, connections=options.connections))
            servers[-1].start("/readme.html", 60)
        for name in options.only.split(",") if options.only else PAGES:
            workload = Workload(name, name, PAGES[name], host=f"127.0.0.1:{port}")
            for server in servers:
                workload.check(server)
            table(name, PAGES[name],
                  instructions.in_turn(servers, workload, options.connections, options.seconds, options.rounds))
        for server in servers[2:]:
            print(f"\n{server.name}:")
            with open(server.log_path, errors="replace") as log:
                print("".join(line for line in log if " error " in line or "frozen" in line or "agree" in line))
    finally:
        for server in servers:
            server.stop()
        if db:
            db.stop()
        remove_workdir(folder)


def table(name, path, rows) -> None:
    print(f"\n**{name}**, `{path}`\n\n| server | requests/s (lowest to highest) | x classic | CPU us a request | x classic | "
          "instructions a request, M | x classic |")
    print("|---|---|---|---|---|---|---|")
    keys = ("rps", "cpu_us", "instructions")
    median = {server: {k: statistics.median(r[k] for r in found) for k in keys} for server, found in rows.items()}
    for server, m in median.items():
        rps = sorted(r["rps"] for r in rows[server])
        print(f"| {server} | {m['rps']:.0f} ({rps[0]:.0f} to {rps[-1]:.0f}) | {m['rps'] / median['classic']['rps']:.2f} | {m['cpu_us']:.0f} | "
              f"{m['cpu_us'] / median['classic']['cpu_us']:.2f} | {m['instructions'] / 1e6:.2f} | "
              f"{m['instructions'] / max(1, median['classic']['instructions']):.2f} |", flush=True)
    print(f"\nload average {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
