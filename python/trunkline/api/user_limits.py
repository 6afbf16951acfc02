"""Limits of end users, the people behind a key: `user` or `x-trunkline-user` of a call says who it is made for."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from trunkline.api.deps import Manager
from trunkline.api.idempotency import once
from trunkline.api.teams import may_set_limits
from trunkline.domain.limits import UserId, UserLimits, UserLimitsRequest
from trunkline.domain.times import now
from trunkline.errors import NotFound
from trunkline.store import limits

router = APIRouter(prefix="/v1/user_limits", tags=["user limits"])


@router.post("")
async def put(request: Request, given: UserLimitsRequest, caller: Manager) -> JSONResponse:
    """Set an end user's limits, in place of those before and of the defaults of keys and teams."""
    await may_set_limits(caller)
    tenant_id = caller.principal.tenant_id

    async def act() -> dict[str, Any]:
        await limits.write(caller.connection, tenant_id, ("user", given.user_id), given.limits(), now())
        return await recall({})

    async def recall(_: dict[str, Any]) -> dict[str, Any]:
        found = await limits.users(caller.connection, tenant_id, given.user_id, None, 1)
        if not found:
            raise _without_limits(given.user_id)
        return dict(found[0].to_wire())

    # Whose limits they are is not kept with the key: erasing the user need not look there.
    return JSONResponse(await once(request, caller, act, keep=lambda _: {}, recall=recall))


@router.get("")
async def list_user_limits(
    caller: Manager,
    user_id: UserId | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: Annotated[str | None, Query(description="`next_page` of the page before: the last user's id")] = None,
) -> JSONResponse:
    """List the end users who have limits of their own, by their ids, with what each has used under them."""
    found: list[UserLimits] = []
    if caller.principal.agent_id is None:
        found = await limits.users(caller.connection, caller.principal.tenant_id, user_id, page, limit + 1)
    shown = found[:limit]
    next_page = shown[-1].user_id if len(found) > limit else None
    return JSONResponse({"data": [user.to_wire() for user in shown], "next_page": next_page})


@router.delete("")
async def delete(user_id: UserId, caller: Manager) -> JSONResponse:
    """Take an end user's own limits away: the defaults of keys and teams hold again. What was used stays counted."""
    await may_set_limits(caller)
    if not await limits.remove(caller.connection, caller.principal.tenant_id, "user", user_id):
        raise _without_limits(user_id)
    return JSONResponse({"type": "user_limits_deleted", "user_id": user_id})


def _without_limits(user_id: str) -> NotFound:
    return NotFound(f"The user {user_id!r} has no limits; GET /v1/user_limits lists those who have.")
