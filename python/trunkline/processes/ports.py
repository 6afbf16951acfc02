from __future__ import annotations

import socket

from trunkline.errors import SetupError


def claim(listen: str) -> str:
    """Return `listen` (`HOST:PORT`) with a free port in the place of port 0. Raises SetupError if it is taken.

    Nothing stays open: the gateway binds for itself.
    """
    with listener(listen) as probe:
        return f"{listen.rpartition(':')[0]}:{probe.getsockname()[1]}"


def base_url(listen: str) -> str:
    """Return the URL under which a client on this machine reaches `listen`."""
    host, _, port = listen.rpartition(":")
    reachable = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}.get(host, host)  # noqa: S104 (not bound)
    return f"http://{reachable}:{port}"


def listener(listen: str) -> socket.socket:
    """Return a listening socket on `HOST:PORT`; port 0 takes a free one. Raises SetupError if it is taken."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    opened: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(512)
    except (OSError, ValueError) as error:
        if opened is not None:
            opened.close()
        reason = error.strerror if isinstance(error, OSError) else "expected HOST:PORT"
        raise SetupError(f"cannot listen on {listen}: {reason}. Stop what listens there, or choose another.") from error
    return opened


def status_of(base_url: str, path: str, timeout_s: float) -> int | None:
    """Return the HTTP status of a GET, None without an answer; a fraction of the cost of importing an HTTP client."""
    host, _, port = base_url.removeprefix("http://").rpartition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout_s) as connection:
            connection.sendall(request.encode())
            received = b""
            while b"\r\n" not in received:
                piece = connection.recv(1024)
                if not piece:
                    return None
                received += piece
            return int(received.split(b" ", 2)[1])
    except (OSError, ValueError, IndexError):
        return None
