"""What is attached to a session: memory stores, which keep the store's id, and files."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Manager
from trunkline.api.idempotency import once
from trunkline.domain import ids
from trunkline.domain.sessions import ResourceRequest
from trunkline.domain.times import now
from trunkline.errors import Conflict
from trunkline.store import sessions
from trunkline.store.attachments import attached, find, id_of

router = APIRouter(prefix="/v1/sessions/{session_id}/resources", tags=["sessions"])


@router.post("")
async def add(request: Request, session_id: str, given: ResourceRequest, caller: Manager) -> JSONResponse:
    """Attach a file, or a memory store, to a session."""
    session = ids.decode("sesn", session_id)

    async def act() -> dict[str, Any]:
        head = await sessions.lock(caller.connection, caller.principal, session)
        if head.archived_at is not None:
            raise Conflict("The session is archived; nothing can be attached to it.", code="archived")
        at = now()
        after = await attached(caller.connection, caller.principal, [given.root], at, beside=head.resources)
        await sessions.attach(caller.connection, caller.principal.tenant_id, session, after, at)
        return dict(after[-1])

    return JSONResponse(await once(request, caller, act))


@router.get("")
async def list_resources(
    session_id: str, caller: Manager, *, limit: Annotated[int, Query(ge=1, le=1000)] = 100, page: str | None = None
) -> JSONResponse:
    """List what is attached to a session, in the order in which it was."""
    session = await sessions.get(caller.connection, caller.principal, ids.decode("sesn", session_id))
    places = list(enumerate(session.resources, start=1))[paging.read_number(page) or 0 :]
    return JSONResponse(
        paging.page(places, limit, lambda placed: placed[1], lambda placed: paging.at_number(placed[0]))
    )


@router.get("/{resource_id}")
async def retrieve(session_id: str, resource_id: str, caller: Manager) -> JSONResponse:
    """Get one thing that is attached to a session."""
    session = await sessions.get(caller.connection, caller.principal, ids.decode("sesn", session_id))
    return JSONResponse(find(session.resources, resource_id, session.id))


@router.delete("/{resource_id}")
async def delete(session_id: str, resource_id: str, caller: Manager) -> JSONResponse:
    """Detach a file or a memory store; it stays itself what it is."""
    session = ids.decode("sesn", session_id)
    head = await sessions.lock(caller.connection, caller.principal, session)
    gone = find(head.resources, resource_id, session)
    left = [resource for resource in head.resources if resource is not gone]
    await sessions.attach(caller.connection, caller.principal.tenant_id, session, left, now())
    return JSONResponse({"id": id_of(gone), "type": "session_resource_deleted"})
