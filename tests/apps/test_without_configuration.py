"""`sapid serve` typed in the folder of an application, with nothing else said: it finds what is to be served."""
import os
import shutil
from pathlib import Path

import pytest

from lib import account, composer, ports, sapid
from lib.dokuwiki import make_dokuwiki
from lib.httpclient import Session
from lib.pages import check_page
from lib.process import Process, accepts
from lib.symfony import SOURCE as SYMFONY, packages

pytestmark = pytest.mark.sapid_only


@pytest.fixture
def serve(workdir):
    """serve(folder) -> Session on a server started there as a person would."""
    running = []

    def start(folder: Path, *options, env=None) -> Session:
        account.give(folder)
        port = ports.free_port()
        process = Process([sapid.binary(), "serve", "--listen", f"127.0.0.1:{port}", *options], workdir / "log", cwd=str(folder),
                          name="sapid serve", env=env)
        running.append(process)
        process.wait_until(lambda: accepts(("127.0.0.1", port)), "its port")
        session = Session(("127.0.0.1", port))
        session.log = process.log
        return session
    yield start
    for process in running:
        assert process.stop() == 0


def test_wordpress(serve, workdir):
    folder = workdir / "wp"
    shutil.copytree("/usr/share/wordpress", folder, ignore=shutil.ignore_patterns(".htaccess", "wp-config.php"))
    s = serve(folder)
    page = check_page(s.get("/"), text="Before getting started")
    assert page.url.endswith("/wp-admin/setup-config.php")
    assert s.get("/wp-includes/css/buttons.min.css").header("content-type").startswith("text/css")
    assert f"serves {folder} " in s.log()


def test_dokuwiki(serve, workdir):
    folder = make_dokuwiki(workdir / "doku")
    s = serve(folder)
    check_page(s.get("/install.php"), text="DokuWiki Installer")
    check_page(s.get("/doku.php"))
    (folder / "conf/users.auth.php").write_text("# <?php exit()?>\nsuper:hash-of-a-password:Super:a@b:admin\n")
    assert "hash-of-a-password" not in s.get("/conf/users.auth.php").text
    assert f"serves {folder} " in s.log()


def test_symfony(serve, workdir):
    folder = workdir / "app"
    shutil.copytree(SYMFONY, folder)
    shutil.copytree(composer.vendor("symfony", packages()), folder / "vendor", copy_function=composer.link_or_copy, symlinks=True)
    env = {"APP_ENV": "prod", "APP_SECRET": "x", "DATABASE_URL": "mysql://nobody:x@127.0.0.1:1/x?serverVersion=10.11.0-MariaDB"}
    (folder / "sapid.toml").write_text("[php]\nenv = { " + ", ".join(f'{k} = "{v}"' for k, v in env.items()) + " }\n")
    os.mkdir(folder / "var")
    s = serve(folder, "--config", str(folder / "sapid.toml"))
    assert s.get("/echo/some/path").json()["path"] == "/echo/some/path"
    assert s.get("/teapot").status == 418 and s.get("/assets/shop.css").status == 200
    assert s.get("/composer.json").status == 404 and s.get("/src/Kernel.php").status == 404
    assert f"serves {folder}/public " in s.log()


def test_phpmyadmin(serve, workdir):
    folder = workdir / "pma"
    shutil.copytree("/usr/share/phpmyadmin", folder, ignore=shutil.ignore_patterns("doc"))
    s = serve(folder)
    assert s.get("/").status == 200
    assert s.get("/themes/pmahomme/css/theme.css").header("content-type").startswith("text/css")


def test_a_folder_of_scripts(serve, workdir):
    folder = workdir / "scripts"
    (folder / "public").mkdir(parents=True)
    (folder / "public/index.php").write_text("<?php echo 'front ', $_SERVER['REQUEST_URI'];")
    (folder / "secret.txt").write_text("not public")
    s = serve(folder)
    assert s.get("/any/thing?x").text == "front /any/thing?x" and "not public" not in s.get("/secret.txt").text


def test_an_empty_folder_is_refused(workdir):
    folder = workdir / "empty"
    folder.mkdir()
    p = Process([sapid.binary(), "serve", "--listen", f"127.0.0.1:{ports.free_port()}"], workdir / "log", cwd=str(folder))
    assert p.popen.wait(60) == 1 and str(folder) in p.log()
