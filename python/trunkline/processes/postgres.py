from __future__ import annotations

from collections.abc import Callable

from trunkline.processes.addresses import Addresses, embedded, external
from trunkline.processes.identity import Process, identify
from trunkline.settings import Settings
from trunkline.store.embedded import EmbeddedPostgres


class Postgres:
    """The database of one Trunkline: the server of `DATABASE_URL`, else the embedded one, which it starts and stops."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._embedded = None if settings.database_url else EmbeddedPostgres(settings.home)
        self._ours = False

    def start(self) -> Addresses:
        """Return the addresses of a server that takes connections. Raises SetupError."""
        if self._embedded is None:
            return external(self._settings)
        info = self._embedded.start()
        self._ours = True
        return embedded(info)

    def process(self) -> Process | None:
        """Return the embedded server's process if it runs."""
        info = self._embedded.running() if self._embedded is not None else None
        return None if info is None else identify(info.pid)

    def restart_if_ended(self, notify: Callable[[str], None]) -> bool:
        """Start the embedded server again if it is gone, at the same address; tell whether it was."""
        if self._embedded is None or self._embedded.running() is not None:
            return False
        notify("Postgres ended; starting it again")
        self._embedded.stop()
        self._embedded.start()
        return True

    def stop(self) -> None:
        """Stop the embedded server if `start` started it."""
        if self._embedded is not None and self._ours:
            self._embedded.stop()
