"""Bodies of a model call: what it asked and what it was answered, where the settings have them stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain import times as clock


@dataclass(frozen=True, slots=True)
class CallBodies:
    """What is stored of a call.

    `request` and `response` are `{text or base64, bytes, truncated}`, `bytes` the length of the whole; None: it was not
    held, there was none, or it was redacted. Of a stream the response is what it came to: `{text, tool_calls}` as JSON.
    """

    call_id: UUID
    created_at: datetime
    key_id: UUID
    agent_id: UUID | None
    session_id: UUID | None
    request: Mapping[str, Any] | None
    response: Mapping[str, Any] | None
    expires_at: datetime
    redacted_at: datetime | None
    redacted_by: UUID | None


def to_wire(bodies: CallBodies) -> dict[str, Any]:
    """Return them as the API shows them."""
    return {
        "call_id": ids.encode("call", bodies.call_id),
        "created_at": clock.to_wire(bodies.created_at),
        "key_id": ids.encode("key", bodies.key_id),
        "agent_id": bodies.agent_id and ids.encode("agent", bodies.agent_id),
        "session_id": bodies.session_id and ids.encode("sesn", bodies.session_id),
        "request": bodies.request,
        "response": bodies.response,
        "expires_at": clock.to_wire(bodies.expires_at),
        "redacted_at": clock.to_wire(bodies.redacted_at),
        "redacted_by": bodies.redacted_by and ids.encode("key", bodies.redacted_by),
    }
