"""Vaults and their credentials, whose secrets come and go sealed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.credentials import Credential
from trunkline.domain.principal import Principal
from trunkline.domain.vaults import Vault
from trunkline.errors import Conflict, NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries

Position = tuple[datetime, UUID] | None
"""Where a page begins: after this `(created_at, id)`; None: at the newest."""


async def create(connection: Connection, tenant_id: UUID, vault: Vault) -> None:
    """Write a vault."""
    values = (tenant_id, vault.id, vault.agent_id, vault.display_name, Jsonb(vault.metadata), vault.created_at)
    await connection.execute(queries("vaults")["insert_vault"], values)


async def there(connection: Connection, principal: Principal, vault_ids: Sequence[UUID]) -> dict[UUID, Vault]:
    """Return those of these vaults that exist and that the key may use."""
    cursor = await connection.execute(
        queries("vaults")["select_vaults"], (principal.tenant_id, principal.agent_id, list(vault_ids))
    )
    return {row["id"]: Vault(**row) for row in await cursor.fetchall()}


async def get(connection: Connection, principal: Principal, vault_id: UUID) -> Vault:
    """Return a vault. Raises NotFound."""
    found = (await there(connection, principal, [vault_id])).get(vault_id)
    if found is None:
        raise _no_vault(vault_id)
    return found


async def lock(connection: Connection, principal: Principal, vault_id: UUID) -> Vault:
    """Return a vault and keep others from changing it in this transaction. Raises NotFound."""
    cursor = await connection.execute(
        queries("vaults")["lock_vault"], (principal.tenant_id, principal.agent_id, vault_id)
    )
    row = await cursor.fetchone()
    if row is None:
        raise _no_vault(vault_id)
    return Vault(**row)


async def update(connection: Connection, tenant_id: UUID, vault: Vault) -> None:
    """Write a vault that `lock` returned."""
    values = (tenant_id, vault.id, vault.display_name, Jsonb(vault.metadata), vault.updated_at, vault.archived_at)
    await connection.execute(queries("vaults")["update_vault"], values)


async def archive_credentials(connection: Connection, tenant_id: UUID, vault_id: UUID, at: datetime) -> None:
    """Archive all credentials of a vault; what was secret of them is deleted."""
    await connection.execute(queries("vaults")["archive_credentials"], (tenant_id, vault_id, at))


async def delete(connection: Connection, principal: Principal, vault_id: UUID) -> None:
    """Delete a vault with its credentials. Raises NotFound."""
    cursor = await connection.execute(
        queries("vaults")["delete_vault"], (principal.tenant_id, principal.agent_id, vault_id)
    )
    if await cursor.fetchone() is None:
        raise _no_vault(vault_id)


async def page(
    connection: Connection, principal: Principal, after: Position, limit: int, *, include_archived: bool
) -> list[Vault]:
    """Return up to `limit` vaults, newest first."""
    created_at, vault_id = after or (None, None)
    cursor = await connection.execute(
        queries("vaults")["list_vaults"],
        (principal.tenant_id, principal.agent_id, created_at, vault_id, include_archived, limit),
    )
    return [Vault(**row) for row in await cursor.fetchall()]


async def add_credential(connection: Connection, tenant_id: UUID, credential: Credential) -> None:
    """Write a credential of a vault. Raises Conflict where the vault has one for the same target."""
    values = (
        tenant_id,
        credential.vault_id,
        credential.id,
        credential.display_name,
        credential.target,
        Jsonb(credential.auth),
        credential.sealed,
        Jsonb(credential.metadata),
        credential.created_at,
    )
    cursor = await connection.execute(queries("vaults")["insert_credential"], values)
    if await cursor.fetchone() is None:
        raise Conflict(
            f"The vault has a credential for {credential.target!r} already; change that one, or archive it.",
            param="auth",
            code="target_taken",
        )


async def lock_credential(connection: Connection, tenant_id: UUID, vault_id: UUID, credential_id: UUID) -> Credential:
    """Return a credential with what is sealed of it, kept from others' changes. Raises NotFound."""
    cursor = await connection.execute(queries("vaults")["select_credential"], (tenant_id, vault_id, credential_id))
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(
            f"There is no credential {ids.encode('vcrd', credential_id)} in this vault; "
            f"GET /v1/vaults/{ids.encode('vlt', vault_id)}/credentials lists those there are."
        )
    return Credential(**row)


async def for_server(
    connection: Connection, tenant_id: UUID, agent_id: UUID, vault_ids: Sequence[UUID], url: str
) -> Credential | None:
    """Return the credential that the first of these vaults has for an MCP server, with what is sealed of it."""
    values = (tenant_id, agent_id, list(vault_ids), url)
    cursor = await connection.execute(queries("vaults")["select_for_server"], values)
    row = await cursor.fetchone()
    return None if row is None else Credential(**row)


async def update_credential(connection: Connection, tenant_id: UUID, credential: Credential) -> None:
    """Write a credential that `lock_credential` returned."""
    values = (
        tenant_id,
        credential.id,
        credential.display_name,
        Jsonb(credential.auth),
        credential.sealed,
        Jsonb(credential.metadata),
        credential.updated_at,
        credential.archived_at,
    )
    await connection.execute(queries("vaults")["update_credential"], values)


async def delete_credential(connection: Connection, tenant_id: UUID, credential_id: UUID) -> None:
    """Delete a credential that `lock_credential` returned."""
    await connection.execute(queries("vaults")["delete_credential"], (tenant_id, credential_id))


async def credentials(
    connection: Connection, tenant_id: UUID, vault_id: UUID, after: Position, limit: int, *, include_archived: bool
) -> list[Credential]:
    """Return up to `limit` credentials of a vault, newest first, without what is sealed of them."""
    created_at, credential_id = after or (None, None)
    cursor = await connection.execute(
        queries("vaults")["list_credentials"],
        (tenant_id, vault_id, created_at, credential_id, include_archived, limit),
    )
    return [Credential(**row) for row in await cursor.fetchall()]


def _no_vault(vault_id: UUID) -> NotFound:
    return NotFound(f"There is no vault {ids.encode('vlt', vault_id)}; GET /v1/vaults lists those there are.")
