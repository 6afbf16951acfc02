"""The audit log, as the tables wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from trunkline.domain.audit import AuditEntry
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries a list holds; None: no limit. `until` is not part of it."""

    resource_type: str | None = None
    resource_id: str | None = None
    key_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


async def page(
    connection: Connection, tenant_id: UUID, wanted: AuditFilter, before: tuple[datetime, UUID] | None, limit: int
) -> list[AuditEntry]:
    """Return up to `limit` entries, newest first, from before the position `(created_at, id)`."""
    created_at, entry_id = before or (None, None)
    cursor = await connection.execute(
        queries("audit")["list_entries"],
        (
            tenant_id,
            created_at,
            entry_id,
            wanted.resource_type,
            wanted.resource_id,
            wanted.key_id,
            wanted.since,
            wanted.until,
            limit,
        ),
    )
    return [_entry(row) for row in await cursor.fetchall()]


async def digest_of_user(connection: Connection, tenant_id: UUID, user_id: str) -> str:
    """Return what stands for an end user in the log."""
    cursor = await connection.execute(queries("audit")["digest_of_user"], (tenant_id, user_id))
    row = await cursor.fetchone()
    if row is None:
        raise RuntimeError("a function returned no row")
    return str(row["digest"])


async def forget(connection: Connection, days: int) -> None:
    """Delete what is older than so many days, of all tenants."""
    await connection.execute(queries("audit")["forget"], (days,))


def _entry(row: dict[str, Any]) -> AuditEntry:
    return AuditEntry(**{**row, "changed": tuple(row["changed"])})
