from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trunkline.client.event_stream import Event, events, events_async
from trunkline.client.session_resources import AsyncSessionResources, SessionResources
from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire, given


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
    """The number of its last event."""
    usage: dict[str, Any] | None = None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None


@dataclass(frozen=True)
class Turn:
    """What the agent did upon a message, until it stopped."""

    events: tuple[Event, ...]

    @property
    def text(self) -> str:
        """What it said, its messages one after the other."""
        return "\n".join(event.text() for event in self.events if event.type == "agent.message")

    @property
    def stop_reason(self) -> dict[str, Any]:
        """Why it stopped: `end_turn`, `retries_exhausted`, `budget_reached` with the `limit`, or `requires_action`.

        The last has the `event_ids` that wait.
        """
        return self.events[-1].stop_reason if self.events else {}


_ENDS = ("session.status_idle", "session.status_terminated", "session.deleted")


def message(text: str) -> dict[str, Any]:
    """Return the event by which a user says something."""
    return {"type": "user.message", "content": [{"type": "text", "text": text}]}


def _new(
    agent: str, user_id: str | None, title: str | None, metadata: Mapping[str, str] | None, more: Mapping[str, Any]
) -> dict[str, Any]:
    return given(agent=agent, user_id=user_id, title=title, metadata=metadata, **more)


def _path(session_id: str, *more: str) -> str:
    return "/".join(["/v1/sessions", segment(session_id), *more])


class SessionContext(Wire):
    """The prompt that a session's next turn would see."""

    session_id: str
    user_id: str | None = None
    asks_model: bool
    """Whether something waits for the model; if not, what is said next comes behind what is shown."""
    request: dict[str, Any]
    """The body that the provider would be sent."""
    memory: dict[str, Any] | None = None
    """What of it is memory: `state`, `blocks`, `updates`, `recall`, `recalled_by`."""
    upstream: dict[str, Any] | None = None
    """Where it would go: `provider`, `model`, `wire`, and what was `dropped`."""
    compaction: dict[str, Any] | None = None
    """The event that it begins with, `kept_from_seq`; whether it `is_due` or past; and of a `summary` the same."""
    tools_of_worker: list[dict[str, Any]]
    """Sets of tools that are not in it, because only the worker can describe them."""


class Sessions:
    """`client.sessions`: scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.resources = SessionResources(transport)

    def create(
        self,
        agent: str,
        *,
        user_id: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Session:
        """Start a session with an agent, by its name or id; `more` as `POST /v1/sessions` has it. Raises NotFound."""
        body = _new(agent, user_id, title, metadata, more)
        return Session.model_validate(self._transport.request("POST", "/v1/sessions", body=body, once=True))

    def list(self, *, agent_id: str | None = None, limit: int | None = None) -> tuple[Session, ...]:
        """Return sessions, newest first, at most `limit`; None is all."""
        found = self._transport.pages("/v1/sessions", params={"agent_id": agent_id}, limit=limit)
        return tuple(Session.model_validate(item) for item in found)

    def get(self, session_id: str) -> Session:
        """Return one session. Raises NotFound."""
        return Session.model_validate(self._transport.request("GET", _path(session_id)))

    def update(self, session_id: str, **change: Any) -> Session:
        """Change the `title`, the `budget`, or `metadata` and `limits` key by key; None takes away. Raises NotFound."""
        return Session.model_validate(self._transport.request("POST", _path(session_id), body=change, once=True))

    def context(self, session_id: str) -> SessionContext:
        """Return the prompt that the next turn would see; no model is asked. Scope `memory` too. Raises NotFound."""
        return SessionContext.model_validate(self._transport.request("GET", _path(session_id, "context")))

    def fork(self, session_id: str, *, at: int | None = None, **changes: Any) -> Session:
        """Start a session that goes on from the end of this one, or from its event number `at`.

        `changes` are a `title`, and `metadata` as a patch. Raises NotFound, InvalidRequest.
        """
        body = {"at": at, **changes}
        answer = self._transport.request("POST", _path(session_id, "fork"), body=body, once=True)
        return Session.model_validate(answer)

    def archive(self, session_id: str) -> Session:
        """Archive a session: it takes no more events. Raises NotFound."""
        return Session.model_validate(self._transport.request("POST", _path(session_id, "archive")))

    def delete(self, session_id: str) -> None:
        """Delete a session with its events and the memory that is its own. Raises NotFound."""
        self._transport.request("DELETE", _path(session_id))

    def events(self, session_id: str, *, limit: int | None = None) -> tuple[Event, ...]:
        """Return the session's events, oldest first, at most `limit`; None is all. Raises NotFound."""
        found = self._transport.pages(_path(session_id, "events"), limit=limit)
        return tuple(Event.model_validate(item) for item in found)

    def send(self, session_id: str, *sent: Mapping[str, Any]) -> tuple[Event, ...]:
        """Append events, all or none, and return them with their ids. Raises NotFound, Conflict, InvalidRequest."""
        body = {"events": [dict(event) for event in sent]}
        answer = self._transport.request("POST", _path(session_id, "events"), body=body, once=True)
        return tuple(Event.model_validate(event) for event in answer["data"])

    def stream(self, session_id: str, *, after: int | None = None) -> Iterator[Event]:
        """Yield events as they come, from now on or from the one after number `after`, until the session is deleted.

        A stream that breaks goes on where it was. Raises NotFound, and Unavailable where it cannot be opened again.
        """
        begin = self.get(session_id).last_seq if after is None else after
        yield from events(self._transport, _path(session_id, "events", "stream"), begin)

    def say(self, session_id: str, text: str) -> Turn:
        """Say something as the user and wait until the agent has stopped. Raises NotFound and Conflict."""
        return self.send_and_wait(session_id, message(text))

    def send_and_wait(self, session_id: str, *sent: Mapping[str, Any]) -> Turn:
        """Send events that give the agent something to do, and wait until it has stopped."""
        last = self.send(session_id, *sent)[-1]
        found: list[Event] = []
        for event in self.stream(session_id, after=last.seq):
            found.append(event)
            if event.type in _ENDS:
                break
        return Turn(tuple(found))


