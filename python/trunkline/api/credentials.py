"""Credentials of vaults. Secrets go in and never come out: no answer, log or error holds one."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Caller, Manager, PartsDependency, PrincipalDependency
from trunkline.api.idempotency import once
from trunkline.api.vaults import refuse_archived
from trunkline.domain import ids
from trunkline.domain.credentials import Credential, CredentialRequest, CredentialUpdate, changed, secrets, target, told
from trunkline.domain.metadata import merged
from trunkline.domain.times import now, to_wire
from trunkline.errors import Conflict, InvalidRequest
from trunkline.oauth.renewals import access_of
from trunkline.oauth.token_endpoint import Said
from trunkline.oauth.validation import validate
from trunkline.store import credential_renewals, vaults

router = APIRouter(prefix="/v1/vaults/{vault_id}/credentials", tags=["vaults"])


@router.post("")
async def create(
    request: Request, vault_id: str, given: CredentialRequest, caller: Manager, parts: PartsDependency
) -> JSONResponse:
    """Put a credential into a vault. 409 where it has one for the same MCP server or variable."""

    async def act() -> dict[str, Any]:
        vault = await vaults.lock(caller.connection, caller.principal, ids.decode("vlt", vault_id))
        refuse_archived(vault)
        at = now()
        if given.auth.type == "mcp_oauth" and given.auth.expires_at is not None and given.auth.expires_at <= at:
            raise InvalidRequest("The access token has expired already; send one in force.", param="auth.expires_at")
        made_id = ids.new()
        made = Credential(
            id=made_id,
            vault_id=vault.id,
            display_name=given.display_name,
            target=target(given.auth),
            auth=told(given.auth),
            metadata=given.metadata,
            created_at=at,
            updated_at=at,
            archived_at=None,
            sealed=parts.sealing.seal(secrets(given.auth), *_owner(caller, made_id)),
        )
        await vaults.add_credential(caller.connection, caller.principal.tenant_id, made)
        return made.to_wire()

    return JSONResponse(await once(request, caller, act))


@router.get("")
async def list_credentials(
    vault_id: str,
    caller: Manager,
    *,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    page: str | None = None,
    include_archived: bool = False,
) -> JSONResponse:
    """List a vault's credentials, newest first, without their secrets."""
    vault = await vaults.get(caller.connection, caller.principal, ids.decode("vlt", vault_id))
    found = await vaults.credentials(
        caller.connection,
        caller.principal.tenant_id,
        vault.id,
        paging.read_time(page),
        limit + 1,
        include_archived=include_archived,
    )
    return JSONResponse(
        paging.page(found, limit, Credential.to_wire, lambda one: paging.at_time(one.created_at, one.id))
    )


@router.get("/{credential_id}")
async def retrieve(vault_id: str, credential_id: str, caller: Manager) -> JSONResponse:
    """Get a credential without its secrets."""
    return JSONResponse((await _locked(caller, vault_id, credential_id)).to_wire())


@router.post("/{credential_id}")
async def update(
    *,
    request: Request,
    vault_id: str,
    credential_id: str,
    given: CredentialUpdate,
    caller: Manager,
    parts: PartsDependency,
) -> JSONResponse:
    """Change a credential: its secrets, name and metadata. What it is for stays."""

    async def act() -> dict[str, Any]:
        before = await _locked(caller, vault_id, credential_id)
        if before.archived_at is not None or before.sealed is None:
            raise Conflict("The credential is archived and can no longer be changed; make another.", code="archived")
        auth, sealed = before.auth, before.sealed
        if given.auth is not None:
            owner = _owner(caller, before.id)
            auth, values = changed(auth, parts.sealing.open(sealed, *owner), given.auth)
            sealed = parts.sealing.seal(values, *owner)
        after = replace(
            before,
            display_name=given.display_name or before.display_name,
            metadata=merged(before.metadata, given.metadata),
            auth=auth,
            sealed=sealed,
            updated_at=now(),
        )
        await vaults.update_credential(caller.connection, caller.principal.tenant_id, after)
        await credential_renewals.forget_failure(caller.connection, caller.principal.tenant_id, after.id)
        return after.to_wire()

    return JSONResponse(await once(request, caller, act))


