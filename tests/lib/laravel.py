"""The Laravel application of tests/apps/laravel: packages by Composer, database tables, rows."""
import json
import shutil
from pathlib import Path

from lib import account, composer
from lib.shop import PASSWORD, Shop

SOURCE = Path(__file__).resolve().parents[1] / "apps" / "laravel"
SHOP = Shop(account="/notes", file="file", send="send", refusal="must be a file of type: png", forged=(419,))


# Of laravel/framework's own requirements Packagist does not give these two here: CORS headers and Markdown, which the
# application has no use for. composer.json says that it replaces them.
def packages() -> dict:
    plain = json.loads((SOURCE / "composer.json").read_text())
    return {**plain, "require": {**plain["require"], "sapid/runtime": "@dev"},
            "repositories": [{"type": "path", "url": str(composer.PACKAGE), "options": {"symlink": False}}]}


class LaravelApp:
    """A copy of the application in `root`, with a database of its own."""

    def __init__(self, root: Path, db, database: str = "laravel"):
        self.root = root
        shutil.copytree(SOURCE, root)
        shutil.copytree(composer.vendor("laravel", packages()), root / "vendor", copy_function=composer.link_or_copy, symlinks=True)
        for name in ("framework/views", "framework/sessions", "framework/cache", "app", "logs"):
            (root / "storage" / name).mkdir(parents=True)
        db.create(database)
        self.env = {"APP_KEY": "base64:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "DB_HOST": db.host, "DB_PORT": str(db.port),
                    "DB_DATABASE": database, "DB_USERNAME": database, "DB_PASSWORD": "secret"}
        rows = ", ".join(f"('Product {i}', {i}.50, 'Description of {i} <b>&</b>')" for i in range(1, 121))
        db.sql("CREATE TABLE products (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(60), price DECIMAL(10,2), description TEXT);"
               "CREATE TABLE users (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(60), email VARCHAR(60), password VARCHAR(80));"
               f"INSERT INTO products (name, price, description) VALUES {rows};"
               "INSERT INTO users (name, email, password) VALUES "
               f"('Anna', 'anna@example.org', '{PASSWORD}'), ('Ben', 'ben@example.org', '{PASSWORD}')", database)
        for name in ("storage", "bootstrap/cache"):
            account.give(root / name)
