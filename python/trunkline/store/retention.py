"""For how long a tenant keeps sessions and their events, and deleting what is past that."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from trunkline.domain.retention import Retention
from trunkline.store.pool import Connection
from trunkline.store.queries import queries

Position = tuple[datetime, UUID]
"""Of a session among its tenant's: when it was made, and its id."""


async def read(connection: Connection, tenant_id: UUID) -> Retention:
    """Return for how long a tenant keeps what its agents do not keep for less."""
    cursor = await connection.execute(queries("retention")["select_retention"], (tenant_id,))
    row = await cursor.fetchone()
    return Retention() if row is None else Retention(**row)


async def write(connection: Connection, tenant_id: UUID, retention: Retention, at: datetime) -> None:
    """Say for how long a tenant keeps sessions and events."""
    await connection.execute(
        queries("retention")["write_retention"], (tenant_id, retention.sessions, retention.events, at)
    )


async def tenants(connection: Connection) -> list[UUID]:
    """Return all tenants that keep something for a time only."""
    cursor = await connection.execute(queries("retention")["retaining_tenants"])
    return [row["id"] for row in await cursor.fetchall()]


async def expire(connection: Connection, tenant_id: UUID, after: Position | None, limit: int) -> Position | None:
    """Look at up to `limit` sessions after a position, and delete up to so many rows of what is past its time.

    Returns where to go on from, None when there are no more sessions.
    """
    created_at, session_id = after or (None, None)
    cursor = await connection.execute(
        queries("retention")["expire_sessions"], (tenant_id, created_at, session_id, limit)
    )
    row = await cursor.fetchone()
    return None if row is None or row["id"] is None else (row["created_at"], row["id"])


async def drop_empty_events(connection: Connection) -> None:
    """Drop the partitions of months of which no event is left, before last month's."""
    await connection.execute(queries("retention")["drop_empty_events"])
