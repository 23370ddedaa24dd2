"""What operators and accidents do to a running server, again and again, with the counts that must not grow."""
import os
import re
import signal
import time

from lib.httpclient import Connection
from lib.process import wait_until
from lib.roles import alive, descriptors, gateway, gateways, pools, workers
from lib.service import Adopted


def reload(server) -> None:
    before = server.log_text().count("reload done in")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.log_text().count("reload done in") > before, "the reload")


def upgrade(server):
    """SIGUSR2, until the new program serves; the server object goes on with it. Returns the old process."""
    old = server.process
    before = server.log_text().count("upgrade done: ")
    old.send_signal(signal.SIGUSR2)
    wait_until(lambda: server.log_text().count("upgrade done: ") > before, "the upgrade")
    pid = int(re.findall(r"upgrade done: process (\d+)", server.log_text())[-1])
    server.process = Adopted(pid, old)
    return old


def settled(server, n_workers: int) -> None:
    """One gateway, one pool process and its workers: nothing of a generation before."""
    wait_until(lambda: len(gateways(server)) == 1 and len(pools(server)) == 1 and
               len(workers(server)) == n_workers, "one of each")


def inventory(server) -> dict[str, int]:
    """What a leak would make grow."""
    shared = {name for place in ("/dev/shm", "/run") for name in os.listdir(place)}
    return {"supervisor": len(descriptors(server.process.pid)), "gateway": len(descriptors(gateway(server))),
            "pool": len(descriptors(pools(server)[0])), "processes": len(server.pids()), "shared": len(shared)}


def back_after(server, victim: int, timeout: float = 60.0) -> float:
    """Kills the process; seconds until a fresh connection is answered. The end of the victim is waited for, so
    that it is not the one that answers."""
    begin = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not alive(victim), "its end", timeout, 0.001)
    while True:
        try:
            with Connection(server.address, timeout=timeout) as c:
                if c.request("GET", "/load.php?n=back").text == "back|||end":
                    return time.monotonic() - begin
        except (AssertionError, OSError):
            pass
        if time.monotonic() > begin + timeout:
            raise AssertionError(f"no service {timeout:g} s after the death of {victim}")
        time.sleep(0.002)
