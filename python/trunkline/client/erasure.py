from __future__ import annotations

from datetime import datetime
from typing import Any

from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire


class Erasure(Wire):
    """What was erased: rows by kind."""

    id: str
    kind: str
    key_id: str
    erased: dict[str, int]
    erased_at: datetime


def erase(transport: Transport, *, user_id: str | None, session_id: str | None) -> Erasure:
    """Erase what is kept of a user or of a session. Raises InvalidRequest, Forbidden, NotFound."""
    body = {"user_id": user_id, "session_id": session_id}
    return Erasure.model_validate(transport.request("POST", "/v1/erase", body=body))


async def erase_async(transport: AsyncTransport, *, user_id: str | None, session_id: str | None) -> Erasure:
    """Erase what is kept of a user or of a session, as `erase` does."""
    body = {"user_id": user_id, "session_id": session_id}
    return Erasure.model_validate(await transport.request("POST", "/v1/erase", body=body))


def from_store(part: dict[str, Any]) -> dict[str, Any]:
    """Return the body that says what of a store is to be erased."""
    times = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in part.items()}
    return {key: value for key, value in times.items() if value is not None}


def erase_from_store(transport: Transport, store: str, part: dict[str, Any]) -> Erasure:
    """Erase what a part says of a store. Raises InvalidRequest, Forbidden, NotFound."""
    path = f"/v1/memory_stores/{segment(store)}/erase"
    return Erasure.model_validate(transport.request("POST", path, body=from_store(part)))


async def erase_from_store_async(transport: AsyncTransport, store: str, part: dict[str, Any]) -> Erasure:
    """Erase what a part says of a store, as `erase_from_store` does."""
    path = f"/v1/memory_stores/{segment(store)}/erase"
    return Erasure.model_validate(await transport.request("POST", path, body=from_store(part)))
