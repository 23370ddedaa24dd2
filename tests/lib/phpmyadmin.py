"""The distribution's phpMyAdmin with a configuration of our own."""
import shutil
from pathlib import Path

from lib import account

SOURCE = Path("/usr/share/phpmyadmin")

CONFIG = """<?php
$cfg['blowfish_secret'] = 'a secret of thirty-two bytes, ok';
$cfg['Servers'][1] = ['auth_type' => 'cookie', 'host' => '{host}', 'port' => '{port}', 'connect_type' => 'tcp'];
$cfg['VersionCheck'] = false;
$cfg['SendErrorReports'] = 'never';
"""


def make_phpmyadmin(root: Path, db, database: str = "pma") -> Path:
    if not SOURCE.exists():
        raise RuntimeError("no /usr/share/phpmyadmin: apt-get install phpmyadmin")
    shutil.copytree(SOURCE, root, symlinks=False, ignore=shutil.ignore_patterns("doc"))
    (root / "tmp").mkdir()
    account.give(root / "tmp")
    (root / "config.inc.php").write_text(CONFIG.format(host=db.host, port=db.port))
    vendor = root / "libraries/vendor_config.php"
    text = vendor.read_text()
    for system, own in (("/etc/phpmyadmin/config.inc.php", root / "config.inc.php"),
                        ("/var/lib/phpmyadmin/tmp/", f"{root}/tmp/")):
        assert system in text, f"{vendor} no longer names {system}"
        text = text.replace(system, str(own))
    vendor.write_text(text)
    db.create(database)
    return root
