"""What makes vectors of texts: one protocol, and whether what came back is what was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, Protocol
from uuid import UUID

Vector = Sequence[float]

MAX_DIMENSION: Final = 4000
"""The most numbers that pgvector indexes in half precision."""

Fault = Literal["unavailable", "refused", "wrong_count", "wrong_dimension", "not_finite", "zero"]
"""Why there are no vectors; `unavailable` passes by itself, the others are the embedder's or its configuration's."""


class EmbeddingFailed(Exception):
    """An embedder gave no vectors that can be used. `retry_after_s`: how long it asked to be left alone."""

    def __init__(self, fault: Fault, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.retry_after_s = retry_after_s


class Embedder(Protocol):
    """Makes vectors of texts. Safe for many tasks of one event loop."""

    @property
    def model(self) -> str:
        """What its vectors are recorded under: vectors of different models are never compared."""

    @property
    def dimension(self) -> int | None:
        """Numbers in a vector; None while nobody has said so."""

    async def embed(self, tenant_id: UUID, texts: Sequence[str]) -> list[Vector]:
        """Return a vector for each text, in order, on the account of a tenant. Raises EmbeddingFailed, Unavailable."""


def checked(vectors: Sequence[Vector], count: int, dimension: int | None) -> list[Vector]:
    """Return vectors that can be stored and compared, made of unit length: `count` of them, none longer than another.

    Every number must be finite, and one of them not zero. Raises EmbeddingFailed that says what is wrong.
    """
    if len(vectors) != count:
        raise EmbeddingFailed("wrong_count", f"{count} texts were given, and {len(vectors)} vectors came back.")
    if not vectors:
        return []
    wanted = dimension if dimension is not None else len(vectors[0])
    if not 1 <= wanted <= MAX_DIMENSION:
        raise EmbeddingFailed(
            "wrong_dimension", f"A vector has {wanted} numbers; 1 to {MAX_DIMENSION} can be stored and searched."
        )
    for vector in vectors:
        if len(vector) != wanted:
            raise EmbeddingFailed("wrong_dimension", f"A vector has {len(vector)} numbers, {wanted} are expected.")
        if not all(map(math.isfinite, vector)):
            raise EmbeddingFailed("not_finite", "A vector holds a number that is not finite (NaN or infinity).")
        if not any(vector):
            raise EmbeddingFailed("zero", "A vector is all zeros: it points nowhere.")
    return [_unit(vector) for vector in vectors]


def _unit(vector: Vector) -> Vector:
    # Scaled first, so that no square overflows or vanishes.
    largest = max(map(abs, vector))
    scaled = [number / largest for number in vector]
    length = math.sqrt(math.fsum(number * number for number in scaled))
    return [number / length for number in scaled]
