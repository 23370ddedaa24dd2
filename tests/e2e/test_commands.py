"""The commands around the server: check, doctor, help; how serve finds what to serve; what the paper says of them."""
import re
import socket
import subprocess
import threading

import pytest

from lib import account, phpini
from lib.fpm import Fpm
from lib.process import Process
from lib.sapid import REPOSITORY, binary
from lib.site import Site

pytestmark = pytest.mark.sapid_only


def run(*args, cwd="/", **environment) -> subprocess.CompletedProcess:
    environment.setdefault("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    return subprocess.run([binary(), *map(str, args)], cwd=cwd, env=environment, capture_output=True, text=True,
                          timeout=60)


@pytest.fixture
def app(launch):
    """A folder with an application, which everybody may read."""
    root = launch.new_root()
    root.chmod(0o755)
    (root / "index.php").write_text("<?php echo 'served from ', __DIR__;\n")
    return root


# --- help and the paper ------------------------------------------------------------------------------

@pytest.mark.parametrize("command", ["serve", "check", "doctor", "bench", "status", "reload", "upgrade", "stop"])
def test_help_names_options_that_the_paper_explains(command):
    shown = run(command, "--help")
    assert shown.returncode == 0 and shown.stderr == ""
    options = set(re.findall(r"(?<![\w-])--[a-z0-9-]+", shown.stdout)) | ({"-d"} if "-d" in shown.stdout else set())
    assert ("--rps" if command == "bench" else "--config") in options
    manual = (REPOSITORY / "packaging/sapid.8").read_text().replace("\\-", "-")
    page = (REPOSITORY / "docs/command-line.md").read_text()
    for option in options:
        assert option in page, f"{option} is not in docs/command-line.md"
        assert option in manual, f"{option} is not in packaging/sapid.8"


def test_general_help_names_the_commands():
    shown = run("--help")
    assert shown.returncode == 0
    for command in ("serve", "check", "php", "doctor", "status", "reload", "stop", "bench"):
        assert f"sapid {command}" in shown.stdout
    assert run("--version").stdout.startswith("sapid ")


def test_wrong_usage_is_status_2_and_says_what_was_meant():
    for args, message in ((["wurst"], "unknown command 'wurst'"), (["serve", "--lisen", "1"], "did you mean --listen?"),
                          (["check", "--root"], "--root needs a value"), (["doctor", "x"], 'found "x"'),
                          (["serve", "--config", "/nonexistent"], "No such file or directory")):
        done = run(*args)
        assert (done.returncode, done.stdout) == (2, ""), args
        assert message in done.stderr and done.stderr.startswith("sapid: "), done.stderr


# --- check -------------------------------------------------------------------------------------------

def test_check_prints_the_committed_reference():
    shown = run("check", "--reference")
    assert shown.returncode == 0
    assert shown.stdout == (REPOSITORY / "docs/configuration.md").read_text()


def test_check_explains_a_valid_file(app):
    file = app / "sapid.toml"
    file.write_text("[php]\ndocument_root = '.'\n\n[server]\nmax_body_size = '1M'\n")
    shown = run("check", "--config", file, "--workers", "3", "-d", "memory_limit=77M")
    assert shown.returncode == 0 and shown.stderr == ""
    assert re.search(rf'^max_body_size = "1M" +# {file}:5$', shown.stdout, re.M)
    assert re.search(r"^worker_pool_size = 3 +# command line$", shown.stdout, re.M)
    assert re.search(r'^header_timeout = "30s" +# default$', shown.stdout, re.M)
    assert f"# document root: {app}, as given" in shown.stdout
    assert "# PHP workers: 3\n" in shown.stdout


def test_what_check_prints_is_a_configuration(app):
    first = run("check", "--root", app, "-d", "a.b=c d")
    file = app / "printed.toml"
    file.write_text(first.stdout)
    second = run("check", "--config", file)
    assert second.returncode == 0, second.stderr

    def values(text):
        return [line.split("  #")[0].rstrip() for line in text.splitlines() if line and not line.startswith("#")]

    assert values(first.stdout) == values(second.stdout)


