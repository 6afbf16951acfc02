"""Items of a memory store: JSON objects under a namespace and a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trunkline.domain.times import to_wire


@dataclass(frozen=True, slots=True)
class StoreItem:
    """An item; `score` where it was found by a text."""

    namespace: Sequence[str]
    key: str
    value: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    score: float | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the item as the wire tells it."""
        return {
            "namespace": list(self.namespace),
            "key": self.key,
            "value": dict(self.value),
            "created_at": to_wire(self.created_at),
            "updated_at": to_wire(self.updated_at),
            "score": self.score,
        }
