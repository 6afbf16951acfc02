"""Environments: one a tenant, in every session: the Managed Agents wire requires it, ours needs no configuration."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import JSONResponse

from trunkline.api.deps import Manager
from trunkline.domain import ids
from trunkline.errors import NotFound

router = APIRouter(prefix="/v1/environments", tags=["environments"])

_MADE = "1970-01-01T00:00:00Z"
"""The default environment is not made at any time."""


def environment_id(tenant_id: UUID) -> str:
    """Return the id of a tenant's one environment."""
    return ids.encode("env", tenant_id)


@router.get("")
async def list_environments(caller: Manager) -> JSONResponse:
    """List the tenant's environments: the default one."""
    return JSONResponse({"data": [_default(caller.principal.tenant_id)], "next_page": None})


@router.get("/{environment_id}")
async def retrieve(environment_id: str, caller: Manager) -> JSONResponse:
    """Get the default environment."""
    if ids.decode("env", environment_id) != caller.principal.tenant_id:
        raise NotFound(f"There is no environment {environment_id}; GET /v1/environments lists the one there is.")
    return JSONResponse(_default(caller.principal.tenant_id))


def _default(tenant_id: UUID) -> dict[str, Any]:
    return {
        "id": environment_id(tenant_id),
        "type": "environment",
        "name": "default",
        "description": "Where every session runs.",
        "config": {"type": "self_hosted"},
        "metadata": {},
        "scope": "organization",
        "created_at": _MADE,
        "updated_at": _MADE,
        "archived_at": None,
    }
