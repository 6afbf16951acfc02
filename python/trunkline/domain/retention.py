"""For how long sessions and their events are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

DAY: Final = 86_400
"""Seconds. What is past its time is looked for once a day."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Times in seconds, None: for ever. `sessions` that were idle for that long go; of others, `events` of that age."""

    sessions: int | None = None
    events: int | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the times as definitions write them."""
        return {"type": "retention", "sessions": _shown(self.sessions), "events": _shown(self.events)}


def _shown(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    return f"{seconds // DAY}d" if seconds % DAY == 0 else f"{seconds}s"
