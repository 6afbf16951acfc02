"""Times are aware, in UTC, and made above the store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload


def now() -> datetime:
    """Return the current time in UTC, to the microsecond."""
    return datetime.now(UTC)


@overload
def to_wire(time: datetime) -> str: ...
@overload
def to_wire(time: None) -> None: ...
def to_wire(time: datetime | None) -> str | None:
    """Return RFC 3339 in UTC, `2026-11-23T07:06:30.123456Z`; None stays None."""
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def from_wire(text: str) -> datetime:
    """Read RFC 3339. Raises ValueError for anything else, and for a time without its offset from UTC."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(text)
    return time.astimezone(UTC)
