"""The folder of PHP scripts and a server for it."""
import shutil
from pathlib import Path

import pytest

from lib import account

SCRIPTS = Path(__file__).parent / "php"


@pytest.fixture(scope="module")
def scripts(launch_module):
    """A copy of tests/e2e/php that PHP may write to."""
    root = launch_module.folder / "php"
    shutil.copytree(SCRIPTS, root)
    (root / "sessions").mkdir()
    account.give(root)
    return root


@pytest.fixture(scope="module")
def server(launch_module, scripts):
    """Four workers on the scripts, with limits that the tests of a file can reach."""
    return launch_module(scripts, workers=4, expect_errors=True,
                         ini={"upload_max_filesize": "300M", "post_max_size": "320M",
                              "session.gc_probability": "0"},
                         server={"max_body_size": "400M"})
