"""Memory stores, in the Managed Agents wire."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.idempotency import idempotent, once
from trunkline.api.memory_caller import MemoryCaller, no_controls, no_nul
from trunkline.domain import ids
from trunkline.domain.memory import MemoryStore
from trunkline.domain.times import now, to_wire
from trunkline.errors import InvalidRequest
from trunkline.memory.redaction import parse_detectors
from trunkline.store import memory_stores
from trunkline.store.memory_stores import StoreFilter, refuse_archived

router = APIRouter(prefix="/v1/memory_stores", tags=["memory stores"])

MAX_METADATA: Final = 16
MAX_DAYS: Final = 36_500

Name = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(no_controls)]
Description = Annotated[str, StringConstraints(max_length=1024), AfterValidator(no_nul)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(no_nul)]
Value = Annotated[str, StringConstraints(max_length=512), AfterValidator(no_nul)]


class CreateStore(BaseModel):
    """A new store. `metadata` has at most 16 pairs; `expire_after_days`, for how long it keeps what is in it.

    `redact`: detectors, by name or as `{name, pattern}`, of what may not be written into it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    description: Description | None = None
    metadata: dict[Key, Value] | None = None
    expire_after_days: Annotated[int | None, Field(ge=1, le=MAX_DAYS, strict=True)] = None
    redact: list[Any] | None = None


class UpdateStore(BaseModel):
    """What to change; what is left out, or null, stays. In `metadata`, null removes a key.

    `expire_after_days` 0: what is in the store is kept as long as the store. `redact` []: nothing is redacted any more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name | None = None
    description: Description | None = None
    metadata: dict[Key, Value | None] | None = None
    expire_after_days: Annotated[int | None, Field(ge=0, le=MAX_DAYS, strict=True)] = None
    redact: list[Any] | None = None


@router.post("")
async def create(request: Request, given: CreateStore, caller: MemoryCaller) -> JSONResponse:
    """Create a store. A key of one agent makes stores of that agent; another key, stores of the organisation."""
    caller.principal.require_all_stores("make another")

    async def act() -> dict[str, Any]:
        at = now()
        agent_id = caller.principal.agent_id
        store = MemoryStore(
            id=ids.new(),
            name=given.name,
            description=given.description or "",
            metadata=_bounded(given.metadata or {}),
            scope="org" if agent_id is None else "agent",
            agent_id=agent_id,
            subject=None,
            managed=False,
            created_at=at,
            updated_at=at,
            archived_at=None,
            expire_after_days=given.expire_after_days,
            redact=parse_detectors(given.redact or [], "redact") or None,
        )
        await memory_stores.create(caller.connection, caller.principal.tenant_id, store)
        return store_to_wire(store)

    return JSONResponse(await once(request, caller, act))


@router.get("")
async def list_stores(
    caller: MemoryCaller,
    *,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    include_archived: bool = False,
    created_from: Annotated[AwareDatetime | None, Query(alias="created_at[gte]")] = None,
    created_to: Annotated[AwareDatetime | None, Query(alias="created_at[lte]")] = None,
) -> JSONResponse:
    """List stores, newest first; those that agents' blocks made (`managed`) too."""
    wanted = StoreFilter(include_archived, created_from, created_to)
    found = await memory_stores.page(caller.connection, caller.principal, wanted, paging.read_time(page), limit + 1)
    return JSONResponse(
        paging.page(found, limit, store_to_wire, lambda store: paging.at_time(store.created_at, store.id))
    )


@router.get("/{store_id}")
async def retrieve(store_id: str, caller: MemoryCaller) -> JSONResponse:
    """Get a store."""
    store = await memory_stores.get(caller.connection, caller.principal, ids.decode("memstore", store_id))
    return JSONResponse(store_to_wire(store))


@router.post("/{store_id}")
@idempotent()
async def update(store_id: str, given: UpdateStore, caller: MemoryCaller) -> JSONResponse:
    """Change a store's name, description, metadata or retention. 400 when it is archived."""
    store = await memory_stores.lock(caller.connection, caller.principal, ids.decode("memstore", store_id))
    refuse_archived(store.id, store.archived_at)
    if given.redact is not None and store.managed and store.agent_id is not None:
        raise InvalidRequest(
            f"The store {store_id} was made for the memory of the agent {ids.encode('agent', store.agent_id)}; what is "
            "redacted in it is said there, in `memory.redact`.",
            param="redact",
        )
    patch = given.metadata or {}
    metadata = {key: value for key, value in store.metadata.items() if key not in patch}
    metadata |= {key: value for key, value in patch.items() if value is not None}
    after = replace(
        store,
        name=store.name if given.name is None else given.name,
        description=store.description if given.description is None else given.description,
        metadata=_bounded(metadata),
        expire_after_days=(
            store.expire_after_days if given.expire_after_days is None else given.expire_after_days or None
        ),
        redact=store.redact if given.redact is None else list(parse_detectors(given.redact, "redact")) or None,
    )
    if after != store:
        after = replace(after, updated_at=now())
        await memory_stores.update(caller.connection, caller.principal.tenant_id, after)
    return JSONResponse(store_to_wire(after))


router.patch("/{store_id}", name="patch", summary="Update", description=update.__doc__ or "")(update)


@router.post("/{store_id}/archive")
@idempotent()
async def archive(store_id: str, caller: MemoryCaller) -> JSONResponse:
    """Archive a store: from then on it can only be read, redacted and deleted. It cannot be undone."""
    store = await memory_stores.lock(caller.connection, caller.principal, ids.decode("memstore", store_id))
    await memory_stores.archive(caller.connection, caller.principal.tenant_id, store.id, now())
    return JSONResponse(store_to_wire(await memory_stores.get(caller.connection, caller.principal, store.id)))


@router.delete("/{store_id}")
async def delete(store_id: str, caller: MemoryCaller) -> JSONResponse:
    """Delete a store with its memories, their versions, and the passages that recall finds in it."""
    found = ids.decode("memstore", store_id)
    await memory_stores.delete(caller.connection, caller.principal, found)
    return JSONResponse({"id": ids.encode("memstore", found), "type": "memory_store_deleted"})


def store_to_wire(store: MemoryStore) -> dict[str, Any]:
    """Return a store as the wire tells it; what follows `archived_at` is Trunkline's addition."""
    return {
        "id": ids.encode("memstore", store.id),
        "type": "memory_store",
        "name": store.name,
        "description": store.description,
        "metadata": store.metadata,
        "created_at": to_wire(store.created_at),
        "updated_at": to_wire(store.updated_at),
        "archived_at": to_wire(store.archived_at),
        "scope": store.scope,
        "agent_id": None if store.agent_id is None else ids.encode("agent", store.agent_id),
        "subject": store.subject,
        "managed": store.managed,
        "expire_after_days": store.expire_after_days,
        "redact": None if store.redact is None else list(store.redact),
    }


def _bounded(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > MAX_METADATA:
        raise InvalidRequest(
            f"metadata would have {len(metadata)} pairs; at most {MAX_METADATA} are allowed. Remove some (null).",
            param="metadata",
        )
    return metadata
