"""The php.ini files of the distribution's PHP-FPM, without what would measure or debug the tests."""
import os
import re
from pathlib import Path

DEVELOPER_EXTENSIONS = ("xdebug", "pcov", "excimer")


def version() -> str:
    """Newest PHP with an FPM configuration: "8.2"."""
    found = [p.parent.parent.name for p in Path("/etc/php").glob("*/fpm/php.ini")]
    if not found:
        raise RuntimeError("no /etc/php/*/fpm/php.ini: apt-get install php8.2-fpm")
    return max(found, key=lambda v: [int(n) for n in re.findall(r"\d+", v)])


def branch() -> tuple[int, int]:
    """The same as numbers: (8, 2)."""
    major, minor = version().split(".")
    return int(major), int(minor)


def ini_file() -> Path:
    return Path(f"/etc/php/{version()}/fpm/php.ini")


def make_scan_dir(into: Path) -> Path:
    """A folder of links to FPM's conf.d, less the developer extensions: xdebug switches JIT off and
    rewrites error messages, on sapid and on the oracle alike."""
    scan = into / "conf.d"
    if scan.exists():
        return scan
    scan.mkdir()
    for source in sorted(Path(f"/etc/php/{version()}/fpm/conf.d").glob("*.ini")):
        if not any(name in source.name for name in DEVELOPER_EXTENSIONS):
            os.symlink(source.resolve(), scan / source.name)
    return scan
