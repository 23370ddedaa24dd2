"""`sapid bench`, run to its end."""
import json
import subprocess

from lib.sapid import binary


def run(*args, timeout=60) -> subprocess.CompletedProcess:
    return subprocess.run([binary(), "bench", *map(str, args)], capture_output=True, text=True, timeout=timeout)


def bench(*args, status=0) -> dict:
    """The result."""
    done = run(*args, "--format", "json")
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)
