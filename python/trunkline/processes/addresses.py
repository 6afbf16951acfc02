"""Where each role of Trunkline connects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

from trunkline.errors import SetupError
from trunkline.settings import Settings

if TYPE_CHECKING:
    from trunkline.store.embedded import ConnectionInfo

SCHEMA_OWNER, GATEWAY, CONTROL = "trunkline_owner", "trunkline_gateway", "trunkline_control"


@dataclass(frozen=True)
class Addresses:
    """Where each role connects; libpq's URLs or `key=value` strings."""

    owner: str
    """For `migrate` alone."""
    gateway: str
    control: str
    embedded: bool


def running(settings: Settings) -> Addresses:
    """Return the addresses of a database that somebody else started. Raises SetupError if the home's does not run."""
    if settings.database_url:
        return external(settings)
    from trunkline.store.embedded import EmbeddedPostgres  # noqa: PLC0415 (a gateway with DATABASE_URL needs none of it)

    info = EmbeddedPostgres(settings.home).running()
    if info is None:
        raise SetupError(
            f"no Postgres runs in {settings.home}: start `trunkline up`, or set DATABASE_URL to a server of yours."
        )
    return embedded(info)


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
    # Taken apart by hand: urllib drops the empty host of `postgresql:///name`, and libpq then reads no URL in it.
    base, _, given = address.partition("?")
    query = parse_qsl(given, keep_blank_values=True)
    options = [value for name, value in query if name == "options"]
    others = [(name, value) for name, value in query if name != "options"]
    return f"{base}?{urlencode([*others, ('options', ' '.join([*options, option]))], quote_via=quote)}"


def embedded(info: ConnectionInfo) -> Addresses:
    """Return the addresses on the embedded server, where each role logs in by its name."""
    return Addresses(info.url(), info.url(GATEWAY), info.url(CONTROL), embedded=True)
