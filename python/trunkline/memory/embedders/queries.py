"""Vectors of what is searched for, as the control plane has them made: within a time limit, and kept for a while."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from trunkline.errors import Unavailable
from trunkline.memory.embedders import Embedder, EmbeddingFailed, Vector
from trunkline.memory.embedders.gateway import GatewayEmbedder

_logger = logging.getLogger(__name__)

KEPT: Final = 2000
MAX_CHARACTERS: Final = 8192
REST_SECONDS: Final = 2.0
"""How long an embedder that took too long, or failed, is left alone."""

Reason = Literal["timeout", "embedder_failed", "embedder_resting", "not_embedded"]


@dataclass(frozen=True, slots=True)
class QueryVector:
    """The vector of a query and the model that made it; or neither, and the reason where there is an embedder."""

    vector: Vector | None = None
    model: str | None = None
    reason: Reason | None = None

    @property
    def header(self) -> str:
        """What `x-trunkline-recall` says."""
        if self.vector is not None:
            return "hybrid"
        return "lexical" if self.reason is None else f"lexical; reason={self.reason}"


class QueryVectors:
    """Asks an embedder. Used on one event loop."""

    def __init__(self, embedder: Embedder | None, timeout_s: float) -> None:
        self._embedder = embedder
        self._timeout_s = timeout_s
        self._kept: OrderedDict[tuple[UUID, str, str], Vector] = OrderedDict()
        self._rests_until = 0.0

    async def of(self, tenant_id: UUID, model: str | None, text: str) -> QueryVector:
        """Return the vector of a text by the model that a store is searched by; None: the store has no embeddings."""
        if self._embedder is None:
            return QueryVector()
        embedder: Embedder = self._embedder
        if model is not None and model != embedder.model and isinstance(embedder, GatewayEmbedder):
            embedder = embedder.by(model)
        if model != embedder.model:
            return QueryVector(reason="not_embedded")
        text = text[:MAX_CHARACTERS]
        kept = self._kept.get((tenant_id, model, text))
        if kept is not None:
            self._kept.move_to_end((tenant_id, model, text))
            return QueryVector(kept, model)
        if time.monotonic() < self._rests_until:
            return QueryVector(reason="embedder_resting")
        reason: Reason
        try:
            async with asyncio.timeout(self._timeout_s):
                (vector,) = await embedder.embed(tenant_id, [text])
        except TimeoutError:
            reason = "timeout"
        except (EmbeddingFailed, Unavailable) as error:
            _logger.warning("a query was not embedded: %s", error)
            reason = "embedder_failed"
        else:
            self._kept[tenant_id, model, text] = vector
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return QueryVector(vector, model)
        self._rests_until = time.monotonic() + REST_SECONDS
        return QueryVector(reason=reason)
