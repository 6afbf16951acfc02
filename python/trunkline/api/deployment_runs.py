"""Runs of deployments: what each started, or why it started nothing."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Manager
from trunkline.domain import ids
from trunkline.domain.deployments import Run
from trunkline.store import deployments
from trunkline.store.deployments import RunFilter

router = APIRouter(prefix="/v1/deployment_runs", tags=["deployments"])


@router.get("")
async def list_runs(
    caller: Manager,
    *,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    page: str | None = None,
    deployment_id: str | None = None,
    has_error: bool | None = None,
    trigger_type: Literal["schedule", "manual"] | None = None,
    created_after: Annotated[AwareDatetime | None, Query(alias="created_at[gt]")] = None,
    created_from: Annotated[AwareDatetime | None, Query(alias="created_at[gte]")] = None,
    created_before: Annotated[AwareDatetime | None, Query(alias="created_at[lt]")] = None,
    created_to: Annotated[AwareDatetime | None, Query(alias="created_at[lte]")] = None,
) -> JSONResponse:
    """List runs, newest first."""
    wanted = RunFilter(
        None if deployment_id is None else ids.decode("depl", deployment_id),
        has_error,
        None if trigger_type is None else trigger_type == "schedule",
        created_after,
        created_from,
        created_before,
        created_to,
    )
    found = await deployments.runs(caller.connection, caller.principal, wanted, paging.read_time(page), limit + 1)
    return JSONResponse(paging.page(found, limit, Run.to_wire, lambda one: paging.at_time(one.created_at, one.id)))


@router.get("/{deployment_run_id}")
async def retrieve(deployment_run_id: str, caller: Manager) -> JSONResponse:
    """Get a run."""
    found = await deployments.get_run(caller.connection, caller.principal, ids.decode("drun", deployment_run_id))
    return JSONResponse(found.to_wire())
