"""Cached-token accounting as providers do it: the longest prefix seen before, for the same key and model."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trunkline.model_server import tokens
from trunkline.model_server.prompt import Segment

MINIMUM_TOKENS = 1024  # both providers cache nothing shorter
STEP_TOKENS = 128  # OpenAI counts cached tokens in steps of this
TTL_SECONDS = 300  # since last use
LOOK_BACK = 20  # content blocks that Anthropic looks back from a breakpoint for an earlier entry
MAX_BREAKPOINTS = 4
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Tokens of one prompt read from the cache, and written to it by lifetime."""

    read: int = 0
    written_5m: int = 0
    written_1h: int = 0


class PromptCache:
    """Digests of prompt prefixes with their expiry, least recently used out first.

    `owner` separates callers (the API key and the model); `clock` is in seconds; `entries` bounds memory
    (about 200 bytes each).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, entries: int = 65_536) -> None:
        self._clock = clock
        self._bound = entries
        self._expiry: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    def clear(self) -> None:
        """Forget every prefix."""
        self._expiry.clear()

    def automatic(self, owner: str, segments: Sequence[Segment]) -> CacheUse:
        """OpenAI: every prefix of 1024 tokens and each 128 more is cached by itself; reading it renews it."""
        running = _seed("automatic", owner)
        data = b"".join(segment.data for segment in segments)
        read, position, known = 0, 0, True
        end = MINIMUM_TOKENS * tokens.BYTES_PER_TOKEN
        while end <= len(data):
            running.update(data[position:end])
            digest = running.digest()
            known = known and self._holds(digest)
            if known:
                read = end // tokens.BYTES_PER_TOKEN
            self._keep(digest, TTL_SECONDS)
            position, end = end, end + STEP_TOKENS * tokens.BYTES_PER_TOKEN
        return CacheUse(read=read)

    def at_breakpoints(self, owner: str, segments: Sequence[Segment]) -> CacheUse:
        """Anthropic: prefixes end at `cache_control` breakpoints; a hit may lie up to 20 blocks before one."""
        last = max((i for i, segment in enumerate(segments) if segment.ttl is not None), default=-1)
        running = _seed("breakpoints", owner)
        digests: list[bytes] = []
        ends: list[int] = []
        length = 0
        for segment in segments[: last + 1]:
            # The length keeps ("ab", "c") and ("a", "bc") apart.
            running.update(len(segment.data).to_bytes(8, "big") + segment.data)
            length += len(segment.data)
            digests.append(running.digest())
            ends.append(tokens.of_bytes(length))
        breakpoints = [i for i, segment in enumerate(segments) if segment.ttl is not None and ends[i] >= MINIMUM_TOKENS]
        hit = self._longest_hit(digests, breakpoints)
        read = ends[hit] if hit is not None else 0
        if hit is not None:
            self._keep(digests[hit], None)
        written = {300: 0, 3600: 0}
        start = read
        for i in breakpoints:
            ttl = segments[i].ttl or TTL_SECONDS
            if ends[i] > start:
                written[ttl] = written.get(ttl, 0) + ends[i] - start
                start = ends[i]
            self._keep(digests[i], ttl)
        return CacheUse(read=read, written_5m=written[300], written_1h=written[3600])

    def _longest_hit(self, digests: Sequence[bytes], breakpoints: Sequence[int]) -> int | None:
        for breakpoint_ in reversed(breakpoints):
            for i in range(breakpoint_, max(-1, breakpoint_ - LOOK_BACK), -1):
                if self._holds(digests[i]):
                    return i
        return None

    def _holds(self, digest: bytes) -> bool:
        entry = self._expiry.get(digest)
        return entry is not None and entry[0] > self._clock()

    def _keep(self, digest: bytes, ttl: int | None) -> None:
        """Write or renew an entry; `ttl` None renews it for the lifetime it was written with."""
        lifetime = ttl if ttl is not None else self._expiry[digest][1]
        self._expiry[digest] = (self._clock() + lifetime, lifetime)
        self._expiry.move_to_end(digest)
        if len(self._expiry) > self._bound:
            self._expiry.popitem(last=False)


def _seed(kind: str, owner: str) -> hashlib.blake2b:
    return hashlib.blake2b(f"{kind}\0{owner}\0".encode("utf-8", "replace"), digest_size=_DIGEST_BYTES)
