"""An agent's blocks: reading them, writing them by operations, their history."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from trunkline.api.block_writes import AskedWrite, BlockWrites, BlockWritesDependency
from trunkline.api.deps import Caller, DatabaseDependency, calling, key_text
from trunkline.api.idempotency import idempotent
from trunkline.api.memory_caller import MemoryCaller, UserId, actor, subject
from trunkline.domain import ids
from trunkline.domain.memory import AgentBlock, AgentMemory, Memory, MemoryVersion, Source, Subject
from trunkline.domain.times import now, to_wire
from trunkline.errors import Conflict, InvalidRequest, NotFound
from trunkline.memory.blocks import stored_block
from trunkline.memory.history import blocks_as_of, difference, restore
from trunkline.memory.operations import Operation, parse_operations
from trunkline.memory.reads import BlockState, declared_block, read_blocks, readable
from trunkline.memory.states import state_to_wire
from trunkline.memory.values import canonical, check_value
from trunkline.memory.writes import apply_operations
from trunkline.store import idempotency, memory_versions
from trunkline.store.blocks import agent_memory
from trunkline.store.pool import Database

router = APIRouter(prefix="/v1/agents/{agent}/memory", tags=["blocks"])

UserQuery = Annotated[UserId | None, Query()]
AsOf = Annotated[AwareDatetime | None, Query()]


class BlockOperations(BaseModel):
    """Operations: `{"op": set|append|remove|merge|increment, "field", "value"}`; for several blocks, with `block`.

    Each may have preconditions (`expect_sha256`, `expect_version`, `expect`, `expect_absent`, `expect_value_sha256`),
    say when its value holds (`valid_from`, `valid_to`), and what a contradiction does (`on_conflict`). A request with
    an `idempotency_key` seen before is not carried out again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    operations: Any
    user_id: UserId | None = None
    session_id: str | None = None
    idempotency_key: Annotated[str, Field(min_length=1, max_length=255)] | None = None


class Restoration(BaseModel):
    """Which version a block is to say again, and whose block."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1, lt=2**31)]
    user_id: UserId | None = None
    session_id: str | None = None


@router.get("")
async def list_blocks(
    agent: str,
    caller: MemoryCaller,
    user_id: UserQuery = None,
    session_id: str | None = None,
    as_of: AsOf = None,
) -> JSONResponse:
    """Get the agent's blocks in the order of the prompt, as they are, or as they were at the moment `as_of`.

    Blocks kept for each user or session are there when `user_id` or `session_id` is given; `left_out` names the others.
    """
    memory = await agent_memory(caller.connection, caller.principal, agent)
    who = subject(caller.principal, user_id, session_id)
    has, lacks = readable(memory, who)
    if lacks and not has:
        needs = " and ".join(sorted({f"{block.scope}_id" for block in lacks}))
        raise InvalidRequest(
            f"Every block of this agent is kept for each user or session; give {needs} to say whose are meant.",
            param=f"{lacks[0].scope}_id",
        )
    states = await _read(caller, memory, has, who, as_of)
    return JSONResponse(
        {
            "blocks": [state.to_wire(as_of) for state in states],
            "left_out": [{"block": block.name, "scope": block.scope, "needs": f"{block.scope}_id"} for block in lacks],
        }
    )


@router.get("/{block}")
async def retrieve(
    agent: str,
    block: str,
    caller: MemoryCaller,
    *,
    user_id: UserQuery = None,
    session_id: str | None = None,
    as_of: AsOf = None,
) -> JSONResponse:
    """Get one block, with its schema; as it is, or as it was at the moment `as_of`."""
    memory = await agent_memory(caller.connection, caller.principal, agent)
    declared = declared_block(memory, block)
    states = await _read(caller, memory, [declared], subject(caller.principal, user_id, session_id), as_of)
    return JSONResponse(states[0].to_wire(as_of) | {"schema": stored_block(declared).schema})


@router.post("")
async def operate_on_several(
    request: Request, *, agent: str, given: BlockOperations, writes: BlockWritesDependency, database: DatabaseDependency
) -> JSONResponse:
    """Carry out operations on several blocks, all or none, and return those blocks."""
    operations = parse_operations(given.operations)
    states = await _carry_out(request, writes, database, agent=agent, given=given, operations=operations)
    return JSONResponse({"blocks": [_told(state) for state in states]})


@router.post("/{block}")
@router.post("/{block}/operations")
async def operate(
    request: Request,
    *,
    agent: str,
    block: str,
    given: BlockOperations,
    writes: BlockWritesDependency,
    database: DatabaseDependency,
) -> JSONResponse:
    """Carry out operations on a block, all or none, and return it.

    400 when one cannot be applied or the schema would be broken; 409, with the `current` block, when a precondition
    does not hold. What holds already succeeds and makes no version (`changed` is false).
    """
    operations = parse_operations(given.operations, block)
    states = await _carry_out(request, writes, database, agent=agent, given=given, operations=operations)
    return JSONResponse(_told(states[0]))


async def _carry_out(
    request: Request,
    writes: BlockWrites,
    database: Database,
    *,
    agent: str,
    given: BlockOperations,
    operations: list[Operation],
) -> list[BlockState]:
    text, request_id = key_text(request), request.state.request_id
    key = given.idempotency_key or request.headers.get("idempotency-key")
    if key is None:
        return await writes.write(text, agent, AskedWrite(operations, given.user_id, given.session_id, request_id))
    if not 1 <= len(key) <= 255:
        raise InvalidRequest("An idempotency key has 1 to 255 characters.", param="idempotency-key")
    async with calling(database, text, "memory", request_id) as caller:
        return await _once(caller, key, request.url.path, agent=agent, given=given, operations=operations)


async def _once(
    caller: Caller, key: str, path: str, *, agent: str, given: BlockOperations, operations: list[Operation]
) -> list[BlockState]:
    principal, connection = caller.principal, caller.connection
    who = subject(principal, given.user_id, given.session_id)
    source = Source(session_id=who.session_id)
    # What is kept under the key is that the request was carried out, not what it wrote: erasure need not look there.
    digest = _digest(caller, path, given)
    kept = await idempotency.claim(connection, principal.tenant_id, key, digest, now())
    if kept is None:
        states = await apply_operations(
            connection, principal, agent, operations, who, actor=actor(caller), source=source
        )
        changed = any(state.changed for state in states)
        await idempotency.complete(connection, principal.tenant_id, key, digest, {"changed": changed})
        return states
    if kept["request"] != digest:
        raise Conflict(
            "This idempotency key was used for another request less than a day ago; send a new key with a new request.",
            param="idempotency_key",
            code="idempotency_key_reused",
        )
    memory = await agent_memory(connection, principal, agent)
    names = {operation.block for operation in operations}
    wanted = [declared for declared in memory.blocks if declared.name in names]
    return await read_blocks(connection, principal.tenant_id, memory, wanted, who)


@router.get("/{block}/history")
async def history(
    agent: str,
    block: str,
    caller: MemoryCaller,
    *,
    user_id: UserQuery = None,
    session_id: str | None = None,
    before_version: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JSONResponse:
    """List the block's versions, newest first; `before_version` goes on from there."""
    stored = await _stored(caller, agent, block, subject(caller.principal, user_id, session_id))
    found = (
        []
        if stored is None
        else await memory_versions.history(
            caller.connection,
            caller.principal.tenant_id,
            stored.store_id,
            stored.id,
            before=before_version,
            limit=limit,
        )
    )
    return JSONResponse({"data": [_version_to_wire(version) for version in found]})


