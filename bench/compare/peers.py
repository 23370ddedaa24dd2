"""Starts sapid and the servers it is compared with, on loopback, as an unprivileged user.

Every server gets the same php.ini and the same extension list (the installed PHP-FPM's, without the
debuggers xdebug and pcov), a working directory of its own and a free port. Where cgroup v1 cpuacct or
cgroup v2 can be written, each server runs in a group of its own, which counts the CPU time of all its
processes, those that ended included; elsewhere /proc is summed over the process tree.

The configurations are those of a production set-up, not of the test suite's oracle (tests/lib/nginx.py).
A server ends with the program that started it, whatever kills that: PR_SET_PDEATHSIG.
"""
import ctypes
import dataclasses
import glob
import http.client
import os
import shutil
import signal
import subprocess
import time

from lib import account, phpini, ports

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PHP_VERSION = phpini.version()
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class PeerError(Exception):
    """A server could not be started; the text says why and shows the end of its log."""


def make_writable(path):
    """Gives `path` to the account the servers run under."""
    os.makedirs(path, exist_ok=True)
    account.give(path)
    return path


class PhpSettings:
    """One php.ini and one scan directory, read by every server of a comparison."""

    def __init__(self, directory, settings=None):
        self.ini_path = os.path.join(directory, "php.ini")
        self.scan_dir = os.path.join(directory, "conf.d")
        os.makedirs(self.scan_dir)
        shutil.copyfile(phpini.ini_file(), self.ini_path)
        for source in sorted(glob.glob(f"/etc/php/{PHP_VERSION}/fpm/conf.d/*.ini")):
            if not any(name in source for name in phpini.DEVELOPER_EXTENSIONS):
                shutil.copyfile(source, os.path.join(self.scan_dir, os.path.basename(source)))
        with open(os.path.join(self.scan_dir, "99-comparison.ini"), "w") as f:
            for key, value in (settings or {}).items():
                f.write(f'{key} = "{value}"\n')


@dataclasses.dataclass
class Site:
    """What the servers of a comparison serve. `modes`: what sapid is asked for in worker mode, with rollback, from an image, as
    TOML at the end of its table [php]; `docroots`: where a mode has a document root of its own."""
    docroot: str
    probe: str = "/hello.php"
    env: dict = dataclasses.field(default_factory=dict)
    modes: dict = dataclasses.field(default_factory=dict)
    docroots: dict = dataclasses.field(default_factory=dict)

    def start(self, cls, work, php, workers, connections):
        server = cls(self.docroots.get(cls.mode, self.docroot), work, php, workers, connections)
        server.env, server.mode_settings = self.env, self.modes.get(cls.mode, "")
        server.start(self.probe, 60)
        return server


class CpuGroup:
    """The CPU time and the processes of one server: a cgroup where we may make one, else a tree."""

    ROOTS = (("/sys/fs/cgroup/cpuacct", "cpuacct.usage"), ("/sys/fs/cgroup", "cpu.stat"),
             ("/sys/fs/cgroup/unified", "cpu.stat"))

    def __init__(self, name):
        self.path = None
        self.leader = 0
        for root, counter in self.ROOTS:
            path = os.path.join(root, f"sapid-bench-{os.getpid()}-{name}")
            try:
                os.mkdir(path)
            except OSError:
                continue
            if os.path.exists(os.path.join(path, counter)):
                self.path, self.counter = path, os.path.join(path, counter)
                return
            os.rmdir(path)

    def join(self):
        if self.path:
            with open(os.path.join(self.path, "cgroup.procs"), "w") as f:
                f.write(str(os.getpid()))

    def pids(self):
        if self.path:
            with open(os.path.join(self.path, "cgroup.procs")) as f:
                return [int(line) for line in f]
        return process_tree(self.leader)

    def cpu_ns(self):
        if not self.path:
            return tree_cpu_ns(self.leader)
        with open(self.counter) as f:
            text = f.read()
        if text.startswith("usage_usec"):
            return int(text.split()[1]) * 1000
        return int(text)

    def remove(self):
        if self.path:
            try:
                os.rmdir(self.path)
            except OSError:
                pass
            self.path = None


def process_tree(leader):
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat_fields(int(entry))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [leader]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def stat_fields(pid):
    """Fields of /proc/PID/stat from the state on (index 0 is field 3), None when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()
    except OSError:
        return None


def tree_cpu_ns(leader):
    ticks = 0
    for pid in process_tree(leader):
        fields = stat_fields(pid)
        if fields:
            ticks += sum(int(f) for f in fields[11:15])  # utime stime cutime cstime
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def pss_kib(pids):
    """Proportional set size of the processes together, in KiB; those we may not read count as 0."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))
        except OSError:
            continue
    return total


