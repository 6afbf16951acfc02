"""The gateway as a process. It is Rust; Python hands it its configuration, anew when that changes, and waits."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trunkline._core import Gateway
from trunkline.errors import SetupError

if TYPE_CHECKING:
    from trunkline.processes.reload import Reload


def serve(
    config: Mapping[str, Any],
    *,
    supervised: bool = False,
    listening: Callable[[int], None] | None = None,
    reload: Callable[[Callable[[Mapping[str, Any]], None]], Reload] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain: finish the calls under way and take no new ones.

    `listening` is called with the port once it is bound. `reload` is given what hands a new configuration to the
    gateway, and returns what watches over it; SIGHUP asks that. A second signal ends the process at once. Raises
    SetupError for a wrong setting or an address that is taken.
    """
    try:
        gateway = Gateway(json.dumps(config))
    except (ValueError, OSError) as error:
        raise SetupError(f"the gateway cannot start on {config['listen']}: {error}") from error

    def apply(config: Mapping[str, Any]) -> None:
        gateway.reload(json.dumps(config))

    # Without anybody to read the settings anew, as in a supervised gateway, a hang-up means nothing.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    watching = reload(apply) if reload is not None else None
    if watching is not None:
        signal.signal(signal.SIGHUP, lambda _number, _frame: watching.ask())
        watching.watch()
    if supervised:
        from trunkline.processes.lifeline import on_loss  # noqa: PLC0415 (not needed by a gateway of its own)

        on_loss(gateway.stop, apply)
    if listening is not None:
        listening(gateway.port)
    try:
        _serve(gateway.serve, gateway.stop)
    finally:
        if watching is not None:
            watching.end()


def _serve(serve: Callable[[], None], stop: Callable[[], None]) -> None:
    """Run `serve` in a thread, since Python handles signals in the main one, and raise what it raised."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            serve()
        except BaseException as error:  # noqa: BLE001 (raised again in the main thread)
            failures.append(error)

    def drain(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, drain)
    thread = threading.Thread(target=run, name="gateway")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _supervised() -> None:
    from trunkline.processes.lifeline import receive  # noqa: PLC0415

    try:
        serve(receive(), supervised=True)
    except SetupError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _supervised()
