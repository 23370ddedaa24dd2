"""opcache_reset() again and again under load, with a short force_restart_timeout: no request is lost, no process is killed.
SAPID_TEST_RESETS=60 makes it the full bar of a minute; by default each mode takes four seconds."""
import os
import threading
import time

import pytest

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]
SECONDS = float(os.environ.get("SAPID_TEST_RESETS", "4"))


@pytest.mark.parametrize("mode", ["classic", "worker", "rollback"])
def test_resets_under_load(launch, scripts, mode):
    (scripts / "reset.php").write_text("<?php opcache_reset(); opcache_invalidate(__DIR__ . '/hello.php', true); echo 'done';")
    (scripts / "reset-worker.php").write_text("""<?php
        while (frankenphp_handle_request(function () {
            if ($_GET['reset'] ?? 0) { opcache_reset(); echo 'done'; } else { include __DIR__ . '/hello.php'; }
        }));""")
    worker = {} if mode == "classic" else {"script": str(scripts / "reset-worker.php"), "num": 4}
    if mode == "rollback":
        worker["isolation"] = "rollback"
    server = launch(scripts, workers=4, worker=worker, ini={"opcache.force_restart_timeout": "2"})
    hello, reset = ("/hello.php", "/reset.php") if mode == "classic" else ("/any", "/any?reset=1")
    wrong, counts, stop = [], [0] * 5, threading.Event()

    def ask(i, target, expected, pause):
        with server.connect() as c:
            while not stop.is_set():
                answer = c.request("GET", target)
                if (answer.status, answer.text) != (200, expected):
                    wrong.append((target, answer))
                    return
                counts[i] += 1
                time.sleep(pause)
    threads = [threading.Thread(target=ask, args=(i, hello, "Hello World!", 0)) for i in range(4)]
    threads.append(threading.Thread(target=ask, args=(4, reset, "done", 0.05)))
    [t.start() for t in threads]
    stop.wait(SECONDS)
    stop.set()
    [t.join() for t in threads]
    assert not wrong and counts[4] > SECONDS and min(counts[:4]) > 5, (wrong, counts)
    assert "killed" not in server.log_text() and "signal 9" not in server.log_text()
