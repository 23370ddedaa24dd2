"""connection_status(), connection_aborted() and ignore_user_abort(): what a script learns of a client that goes away, and how it
ends, on sapid and behind nginx with PHP-FPM."""
import re
from pathlib import Path
from urllib.parse import urlencode

import pytest

from lib.process import wait_until

# Starts the oracle by itself.
pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

SCRIPT = "/abort-parity.php"
HOWS = re.findall(r"^case '([^']+)':(.*)", (Path(__file__).parent / "php" / SCRIPT[1:]).read_text(), re.M)
# A client that stays would read 64 MiB of these.
CASES = [(how, True) for how, _ in HOWS] + [(how, False) for how, code in HOWS if "write_on" not in code]


def story(server, how, name, leaves):
    """What the script of one request wrote down, whose client leaves after the first byte, or stays."""
    def read():
        return server.get(f"{SCRIPT}?how=read&name={name}").text
    gone = server.site.root / "sessions" / f"aborts-{server.port}-{name}.gone"
    with server.connect() as c:
        c.send(c.format("GET", f"{SCRIPT}?{urlencode({'how': how, 'name': name})}"))
        if leaves:
            wait_until(lambda: '["start"' in read(), "the script to start")
            if how not in ("normal", "timeout", "timeout ignored"):
                c.read_until(b"\r\n\r\n")
                c.read_until(b"x")
            c.close()
        gone.touch()
        if not leaves:
            c.read_response()
    wait_until(lambda: '"end"\n' in read(), "the script to end")
    # Destructors run behind the shutdown functions.
    wait_until(lambda: '["destructor"' in read() or how.startswith("timeout"), "the destructor")
    lines = read().splitlines()
    return [line for i, line in enumerate(lines) if i == 0 or line != lines[i - 1]]   # however often a callback ran


@pytest.mark.parametrize("how,leaves", CASES, ids=lambda x: x if isinstance(x, str) else "leaves" if x else "stays")
def test_what_a_script_learns(pair, how, leaves):
    name = f"{how.replace(' ', '-')}-{int(leaves)}-{int('use_fpm' in pair[0].site.php)}"
    ours, theirs = (story(server, how, name, leaves) for server in pair)
    if how == "buffered out" and leaves:   # DIFFERENCES.md: flush() without output notices nothing here
        assert '"not here"' in ours and '"not here"' not in theirs
        return
    assert ours == theirs
    assert '"not here"' not in ours
