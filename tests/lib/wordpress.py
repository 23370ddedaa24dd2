"""The distribution's WordPress in a folder of our own."""
import shutil
from pathlib import Path

from lib import account

SOURCE = Path("/usr/share/wordpress")
PLUGIN = Path(__file__).resolve().parents[1] / "apps" / "wordpress" / "sapid-test.php"

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
if (!defined('ABSPATH')) {{
    define('ABSPATH', __DIR__ . '/');
}}
require_once ABSPATH . 'wp-settings.php';
"""


def make_wordpress(root: Path, db, database: str = "wordpress") -> Path:
    """Copies WordPress to `root` with links resolved, and writes its wp-config.php for a new database."""
    if not (SOURCE / "wp-content/themes/twentytwentythree").exists():
        raise RuntimeError("no theme for WordPress: apt-get install wordpress-theme-twentytwentythree")
    shutil.copytree(SOURCE, root, symlinks=False, ignore=shutil.ignore_patterns(".htaccess"))
    db.create(database)
    keys = ("AUTH_KEY", "SECURE_AUTH_KEY", "LOGGED_IN_KEY", "NONCE_KEY", "AUTH_SALT", "SECURE_AUTH_SALT",
            "LOGGED_IN_SALT", "NONCE_SALT")
    salts = "\n".join(f"define('{k}', '{k.lower()} of the tests, long enough to be one');" for k in keys)
    (root / "wp-config.php").write_text(CONFIG.format(database=database, host=db.host, port=db.port, salts=salts))
    (root / "wp-content/uploads").mkdir(exist_ok=True)
    (root / "wp-content/upgrade").mkdir(exist_ok=True)
    shutil.copy(PLUGIN, root / "wp-content/plugins/sapid-test.php")
    account.give(root / "wp-content")
    return root
