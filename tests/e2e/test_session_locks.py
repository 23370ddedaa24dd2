"""A session handler whose write() ends badly: the lock of the session ends with its request, not with the process."""
import pytest

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

ENDS = {"throws": "throw new Exception('no write');", "exits": "exit('bye');", "has no memory": "ini_set('memory_limit', '8M'); str_repeat('a', 20_000_000);",
        "calls nothing": "nothing_of_this_name();", "writes": "return parent::write($id, $data);"}

HANDLER = """<?php
class Handler extends SessionHandler {
    public function write($id, $data): bool { %s }
    public function close(): bool { %s }
}
"""
ASK = "session_set_save_handler(new Handler(), true); session_id('locked'); session_start(); echo 'session of ', getmypid();"
WORKER = "while (frankenphp_handle_request(static function () { %s })) {}"


def folder_for_sessions(root):
    folder = root / "sessions"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("mode", ["classic", "worker", "rollback"])
def test_a_lock_ends_with_its_request(launch, mode, end):
    root = launch.new_root()
    ini = {"session.save_path": str(folder_for_sessions(root)), "display_errors": "1", "output_buffering": "0"}
    script = HANDLER % (ENDS[end], "return parent::close();")
    options = {}
    if mode == "classic":
        (root / "index.php").write_text(script + ASK)
    else:
        (root / "index.php").write_text(script + WORKER % ASK)
        options["worker"] = {"script": str(root / "index.php"), "num": 2, "isolation": "rollback" if mode == "rollback" else "none"}
    server = launch(root, workers=2, expect_errors=True, ini=ini, **options)
    for _ in range(6):   # whichever worker answers
        with server.connect(timeout=60) as c:
            assert c.request("GET", "/").text.startswith("session of ")


def test_a_close_that_forgets_its_parent(launch):
    root = launch.new_root()
    ini = {"session.save_path": str(folder_for_sessions(root))}
    (root / "index.php").write_text(HANDLER % (ENDS["writes"], "return true;") + ASK)
    server = launch(root, workers=2, ini=ini)
    for _ in range(6):
        with server.connect(timeout=60) as c:
            assert c.request("GET", "/").text.startswith("session of ")
