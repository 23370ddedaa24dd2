"""Free TCP ports, outside the range from which the kernel takes the ports of outgoing connections."""
import random
import socket

_taken: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(500):
        port = random.randrange(20000, 32000)
        if port in _taken:
            continue
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((host, port))
            except OSError:
                continue
        _taken.add(port)
        return port
    raise RuntimeError("no free port between 20000 and 32000")
