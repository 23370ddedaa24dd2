"""The Symfony application of tests/apps/symfony: packages by Composer, database schema, rows."""
import json
import os
import shutil
import subprocess
from pathlib import Path

from lib import account, composer
from lib.shop import Shop

SOURCE = Path(__file__).resolve().parents[1] / "apps" / "symfony"
# Packagist does not give symfony/runtime here; Debian has version 5.4. Composer installs it from there as the plugin
# that it is, and sapid/runtime from packaging/php.
DEBIAN_RUNTIME = Path("/usr/share/php/Symfony/Component/Runtime")
RUNTIME = {
    "require": {"symfony/runtime": "*", "sapid/runtime": "@dev"},
    "repositories": [
        {"type": "package",
         "package": {"name": "symfony/runtime", "version": "5.4.53", "type": "composer-plugin",
                     "require": {"composer-plugin-api": "^2.0"}, "dist": {"type": "path", "url": str(DEBIAN_RUNTIME)},
                     "autoload": {"psr-4": {"Symfony\\Component\\Runtime\\": ""}},
                     "extra": {"class": "Symfony\\Component\\Runtime\\Internal\\ComposerPlugin"}}},
        {"type": "path", "url": str(composer.PACKAGE), "options": {"symlink": False}}],
    "config": {"allow-plugins": {"symfony/runtime": True}},
}
SHOP = Shop(account="/me", file="form[file]", send="form[send]", refusal="Only pictures and text.", forged=(200, 403))


def packages(runtime: bool = False) -> dict:
    """The application's composer.json."""
    plain = json.loads((SOURCE / "composer.json").read_text())
    if not runtime:
        return plain
    return {**plain, **RUNTIME, "require": {**plain["require"], **RUNTIME["require"]},
            "config": {**plain["config"], **RUNTIME["config"]}}


class SymfonyApp:
    """A copy of the application in `root`, with a database of its own; with `runtime` also with symfony/runtime and
    sapid/runtime, and with the public/index.php of Symfony's own template. Without `db` the database is a file of SQLite."""

    def __init__(self, root: Path, db, php: list, database: str = "symfony", runtime: bool = False):
        self.root, self.php = root, php
        shutil.copytree(SOURCE, root)
        if runtime:
            (root / "public/runtime.php").rename(root / "public/index.php")
        shutil.copytree(composer.vendor("symfony", packages(runtime)), root / "vendor",
                        copy_function=composer.link_or_copy, symlinks=True)
        for name in ("var/cache", "var/log", "var/sessions", "var/uploads"):
            (root / name).mkdir(parents=True)
        if db:
            db.create(database)
            url = f"mysql://{database}:secret@{db.host}:{db.port}/{database}?serverVersion=10.11.0-MariaDB&charset=utf8mb4"
        else:
            url = f"sqlite:///{root}/var/{database}.sqlite"
        self.env = {"APP_ENV": "prod", "APP_SECRET": "secret of the tests", "DATABASE_URL": url}
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

    def take_runner(self) -> None:
        """sapid/runtime, as Composer would have installed it."""
        shutil.copytree(composer.PACKAGE, self.root / "vendor/sapid/runtime")

    def fill(self, db, products: int, database: str = "symfony") -> None:
        db.sql("INSERT INTO category (id, name) VALUES (1, 'Books'), (2, 'Tools & Toys'), (3, 'Käse')", database)
        rows = ", ".join(f"('Product {i}', {i}.50, 'Description of {i} <b>&</b>', '2026-01-{i % 28 + 1:02} 12:00:00', {i % 3 + 1})"
                         for i in range(1, products + 1))
        db.sql(f"INSERT INTO product (name, price, description, created_at, category_id) VALUES {rows}", database)

    def write_a_blog(self, posts: int = 30) -> None:
        """As many posts as symfony/demo has, by two authors, with two to four tags and five comments each."""
        text = "Lorem ipsum dolor sit amet, consectetur adipiscing elit. "
        each = range(1, posts + 1)
        rows = {
            "account (id, name, email, password)": [f"({i}, 'Author {i}', 'author{i}@example.org', '-')" for i in (1001, 1002)],
            "tag (id, name)": [f"({i}, '{name}')" for i, name in enumerate("adipiscing consectetur dolor elit ipsum labore lorem".split(), 1)],
            "post (id, title, slug, summary, content, published_at, author_id)": [
                f"({i}, 'Post {i} <ipsum>', 'post-{i}', '{text * 3}', '{text * 30}', '2026-01-{i % 28 + 1:02} 12:00:{i:02}', {1001 + i % 2})"
                for i in each],
            "post_tag (post_id, tag_id)": [f"({i}, {(i + j) % 7 + 1})" for i in each for j in range(2 + i % 3)],
            "comment (post_id, author_id, content, published_at)": [
                f"({i}, {1001 + j % 2}, 'Comment {j}. {text}', '2026-02-{j + 1:02} 12:00:00')" for i in each for j in range(5)],
        }
        for table, values in rows.items():
            self.console("dbal:run-sql", f"INSERT INTO {table} VALUES {', '.join(values)}")
        account.give(self.root / "var")
