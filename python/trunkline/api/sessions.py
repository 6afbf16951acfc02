"""Sessions: conversations with one version of an agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Caller, Manager, PartsDependency
from trunkline.api.environments import environment_id
from trunkline.api.events import append
from trunkline.api.idempotency import once
from trunkline.domain import ids
from trunkline.domain.agents import Agent
from trunkline.domain.sessions import MemoryStoreResource, Session, SessionRequest, SessionUpdate
from trunkline.domain.times import now
from trunkline.errors import Conflict, InvalidRequest, NotFound
from trunkline.store import agents, events, sessions
from trunkline.store.events import NewEvent
from trunkline.store.sessions import NewSession, SessionFilter

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

Status = Literal["idle", "running", "rescheduling", "terminated"]


@router.post("")
async def create(request: Request, given: SessionRequest, caller: Manager, parts: PartsDependency) -> JSONResponse:
    """Start a session with an agent, by id or name, pinned to its current version or the one given."""

    async def act() -> dict[str, Any]:
        connection, principal = caller.connection, caller.principal
        agent = await _agent(caller, given)
        resources = await _resources(caller, given.resources)
        session_id = ids.new()
        await sessions.create(
            connection,
            principal,
            NewSession(session_id, agent.id, agent.version, given.user, given.title, given.metadata, resources, now()),
        )
        if given.initial_events:
            await append(caller, parts.wake, session_id, given.initial_events)
        return _wire(caller, await sessions.get(connection, principal, session_id))

    return JSONResponse(await _once(request, caller, act))


@router.get("")
async def list_sessions(
    *,
    caller: Manager,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    include_archived: bool = False,
    agent_id: str | None = None,
    agent_version: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
    user_id: str | None = None,
    deployment_id: str | None = None,
    memory_store_id: str | None = None,
    statuses: Annotated[list[Status] | None, Query()] = None,
    statuses_of_sdk: Annotated[list[Status] | None, Query(alias="statuses[]")] = None,
    created_after: Annotated[AwareDatetime | None, Query(alias="created_at[gt]")] = None,
    created_from: Annotated[AwareDatetime | None, Query(alias="created_at[gte]")] = None,
    created_before: Annotated[AwareDatetime | None, Query(alias="created_at[lt]")] = None,
    created_to: Annotated[AwareDatetime | None, Query(alias="created_at[lte]")] = None,
) -> JSONResponse:
    """List sessions, newest first unless `order` says otherwise. `agent_id` may be a name."""
    if deployment_id is not None:  # there are no deployments yet, and so no session of one
        return JSONResponse({"data": [], "next_page": None})
    agent = None
    if agent_id is not None:
        agent = (await agents.get(caller.connection, caller.principal, agent_id)).id
    if memory_store_id is not None:
        ids.decode("memstore", memory_store_id)
    chosen = (*(statuses or ()), *(statuses_of_sdk or ()))
    wanted = SessionFilter(
        include_archived,
        agent,
        agent_version if agent is not None else None,
        chosen or None,
        user_id,
        memory_store_id,
        created_after,
        created_from,
        created_before,
        created_to,
    )
    after = paging.read_time(page)
    found = await sessions.page(
        caller.connection, caller.principal, wanted, after, limit + 1, newest_first=order == "desc"
    )
    return JSONResponse(
        paging.page(
            found,
            limit,
            lambda session: _wire(caller, session),
            lambda session: paging.at_time(session.created_at, session.id),
        )
    )


@router.get("/{session_id}")
async def retrieve(session_id: str, caller: Manager) -> JSONResponse:
    """Get a session."""
    session = await sessions.get(caller.connection, caller.principal, ids.decode("sesn", session_id))
    return JSONResponse(_wire(caller, session))


@router.post("/{session_id}")
async def update(request: Request, session_id: str, given: SessionUpdate, caller: Manager) -> JSONResponse:
    """Change a session's title and metadata; what changed becomes a `session.updated` event."""
    session = ids.decode("sesn", session_id)

    async def act() -> dict[str, Any]:
        await _change(caller, session, given)
        return _wire(caller, await sessions.get(caller.connection, caller.principal, session))

    return JSONResponse(await _once(request, caller, act))


router.patch("/{session_id}", name="patch", summary="Update", description=update.__doc__ or "")(update)


