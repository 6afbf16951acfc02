"""Putting passages that were found in the order of a reranker, within a time limit."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from trunkline.domain.memory import Passage
from trunkline.memory.rerankers import Reranker, RerankFailed

_logger = logging.getLogger(__name__)

REST_SECONDS: Final = 2.0
"""How long a reranker that took too long, or failed, is left alone."""
ALL_TOKENS: Final = 2**29
"""The token budget of what is found to be reranked: the search's own is kept in the order that comes of it."""

Reason = Literal["timeout", "reranker_failed", "reranker_resting"]


@dataclass(frozen=True, slots=True)
class Reranked:
    """Passages, best first; `reason` says why the order is still the one that they came in."""

    passages: Sequence[Passage]
    reason: Reason | None = None

    @property
    def header(self) -> str:
        """What `x-trunkline-recall` says of it, behind how was searched."""
        return "; reranked" if self.reason is None else f"; rerank_reason={self.reason}"


class Rerank:
    """Asks a reranker. Used on one event loop. `candidates`: how many passages a search is to find for it at least."""

    def __init__(self, reranker: Reranker, candidates: int, timeout_s: float) -> None:
        self.candidates = candidates
        self._reranker = reranker
        self._timeout_s = timeout_s
        self._rests_until = 0.0

    async def order(
        self, query: str, found: Sequence[Passage], *, at: datetime, half_life: timedelta | None
    ) -> Reranked:
        """Return the passages, all of them, by how well they answer the query.

        A score is a share of the span between the worst and the best; with `half_life`, half of it fades with the
        passage's age `at` this time, as it does in the search. Past the time limit, and without scores, the passages
        stay as they are.
        """
        if len(found) < 2:
            return Reranked(found)
        if time.monotonic() < self._rests_until:
            return Reranked(found, "reranker_resting")
        reason: Reason
        try:
            async with asyncio.timeout(self._timeout_s):
                scores = await self._reranker.scores(query, [passage.content for passage in found])
        except TimeoutError:
            reason = "timeout"
        except RerankFailed as error:
            _logger.warning("passages were not reranked: %s", error)
            reason = "reranker_failed"
        else:
            return Reranked(_ordered(found, scores, at, half_life))
        self._rests_until = time.monotonic() + REST_SECONDS
        return Reranked(found, reason)


def within(found: Sequence[Passage], limit: int, token_budget: int) -> list[Passage]:
    """Return the first passages, as many as the limit and the token budget take, as the search itself would."""
    kept: list[Passage] = []
    for passage in found[:limit]:
        token_budget -= passage.tokens
        if token_budget < 0:
            break
        kept.append(passage)
    return kept


def _ordered(
    found: Sequence[Passage], scores: Sequence[float], at: datetime, half_life: timedelta | None
) -> list[Passage]:
    low, high = min(scores), max(scores)

    def final(score: float, passage: Passage) -> float:
        share = (score - low) / (high - low) if high > low else 1.0
        if half_life is None:
            return share
        halves = max(at - passage.created_at, timedelta()) / half_life
        return share * (0.5 + 0.5 * math.pow(0.5, halves))

    again = [replace(passage, score=final(score, passage)) for score, passage in zip(scores, found, strict=True)]
    return sorted(again, key=lambda passage: passage.score, reverse=True)  # stable: equals stay as they were found