router.patch("/{credential_id}", name="patch", summary="Update", description=update.__doc__ or "")(update)


@router.post("/{credential_id}/archive")
async def archive(request: Request, vault_id: str, credential_id: str, caller: Manager) -> JSONResponse:
    """Archive a credential; its secrets are deleted, and cannot be had back."""

    async def act() -> dict[str, Any]:
        found = await _locked(caller, vault_id, credential_id)
        if found.archived_at is None:
            at = now()
            found = replace(found, sealed=None, updated_at=at, archived_at=at)
            await vaults.update_credential(caller.connection, caller.principal.tenant_id, found)
        return found.to_wire()

    return JSONResponse(await once(request, caller, act))


@router.post("/{credential_id}/mcp_oauth_validate")
async def mcp_oauth_validate(
    vault_id: str, credential_id: str, principal: PrincipalDependency, parts: PartsDependency
) -> JSONResponse:
    """Try an OAuth credential out: show its token to the MCP server, and renew it where that refuses it with 401.

    `invalid`: it is refused, and cannot be renewed. `unknown`: the server, or the token endpoint, is away or broken. A
    new token is kept in the vault. Of what they answered there are 4096 characters, without the secrets.
    """
    principal.require("manage")
    tenant_id = principal.tenant_id
    async with parts.database.tenant(tenant_id) as connection:  # over before others are waited for
        found = await _locked(Caller(principal, connection), vault_id, credential_id)
    if found.auth["type"] != "mcp_oauth":
        raise InvalidRequest(
            f"The credential is of type {found.auth['type']!r}; only one of type 'mcp_oauth' can be tried out."
        )
    if found.sealed is None:
        raise Conflict("The credential is archived, and its tokens are gone; make another.", code="archived")
    access = access_of(found, parts.sealing.open(found.sealed, tenant_id.bytes, found.id.bytes))
    validated = await validate(parts.renewals, tenant_id, found.id, url=found.auth["mcp_server_url"], access=access)
    probe, refresh = validated.probe, validated.refresh
    return JSONResponse(
        {
            "type": "vault_credential_validation",
            "credential_id": ids.encode("vcrd", found.id),
            "vault_id": ids.encode("vlt", found.vault_id),
            "status": validated.status,
            "has_refresh_token": found.auth["refresh"] is not None,
            "mcp_probe": None if probe is None else {"method": probe.method, "http_response": _told(probe.said)},
            "refresh": None if refresh is None else {"status": refresh.status, "http_response": _told(refresh.said)},
            "validated_at": to_wire(now()),
        }
    )


@router.delete("/{credential_id}")
async def delete(vault_id: str, credential_id: str, caller: Manager) -> JSONResponse:
    """Delete a credential."""
    found = await _locked(caller, vault_id, credential_id)
    await vaults.delete_credential(caller.connection, caller.principal.tenant_id, found.id)
    return JSONResponse({"id": ids.encode("vcrd", found.id), "type": "vault_credential_deleted"})


async def _locked(caller: Caller, vault_id: str, credential_id: str) -> Credential:
    vault = await vaults.get(caller.connection, caller.principal, ids.decode("vlt", vault_id))
    return await vaults.lock_credential(
        caller.connection, caller.principal.tenant_id, vault.id, ids.decode("vcrd", credential_id)
    )


def _told(said: Said | None) -> dict[str, Any] | None:
    if said is None:
        return None
    return {
        "status_code": said.status,
        "content_type": said.content_type,
        "body": said.body,
        "body_truncated": said.is_cut,
    }


def _owner(caller: Caller, credential_id: UUID) -> tuple[bytes, bytes]:
    """Return what a credential's secrets are sealed to."""
    return caller.principal.tenant_id.bytes, credential_id.bytes
