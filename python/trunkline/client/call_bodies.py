from __future__ import annotations

from typing import Any

from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire


class CallBodies(Wire):
    """What was sent and answered in one model call: `text` or `base64`, `bytes` of the whole, whether `truncated`."""

    request: dict[str, Any] | None = None
    response: dict[str, Any] | None = None


def _path(call_id: str, *more: str) -> str:
    return "/".join([f"/v1/usage/{segment(call_id)}/body", *more])


class Bodies:
    """`client.bodies`: stored bodies of model calls, by the id in `x-trunkline-call`; scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, call_id: str) -> CallBodies:
        """Return both. Raises NotFound where they are not stored."""
        return CallBodies.model_validate(self._transport.request("GET", _path(call_id)))

    def redact(self, call_id: str) -> CallBodies:
        """Empty both for good; when that was is kept. Raises NotFound."""
        return CallBodies.model_validate(self._transport.request("POST", _path(call_id, "redact"), once=True))

    def delete(self, call_id: str) -> None:
        """Delete both; what the call cost stays. Raises NotFound."""
        self._transport.request("DELETE", _path(call_id))


class AsyncBodies:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def get(self, call_id: str) -> CallBodies:
        """Return both. Raises NotFound where they are not stored."""
        return CallBodies.model_validate(await self._transport.request("GET", _path(call_id)))

    async def redact(self, call_id: str) -> CallBodies:
        """Empty both for good; when that was is kept. Raises NotFound."""
        return CallBodies.model_validate(await self._transport.request("POST", _path(call_id, "redact"), once=True))

    async def delete(self, call_id: str) -> None:
        """Delete both; what the call cost stays. Raises NotFound."""
        await self._transport.request("DELETE", _path(call_id))
