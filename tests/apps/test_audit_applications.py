"""`sapid audit` of WordPress and Symfony: what their boots read, and where they can be frozen."""
import json
import subprocess

import pytest

from lib import toml
from lib.sapid import binary
from lib.symfony import SymfonyApp
from lib.wordpress import make_wordpress

pytestmark = [pytest.mark.sapid_only, pytest.mark.engine_only]

INSTALL = (b"weblog_title=T&user_name=admin&admin_password=correct+horse&admin_password2=correct+horse&pw_weak=on"
           b"&admin_email=a%40example.com&language=")


class Audit:
    def __init__(self, script, config, *options):
        p = subprocess.run([binary(), "audit", "--json", "--config", str(config), *options, str(script)],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
        assert p.returncode in (0, 3), p.stderr
        self.freezable = p.returncode == 0
        self.data = json.loads(p.stdout)
        self.problems = "\n".join(self.data["problems"])
        self.reads = {f"{e['global']}.{e['name'] or '*'}": e for e in self.of("read") if e["guarded"]}

    def of(self, kind):
        return [e for e in self.data["events"] if e["kind"] == kind]

    def place(self, key):
        return self.reads[key]["file"].rpartition("/")[2]


def configuration(path, tables):
    path.write_text(toml.document(tables))
    return path


@pytest.fixture(scope="module")
def wordpress(launch_module, mariadb):
    site = make_wordpress(launch_module.folder / "wp", mariadb, "wordpress_audit")
    server = launch_module(site, workers=2, ini={"memory_limit": "256M"})
    assert server.get("/wp-admin/install.php?step=2", {"Content-Type": "application/x-www-form-urlencoded"}, "POST",
                      INSTALL).status == 200
    return site


@pytest.fixture
def wordpress_config(wordpress, workdir):
    return configuration(workdir / "sapid.toml",
                         {"php": {"document_root": str(wordpress), "snapshot_sockets": "sever",
                                  "snapshot_guards": {"_SERVER.*": "any", "_SERVER.REQUEST_URI": "any"}}})


def test_wordpress_as_it_is_cannot_be_frozen(wordpress, workdir):
    config = configuration(workdir / "sapid.toml", {"php": {"document_root": str(wordpress)}})
    a = Audit(wordpress / "index.php", config, "--at", "include:wp-includes/pluggable-deprecated.php")
    assert not a.freezable
    assert "all of $_SERVER is read at wp-includes/load.php:" in a.problems
    assert "mysqli_real_connect at wp-includes/class-wpdb.php:" in a.problems


def test_wordpress_before_its_plugins(wordpress, wordpress_config):
    a = Audit(wordpress / "index.php", wordpress_config, "--at", "include:wp-includes/pluggable-deprecated.php")
    assert a.freezable, a.problems
    assert a.place("_SERVER.HTTP_USER_AGENT") == "vars.php"  # $is_iphone and the like
    assert a.place("_SERVER.REQUEST_URI") == "load.php"      # wp_fix_server_vars()
    assert "_COOKIE.*" not in a.reads and "_SERVER.HTTPS" not in a.reads
    assert "WP_START_TIMESTAMP" in [e["name"] for e in a.of("constant")]


def test_wordpress_with_its_plugins(wordpress, wordpress_config):
    a = Audit(wordpress / "index.php", wordpress_config, "--at", "include:wp-settings.php")
    assert a.freezable, a.problems
    # wp_magic_quotes() goes over all of them, wp_get_current_user() looks at cookies, is_ssl() at the port
    assert {"_GET.*", "_POST.*", "_COOKIE.*", "_SERVER.HTTPS", "_SERVER.SERVER_PORT"} <= a.reads.keys()
    assert [k for k in a.reads if k.startswith("_COOKIE.wordpress_logged_in_")]


@pytest.fixture(scope="module")
def symfony(launch_module, mariadb):
    return SymfonyApp(launch_module.folder / "symfony", mariadb, ["php"], "symfony_audit")


@pytest.fixture
def symfony_config(symfony, workdir):
    return configuration(workdir / "sapid.toml", {"php": {"document_root": str(symfony.root / "public"), "env": symfony.env}})


def test_symfony_s_own_front_controller(symfony, symfony_config):
    a = Audit(symfony.root / "public/index.php", symfony_config, "--at", "function:Symfony\\Component\\HttpKernel\\Kernel::boot")
    assert not a.freezable
    assert "all of $_SERVER is read at vendor/symfony/http-foundation/ServerBag.php:" in a.problems
    assert a.data["reached"]


def test_symfony_frozen_behind_its_kernel(symfony, symfony_config):
    a = Audit(symfony.root / "public/index.php", symfony_config, "--at", "function:App\\Kernel::__construct")
    assert a.freezable, a.problems
    assert a.reads == {}


def test_symfony_with_snapshot_state(symfony, symfony_config):
    a = Audit(symfony.root / "public/seed.php", symfony_config)
    assert a.freezable, a.problems
    assert a.reads.keys() <= {"_COOKIE.PHPSESSID"}  # the page that it makes to warm itself has a session
    assert [e["name"] for e in a.of("connected")][0] == "pdo::__construct"
    assert symfony.env["DATABASE_URL"] not in json.dumps(a.data)
