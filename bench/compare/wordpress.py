"""Debian's WordPress on a MariaDB of its own, installed and ready, in a document root all servers share."""
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import peers
from lib import account, toml
from lib.mariadb import MariaDB
from lib.wordpress import EXAMPLE

SOURCE = "/usr/share/wordpress"
HOST = "bench.test"     # every server is asked for this name, whatever its port

CONFIG = """<?php
define('DB_NAME', 'wordpress');
define('DB_USER', 'wordpress');
define('DB_PASSWORD', 'secret');
define('DB_HOST', 'localhost:{socket}');
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
foreach (['AUTH_KEY', 'SECURE_AUTH_KEY', 'LOGGED_IN_KEY', 'NONCE_KEY', 'AUTH_SALT', 'SECURE_AUTH_SALT',
          'LOGGED_IN_SALT', 'NONCE_SALT'] as $name) {{
    define($name, "bench-$name");
}}
define('DISABLE_WP_CRON', true);
define('AUTOMATIC_UPDATER_DISABLED', true);
define('WP_HTTP_BLOCK_EXTERNAL', true);
$table_prefix = 'wp_';
define('ABSPATH', __DIR__ . '/');
require_once ABSPATH . 'wp-settings.php';
"""

INSTALL = """<?php
$_SERVER['HTTP_HOST'] = '{host}';
$_SERVER['REQUEST_METHOD'] = 'GET';
define('WP_INSTALLING', true);
require __DIR__ . '/wp-load.php';
require ABSPATH . 'wp-admin/includes/upgrade.php';
wp_install('Benchmark', 'admin', 'admin@example.org', true, '', 'password-of-the-bench');
for ($i = 1; $i <= 10; $i++) {{
    wp_insert_post(['post_title' => "Post $i", 'post_status' => 'publish', 'post_author' => 1,
                    'post_content' => str_repeat("<p>Paragraph of post $i.</p>\\n", 20)]);
}}
echo 'installed';
"""


def image_settings() -> str:
    """As examples/wordpress/sapid.toml has them."""
    keys = tomllib.loads((EXAMPLE / "sapid.toml").read_text())["php"]
    del keys["document_root"]
    return "".join(f"{key} = {toml.value(value)}\n" for key, value in keys.items())


class Site:
    def __init__(self, bench):
        self.work = os.path.join(bench.work, "wordpress")
        self.docroot = os.path.join(self.work, "www")
        self.php = bench.php
        self.database = None

    def __enter__(self) -> peers.Site:
        if not os.path.isdir(SOURCE):
            raise peers.PeerError(f"expected WordPress in {SOURCE}: apt-get install wordpress")
        os.makedirs(self.work)
        folder = Path(self.work, "mariadb")
        folder.mkdir()
        self.database = MariaDB(folder)
        try:
            self.database.create("wordpress")
            self.database.sql("SET GLOBAL max_connections = 2000")  # c=256 in two servers at least
            shutil.copytree(SOURCE, self.docroot, ignore_dangling_symlinks=True)
            self.install()
        except BaseException:
            self.database.stop()
            raise
        return peers.Site(self.docroot, "/wp-login.php", modes={"image": image_settings()})

    def install(self):
        with open(os.path.join(self.docroot, "wp-config.php"), "w") as f:
            f.write(CONFIG.format(socket=self.database.socket_path))
        plugins = os.path.join(self.docroot, "wp-content/mu-plugins")
        os.makedirs(plugins, exist_ok=True)
        shutil.copy(EXAMPLE / "sapid.php", plugins)
        script = os.path.join(self.docroot, "bench-install.php")
        with open(script, "w") as f:
            f.write(INSTALL.format(host=HOST))
        done = subprocess.run([f"/usr/bin/php{peers.PHP_VERSION}", "-c", self.php.ini_path, script],
                              capture_output=True, text=True, timeout=120,
                              env={**os.environ, "PHP_INI_SCAN_DIR": self.php.scan_dir})
        os.unlink(script)
        if not done.stdout.endswith("installed"):
            raise peers.PeerError(f"WordPress was not installed: {done.stdout[-2000:]}{done.stderr}")
        account.give(self.docroot)

    def __exit__(self, *_):
        self.database.stop()
