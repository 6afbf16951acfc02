"""Memories of a store, in the Managed Agents wire."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.idempotency import idempotent, once
from trunkline.api.memory_caller import MemoryCaller, actor
from trunkline.domain import ids
from trunkline.domain.memory import Memory
from trunkline.domain.times import to_wire
from trunkline.errors import InvalidRequest
from trunkline.memory.documents import create_document, delete_document, update_document
from trunkline.memory.paths import check_path, check_prefix
from trunkline.store import memories, memory_stores

router = APIRouter(prefix="/v1/memory_stores/{store_id}/memories", tags=["memories"])

View = Literal["basic", "full"]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

MAX_FULL: Final = 20
"""The most items of a page with contents."""


class CreateMemory(BaseModel):
    """A new memory. Null content is an empty one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    content: str | None


class Precondition(BaseModel):
    """What the memory must still be for an update to apply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["content_sha256"]
    content_sha256: Sha256 | None = None


class UpdateMemory(BaseModel):
    """What to change; what is left out, or null, stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = None
    content: str | None = None
    precondition: Precondition | None = None


@router.post("")
async def create(
    request: Request, store_id: str, given: CreateMemory, caller: MemoryCaller, view: View = "basic"
) -> JSONResponse:
    """Create a memory. 409 `memory_path_conflict_error` when a memory is at the path, above it or below it."""

    async def act() -> dict[str, Any]:
        written = await create_document(
            caller.connection,
            caller.principal,
            ids.decode("memstore", store_id),
            given.path,
            given.content or "",
            actor=actor(caller),
        )
        return memory_to_wire(written, view)

    # The content is not kept with the idempotency key: erasing a memory need not look there.
    return JSONResponse(await once(request, caller, act, keep=lambda answer: {**answer, "content": None}))


@router.get("")
async def list_memories(
    store_id: str,
    caller: MemoryCaller,
    *,
    path_prefix: str = "/",
    depth: Annotated[int, Query(ge=0, le=20)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    view: View = "basic",
) -> JSONResponse:
    """List memories below a prefix, in byte order of their paths; deeper than `depth`, as `memory_prefix` items."""
    prefix = check_prefix(path_prefix)
    store = await memory_stores.get(caller.connection, caller.principal, ids.decode("memstore", store_id))
    size = min(limit, MAX_FULL) if view == "full" else limit
    found = await memories.page(
        caller.connection,
        caller.principal.tenant_id,
        store.id,
        prefix=prefix,
        depth=depth,
        after=_read_position(page),
        limit=size + 1,
    )

    def entry_to_wire(entry: Memory | str) -> dict[str, Any]:
        return {"type": "memory_prefix", "path": entry} if isinstance(entry, str) else memory_to_wire(entry, view)

    return JSONResponse(paging.page(found, size, entry_to_wire, _position))


@router.get("/{memory_id}")
async def retrieve(store_id: str, memory_id: str, caller: MemoryCaller, view: View = "full") -> JSONResponse:
    """Get a memory."""
    store = await memory_stores.get(caller.connection, caller.principal, ids.decode("memstore", store_id))
    found = await memories.get(caller.connection, caller.principal.tenant_id, store.id, ids.decode("mem", memory_id))
    return JSONResponse(memory_to_wire(found, view))


@router.post("/{memory_id}")
@idempotent("content")
async def update(
    store_id: str, memory_id: str, given: UpdateMemory, caller: MemoryCaller, view: View = "basic"
) -> JSONResponse:
    """Replace a memory's content, path or both. Without a precondition, the last writer wins.

    409 `memory_precondition_failed_error` when the content is not the one expected (and not already as asked for).
    """
    written = await update_document(
        caller.connection,
        caller.principal,
        ids.decode("memstore", store_id),
        ids.decode("mem", memory_id),
        content=given.content,
        path=given.path,
        expect_sha256=given.precondition.content_sha256 if given.precondition else None,
        actor=actor(caller),
    )
    return JSONResponse(memory_to_wire(written, view))


router.patch("/{memory_id}", name="patch", summary="Update", description=update.__doc__ or "")(update)


@router.delete("/{memory_id}")
async def delete(
    store_id: str, memory_id: str, caller: MemoryCaller, expected_content_sha256: Sha256 | None = None
) -> JSONResponse:
    """Delete a memory; its versions stay readable."""
    found = ids.decode("mem", memory_id)
    await delete_document(
        caller.connection,
        caller.principal,
        ids.decode("memstore", store_id),
        found,
        expect_sha256=expected_content_sha256,
        actor=actor(caller),
    )
    return JSONResponse({"id": ids.encode("mem", found), "type": "memory_deleted"})


def memory_to_wire(memory: Memory, view: View) -> dict[str, Any]:
    """Return a memory as the wire tells it; `version` and `block` are Trunkline's additions."""
    return {
        "id": ids.encode("mem", memory.id),
        "type": "memory",
        "memory_store_id": ids.encode("memstore", memory.store_id),
        "memory_version_id": ids.encode("memver", memory.version_id),
        "path": memory.path,
        "content": memory.content if view == "full" else None,
        "content_sha256": memory.content_sha256,
        "content_size_bytes": memory.content_bytes,
        "created_at": to_wire(memory.created_at),
        "updated_at": to_wire(memory.updated_at),
        "version": memory.version,
        "block": memory.block,
    }


def _position(entry: Memory | str) -> str:
    path = entry if isinstance(entry, str) else entry.path
    return "page_" + base64.urlsafe_b64encode(path.encode()).decode().rstrip("=")


def _read_position(text: str | None) -> str | None:
    """Return the path in a position that `_position` made. Raises InvalidRequest for anything else."""
    if text is None:
        return None
    digits = text.removeprefix("page_")[:2000]
    try:
        path = base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise InvalidRequest(
            f"{shown!r} is not a page of this list; send `next_page` of the page before as it came, or leave it out.",
            param="page",
        ) from error
    check_path(path.removesuffix("/"), "page")
    return path
