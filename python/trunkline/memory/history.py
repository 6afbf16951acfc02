"""What a memory was: at a moment, at a version, between two, and back to one of them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.memory import Actor, AgentBlock, AgentMemory, Memory, MemoryVersion, Subject, store_owner
from trunkline.domain.principal import Principal
from trunkline.errors import Conflict, InvalidRequest, NotFound
from trunkline.memory.blocks import stored_block
from trunkline.memory.documents import declared_at, redacted_content, text_memory
from trunkline.memory.operations import same
from trunkline.memory.reads import BlockState
from trunkline.memory.values import identity
from trunkline.memory.writes import next_state, put
from trunkline.store import memories, memory_stores, memory_versions, redaction
from trunkline.store.memories import WrittenMemory
from trunkline.store.pool import Connection


async def blocks_as_of(
    connection: Connection,
    tenant_id: UUID,
    agent: AgentMemory,
    blocks: Sequence[AgentBlock],
    subject: Subject,
    *,
    moment: datetime,
) -> list[BlockState]:
    """Return what these blocks said at a moment, each as the agent declares it now.

    A block that was not written yet, or was deleted, is empty; so is a version that was redacted since. Raises
    InvalidRequest when a block is kept for each user or session and the subject names none.
    """
    owners = [(store_owner(block.scope, block.owner_id or agent.agent_id, subject), block.name) for block in blocks]
    found = await memory_versions.blocks_as_of(connection, tenant_id, owners, moment)
    return [BlockState(block, _memory(found.get(block.name))) for block in blocks]


def _memory(version: MemoryVersion | None) -> Memory | None:
    """Return a version as the memory that it was; None for one that deleted it, or was redacted."""
    if version is None or version.content is None or version.path is None or version.content_sha256 is None:
        return None
    return Memory(
        id=version.memory_id,
        store_id=version.store_id,
        path=version.path,
        content=version.content,
        content_sha256=version.content_sha256,
        content_bytes=version.content_bytes or 0,
        block=version.path.rpartition("/")[2] if version.block else None,
        states=version.states,
        version=version.version,
        version_id=version.id,
        created_at=version.created_at,
        updated_at=version.created_at,
    )


def difference(before: MemoryVersion, after: MemoryVersion) -> dict[str, Any]:
    """Return what one version changed of another: of a block, by field; of a text, as a unified diff.

    Raises InvalidRequest where one of them says nothing any more.
    """
    for version in (before, after):
        if version.redacted_at is not None:
            raise InvalidRequest(
                f"Version {version.version} ({ids.encode('memver', version.id)}) was redacted; nothing of it is left."
            )
    told: dict[str, Any] = {"from_version": before.version, "to_version": after.version}
    if not (before.block or after.block):
        lines = difflib.unified_diff(
            (before.content or "").splitlines(keepends=True),
            (after.content or "").splitlines(keepends=True),
            f"{before.path}@{before.version}",
            f"{after.path}@{after.version}",
        )
        return told | {"diff": "".join(lines)}
    old: dict[str, Any] = json.loads(before.content or "{}")
    new: dict[str, Any] = json.loads(after.content or "{}")
    fields: dict[str, Any] = {}
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            fields[name] = {"change": "added", "after": new[name]}
        elif name not in new:
            fields[name] = {"change": "removed", "before": old[name]}
        elif identity(old[name]) != identity(new[name]):
            fields[name] = {"change": "changed", "before": old[name], "after": new[name]}
    return told | {"fields": fields}


async def restore(
    connection: Connection, principal: Principal, store_id: UUID, version: MemoryVersion, *, actor: Actor
) -> tuple[Memory, bool]:
    """Make a memory say again what it said at a version; return it, and whether that took a new version.

    A deleted memory comes back under its id. Each field keeps where its value came from at that time. Raises
    InvalidRequest for a version that says nothing (redacted, or a deletion), an archived store, or a value that today's
    schema does not admit; Conflict where another memory is at its path by now.
    """
    tenant_id = principal.tenant_id
    if version.content is None or version.path is None:
        what = "was redacted" if version.redacted_at is not None else "is the memory's deletion"
        raise InvalidRequest(f"Version {version.version} {what}; it says nothing that could be restored.")
    store = await memory_stores.lock(connection, principal, store_id)
    memory_stores.refuse_archived(store.id, store.archived_at)
    declared = await declared_at(connection, principal, store, version.path) if version.block else None
    try:
        there: Memory | None = await memories.lock(connection, tenant_id, store.id, version.memory_id)
    except NotFound:
        there = None
        await memories.refuse_overlap(connection, tenant_id, store.id, version.path)
    if there is not None and there.path != version.path:
        raise Conflict(
            f"The memory was moved to {there.path} since; rename it back to {version.path}, then restore.", param="path"
        )
    redactor = await redaction.of(connection, tenant_id, store.id)
    content = redacted_content(redactor, version.content, declared)
    states = version.states or {}
    if redactor is not None:
        redactor.refuse_in(version.path, "path")
        states = redactor.value(states)
    if there is not None and there.content == content:
        return there, False
    record = [{"op": "restore", "version": version.version}]
    if declared is None:
        written = text_memory(store.id, version.path, content, there)
    else:
        value: dict[str, Any] = json.loads(content)
        if faults := stored_block(declared).problems(value):
            raise InvalidRequest(
                f"{'; '.join(faults)}. The block's schema changed since version {version.version}.",
                code="schema_violation",
            )
        if there is not None and same(value, there.value):
            return there, False
        written = next_state(declared, store.id, there, value, actor=actor, states=states)
    if there is None:
        last = await memory_versions.latest_number(connection, tenant_id, version.memory_id)
        written = _back(written, version.memory_id, last + 1)
    if not await put(connection, tenant_id, written, actor=actor, operations=record):
        raise Conflict(f"{version.path} is being written by others; try again.", param="path")
    return written.memory, True


def _back(written: WrittenMemory, memory_id: UUID, number: int) -> WrittenMemory:
    return replace(written, memory=replace(written.memory, id=memory_id, version=number))
