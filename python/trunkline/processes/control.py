"""The control plane as a process: its app on a socket that somebody else opened."""

from __future__ import annotations

import asyncio
import socket
import sys

import uvloop

from trunkline.api import app
from trunkline.api.app import ControlSettings
from trunkline.errors import SetupError
from trunkline.processes import lifeline, logs
from trunkline.store.leases import wake


def serve(settings: ControlSettings, listener: socket.socket, *, supervised: bool = False) -> None:
    """Serve on a listening socket until SIGTERM or SIGINT, then finish the requests under way. Raises SetupError."""
    logs.start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listener, supervised=supervised))


async def _serve(settings: ControlSettings, listener: socket.socket, *, supervised: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if supervised:
        lifeline.on_loss(lambda: loop.call_soon_threadsafe(stop.set))
    await app.serve(settings, listener=listener, wake=wake, stop=stop)


def _supervised() -> None:
    configuration = lifeline.receive()
    settings = ControlSettings(configuration["database"], configuration["max_body_bytes"])
    try:
        with socket.socket(fileno=configuration["descriptor"]) as listener:
            serve(settings, listener, supervised=True)
    except SetupError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    _supervised()