class Server:
    """One server on one port. Subclasses say what to run; `conn_bound` ones hold a process per
    connection, so `connections` decides how many processes they get."""

    name = "server"
    conn_bound = False
    mode = None                 # of sapid: "worker", "rollback" or "image"; None is classic mode, and all others
    env: dict = {}              # what PHP is to see
    mode_settings = ""

    def __init__(self, docroot, work, php, workers=2, connections=64):
        self.docroot, self.php, self.workers, self.connections = docroot, php, workers, connections
        self.work = make_writable(os.path.join(work, self.name))
        self.port = 0
        self.processes = []
        self.group = None

    # --- what a subclass gives ----------------------------------------------------------------------
    def commands(self):
        """Writes the configuration and returns the command lines to run, in order."""
        raise NotImplementedError

    def versions(self):
        return ""

    # --- life ---------------------------------------------------------------------------------------
    @property
    def processes_of_php(self):
        return max(self.workers, self.connections) if self.conn_bound else self.workers

    @property
    def log_path(self):
        return os.path.join(self.work, "log")

    def environment(self):
        env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8", "TZ": "UTC",
               "HOME": self.work, "TMPDIR": make_writable(os.path.join(self.work, "tmp"))}
        if self.php:
            env["PHP_INI_SCAN_DIR"] = self.php.scan_dir
        return env

    def start(self, probe="/", timeout=15):
        self.port = ports.free_port()
        self.group = CpuGroup(self.name)
        log = open(self.log_path, "wb")
        account.give(self.log_path)
        for command in self.commands():
            self.processes.append(subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.work,
                env=self.environment(), preexec_fn=self.enter))
        self.group.leader = self.processes[0].pid
        self.wait_ready(probe, timeout)
        return self

    def enter(self):
        """In the child, before exec: own session, its CPU group, the service user, our death."""
        os.setsid()
        self.group.join()
        if account.is_root():
            user = account.web()
            os.setgroups([])
            os.setgid(user.gid)
            os.setuid(user.uid)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    def wait_ready(self, probe, timeout):
        deadline = time.monotonic() + timeout
        reason = "no answer"
        while time.monotonic() < deadline:
            for process in self.processes:
                if process.poll() is not None:
                    self.fail(f"its process ended with status {process.returncode}")
            try:
                status = self.get(probe)[0]
                if status < 500:
                    return
                reason = f"GET {probe} answers {status}"
            except OSError as error:
                reason = f"GET {probe}: {error}"
            except http.client.HTTPException as error:
                reason = f"GET {probe}: {error!r}"
            time.sleep(0.02)
        self.fail(f"not ready after {timeout} s: {reason}")

    def fail(self, reason):
        self.stop()
        with open(self.log_path, errors="replace") as f:
            tail = "".join(f.readlines()[-15:])
        raise PeerError(f"{self.name}: {reason}; its log {self.log_path} ends with:\n{tail}")

    def get(self, path, headers=None, timeout=10):
        """One GET on a fresh connection: (status, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def pids(self):
        return self.group.pids() if self.group else []

    def cpu_ns(self):
        return self.group.cpu_ns()

    def pss_kib(self):
        return pss_kib(self.pids())

    def stop(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 8
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
        for pid in self.pids() if self.processes else []:  # only what we started
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for process in self.processes:
            process.wait()
        self.processes = []
        if self.group:
            self.wait_empty()
            self.group.remove()
            self.group = None

    def wait_empty(self):
        deadline = time.monotonic() + 2
        while self.group.path and self.group.pids() and time.monotonic() < deadline:
            time.sleep(0.01)

    def write(self, name, text):
        path = os.path.join(self.work, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def __enter__(self):
        return self if self.processes else self.start()

    def __exit__(self, *_):
        self.stop()


def first_line(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except OSError as error:
        return str(error)
    return ((done.stdout + done.stderr).strip().splitlines() or ["?"])[0]


class Sapid(Server):
    name = "sapid"
    program = os.environ.get("SAPID_BINARY") or os.path.join(ROOT, "build", "sapid")
    extra_server, extra_php = "", ""

    def php_settings(self):
        """The end of the table [php], and tables behind it."""
        env = "env = { " + ", ".join(f'{key} = "{value}"' for key, value in self.env.items()) + " }\n" if self.env else ""
        return env + self.extra_php + self.mode_settings

    def commands(self):
        ini = f'ini_path = "{self.php.ini_path}"\nini_scan_dir = "{self.php.scan_dir}"\n' \
            if self.php else ""
        config = self.write("sapid.toml", f"""\
