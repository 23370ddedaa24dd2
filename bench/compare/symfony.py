"""The Symfony application of the tests, with its blog, on a MariaDB of its own, for all servers and all modes of sapid."""
import os
import shutil
from pathlib import Path

import peers
from lib import account
from lib.mariadb import MariaDB
from lib.symfony import SymfonyApp

WARMUP = ["/en/blog/list", "/api/products/9", "/", "/en/blog/", "/en/blog/posts/post-7"]


def application(folder: Path, db) -> SymfonyApp:
    """`db` None: on SQLite. public-image/ has a front controller with restore_state() and snapshot_state()."""
    app = SymfonyApp(folder, db, [peers.Sapid.program, "php"], "bench")
    app.take_runner()
    app.write_a_blog()
    if db:
        app.fill(db, 120, "bench")
    (app.root / "public-image").mkdir()
    shutil.copy(app.root / "public/seed.php", app.root / "public-image/index.php")
    account.give(app.root / "public")
    app.env["FRANKENPHP_LOOP_MAX"] = "0"
    return app


def site(app: SymfonyApp, loops: int) -> peers.Site:
    loop = f'[worker]\nscript = "{app.root}/public/worker.php"\nnum = {loops}\n'
    warmup = "[" + ", ".join(f'"{path}"' for path in WARMUP) + "]"
    modes = {"worker": loop,
             # Each worker has a connection to the database that is put back.
             "rollback": f'{loop}isolation = "rollback"\nsnapshot_sockets = "reset"\nwarmup = {warmup}\n',
             # Each request connects anew.
             "image": f"snapshot_warmup = {warmup}\n"}
    # Pages without a session, for the boot of the image.
    env = {**app.env, "APP_WARM": "/en/blog/list /en/blog/ /en/blog/posts/post-7 /api/products/9"}
    return peers.Site(str(app.root / "public"), "/teapot", env, modes, {"image": str(app.root / "public-image")})


class Site:
    def __init__(self, bench):
        self.folder, self.loops = Path(bench.work, "symfony"), bench.options.workers
        self.database = None

    def __enter__(self) -> peers.Site:
        os.makedirs(self.folder / "mariadb")
        os.chmod(self.folder, 0o755)
        self.database = MariaDB(self.folder / "mariadb")
        try:
            app = application(self.folder / "app", self.database)
        except BaseException:
            self.database.stop()
            raise
        return site(app, self.loops)

    def __exit__(self, *_):
        self.database.stop()
