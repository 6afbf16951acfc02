"""Tokens of repositories that sessions are given: sealed, and never among what is told of a session."""

from __future__ import annotations

from uuid import UUID

from trunkline.store.pool import Connection
from trunkline.store.queries import queries
from trunkline.store.sealing import Sealing


async def put(
    connection: Connection, sealing: Sealing, tenant_id: UUID, session_id: UUID, *, resource_id: UUID, token: str
) -> None:
    """Keep a repository's token in place of the one before. Raises Unavailable without a key to seal with."""
    sealed = sealing.seal({"token": token}, *_owner(tenant_id, resource_id))
    await connection.execute(queries("repository_tokens")["put"], (tenant_id, session_id, resource_id, sealed))


async def get(
    connection: Connection, sealing: Sealing, tenant_id: UUID, session_id: UUID, *, resource_id: UUID
) -> str | None:
    """Return a repository's token; None: it has none. Raises Unavailable without the key that it was sealed with."""
    cursor = await connection.execute(
        queries("repository_tokens")["select_token"], (tenant_id, session_id, resource_id)
    )
    row = await cursor.fetchone()
    return None if row is None else sealing.open(bytes(row["sealed"]), *_owner(tenant_id, resource_id))["token"]


async def forget(connection: Connection, tenant_id: UUID, session_id: UUID, resource_id: UUID | None = None) -> None:
    """Delete a repository's token; without `resource_id` those of all of the session's."""
    await connection.execute(queries("repository_tokens")["forget"], (tenant_id, session_id, resource_id))


async def copy(connection: Connection, tenant_id: UUID, session_id: UUID, forked: UUID) -> None:
    """Give a session's fork, whose resources have the same ids, its tokens."""
    await connection.execute(queries("repository_tokens")["copy"], (tenant_id, session_id, forked))


def _owner(tenant_id: UUID, resource_id: UUID) -> tuple[bytes, ...]:
    """Return what a token is sealed to: a fork has it under the same resource."""
    return (b"repository", tenant_id.bytes, resource_id.bytes)
