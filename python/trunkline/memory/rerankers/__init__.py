"""What says how well passages answer a query: one protocol, and whether what came back is what was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol


class RerankFailed(Exception):
    """A reranker gave no scores that can be used. Its text repeats neither query, passages nor key."""


class Reranker(Protocol):
    """Reads a query and a passage together. Safe for many tasks of one event loop."""

    async def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return how well each text answers the query, in order: higher is better. Raises RerankFailed."""


def checked(scores: Sequence[float], count: int) -> list[float]:
    """Return scores that can be compared: `count` finite numbers. Raises RerankFailed that says what is wrong."""
    if len(scores) != count:
        raise RerankFailed(f"{count} passages were given, and {len(scores)} scores came back.")
    if not all(map(math.isfinite, scores)):
        raise RerankFailed("A score is not finite (NaN or infinity).")
    return list(scores)
