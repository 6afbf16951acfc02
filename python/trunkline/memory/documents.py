"""Writing memories as whole documents: the Managed Agents wire.

A document at a block's path must be that block's value, as JSON. Replacing a whole content is safe only with a
precondition; without one, the last writer wins.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.memory import Actor, AgentBlock, Memory, MemoryPreconditionFailed, MemoryStore, Source, sha256
from trunkline.domain.principal import Principal
from trunkline.domain.redaction import Redactor
from trunkline.domain.times import now
from trunkline.errors import InvalidRequest, Unavailable
from trunkline.memory.blocks import BlockDefinition, stored_block
from trunkline.memory.operations import same
from trunkline.memory.paths import block_name, check_path, reserved
from trunkline.memory.values import check_text, check_value, shown
from trunkline.memory.writes import check_size, delete, next_state, put
from trunkline.store import blocks, memories, memory_stores, redaction
from trunkline.store.memories import WrittenMemory
from trunkline.store.pool import Connection


async def create_document(
    connection: Connection,
    principal: Principal,
    store_id: UUID,
    path: str,
    content: str,
    *,
    actor: Actor,
    source: Source = Source(),  # noqa: B008 - frozen
    agents: Sequence[UUID] = (),
) -> Memory:
    """Make a memory at a path that is free, redacted as the store and `agents` who write it ask for.

    Raises NotFound, InvalidRequest (path, content, archived store) and MemoryPathConflict.
    """
    check_path(path)
    check_document(content)
    store = await _writable(connection, principal, store_id)
    redactor = await redaction.of(connection, principal.tenant_id, store.id, agents)
    if redactor is not None:
        redactor.refuse_in(path, "path")
    declared = await declared_at(connection, principal, store, path)
    content = redacted_content(redactor, content, declared)
    if declared is not None:
        await memories.lock_new_path(connection, store.id, declared.name)
    await memories.refuse_overlap(connection, principal.tenant_id, store.id, path)
    written = (
        text_memory(store.id, path, content, None)
        if declared is None
        else next_state(
            declared, store.id, None, block_value(stored_block(declared), content), actor=actor, source=source
        )
    )
    if not await put(connection, principal.tenant_id, written, actor=actor, source=source):
        raise Unavailable(f"{path} is being written by others; try again.")
    return written.memory


async def update_document(
    connection: Connection,
    principal: Principal,
    store_id: UUID,
    memory_id: UUID,
    *,
    content: str | None,
    path: str | None,
    expect_sha256: str | None,
    actor: Actor,
    source: Source = Source(),  # noqa: B008 - frozen
    agents: Sequence[UUID] = (),
) -> Memory:
    """Replace a memory's content, its path, or both. What is so already makes no version, whatever was expected.

    Redacted as by `create_document`.

    Raises NotFound, InvalidRequest, MemoryPathConflict, and MemoryPreconditionFailed with the current hash.
    """
    if path is not None:
        check_path(path)
    if content is not None:
        check_document(content)
    tenant_id = principal.tenant_id
    store = await _writable(connection, principal, store_id)
    memory = await memories.lock(connection, tenant_id, store.id, memory_id)
    target = memory.path if path is None else path
    declared = await declared_at(connection, principal, store, memory.path)
    redactor = await redaction.of(connection, tenant_id, store.id, agents)
    if redactor is not None and target != memory.path:
        redactor.refuse_in(target, "path")
    if content is not None:
        content = redacted_content(redactor, content, declared)
    if target != memory.path and (declared is not None or (store.managed and reserved(target))):
        raise InvalidRequest(
            f"{memory.path} cannot become {target}: in this store the paths under /blocks belong to the agent's blocks "
            "and stay with them.",
            param="path",
        )
    value = None if declared is None or content is None else block_value(stored_block(declared), content)
    if target == memory.path and (
        content in (None, memory.content) or (value is not None and same(value, memory.value))
    ):
        return memory
    if expect_sha256 not in (None, memory.content_sha256):
        raise precondition_failed(memory)
    if target != memory.path:
        await memories.refuse_overlap(connection, tenant_id, store.id, target, memory.id)
    if declared is not None and value is not None:
        written = next_state(declared, store.id, memory, value, actor=actor, source=source)
    else:
        written = text_memory(store.id, target, memory.content if content is None else content, memory)
    await put(connection, tenant_id, written, actor=actor, source=source)
    return written.memory


async def delete_document(
    connection: Connection,
    principal: Principal,
    store_id: UUID,
    memory_id: UUID,
    *,
    expect_sha256: str | None,
    actor: Actor,
    source: Source = Source(),  # noqa: B008 - frozen
) -> None:
    """Delete a memory; its versions stay. Archived stores allow it.

    Raises NotFound, and MemoryPreconditionFailed with the current hash.
    """
    store = await memory_stores.lock(connection, principal, store_id)
    memory = await memories.lock(connection, principal.tenant_id, store.id, memory_id)
    if expect_sha256 not in (None, memory.content_sha256):
        raise precondition_failed(memory)
    await delete(connection, principal.tenant_id, memory, actor=actor, source=source)


def precondition_failed(memory: Memory) -> MemoryPreconditionFailed:
    """Return the error that tells the state that a memory is in."""
    return MemoryPreconditionFailed(
        f"The memory {memory.path} changed: its content_sha256 is {memory.content_sha256}. Read it again, decide on "
        "what it says now, and retry with this hash.",
        details={
            "current": {
                "memory_id": ids.encode("mem", memory.id),
                "memory_version_id": ids.encode("memver", memory.version_id),
                "path": memory.path,
                "content_sha256": memory.content_sha256,
            }
        },
    )


def check_document(content: str) -> None:
    """Raise InvalidRequest for a content that cannot be stored or is over the limit."""
    check_text(content, "content")
    check_size(content, "content")


def block_value(definition: BlockDefinition, content: str) -> dict[str, Any]:
    """Read a block's value from a document. Raises InvalidRequest unless it is a JSON object that fits the schema."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "it cannot be parsed"
        raise InvalidRequest(
            f"This memory is the block {definition.name}: its content must be a JSON object of the block's fields, and "
            f"is no JSON: {reason}.",
            param="content",
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"This memory is the block {definition.name}: its content must be a JSON object of the block's fields, got "
            f"{shown(value)}.",
            param="content",
        )
    check_value(value, "content")
    unknown = [name for name in value if name not in definition.fields]
    faults = [f"{definition.name}: has no field {shown(name)}" for name in unknown] or definition.problems(value)
    if faults:
        fields = ", ".join(sorted(definition.fields))
        raise InvalidRequest(
            f"{'; '.join(faults[:5])}. The block's fields: {fields}.", param="content", code="schema_violation"
        )
    return value


