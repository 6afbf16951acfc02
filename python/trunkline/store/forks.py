"""Forks: a session that goes on, by itself, from a point of another's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.events import Event
from trunkline.domain.metadata import merged
from trunkline.domain.principal import Principal
from trunkline.domain.sessions import AgentReference, ForkRequest
from trunkline.domain.times import now
from trunkline.errors import InvalidRequest
from trunkline.store import events, repository_tokens, sessions
from trunkline.store.events import EventFilter, NewEvent
from trunkline.store.launches import usable_agent
from trunkline.store.leases import Wake
from trunkline.store.pool import Connection
from trunkline.store.queries import queries

_PAGE: Final = 1000
_SAID: Final = frozenset({"content", "input"})
"""Members of payloads that hold what people and models said: no reference of ours is in them."""
_WORK: Final = frozenset(
    {
        "session.status_running",
        "user.message",
        "user.custom_tool_result",
        "user.tool_result",
        "user.tool_confirmation",
    }
)


async def fork(
    connection: Connection, principal: Principal, session_id: UUID, given: ForkRequest, *, wake: Wake | None
) -> UUID:
    """Make a session of the log up to and with event `at`, and return its id.

    Where that ends within a turn, at a user's message for one, the fork carries the turn out itself. Raises NotFound;
    InvalidRequest when the log is shorter; Conflict when the agent is archived.
    """
    head = await sessions.lock(connection, principal, session_id)
    last = head.last_seq if given.at is None else given.at
    if last > head.last_seq:
        raise InvalidRequest(
            f"The session's last event has the number {head.last_seq}; fork it at that, or before.", param="at"
        )
    origin = await sessions.get(connection, principal, session_id)
    agent = AgentReference(id=ids.encode("agent", origin.agent_id), version=origin.agent_version)
    await usable_agent(connection, principal, agent)
    tenant, forked, at = principal.tenant_id, ids.new(), now()
    title = given.title if "title" in given.model_fields_set else head.title
    metadata = merged(head.metadata, given.metadata)
    await connection.execute(
        queries("sessions")["insert_fork"], (tenant, forked, session_id, last, title, Jsonb(metadata), at)
    )
    await repository_tokens.copy(connection, tenant, session_id, forked)
    if await _copy(connection, principal, session_id, forked, last):
        running = NewEvent(ids.new(), "session.status_running", {}, at)
        await events.append(connection, tenant, forked, last_seq=last, events=[running], at=at, redactor=None)
        await sessions.advance(connection, tenant, forked, last_seq=last + 1, status="running", at=at)
        if wake is not None:
            await wake(connection)
    return forked


async def _copy(connection: Connection, principal: Principal, origin: UUID, forked: UUID, last: int) -> bool:
    """Copy the log; tell whether it ends within a turn. The copies have ids of their own, and refer to each other."""
    anew: dict[str, str] = {}
    seen, works = 0, False
    while seen < last:
        page = await events.page(
            connection, principal, origin, EventFilter(), after=seen, limit=min(_PAGE, last - seen)
        )
        if not page:
            break
        made = [ids.new() for _ in page]
        anew |= {ids.encode("sevt", event.id): ids.encode("sevt", new) for event, new in zip(page, made, strict=True)}
        await connection.execute(
            queries("sessions")["copy_events"],
            (
                principal.tenant_id,
                origin,
                forked,
                [event.seq for event in page],
                made,
                [Jsonb(_referring(event.payload, anew)) for event in page],
            ),
        )
        works = _works(page, works)
        seen = page[-1].seq
    return works


def _works(page: Sequence[Event], works: bool) -> bool:
    for event in page:
        if event.type in _WORK:
            works = True
        elif event.type in ("session.status_idle", "session.status_terminated"):
            works = False
    return works


def _referring(value: Any, anew: Mapping[str, str]) -> Any:
    """Return a payload whose references to events are to their copies."""
    if isinstance(value, str):
        return anew.get(value, value)
    if isinstance(value, list):
        return [_referring(item, anew) for item in value]
    if isinstance(value, dict):
        return {key: item if key in _SAID else _referring(item, anew) for key, item in value.items()}
    return value
