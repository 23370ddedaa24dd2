"""What learning is worth: CPU time of PHP for a request of pages of the Symfony application that no warm-up has seen.

    /usr/bin/python3 bench/learned [--requests 100] [--rounds 5] [--only PAGE]

Classic mode; an image without warm-up; the next generation, which has loaded what requests had to load late; and an image
that was warmed with the pages. One client asks the servers in turn, `rounds` times, and the round with the least CPU time
counts, which is that of the workers (/proc/PID/schedstat). Bodies are compared with those of classic mode.
"""
import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from lib import roles, sapid  # noqa: E402
from lib.process import wait_until  # noqa: E402
from lib.sapid import Sapid  # noqa: E402
from lib.site import Site  # noqa: E402
from lib.symfony import SymfonyApp  # noqa: E402
from lib.workdir import new_workdir, remove_workdir  # noqa: E402

PAGES = {"teapot": "/teapot", "list": "/en/blog/list", "products": "/", "row": "/api/products/9", "form": "/product/new",
         "session": "/counter", "blog": "/en/blog/"}


def cpu_ns(server) -> int:
    total = 0
    for pid in roles.workers(server):
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(task.read_text().split()[0])
    return total


def body(server, path) -> str:
    return re.sub(r'value="[\w.-]{20,}"|\d+ ms', "", server.get(path).text)   # tokens of forms


def measure(server, path, n) -> float:
    """Microseconds a request."""
    s = server.session()
    for _ in range(30):
        s.get(path)
    before = cpu_ns(server)
    for _ in range(n):
        s.get(path)
    s.close()
    return (cpu_ns(server) - before) / 1000 / n


def image(server) -> dict:
    return json.loads(server.admin("/server?json&isolation").text)["pools"][1]["generations"][-1]["image"]


def reload(server) -> None:
    subprocess.run([sapid.binary(), "reload", "--socket", server.admin_path], check=True, stdout=subprocess.DEVNULL)
    wait_until(lambda: len(json.loads(server.admin("/server?json").text)["pools"][1]["generations"]) == 1, "the old one to end")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=100)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", choices=PAGES)
    o = options.parse_args()
    pages = {o.only: PAGES[o.only]} if o.only else PAGES
    folder, servers = new_workdir(), []
    try:
        app = SymfonyApp(folder / "app", None, [str(sapid.binary()), "php"], "bench")
        app.take_runner()
        app.write_a_blog()
        app.env["FRANKENPHP_LOOP_MAX"] = "0"

        def serve(name, **worker):
            (folder / name).mkdir()
            keys = {"script": str(app.root / "public/worker.php"), "num": 1, "isolation": "rollback",
                    "snapshot_sockets": "sever", **worker}
            servers.append(Sapid(Site(root=app.root / "public", workers=1, env=app.env, worker=keys if worker else {},
                                      log={"access": "off"}, ini={"opcache.validate_timestamps": "0"}), folder / name))
            return servers[-1]
        classic = serve("classic")
        cold, learned, warm = serve("cold", warmup=[]), serve("learned", warmup=[]), serve("warm", warmup=list(PAGES.values()))
        for _ in range(3):
            for path in pages.values():
                learned.get(path)
        reload(learned)
        names = ("classic", "not warmed", "learned", "warmed")
        print("| page | " + " | ".join(names) + " | learned / not warmed | learned / classic | names late, not warmed | learned |")
        print("|" + "---|" * 9)
        for page, path in pages.items():
            assert body(cold, path) == body(classic, path) == body(warm, path) == body(learned, path), page
            rounds = [[measure(s, path, o.requests) for s in (classic, cold, learned, warm)] for _ in range(o.rounds)]
            c, n, l, w = (min(r[i] for r in rounds) for i in range(4))
            found = [next(r for r in image(s)["routes"] if r["route"].replace("*", "9") == "GET " + path) for s in (cold, learned)]
            per = ["%.0f" % (r["late_names"] / r["requests"]) for r in found]
            print(f"| {page} | {c:.0f} | {n:.0f} | {l:.0f} | {w:.0f} | {l / n:.2f} | {l / c:.2f} | {per[0]} | {per[1]} |",
                  flush=True)
        i, bare = image(learned), image(cold)
        print(f"\n{i['learned']} classes and files learned, {i['learned_gone']} gone, {i['late_names_banned']} that cannot be; "
              f"image {i['bytes'] >> 10} KiB instead of {bare['bytes'] >> 10}, boot {i['boot_ms']} ms instead of {bare['boot_ms']}")
    finally:
        for s in servers:
            s.kill()
        remove_workdir(folder)


if __name__ == "__main__":
    main()
