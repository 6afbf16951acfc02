"""Writing blocks: operations on what is stored, each write one version, many writers at once.

One short transaction: the stores are found or made, the memories locked in the order of scope and path (so that no two
writers wait for each other), the operations applied, and the new state and its version written.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.memory import (
    MAX_CONTENT_BYTES,
    SCOPES,
    Actor,
    AgentBlock,
    AgentMemory,
    Memory,
    MemoryPreconditionFailed,
    MemoryVersion,
    Source,
    Subject,
    VersionOperation,
    block_path,
    sha256,
    store_owner,
)
from trunkline.domain.times import now, to_wire
from trunkline.errors import InvalidRequest, Unavailable
from trunkline.memory.blocks import BlockDefinition, stored_block
from trunkline.memory.operations import Operation, apply, same
from trunkline.memory.reads import BlockState, declared_block
from trunkline.memory.render import render
from trunkline.memory.values import canonical
from trunkline.store import memories, memory_stores, memory_versions
from trunkline.store.pool import Connection

# A memory can be deleted between a lost race for its path and the look at the winner; more than once is no accident.
_ATTEMPTS: Final = 3


async def apply_operations(
    connection: Connection,
    tenant_id: UUID,
    agent: AgentMemory,
    operations: Sequence[Operation],
    subject: Subject,
    *,
    actor: Actor,
    source: Source = Source(),  # noqa: B008 - frozen
) -> list[BlockState]:
    """Apply operations to blocks of an agent, all or none, and return the blocks after, in the order of the prompt.

    What changes nothing makes no version: a value that holds already, a removal of what is not there, and the same
    operations from the same event (`source.event_id`) as the block's latest version, which is a retry. (An append
    without an event is not recognised as a retry; use an idempotency key.)

    Raises NotFound for an unknown block, InvalidRequest for operations that cannot be applied or break the schema, and
    MemoryPreconditionFailed, with the state of the block, for a precondition that does not hold. The caller then rolls
    the transaction back.
    """
    by_block: dict[str, list[Operation]] = {}
    for operation in operations:
        by_block.setdefault(operation.block, []).append(operation)
    declared = [declared_block(agent, name) for name in by_block]
    declared.sort(key=lambda block: (SCOPES.index(block.scope), block.name))
    # All stores before any memory: whoever waits for a store then holds no memory that its maker could want.
    stores: dict[str, UUID] = {}
    for block in declared:
        if block.scope not in stores:
            owner = store_owner(block.scope, agent.agent_id, subject)
            stores[block.scope] = await memory_stores.managed(connection, tenant_id, owner, now())
    states = {
        block.name: await _write(
            connection, tenant_id, stores[block.scope], block, by_block[block.name], actor=actor, source=source
        )
        for block in declared
    }
    return [states[block.name] for block in agent.blocks if block.name in states]


async def _write(
    connection: Connection,
    tenant_id: UUID,
    store_id: UUID,
    block: AgentBlock,
    operations: Sequence[Operation],
    *,
    actor: Actor,
    source: Source,
) -> BlockState:
    definition = stored_block(block)
    record = [operation.to_json() for operation in operations]
    for _ in range(_ATTEMPTS):
        memory = await memories.lock_path(connection, tenant_id, store_id, block_path(block.name))
        before = {} if memory is None else memory.value
        if memory is not None and await _is_retry(connection, tenant_id, memory, record, source):
            return BlockState(block, memory)
        if failed := _failed_precondition(operations, memory):
            with suppress(InvalidRequest):
                if same(apply(definition, before, operations), before):
                    return BlockState(block, memory)
            raise MemoryPreconditionFailed(
                f"{block.name}: {failed}. Read it again, decide on what it says now, and retry with what it gives.",
                param=block.name,
                details={"current": BlockState(block, memory).to_wire()},
            )
        after = apply(definition, before, operations)
        if same(after, before):
            return BlockState(block, memory)
        written = next_state(definition, store_id, memory, after)
        if await put(connection, tenant_id, memory, written, actor=actor, source=source, operations=record):
            return BlockState(block, written, changed=True)
    raise Unavailable(f"{block.name}: the block is being deleted and made again by others; try again.")


def _failed_precondition(operations: Sequence[Operation], memory: Memory | None) -> str | None:
    version, digest = (memory.version, memory.content_sha256) if memory else (0, "")
    for operation in operations:
        if operation.expect_version not in (None, version):
            return f"the block is at version {version}, not {operation.expect_version}"
        if operation.expect_sha256 not in (None, digest):
            return f"the block changed: its content_sha256 is {digest or 'empty, nobody has written it'}"
    return None


async def _is_retry(
    connection: Connection, tenant_id: UUID, memory: Memory, record: list[dict[str, Any]], source: Source
) -> bool:
    if source.event_id is None:
        return False
    latest = await memory_versions.get(connection, tenant_id, memory.store_id, memory.version_id)
    return latest.event_id == source.event_id and latest.operations == record


def next_state(definition: BlockDefinition, store_id: UUID, memory: Memory | None, value: dict[str, Any]) -> Memory:
    """Return the memory that a block becomes with this value: content, field states, rendering, next version.

    Raises InvalidRequest when the content is over the limit.
    """
    content = canonical(value)
    at = now()
    version_id = ids.new()
    before = {} if memory is None else memory.value
    states = dict((memory.states if memory else None) or {})
    asserted = {"state": "asserted", "version_id": ids.encode("memver", version_id), "at": to_wire(at)}
    rendered = render(definition, value)
    return Memory(
        id=ids.new() if memory is None else memory.id,
        store_id=store_id,
        path=block_path(definition.name),
        content=content,
        content_sha256=sha256(content),
        content_bytes=check_size(content, definition.name),
        block=definition.name,
        states={
            name: states[name]
            if name in states and name in before and canonical(before[name]) == canonical(item)
            else asserted
            for name, item in value.items()
        },
        rendered=rendered.text,
        rendered_tokens=rendered.tokens,
        version=1 if memory is None else memory.version + 1,
        version_id=version_id,
        created_at=at if memory is None else memory.created_at,
        updated_at=at,
    )


def check_size(content: str, where: str) -> int:
    """Return the size of a content in UTF-8 bytes. Raises InvalidRequest when it is over the limit."""
    size = len(content.encode())
    if size > MAX_CONTENT_BYTES:
        raise InvalidRequest(
            f"{where}: would take {size} bytes; a memory holds at most {MAX_CONTENT_BYTES}. Shorten it, or keep parts "
            "of it in other memories.",
            param=where,
            code="content_too_large",
        )
    return size


async def put(
    connection: Connection,
    tenant_id: UUID,
    before: Memory | None,
    after: Memory,
    *,
    actor: Actor,
    source: Source = Source(),  # noqa: B008 - frozen
    operations: list[dict[str, Any]] | None = None,
) -> bool:
    """Write a memory's next state and its version. Returns False, with nothing written, if the path is taken by now."""
    if before is None:
        if not await memories.insert(connection, tenant_id, after):
            return False
    else:
        await memories.update(connection, tenant_id, after)
    operation: VersionOperation = "created" if before is None else "modified"
    await memory_versions.insert(
        connection, tenant_id, version_of(after, operation, actor=actor, source=source, operations=operations)
    )
    return True