class AsyncSessions:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self.resources = AsyncSessionResources(transport)

    async def create(
        self,
        agent: str,
        *,
        user_id: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Session:
        """Start a session with an agent, as `Sessions.create` does."""
        body = _new(agent, user_id, title, metadata, more)
        return Session.model_validate(await self._transport.request("POST", "/v1/sessions", body=body, once=True))

    async def list(self, *, agent_id: str | None = None, limit: int | None = None) -> tuple[Session, ...]:
        """Return sessions, newest first, at most `limit`; None is all."""
        found = self._transport.pages("/v1/sessions", params={"agent_id": agent_id}, limit=limit)
        return tuple([Session.model_validate(item) async for item in found])

    async def get(self, session_id: str) -> Session:
        """Return one session. Raises NotFound."""
        return Session.model_validate(await self._transport.request("GET", _path(session_id)))

    async def update(self, session_id: str, **change: Any) -> Session:
        """Change the `title`, the `budget`, or `metadata` and `limits` key by key; None takes away. Raises NotFound."""
        return Session.model_validate(await self._transport.request("POST", _path(session_id), body=change, once=True))

    async def context(self, session_id: str) -> SessionContext:
        """Return the prompt that the next turn would see, as `Sessions.context` does."""
        found = await self._transport.request("GET", _path(session_id, "context"))
        return SessionContext.model_validate(found)

    async def fork(self, session_id: str, *, at: int | None = None, **changes: Any) -> Session:
        """Start a session that goes on from the end of this one, or from its event number `at`.

        `changes` are a `title`, and `metadata` as a patch. Raises NotFound, InvalidRequest.
        """
        body = {"at": at, **changes}
        answer = await self._transport.request("POST", _path(session_id, "fork"), body=body, once=True)
        return Session.model_validate(answer)

    async def archive(self, session_id: str) -> Session:
        """Archive a session: it takes no more events. Raises NotFound."""
        return Session.model_validate(await self._transport.request("POST", _path(session_id, "archive")))

    async def delete(self, session_id: str) -> None:
        """Delete a session with its events and the memory that is its own. Raises NotFound."""
        await self._transport.request("DELETE", _path(session_id))

    async def events(self, session_id: str, *, limit: int | None = None) -> tuple[Event, ...]:
        """Return the session's events, oldest first, at most `limit`; None is all. Raises NotFound."""
        found = self._transport.pages(_path(session_id, "events"), limit=limit)
        return tuple([Event.model_validate(item) async for item in found])

    async def send(self, session_id: str, *sent: Mapping[str, Any]) -> tuple[Event, ...]:
        """Append events, all or none, and return them with their ids. Raises NotFound, Conflict, InvalidRequest."""
        body = {"events": [dict(event) for event in sent]}
        answer = await self._transport.request("POST", _path(session_id, "events"), body=body, once=True)
        return tuple(Event.model_validate(event) for event in answer["data"])

    async def stream(self, session_id: str, *, after: int | None = None) -> AsyncIterator[Event]:
        """Yield events as they come, as `Sessions.stream` does."""
        begin = (await self.get(session_id)).last_seq if after is None else after
        async for event in events_async(self._transport, _path(session_id, "events", "stream"), begin):
            yield event

    async def say(self, session_id: str, text: str) -> Turn:
        """Say something as the user and wait until the agent has stopped. Raises NotFound and Conflict."""
        return await self.send_and_wait(session_id, message(text))

    async def send_and_wait(self, session_id: str, *sent: Mapping[str, Any]) -> Turn:
        """Send events that give the agent something to do, and wait until it has stopped."""
        last = (await self.send(session_id, *sent))[-1]
        found: list[Event] = []
        async for event in self.stream(session_id, after=last.seq):
            found.append(event)
            if event.type in _ENDS:
                break
        return Turn(tuple(found))
