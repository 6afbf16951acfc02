"""Writing what a file holds into a store. Rows are dictionaries by column, ids and times as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from trunkline.errors import Unavailable
from trunkline.store.pool import Connection
from trunkline.store.queries import queries

Row = dict[str, Any]


async def paths(connection: Connection, tenant_id: UUID, store_id: UUID) -> dict[str, UUID]:
    """Return the memories of a store by their paths."""
    cursor = await connection.execute(queries("imports")["select_paths"], (tenant_id, store_id))
    return {row["path"]: row["id"] for row in await cursor.fetchall()}


async def foreign(
    connection: Connection, tenant_id: UUID, store_id: UUID, memories: Sequence[str], versions: Sequence[str]
) -> set[str]:
    """Return those of these ids that another store of the tenant has."""
    parameters = (tenant_id, store_id, list(memories), list(versions))
    cursor = await connection.execute(queries("imports")["select_foreign"], parameters)
    return {str(row["id"]) for row in await cursor.fetchall()}


async def versions(connection: Connection, tenant_id: UUID, store_id: UUID, given: Sequence[Row]) -> list[Row]:
    """Return what the store has under the ids of these versions, and under their memories and numbers."""
    found = (
        [row["id"] for row in given],
        [row["memory_id"] for row in given],
        [row["version"] for row in given],
    )
    cursor = await connection.execute(queries("imports")["select_versions"], (tenant_id, store_id, *found))
    return list(await cursor.fetchall())


async def add(connection: Connection, tenant_id: UUID, store_id: UUID, kind: str, rows: Sequence[Row]) -> None:
    """Insert `versions`, `memories` or `passages` that are not there. Raises Unavailable where others do so too."""
    if rows:
        try:
            await connection.execute(queries("imports")[f"insert_{kind}"], (tenant_id, store_id, Jsonb(list(rows))))
        except psycopg.errors.UniqueViolation as error:
            raise Unavailable("The store is being written by others; import the file again.") from error


async def lock_memories(
    connection: Connection, tenant_id: UUID, store_id: UUID, memory_ids: Sequence[str]
) -> dict[str, Row]:
    """Return those of these memories that are there, by id, locked."""
    cursor = await connection.execute(queries("imports")["lock_memories"], (tenant_id, store_id, list(memory_ids)))
    return {str(row["id"]): row for row in await cursor.fetchall()}


async def last_versions(
    connection: Connection, tenant_id: UUID, store_id: UUID, memory_ids: Sequence[str]
) -> dict[str, int]:
    """Return the number of each memory's last version."""
    cursor = await connection.execute(queries("imports")["last_versions"], (tenant_id, store_id, list(memory_ids)))
    return {str(row["memory_id"]): row["version"] for row in await cursor.fetchall()}


async def passages(
    connection: Connection, tenant_id: UUID, store_id: UUID, passage_ids: Sequence[str]
) -> dict[str, str]:
    """Return the texts of those of these passages that are there, by id."""
    cursor = await connection.execute(queries("imports")["select_passages"], (tenant_id, store_id, list(passage_ids)))
    return {str(row["id"]): row["content"] for row in await cursor.fetchall()}
