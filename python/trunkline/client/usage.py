from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from trunkline.client.wire import Wire


class Usage(Wire):
    """What model calls used, added up; of a group, with the names of the group beside it (`row.model`, `row.time`)."""

    requests: int
    errors: int = 0
    retries: int = 0
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated_requests: int = 0
    cost_usd: Decimal | None = None
    """None where no price is known."""
    unpriced_requests: int = 0
    first_byte_us: int | None = None
    total_us: int | None = None
    overhead_us: int | None = None
    """Means, in microseconds."""


def usage_params(
    since: datetime | None, until: datetime | None, filters: dict[str, Any], **more: str | int | None
) -> dict[str, Any]:
    """Return the query of `GET /v1/usage`."""
    wanted = {name: str(value).lower() if isinstance(value, bool) else value for name, value in filters.items()}
    times = {"from": since.isoformat() if since else None, "to": until.isoformat() if until else None}
    return {**wanted, **times, **more}