[server]
listen = ["127.0.0.1:{self.port}"]
spool_dir = "{self.environment()['TMPDIR']}"
{self.extra_server}
[php]
document_root = "{self.docroot}"
worker_pool_size = {self.workers}
{ini}{self.php_settings()}
[log]
access = "off"
""")
        return [[self.program, "serve", "--config", config]]

    def versions(self):
        return first_line([self.program, "--version"])


class SapidWorker(Sapid):
    """Worker mode: the application stays loaded, and keeps everything."""
    name, mode = "sapid-worker", "worker"


class SapidRollback(Sapid):
    """Worker mode, rolled back after every request."""
    name, mode = "sapid-rollback", "rollback"


class SapidImage(Sapid):
    """Classic mode from the image of an entry script, rolled back after every request."""
    name, mode = "sapid-image", "image"


class Nginx:
    """The nginx half of a server: a configuration text and the command for it."""

    @staticmethod
    def command(server, body):
        tmp = server.environment()["TMPDIR"]
        temporary = "\n".join(f"    {kind}_temp_path {tmp}/{kind};"
                              for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = server.write("nginx.conf", f"""\
daemon off;
worker_processes auto;
worker_rlimit_nofile 16384;
pid {server.work}/nginx.pid;
error_log {server.log_path} error;
events {{ worker_connections 8192; }}
http {{
{temporary}
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    open_file_cache max=1000;
    client_max_body_size 64m;
{body}
}}
""")
        return ["/usr/sbin/nginx", "-p", server.work, "-e", server.log_path, "-c", config]


class NginxFpm(Server):
    """nginx and php-fpm over a unix socket, a FastCGI connection per request: Debian's set-up."""

    name = "nginx-fpm"
    upstream_options, location_options = "", ""
    # A page of 1 MiB would go through a temporary file with nginx's 32 KiB of default buffers.
    buffers = "fastcgi_buffers 32 64k; fastcgi_buffer_size 32k; fastcgi_busy_buffers_size 128k;"
    path_info = False

    def commands(self):
        socket_path = os.path.join(self.work, "fpm.sock")
        return [self.fpm_command(socket_path), Nginx.command(self, self.http_block(socket_path))]

    def fpm_command(self, socket_path):
        config = self.write("fpm.conf", f"""\
[global]
daemonize = no
pid = {self.work}/fpm.pid
error_log = {self.log_path}
log_level = warning
rlimit_files = 16384
[www]
listen = {socket_path}
listen.backlog = 4096
pm = static
pm.max_children = {self.processes_of_php}
{"".join(f'env[{key}] = "{value}"{chr(10)}' for key, value in self.env.items())}""")
        return [f"/usr/sbin/php-fpm{PHP_VERSION}", "-F", "-c", self.php.ini_path, "-y", config]

    def http_block(self, socket_path):
        php_location = r"location ~ \.php$ {"
        split = ""
        if self.path_info:
            php_location = r"location ~ [^/]\.php(/|$) {"
            split = r"""fastcgi_split_path_info ^(.+?\.php)(/.*)$;
            fastcgi_param PATH_INFO $fastcgi_path_info;"""
        return f"""
    upstream php {{ server unix:{socket_path}; {self.upstream_options} }}
    server {{
        listen 127.0.0.1:{self.port} backlog=4096;
        root {self.docroot};
        index index.php index.html;
        location / {{ try_files $uri $uri/ /index.php?$args; }}
        {php_location}
            {split}
            include /etc/nginx/fastcgi.conf;
            {self.buffers}
            {self.location_options}
            fastcgi_pass php;
        }}
    }}"""

    def versions(self):
        return first_line(["/usr/sbin/nginx", "-v"]) + "; " + \
            first_line([f"/usr/sbin/php-fpm{PHP_VERSION}", "-v"])


class SapidFpm(NginxFpm):
    """sapid in nginx's place before the same php-fpm, which gets as many connections as it has children."""

    name = "sapid-fpm"
    fastcgi = ""

    def commands(self):
        socket_path = os.path.join(self.work, "fpm.sock")
        config = self.write("sapid.toml", f"""\
[server]
listen = ["127.0.0.1:{self.port}"]
spool_dir = "{self.environment()['TMPDIR']}"
[php]
document_root = "{self.docroot}"
use_fpm = true
fpm_socket = "{socket_path}"
[fastcgi]
connections = {self.processes_of_php}
{self.fastcgi}
[log]
access = "off"
""")
        return [self.fpm_command(socket_path), [Sapid.program, "serve", "--config", config]]

    def versions(self):
        return first_line([Sapid.program, "--version"]) + "; " + \
            first_line([f"/usr/sbin/php-fpm{PHP_VERSION}", "-v"])


