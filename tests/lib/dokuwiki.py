"""The distribution's DokuWiki as its authors ship it: program, conf/ and data/ in one folder."""
import shutil
from pathlib import Path

from lib import account

SOURCE = Path("/usr/share/dokuwiki")
CONF = Path("/etc/dokuwiki")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "dokuwiki"
DATA = ("attic", "cache", "index", "locks", "log", "media", "media_attic", "media_meta", "meta", "pages", "tmp")
# What the installation writes; Debian's package has written it already.
WRITTEN = ("local.php", "acl.auth.php", "users.auth.php", "plugins.local.php", "apache.conf", "lighttpd.conf")


def make_dokuwiki(root: Path) -> Path:
    if not SOURCE.exists():
        raise RuntimeError("no /usr/share/dokuwiki: apt-get install dokuwiki")
    shutil.copytree(SOURCE, root, symlinks=False, ignore=shutil.ignore_patterns(".htaccess", "preload.php", "testing"))
    (root / "conf").mkdir()
    for path in CONF.iterdir():
        if path.name not in WRITTEN and path.is_file():
            shutil.copy(path, root / "conf" / path.name)
    defaults = root / "conf" / "dokuwiki.php"
    defaults.write_text(defaults.read_text().replace("'/var/lib/dokuwiki/data'", "'./data'"))
    assert "/var/lib" not in defaults.read_text(), "the wiki of the test would write into the system's"
    for name in DATA:
        (root / "data" / name).mkdir(parents=True)
    # "Nice" addresses made by PATH_INFO, DokuWiki's own way: /doku.php/page
    (root / "conf" / "local.protected.php").write_text("<?php\n$conf['userewrite'] = 2;\n")
    account.give(root / "conf")
    account.give(root / "data")
    account.give(root / "lib" / "plugins")
    return root
