from __future__ import annotations

from datetime import datetime
from typing import Any

from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire


class Session(Wire):
    """A session's head; its events are the session."""

    id: str
    status: str
    title: str | None = None
    agent: dict[str, Any] | None = None
    """At least `id`, `name` and `version`."""
    user_id: str | None = None
    parent_id: str | None = None
    """The session that it was forked from."""
    last_seq: int = 0
    usage: dict[str, Any] | None = None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None


class Event(Wire):
    """One event of a session, in the vocabulary of Managed Agents: `user.message`, `agent.tool_use` and so on."""

    id: str
    type: str
    processed_at: datetime | None = None

    def text(self) -> str:
        """Return the text of its content blocks, one a line; empty for an event without any."""
        content = (self.model_extra or {}).get("content") or []
        return "\n".join(block["text"] for block in content if isinstance(block, dict) and "text" in block)


class Sessions:
    """`client.sessions`: what was said, by whom; scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, agent_id: str | None = None, limit: int | None = None) -> tuple[Session, ...]:
        """Return sessions, newest first, at most `limit`; None is all."""
        found = self._transport.pages("/v1/sessions", params={"agent_id": agent_id}, limit=limit)
        return tuple(Session.model_validate(item) for item in found)

    def get(self, session_id: str) -> Session:
        """Return one session. Raises NotFound."""
        return Session.model_validate(self._transport.request("GET", f"/v1/sessions/{segment(session_id)}"))

    def events(self, session_id: str, *, limit: int | None = None) -> tuple[Event, ...]:
        """Return the session's events, oldest first, at most `limit`; None is all. Raises NotFound."""
        found = self._transport.pages(f"/v1/sessions/{segment(session_id)}/events", limit=limit)
        return tuple(Event.model_validate(item) for item in found)

    def fork(self, session_id: str, *, at: int | None = None, **changes: Any) -> Session:
        """Start a session that goes on from the end of this one, or from its event number `at`.

        `changes` are a `title`, and `metadata` as a patch. Raises NotFound, InvalidRequest.
        """
        path = f"/v1/sessions/{segment(session_id)}/fork"
        return Session.model_validate(self._transport.request("POST", path, body={"at": at, **changes}))


class AsyncSessions:
    """The same for asynchronous programs."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def get(self, session_id: str) -> Session:
        """Return one session. Raises NotFound."""
        return Session.model_validate(await self._transport.request("GET", f"/v1/sessions/{segment(session_id)}"))

    async def fork(self, session_id: str, *, at: int | None = None, **changes: Any) -> Session:
        """Start a session that goes on from another, as `Sessions.fork` does."""
        body = {"at": at, **changes}
        answer = await self._transport.request("POST", f"/v1/sessions/{segment(session_id)}/fork", body=body)
        return Session.model_validate(answer)
