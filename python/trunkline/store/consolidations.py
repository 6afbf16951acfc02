"""How far sessions are consolidated, and the runs that are under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Json

from trunkline.domain.events import Event
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class Claimed:
    """A session that a worker has taken, locked. `run…` are null while no run of it is under way."""

    agent_id: UUID
    done_seq: int
    failures: int
    run_id: UUID | None
    run_to_seq: int | None
    run_day: date | None
    run_tokens: int | None
    run: Mapping[str, Any] | None
    user_id: str | None
    key_id: UUID | None
    consolidate: Mapping[str, Any] | None
    """As `Consolidation.to_json`; None: not any more."""
    stores: Sequence[Mapping[str, Any]] | None
    tools: Sequence[str] | None
    """What the key grants in whose name the session works."""


async def claim(connection: Connection, worker: str, *, limit: int, seconds: int) -> list[tuple[UUID, UUID]]:
    """Take sessions, (tenant, session), of any tenant that are due; others leave them alone for so many seconds."""
    cursor = await connection.execute(queries("consolidations")["claim"], (worker, limit, seconds))
    return [(row["tenant_id"], row["session_id"]) for row in await cursor.fetchall()]


async def lock(connection: Connection, tenant_id: UUID, session_id: UUID, worker: str) -> Claimed | None:
    """Return a session that this worker has claimed, locked until the transaction ends; None: it has it no more."""
    await connection.execute(queries("consolidations")["lock_session"], (tenant_id, session_id))
    cursor = await connection.execute(queries("consolidations")["lock"], (tenant_id, session_id, worker))
    row = await cursor.fetchone()
    return None if row is None else Claimed(**row)


async def said(connection: Connection, tenant_id: UUID, session_id: UUID, *, after: int, limit: int) -> list[Event]:
    """Return what user and agent said after an event, oldest first."""
    cursor = await connection.execute(queries("consolidations")["select_said"], (tenant_id, session_id, after, limit))
    return [Event(**row) for row in await cursor.fetchall()]


async def draw(connection: Connection, tenant_id: UUID, agent_id: UUID, day: date, tokens: int, *, most: int) -> bool:
    """Draw tokens on an agent's day, of at most so many; tells whether they were left."""
    cursor = await connection.execute(queries("consolidations")["draw"], (tenant_id, agent_id, day, tokens, most))
    return await cursor.fetchone() is not None


async def settle(connection: Connection, tenant_id: UUID, claimed: Claimed, used: int) -> None:
    """Count what a run has used, instead of what was drawn for it."""
    if claimed.run_day is not None and claimed.run_tokens is not None:
        left = claimed.run_tokens - used
        await connection.execute(
            queries("consolidations")["settle"], (tenant_id, claimed.agent_id, claimed.run_day, left)
        )


async def begin(
    connection: Connection,
    tenant_id: UUID,
    session_id: UUID,
    run_id: UUID,
    *,
    to_seq: int,
    day: date,
    tokens: int,
    run: Mapping[str, Any],
) -> None:
    """Note what a model is about to be asked, about a session that `lock` returned."""
    await connection.execute(
        queries("consolidations")["begin_run"], (tenant_id, session_id, run_id, to_seq, day, tokens, Json(dict(run)))
    )


async def finish(
    connection: Connection, tenant_id: UUID, session_id: UUID, *, done_seq: int, more: bool, idle_seconds: int
) -> None:
    """Let a session go that is done up to an event; with `more`, it is due again at once if anything follows."""
    await connection.execute(queries("consolidations")["finish"], (tenant_id, session_id, done_seq, more, idle_seconds))


async def put_off(
    connection: Connection, tenant_id: UUID, session_id: UUID, *, until: datetime | None, error: str, failures: int
) -> None:
    """Let a session go until a moment, None: until something is said in it, with what was under way given up."""
    await connection.execute(queries("consolidations")["put_off"], (tenant_id, session_id, until, error, failures))
