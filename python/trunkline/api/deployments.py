"""Deployments, in the Managed Agents wire: agents that run by a schedule or by hand. They run in the worker."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Caller, Manager, PartsDependency
from trunkline.api.idempotency import once
from trunkline.domain import ids
from trunkline.domain.deployments import (
    Deployment,
    DeploymentRequest,
    DeploymentUpdate,
    Status,
    planned,
    timed,
)
from trunkline.domain.events import check_order
from trunkline.domain.metadata import merged
from trunkline.domain.times import now
from trunkline.errors import Conflict, InvalidRequest
from trunkline.store import agents, deployment_runs, deployments
from trunkline.store.attachments import attached
from trunkline.store.deployments import DeploymentFilter
from trunkline.store.launches import usable_agent, usable_environment, usable_vaults

router = APIRouter(prefix="/v1/deployments", tags=["deployments"])


@router.post("")
async def create(request: Request, given: DeploymentRequest, caller: Manager) -> JSONResponse:
    """Make a deployment of an agent, pinned to its current version or the one given. It runs from now on."""

    async def act() -> dict[str, Any]:
        connection, principal = caller.connection, caller.principal
        agent = await usable_agent(connection, principal, given.agent)
        check_order(given.initial_events)
        at = now()
        await attached(connection, principal, given.resources, at)  # for its checks
        made = Deployment(
            id=ids.new(),
            agent_id=agent.id,
            agent_version=agent.version,
            environment_id=await usable_environment(connection, principal, given.environment_id),
            name=given.name,
            description=given.description or None,
            vault_ids=await usable_vaults(connection, principal, given.vault_ids),
            resources=tuple(resource.model_dump(mode="json") for resource in given.resources),
            initial_events=tuple({"type": event.type, **event.payload} for event in given.initial_events),
            metadata=given.metadata,
            schedule=None if given.schedule is None else given.schedule.model_dump(mode="json"),
            status="active",
            paused_reason=None,
            failures=0,
            next_run_at=None,
            due_at=None,
            last_run_at=None,
            created_at=at,
            updated_at=at,
            archived_at=None,
            budget=None if given.budget is None else given.budget.model_dump(),
            key_id=principal.started_by,
        )
        made = _with_a_time(planned(made, at))
        await deployments.create(connection, principal.tenant_id, made)
        return _wire(caller, made)

    return JSONResponse(await once(request, caller, act))


@router.get("")
async def list_deployments(
    caller: Manager,
    *,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    include_archived: bool = False,
    agent_id: str | None = None,
    status: Status | None = None,
    created_from: Annotated[AwareDatetime | None, Query(alias="created_at[gte]")] = None,
    created_to: Annotated[AwareDatetime | None, Query(alias="created_at[lte]")] = None,
) -> JSONResponse:
    """List deployments, newest first. `agent_id` may be a name."""
    agent = None
    if agent_id is not None:
        agent = (await agents.get(caller.connection, caller.principal, agent_id)).id
    wanted = DeploymentFilter(include_archived, agent, status, created_from, created_to)
    found = await deployments.page(caller.connection, caller.principal, wanted, paging.read_time(page), limit + 1)
    return JSONResponse(
        paging.page(found, limit, lambda one: _wire(caller, one), lambda one: paging.at_time(one.created_at, one.id))
    )


@router.get("/{deployment_id}")
async def retrieve(deployment_id: str, caller: Manager) -> JSONResponse:
    """Get a deployment, with the next times of its schedule."""
    found = await deployments.get(caller.connection, caller.principal, ids.decode("depl", deployment_id))
    return JSONResponse(_wire(caller, found))


@router.post("/{deployment_id}")
async def update(request: Request, deployment_id: str, given: DeploymentUpdate, caller: Manager) -> JSONResponse:
    """Change a deployment. Runs from now on are as changed; a new schedule begins now."""

    async def act() -> dict[str, Any]:
        before = await _locked(caller, deployment_id)
        after = await _changed(caller, before, given)
        if "schedule" in given.model_fields_set:
            after = _with_a_time(planned(after, now()))
        if after != before:
            after = replace(after, key_id=caller.principal.started_by)
        return await _written(caller, before, after)

    return JSONResponse(await once(request, caller, act))


router.patch("/{deployment_id}", name="patch", summary="Update", description=update.__doc__ or "")(update)


@router.post("/{deployment_id}/pause")
async def pause(request: Request, deployment_id: str, caller: Manager) -> JSONResponse:
    """Pause a deployment: its schedule starts nothing; it can still be run by hand."""

    async def act() -> dict[str, Any]:
        before = await _locked(caller, deployment_id)
        reason = before.paused_reason or {"type": "manual"}
        after = replace(before, status="paused", paused_reason=reason)
        return await _written(caller, before, timed(after, before.next_run_at))

    return JSONResponse(await once(request, caller, act))


@router.post("/{deployment_id}/unpause")
async def unpause(request: Request, deployment_id: str, caller: Manager) -> JSONResponse:
    """Let a deployment's schedule go on from now; what it would have started meanwhile is not made up for."""

    async def act() -> dict[str, Any]:
        before = await _locked(caller, deployment_id)
        if before.status == "active":
            return _wire(caller, before)
        after = replace(before, status="active", paused_reason=None, failures=0)
        return await _written(caller, before, planned(after, now()))

    return JSONResponse(await once(request, caller, act))


