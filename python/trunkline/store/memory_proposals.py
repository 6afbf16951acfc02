"""Proposals for memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.memory import SCOPES
from trunkline.domain.memory_proposals import MemoryProposal, ProposalStatus
from trunkline.domain.principal import Principal
from trunkline.errors import Forbidden, NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries

Position = tuple[datetime, UUID]


@dataclass(frozen=True, slots=True)
class ProposalFilter:
    """Which proposals a list has; None: all."""

    agent_id: UUID | None = None
    session_id: UUID | None = None
    user_id: str | None = None
    status: ProposalStatus | None = None


async def insert(connection: Connection, tenant_id: UUID, one: MemoryProposal) -> None:
    """Write a proposal."""
    await connection.execute(
        queries("memory_proposals")["insert"],
        (
            tenant_id,
            one.id,
            one.agent_id,
            one.session_id,
            one.user_id,
            one.run_id,
            one.block,
            one.scope,
            Jsonb(list(one.operations)),
            list(one.events),
            one.reason,
            one.status,
            one.error,
            one.version_id,
            one.created_at,
            one.decided_at,
        ),
    )


async def page(
    connection: Connection, principal: Principal, wanted: ProposalFilter, after: Position | None, limit: int
) -> list[MemoryProposal]:
    """Return up to `limit` proposals that the key reaches, newest first, that come after the position."""
    created_at, proposal_id = after or (None, None)
    cursor = await connection.execute(
        queries("memory_proposals")["list"],
        (
            *_reach(principal),
            wanted.agent_id,
            wanted.session_id,
            wanted.user_id,
            wanted.status,
            created_at,
            proposal_id,
            limit,
        ),
    )
    return [MemoryProposal(**row) for row in await cursor.fetchall()]


async def get(connection: Connection, principal: Principal, proposal_id: UUID) -> MemoryProposal:
    """Return a proposal. Raises NotFound."""
    cursor = await connection.execute(queries("memory_proposals")["select"], (*_reach(principal), proposal_id))
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(
            f"There is no proposal {ids.encode('mprop', proposal_id)}; GET /v1/memory_proposals lists those there are."
        )
    return MemoryProposal(**row)


async def lock(connection: Connection, principal: Principal, proposal_id: UUID) -> MemoryProposal:
    """Return a proposal and keep others from deciding on it in this transaction.

    Raises NotFound, and Forbidden for a key that may not write what it is for.
    """
    found = await get(connection, principal, proposal_id)
    if found.scope:
        principal.require_memory(found.scope, write=True)
    if principal.stores is not None and not found.scope:
        raise Forbidden("The key reaches only the memory that its `stores` name.", code="store_not_granted")
    await connection.execute(queries("memory_proposals")["lock_session"], (principal.tenant_id, proposal_id))
    await connection.execute(queries("memory_proposals")["lock"], (principal.tenant_id, proposal_id))
    return await get(connection, principal, proposal_id)


async def decide(
    connection: Connection,
    tenant_id: UUID,
    proposal_id: UUID,
    status: ProposalStatus,
    *,
    at: datetime,
    by: UUID,
    version_id: UUID | None,
) -> None:
    """Note what was decided on a proposal that `lock` returned."""
    await connection.execute(
        queries("memory_proposals")["decide"], (tenant_id, proposal_id, status, at, by, version_id)
    )


def _reach(principal: Principal) -> tuple[UUID, UUID | None, str | None, Sequence[str] | None]:
    scopes: list[Any] | None = None
    if principal.stores is not None:
        scopes = [scope for scope in SCOPES if scope in principal.stores.by_scope]
    return principal.tenant_id, principal.agent_id, principal.user_id, scopes
