"""Memories: the current state at each path of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.memory import Memory, MemoryPathConflict, StoreOwner
from trunkline.errors import NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


async def get(connection: Connection, tenant_id: UUID, store_id: UUID, memory_id: UUID) -> Memory:
    """Return a memory of a store. Raises NotFound."""
    return await _one(connection, tenant_id, store_id, memory_id, "select_memory")


async def lock(connection: Connection, tenant_id: UUID, store_id: UUID, memory_id: UUID) -> Memory:
    """Return a memory of a store, locked against other writers until the transaction ends. Raises NotFound."""
    return await _one(connection, tenant_id, store_id, memory_id, "lock_memory")


async def lock_path(connection: Connection, tenant_id: UUID, store_id: UUID, path: str) -> Memory | None:
    """Return the memory at a path, locked against other writers until the transaction ends; None when there is none."""
    cursor = await connection.execute(queries("memories")["lock_path"], (tenant_id, store_id, path))
    row = await cursor.fetchone()
    return None if row is None else Memory(**row)


async def insert(connection: Connection, tenant_id: UUID, memory: Memory) -> bool:
    """Insert a memory at version 1. Returns False, and writes nothing, when its path is taken."""
    cursor = await connection.execute(
        queries("memories")["insert_memory"],
        (
            tenant_id,
            memory.store_id,
            memory.id,
            memory.path,
            memory.content,
            memory.content_sha256,
            memory.content_bytes,
            memory.block,
            _json(memory.states),
            memory.rendered,
            memory.rendered_tokens,
            memory.version_id,
            memory.created_at,
            None if memory.block is None else memory.content,
        ),
    )
    return await cursor.fetchone() is not None


async def update(connection: Connection, tenant_id: UUID, memory: Memory) -> None:
    """Write the next state of a memory that `lock` or `lock_path` returned."""
    await connection.execute(
        queries("memories")["update_memory"],
        (
            tenant_id,
            memory.store_id,
            memory.id,
            memory.path,
            memory.content,
            memory.content_sha256,
            memory.content_bytes,
            _json(memory.states),
            memory.rendered,
            memory.rendered_tokens,
            memory.version,
            memory.version_id,
            memory.updated_at,
            None if memory.block is None else memory.content,
        ),
    )


async def delete(connection: Connection, tenant_id: UUID, memory: Memory) -> None:
    """Delete a memory that `lock` returned; its versions stay."""
    await connection.execute(queries("memories")["delete_memory"], (tenant_id, memory.store_id, memory.id))


async def refuse_overlap(
    connection: Connection, tenant_id: UUID, store_id: UUID, path: str, memory_id: UUID | None = None
) -> None:
    """Raise MemoryPathConflict when a memory other than `memory_id` is at the path, above it or below it.

    Safe against others only while the store is locked.
    """
    steps = path.split("/")
    above = ["/".join(steps[:count]) for count in range(2, len(steps))]
    cursor = await connection.execute(queries("memories")["overlapping"], (tenant_id, store_id, path, above, memory_id))
    row = await cursor.fetchone()
    if row is not None:
        raise MemoryPathConflict(path, conflicting_path=row["path"], conflicting_memory_id=ids.encode("mem", row["id"]))


async def page(
    connection: Connection, tenant_id: UUID, store_id: UUID, *, prefix: str, depth: int, after: str | None, limit: int
) -> list[Memory | str]:
    """Return up to `limit` entries below a prefix that ends in `/`, in byte order, after the entry `after`.

    An entry is a memory; or, where `depth` is not 0, a path with a slash at its end that stands for deeper ones.
    """
    cursor = await connection.execute(
        queries("memories")["list_memories"], (tenant_id, store_id, prefix, depth, after, limit)
    )
    entries: list[Memory | str] = []
    for row in await cursor.fetchall():
        entry = row.pop("entry")
        entries.append(entry if row["id"] is None else Memory(**row))
    return entries


async def blocks(
    connection: Connection, tenant_id: UUID, wanted: Sequence[tuple[StoreOwner, str]]
) -> dict[str, Memory]:
    """Return the blocks, of those wanted by owner and name, that have been written; by name."""
    cursor = await connection.execute(
        queries("memories")["select_blocks"],
        (tenant_id, [owner.key for owner, _ in wanted], [name for _, name in wanted]),
    )
    return {row["block"]: Memory(**row) for row in await cursor.fetchall()}


async def _one(connection: Connection, tenant_id: UUID, store_id: UUID, memory_id: UUID, statement: str) -> Memory:
    cursor = await connection.execute(queries("memories")[statement], (tenant_id, store_id, memory_id))
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(
            f"There is no memory {ids.encode('mem', memory_id)} in {ids.encode('memstore', store_id)}; list its "
            "memories to see those there are."
        )
    return Memory(**row)


def _json(value: dict[str, Any] | None) -> Jsonb | None:
    return None if value is None else Jsonb(value)