@router.post("/{session_id}/archive")
async def archive(request: Request, session_id: str, caller: Manager) -> JSONResponse:
    """Archive a session: it takes no more events and is left out of lists."""
    session = ids.decode("sesn", session_id)

    async def act() -> dict[str, Any]:
        return _wire(caller, await sessions.archive(caller.connection, caller.principal, session, now()))

    return JSONResponse(await _once(request, caller, act))


@router.delete("/{session_id}")
async def delete(session_id: str, caller: Manager) -> JSONResponse:
    """Delete a session with its events, what recall kept of them, and the memory that is the session's own."""
    session = ids.decode("sesn", session_id)
    await sessions.delete(caller.connection, caller.principal, session)
    return JSONResponse({"id": ids.encode("sesn", session), "type": "session_deleted"})


@router.get("/{session_id}/resources")
async def list_resources(session_id: str, caller: Manager) -> JSONResponse:
    """List what is attached to a session: memory stores."""
    session = await sessions.get(caller.connection, caller.principal, ids.decode("sesn", session_id))
    return JSONResponse({"data": list(session.resources), "next_page": None})


async def _once(request: Request, caller: Caller, act: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Carry out `act` once; a repetition is answered with the session as it is then."""

    async def recall(kept: dict[str, Any]) -> dict[str, Any]:
        session = await sessions.get(caller.connection, caller.principal, ids.decode("sesn", kept["id"]))
        return _wire(caller, session)

    return await once(request, caller, act, keep=lambda answer: {"id": answer["id"]}, recall=recall)


def _wire(caller: Caller, session: Session) -> dict[str, Any]:
    return session.to_wire(environment_id(caller.principal.tenant_id), now())


async def _agent(caller: Caller, given: SessionRequest) -> Agent:
    """Return the agent version that a session asks for. Raises InvalidRequest: the path is right, the body is not."""
    try:
        agent = await agents.get(caller.connection, caller.principal, given.agent.id, given.agent.version)
    except NotFound as error:
        raise NotFound(error.message, param="agent") from error
    if agent.archived_at is not None:
        raise Conflict("The agent is archived and takes no new sessions.", param="agent", code="archived")
    return agent


async def _resources(caller: Caller, given: tuple[MemoryStoreResource, ...]) -> list[dict[str, Any]]:
    """Return the attached stores as they are kept: with their name and description of this moment."""
    if not given:
        return []
    asked: dict[str, UUID] = {}
    for index, resource in enumerate(given):
        if resource.memory_store_id in asked:
            raise InvalidRequest("A memory store can be attached once.", param=f"resources[{index}]")
        asked[resource.memory_store_id] = ids.decode("memstore", resource.memory_store_id)
    there = await sessions.attachable_stores(caller.connection, caller.principal, list(asked.values()))
    attached = []
    for index, resource in enumerate(given):
        store = there.get(asked[resource.memory_store_id])
        if store is None:
            raise NotFound(
                f"There is no memory store {resource.memory_store_id} that could be attached.",
                param=f"resources[{index}]",
            )
        attached.append(
            {
                **resource.model_dump(mode="json"),
                "access": resource.access or "read_write",
                "name": store.name,
                "description": store.description,
                "mount_path": None,
            }
        )
    return attached


async def _change(caller: Caller, session_id: UUID, given: SessionUpdate) -> None:
    connection, tenant = caller.connection, caller.principal.tenant_id
    head = await sessions.lock(connection, caller.principal, session_id)
    title = given.title if "title" in given.model_fields_set else head.title
    merged = {**head.metadata, **(given.metadata or {})}
    metadata = {key: value for key, value in merged.items() if value is not None}
    if len(metadata) > 16:
        raise InvalidRequest("A session's metadata has at most 16 keys.", param="metadata")
    changed: dict[str, Any] = {}
    if title != head.title:
        changed["title"] = title
    if metadata != head.metadata and metadata:
        changed["metadata"] = metadata
    if not changed and metadata == head.metadata:
        return
    at = now()
    await sessions.update(connection, tenant, session_id, title=title, metadata=metadata, at=at)
    event = NewEvent(ids.new(), "session.updated", changed, at)
    await events.append(connection, tenant, session_id, last_seq=head.last_seq, events=[event], at=at)
    await sessions.advance(connection, tenant, session_id, last_seq=head.last_seq + 1, status=head.status, at=at)