@router.get("/{block}/diff")
async def diff(
    agent: str,
    block: str,
    caller: MemoryCaller,
    *,
    from_version: Annotated[int, Query(ge=1, lt=2**31)],
    to_version: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
    user_id: UserQuery = None,
    session_id: str | None = None,
) -> JSONResponse:
    """Tell what changed from one version to another (the current one), field by field."""
    stored = await _written(caller, agent, block, subject(caller.principal, user_id, session_id))
    tenant_id, numbers = caller.principal.tenant_id, (from_version, to_version or stored.version)
    before, after = [
        await memory_versions.of_number(caller.connection, tenant_id, stored.store_id, stored.id, number)
        for number in numbers
    ]
    return JSONResponse(difference(before, after))


@router.post("/{block}/restore")
@idempotent("value", "rendered", "states")
async def restore_block(agent: str, block: str, given: Restoration, caller: MemoryCaller) -> JSONResponse:
    """Make the block say again what it said at `version`: a new version, unless it says so already."""
    who = subject(caller.principal, given.user_id, given.session_id)
    stored = await _written(caller, agent, block, who)
    version = await memory_versions.of_number(
        caller.connection, caller.principal.tenant_id, stored.store_id, stored.id, given.version
    )
    _, changed = await restore(caller.connection, caller.principal, stored.store_id, version, actor=actor(caller))
    memory = await agent_memory(caller.connection, caller.principal, agent)
    (state,) = await _read(caller, memory, [declared_block(memory, block)], who, None)
    return JSONResponse(state.to_wire() | {"changed": changed})


async def _read(
    caller: Caller, memory: AgentMemory, blocks: list[AgentBlock], who: Subject, as_of: datetime | None
) -> list[BlockState]:
    if as_of is None:
        return await read_blocks(caller.connection, caller.principal.tenant_id, memory, blocks, who)
    return await blocks_as_of(caller.connection, caller.principal.tenant_id, memory, blocks, who, moment=as_of)


async def _stored(caller: Caller, agent: str, block: str, who: Subject) -> Memory | None:
    memory = await agent_memory(caller.connection, caller.principal, agent)
    (state,) = await _read(caller, memory, [declared_block(memory, block)], who, None)
    return state.memory


async def _written(caller: Caller, agent: str, block: str, who: Subject) -> Memory:
    stored = await _stored(caller, agent, block, who)
    if stored is None:
        raise NotFound(f"Nobody has written the block {block!r} for this subject; it has no versions.", param="block")
    return stored


def _told(state: BlockState) -> dict[str, Any]:
    return state.to_wire() | {"changed": state.changed}


def _version_to_wire(version: MemoryVersion) -> dict[str, Any]:
    return {
        "id": ids.encode("memver", version.id),
        "version": version.version,
        "operation": version.operation,
        "operations": version.operations,
        "value": json.loads(version.content) if version.content is not None and version.block else None,
        "states": {name: state_to_wire(state, version.created_at) for name, state in (version.states or {}).items()},
        "actor": {"type": version.actor.type, "id": version.actor.id},
        "session_id": None if version.session_id is None else ids.encode("sesn", version.session_id),
        "event_id": None if version.event_id is None else ids.encode("sevt", version.event_id),
        "created_at": to_wire(version.created_at),
        "redacted_at": to_wire(version.redacted_at),
    }


def _digest(caller: Caller, path: str, given: BlockOperations) -> str:
    """Return what tells requests apart: who asks, where, and what."""
    check_value(given.operations, "operations")
    asked = canonical([path, given.user_id, given.session_id, given.operations])
    return hashlib.sha256(caller.principal.key_id.bytes + asked.encode()).hexdigest()
