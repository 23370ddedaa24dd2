"""The Symfony application of tests/apps/symfony: packages by Composer, database schema, rows."""
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from lib import account

SOURCE = Path(__file__).resolve().parents[1] / "apps" / "symfony"
CACHE = Path(os.environ.get("SAPID_TEST_CACHE", f"/var/tmp/sapid-test-cache-{os.geteuid()}"))


def make_readable(folder: Path) -> None:
    """Archives may carry modes that only their owner can read; PHP runs as somebody else."""
    for path, _, files in os.walk(folder):
        os.chmod(path, 0o755)
        for name in files:
            os.chmod(os.path.join(path, name), 0o644, follow_symlinks=True)


def vendor() -> Path:
    """Folder with composer.json and vendor/, installed from Packagist once for each composer.json."""
    key = hashlib.sha256((SOURCE / "composer.json").read_bytes()).hexdigest()[:16]
    folder = CACHE / f"symfony-{key}"
    if not (folder / "vendor/autoload.php").exists():
        building = CACHE / f"symfony-{key}.{os.getpid()}"
        building.mkdir(parents=True)
        shutil.copy(SOURCE / "composer.json", building)
        done = subprocess.run(["composer", "install", "--no-interaction", "--no-progress", "--no-dev", "--prefer-dist"], cwd=building,
                              env={**os.environ, "COMPOSER_ALLOW_SUPERUSER": "1", "XDEBUG_MODE": "off"},
                              capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            shutil.rmtree(building)
            raise RuntimeError(f"composer install failed for {SOURCE}/composer.json:\n{done.stdout}\n{done.stderr}")
        make_readable(building)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    return folder


def link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:   # another file system, or not our file
        shutil.copy2(source, target)


class SymfonyApp:
    """A copy of the application in `root`, with a database of its own."""

    def __init__(self, root: Path, db, php: list, database: str = "symfony"):
        self.root, self.php = root, php
        shutil.copytree(SOURCE, root)
        shutil.copytree(vendor() / "vendor", root / "vendor", copy_function=link_or_copy, symlinks=True)
        for name in ("var/cache", "var/log", "var/sessions", "var/uploads"):
            (root / name).mkdir(parents=True)
        db.create(database)
        self.env = {"APP_ENV": "prod", "APP_SECRET": "secret of the tests",
                    "DATABASE_URL": f"mysql://{database}:secret@{db.host}:{db.port}/{database}?serverVersion=10.11.0-MariaDB&charset=utf8mb4"}
        self.console("cache:clear")
        self.console("doctrine:schema:create")
        account.give(root / "var")

    def console(self, *args) -> str:
        """bin/console, as a deploy would run it."""
        done = subprocess.run([*self.php, str(self.root / "bin/console"), "--no-interaction", *args], cwd=self.root,
                              capture_output=True, text=True,
                              env={**os.environ, **self.env, "XDEBUG_MODE": "off"}, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"bin/console {' '.join(args)} failed with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def fill(self, db, products: int, database: str = "symfony") -> None:
        db.sql("INSERT INTO category (id, name) VALUES (1, 'Books'), (2, 'Tools & Toys'), (3, 'Käse')", database)
        rows = ", ".join(f"('Product {i}', {i}.50, 'Description of {i} <b>&</b>', '2026-01-{i % 28 + 1:02} 12:00:00', {i % 3 + 1})"
                         for i in range(1, products + 1))
        db.sql(f"INSERT INTO product (name, price, description, created_at, category_id) VALUES {rows}", database)
