"""Pages: `{"data", "next_page"}`, where `next_page` is the position after the page's last item, opaque to clients."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from trunkline.errors import InvalidRequest

Item = TypeVar("Item")


def page(
    items: Sequence[Item], limit: int, to_wire: Callable[[Item], Any], position: Callable[[Item], str]
) -> dict[str, Any]:
    """Return the wire's page of the first `limit` items; one more than that means that another page follows."""
    shown = items[:limit]
    return {
        "data": [to_wire(item) for item in shown],
        "next_page": position(shown[-1]) if len(items) > limit else None,
    }


def at_time(created_at: datetime, item_id: UUID) -> str:
    """Return the position of an item in a list by age."""
    return _encode([created_at.astimezone(UTC).isoformat(), item_id.hex])


def at_number(number: int) -> str:
    """Return the position of an item in a list by number."""
    return _encode([number])


def read_time(text: str | None) -> tuple[datetime, UUID] | None:
    """Return the position that `at_time` made. Raises InvalidRequest for anything else."""
    if text is None:
        return None
    match _decode(text):
        case [str(created_at), str(item_id)]:
            try:
                time = datetime.fromisoformat(created_at)
                if time.tzinfo is not None:
                    return time, UUID(hex=item_id)
            except ValueError:
                pass
    raise _not_a_position(text)


def read_number(text: str | None) -> int | None:
    """Return the position that `at_number` made. Raises InvalidRequest for anything else."""
    if text is None:
        return None
    match _decode(text):
        case [int(number)] if 0 <= number < 2**31:
            return number
    raise _not_a_position(text)


def _encode(position: list[Any]) -> str:
    return "page_" + base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode().rstrip("=")


def _decode(text: str) -> Any:
    digits = text.removeprefix("page_")
    if digits == text or len(text) > 200:
        raise _not_a_position(text)
    try:
        return json.loads(base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise _not_a_position(text) from error


def _not_a_position(text: str) -> InvalidRequest:
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    return InvalidRequest(
        f"{shown!r} is not a page of this list; send `next_page` of the page before as it came, or leave `page` out.",
        param="page",
    )
