"""Events: a session is the list of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.events import Event, EventRequest, check_order
from trunkline.domain.principal import Principal
from trunkline.domain.redaction import Redactor, redactor
from trunkline.domain.times import now
from trunkline.errors import Conflict, InvalidRequest, NotFound
from trunkline.store import sessions
from trunkline.store.leases import Wake
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event about to be appended; `processed_at` None: it waits for the agent."""

    id: UUID
    type: str
    payload: Mapping[str, Any]
    processed_at: datetime | None


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a list holds; None: no limit. Times are those of `processed_at`, or of `created_at` before that."""

    types: tuple[str, ...] | None = None
    created_after: datetime | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    created_to: datetime | None = None


async def append(
    connection: Connection,
    tenant_id: UUID,
    session_id: UUID,
    *,
    last_seq: int,
    events: Sequence[NewEvent],
    at: datetime,
    redactor: Redactor | None,
) -> list[Event]:
    """Append events after number `last_seq`, which `sessions.lock` returned, and return them as they are kept.

    The caller moves the session's head past them (`sessions.advance`) in the same transaction.
    """
    if redactor is not None:
        events = [replace(event, payload=redactor.event(event.payload)) for event in events]
    await connection.execute(
        queries("events")["insert_events"],
        (
            tenant_id,
            session_id,
            last_seq,
            [event.id for event in events],
            [event.type for event in events],
            [Jsonb(event.payload) for event in events],
            [event.processed_at for event in events],
            at,
        ),
    )
    return [
        Event(event.id, last_seq + nth, event.type, event.payload, at, event.processed_at)
        for nth, event in enumerate(events, start=1)
    ]


async def send(
    connection: Connection,
    principal: Principal,
    session_id: UUID,
    sent: Sequence[EventRequest],
    *,
    wake: Wake | None,
) -> list[Event]:
    """Append what a client sent, and `session.status_running` where that sets an idle session to work.

    The session works in the name of this key from now on. Returns the events that were sent. Raises NotFound; Conflict
    when the session has ended or a tool call has its answer already; InvalidRequest when an event answers a tool call
    that is not there.
    """
    check_order(sent)
    head = await sessions.lock(connection, principal, session_id)
    if head.archived_at is not None or head.status == "terminated":
        state = "archived" if head.archived_at is not None else "terminated"
        raise Conflict(
            f"The session is {state} and takes no more events; create another.",
            code=state,
            details={"status": head.status},
        )
    await _check_answers(connection, principal.tenant_id, session_id, sent)
    at = now()
    new = [NewEvent(ids.new(), event.type, event.payload, None) for event in sent]
    status = head.status
    if status == "idle" and not any(event.starts_work for event in sent):  # there is nothing to interrupt
        new = [replace(event, processed_at=at) for event in new]
    elif status == "idle":
        status = "running"
        new.append(NewEvent(ids.new(), "session.status_running", {}, at))
    appended = await append(
        connection,
        principal.tenant_id,
        session_id,
        last_seq=head.last_seq,
        events=new,
        at=at,
        redactor=redactor(head.redact),
    )
    await sessions.advance(
        connection, principal.tenant_id, session_id, last_seq=appended[-1].seq, status=status, at=at, by=principal
    )
    if wake is not None and status == "running":
        await wake(connection)
    return appended[: len(sent)]


async def stopped_for_a_limit(connection: Connection, tenant_id: UUID, session_id: UUID) -> bool:
    """Tell whether a session was last idle because a limit of it was reached."""
    cursor = await connection.execute(queries("events")["select_last_stop"], (tenant_id, session_id))
    row = await cursor.fetchone()
    return row is not None and row["reason"] == "budget_reached"


async def _check_answers(connection: Connection, tenant: UUID, session_id: UUID, sent: Sequence[EventRequest]) -> None:
    """Raise unless every result or confirmation belongs to a tool call of this session that has none yet."""
    asked: dict[tuple[str, str], int] = {}
    for index, event in enumerate(sent):
        if event.answers is None:
            continue
        if (event.type, event.answers[0]) in asked:
            raise _answered(event.answers[0], index)
        asked[event.type, event.answers[0]] = index
    if not asked:
        return
    uses: dict[str, UUID] = {}
    for (_, use), index in asked.items():
        try:
            uses[use] = ids.decode("sevt", use)
        except NotFound as error:
            raise InvalidRequest(error.message, param=f"events[{index}]") from error
    there = await types(connection, tenant, session_id, list(uses.values()))
    for (kind, use), index in asked.items():
        found = there.get(uses[use])
        answers = sent[index].answers
        if answers is None or found is None or found[0] not in answers[1]:
            expected = " or ".join(answers[1] if answers else ())
            raise InvalidRequest(
                f"`events[{index}]` answers {use}, and this session has no {expected} of that id.",
                param=f"events[{index}]",
            )
        if await answered(connection, tenant, session_id, kind, [use]):
            raise _answered(use, index)


def _answered(use: str, index: int) -> Conflict:
    return Conflict(f"The tool call {use} has its answer already.", param=f"events[{index}]", code="already_answered")


async def page(
    connection: Connection,
    principal: Principal,
    session_id: UUID,
    wanted: EventFilter,
    *,
    after: int | None,
    limit: int,
    newest_first: bool = False,
) -> list[Event]:
    """Return up to `limit` events of a session in the order of their numbers, from beyond the number `after`.

    None come of a session that is not there, or not for this key: `sessions.head` tells that from one without events.
    """
    cursor = await connection.execute(
        queries("events")["list_newest" if newest_first else "list_oldest"],
        (
            principal.tenant_id,
            session_id,
            after,
            None if wanted.types is None else list(wanted.types),
            wanted.created_after,
            wanted.created_from,
            wanted.created_before,
            wanted.created_to,
            principal.agent_id,
            limit,
        ),
    )
    return [Event(**row) for row in await cursor.fetchall()]


async def types(
    connection: Connection, tenant_id: UUID, session_id: UUID, event_ids: Sequence[UUID]
) -> dict[UUID, tuple[str, int]]:
    """Return type and number of those of a session's events that have these ids."""
    cursor = await connection.execute(queries("events")["select_types"], (tenant_id, session_id, list(event_ids)))
    return {row["id"]: (row["type"], row["seq"]) for row in await cursor.fetchall()}


async def answered(
    connection: Connection, tenant_id: UUID, session_id: UUID, answer_type: str, uses: Sequence[str]
) -> set[str]:
    """Return those of these tool calls, by wire id, that have an answer of this type already."""
    cursor = await connection.execute(
        queries("events")["select_answered"], (tenant_id, session_id, answer_type, list(uses))
    )
    return {row["answered"] for row in await cursor.fetchall()}
