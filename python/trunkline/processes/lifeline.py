"""What ties a child to its supervisor: a pipe on the child's standard input.

Its first line is the child's configuration as JSON, so a child can import what it needs while Postgres still starts;
each further line is a new one.
Its end, which comes however the supervisor dies, tells the child to drain and go.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_STDIN = 0
_DRAIN_S = 30.0
"""How long a child without a supervisor may go on draining."""


def receive() -> dict[str, Any]:
    """Return the configuration; end the process quietly if the supervisor goes away before it sends one."""
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(_STDIN, 65536)
        if not piece:
            raise SystemExit(0)
        line += piece
    configuration: dict[str, Any] = json.loads(line)
    return configuration


def on_loss(drain: Callable[[], object], configure: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Call `drain` from another thread once the supervisor is gone; end the process if that takes too long.

    `configure` is called there with each further configuration. What it raises as ValueError is told on standard error.
    """

    def watch() -> None:
        rest = b""
        while piece := os.read(_STDIN, 65536):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                try:
                    if configure is not None:
                        configure(json.loads(line))
                except ValueError as error:
                    sys.stderr.write(f"trunkline: the new configuration was not taken on: {error}\n")
        drain()
        time.sleep(_DRAIN_S)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
