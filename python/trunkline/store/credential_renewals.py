"""Renewals of access tokens in vaults: which one is under way, among all workers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from trunkline.domain.credentials import Credential
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class Renewal:
    """One that is under way until then at the latest, or (with an `error`) has failed and is not tried before then."""

    until: datetime
    error: str | None


async def lock_credential(connection: Connection, tenant_id: UUID, credential_id: UUID) -> Credential | None:
    """Return a credential, kept from others' changes in this transaction; None: it is archived or gone."""
    cursor = await connection.execute(queries("credential_renewals")["lock_credential"], (tenant_id, credential_id))
    row = await cursor.fetchone()
    return None if row is None else Credential(**row)


async def current(connection: Connection, tenant_id: UUID, credential_id: UUID) -> Renewal | None:
    """Return the renewal of a locked credential that is under way or has just failed."""
    cursor = await connection.execute(queries("credential_renewals")["select_renewal"], (tenant_id, credential_id))
    row = await cursor.fetchone()
    return None if row is None else Renewal(**row)


async def begin(connection: Connection, tenant_id: UUID, credential_id: UUID, seconds: float) -> datetime:
    """Begin the renewal of a locked credential; return until when it is nobody else's, which names it."""
    cursor = await connection.execute(
        queries("credential_renewals")["begin_renewal"], (tenant_id, credential_id, seconds)
    )
    row = await cursor.fetchone()
    if row is None:
        raise RuntimeError("a renewal that was begun is not there")
    until: datetime = row["until"]
    return until


async def end(connection: Connection, tenant_id: UUID, credential_id: UUID, until: datetime) -> None:
    """End the renewal that `begin` named."""
    await connection.execute(queries("credential_renewals")["end_renewal"], (tenant_id, credential_id, until))


async def fail(
    connection: Connection, tenant_id: UUID, credential_id: UUID, until: datetime, *, seconds: float, error: str
) -> None:
    """Note why the renewal that `begin` named failed: for so many seconds nobody tries again."""
    await connection.execute(
        queries("credential_renewals")["fail_renewal"], (tenant_id, credential_id, until, seconds, error)
    )


async def forget_failure(connection: Connection, tenant_id: UUID, credential_id: UUID) -> None:
    """Have what failed tried again at once."""
    await connection.execute(queries("credential_renewals")["forget_failure"], (tenant_id, credential_id))
