"""Faults and shaping on request: by command line, script rule, model name or request header, the last named winning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

HEADER_PREFIX = "x-model-server-"
_PREFIX_BYTES = HEADER_PREFIX.encode()
MAX_DELAY_MS = 600_000


class Faults(BaseModel):
    """What is to go wrong with one answer. Everything off by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_ms: int | None = Field(default=None, ge=0, le=MAX_DELAY_MS)  # before the first byte
    tokens_per_s: float | None = Field(default=None, gt=0)
    error: int | None = Field(default=None, ge=400, le=599)  # HTTP status
    error_type: str | None = None  # instead of the wire's usual type for the status
    error_after_events: int | None = Field(default=None, ge=1)  # streams: the error comes after that many events
    rate_limit: int | None = Field(default=None, ge=0)  # 429 with `Retry-After` of that many seconds
    cut_after_events: int | None = Field(default=None, ge=0)  # the socket is closed; 0: before any byte
    stall: int | None = Field(default=None, ge=0)  # after that many events nothing more comes, the socket stays open
    chunk_bytes: int | None = Field(default=None, ge=1)  # the body is sent in pieces of that many bytes
    nan: bool | None = None  # embeddings: the first number of each vector is none
    dimension: int | None = Field(default=None, ge=1, le=16_384)  # embeddings: numbers a vector, whatever was asked for
    missing: int | None = Field(default=None, ge=1)  # embeddings: so many vectors are left out at the end
    malformed: bool | None = None  # the body, or the second event, is no valid JSON

    def over(self, weaker: Faults) -> Faults:
        """Add to these faults those of `weaker` that these do not set."""
        return weaker.model_copy(update=self.model_dump(exclude_none=True))


NO_FAULTS = Faults()

# piece of a model name -> what its number means. `N` stands for the number, the second value is its default.
_PIECE = re.compile(r"(?P<name>[a-z]+(?:-[a-z]+)*)(?:-(?P<number>\d+))?(?:@(?P<after>\d+))?(?:x(?P<times>\d+))?")
_PIECES: dict[str, tuple[str, int]] = {
    "slow": ("latency_ms", 2000),
    "tokens": ("tokens_per_s", 10),
    "error": ("error", 500),
    "rate-limit": ("rate_limit", 1),
    "cut": ("cut_after_events", 3),
    "stall": ("stall", 3),
    "chunk": ("chunk_bytes", 7),
    "malformed": ("malformed", 1),
    "nan": ("nan", 1),
    "dimension": ("dimension", 8),
    "missing": ("missing", 1),
}


def from_model(model: str, take: Callable[[str, int], bool]) -> Faults:
    """Return the faults a model name asks for: `slow-300`, `gpt-5+error-503x2+chunk-1`; other pieces are just names.

    `xN` makes a fault happen for the first N requests only: `take(piece, N)` says whether it still does.
    """
    found: dict[str, Any] = {}
    for piece in model.rsplit("/", 1)[-1].split("+"):
        match = _PIECE.fullmatch(piece)
        if match is None or match["name"] not in _PIECES:
            continue
        field, default = _PIECES[match["name"]]
        value = {field: int(match["number"] or default)}
        if match["after"]:
            value["error_after_events"] = int(match["after"])
        try:
            Faults.model_validate(value, strict=False)
        except ValidationError:
            continue  # `error-42` is no status: a name like any other
        if match["times"] is None or take(f"{model} {piece}", int(match["times"])):
            found |= value
    return Faults.model_validate(found) if found else NO_FAULTS


def from_headers(headers: Iterable[tuple[bytes, bytes]]) -> Faults:
    """Return the faults that `x-model-server-*` request headers ask for; raises ValueError naming a wrong header."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name.startswith(_PREFIX_BYTES):
            text = name.decode("latin-1")
            field = text[len(HEADER_PREFIX) :].replace("-", "_")
            if field not in Faults.model_fields:
                known = ", ".join(HEADER_PREFIX + known.replace("_", "-") for known in Faults.model_fields)
                raise ValueError(f"unknown header {text}; known are {known}")
            found[field] = value.decode("latin-1").strip()
    if not found:
        return NO_FAULTS
    try:
        return Faults.model_validate(found)
    except ValidationError as fault:
        first = fault.errors()[0]
        header = HEADER_PREFIX + str(first["loc"][0]).replace("_", "-")
        raise ValueError(f"{header}: {first['msg']}, got {first['input']!r}") from fault
