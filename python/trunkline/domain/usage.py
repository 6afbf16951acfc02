"""Usage: what model calls took and cost, added up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which calls are added up; None: no limit. `since` is inclusive, `until` exclusive."""

    key_id: UUID | None = None
    agent_id: UUID | None = None
    session_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over calls. `cost_usd` is None when no call has a known price; `unpriced_requests` are left out of it."""

    requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: Decimal | None
    unpriced_requests: int

    def to_wire(self) -> dict[str, Any]:
        """Return the sums; money as a number of US dollars."""
        return {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "cost_usd": None if self.cost_usd is None else float(self.cost_usd),
            "unpriced_requests": self.unpriced_requests,
        }
