"""nginx before php-fpm: the oracle that answers are compared with. Configured as its manual and the
applications' manuals say, with sapid's rules for dotfiles and the front controller."""
import signal
from pathlib import Path

from lib import account, ports
from lib.fpm import Fpm
from lib.httpclient import LENIENT_STATUS_LINE
from lib.process import Process, accepts, descendants
from lib.site import Server, Site

# nginx.org's list; HTTP_HOST with its port, which Debian's file leaves out.
FASTCGI_PARAMS = """
            fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
            fastcgi_param SCRIPT_NAME $fastcgi_script_name;
            fastcgi_param PATH_INFO $fastcgi_path_info;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param DOCUMENT_URI $document_uri;
            fastcgi_param DOCUMENT_ROOT $document_root;
            fastcgi_param SERVER_PROTOCOL $server_protocol;
            fastcgi_param REQUEST_SCHEME $scheme;
            fastcgi_param HTTPS $https if_not_empty;
            fastcgi_param GATEWAY_INTERFACE CGI/1.1;
            fastcgi_param SERVER_SOFTWARE nginx/$nginx_version;
            fastcgi_param REMOTE_ADDR $remote_addr;
            fastcgi_param REMOTE_PORT $remote_port;
            fastcgi_param SERVER_ADDR $server_addr;
            fastcgi_param SERVER_PORT $server_port;
            fastcgi_param SERVER_NAME $host;
            fastcgi_param REDIRECT_STATUS 200;
            fastcgi_param HTTP_PROXY "";
"""
# sapid's key of [server] -> nginx's directive
DIRECTIVES = {"max_body_size": "client_max_body_size", "header_timeout": "client_header_timeout",
              "body_timeout": "client_body_timeout", "keepalive_timeout": "keepalive_timeout",
              "send_timeout": "send_timeout"}


class NginxFpm(Server):
    kind = "fpm"

    def __init__(self, site: Site, folder: Path):
        self.site, self.folder = site, folder
        self.host = site.hosts[0]
        self.port = site.port or ports.free_port(self.host)
        self.socket_path = folder / "http.sock"
        self.error_log = folder / "nginx-error.log"
        self.fpm = Fpm(site, folder)
        config = folder / "nginx.conf"
        config.write_text(self._config())
        self.process = Process(["/usr/sbin/nginx", "-e", self.error_log, "-p", folder, "-c", config],
                               folder / "nginx.log", cwd=str(folder))
        self.process.wait_until(lambda: accepts(self.address), f"port {self.port} to open")

    def _config(self) -> str:
        site, folder = self.site, self.folder
        front = site.front_controller
        if front is None and (site.root / "index.php").exists():
            front = "index.php"
        fallback = f"/{front}$is_args$args" if front else "=404"
        listens = [f"listen {'[' + h + ']' if ':' in h else h}:{self.port};" for h in site.hosts]
        if site.unix_socket:
            listens.append(f"listen unix:{self.socket_path};")
        directives = [f"{DIRECTIVES[k]} {v};" for k, v in site.server.items() if k in DIRECTIVES]
        hidden = [f"location ^~ {prefix} {{ return 404; }}" for prefix in site.internal]
        user = f"user {account.web().name};" if account.is_root() else ""
        return f"""
daemon off;
{user}
worker_processes 1;
error_log {self.error_log} warn;
pid {folder}/nginx.pid;
events {{ worker_connections 20000; }}
http {{
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log off;
    sendfile on;
    tcp_nodelay on;
    client_body_temp_path {folder}/ngx-body;
    fastcgi_temp_path {folder}/ngx-fastcgi;
    proxy_temp_path {folder}/ngx-proxy;
    scgi_temp_path {folder}/ngx-scgi;
    uwsgi_temp_path {folder}/ngx-uwsgi;
    {chr(10).join(directives)}
    server {{
        {chr(10).join(listens)}
        root {site.root};
        index index.php index.html;
        {chr(10).join(hidden)}
        location ~ /\\.(?!well-known) {{ return 404; }}
        location / {{ try_files $uri $uri/ {fallback}; }}
        location ~ [^/]\\.php(/|$) {{
            fastcgi_split_path_info ^(.+?\\.php)(/.*)$;
            if (!-f $document_root$fastcgi_script_name) {{ return 404; }}
            fastcgi_pass unix:{self.fpm.socket_path};{FASTCGI_PARAMS}
            fastcgi_buffering off;
            fastcgi_buffer_size 256k;
            fastcgi_buffers 8 256k;
        }}
    }}
}}
"""

    def connect(self, timeout: float = 60.0, **options):
        connection = super().connect(timeout, **options)
        connection.status_line = LENIENT_STATUS_LINE
        return connection

    def log_text(self) -> str:
        return self.process.log() + self.error_log.read_text(errors="replace") + self.fpm.log_text()

    def errors(self) -> list[str]:
        return [line for line in self.process.log().splitlines() if "[emerg]" in line]

    def pids(self) -> list[int]:
        return [p for root in (self.process.pid, self.fpm.process.pid) for p in [root, *descendants(root)]]

    def stop(self) -> None:
        self.process.stop(signal.SIGTERM)
        self.fpm.stop()

    def kill(self) -> None:
        self.process.kill()
        self.fpm.process.kill()