class SapidFpmKeepalive(SapidFpm):
    name = "sapid-fpm-keepalive"
    fastcgi = "keep_alive = true"


class NginxFpmKeepalive(NginxFpm):
    """The same with kept FastCGI connections. An FPM child serves only its own connection then, so with
    fewer children than connections all but the first few clients would starve: conn_bound."""

    name = "nginx-fpm-keepalive"
    conn_bound = True
    location_options = "fastcgi_keep_conn on;"

    @property
    def processes_of_php(self):
        """Each process of nginx keeps idle connections, and so children, that another one's requests would need."""
        return super().processes_of_php + self.KEPT_IDLE

    KEPT_IDLE = 16

    @property
    def upstream_options(self):
        return f"keepalive {self.KEPT_IDLE};"


class Apache(Server):
    """Apache prefork with mod_php. A child belongs to its connection: conn_bound."""

    name = "apache-mod-php"
    conn_bound = True
    modules = ("mpm_prefork", "authz_core", "env", "mime", "dir")

    def commands(self):
        n = self.processes_of_php
        loads = "\n".join(f"LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so"
                          for m in self.modules)
        config = self.write("apache.conf", f"""\
ServerRoot {self.work}
ServerName 127.0.0.1
Listen 127.0.0.1:{self.port}
ListenBacklog 4096
PidFile {self.work}/apache.pid
DefaultRuntimeDir {self.work}
ErrorLog {self.log_path}
LogLevel error
{loads}
TypesConfig /etc/mime.types
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 75
{self.process_lines(n)}
{"".join(f'SetEnv {key} "{value}"{chr(10)}' for key, value in self.env.items())}DocumentRoot {self.docroot}
<Directory {self.docroot}>
    AllowOverride None
    Require all granted
    DirectoryIndex index.php index.html
    FallbackResource /index.php
</Directory>
{self.php_lines()}
""")
        return [["/usr/sbin/apache2", "-DFOREGROUND", "-f", config]]

    def process_lines(self, n):
        return f"ServerLimit {n}\nStartServers {n}\nMinSpareServers {n}\nMaxSpareServers {n}\n" \
               f"MaxRequestWorkers {n}\nMaxConnectionsPerChild 0"

    def php_lines(self):
        return f"""\
LoadModule php_module /usr/lib/apache2/modules/libphp{PHP_VERSION}.so
PHPINIDir {os.path.dirname(self.php.ini_path)}
<FilesMatch "\\.php$">
    SetHandler application/x-httpd-php
</FilesMatch>"""

    def versions(self):
        return first_line(["/usr/sbin/apache2", "-v"]) + ", mod_php " + PHP_VERSION


class PhpCgi(Apache):
    """php-cgi started for each request by Apache's mod_cgid: how the seed system ran PHP."""

    name = "php-cgi"
    conn_bound = False
    modules = ("mpm_event", "authz_core", "env", "mime", "dir", "alias", "actions", "cgid")

    def process_lines(self, n):
        return f"MaxRequestWorkers 400\nScriptSock {self.work}/cgid.sock"

    def php_lines(self):
        bin_dir = os.path.join(self.work, "bin")
        os.makedirs(bin_dir, exist_ok=True)
        wrapper = self.write("bin/php", f'#!/bin/sh\nPHP_INI_SCAN_DIR="{self.php.scan_dir}" '
                                        f'exec /usr/bin/php-cgi{PHP_VERSION} '
                                        f'-c "{self.php.ini_path}"\n')
        os.chmod(wrapper, 0o755)
        return f"""\
ScriptAlias /cgi-bin/ {bin_dir}/
<Directory {bin_dir}>
    Require all granted
</Directory>
AddHandler php-per-request .php
Action php-per-request /cgi-bin/php"""

    def versions(self):
        return first_line(["/usr/sbin/apache2", "-v"]) + "; " + \
            first_line([f"/usr/bin/php-cgi{PHP_VERSION}", "-v"])


ALL = {cls.name: cls for cls in (Sapid, SapidWorker, SapidRollback, SapidImage, SapidFpm, SapidFpmKeepalive, NginxFpm,
                                 NginxFpmKeepalive, Apache, PhpCgi)}
