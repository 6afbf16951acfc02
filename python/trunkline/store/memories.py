"""Memories: the current state at each path of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.memory import (
    AgentBlock,
    AttachedStore,
    Memory,
    MemoryPathConflict,
    MemoryVersion,
    Source,
    StoreOwner,
    Subject,
    block_path,
)
from trunkline.domain.principal import Principal
from trunkline.errors import NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class WrittenMemory:
    """A memory about to be written; for a block, with what the model reads and what that is made of.

    `new`: there is no row at its path.
    """

    memory: Memory
    new: bool
    rendering: dict[str, Any] | None = None
    rendered: str | None = None
    rendered_tokens: int | None = None
    rendered_for: str | None = None
    render_again_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LockedBlock:
    """A block under lock. `store_id` is None where the subject names no user or session; `memory`, while unwritten.

    `repeated` are the operations of earlier versions that came from the same event.
    """

    agent_id: UUID
    declared: AgentBlock
    store_id: UUID | None
    archived: bool
    memory: Memory | None
    repeated: list[Any]


async def get(connection: Connection, tenant_id: UUID, store_id: UUID, memory_id: UUID) -> Memory:
    """Return a memory of a store. Raises NotFound."""
    return await _one(connection, tenant_id, store_id, memory_id, "select_memory")


async def lock(connection: Connection, tenant_id: UUID, store_id: UUID, memory_id: UUID) -> Memory:
    """Return a memory of a store, locked against other writers until the transaction ends. Raises NotFound."""
    return await _one(connection, tenant_id, store_id, memory_id, "lock_memory")


async def write(connection: Connection, tenant_id: UUID, written: WrittenMemory, version: MemoryVersion) -> bool:
    """Write the next state of a memory that is locked, and its version.

    Returns False, and writes nothing, when the path of a new one is taken. The state of one that is not new is sent
    without waiting for an answer where the connection is in pipeline mode.
    """
    memory = written.memory
    cursor = await connection.execute(
        queries("memories")["write_memory"],
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
            _json(written.rendering),
            written.rendered,
            written.rendered_tokens,
            written.rendered_for,
            written.render_again_at,
            memory.version,
            memory.version_id,
            memory.created_at,
            memory.updated_at,
            written.new,
            None if version.operations is None else Jsonb(version.operations),
            version.actor.type,
            version.actor.id,
            version.session_id,
            version.event_id,
        ),
    )
    if not written.new:
        return True
    row = await cursor.fetchone()
    return row is not None and bool(row["written"])


async def lock_blocks(
    connection: Connection,
    principal: Principal,
    agent: str,
    names: Sequence[str],
    subject: Subject,
    *,
    source: Source,
    at: datetime,
) -> list[LockedBlock]:
    """Lock those blocks of an agent, given by id or name, that it declares; their stores are made where there are none.

    In the order of the prompt. Empty, too, where there is no such agent.
    """
    agent_id, name = ids.decode_or_name("agent", agent)
    cursor = await connection.execute(
        queries("memories")["lock_blocks"],
        (
            principal.tenant_id,
            principal.agent_id,
            agent_id,
            name,
            subject.user_id,
            subject.session_id,
            list(names),
            [ids.new() for _ in names],
            source.event_id,
            at,
        ),
    )
    rows = await cursor.fetchall()
    return [_locked(row) for row in sorted(rows, key=lambda row: int(row["position"]))]


async def lock_new_path(connection: Connection, store_id: UUID, block: str) -> None:
    """Keep others from making a block in a store until the transaction ends, as `lock_blocks` does."""
    await connection.execute(queries("memories")["lock_new_path"], (store_id, block))


def _locked(row: dict[str, Any]) -> LockedBlock:
    block = AgentBlock(
        row["name"],
        row["scope"],
        row["description"],
        row["schema"],
        row["options"],
        row["digest"],
        row["owner_id"],
        row["writable"],
    )
    memory = (
        None
        if row["id"] is None
        else Memory(
            id=row["id"],
            store_id=row["store_id"],
            path=block_path(block.name),
            content=row["content"],
            content_sha256=row["content_sha256"],
            content_bytes=len(row["content"].encode()),
            block=block.name,
            states=row["states"],
            version=row["version"],
            version_id=row["version_id"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )
    )
    return LockedBlock(row["agent_id"], block, row["store_id"], row["archived"], memory, row["repeated"] or [])


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


async def search(
    connection: Connection, tenant_id: UUID, stores: Sequence[AttachedStore], query: str, *, limit: int
) -> list[tuple[str, str, str]]:
    """Return the store's name, the path and an excerpt of texts that have words of a query, best first."""
    cursor = await connection.execute(
        queries("memories")["search_texts"],
        (tenant_id, [store.id for store in stores], [store.name for store in stores], query, limit),
    )
    return [(row["name"], row["path"], row["excerpt"]) for row in await cursor.fetchall()]


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
