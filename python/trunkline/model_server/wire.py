"""What every wire offers the server, and the errors they all can write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from trunkline.model_server.prompt import Answer, Call, Segment, Usage
from trunkline.model_server.prompt_cache import CacheUse, PromptCache


class ModelServerError(Exception):
    """The server cannot start; the message is one line that says what to do."""


@dataclass(eq=False)
class ApiError(Exception):
    """An error answer. `kind` None: the wire's usual error type for the status. `retry_after` in seconds."""

    status: int
    message: str
    kind: str | None = None
    param: str | None = None
    code: str | None = None
    retry_after: int | None = None


class Event(NamedTuple):
    """One server-sent event, ready to send, and the output tokens that it carries."""

    data: bytes
    tokens: int = 0


class Ids:
    """Ids of one answer: the same for the same request body at the same place in the server's life."""

    def __init__(self, body: bytes, sequence: int) -> None:
        self._seed = hashlib.blake2b(body + sequence.to_bytes(8, "big"), digest_size=12)

    def make(self, prefix: str, index: int = 0) -> str:
        """`prefix` and 24 hex digits; another `index` gives another id."""
        digest = self._seed.copy()
        digest.update(f"{prefix}{index}".encode())
        return prefix + digest.hexdigest()


class Wire(Protocol):
    """One request and response format. Parsing raises `ApiError`."""

    request_id_header: str

    def parse(self, body: Mapping[str, Any]) -> Call:
        """Read a request."""

    def cache(self, cache: PromptCache, owner: str, segments: Sequence[Segment]) -> CacheUse:
        """Account for a prompt as this provider does."""

    def body(self, call: Call, answer: Answer, usage: Usage, ids: Ids) -> dict[str, Any]:
        """Write the whole answer."""

    def events(self, call: Call, answer: Answer, usage: Usage, ids: Ids) -> Iterator[Event]:
        """Write the answer as a stream."""

    def error(self, error: ApiError, request_id: str) -> dict[str, Any]:
        """Write an error answer."""

    def error_event(self, error: ApiError, request_id: str) -> bytes:
        """Write an error in the middle of a stream."""
