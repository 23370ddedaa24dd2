"""The distribution's MediaWiki in a folder of our own, installed by its own command."""
import os
import shutil
import subprocess
from pathlib import Path

from lib import account

SOURCE = Path("/usr/share/mediawiki")
# The site's own, of which Debian has links to /var/lib; and most of the extensions.
LEFT_OUT = {"LocalSettings.php", "images", "config", "cache", "extensions-core", "extensions"}
EXTENSIONS = ("Cite", "ParserFunctions", "WikiEditor", "CategoryTree")
PASSWORD = "a long pass phrase of the wiki"

SETTINGS = """
$wgEnableUploads = true;
$wgUseImageMagick = false;
$wgCacheDirectory = "$IP/cache";   // Debian's default is the system's
$wgGroupPermissions['*']['edit'] = false;
$wgShellRestrictionMethod = false;
$wgMainCacheType = CACHE_ACCEL;
$wgJobRunRate = 1;
$wgUseInstantCommons = false;
$wgArticlePath = '/wiki/$1';
$wgUsePathInfo = true;
$wgSMTP = ['host' => '127.0.0.1', 'port' => 9];
$wgEnableEmail = false;
"""


def make_mediawiki(root: Path, db, origin: str, php: list, database: str = "mediawiki") -> Path:
    """`origin`: where the wiki will be served. `php`: the command that runs a script of it."""
    if not SOURCE.exists():
        raise RuntimeError("no /usr/share/mediawiki: apt-get install mediawiki")
    def ignore(folder, names):
        return LEFT_OUT if Path(folder) == SOURCE else ()

    shutil.copytree(SOURCE, root, symlinks=False, ignore_dangling_symlinks=True, ignore=ignore)
    for name in EXTENSIONS:
        shutil.copytree(SOURCE / "extensions-core" / name, root / "extensions" / name)
    for name in ("images", "cache"):
        (root / name).mkdir()
    (root / "favicon.ico").write_bytes(b"\0\0\1\0")   # the package has none, though pages name it
    db.create(database)
    done = subprocess.run([*php, str(root / "maintenance/install.php"), f"--dbserver={db.host}:{db.port}", f"--dbname={database}",
                           f"--dbuser={database}", "--dbpass=secret", f"--installdbuser={database}", "--installdbpass=secret",
                           f"--server={origin}", "--scriptpath=", f"--extensions={','.join(EXTENSIONS)}", "--skins=Vector,MonoBook", f"--pass={PASSWORD}", "The Test Wiki", "Admin"],
                          cwd=root, capture_output=True, text=True, timeout=300, env={**os.environ, "XDEBUG_MODE": "off"})
    if done.returncode != 0:
        raise RuntimeError(f"MediaWiki's installation ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    settings = root / "LocalSettings.php"
    settings.write_text(settings.read_text() + SETTINGS)
    account.give(root / "images")
    account.give(root / "cache")
    return root
