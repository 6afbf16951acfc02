"""What the session's vaults hold for an MCP server."""

from __future__ import annotations

from datetime import datetime

from trunkline.domain.times import now
from trunkline.errors import Unavailable
from trunkline.store import vaults
from trunkline.store.leases import Lease, Task
from trunkline.store.pool import Database
from trunkline.store.sealing import Sealing


class CredentialError(Exception):
    """There is a credential that cannot be used; the text is for users."""


async def token_for(database: Database, sealing: Sealing, lease: Lease, task: Task, url: str) -> str | None:
    """Return the token for a server, of the first vault that has one; None: none has.

    Raises CredentialError for one that cannot be used, Unavailable when the database is away.
    """
    if not task.vault_ids:
        return None
    async with database.tenant(lease.tenant_id) as connection:
        found = await vaults.for_server(connection, lease.tenant_id, task.agent_id, task.vault_ids, url)
    if found is None or found.sealed is None:
        return None
    expires = found.auth.get("expires_at")
    if expires is not None and datetime.fromisoformat(expires) <= now():
        raise CredentialError("its credential has expired; put a new access token into the vault.")
    try:
        opened = sealing.open(found.sealed, lease.tenant_id.bytes, found.id.bytes)
    except Unavailable as error:
        raise CredentialError("this worker lacks the key that its credential was sealed with.") from error
    token = opened.get("token") or opened["access_token"]
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise CredentialError("its credential is not of the characters that a header takes; put in the token alone.")
    return token
