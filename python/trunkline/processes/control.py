"""The control plane as a process: uvicorn on a socket that somebody else opened."""

from __future__ import annotations

import socket
import sys

import uvicorn

from trunkline.api.app import create_app
from trunkline.processes.lifeline import on_loss, receive

_DRAIN_S = 10


def serve(database: str, listening: socket.socket, *, supervised: bool = False) -> None:
    """Serve on a listening socket until SIGTERM or SIGINT, then finish the requests under way."""
    config = uvicorn.Config(
        create_app(database), log_level="warning", access_log=False, timeout_graceful_shutdown=_DRAIN_S
    )
    server = uvicorn.Server(config)
    if supervised:

        def drain() -> None:
            server.should_exit = True

        on_loss(drain)
    server.run(sockets=[listening])
    if not server.started:
        sys.exit("the control plane did not start")


def _supervised() -> None:
    configuration = receive()
    with socket.socket(fileno=configuration["descriptor"]) as listening:
        serve(configuration["database"], listening, supervised=True)


if __name__ == "__main__":
    _supervised()
