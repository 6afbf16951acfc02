"""Memory versions: one row for each write, never changed but by redaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.memory import Actor, MemoryVersion, StoreOwner, VersionOperation
from trunkline.errors import NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class VersionFilter:
    """Which versions of a store a list holds; None: no limit. `api_key` is a wire id, as it was recorded."""

    memory_id: UUID | None = None
    operation: VersionOperation | None = None
    session_id: UUID | None = None
    api_key: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


async def insert(connection: Connection, tenant_id: UUID, version: MemoryVersion) -> None:
    """Insert a version."""
    await connection.execute(
        queries("memory_versions")["insert_version"],
        (
            tenant_id,
            version.store_id,
            version.id,
            version.memory_id,
            version.version,
            version.operation,
            None if version.operations is None else Jsonb(version.operations),
            version.path,
            version.content,
            version.content_sha256,
            version.content_bytes,
            version.content if version.block else None,
            version.actor.type,
            version.actor.id,
            version.session_id,
            version.event_id,
            version.created_at,
        ),
    )


async def get(connection: Connection, tenant_id: UUID, store_id: UUID, version_id: UUID) -> MemoryVersion:
    """Return a version of a store. Raises NotFound."""
    cursor = await connection.execute(queries("memory_versions")["select_version"], (tenant_id, store_id, version_id))
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(
            f"There is no memory version {ids.encode('memver', version_id)} in {ids.encode('memstore', store_id)}; "
            "list its memory_versions to see those there are."
        )
    return _version(row)


async def page(
    connection: Connection,
    tenant_id: UUID,
    store_id: UUID,
    wanted: VersionFilter,
    *,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[MemoryVersion]:
    """Return up to `limit` versions, newest first, that come after the position `(created_at, id)`."""
    created_at, version_id = after or (None, None)
    cursor = await connection.execute(
        queries("memory_versions")["list_versions"],
        (
            tenant_id,
            store_id,
            created_at,
            version_id,
            wanted.memory_id,
            wanted.operation,
            wanted.session_id,
            wanted.api_key,
            wanted.created_from,
            wanted.created_to,
            limit,
        ),
    )
    return [_version(row) for row in await cursor.fetchall()]


async def history(
    connection: Connection, tenant_id: UUID, store_id: UUID, memory_id: UUID, *, before: int | None, limit: int
) -> list[MemoryVersion]:
    """Return up to `limit` versions of one memory, newest first, older than version `before`."""
    cursor = await connection.execute(
        queries("memory_versions")["history"], (tenant_id, store_id, memory_id, before, limit)
    )
    return [_version(row) for row in await cursor.fetchall()]


async def of_number(
    connection: Connection, tenant_id: UUID, store_id: UUID, memory_id: UUID, number: int
) -> MemoryVersion:
    """Return the version of a memory that has this number. Raises NotFound."""
    cursor = await connection.execute(
        queries("memory_versions")["version_of_number"], (tenant_id, store_id, memory_id, number)
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(
            f"There is no version {number} of {ids.encode('mem', memory_id)}; its history lists those there are."
        )
    return _version(row)


async def latest_number(connection: Connection, tenant_id: UUID, memory_id: UUID) -> int:
    """Return the number of a memory's last version; 0: it has none."""
    cursor = await connection.execute(queries("memory_versions")["latest_number"], (tenant_id, memory_id))
    row = await cursor.fetchone()
    return 0 if row is None else int(row["number"])


async def blocks_as_of(
    connection: Connection, tenant_id: UUID, wanted: Sequence[tuple[StoreOwner, str]], moment: datetime
) -> dict[str, MemoryVersion]:
    """Return the versions at which blocks, by owner and name, stood at a moment; by name."""
    cursor = await connection.execute(
        queries("memory_versions")["blocks_as_of"],
        (tenant_id, [owner.key for owner, _ in wanted], [name for _, name in wanted], moment),
    )
    return {row.pop("name"): _version(row) for row in await cursor.fetchall()}


async def redact(
    connection: Connection, tenant_id: UUID, store_id: UUID, version_id: UUID, *, by: str, at: datetime
) -> MemoryVersion:
    """Empty a version and return it. `by` is the wire id of the key that asked. Raises NotFound."""
    await connection.execute(queries("memory_versions")["redact_version"], (tenant_id, store_id, version_id, at, by))
    return await get(connection, tenant_id, store_id, version_id)


def _version(row: dict[str, Any]) -> MemoryVersion:
    actor = Actor(row.pop("actor_type"), row.pop("actor_id"))
    return MemoryVersion(**row, actor=actor)
