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
from trunkline.api.idempotency import once
from trunkline.domain import ids
from trunkline.domain.metadata import merged
from trunkline.domain.redaction import redactor
from trunkline.domain.sessions import ForkRequest, Session, SessionRequest, SessionUpdate
from trunkline.domain.times import now
from trunkline.errors import InvalidRequest
from trunkline.store import agents, events, sessions
from trunkline.store.events import NewEvent
from trunkline.store.forks import fork as forked
from trunkline.store.launches import launch
from trunkline.store.leases import Wake
from trunkline.store.sessions import Head, SessionFilter

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

Status = Literal["idle", "running", "rescheduling", "terminated"]


@router.post("")
async def create(request: Request, given: SessionRequest, caller: Manager, parts: PartsDependency) -> JSONResponse:
    """Start a session with an agent, by id or name, pinned to its current version or the one given."""

    async def act() -> dict[str, Any]:
        connection, principal = caller.connection, caller.principal
        session_id = await launch(connection, principal, given, wake=parts.wake, sealing=parts.sealing)
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
        None if deployment_id is None else ids.decode("depl", deployment_id),
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
async def update(
    request: Request, session_id: str, given: SessionUpdate, caller: Manager, parts: PartsDependency
) -> JSONResponse:
    """Change a session's title, metadata, budget and limits; what changed becomes a `session.updated` event.

    A session that stopped for a limit goes on once no limit is reached any more.
    """
    session = ids.decode("sesn", session_id)

    async def act() -> dict[str, Any]:
        await _change(caller, session, given, parts.wake)
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


@router.post("/{session_id}/fork")
async def fork(
    request: Request, session_id: str, caller: Manager, parts: PartsDependency, given: ForkRequest | None = None
) -> JSONResponse:
    """Start a session that goes on from the end of this one, or from its event number `at`.

    It has a copy of the log, of the blocks of the session itself as they stood there, and the same agent version. A log
    that is cut off within a turn, such as at a user's message, is worked on at once.
    """
    session = ids.decode("sesn", session_id)

    async def act() -> dict[str, Any]:
        new = await forked(caller.connection, caller.principal, session, given or ForkRequest(), wake=parts.wake)
        return _wire(caller, await sessions.get(caller.connection, caller.principal, new))

    return JSONResponse(await _once(request, caller, act))


@router.delete("/{session_id}")
async def delete(session_id: str, caller: Manager) -> JSONResponse:
    """Delete a session with its events, what recall kept of them, and the memory that is the session's own."""
    session = ids.decode("sesn", session_id)
    await sessions.delete(caller.connection, caller.principal, session)
    return JSONResponse({"id": ids.encode("sesn", session), "type": "session_deleted"})


async def _once(request: Request, caller: Caller, act: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Carry out `act` once; a repetition is answered with the session as it is then."""

    async def recall(kept: dict[str, Any]) -> dict[str, Any]:
        session = await sessions.get(caller.connection, caller.principal, ids.decode("sesn", kept["id"]))
        return _wire(caller, session)

    return await once(request, caller, act, keep=lambda answer: {"id": answer["id"]}, recall=recall)


def _wire(caller: Caller, session: Session) -> dict[str, Any]:
    return session.to_wire(caller.principal.tenant_id, now())


async def _change(caller: Caller, session_id: UUID, given: SessionUpdate, wake: Wake | None) -> None:
    connection, tenant = caller.connection, caller.principal.tenant_id
    head = await sessions.lock(connection, caller.principal, session_id)
    title = given.title if "title" in given.model_fields_set else head.title
    metadata = merged(head.metadata, given.metadata)
    budget, limits = _budget(head, given), given.limited(head.limits)
    changed: dict[str, Any] = {}
    if budget != head.budget:
        changed["budget"] = budget
    if limits != head.limits:
        changed["limits"] = limits or {}
    if title != head.title:
        changed["title"] = title
    if metadata != head.metadata and metadata:
        changed["metadata"] = metadata
    if not changed and metadata == head.metadata:
        return
    at = now()
    await sessions.update(connection, tenant, session_id, title=title, metadata=metadata, at=at)
    await sessions.bound(connection, tenant, session_id, budget, limits)
    new = [NewEvent(ids.new(), "session.updated", changed, at)]
    goes_on = (
        head.status == "idle"
        and head.archived_at is None
        and bool(changed.keys() & {"budget", "limits"})
        and head.used.reached(budget, limits, at) is None
        and await events.stopped_for_a_limit(connection, tenant, session_id)
    )
    if goes_on:  # in the name of the key that gave it the work
        new.append(NewEvent(ids.new(), "session.status_running", {}, at))
    status = "running" if goes_on else head.status
    await events.append(
        connection, tenant, session_id, last_seq=head.last_seq, events=new, at=at, redactor=redactor(head.redact)
    )
    await sessions.advance(connection, tenant, session_id, last_seq=head.last_seq + len(new), status=status, at=at)
    if goes_on and wake is not None:
        await wake(connection)


def _budget(head: Head, given: SessionUpdate) -> dict[str, Any] | None:
    """Return a session's budget after a change. Raises InvalidRequest for one that the wire does not allow."""
    before = None if head.budget is None else dict(head.budget)
    if "budget" not in given.model_fields_set:
        return before
    if given.budget is None:
        return None
    after = given.budget.model_dump()
    if before is None:
        raise InvalidRequest(
            "The session was started without a budget, or it was taken away; a budget is given when a session is "
            "started.",
            param="budget",
            code="budget_create_only",
        )
    if head.used.unpriced:
        raise InvalidRequest(
            "The session has called a model without a price, so that no budget can be kept: configure `prices`, or "
            "take the budget away (null).",
            param="budget",
            code="model_not_budgetable",
        )
    if after != before and not head.used.below(after):
        raise InvalidRequest(
            f"The session has cost {head.used.cents} cents; a budget is above that.",
            param="budget.max_list_cost",
            code="budget_not_raised",
        )
    return after
