"""Conversations: items added to a session's log, and taken out of it, so that the gateway goes on from what is left."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.conversations import ItemRequest, Said, chains
from trunkline.domain.events import Event
from trunkline.domain.principal import Principal
from trunkline.domain.redaction import Redactor, redactor
from trunkline.domain.times import now
from trunkline.errors import Conflict, NotFound
from trunkline.store import events, sessions
from trunkline.store.events import NewEvent
from trunkline.store.pool import Connection
from trunkline.store.queries import queries
from trunkline.store.sessions import Head


async def add(
    connection: Connection, principal: Principal, session_id: UUID, items: Sequence[ItemRequest]
) -> list[Event]:
    """Append items and return them. Raises NotFound; Conflict where the session works, or cannot be added to."""
    tenant = principal.tenant_id
    head = await _idle(connection, principal, session_id)
    at = now()
    new = [NewEvent(ids.new(), item.root.event_type, item.root.payload, at) for item in items]
    added = await events.append(
        connection, tenant, session_id, last_seq=head.last_seq, events=new, at=at, redactor=redactor(head.redact)
    )
    await sessions.advance(connection, tenant, session_id, last_seq=added[-1].seq, status="idle", at=at)
    await _chain(connection, tenant, session_id, known_up_to=head.last_seq, redactor=redactor(head.redact))
    return added


async def remove(connection: Connection, principal: Principal, session_id: UUID, event_id: UUID) -> None:
    """Delete an item, and what recall kept of it. Raises NotFound, Conflict."""
    tenant = principal.tenant_id
    head = await _idle(connection, principal, session_id)
    item = await find(connection, principal, session_id, event_id)
    for statement in ("delete_event", "delete_passage"):
        await connection.execute(queries("conversations")[statement], (tenant, session_id, event_id))
    await _chain(connection, tenant, session_id, known_up_to=item.seq, redactor=redactor(head.redact))


async def find(connection: Connection, principal: Principal, session_id: UUID, event_id: UUID) -> Event:
    """Return an item. Raises NotFound."""
    await sessions.head(connection, principal, session_id)
    cursor = await connection.execute(
        queries("conversations")["select_item"], (principal.tenant_id, session_id, event_id)
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFound("There is no such item in this conversation.", code="item_not_found")
    return Event(**row)


async def _idle(connection: Connection, principal: Principal, session_id: UUID) -> Head:
    """Lock a session and return its head. Raises NotFound; Conflict where it works or has ended."""
    head = await sessions.lock(connection, principal, session_id)
    if head.archived_at is not None or head.status != "idle":
        state = "archived" if head.archived_at is not None else head.status
        raise Conflict(f"The conversation's session is {state}; its items cannot be changed.", code=state)
    return head


async def _chain(
    connection: Connection, tenant: UUID, session_id: UUID, *, known_up_to: int, redactor: Redactor | None
) -> None:
    cursor = await connection.execute(queries("conversations")["select_said"], (tenant, session_id))
    log = [Said(**row) for row in await cursor.fetchall()]
    found = chains(log, known_up_to=known_up_to, redactor=redactor)
    if found is None:
        raise Conflict(
            "The conversation has tool calls or other parts that it was not said with in text, after which its items "
            "cannot be changed; go on with it by a response, or begin another.",
            code="not_text",
        )
    await connection.execute(
        queries("conversations")["update_chains"], (tenant, session_id, [said.seq for said in log], found)
    )
    last = found[-1] if found else None
    await connection.execute(queries("conversations")["update_head_chain"], (tenant, session_id, last))