def test_check_reports_every_error_with_its_place(app):
    file = app / "bad.toml"
    file.write_text('[server]\nlisen = []\nmax_body_size = "64Q"\n\n[php]\nworker_pool_size = 0\n')
    shown = run("check", "--config", file)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.splitlines() == [
        f"sapid: {file}:2:1: unknown key server.lisen; did you mean listen?",
        f'sapid: {file}:3:17: server.max_body_size: expected a size such as "64M" or a number of bytes, found "64Q"',
        f'sapid: {file}:6:20: php.worker_pool_size: expected "auto", a whole number, or {{ min = ..., max = ... }}, '
        "the numbers from 1 to 1024, found 0"]
    assert run("serve", "--config", file).returncode == 1


def test_check_names_files_that_are_missing(app):
    file = app / "missing.toml"
    file.write_text('[php]\ndocument_root = "."\nlibphp_path = "/nonexistent/libphp.so"\nini_path = "no.ini"\n')
    shown = run("check", "--config", file)
    assert shown.returncode == 1
    assert "php.libphp_path: /nonexistent/libphp.so: No such file or directory" in shown.stderr
    assert f"php.ini_path: {app}/no.ini: No such file or directory" in shown.stderr


# --- what serve finds --------------------------------------------------------------------------------

def served(launch, cwd, *args) -> tuple[str, str]:
    """The front page of `sapid serve` in that folder, and its log."""
    log = launch.folder / "serve.log"
    process = Process([binary(), "serve", "--listen", "127.0.0.1:0", *args], log, cwd=str(cwd), name="sapid")
    try:
        process.wait_until(lambda: re.search(r" serves \S+ on http://", log.read_text()), "the start message")
        url = re.search(r" serves \S+ on (http://\S+)", log.read_text())[1]
        page = subprocess.run(["curl", "-s", "--max-time", "10", url], capture_output=True, text=True).stdout
    finally:
        process.stop()
    return page, log.read_text()


def test_serve_finds_the_folder_itself(launch, app):
    page, log = served(launch, app)
    assert page == f"served from {app}"
    assert f"{app} is a PHP application (it has index.php)" in log


def test_serve_finds_public(launch, app):
    (app / "public").mkdir()
    (app / "index.php").rename(app / "public/index.php")
    page, log = served(launch, app)
    assert page == f"served from {app}/public"
    assert f"the document root is {app}/public" in log


def test_a_root_that_is_given_is_not_guessed_at(launch, app):
    (app / "public").mkdir()
    (app / "public/index.php").write_text("<?php echo 'wrong';")
    page, _ = served(launch, "/", "--root", str(app))
    assert page == f"served from {app}"


def test_serve_publishes_nothing_that_does_not_look_like_it(launch):
    folder = launch.new_root()
    (folder / "diary.txt").write_text("private")
    done = run("serve", "--listen", "127.0.0.1:0", cwd=folder)
    assert done.returncode == 1
    assert f"found nothing to serve in {folder}" in done.stderr and "--root DIR" in done.stderr


def test_serve_warns_of_folders_that_htaccess_forbids(launch, app):
    (app / "data").mkdir()
    (app / "data/.htaccess").write_text("Require all denied\n")
    _, log = served(launch, app)
    assert re.search(r" warn .*files in data/ can be downloaded", log)


def test_dev_shows_errors_in_the_page(launch, app):
    (app / "index.php").write_text("<?php echo $nothing; echo ini_get('memory_limit');")
    page, _ = served(launch, app, "--dev", "-d", "memory_limit=77M")
    assert "Undefined variable $nothing" in page and page.endswith("77M")
    page, _ = served(launch, app)
    assert "Undefined" not in page


# --- doctor ------------------------------------------------------------------------------------------

def test_doctor_examines_engine_ini_and_machine():
    shown = run("doctor", "--listen", "127.0.0.1:0")
    assert shown.returncode == 0, shown.stdout
    for text in ("PHP engine", "libphp 8.", "engine module", "php.ini", "opcache", "Extensions", "the engine starts", "opcache works",
                 "Kernel", "Limits", "open files:", "No problem found"):
        assert text in shown.stdout, text


