"""Memories: the current state at each path of a store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.memory import (
    AgentBlock,
    AttachedStore,
    Memory,
    MemoryPathConflict,
    MemoryVersion,
    StoreOwner,
    Subject,
    block_path,
)
from trunkline.domain.principal import Principal
from trunkline.domain.redaction import Redactor, redactor
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
class WantedBlock:
    """A block of one subject that somebody is about to write, and the event that it is written for."""

    name: str
    subject: Subject
    event_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class LockedBlock:
    """A block under lock. `store_id` is None where the subject names no user or session; `memory`, while unwritten.

    `made`: its store was made by the same call. `repeated` are the operations of earlier versions that came from the
    same event. `redactor` is for what is written.
    """

    agent_id: UUID
    declared: AgentBlock
    position: int
    store_id: UUID | None
    archived: bool
    made: bool
    memory: Memory | None
    repeated: list[Any]
    redactor: Redactor | None


async def get(connection: Connection, tenant_id: UUID, store_id: UUID, memory_id: UUID) -> Memory:
    """Return a memory of a store. Raises NotFound."""
    return await _one(connection, tenant_id, store_id, memory_id, "select_memory")


async def lock(connection: Connection, tenant_id: UUID, store_id: UUID, memory_id: UUID) -> Memory:
    """Return a memory of a store, locked against other writers until the transaction ends. Raises NotFound."""
    return await _one(connection, tenant_id, store_id, memory_id, "lock_memory")


async def write(
    connection: Connection, tenant_id: UUID, written: Sequence[tuple[WrittenMemory, MemoryVersion]]
) -> bool:
    """Write the next states of memories that are locked, and their versions; of one memory there may be several.

    Returns False, and writes nothing, when the path of a new one is taken. States of memories that are not new are sent
    without waiting for an answer where the connection is in pipeline mode.
    """
    last = {state.memory.id: number for number, (state, _) in enumerate(written)}
    new = {state.memory.id for state, _ in written if state.new}
    rows = [
        _row(
            state,
            version,
            None if last[state.memory.id] != number else "insert" if state.memory.id in new else "update",
        )
        for number, (state, version) in enumerate(written)
    ]
    cursor = await connection.execute(
        queries("memories")["write_memories"], (tenant_id, json.dumps(rows, ensure_ascii=False, allow_nan=False))
    )
    if not new:
        return True
    row = await cursor.fetchone()
    return row is not None and bool(row["written"])


def _row(written: WrittenMemory, version: MemoryVersion, put: str | None) -> dict[str, Any]:
    memory = written.memory
    return {
        "put": put,
        "store_id": memory.store_id.hex,
        "id": memory.id.hex,
        "path": memory.path,
        "content": memory.content,
        "sha256": memory.content_sha256,
        "bytes": memory.content_bytes,
        "block": memory.block,
        "states": memory.states,
        "rendering": written.rendering,
        "rendered": written.rendered,
        "tokens": written.rendered_tokens,
        "rendered_for": written.rendered_for,
        "render_again_at": None if written.render_again_at is None else written.render_again_at.isoformat(),
        "version": memory.version,
        "version_id": memory.version_id.hex,
        "created_at": memory.created_at.isoformat(),
        "at": memory.updated_at.isoformat(),
        "operation": version.operation,
        "operations": version.operations,
        "actor_type": version.actor.type,
        "actor_id": version.actor.id,
        "session_id": None if version.session_id is None else version.session_id.hex,
        "event_id": None if version.event_id is None else version.event_id.hex,
    }


async def lock_blocks(
    connection: Connection, principal: Principal, agent: str, wanted: Sequence[WantedBlock], *, at: datetime
) -> dict[int, LockedBlock]:
    """Lock those of the wanted blocks that an agent, given by id or name, declares; their stores are made if need be.

    Returns them by their place in `wanted`: none where there is no such agent.
    """
    agent_id, name = ids.decode_or_name("agent", agent)
    asked = [
        {
            "nth": number,
            "block": block.name,
            "user_id": block.subject.user_id,
            "session_id": None if block.subject.session_id is None else block.subject.session_id.hex,
            "event_id": None if block.event_id is None else block.event_id.hex,
            "store_id": ids.new().hex,
        }
        for number, block in enumerate(wanted)
    ]
    cursor = await connection.execute(
        queries("memories")["lock_blocks"],
        (principal.tenant_id, principal.agent_id, agent_id, name, json.dumps(asked), at),
    )
    return {row["nth"]: _locked(row) for row in await cursor.fetchall()}


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
    return LockedBlock(
        row["agent_id"],
        block,
        row["position"],
        row["store_id"],
        row["archived"] or False,
        row["made"] or False,
        memory,
        row["repeated"] or [],
        redactor(row["redact"]),
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