def redacted_content(redactor: Redactor | None, content: str, declared: AgentBlock | None) -> str:
    """Return a content as it may be stored: a block's value by value."""
    if redactor is None:
        return content
    if declared is None:
        return redactor.text(content)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return content  # refused as a block's
    return json.dumps(redactor.value(value), ensure_ascii=False)


async def _writable(connection: Connection, principal: Principal, store_id: UUID) -> MemoryStore:
    store = await memory_stores.lock(connection, principal, store_id)
    memory_stores.refuse_archived(store.id, store.archived_at)
    return store


async def declared_at(connection: Connection, principal: Principal, store: MemoryStore, path: str) -> AgentBlock | None:
    """Return the block that belongs at a path of a managed store; None where text belongs. Raises InvalidRequest."""
    if not store.managed or not reserved(path):
        return None
    name = block_name(path)
    declared = (
        None
        if name is None
        else await blocks.declaration(connection, principal.tenant_id, store.scope, name, store.agent_id)
    )
    if declared is not None and store.agent_id is not None:
        await blocks.share_schema(connection, store.agent_id)
        declared = await blocks.declaration(connection, principal.tenant_id, store.scope, declared.name, store.agent_id)
    if declared is None:
        raise InvalidRequest(
            f"{path} is kept for blocks, and no agent declares such a block of scope {store.scope} for this store. "
            "Choose a path outside /blocks, or declare the block in the agent's memory.",
            param="path",
        )
    return declared


def text_memory(store_id: UUID, path: str, content: str, before: Memory | None) -> WrittenMemory:
    """Return the memory that a text becomes, its time after that of the one before. Raises InvalidRequest: the size."""
    at = now() if before is None else max(now(), before.updated_at + timedelta(microseconds=1))
    memory = Memory(
        id=ids.new() if before is None else before.id,
        store_id=store_id,
        path=path,
        content=content,
        content_sha256=sha256(content),
        content_bytes=check_size(content, "content"),
        block=None,
        states=None,
        version=1 if before is None else before.version + 1,
        version_id=ids.new(),
        created_at=at if before is None else before.created_at,
        updated_at=at,
    )
    return WrittenMemory(memory, new=before is None)
