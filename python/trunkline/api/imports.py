"""Files into memory: what `export` wrote. Trunkline's addition to the wire."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Annotated, Any

import psycopg
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from trunkline.api.bodies import check
from trunkline.api.deps import Caller
from trunkline.api.memory_caller import MemoryCaller, UserId, subject
from trunkline.domain import ids
from trunkline.domain.memory import MemoryStore, store_owner
from trunkline.domain.memory_file import MEDIA_TYPE, HeaderLine
from trunkline.domain.times import now
from trunkline.errors import Forbidden, InvalidRequest
from trunkline.memory.imports import Ids, Imported, Numbered, put, read
from trunkline.store import memory_stores
from trunkline.store.blocks import agent_memory
from trunkline.store.memory_stores import refuse_archived

router = APIRouter(prefix="/v1", tags=["memory stores"])

LINES = {"requestBody": {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "required": True}}

Part = Annotated[bool, Query()]
Offset = Annotated[int, Query(ge=0)]


@router.post("/memory_stores/{store_id}/import", openapi_extra=LINES)
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


@router.post("/agents/{agent}/memory_import", openapi_extra=LINES)
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
) -> JSONResponse:
    """Import a file of a store that an agent made into the same kind of memory of this agent, as `import` does.

    The file's scope says which: the organisation's, the agent's, that of `user_id` or of `session_id`. The agent has to
    declare the blocks that are in it.
    """
    caller.principal.require("manage")
    declared = await agent_memory(caller.connection, caller.principal, agent)
    lines = read(json_lines(await _body(request), offset), whole=not part)
    header = next(lines)[1]
    if not isinstance(header, HeaderLine) or not header.store.managed:
        raise InvalidRequest(
            "Line 1: the file is of a store that no agent made; import it into a store of that kind "
            "(POST /v1/memory_stores/{id}/import).",
            param="line",
        )
    if header.store.scope == "org" and caller.principal.agent_id is not None:
        raise Forbidden(
            "The key may act for one agent only, and the file is the organisation's; use a key of no agent."
        )
    owner = store_owner(header.store.scope, declared.agent_id, subject(user_id, session_id))
    store_id = await memory_stores.managed(caller.connection, caller.principal.tenant_id, owner, now())
    store = await memory_stores.lock_managed(caller.connection, caller.principal.tenant_id, store_id)
    return JSONResponse(await _put(caller, store, lines, new_ids=ids_ == "new", check_only=check_only))


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
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (MEDIA_TYPE, "application/jsonl", "application/x-jsonlines"):
        raise InvalidRequest(f"The body is {kind or 'of no type'!r}; send {MEDIA_TYPE}.", param="content-type")
    return await request.body()


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
