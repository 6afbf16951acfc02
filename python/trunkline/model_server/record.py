"""What the server was asked, for tests to look at: the newest requests and running totals."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from trunkline.model_server.prompt import Usage

MAX_REQUESTS = 1000
MAX_BYTES = 64 * 1024 * 1024  # of bodies kept
_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"})
_SHOWN = 4  # characters of a long credential that stay readable


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. `body` is as it came; `usage` is None for an error."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    status: int
    usage: Usage | None

    def shown(self) -> dict[str, Any]:
        """As JSON, credentials masked. A body that is no JSON is shown as text."""
        try:
            body: Any = json.loads(self.body) if self.body else None
        except (ValueError, RecursionError):
            body = self.body[:10_000].decode("utf-8", "replace")
        return {
            "method": self.method,
            "path": self.path,
            "headers": {name: masked(name, value) for name, value in _decoded(self.headers)},
            "body": body,
            "status": self.status,
            "usage": asdict(self.usage) if self.usage else None,
        }


class Record:
    """The newest 1000 requests (or 64 MiB of bodies), and totals since start or clearing."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget requests and totals."""
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._totals = dict.fromkeys(("requests", "errors", "input_tokens", "output_tokens", "cached_tokens"), 0)

    def add(self, entry: Entry) -> None:
        """Keep a request and count it."""
        self._entries.append(entry)
        self._bytes += len(entry.body)
        while len(self._entries) > MAX_REQUESTS or (self._bytes > MAX_BYTES and len(self._entries) > 1):
            self._bytes -= len(self._entries.popleft().body)
        self._totals["requests"] += 1
        self._totals["errors"] += entry.status >= 400
        if entry.usage:
            self._totals["input_tokens"] += entry.usage.input_tokens
            self._totals["output_tokens"] += entry.usage.output_tokens
            self._totals["cached_tokens"] += entry.usage.cached_tokens

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest requests, the newest of all last."""
        start = max(0, len(self._entries) - limit)
        return [entry.shown() for index, entry in enumerate(self._entries) if index >= start]

    def totals(self) -> dict[str, int]:
        """Return requests, errors, input_tokens, output_tokens, cached_tokens."""
        return dict(self._totals)


def masked(name: str, value: str) -> str:
    """Return a header's value; of a credential only its scheme and, if it is long, its end."""
    if name not in _CREDENTIALS:
        return value
    scheme, _, secret = value.rpartition(" ")
    end = secret[-_SHOWN:] if len(secret) >= 4 * _SHOWN else ""
    return f"{scheme} ***{end}".strip()


def _decoded(headers: tuple[tuple[bytes, bytes], ...]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
