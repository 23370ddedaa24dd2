"""Worker mode for a long time: memory over a million requests of the Symfony application, and restarts under load.

    nice -n 5 /usr/bin/python3 bench/soak/worker.py [--requests 1000000] [--restarts 100] [--out bench/soak/WORKER.md]

1. One process serves all requests of a mix of pages to two connections; its memory is read every few seconds, from the
   kernel (VmRSS) and from PHP (memory_get_usage() by the page /life). Every answer must be 200.
2. The same handler, called as often in one php-cli process, is the measure of what PHP and the application grow by.
3. Two processes that are replaced again and again (max_requests), their scripts starting afresh in between
   (FRANKENPHP_LOOP_MAX): every answer must be 200.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCH.parent / "tests"))

from lib import account, roles, sapid  # noqa: E402
from lib.mariadb import MariaDB  # noqa: E402
from lib.sapid import Sapid  # noqa: E402
from lib.site import Site  # noqa: E402
from lib.symfony import SymfonyApp  # noqa: E402
from lib.workdir import new_workdir, remove_workdir  # noqa: E402

MIX = ["/echo/a?x=1", "/api/products/9", "/cached", "/echo/b", "/api/products/17", "/cached", "/product/9", "/echo/c", "/product/new"]
MAX_REQUESTS, LOOP_MAX = 400, 150


def loops(server) -> list[int]:
    return [pid for pid in roles.workers(server) if "www-worker" in roles.title(pid)]


def load(server, folder: Path, requests: int) -> subprocess.Popen:
    urls = folder / "urls"
    urls.write_text("".join(f"1 GET http://127.0.0.1:{server.port}{path}\n" for path in MIX))
    return subprocess.Popen([str(sapid.binary()), "bench", "--urls", str(urls), "--requests", str(requests), "--duration", "6h",
                             "--concurrency", "2", "--expect-status", "200", "--format", "kv"], stdout=subprocess.PIPE, text=True)


def result(bench: subprocess.Popen) -> dict:
    return dict(line.split("=", 1) for line in bench.communicate()[0].splitlines() if "=" in line)


def serve(app, folder: Path, num: int, loop_max: int, **worker) -> Sapid:
    folder.mkdir()
    env = {**app.env, "APP_RUNTIME": "Sapid\\Runtime\\SymfonyRuntime", "FRANKENPHP_LOOP_MAX": str(loop_max)}
    return Sapid(Site(root=app.root / "public", workers=1, env=env, log={"access": "off"},
                      worker={"script": str(app.root / "public/index.php"), "num": num, **worker}), folder)


def million(app, folder: Path, requests: int) -> tuple[dict, list]:
    server, samples = serve(app, folder, 1, 0), []
    try:
        pid = loops(server)[0]
        bench = load(server, folder, requests)
        while bench.poll() is None:
            life = server.get("/life").json()
            assert life["pid"] == pid, "the process was replaced"
            samples.append((life["requests"], life["memory"] >> 10, int(roles.status_field(pid, "VmRSS").split()[0])))
            time.sleep(1)
        return result(bench), samples
    finally:
        server.stop()


def php_cli(app, requests: int) -> dict:
    done = subprocess.run(["php", "-d", "opcache.enable_cli=1", str(BENCH / "worker/loop.php"), str(app.root), str(requests), *MIX],
                          env={**os.environ, **app.env}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stderr)


def restarts(app, folder: Path, wanted: int) -> tuple[dict, int]:
    server, seen = serve(app, folder, 2, LOOP_MAX, max_requests=MAX_REQUESTS), set()
    try:
        bench = load(server, folder, wanted * MAX_REQUESTS)
        while bench.poll() is None:
            seen |= set(loops(server))
            time.sleep(0.02)
        return result(bench), len(seen)
    finally:
        server.stop()


def row(samples: list, share: float) -> tuple:
    """The first sample at or behind that share of the requests."""
    return next(s for s in samples if s[0] >= share * samples[-1][0])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=1_000_000)
    options.add_argument("--restarts", type=int, default=100)
    options.add_argument("--out", type=Path, default=BENCH / "soak/WORKER.md")
    o = options.parse_args()
    folder = new_workdir()
    try:
        (folder / "mariadb").mkdir()
        db = MariaDB(folder / "mariadb")
        try:
            app = SymfonyApp(folder / "app", db, [str(sapid.binary()), "php"], "soak", runtime=True)
            app.fill(db, 120, "soak")
            account.give(app.root / "var")
            again, processes = restarts(app, folder / "restarts", o.restarts)
            bench, samples = million(app, folder / "million", o.requests)
            cli = php_cli(app, o.requests)
        finally:
            db.stop()
    finally:
        remove_workdir(folder)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=BENCH, capture_output=True, text=True).stdout.strip()
    lines = [f"# Worker mode: {bench['total_requests']} requests in one process, {bench['errors']} wrong", "",
             f"`/usr/bin/python3 bench/soak/worker.py --requests {o.requests} --restarts {o.restarts}`, commit {commit}, "
             f"{time.strftime('%Y-%m-%d', time.gmtime())}, {os.cpu_count()} virtual CPUs, Linux {platform.release()}. Symfony, pages in turn: "
             + ", ".join(f"`{path}`" for path in sorted(set(MIX))) + ".", "",
             "| requests | worker mode: PHP memory, KiB | resident, KiB | the same loop in php-cli: PHP memory | resident |", "|---|---|---|---|---|"]
    for share in (0.02, 0.1, 0.25, 0.5, 0.75, 1):
        ours, theirs = row(samples, share), row(cli["samples"], share)
        lines.append(f"| {ours[0]} (php-cli {theirs[0]}) | {ours[1]} | {ours[2]} | {theirs[1]} | {theirs[2]} |")
    lines += ["", f"{bench['requests_per_sec']} requests/s with two connections; p50 {bench['p50']}, p99 {bench['p99']}. CPU time in php-cli: "
              f"{cli['us']:.0f} us for one request.", "",
              f"Restarts: {again['total_requests']} requests, {processes} processes one after another (`max_requests = {MAX_REQUESTS}`), their "
              f"script afresh every {LOOP_MAX} requests: {again['errors']} wrong or lost.", ""]
    o.out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
