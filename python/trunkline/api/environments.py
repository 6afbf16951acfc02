"""Environments, in the Managed Agents wire. Every tenant has one, `default`, without making it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Caller, Manager
from trunkline.api.idempotency import once
from trunkline.domain import environments as domain
from trunkline.domain import ids
from trunkline.domain.environments import Environment, EnvironmentRequest, EnvironmentUpdate
from trunkline.domain.metadata import merged
from trunkline.domain.times import now
from trunkline.errors import Conflict, InvalidRequest
from trunkline.store import environments

router = APIRouter(prefix="/v1/environments", tags=["environments"])


@router.post("")
async def create(request: Request, given: EnvironmentRequest, caller: Manager) -> JSONResponse:
    """Make an environment. 409 when one that is not archived has its name."""
    caller.principal.require_whole_tenant("make environments")

    async def act() -> dict[str, Any]:
        _refuse_reserved(given.name)
        at = now()
        made = Environment(
            ids.new(),
            given.name,
            given.description or None,
            given.config.model_dump(mode="json"),
            given.metadata,
            at,
            at,
            None,
        )
        await environments.create(caller.connection, caller.principal.tenant_id, made)
        return made.to_wire()

    return JSONResponse(await once(request, caller, act))


@router.get("")
async def list_environments(
    caller: Manager,
    *,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    include_archived: bool = False,
) -> JSONResponse:
    """List the tenant's environments, newest first, the default one last."""
    found = await environments.page(
        caller.connection,
        caller.principal.tenant_id,
        paging.read_time(page),
        limit + 1,
        include_archived=include_archived,
    )
    return JSONResponse(
        paging.page(found, limit, Environment.to_wire, lambda one: paging.at_time(one.created_at, one.id))
    )


@router.get("/{environment_id}")
async def retrieve(environment_id: str, caller: Manager) -> JSONResponse:
    """Get an environment by its id or name."""
    found = await environments.get(caller.connection, caller.principal.tenant_id, environment_id)
    return JSONResponse(found.to_wire())


@router.post("/{environment_id}")
async def update(request: Request, environment_id: str, given: EnvironmentUpdate, caller: Manager) -> JSONResponse:
    """Change an environment; sessions that run in it see the change."""

    async def act() -> dict[str, Any]:
        before = await _own(caller, environment_id)
        if before.archived_at is not None:
            raise Conflict("The environment is archived and can no longer be changed; make another.", code="archived")
        if given.name is not None:
            _refuse_reserved(given.name)
        after = replace(
            before,
            name=given.name or before.name,
            description=before.description if given.description is None else given.description or None,
            config=before.config if given.config is None else given.config.model_dump(mode="json"),
            metadata=merged(before.metadata, given.metadata),
        )
        if after != before:
            after = replace(after, updated_at=now())
            await environments.update(caller.connection, caller.principal.tenant_id, after)
        return after.to_wire()

    return JSONResponse(await once(request, caller, act))


router.patch("/{environment_id}", name="patch", summary="Update", description=update.__doc__ or "")(update)


@router.post("/{environment_id}/archive")
async def archive(request: Request, environment_id: str, caller: Manager) -> JSONResponse:
    """Archive an environment: no session starts in it any more; those that run go on."""

    async def act() -> dict[str, Any]:
        found = await _own(caller, environment_id)
        if found.archived_at is None:
            at = now()
            found = replace(found, updated_at=at, archived_at=at)
            await environments.update(caller.connection, caller.principal.tenant_id, found)
        return found.to_wire()

    return JSONResponse(await once(request, caller, act))


@router.delete("/{environment_id}")
async def delete(environment_id: str, caller: Manager) -> JSONResponse:
    """Delete an environment. 409 while there are sessions of it."""
    found = await _own(caller, environment_id)
    await environments.delete(caller.connection, caller.principal.tenant_id, found.id)
    return JSONResponse({"id": ids.encode("env", found.id), "type": "environment_deleted"})


async def _own(caller: Caller, environment_id: str) -> Environment:
    """Return an environment that the caller may change, locked."""
    caller.principal.require_whole_tenant("change environments")
    return await environments.lock(caller.connection, caller.principal.tenant_id, ids.decode("env", environment_id))


def _refuse_reserved(name: str) -> None:
    if name == domain.DEFAULT or name.startswith("env_"):
        raise InvalidRequest(
            "An environment's name is not 'default' and does not begin like an id, with 'env_'; choose another.",
            param="name",
        )
