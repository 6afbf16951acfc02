"""Sends an answer, with what is asked to go wrong on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from trunkline.model_server import event_stream
from trunkline.model_server.faults import Faults
from trunkline.model_server.wire import Event

TRANSPORT = "trunkline.model_server.transport"  # the key of a request's socket in its ASGI scope


class Delivery:
    """An ASGI response: a JSON body or a stream of events, shaped by `faults`.

    `late_error` is sent instead of the event after `faults.error_after_events`. `output_tokens` paces a JSON body.
    """

    def __init__(
        self,
        content: Mapping[str, Any] | Iterable[Event],
        headers: Mapping[str, str],
        faults: Faults,
        *,
        status: int = 200,
        output_tokens: int = 0,
        late_error: bytes = b"",
    ) -> None:
        self._content = content
        self._headers = headers
        self._faults = faults
        self._status = status
        self._output_tokens = output_tokens
        self._late_error = late_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Ends without a word when the client goes away or the faults close the socket."""
        channel = _Channel(scope, receive, send, self._faults.chunk_bytes)
        if self._faults.latency_ms and await channel.pause(self._faults.latency_ms / 1000):
            return
        if self._faults.cut_after_events == 0:
            await channel.cut()
            return
        if isinstance(self._content, Mapping):
            await self._send_body(channel, self._content)
        else:
            await self._send_events(channel, self._content)

    async def _send_body(self, channel: _Channel, content: Mapping[str, Any]) -> None:
        faults = self._faults
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        if faults.malformed and self._status == 200:
            body = body[: max(1, len(body) // 2)]
        if faults.tokens_per_s and await channel.pause(self._output_tokens / faults.tokens_per_s):
            return
        await channel.start(self._status, {"content-type": "application/json", **self._headers}, len(body))
        if self._status == 200 and (faults.cut_after_events is not None or faults.stall is not None):
            await channel.write(body[: len(body) // 2])
            if faults.cut_after_events is not None:
                await channel.cut()
            else:
                await channel.gone()
            return
        await channel.write(body, last=True)

    async def _send_events(self, channel: _Channel, events: Iterable[Event]) -> None:
        faults = self._faults
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **self._headers}
        await channel.start(self._status, headers)
        for sent, event in enumerate(events):
            if faults.stall == sent:
                await channel.gone()
                return
            if faults.cut_after_events == sent:
                await channel.cut()
                return
            if faults.error_after_events == sent:
                await channel.write(self._late_error, last=True)
                return
            if faults.tokens_per_s and event.tokens and await channel.pause(event.tokens / faults.tokens_per_s):
                return
            await channel.write(_broken(event.data) if faults.malformed and sent == 1 else event.data)
        await channel.write(b"", last=True)


class _Channel:
    """One request's way back to its client."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, chunk_bytes: int | None) -> None:
        self._transport: asyncio.Transport = scope["extensions"][TRANSPORT]
        self._receive = receive
        self._send = send
        self._chunk_bytes = chunk_bytes

    async def start(self, status: int, headers: Mapping[str, str], length: int | None = None) -> None:
        """Send the status line and headers."""
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        if length is not None:
            pairs.append((b"content-length", str(length).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send bytes, in pieces if asked; each piece gets its own turn of the event loop, so its own packet."""
        size = self._chunk_bytes
        if size is not None:
            for start in range(0, len(data), size):
                await self._send({"type": "http.response.body", "body": data[start : start + size], "more_body": True})
                await asyncio.sleep(0)
            data = b""
        if data or last:
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def pause(self, seconds: float) -> bool:
        """Wait; true, and at once, if the client goes away meanwhile."""
        try:
            await asyncio.wait_for(self.gone(), seconds)
        except TimeoutError:
            return False
        return True

    async def gone(self) -> None:
        """Wait until the client goes away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def cut(self) -> None:
        """Close the socket, after what was already written."""
        self._transport.close()
        await self.gone()


def _broken(event: bytes) -> bytes:
    """Return the event with its JSON cut in the middle, or a binary one with a wrong checksum."""
    if not event.startswith((b"data: ", b"event: ")):
        return event_stream.broken(event)
    start = event.index(b"data: ") + len(b"data: ")
    return event[: start + (len(event) - start) // 2] + b"\n\n"