def test_doctor_says_how_values_differ_from_fpm(launch):
    folder = launch.new_root()
    (folder / "php.ini").write_text("memory_limit = 3G\nsapid.test = 1\n")
    (folder / "sapid.toml").write_text("[php]\nini_path = 'php.ini'\nini_scan_dir = '/nonexistent'\n")
    shown = run("doctor", "--config", folder / "sapid.toml", "--listen", "127.0.0.1:0")
    assert f"reads {folder}/php.ini (php.ini_path)" in shown.stdout
    assert 'sapid.test = "1" here, not set in PHP-FPM\'s' in shown.stdout
    assert 'memory_limit = "3G" here, "' in shown.stdout
    # Without conf.d there is no opcache: a problem, and the command that mends it. PHP 8.5 has it built in.
    there = phpini.branch() >= (8, 5)
    assert shown.returncode == (0 if there else 1)
    assert there != bool(re.search(r"PROBLEM  opcache is not loaded.*\n +mend it: apt install php8\.\d-opcache", shown.stdout))
    assert ("opcache works" in shown.stdout) == there


def test_doctor_without_an_engine(launch):
    folder = launch.new_root()
    (folder / "sapid.toml").write_text("[php]\nlibphp_path = '/nonexistent/libphp.so'\n")
    shown = run("doctor", "--config", folder / "sapid.toml", "--listen", "127.0.0.1:0")
    assert shown.returncode == 1
    assert re.search(r"PROBLEM .*/nonexistent/libphp\.so", shown.stdout)
    assert re.search(r"^1 problem", shown.stdout, re.M)


def test_doctor_looks_at_every_pool(launch):
    """One by FastCGI whose server is there, one whose server is not, one with an engine and an unknown user."""
    folder = launch.new_root()
    folder.chmod(0o755)
    for name in ("one", "two", "three"):
        (folder / name).mkdir()
        (folder / name / "index.php").write_text("<?php")
    fpm = Fpm(Site(root=folder, workers=1), folder)
    try:
        (folder / "sapid.toml").write_text(f"""
[php]
document_root = "one"
use_fpm = true
fpm_socket = "{fpm.socket_path}"
[pool.two]
document_root = "two"
use_fpm = true
fpm_socket = "{folder}/nobody.sock"
[pool.three]
document_root = "three"
user = "no-such-user"
""")
        shown = run("doctor", "--config", folder / "sapid.toml", "--listen", "127.0.0.1:0")
    finally:
        fpm.stop()
    assert shown.returncode == 1, shown.stdout
    one, two, three = re.split(r"^Pool \S+ ", shown.stdout, flags=re.M)[1:]
    assert one.startswith("([php]), PHP by FastCGI\n") and "PHP engine" in three
    assert "PHP engine" not in one and "PHP engine" not in two
    assert f"ok       document root {folder}/one\n" in one and f"ok       FastCGI server unix:{fpm.socket_path} answers\n" in one
    assert "note     fastcgi.connections is not set" in one
    assert re.search(r"PROBLEM  FastCGI server \S+/nobody.sock: No such file or directory\n +mend it: start it", two)
    if account.is_root():
        assert 'PROBLEM  pool.three.user = "no-such-user": there is no such user' in three
    assert "No problem" not in shown.stdout


def test_doctor_says_that_all_children_are_busy_or_are_none(launch):
    folder = launch.new_root()
    path = folder / "s.sock"
    config = folder / "sapid.toml"
    config.write_text(f'[php]\ndocument_root = "."\nuse_fpm = true\nfpm_socket = "{path}"\n')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(8)
        path.chmod(0o666)
        shown = run("doctor", "--config", config, "--listen", "127.0.0.1:0")
        assert f"warning  FastCGI server unix:{path} takes connections, but no child of it answered" in shown.stdout
        listener.accept()   # the one before

        def answer():    # read first: a connection closed with bytes unread takes its answer back
            with listener.accept()[0] as c:
                c.recv(65536)
                c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        shown = run("doctor", "--config", config, "--listen", "127.0.0.1:0")
        assert shown.returncode == 1, shown.stdout
        assert f"PROBLEM  what answers at unix:{path} does not speak FastCGI" in shown.stdout


def test_doctor_reports_what_php_says_when_it_starts(launch):
    folder = launch.new_root()
    (folder / "x.ini").write_text("zend_extension = opcache.so\nextension = no_such_extension\n")
    shown = run("doctor", "--listen", "127.0.0.1:0", PHP_INI_SCAN_DIR=str(folder))
    assert shown.returncode == 1
    assert re.search(r"PROBLEM .*x\.ini loads no_such_extension, but .*: No such file or directory", shown.stdout)
    assert "warning  PHP says when it starts: PHP Warning:  PHP Startup: Unable to load dynamic library" in shown.stdout
    assert ("warning  zend_extension = opcache is set, but PHP" in shown.stdout) == (phpini.branch() >= (8, 5))
