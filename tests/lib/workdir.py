"""Folders for tests: short paths (a unix socket's may have 107 bytes), reachable for other accounts."""
import os
import shutil
import tempfile
from pathlib import Path


def new_workdir() -> Path:
    path = Path(tempfile.mkdtemp(prefix="sapid-", dir="/tmp"))
    os.chmod(path, 0o755)
    return path


def remove_workdir(path: Path) -> None:
    """SAPID_TEST_KEEP=1 keeps the folders for a look at logs and configuration."""
    if not os.environ.get("SAPID_TEST_KEEP"):
        shutil.rmtree(path, ignore_errors=True)
