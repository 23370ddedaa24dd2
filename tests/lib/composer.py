"""Packages by Composer, installed once for each list of them and kept between runs."""
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path(os.environ.get("SAPID_TEST_CACHE", f"/var/tmp/sapid-test-cache-{os.geteuid()}"))
PACKAGE = Path(__file__).resolve().parents[2] / "packaging" / "php"   # sapid/runtime


def make_readable(folder: Path) -> None:
    """Archives may carry modes that only their owner can read; PHP runs as somebody else."""
    for path, _, files in os.walk(folder):
        os.chmod(path, 0o755)
        for name in files:
            os.chmod(os.path.join(path, name), 0o644, follow_symlinks=True)


def _key(packages: dict) -> str:
    """Of the list, and of what it takes from this repository."""
    digest = hashlib.sha256(json.dumps(packages, sort_keys=True).encode())
    if "sapid/runtime" in packages["require"]:
        for path in sorted(PACKAGE.rglob("*")):
            if path.is_file():
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def vendor(name: str, packages: dict) -> Path:
    """The folder vendor/ of a composer.json."""
    folder = CACHE / f"{name}-{_key(packages)}"
    if not (folder / "vendor/autoload.php").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=CACHE))   # a run that was killed may have left one
        (building / "composer.json").write_text(json.dumps(packages, indent=4))
        done = subprocess.run(["composer", "install", "--no-interaction", "--no-progress", "--no-dev", "--prefer-dist"], cwd=building,
                              env={**os.environ, "COMPOSER_ALLOW_SUPERUSER": "1", "XDEBUG_MODE": "off"},
                              capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            shutil.rmtree(building)
            raise RuntimeError(f"composer install failed for {json.dumps(packages)}:\n{done.stdout}\n{done.stderr}")
        make_readable(building)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    return folder / "vendor"


def link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:   # another file system, or not our file
        shutil.copy2(source, target)
