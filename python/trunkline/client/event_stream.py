"""A session's events as they come, over connections that are made again where they break."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from trunkline.client.transport import AsyncTransport, Transport
from trunkline.client.wire import Wire
from trunkline.errors import TrunklineError, Unauthenticated, Unavailable

ATTEMPTS: Final = 10
"""How often in a row a stream is opened again that brings nothing."""


class Event(Wire):
    """One event of a session, in the vocabulary of Managed Agents: `user.message`, `agent.tool_use` and so on."""

    id: str
    type: str
    seq: int | None = None
    """Its number in the session."""
    processed_at: Any = None

    def text(self) -> str:
        """Return the text of its content blocks, one a line; empty for an event without any."""
        content = (self.model_extra or {}).get("content") or []
        return "\n".join(block["text"] for block in content if isinstance(block, dict) and "text" in block)

    @property
    def stop_reason(self) -> dict[str, Any]:
        """Why the agent stopped, of a `session.status_idle`; else empty."""
        return dict((self.model_extra or {}).get("stop_reason") or {})


class _Frames:
    """Server-sent events, line by line."""

    def __init__(self) -> None:
        self._kind = ""
        self._data: list[str] = []

    def add(self, line: str) -> Event | None:
        """Take in a line; return the event that it ends. Raises the TrunklineError that the stream ends with."""
        line = line.rstrip("\r\n")
        if line:
            name, _, value = line.partition(":")
            if name == "event":
                self._kind = value.strip()
            elif name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        kind, data = self._kind, "\n".join(self._data)
        self._kind, self._data = "", []
        if not data:
            return None
        found = json.loads(data)
        if kind == "error":
            error = found.get("error", {})
            refused = Unauthenticated if error.get("type") == "authentication_error" else TrunklineError
            raise refused(str(error.get("message", "The stream ended with an error.")))
        return Event.model_validate(found)


def events(transport: Transport, path: str, after: int) -> Iterator[Event]:
    """Yield the events after number `after` until the session is deleted; the stream goes on where it broke off.

    Raises Unavailable when it cannot be opened again.
    """
    failures = 0
    while True:
        frames = _Frames()
        try:
            for line in transport.lines(path, params={"after": after}):
                event = frames.add(line)
                if event is not None:
                    failures, after = 0, event.seq or after
                    yield event
                    if event.type == "session.deleted":
                        return
        except Unavailable:
            if failures >= ATTEMPTS:
                raise
        failures += 1
        time.sleep(_pause(failures))


async def events_async(transport: AsyncTransport, path: str, after: int) -> AsyncIterator[Event]:
    """Yield the events as `events` does."""
    failures = 0
    while True:
        frames = _Frames()
        try:
            async for line in transport.lines(path, params={"after": after}):
                event = frames.add(line)
                if event is not None:
                    failures, after = 0, event.seq or after
                    yield event
                    if event.type == "session.deleted":
                        return
        except Unavailable:
            if failures >= ATTEMPTS:
                raise
        failures += 1
        await asyncio.sleep(_pause(failures))


def _pause(failures: int) -> float:
    return min(0.1 * 2.0**failures, 5.0)
