"""sapid and nginx with PHP-FPM on one folder; sapid twice, with its own engine and with that PHP-FPM behind it."""
import shutil
from pathlib import Path

import pytest

from lib import account

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def scripts(launch_module):
    root = launch_module.folder / "php"
    shutil.copytree(HERE.parent / "e2e" / "php", root)
    shutil.copytree(HERE / "php", root, dirs_exist_ok=True)
    (root / "sessions").mkdir()
    account.give(root)
    return root


SETTINGS = {"ini": {"upload_max_filesize": "20M", "post_max_size": "30M"}, "server": {"max_body_size": "40M"}, "workers": 2,
            "env": {"APP_MODE": "both"}, "expect_errors": True}


@pytest.fixture(scope="module")
def oracle(launch_module, scripts):
    return launch_module(scripts, kind="fpm", **SETTINGS)


@pytest.fixture(scope="module", params=["engine", "fpm"])
def pair(launch_module, scripts, oracle, request):
    php = {"use_fpm": True, "fpm_socket": str(oracle.fpm.socket_path)} if request.param == "fpm" else {}
    return [launch_module(scripts, kind="sapid", php=php, **SETTINGS), oracle]
