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


@dataclass(frozen=True, slots=True)
class StorePart:
    """What of a store is meant: memories below `path_prefix`, which ends in a slash; else passages, of a session.

    Either of a time, from `since` on and before `before`; or `everything`.
    """

    path_prefix: str | None = None
    session_id: UUID | None = None
    since: datetime | None = None
    before: datetime | None = None
    everything: bool = False


async def erase_from_store(
    connection: Connection, principal: Principal, store_id: UUID, part: StorePart, at: datetime
) -> Erasure:
    """Erase part of a store in the connection's transaction. Raises NotFound."""
    erasure_id = ids.new()
    cursor = await connection.execute(
        queries("erasures")["erase_from_store"],
        (
            store_id,
            part.path_prefix,
            part.session_id,
            part.since,
            part.before,
            part.everything,
            principal.agent_id,
            principal.key_id,
            erasure_id,
            at,
        ),
    )
    row = await cursor.fetchone()
    if row is None or row["erased"] is None:
        raise NotFound(
            f"There is no memory store {ids.encode('memstore', store_id)}; GET /v1/memory_stores lists those there are."
        )
    return Erasure(erasure_id, "store", principal.agent_id, principal.key_id, row["erased"], at)


async def page(
    connection: Connection,
    principal: Principal,
    subject: Subject,
    after: tuple[datetime, UUID] | None,
    limit: int,
    *,
    store_id: UUID | None = None,
) -> list[Erasure]:
    """Return up to `limit` erasures, newest first, after a position; of `subject` or of a store, if named."""
    erased_at, erasure_id = after or (None, None)
    kind, whose = "store", None if store_id is None else str(store_id)
    if subject.user_id is not None:
        kind, whose = "user", subject.user_id
    elif subject.session_id is not None:
        kind, whose = "session", str(subject.session_id)
    cursor = await connection.execute(
        queries("erasures")["list_erasures"],
        (principal.tenant_id, principal.agent_id, erased_at, erasure_id, whose and kind, whose, limit),
    )
    return [Erasure(**row) for row in await cursor.fetchall()]
