"""Erasing what is kept of a user or a session, and the notes of what was erased."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.memory import Subject
from trunkline.domain.principal import Principal
from trunkline.errors import NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class Erasure:
    """A note of what was erased, without whose it was: `erased` counts rows by kind."""

    id: UUID
    kind: str
    agent_id: UUID | None
    key_id: UUID
    erased: Mapping[str, int]
    erased_at: datetime


async def erase(connection: Connection, principal: Principal, subject: Subject, at: datetime) -> Erasure:
    """Erase what is kept of a user or of a session, whichever `subject` names, in the connection's transaction.

    With a key of one agent, only what is that agent's. Raises NotFound for a session that is not there.
    """
    erasure_id = ids.new()
    cursor = await connection.execute(
        queries("erasures")["erase"],
        (subject.user_id, subject.session_id, principal.agent_id, principal.key_id, erasure_id, at),
    )
    row = await cursor.fetchone()
    if row is None or row["erased"] is None:
        named = "" if subject.session_id is None else f" {ids.encode('sesn', subject.session_id)}"
        raise NotFound(f"There is no session{named}; GET /v1/sessions lists those there are.")
    kind = "session" if subject.user_id is None else "user"
    return Erasure(erasure_id, kind, principal.agent_id, principal.key_id, row["erased"], at)


async def page(
    connection: Connection,
    principal: Principal,
    subject: Subject,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[Erasure]:
    """Return up to `limit` erasures, newest first, after a position; only those of `subject` if it names somebody."""
    erased_at, erasure_id = after or (None, None)
    kind = "user" if subject.user_id is not None else None if subject.session_id is None else "session"
    whose = subject.user_id if subject.session_id is None else str(subject.session_id)
    cursor = await connection.execute(
        queries("erasures")["list_erasures"],
        (principal.tenant_id, principal.agent_id, erased_at, erasure_id, kind, whose, limit),
    )
    return [Erasure(**row) for row in await cursor.fetchall()]
