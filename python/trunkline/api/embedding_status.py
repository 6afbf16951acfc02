"""How far the embeddings of a store are; beside the Managed Agents wire."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from trunkline.api.idempotency import idempotent
from trunkline.api.memory_caller import MemoryCaller
from trunkline.domain import ids
from trunkline.store import embedding, memory_stores

router = APIRouter(prefix="/v1/memory_stores", tags=["memory stores"])


@router.get("/{store_id}/embeddings")
async def status(store_id: str, caller: MemoryCaller) -> JSONResponse:
    """Tell how far the embeddings of a store are, and what is in their way."""
    store = await memory_stores.get(caller.connection, caller.principal, ids.decode("memstore", store_id))
    found = await embedding.status(caller.connection, caller.principal.tenant_id, store.id)
    empty = embedding.StoreStatus(store.id, None, None, 0, 0, 0, 0, None, None, indexed=False)
    return JSONResponse(_status_to_wire(next(iter(found), empty)))


@router.post("/{store_id}/embeddings/restart")
@idempotent()
async def restart(store_id: str, caller: MemoryCaller) -> JSONResponse:
    """Embed a store anew, such as after its model has changed under its name; until then it is found by words alone."""
    store = await memory_stores.lock(caller.connection, caller.principal, ids.decode("memstore", store_id))
    tenant_id = caller.principal.tenant_id
    await embedding.embed_again(caller.connection, tenant_id, store.id)
    (found,) = await embedding.status(caller.connection, tenant_id, store.id) or [
        embedding.StoreStatus(store.id, None, None, 0, 0, 0, 0, None, None, indexed=False)
    ]
    return JSONResponse(_status_to_wire(found))


def _status_to_wire(status: embedding.StoreStatus) -> dict[str, Any]:
    return {
        "type": "memory_embeddings",
        "memory_store_id": ids.encode("memstore", status.store_id),
        "model": status.model,
        "next_model": status.next_model,
        "passages": status.passages,
        "embedded": status.embedded,
        "waiting": status.waiting,
        "failing": status.failing,
        "fault": status.fault,
        "message": status.message,
        "indexed": status.indexed,
    }