async def delete(connection: Connection, tenant_id: UUID, memory: Memory, *, actor: Actor) -> None:
    """Delete a memory that is locked, and write the version that says so."""
    gone = replace(memory, version=memory.version + 1, version_id=ids.new(), updated_at=now())
    await memories.delete(connection, tenant_id, memory)
    version = version_of(gone, "deleted", actor=actor, source=Source(), operations=None)
    emptied = replace(version, content=None, content_sha256=None, content_bytes=None, block=False)
    await memory_versions.insert(connection, tenant_id, emptied)


def version_of(
    memory: Memory,
    operation: VersionOperation,
    *,
    actor: Actor,
    source: Source,
    operations: list[dict[str, Any]] | None,
) -> MemoryVersion:
    """Return the version that records a memory's new state."""
    return MemoryVersion(
        id=memory.version_id,
        store_id=memory.store_id,
        memory_id=memory.id,
        version=memory.version,
        operation=operation,
        operations=operations,
        path=memory.path,
        content=memory.content,
        content_sha256=memory.content_sha256,
        content_bytes=memory.content_bytes,
        block=memory.block is not None,
        actor=actor,
        session_id=source.session_id,
        event_id=source.event_id,
        created_at=memory.updated_at,
        redacted_at=None,
        redacted_by=None,
    )
