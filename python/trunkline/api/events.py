"""Events: append to a session, list, and follow as they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from pydantic import AwareDatetime
from starlette.responses import JSONResponse, StreamingResponse

from trunkline.api import paging
from trunkline.api.deps import Caller, Manager, Parts, PartsDependency, authenticate, key_text
from trunkline.api.idempotency import once
from trunkline.domain import ids
from trunkline.domain.events import Event, EventsRequest
from trunkline.domain.times import now
from trunkline.errors import InvalidRequest, NotFound, TrunklineError, Unavailable
from trunkline.store import events, sessions
from trunkline.store.events import EventFilter

router = APIRouter(prefix="/v1/sessions/{session_id}/events", tags=["events"])

HEARTBEAT_SECONDS: Final = 15.0
"""How long a stream is silent at most; proxies commonly cut after 30 or 60 s."""
_BATCH: Final = 200


@router.post("")
async def send(
    request: Request, session_id: str, given: EventsRequest, caller: Manager, parts: PartsDependency
) -> JSONResponse:
    """Append events, all or none, and let the agent go on. The answer holds them with their ids."""
    session = ids.decode("sesn", session_id)

    async def act() -> dict[str, Any]:
        sent = await events.send(caller.connection, caller.principal, session, given.events, wake=parts.wake)
        return {"data": [event.to_wire() for event in sent]}

    async def recall(kept: dict[str, Any]) -> dict[str, Any]:
        sent = await events.page(
            caller.connection, caller.principal, session, EventFilter(), after=kept["first"] - 1, limit=kept["count"]
        )
        if not sent:
            raise sessions.not_found(session)
        return {"data": [event.to_wire() for event in sent]}

    return JSONResponse(await once(request, caller, act, keep=_places, recall=recall))


@router.get("")
async def list_events(
    *,
    session_id: str,
    caller: Manager,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    page: str | None = None,
    order: Literal["asc", "desc"] = "asc",
    types: Annotated[list[str] | None, Query()] = None,
    types_of_sdk: Annotated[list[str] | None, Query(alias="types[]")] = None,
    created_after: Annotated[AwareDatetime | None, Query(alias="created_at[gt]")] = None,
    created_from: Annotated[AwareDatetime | None, Query(alias="created_at[gte]")] = None,
    created_before: Annotated[AwareDatetime | None, Query(alias="created_at[lt]")] = None,
    created_to: Annotated[AwareDatetime | None, Query(alias="created_at[lte]")] = None,
) -> JSONResponse:
    """List a session's events in the order in which they came, or backwards."""
    session = ids.decode("sesn", session_id)
    kinds = (*(types or ()), *(types_of_sdk or ()))
    wanted = EventFilter(kinds or None, created_after, created_from, created_before, created_to)
    return JSONResponse(await listed(caller, session, wanted, limit=limit, page=page, order=order))


@router.get("/stream")
async def stream(
    *,
    request: Request,
    session_id: str,
    caller: Manager,
    parts: PartsDependency,
    after: Annotated[
        str | None, Query(description="number (`seq`) or id of the last event seen; 0: from the first")
    ] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """Follow a session's events as server-sent events, from now on or from the one after `Last-Event-ID` or `after`."""
    return await following(request, ids.decode("sesn", session_id), caller, parts, last_event_id or after)


async def listed(
    caller: Caller, session: UUID, wanted: EventFilter, *, limit: int, page: str | None, order: Literal["asc", "desc"]
) -> dict[str, Any]:
    """Return a page of a session's events. Raises NotFound."""
    found = await events.page(
        caller.connection,
        caller.principal,
        session,
        wanted,
        after=paging.read_number(page),
        limit=limit + 1,
        newest_first=order == "desc",
    )
    if not found:
        await sessions.head(caller.connection, caller.principal, session)
    return paging.page(found, limit, Event.to_wire, lambda event: paging.at_number(event.seq))


async def following(
    request: Request, session: UUID, caller: Caller, parts: Parts, resume: str | None
) -> StreamingResponse:
    """Return a stream of a session's events, from now on or from the one after `resume`. Raises NotFound."""
    seen = await sessions.head(caller.connection, caller.principal, session)
    if resume is not None:
        seen = min(seen, await _number(caller, session, resume))
    return StreamingResponse(
        _follow(parts, key_text(request), caller.principal.tenant_id, session, seen),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


def _places(answer: dict[str, Any]) -> dict[str, Any]:
    """Return where in the log the events of an answer are."""
    return {"first": answer["data"][0]["seq"], "count": len(answer["data"])}


async def _number(caller: Caller, session_id: UUID, resume: str) -> int:
    """Return the number of the event that a client names as the last it saw, by its number or its id."""
    if resume.isascii() and resume.isdigit() and len(resume) <= 18:
        return int(resume)
    try:
        event_id = ids.decode("sevt", resume)
        found = await events.types(caller.connection, caller.principal.tenant_id, session_id, [event_id])
        return found[event_id][1]
    except (NotFound, KeyError):
        raise InvalidRequest(
            "`Last-Event-ID` (or `after`) is neither a number nor the id of an event of this session; send `seq` or "
            "`id` of the last event seen.",
            param="after",
        ) from None


async def _follow(parts: Parts, key: str, tenant_id: UUID, session_id: UUID, seen: int) -> AsyncIterator[str]:
    """Yield the events after number `seen` as they come, and a comment where none come for long.

    No connection is held while waiting. Every read asks again whether the key is still good.
    """
    yield ": open\n\n"
    with parts.feed.waiting(tenant_id, session_id, seen) as waiter:
        while not parts.feed.closing:
            try:
                batch = await _read(parts, key, session_id, waiter.seen)
            except Unavailable:
                yield ": waiting for the database\n\n"
                await asyncio.sleep(1)
                continue
            except NotFound:
                yield _frame(Event(ids.new(), waiter.seen + 1, "session.deleted", {}, now(), None))
                return
            except TrunklineError as error:
                yield f"event: error\ndata: {json.dumps(error.to_wire(''))}\n\n"
                return
            for event in batch:
                yield _frame(event)
                waiter.seen = event.seq
            if len(batch) < _BATCH and not await waiter.wait(HEARTBEAT_SECONDS):
                yield ": still here\n\n"


async def _read(parts: Parts, key: str, session_id: UUID, seen: int) -> list[Event]:
    """Return the next events after number `seen`. Raises NotFound (session gone), Unauthenticated, Unavailable."""
    async with parts.database.transaction() as connection:
        principal = await authenticate(connection, key)
        found = await events.page(connection, principal, session_id, EventFilter(), after=seen, limit=_BATCH)
        if not found:
            await sessions.head(connection, principal, session_id)
        return found


def _frame(event: Event) -> str:
    # Escaped to ASCII: some readers take U+2028 for the end of a line.
    return f"event: {event.type}\nid: {event.seq}\ndata: {json.dumps(event.to_wire(), separators=(',', ':'))}\n\n"
