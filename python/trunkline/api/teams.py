"""Teams: keys that share limits."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Caller, Manager
from trunkline.api.idempotency import idempotent, once
from trunkline.domain import ids
from trunkline.domain.limits import Limits
from trunkline.domain.teams import Team, TeamChange, TeamRequest
from trunkline.domain.times import now
from trunkline.errors import Conflict, Forbidden, InvalidRequest
from trunkline.store import keys, teams

router = APIRouter(prefix="/v1/teams", tags=["teams"])

_LIMITS = tuple(field.name for field in fields(Limits))


@router.post("")
async def create(request: Request, given: TeamRequest, caller: Manager) -> JSONResponse:
    """Make a team. Keys join it when they are made."""

    async def act() -> dict[str, Any]:
        await may_set_limits(caller)
        if given.name.startswith("team_"):
            raise InvalidRequest("A team's name must not begin like an id, with 'team_'.", param="name")
        at = now()
        users = None if given.users is None else given.users.limits()
        team = Team(ids.new(), given.name, at, at, limits=given.limits(), users=users)
        await teams.create(caller.connection, caller.principal.tenant_id, team)
        return (await _get(caller, ids.encode("team", team.id))).to_wire()

    return JSONResponse(await once(request, caller, act))


@router.get("")
async def list_teams(
    caller: Manager, limit: Annotated[int, Query(ge=1, le=100)] = 20, page: str | None = None
) -> JSONResponse:
    """List the teams in use, newest first, with what each has used."""
    found = await teams.page(caller.connection, caller.principal, paging.read_time(page), limit + 1)
    return JSONResponse(paging.page(found, limit, Team.to_wire, lambda team: paging.at_time(team.created_at, team.id)))


@router.get("/{team}")
async def retrieve(team: str, caller: Manager) -> JSONResponse:
    """Get a team by its id or name."""
    return JSONResponse((await _get(caller, team)).to_wire())


@router.post("/{team}")
@idempotent()
async def update(team: str, given: TeamChange, caller: Manager) -> JSONResponse:
    """Change a team's name or limits; calls see it at once."""
    before = await _get(caller, team)
    await may_set_limits(caller)
    if before.archived_at is not None:
        raise Conflict("The team was ended; make another.", code="archived")
    asked = {name: getattr(given, name) for name in given.model_fields_set}
    if asked.get("name", "x") == "" or asked.get("name", "x").startswith("team_"):
        raise InvalidRequest("A team's name has at least one character and does not begin with 'team_'.", param="name")
    limits = {name: asked.pop(name) for name in list(asked) if name in _LIMITS}
    if "users" in asked:
        asked["users"] = None if given.users is None else given.users.limits()
    after = replace(before, **asked, limits=replace(before.limits, **limits), updated_at=now())
    await teams.change(caller.connection, caller.principal.tenant_id, after)
    return JSONResponse((await _get(caller, ids.encode("team", after.id))).to_wire())


@router.delete("/{team}")
async def end(team: str, caller: Manager) -> JSONResponse:
    """End a team and revoke all its keys, for good; its name is free again."""
    found = await _get(caller, team)
    await may_set_limits(caller)
    await teams.end(caller.connection, caller.principal.tenant_id, found.id, now())
    return JSONResponse((await _get(caller, ids.encode("team", found.id))).to_wire())


async def may_set_limits(caller: Caller) -> None:
    """Raise Forbidden for a key that is under limits of a team, or for one agent: it must not lift what holds it."""
    own = await keys.get(caller.connection, caller.principal, caller.principal.key_id)
    if own.team_id is not None or own.agent_id is not None:
        raise Forbidden(
            f"The key {own.name!r} belongs to a team or an agent and cannot set the limits of teams and users; "
            "use a key that belongs to neither.",
            code="bound_key",
        )


async def _get(caller: Caller, team: str) -> Team:
    return await teams.get(caller.connection, caller.principal, team)
