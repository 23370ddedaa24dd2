"""What stands around a script: root folder, working directory, umask, what is a script at all."""
import shutil
import subprocess

import pytest

from lib import account, roles
from lib.process import wait_until
from lib.sapid import binary

pytestmark = pytest.mark.sapid_only

SHOW = "<?php echo json_encode(%s);"


def page(root, name, expression):
    path = root / name
    path.write_text(SHOW % expression)
    path.chmod(0o644)
    return path


@pytest.fixture
def check(tmp_path):
    """The error of a configuration."""
    def run(text):
        path = tmp_path / "sapid.toml"
        path.write_text(text)
        done = subprocess.run([binary(), "check", "--config", str(path)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, done.stdout
        return done.stdout + done.stderr
    return run


# --- chroot ----------------------------------------------------------------------------------------

@pytest.fixture
def jail(launch):
    """A folder to be locked in, with a document root below it and a secret beside it."""
    if not account.is_root():
        pytest.fail("chroot needs root; run the tests as root, as the README says")
    jail = launch.new_root() / "jail"
    (jail / "www" / "sub").mkdir(parents=True)
    (jail / "tmp").mkdir(mode=0o1777)
    (jail / "tmp").chmod(0o1777)
    (jail.parent / "secret.txt").write_text("secret")
    return jail


@pytest.mark.as_root
def test_chroot_hides_the_rest_and_paths_are_those_inside(launch, jail):
    page(jail / "www", "where.php",
         "[__FILE__, $_SERVER['DOCUMENT_ROOT'], $_SERVER['SCRIPT_FILENAME'], getcwd(), scandir('/'), "
         f"@file_get_contents('{jail.parent}/secret.txt'), @file_get_contents('../../secret.txt'), posix_geteuid()]")
    server = launch(jail / "www", php={"chroot": str(jail), "user": account.web().name})
    for _ in range(3):
        got = server.get("/where.php").json()
        assert got[:4] == ["/www/where.php", "/www", "/www/where.php", "/www"]
        assert got[4] == [".", "..", "tmp", "www"]
        assert got[5] is False and got[6] is False and got[7] == account.web().uid


@pytest.mark.as_root
def test_a_chrooted_script_has_no_capability_left_to_get_out_with(launch, jail):
    page(jail / "www", "who.php", "[posix_getuid(), posix_geteuid()]")
    server = launch(jail / "www", php={"chroot": str(jail), "user": account.web().name})
    assert server.get("/who.php").json() == [account.web().uid] * 2
    wait_until(lambda: server.admin("/status?json").json()["idle processes"] == server.site.workers, "all workers to be ready")
    workers = roles.workers(server)
    assert len(workers) == server.site.workers
    for pid in workers:
        with open(f"/proc/{pid}/status") as f:
            sets = dict(line.split(":\t") for line in f.read().splitlines() if line.startswith("Cap"))
        assert all(int(sets[name], 16) == 0 for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")), sets


@pytest.mark.as_root
def test_static_files_and_uploads_work_in_a_chroot(launch, jail):
    (jail / "www" / "a.txt").write_text("plain")
    page(jail / "www", "up.php", "[file_get_contents($_FILES['f']['tmp_name'])]")
    server = launch(jail / "www", php={"chroot": str(jail), "user": account.web().name})
    assert server.get("/a.txt").text == "plain"
    body = (b"--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\nhello\r\n--b--\r\n")
    got = server.get("/up.php", {"Content-Type": "multipart/form-data; boundary=b"}, "POST", body)
    assert got.json() == ["hello"]


@pytest.mark.as_root
def test_a_chroot_without_time_zones_is_warned_of(launch, jail):
    """Debian's PHP crashes in date() there, as under PHP-FPM."""
    page(jail / "www", "date.php", "[date('T H', 0), date_create('@0')->setTimezone(new DateTimeZone('Europe/Berlin'))->format('T')]")
    options = {"php": {"chroot": str(jail), "user": account.web().name}}
    assert f"chroot {jail} has no /usr/share/zoneinfo" in launch(jail / "www", **options).log_text()
    shutil.copytree("/usr/share/zoneinfo", jail / "usr/share/zoneinfo", symlinks=True)
    server = launch(jail / "www", **options)
    assert "zoneinfo" not in server.log_text() and server.get("/date.php").json() == ["UTC 00", "CET"]


def test_a_chroot_beside_the_document_root_is_refused(launch, check):
    root = launch.new_root()
    error = check(f'[php]\ndocument_root = "{root}"\nchroot = "/usr/lib"\n')
    assert "php.chroot: expected a folder above the document root" in error and ":3:" in error


# --- umask, chdir ------------------------------------------------------------------------------------

def test_umask_of_the_pool(launch):
    root = launch.new_root()
    account.give(root)
    page(root, "make.php", "[touch('made-' . $_GET['n']), sprintf('%04o', fileperms('made-' . $_GET['n']) & 0777), "
                           "sprintf('%04o', umask(0))]")
    server = launch(root, php={"umask": "0027"})
    for n in range(6):   # a script that changes it changes it for itself
        assert server.get(f"/make.php?n={n}").json() == [True, "0640", "0027"]


def test_wrong_umask_is_refused(check):
    error = check('[php]\numask = "0999"\n')
    assert 'expected up to four octal digits such as "0027", found "0999"' in error


def test_chdir_of_the_pool(launch):
    root = launch.new_root()
    (root / "index.php").write_text("<?php echo getcwd();")
    server = launch(root, php={"chdir": "/usr"})
    assert server.get("/").text == str(root)     # as in PHP-FPM: PHP enters the script's folder


def test_wrong_chdir_is_refused(check):
    assert 'php.chdir: expected an absolute path, found "usr"' in check('[php]\nchdir = "usr"\n')


# --- what is a script --------------------------------------------------------------------------------

@pytest.fixture
def names(launch):
    root = launch.new_root()
    for name in ["a.php", "b.phtml", "c.inc", "index.php"]:
        page(root, name, f"'{name}'")
    return root


def test_other_extensions_are_neither_run_nor_shown(launch, names):
    server = launch(names)
    assert server.get("/a.php").json() == "a.php"
    for hidden in ["/b.phtml", "/c.inc"]:
        assert server.get(hidden).status == 404


def test_limit_extensions_decides_what_runs(launch, names):
    server = launch(names, php={"limit_extensions": [".phtml"], "index": ["b.phtml"]})
    assert server.get("/b.phtml").json() == "b.phtml"
    assert server.get("/b.phtml/info").json() == "b.phtml"
    assert server.get("/").json() == "b.phtml"
    for hidden in ["/a.php", "/c.inc", "/a.php/info", "/nothing"]:
        response = server.get(hidden)
        assert response.status == 404 and "<?php" not in response.text


def test_a_front_controller_under_another_name_is_not_run(launch, names):
    server = launch(names, php={"front_controller": "c.inc"})
    assert server.get("/nothing").status == 404


def test_wrong_extension_is_refused(check):
    assert 'expected ends of file names such as ".php", found "php"' in check('[php]\nlimit_extensions = ["php"]\n')


# --- notes and variables of mod_php --------------------------------------------------------------------

def test_notes_and_variables_live_for_one_request(launch):
    root = launch.new_root()
    page(root, "notes.php",
         "[apache_note('a'), apache_note('a', '1'), apache_note('a', '2'), apache_note('a'), "
         "apache_getenv('X_MINE'), apache_setenv('X_MINE', 'v'), apache_getenv('X_MINE'), getenv('X_MINE'), "
         "apache_getenv('REQUEST_METHOD'), apache_getenv('NO_SUCH')]")
    server = launch(root)
    for _ in range(6):
        assert server.get("/notes.php").json() == [False, False, "1", "2", False, True, "v", "v", "GET", False]


def test_virtual_says_what_to_do_instead(launch):
    root = launch.new_root()
    (root / "v.php").write_text("<?php ini_set('display_errors', 1); ini_set('html_errors', 0); "
                                "var_dump(virtual('/other.php'));")
    text = launch(root).get("/v.php").text
    assert "virtual(): Unable to include '/other.php'" in text and "include the script" in text and "bool(false)" in text


@pytest.mark.parametrize("name", ["sapid_finish_request", "sapid_headers_send", "sapid_request_headers",
                                  "sapid_response_headers", "sapid_log", "sapid_handle_request"])
def test_functions_have_names_of_our_own(launch, name):
    root = launch.new_root()
    page(root, "f.php", f"function_exists('{name}')")
    assert launch(root).get("/f.php").json() is True
