"""Proposals for memory that consolidation makes: looking at them, approving and rejecting those that wait."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Caller
from trunkline.api.memory_caller import MemoryCaller, UserId
from trunkline.domain import ids
from trunkline.domain.memory import Subject
from trunkline.domain.memory_proposals import MemoryProposal, ProposalStatus
from trunkline.domain.times import now
from trunkline.errors import Conflict
from trunkline.memory.proposals import write
from trunkline.store import memory_proposals
from trunkline.store.memory_proposals import ProposalFilter

router = APIRouter(prefix="/v1/memory_proposals", tags=["memory proposals"])


@router.get("")
async def list_proposals(
    caller: MemoryCaller,
    *,
    agent_id: str | None = None,
    session_id: str | None = None,
    user_id: Annotated[UserId | None, Query()] = None,
    status: ProposalStatus | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
) -> JSONResponse:
    """List proposals, newest first: those that wait for review are `pending`."""
    wanted = ProposalFilter(
        None if agent_id is None else ids.decode("agent", agent_id),
        None if session_id is None else ids.decode("sesn", session_id),
        user_id,
        status,
    )
    found = await memory_proposals.page(caller.connection, caller.principal, wanted, paging.read_time(page), limit + 1)
    return JSONResponse(
        paging.page(found, limit, MemoryProposal.to_wire, lambda one: paging.at_time(one.created_at, one.id))
    )


@router.get("/{proposal_id}")
async def retrieve(proposal_id: str, caller: MemoryCaller) -> JSONResponse:
    """Get a proposal, with the events that it comes from."""
    found = await memory_proposals.get(caller.connection, caller.principal, ids.decode("mprop", proposal_id))
    return JSONResponse(found.to_wire())


@router.post("/{proposal_id}/approve")
async def approve(proposal_id: str, caller: MemoryCaller) -> JSONResponse:
    """Write what is proposed, as a version by consolidation.

    409, with the `current` block, where what it would change was written since it was proposed: reject it then.
    """
    found = await _waiting(proposal_id, caller, "applied")
    if found.status == "applied":
        return JSONResponse(found.to_wire())
    subject = Subject(found.user_id, found.session_id)
    agent = ids.encode("agent", found.agent_id)
    state = await write(
        caller.connection,
        caller.principal,
        agent,
        found.operations,
        block=found.block,
        events=found.events,
        subject=subject,
    )
    version_id = state.memory.version_id if state.changed and state.memory else None
    await _decide(caller, found, "applied", version_id=version_id)
    return JSONResponse((await memory_proposals.get(caller.connection, caller.principal, found.id)).to_wire())


@router.post("/{proposal_id}/reject")
async def reject(proposal_id: str, caller: MemoryCaller) -> JSONResponse:
    """Let a proposal be: nothing is written."""
    found = await _waiting(proposal_id, caller, "rejected")
    if found.status == "pending":
        await _decide(caller, found, "rejected", version_id=None)
    return JSONResponse((await memory_proposals.get(caller.connection, caller.principal, found.id)).to_wire())


async def _waiting(proposal_id: str, caller: Caller, asked: ProposalStatus) -> MemoryProposal:
    """Return a proposal that waits, or of which the same was decided, locked. Raises Conflict for others."""
    found = await memory_proposals.lock(caller.connection, caller.principal, ids.decode("mprop", proposal_id))
    if found.status not in ("pending", asked):
        raise Conflict(f"The proposal does not wait for review: it was {found.status}.", code="decided")
    return found


async def _decide(caller: Caller, found: MemoryProposal, status: ProposalStatus, *, version_id: UUID | None) -> None:
    await memory_proposals.decide(
        caller.connection,
        caller.principal.tenant_id,
        found.id,
        status,
        at=now(),
        by=caller.principal.key_id,
        version_id=version_id,
    )
