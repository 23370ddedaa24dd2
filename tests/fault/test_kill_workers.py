"""kill -9 of random workers under load: every request is answered, with its own body or a clean 502, and there
are no more 502s than workers killed in the middle of a request. SAPID_FAULT_SECONDS=30 for a longer run."""
import os
import random
import signal
import time

import pytest

from lib import account
from lib.process import wait_until
from lib.roles import Load, workers

pytestmark = pytest.mark.sapid_only

SECONDS = float(os.environ.get("SAPID_FAULT_SECONDS", "6"))
ECHO = "<?php $n = $_GET['n']; usleep(300); echo $n;"


def kill_at_random(server, seconds: float) -> int:
    end, kills = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        alive = workers(server)
        if alive:
            try:
                os.kill(random.choice(alive), signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                pass
        time.sleep(0.1)
    return kills


@pytest.mark.parametrize("keep_alive", [True, False])
def test_killed_workers_cost_their_own_request_only(launch, keep_alive):
    root = launch.new_root()
    (root / "echo.php").write_text(ECHO)
    account.give(root)
    server = launch(root, workers=4, expect_errors=True)
    with Load(server.address, "/echo.php?n=", clients=8, keep_alive=keep_alive) as load:
        wait_until(lambda: load.count() > 50, "answers")
        kills = kill_at_random(server, SECONDS)
        asked = load.count()
        wait_until(lambda: load.count() > asked + 200, "answers after the last kill")
    assert load.mixed == []
    assert load.broken == []
    assert set(load.answers) <= {200, 502}, load.answers
    assert load.answers.get(502, 0) <= kills, (load.answers, kills)
    assert kills > SECONDS
    wait_until(lambda: len(workers(server)) == 4, "all workers to be back")
