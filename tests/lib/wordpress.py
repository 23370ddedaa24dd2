"""The distribution's WordPress in a folder of our own."""
import json
import os
import shutil
import subprocess
from pathlib import Path

from lib import account, phpini, ports

SOURCE = Path("/usr/share/wordpress")
FILES = Path(__file__).resolve().parents[1] / "apps" / "wordpress"
EXAMPLE = FILES.parents[2] / "examples" / "wordpress"
PLUGIN = FILES / "sapid-test.php"

CONFIG = """<?php
define('DB_NAME', '{database}');
define('DB_USER', '{database}');
define('DB_PASSWORD', 'secret');
define('DB_HOST', '{host}:{port}');
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
{salts}
$table_prefix = 'wp_';
define('FS_METHOD', 'direct');
define('WP_HTTP_BLOCK_EXTERNAL', true);      // no network here; loopback stays open for wp-cron
define('WP_ACCESSIBLE_HOSTS', '127.0.0.1,localhost');
define('AUTOMATIC_UPDATER_DISABLED', true);
{more}
if (!defined('ABSPATH')) {{
    define('ABSPATH', __DIR__ . '/');
}}
require_once ABSPATH . 'wp-settings.php';
"""


def make_wordpress(root: Path, db, database: str = "wordpress", more: str = "") -> Path:
    """Copies WordPress to `root` with links resolved, and writes its wp-config.php for a new database, with `more` in it."""
    if not any(SOURCE.glob("wp-content/themes/twentytwenty*")):
        raise RuntimeError("no theme for WordPress: apt-get install wordpress-theme-twentytwentythree, or a newer one")
    shutil.copytree(SOURCE, root, symlinks=False, ignore=shutil.ignore_patterns(".htaccess"))
    db.create(database)
    keys = ("AUTH_KEY", "SECURE_AUTH_KEY", "LOGGED_IN_KEY", "NONCE_KEY", "AUTH_SALT", "SECURE_AUTH_SALT",
            "LOGGED_IN_SALT", "NONCE_SALT")
    salts = "\n".join(f"define('{k}', '{k.lower()} of the tests, long enough to be one');" for k in keys)
    (root / "wp-config.php").write_text(CONFIG.format(database=database, host=db.host, port=db.port, salts=salts, more=more))
    (root / "wp-content/uploads").mkdir(exist_ok=True)
    (root / "wp-content/upgrade").mkdir(exist_ok=True)
    shutil.copy(PLUGIN, root / "wp-content/plugins/sapid-test.php")
    account.give(root / "wp-content")
    return root


class Blogs:
    """The same blog several times: one is installed, the others are copies of its database. They have equal cookies, and
    addresses that are equal but for the port."""

    def __init__(self, folder: Path, db, people):
        """`people`: objects with `login` and `email`; their password is "secret"."""
        self.folder, self.db, self.people = folder, db, people
        self.dump = None

    def make(self, name: str) -> tuple[Path, int]:
        """The document root and the port that it expects to be served on."""
        port, database = ports.free_port(), f"wp_{name}"
        root = make_wordpress(self.folder / name, self.db, database, more="\n".join([
            f"define('WP_HOME', 'http://127.0.0.1:{port}');", f"define('WP_SITEURL', 'http://127.0.0.1:{port}');",
            "define('COOKIEHASH', 'ofthetests');", "define('DISABLE_WP_CRON', true);"]))
        (root / "wp-content/mu-plugins").mkdir()
        shutil.copy(FILES / "must-use.php", root / "wp-content/mu-plugins/tests.php")
        shutil.copy(EXAMPLE / "sapid.php", root / "wp-content/mu-plugins")
        if self.dump is None:
            self._install(root)
            here = f"REPLACE(%s, 'http://127.0.0.1:{port}', 'http://blog.test')"
            self.db.sql(f"UPDATE wp_posts SET guid = {here % 'guid'}, post_content = {here % 'post_content'}", database)
            self.dump = self.db.dump(database)
        else:
            self.db.sql(self.dump, database)
        account.give(root / "wp-content")
        return root, port

    def _install(self, root: Path) -> None:
        shutil.copy(FILES / "install.php", root / "sapid-install.php")
        people = json.dumps([{"login": p.login, "email": p.email} for p in self.people])
        done = subprocess.run([f"/usr/bin/php{phpini.version()}", root / "sapid-install.php", people], capture_output=True,
                              text=True, timeout=120, env={**os.environ, "XDEBUG_MODE": "off"})
        if done.returncode != 0 or "installed" not in done.stdout:
            raise RuntimeError(f"WordPress could not be installed:\n{done.stdout}\n{done.stderr}")
        (root / "sapid-install.php").unlink()
