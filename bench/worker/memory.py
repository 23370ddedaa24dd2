"""bench/worker --memory: what a worker costs in memory of its own, against a child of PHP-FPM, after the same traffic."""
import re
from pathlib import Path

from lib import roles
from lib.process import descendants


def kib(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()

    def sum_of(*names: str) -> int:
        return sum(int(re.search(rf"^{name}: +(\d+) kB", text, re.M)[1]) for name in names)
    return {"private": sum_of("Private_Clean", "Private_Dirty", "Private_Hugetlb"), "anonymous": sum_of("Anonymous"), "pss": sum_of("Pss"),
            "rss": sum_of("Rss")}


def processes(server) -> dict[str, list[int]]:
    """Process title without what differs -> its processes."""
    if server.kind == "fpm":
        return {"child of PHP-FPM": [p for p in descendants(server.fpm.process.pid) if "pool www" in roles.title(p)]}
    found: dict[str, list[int]] = {}
    for pid in roles.workers(server):
        title = roles.title(pid).removeprefix("sapid: ")
        if "www-worker" in title or not server.site.worker:
            found.setdefault(title, []).append(pid)
    return found


def table(servers: dict, pages: list[str], ask) -> None:
    """`ask(server, path)` is the traffic. Prints the mean of the processes that have served."""
    for server in servers.values():
        for path in pages:
            ask(server, path)
    print("| mode | process | number | private KiB | anonymous | Pss | Rss |\n|" + "---|" * 7)
    for mode, server in servers.items():
        for title, pids in processes(server).items():
            sizes = [kib(pid) for pid in pids]
            print(f"| {mode} | {title} | {len(pids)} |" + "".join(f" {sum(s[key] for s in sizes) // len(sizes)} |" for key in sizes[0]),
                  flush=True)
