"""Threads of a session: its own one, which begins and ends with it."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import JSONResponse, StreamingResponse

from trunkline.api import events
from trunkline.api.deps import Caller, Manager, PartsDependency
from trunkline.domain import ids
from trunkline.domain.sessions import Session, Status
from trunkline.domain.times import now
from trunkline.errors import NotFound
from trunkline.store import sessions
from trunkline.store.events import EventFilter

router = APIRouter(prefix="/v1/sessions/{session_id}/threads", tags=["threads"])


@router.get("")
async def list_threads(
    session_id: str,
    caller: Manager,
    *,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,  # noqa: ARG001 (there is one)
    page: str | None = None,
    statuses: Annotated[list[Status] | None, Query()] = None,
    statuses_of_sdk: Annotated[list[Status] | None, Query(alias="statuses[]")] = None,
) -> JSONResponse:
    """List a session's threads."""
    session = await sessions.get(caller.connection, caller.principal, ids.decode("sesn", session_id))
    wanted = (*(statuses or ()), *(statuses_of_sdk or ()))
    shown = page is None and (not wanted or session.status in wanted)
    return JSONResponse({"data": [_wire(session)] if shown else [], "next_page": None})


@router.get("/{thread_id}")
async def retrieve(session_id: str, thread_id: str, caller: Manager) -> JSONResponse:
    """Get a thread."""
    session = await sessions.get(caller.connection, caller.principal, _own(session_id, thread_id))
    return JSONResponse(_wire(session))


@router.get("/{thread_id}/events")
async def list_events(
    session_id: str,
    thread_id: str,
    caller: Manager,
    *,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    page: str | None = None,
) -> JSONResponse:
    """List a thread's events in the order in which they came."""
    return JSONResponse(await _events(caller, _own(session_id, thread_id), limit, page))


@router.get("/{thread_id}/stream")
async def stream(
    *,
    request: Request,
    session_id: str,
    thread_id: str,
    caller: Manager,
    parts: PartsDependency,
    after: Annotated[str | None, Query(description="number (`seq`) or id of the last event seen")] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """Follow a thread's events as server-sent events, as those of the session."""
    return await events.following(request, _own(session_id, thread_id), caller, parts, last_event_id or after)


async def _events(caller: Caller, session: UUID, limit: int, page: str | None) -> dict[str, Any]:
    return await events.listed(caller, session, EventFilter(), limit=limit, page=page, order="asc")


def _own(session_id: str, thread_id: str) -> UUID:
    """Return the session whose own thread this is. Raises NotFound."""
    session = ids.decode("sesn", session_id)
    if ids.decode("sthr", thread_id) != session:
        raise NotFound(f"There is no thread {thread_id} in this session; GET /v1/sessions/{session_id}/threads.")
    return session


def _wire(session: Session) -> dict[str, Any]:
    """Return the session's own thread; its id is the session's."""
    told = session.to_wire(session.id, now())
    agent = {key: value for key, value in told["agent"].items() if key != "multiagent"}
    return {
        "id": ids.encode("sthr", session.id),
        "type": "session_thread",
        "session_id": told["id"],
        "parent_thread_id": None,
        "workflow_run_id": None,
        "agent": agent,
        "status": session.status,
        "stats": told["stats"],
        "usage": told["usage"],
        "created_at": told["created_at"],
        "updated_at": told["updated_at"],
        "archived_at": told["archived_at"],
    }
