from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from trunkline.client.wire import Wire


class Usage(Wire):
    """What model calls used, added up."""

    requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: Decimal | None = None
    """None where no price is known."""


def usage_params(
    key_id: str | None,
    agent_id: str | None,
    session_id: str | None,
    since: datetime | None,
    until: datetime | None,
) -> dict[str, str | None]:
    """Return the query of `GET /v1/usage`."""
    return {
        "key_id": key_id,
        "agent_id": agent_id,
        "session_id": session_id,
        "from": since.isoformat() if since else None,
        "to": until.isoformat() if until else None,
    }
