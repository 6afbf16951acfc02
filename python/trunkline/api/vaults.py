"""Vaults, in the Managed Agents wire. A key of one agent sees and makes vaults of that agent alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Manager
from trunkline.api.idempotency import once
from trunkline.domain import ids
from trunkline.domain.metadata import merged
from trunkline.domain.times import now
from trunkline.domain.vaults import Vault, VaultRequest, VaultUpdate
from trunkline.errors import Conflict
from trunkline.store import vaults

router = APIRouter(prefix="/v1/vaults", tags=["vaults"])


@router.post("")
async def create(request: Request, given: VaultRequest, caller: Manager) -> JSONResponse:
    """Make a vault."""

    async def act() -> dict[str, Any]:
        at = now()
        made = Vault(ids.new(), caller.principal.agent_id, given.display_name, given.metadata, at, at, None)
        await vaults.create(caller.connection, caller.principal.tenant_id, made)
        return made.to_wire()

    return JSONResponse(await once(request, caller, act))


@router.get("")
async def list_vaults(
    caller: Manager,
    *,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    include_archived: bool = False,
) -> JSONResponse:
    """List vaults, newest first."""
    found = await vaults.page(
        caller.connection, caller.principal, paging.read_time(page), limit + 1, include_archived=include_archived
    )
    return JSONResponse(paging.page(found, limit, Vault.to_wire, lambda one: paging.at_time(one.created_at, one.id)))


@router.get("/{vault_id}")
async def retrieve(vault_id: str, caller: Manager) -> JSONResponse:
    """Get a vault."""
    found = await vaults.get(caller.connection, caller.principal, ids.decode("vlt", vault_id))
    return JSONResponse(found.to_wire())


@router.post("/{vault_id}")
async def update(request: Request, vault_id: str, given: VaultUpdate, caller: Manager) -> JSONResponse:
    """Change a vault's name and metadata."""

    async def act() -> dict[str, Any]:
        before = await vaults.lock(caller.connection, caller.principal, ids.decode("vlt", vault_id))
        refuse_archived(before)
        after = replace(
            before,
            display_name=given.display_name or before.display_name,
            metadata=merged(before.metadata, given.metadata),
        )
        if after != before:
            after = replace(after, updated_at=now())
            await vaults.update(caller.connection, caller.principal.tenant_id, after)
        return after.to_wire()

    return JSONResponse(await once(request, caller, act))


router.patch("/{vault_id}", name="patch", summary="Update", description=update.__doc__ or "")(update)


@router.post("/{vault_id}/archive")
async def archive(request: Request, vault_id: str, caller: Manager) -> JSONResponse:
    """Archive a vault and its credentials; their secrets are deleted, and cannot be had back."""

    async def act() -> dict[str, Any]:
        found = await vaults.lock(caller.connection, caller.principal, ids.decode("vlt", vault_id))
        if found.archived_at is None:
            at = now()
            found = replace(found, updated_at=at, archived_at=at)
            await vaults.update(caller.connection, caller.principal.tenant_id, found)
            await vaults.archive_credentials(caller.connection, caller.principal.tenant_id, found.id, at)
        return found.to_wire()

    return JSONResponse(await once(request, caller, act))


@router.delete("/{vault_id}")
async def delete(vault_id: str, caller: Manager) -> JSONResponse:
    """Delete a vault with its credentials."""
    found = ids.decode("vlt", vault_id)
    await vaults.delete(caller.connection, caller.principal, found)
    return JSONResponse({"id": ids.encode("vlt", found), "type": "vault_deleted"})


def refuse_archived(vault: Vault) -> None:
    """Raise Conflict for a vault that is archived."""
    if vault.archived_at is not None:
        raise Conflict("The vault is archived and can no longer be changed; make another.", code="archived")
