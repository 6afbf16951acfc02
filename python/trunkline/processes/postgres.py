from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from trunkline.errors import SetupError
from trunkline.processes.identity import Process, identify
from trunkline.settings import Settings
from trunkline.store.embedded import ConnectionInfo, EmbeddedPostgres

SCHEMA_OWNER, GATEWAY, CONTROL = "trunkline_owner", "trunkline_gateway", "trunkline_control"


@dataclass(frozen=True)
class Addresses:
    """Where each role connects; libpq's URLs or `key=value` strings."""

    owner: str
    """For `migrate` alone."""
    gateway: str
    control: str
    embedded: bool


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
        return _embedded(info)

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


def running(settings: Settings) -> Addresses:
    """Return the addresses of a database that somebody else started. Raises SetupError if the home's does not run."""
    if settings.database_url:
        return external(settings)
    info = EmbeddedPostgres(settings.home).running()
    if info is None:
        raise SetupError(
            f"no Postgres runs in {settings.home}: start `trunkline up`, or set DATABASE_URL to a server of yours."
        )
    return _embedded(info)


def external(settings: Settings) -> Addresses:
    """Return the addresses on the server of `DATABASE_URL`: one login that takes on each role, or a login each."""
    if settings.database_url is None:
        raise SetupError("DATABASE_URL is not set.")
    owner = settings.database_url.get_secret_value()
    gateway, control = settings.gateway_database_url, settings.control_database_url
    return Addresses(
        owner,
        gateway.get_secret_value() if gateway else as_role(owner, GATEWAY),
        control.get_secret_value() if control else as_role(owner, CONTROL),
        embedded=False,
    )


def as_role(address: str, role: str) -> str:
    """Return the address, a URL or `key=value` pairs, with the role that its sessions take on."""
    option = f"-c role={role}"
    if not address.startswith(("postgresql://", "postgres://")):
        return f"{address} options='{option}'"
    parts = urlsplit(address)
    query = parse_qsl(parts.query, keep_blank_values=True)
    given = [value for name, value in query if name == "options"]
    others = [(name, value) for name, value in query if name != "options"]
    options = urlencode([*others, ("options", " ".join([*given, option]))], quote_via=quote)
    return urlunsplit(parts._replace(query=options))


def _embedded(info: ConnectionInfo) -> Addresses:
    return Addresses(info.url(), info.url(GATEWAY), info.url(CONTROL), embedded=True)
