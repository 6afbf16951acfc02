"""Files into memory: what `export` wrote, and agent files of Letta's. Trunkline's addition to the wire."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Annotated, Any

import psycopg
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from trunkline.api.agents import change
from trunkline.api.bodies import check
from trunkline.api.deps import Caller
from trunkline.api.idempotency import idempotent
from trunkline.api.memory_caller import MemoryCaller, UserId, actor, subject
from trunkline.domain import ids
from trunkline.domain.agents import AgentDefinition
from trunkline.domain.memory import AgentMemory, MemoryStore, Subject, store_owner
from trunkline.domain.memory_file import MEDIA_TYPE, HeaderLine
from trunkline.domain.times import now
from trunkline.errors import Forbidden, InvalidRequest
from trunkline.memory import agent_files
from trunkline.memory.agent_files import AgentFile
from trunkline.memory.imports import Ids, Imported, Numbered, put, read
from trunkline.store import agents, memory_stores
from trunkline.store.blocks import agent_memory
from trunkline.store.memory_stores import refuse_archived

router = APIRouter(prefix="/v1", tags=["memory stores"])

LINES = {"requestBody": {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "required": True}}

Part = Annotated[bool, Query()]
Offset = Annotated[int, Query(ge=0)]


@router.post("/memory_stores/{store_id}/import", openapi_extra=LINES)
@idempotent()
async def into_store(
    request: Request,
    store_id: str,
    caller: MemoryCaller,
    *,
    ids_: Annotated[Ids, Query(alias="ids")] = "keep",
    part: Part = False,
    offset: Offset = 0,
    check_only: Annotated[bool, Query(alias="check")] = False,
) -> JSONResponse:
    """Import a file of `export` into a store: all of it, or, where a line of it is bad, nothing.

    What the store has already is left as it is, so that a file may be given again. `ids=new` gives memories and
    versions ids of this store's own, for a copy beside the store that they came from. A file over the limit of a body
    goes in parts, each with the header, `part=true` and, so that errors name its lines, the `offset` of the first after
    it. `check=true` writes nothing. Needs the scopes `memory` and `manage`: the file says who wrote what.
    """
    caller.principal.require("manage")
    store = await memory_stores.lock(caller.connection, caller.principal, ids.decode("memstore", store_id))
    lines = read(json_lines(await _body(request), offset), whole=not part)
    next(lines)
    return JSONResponse(await _put(caller, store, lines, new_ids=ids_ == "new", check_only=check_only))


@router.post(
    "/agents/{agent}/memory_import",
    openapi_extra={
        "requestBody": {
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}}, "application/json": {"schema": {"type": "object"}}},
            "required": True,
        }
    },
)
@idempotent()
async def into_agent(
    request: Request,
    agent: str,
    caller: MemoryCaller,
    *,
    user_id: Annotated[UserId | None, Query()] = None,
    session_id: str | None = None,
    ids_: Annotated[Ids, Query(alias="ids")] = "keep",
    part: Part = False,
    offset: Offset = 0,
    check_only: Annotated[bool, Query(alias="check")] = False,
    from_agent: Annotated[str | None, Query(max_length=256)] = None,
    declare: bool = False,
) -> JSONResponse:
    """Import a file into an agent's memory: JSON Lines of a store that an agent made, or Letta's agent file (JSON).

    Of JSON Lines the scope of the store says into which memory: the organisation's, the agent's, that of `user_id` or
    of `session_id`; the agent has to declare the blocks that are in it. See `import` for the rest. Of an agent file
    (`.af`) each block becomes the block of its label, in its field `text`; with `declare` (and the scope `manage`) the
    agent's definition gets those that it lacks. What was said, and texts of files, is kept for recall, for `user_id` or
    `session_id`. `from_agent` names the agent of a file that has several. Tools, models and environment variables are
    not read.
    """
    declared = await agent_memory(caller.connection, caller.principal, agent)
    whose = subject(caller.principal, user_id, session_id)
    if _media_type(request) == "application/json":
        file = agent_files.read(json.loads(await request.body()), name=from_agent)
        return JSONResponse(await _put_agent_file(caller, agent, declared, file, whose, declare=declare))
    caller.principal.require("manage")
    lines = read(json_lines(await _body(request), offset), whole=not part)
    header = next(lines)[1]
    if not isinstance(header, HeaderLine) or not header.store.managed:
        raise InvalidRequest(
            "Line 1: the file is of a store that no agent made; import it into a store of that kind "
            "(POST /v1/memory_stores/{id}/import).",
            param="line",
        )
    if header.store.scope == "org" and caller.principal.agent_id is not None:
        raise Forbidden("The key may act for one agent, and the file is the organisation's: use a key of no agent.")
    caller.principal.require_memory(header.store.scope, write=True)
    owner = store_owner(header.store.scope, declared.agent_id, whose)
    store_id = await memory_stores.managed(caller.connection, caller.principal.tenant_id, owner, now())
    store = await memory_stores.lock_managed(caller.connection, caller.principal.tenant_id, store_id)
    return JSONResponse(await _put(caller, store, lines, new_ids=ids_ == "new", check_only=check_only))


async def _put_agent_file(
    caller: Caller, agent: str, declared: AgentMemory, file: AgentFile, whose: Subject, *, declare: bool
) -> dict[str, Any]:
    missing = agent_files.missing(declared, file)
    if missing and not declare:
        raise InvalidRequest(
            f"The agent declares no block {', '.join(missing)}. Import with `declare`, or add to its `memory.blocks`: "
            f"{json.dumps(missing, ensure_ascii=False)}",
            param="declare",
            code="blocks_not_declared",
        )
    if missing:
        caller.principal.require("manage")
        before = await agents.lock(caller.connection, caller.principal, agent)
        memory = dict(before.definition["memory"] or {})
        memory["blocks"] = {**(memory.get("blocks") or {}), **missing}
        await change(caller, before, AgentDefinition.model_validate({**before.definition, "memory": memory}))
        declared = await agent_memory(caller.connection, caller.principal, agent)
    kept = await agent_files.put(caller.connection, caller.principal, declared, file, whose, actor=actor(caller))
    return {
        "type": "agent_file_import",
        "name": file.name,
        "blocks": [agent_files.block_name(block.label) for block in file.blocks],
        "declared": list(missing),
        "were_read_only": [agent_files.block_name(block.label) for block in file.blocks if block.read_only],
        "turns": len(file.turns),
        "documents": len(file.documents),
        "silent_messages": file.silent,
        "passages": kept.passages,
        "added": kept.added,
    }


async def _put(
    caller: Caller, store: MemoryStore, lines: Iterator[Numbered[Any]], *, new_ids: bool, check_only: bool
) -> dict[str, Any]:
    refuse_archived(store.id, store.archived_at)
    done = Imported()
    async with caller.connection.transaction() as trial:
        done = await put(caller.connection, caller.principal, store, lines, at=now(), new_ids=new_ids)
        if check_only:
            raise psycopg.Rollback(trial)
    return {
        "type": "memory_import",
        "memory_store_id": ids.encode("memstore", store.id),
        "checked_only": check_only,
        "given": done.given,
        "added": done.added,
    }


async def _body(request: Request) -> bytes:
    kind = _media_type(request)
    if kind not in (MEDIA_TYPE, "application/jsonl", "application/x-jsonlines"):
        raise InvalidRequest(f"The body is {kind or 'of no type'!r}; send {MEDIA_TYPE}.", param="content-type")
    return await request.body()


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def json_lines(body: bytes, offset: int) -> Iterator[tuple[int, Any]]:
    """Yield the JSON values of a body's lines with their numbers in the file. Raises InvalidRequest with the number."""
    start = 0
    for number in itertools.count(1):
        if start >= len(body):
            return
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        line = body[start:end]
        start = end + 1
        shown = number if number == 1 else number + offset
        if not line.strip():
            raise InvalidRequest(f"Line {shown}: is empty. Nothing was imported.", param="line")
        try:
            check(line)
        except InvalidRequest as error:
            raise InvalidRequest(f"Line {shown}: {error.message}", param="line", code=error.code) from error
        yield shown, json.loads(line)
