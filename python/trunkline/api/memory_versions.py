"""Memory versions: the history of a store, in the Managed Agents wire."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.idempotency import idempotent
from trunkline.api.memories import MAX_FULL, View, memory_to_wire
from trunkline.api.memory_caller import MemoryCaller, actor
from trunkline.domain import ids
from trunkline.domain.memory import MemoryVersion, VersionOperation, actor_to_wire
from trunkline.domain.times import now, to_wire
from trunkline.errors import Conflict, InvalidRequest, NotFound
from trunkline.memory.history import difference, restore
from trunkline.store import memories, memory_stores, memory_versions
from trunkline.store.memory_versions import VersionFilter

router = APIRouter(prefix="/v1/memory_stores/{store_id}/memory_versions", tags=["memory versions"])


@router.get("")
async def list_versions(
    store_id: str,
    caller: MemoryCaller,
    *,
    memory_id: str | None = None,
    operation: VersionOperation | None = None,
    session_id: str | None = None,
    api_key_id: str | None = None,
    service_account_id: str | None = None,
    created_from: Annotated[AwareDatetime | None, Query(alias="created_at[gte]")] = None,
    created_to: Annotated[AwareDatetime | None, Query(alias="created_at[lte]")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    view: View = "basic",
) -> JSONResponse:
    """List versions, newest first, those of deleted memories too."""
    store = await memory_stores.get(caller.connection, caller.principal, ids.decode("memstore", store_id))
    if service_account_id is not None:  # there are no service accounts here, so none has written anything
        return JSONResponse({"data": [], "next_page": None})
    wanted = VersionFilter(
        memory_id=None if memory_id is None else ids.decode("mem", memory_id),
        operation=operation,
        session_id=None if session_id is None else ids.decode("sesn", session_id),
        api_key=None if api_key_id is None else ids.encode("key", ids.decode("key", api_key_id)),
        created_from=created_from,
        created_to=created_to,
    )
    size = min(limit, MAX_FULL) if view == "full" else limit
    found = await memory_versions.page(
        caller.connection,
        caller.principal.tenant_id,
        store.id,
        wanted,
        after=paging.read_time(page),
        limit=size + 1,
    )
    return JSONResponse(
        paging.page(
            found,
            size,
            lambda version: version_to_wire(version, view),
            lambda version: paging.at_time(version.created_at, version.id),
        )
    )


@router.get("/{version_id}")
async def retrieve(store_id: str, version_id: str, caller: MemoryCaller, view: View = "full") -> JSONResponse:
    """Get a version. A redacted one has no path, content or hash."""
    store = await memory_stores.get(caller.connection, caller.principal, ids.decode("memstore", store_id))
    found = await memory_versions.get(
        caller.connection, caller.principal.tenant_id, store.id, ids.decode("memver", version_id)
    )
    return JSONResponse(version_to_wire(found, view))


@router.post("/{version_id}/redact")
@idempotent()
async def redact(store_id: str, version_id: str, caller: MemoryCaller) -> JSONResponse:
    """Empty a version of all that it says, for good, and keep who wrote it and when.

    409 for the version that a memory stands at now: write or delete the memory first, then redact.
    """
    tenant_id = caller.principal.tenant_id
    store = await memory_stores.lock(caller.connection, caller.principal, ids.decode("memstore", store_id))
    version = await memory_versions.get(caller.connection, tenant_id, store.id, ids.decode("memver", version_id))
    try:
        memory = await memories.lock(caller.connection, tenant_id, store.id, version.memory_id)
    except NotFound:  # deleted: none of its versions is the current one
        memory = None
    if memory is not None and memory.version_id == version.id:
        raise Conflict(
            f"{ids.encode('memver', version.id)} is what the memory {memory.path} says now and cannot be redacted. "
            "Write a new version of it, or delete the memory, then redact this one.",
            code="current_version",
        )
    redacted = await memory_versions.redact(
        caller.connection,
        tenant_id,
        store.id,
        version.id,
        by=ids.encode("key", caller.principal.key_id),
        at=now(),
    )
    return JSONResponse(version_to_wire(redacted, "full"))


@router.post("/{version_id}/restore")
@idempotent("content")
async def restore_version(store_id: str, version_id: str, caller: MemoryCaller, view: View = "basic") -> JSONResponse:
    """Make the memory say again what it said at this version, a deleted one too; return the memory."""
    store = await memory_stores.get(caller.connection, caller.principal, ids.decode("memstore", store_id))
    version = await memory_versions.get(
        caller.connection, caller.principal.tenant_id, store.id, ids.decode("memver", version_id)
    )
    memory, _ = await restore(caller.connection, caller.principal, store.id, version, actor=actor(caller))
    return JSONResponse(memory_to_wire(memory, view))


@router.get("/{version_id}/diff")
async def diff(store_id: str, version_id: str, caller: MemoryCaller, since: str | None = None) -> JSONResponse:
    """Tell what this version changed since the one before it, or since the version `since` of the same memory."""
    tenant_id = caller.principal.tenant_id
    store = await memory_stores.get(caller.connection, caller.principal, ids.decode("memstore", store_id))
    after = await memory_versions.get(caller.connection, tenant_id, store.id, ids.decode("memver", version_id))
    if since is None:
        before = await memory_versions.of_number(
            caller.connection, tenant_id, store.id, after.memory_id, after.version - 1
        )
    else:
        before = await memory_versions.get(caller.connection, tenant_id, store.id, ids.decode("memver", since))
    if before.memory_id != after.memory_id:
        raise InvalidRequest("The two versions are of different memories.", param="since")
    return JSONResponse(difference(before, after))


def version_to_wire(version: MemoryVersion, view: View) -> dict[str, Any]:
    """Return a version as the wire tells it; `version`, `operations`, `session_id` and `event_id` are additions."""
    return {
        "id": ids.encode("memver", version.id),
        "type": "memory_version",
        "memory_id": ids.encode("mem", version.memory_id),
        "memory_store_id": ids.encode("memstore", version.store_id),
        "operation": version.operation,
        "path": version.path,
        "content": version.content if view == "full" else None,
        "content_sha256": version.content_sha256,
        "content_size_bytes": version.content_bytes,
        "created_at": to_wire(version.created_at),
        "created_by": actor_to_wire(version.actor, version.session_id),
        "redacted_at": to_wire(version.redacted_at),
        "redacted_by": (
            None if version.redacted_by is None else {"type": "api_actor", "api_key_id": version.redacted_by}
        ),
        "version": version.version,
        "operations": version.operations if view == "full" else None,
        "session_id": None if version.session_id is None else ids.encode("sesn", version.session_id),
        "event_id": None if version.event_id is None else ids.encode("sevt", version.event_id),
    }
