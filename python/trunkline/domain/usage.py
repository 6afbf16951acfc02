"""Usage: what model calls took and cost, added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, get_args
from uuid import UUID

from trunkline.domain import ids

Group = Literal[
    "key", "team", "agent", "session", "user", "model", "provider", "upstream_model", "wire", "status", "error_type",
    "stream", "estimated", "source",
]  # fmt: skip
"""What calls are told apart by."""
Bucket = Literal["minute", "hour", "day", "month"]
"""Spans of time that calls are added up in, in UTC."""
Sum = Literal[
    "requests", "errors", "retries", "input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens",
    "reasoning_tokens", "estimated_requests", "cost_usd", "unpriced_requests", "first_byte_us", "total_us",
    "overhead_us",
]  # fmt: skip
"""What is told of a group: sums, and the means of times in microseconds."""

GROUPS: Final[tuple[Group, ...]] = get_args(Group)
SUMS: Final[tuple[Sum, ...]] = get_args(Sum)

PREFIXES: Final[Mapping[str, ids.Prefix]] = {
    "key_id": "key",
    "team_id": "team",
    "agent_id": "agent",
    "session_id": "sesn",
}
"""Columns that hold ids, with the prefix that they have on the wire."""


def column(group: Group) -> str:
    """Return the name that a group has in rows and in the store."""
    return f"{group}_id" if group in ("key", "team", "agent", "session", "user") else group


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which calls are added up, and how. `since` is inclusive, `until` exclusive; None: no limit.

    `filters` has the allowed values by column. `sort` is a sum, or `time` where there is a bucket.
    """

    by: Sequence[Group] = ()
    bucket: Bucket | None = None
    filters: Mapping[str, Sequence[UUID | str]] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None
    sort: str = "requests"
    descending: bool = True
    limit: int = 1
    offset: int = 0


def to_wire(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the store as the API shows it: ids with their prefix, times of groups in UTC."""
    shown = dict(row)
    for name, prefix in PREFIXES.items():
        if shown.get(name) is not None:
            shown[name] = ids.encode(prefix, UUID(shown[name]))
    if "time" in shown:
        shown["time"] = str(shown["time"]).replace("+00:00", "Z")
    return shown