@router.post("/{deployment_id}/archive")
async def archive(request: Request, deployment_id: str, caller: Manager) -> JSONResponse:
    """Archive a deployment: it runs no more; its runs and their sessions stay."""

    async def act() -> dict[str, Any]:
        before = await deployments.lock(caller.connection, caller.principal, ids.decode("depl", deployment_id))
        if before.archived_at is not None:
            return _wire(caller, before)
        return await _written(caller, before, timed(replace(before, archived_at=now()), None))

    return JSONResponse(await once(request, caller, act))


@router.post("/{deployment_id}/run")
async def run(request: Request, deployment_id: str, caller: Manager, parts: PartsDependency) -> JSONResponse:
    """Run a deployment now. The answer is the run: its session, or the error that kept it from being started."""

    async def act() -> dict[str, Any]:
        found = await _locked(caller, deployment_id)
        made = await deployment_runs.run(
            caller.connection, caller.principal.tenant_id, found, None, parts.wake, by=caller.principal
        )
        if made is None:
            raise Conflict("The deployment was run meanwhile; try again.")
        return made.to_wire()

    return JSONResponse(await once(request, caller, act))


async def _changed(caller: Caller, before: Deployment, given: DeploymentUpdate) -> Deployment:
    """Return a deployment after a change, but for the time of its next run. Raises InvalidRequest and NotFound."""
    connection, principal, named = caller.connection, caller.principal, given.model_fields_set
    for field in ("agent", "name", "initial_events"):
        if field in named and getattr(given, field) is None:
            raise InvalidRequest(f"`{field}` cannot be cleared; leave it out to keep it.", param=field)
    change: dict[str, Any] = {"metadata": merged(before.metadata, given.metadata)}
    if given.agent is not None:
        agent = await usable_agent(connection, principal, given.agent)
        change |= {"agent_id": agent.id, "agent_version": agent.version}
    if "environment_id" in named:
        change["environment_id"] = await usable_environment(connection, principal, given.environment_id)
    if given.name is not None:
        change["name"] = given.name
    if "description" in named:
        change["description"] = given.description or None
    if given.initial_events is not None:
        check_order(given.initial_events)
        change["initial_events"] = tuple({"type": event.type, **event.payload} for event in given.initial_events)
    if "vault_ids" in named:
        change["vault_ids"] = await usable_vaults(connection, principal, given.vault_ids or ())
    if "resources" in named:
        await attached(connection, principal, given.resources or (), now())
        change["resources"] = tuple(resource.model_dump(mode="json") for resource in given.resources or ())
    if "schedule" in named:
        change["schedule"] = None if given.schedule is None else given.schedule.model_dump(mode="json")
    if "budget" in named:
        change["budget"] = None if given.budget is None else given.budget.model_dump()
    return replace(before, **change)


def _with_a_time(deployment: Deployment) -> Deployment:
    """Return it, unless its schedule has no time any more."""
    if deployment.schedule is not None and deployment.next_run_at is None:
        raise InvalidRequest("The schedule's time is over; give one that is to come.", param="schedule")
    return deployment


async def _locked(caller: Caller, deployment_id: str) -> Deployment:
    """Return a deployment that can be changed and run, locked. Raises NotFound and Conflict."""
    found = await deployments.lock(caller.connection, caller.principal, ids.decode("depl", deployment_id))
    if found.archived_at is not None:
        raise Conflict("The deployment is archived and can no longer be changed or run; make another.", code="archived")
    return found


async def _written(caller: Caller, before: Deployment, after: Deployment) -> dict[str, Any]:
    if after != before:
        after = replace(after, updated_at=now())
        await deployments.update(caller.connection, caller.principal.tenant_id, after)
    return _wire(caller, after)


def _wire(caller: Caller, deployment: Deployment) -> dict[str, Any]:
    return deployment.to_wire(caller.principal.tenant_id, now())
