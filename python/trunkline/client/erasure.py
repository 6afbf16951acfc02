from __future__ import annotations

from datetime import datetime

from trunkline.client.transport import Transport
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
