"""Writing blocks: operations on what is stored, each write one version, many writers at once.

One short transaction of two round trips: Postgres finds or makes the stores and locks the blocks, in one order for all
writers, so that no two wait for each other (`lock_blocks`); the operations are applied here; the new states and their
versions are written (`write_memories`), with the commit behind them. It carries out one write, or many that have
nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.memory import (
    MAX_CONTENT_BYTES,
    Actor,
    AgentBlock,
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
from trunkline.domain.principal import Principal
from trunkline.domain.times import now
from trunkline.errors import Forbidden, InvalidRequest, TrunklineError, Unavailable
from trunkline.memory.blocks import stored_block
from trunkline.memory.operations import Operation, apply, failed_precondition, resolved, same
from trunkline.memory.reads import BlockState, declared_block
from trunkline.memory.render import parts, render
from trunkline.memory.states import State, Written, contradicts, next_states
from trunkline.memory.values import canonical
from trunkline.store import memories, memory_stores, memory_versions
from trunkline.store.blocks import agent_memory
from trunkline.store.memories import LockedBlock, WantedBlock, WrittenMemory
from trunkline.store.pool import Connection

_TICK: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class BlockWrite:
    """Operations on blocks of one subject, all or none."""

    operations: Sequence[Operation]
    subject: Subject
    actor: Actor
    source: Source = Source()  # noqa: RUF009 - frozen


async def apply_operations(
    connection: Connection,
    principal: Principal,
    agent: str,
    operations: Sequence[Operation],
    subject: Subject,
    *,
    actor: Actor,
    source: Source = Source(),  # noqa: B008 - frozen
) -> list[BlockState]:
    """Apply operations to blocks of an agent (its id or name), all or none; return the blocks after, in prompt order.

    What changes nothing makes no version: a value that holds already, a removal of what is not there, and operations
    that a version from the same event (`source.event_id`) records already, which is a retry. (An append without an
    event is not recognised as a retry; use an idempotency key.)

    Raises NotFound for an unknown agent or block, InvalidRequest for operations that cannot be applied or break the
    schema, Forbidden for a block that the agent or the key may only read, and MemoryPreconditionFailed, with the state
    of the block, for a precondition that does not hold. The caller then rolls the transaction back. In pipeline mode
    the last of it is sent with the commit.
    """
    (outcome,) = await apply_all(connection, principal, agent, [BlockWrite(operations, subject, actor, source)])
    if isinstance(outcome, TrunklineError):
        raise outcome
    return outcome


async def apply_all(
    connection: Connection, principal: Principal, agent: str, writes: Sequence[BlockWrite]
) -> list[list[BlockState] | TrunklineError]:
    """Carry out writes one after the other, each as `apply_operations` does; return what each comes to.

    One that is refused leaves nothing behind but the error, and the others are carried out. Raises what concerns all of
    them: that is Unavailable when others make one of the blocks at this moment, and `StoresMade` when one of several is
    refused for whose blocks a store was made; either way the caller rolls the transaction back, and may try each alone.
    """
    wanted: list[WantedBlock] = []
    places: list[dict[str, int]] = []
    for write in writes:
        names = dict.fromkeys(operation.block for operation in write.operations)
        places.append({name: len(wanted) + nth for nth, name in enumerate(names)})
        wanted += [WantedBlock(name, write.subject, write.source.event_id) for name in names]
    locked = await memories.lock_blocks(connection, principal, agent, wanted, at=now())
    outcomes: list[list[BlockState] | TrunklineError] = []
    stored: dict[tuple[UUID, str], Memory] = {}
    pending: list[tuple[WrittenMemory, MemoryVersion]] = []
    for write, place in zip(writes, places, strict=True):
        try:
            for name, nth in place.items():
                if nth not in locked:
                    declared_block(await agent_memory(connection, principal, agent), name)
            blocks = sorted((locked[nth] for nth in place.values()), key=lambda block: block.position)
            for block in blocks:
                principal.require_memory(block.declared.scope, write=True)
            steps = [_step(write, _as_written(block, stored)) for block in blocks]
        except TrunklineError as error:
            if len(writes) > 1 and any(locked[nth].made for nth in place.values() if nth in locked):
                raise StoresMade from error
            outcomes.append(error)
            continue
        outcomes.append([state for state, _ in steps])
        for _, step in steps:
            if step is not None:
                memory = step[0].memory
                stored[memory.store_id, memory.path] = memory
                pending.append(step)
    if pending and not await memories.write(connection, principal.tenant_id, pending):
        raise Unavailable("One of the blocks is being made by others at this moment; try again.")
    return outcomes


class StoresMade(Exception):
    """A store was made for a write that was then refused; only a rollback leaves nothing of it."""


def _as_written(locked: LockedBlock, stored: Mapping[tuple[UUID, str], Memory]) -> LockedBlock:
    """Return a block as the writes before this one left it."""
    if locked.store_id is None:
        return locked
    memory = stored.get((locked.store_id, block_path(locked.declared.name)))
    return locked if memory is None else replace(locked, memory=memory)


def _step(write: BlockWrite, locked: LockedBlock) -> tuple[BlockState, tuple[WrittenMemory, MemoryVersion] | None]:
    """Return a block after a write, and what is to be written for that; None: it holds already."""
    declared, memory = locked.declared, locked.memory
    given = [operation for operation in write.operations if operation.block == declared.name]
    if locked.store_id is None:
        # It raises, and says what is missing.
        store_owner(declared.scope, declared.owner_id or locked.agent_id, write.subject)
        raise Unavailable(f"{declared.name}: its store is being deleted and made again by others; try again.")
    if not declared.writable:
        raise Forbidden(f"{declared.name}: this agent may read the block and not write it.", param=declared.name)
    if locked.archived:
        memory_stores.refuse_archived(locked.store_id, now())
    definition = stored_block(declared)
    if locked.redactor is not None:
        given = [operation.redacted(locked.redactor) for operation in given]
    record = [operation.to_json() for operation in given]
    operations = resolved(definition, given)
    if memory is not None and record in locked.repeated:
        return BlockState(declared, memory), None
    before = {} if memory is None else memory.value
    version, digest = (memory.version, memory.content_sha256) if memory else (0, "")
    if failed := failed_precondition(before, version, digest, operations):
        with suppress(InvalidRequest):
            if same(apply(definition, before, operations), before):
                return BlockState(declared, memory), None
        raise MemoryPreconditionFailed(
            f"{declared.name}: {failed}. Read it again, decide on what it says now, and retry with what it gives.",
            param=declared.name,
            details={"current": BlockState(declared, memory).to_wire()},
        )
    against = [operation for operation in operations if contradicts(definition, before, operation)]
    applied = [operation for operation in operations if operation not in against]
    for operation in against:
        apply(definition, {}, [operation])  # raises where it would not fit the schema
    after = apply(definition, before, applied)
    written = next_state(
        declared,
        locked.store_id,
        memory,
        after,
        actor=write.actor,
        source=write.source,
        operations=applied,
        against=against,
    )
    if memory is not None and same(after, before) and written.memory.states == (memory.states or {}):
        return BlockState(declared, memory), None
    if memory is None and not after:
        return BlockState(declared, memory), None
    version_made = version_of(
        written.memory, _operation(written), actor=write.actor, source=write.source, operations=record
    )
    return BlockState(declared, written.memory, changed=True), (written, version_made)


def next_state(
    declared: AgentBlock,
    store_id: UUID,
    memory: Memory | None,
    value: dict[str, Any],
    *,
    actor: Actor,
    source: Source = Source(),  # noqa: B008 - frozen
    operations: Sequence[Operation] = (),
    against: Sequence[Operation] = (),
    states: dict[str, State] | None = None,
) -> WrittenMemory:
    """Return the memory that a block becomes with this value: content, field states, rendering, next version.

    `states` are those to begin with, where they are not the memory's own. Its time is after that of the version before,
    whatever the clock says. Raises InvalidRequest when the content is over the limit, and for states that cannot be.
    """
    definition = stored_block(declared)
    content = canonical(value)
    at = now() if memory is None else max(now(), memory.updated_at + _TICK)
    version_id = ids.new()
    before = {} if memory is None else memory.value
    if states is None:
        states = (memory.states if memory else None) or {}
    else:
        before = value
    after = next_states(
        definition,
        before,
        states,
        value,
        operations=operations,
        against=against,
        written=Written(version_id, at, actor, source),
    )
    rendered = render(definition, value, after, at)
    return WrittenMemory(
        Memory(
            id=ids.new() if memory is None else memory.id,
            store_id=store_id,
            path=block_path(definition.name),
            content=content,
            content_sha256=sha256(content),
            content_bytes=check_size(content, definition.name),
            block=definition.name,
            states=after,
            version=1 if memory is None else memory.version + 1,
            version_id=version_id,
            created_at=at if memory is None else memory.created_at,
            updated_at=at,
        ),
        memory is None,
        parts(value, after),
        rendered.text,
        rendered.tokens,
        declared.digest,
        rendered.again_at,
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
    written: WrittenMemory,
    *,
    actor: Actor,
    source: Source = Source(),  # noqa: B008 - frozen
    operations: list[dict[str, Any]] | None = None,
) -> bool:
    """Write a memory's next state and its version. Returns False, with nothing written, if the path is taken by now."""
    version = version_of(written.memory, _operation(written), actor=actor, source=source, operations=operations)
    return await memories.write(connection, tenant_id, [(written, version)])


def _operation(written: WrittenMemory) -> VersionOperation:
    return "created" if written.new else "modified"


async def delete(
    connection: Connection,
    tenant_id: UUID,
    memory: Memory,
    *,
    actor: Actor,
    source: Source = Source(),  # noqa: B008 - frozen
) -> None:
    """Delete a memory that is locked, and write the version that says so."""
    gone = replace(memory, version=memory.version + 1, version_id=ids.new(), updated_at=now())
    await memories.delete(connection, tenant_id, memory)
    version = version_of(gone, "deleted", actor=actor, source=source, operations=None)
    emptied = replace(version, content=None, content_sha256=None, content_bytes=None, block=False, states=None)
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
        states=memory.states,
        actor=actor,
        session_id=source.session_id,
        event_id=source.event_id,
        created_at=memory.updated_at,
        redacted_at=None,
        redacted_by=None,
    )
