"""What is attached to a session: memory stores, which keep the store's id, files, and repositories."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Manager, PartsDependency
from trunkline.api.idempotency import once
from trunkline.domain import ids
from trunkline.domain.repositories import RepositoryUpdate
from trunkline.domain.sessions import ResourceRequest
from trunkline.domain.times import now, to_wire
from trunkline.errors import Conflict, InvalidRequest
from trunkline.store import repository_tokens, sessions
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


@router.post("/{resource_id}")
async def update(
    *,
    request: Request,
    session_id: str,
    resource_id: str,
    given: RepositoryUpdate,
    caller: Manager,
    parts: PartsDependency,
) -> JSONResponse:
    """Give a repository another token. One that could not be cloned is tried again when the session works next."""
    session, tenant = ids.decode("sesn", session_id), caller.principal.tenant_id

    async def act() -> dict[str, Any]:
        head = await sessions.lock(caller.connection, caller.principal, session)
        before = find(head.resources, resource_id, session)
        if before["type"] != "github_repository":
            raise InvalidRequest(
                f"The resource is of type {before['type']!r}; only a 'github_repository' has a token.",
                param="authorization_token",
            )
        if head.archived_at is not None:
            raise Conflict("The session is archived; nothing of it can be changed.", code="archived")
        at = now()
        after = {**before, "updated_at": to_wire(at)}
        resources = [after if resource is before else resource for resource in head.resources]
        await sessions.attach(caller.connection, tenant, session, resources, at)
        await repository_tokens.put(
            caller.connection,
            parts.sealing,
            tenant,
            session,
            resource_id=ids.decode("sesrsc", resource_id),
            token=given.authorization_token.get_secret_value(),
        )
        return after

    return JSONResponse(await once(request, caller, act))


router.patch("/{resource_id}", name="patch", summary="Update", description=update.__doc__ or "")(update)


@router.delete("/{resource_id}")
async def delete(session_id: str, resource_id: str, caller: Manager) -> JSONResponse:
    """Detach a file, a memory store or a repository; what was put into the session's place already stays there."""
    session = ids.decode("sesn", session_id)
    head = await sessions.lock(caller.connection, caller.principal, session)
    gone = find(head.resources, resource_id, session)
    left = [resource for resource in head.resources if resource is not gone]
    await sessions.attach(caller.connection, caller.principal.tenant_id, session, left, now())
    if gone["type"] == "github_repository":
        resource = ids.decode("sesrsc", gone["id"])
        await repository_tokens.forget(caller.connection, caller.principal.tenant_id, session, resource)
    return JSONResponse({"id": id_of(gone), "type": "session_resource_deleted"})
