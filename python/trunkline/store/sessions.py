"""Sessions: the heads of event logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.budgets import Used
from trunkline.domain.principal import Principal
from trunkline.domain.redaction import Wanted
from trunkline.domain.sessions import Session, Status
from trunkline.errors import NotFound
from trunkline.store import repository_tokens
from trunkline.store.pool import Connection
from trunkline.store.queries import queries

USED: Final = tuple(field.name for field in fields(Used))
"""Of what a session has used, the columns."""


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session about to be written."""

    id: UUID
    agent_id: UUID
    agent_version: int
    user_id: str | None
    title: str | None
    metadata: Mapping[str, str]
    resources: Sequence[Mapping[str, Any]]
    at: datetime
    environment_id: UUID | None = None
    vault_ids: Sequence[UUID] = ()
    deployment_id: UUID | None = None
    budget: Mapping[str, Any] | None = None
    limits: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions a list holds; None: no limit."""

    include_archived: bool = False
    agent_id: UUID | None = None
    agent_version: int | None = None
    statuses: tuple[str, ...] | None = None
    user_id: str | None = None
    memory_store_id: str | None = None
    created_after: datetime | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    created_to: datetime | None = None
    deployment_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """A session's head as its lock holder sees it."""

    status: Status
    last_seq: int
    archived_at: datetime | None
    title: str | None
    metadata: Mapping[str, str]
    resources: Sequence[Mapping[str, Any]]
    redact: Sequence[Wanted] | None
    """What is looked for in what its log is to say; None: nothing."""
    budget: Mapping[str, Any] | None
    limits: Mapping[str, Any] | None
    used: Used


@dataclass(frozen=True, slots=True)
class StoreName:
    """A memory store that a session may attach."""

    id: UUID
    name: str
    description: str


async def create(connection: Connection, principal: Principal, new: NewSession) -> None:
    """Write a session."""
    await connection.execute(
        queries("sessions")["insert_session"],
        (
            principal.tenant_id,
            new.id,
            new.agent_id,
            new.agent_version,
            new.user_id,
            new.title,
            Jsonb(new.metadata),
            Jsonb(list(new.resources)),
            new.at,
            new.environment_id,
            list(new.vault_ids),
            new.deployment_id,
            principal.started_by,
            _json(new.budget),
            _json(new.limits),
        ),
    )


async def get(connection: Connection, principal: Principal, session_id: UUID) -> Session:
    """Return a session. Raises NotFound."""
    cursor = await connection.execute(
        queries("sessions")["select_session"], (principal.tenant_id, principal.agent_id, session_id)
    )
    row = await cursor.fetchone()
    if row is None:
        raise not_found(session_id)
    return _session(row)


async def lock(connection: Connection, principal: Principal, session_id: UUID) -> Head:
    """Return a session's head and keep others from appending in this transaction. Raises NotFound."""
    cursor = await connection.execute(
        queries("sessions")["lock_session"], (principal.tenant_id, principal.agent_id, session_id)
    )
    row = await cursor.fetchone()
    if row is None:
        raise not_found(session_id)
    used = Used(**{name: row.pop(name) for name in USED})
    return Head(**row, used=used)


async def head(connection: Connection, principal: Principal, session_id: UUID) -> int:
    """Return the number of a session's last event, 0 for none. Raises NotFound."""
    cursor = await connection.execute(
        queries("sessions")["select_head"], (principal.tenant_id, principal.agent_id, session_id)
    )
    row = await cursor.fetchone()
    if row is None:
        raise not_found(session_id)
    return int(row["last_seq"])


async def heads(connection: Connection, tenant_id: UUID, session_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the numbers of the last events of those sessions that exist."""
    cursor = await connection.execute(queries("sessions")["select_heads"], (tenant_id, list(session_ids)))
    return {row["id"]: row["last_seq"] for row in await cursor.fetchall()}


async def advance(
    connection: Connection,
    tenant_id: UUID,
    session_id: UUID,
    *,
    last_seq: int,
    status: Status,
    at: datetime,
    by: Principal | None = None,
) -> None:
    """Move a locked session's head past events just appended; from now on it works in the name of `by`, if given."""
    key_id = None if by is None else by.started_by
    await connection.execute(
        queries("sessions")["advance_session"],
        (tenant_id, session_id, last_seq, status, at, by is not None, key_id),
    )


async def update(
    connection: Connection,
    tenant_id: UUID,
    session_id: UUID,
    *,
    title: str | None,
    metadata: Mapping[str, str],
    at: datetime,
) -> None:
    """Write a locked session's title and metadata."""
    await connection.execute(queries("sessions")["update_session"], (tenant_id, session_id, title, Jsonb(metadata), at))


async def bound(
    connection: Connection,
    tenant_id: UUID,
    session_id: UUID,
    budget: Mapping[str, Any] | None,
    limits: Mapping[str, Any] | None,
) -> None:
    """Write what a locked session may use."""
    await connection.execute(
        queries("sessions")["update_limits"], (tenant_id, session_id, _json(budget), _json(limits))
    )


async def attach(
    connection: Connection, tenant_id: UUID, session_id: UUID, resources: Sequence[Mapping[str, Any]], at: datetime
) -> None:
    """Write what is attached to a locked session."""
    await connection.execute(
        queries("sessions")["update_resources"], (tenant_id, session_id, Jsonb(list(resources)), at)
    )


async def archive(connection: Connection, principal: Principal, session_id: UUID, at: datetime) -> Session:
    """Archive a session and return it; its repositories' tokens are deleted. Raises NotFound."""
    await connection.execute(
        queries("sessions")["archive_session"], (principal.tenant_id, principal.agent_id, session_id, at)
    )
    archived = await get(connection, principal, session_id)
    await repository_tokens.forget(connection, principal.tenant_id, session_id)
    return archived


async def delete(connection: Connection, principal: Principal, session_id: UUID) -> None:
    """Delete a session, its events, what recall kept of them and the session's own memory. Raises NotFound.

    What its calls used and cost stays counted.
    """
    await lock(connection, principal, session_id)
    for statement in ("delete_events", "delete_passages", "delete_stores", "delete_session"):
        await connection.execute(queries("sessions")[statement], (principal.tenant_id, session_id))


async def page(
    connection: Connection,
    principal: Principal,
    wanted: SessionFilter,
    after: tuple[datetime, UUID] | None,
    limit: int,
    *,
    newest_first: bool,
) -> list[Session]:
    """Return up to `limit` sessions by age that come after the position `(created_at, id)`."""
    created_at, session_id = after or (None, None)
    store = wanted.memory_store_id
    cursor = await connection.execute(
        queries("sessions")["list_newest" if newest_first else "list_oldest"],
        (
            principal.tenant_id,
            principal.agent_id,
            created_at,
            session_id,
            wanted.include_archived,
            wanted.agent_id,
            wanted.agent_version,
            None if wanted.statuses is None else list(wanted.statuses),
            wanted.user_id,
            None if store is None else Jsonb([{"memory_store_id": store}]),
            wanted.created_after,
            wanted.created_from,
            wanted.created_before,
            wanted.created_to,
            wanted.deployment_id,
            limit,
        ),
    )
    return [_session(row) for row in await cursor.fetchall()]


async def attachable_stores(
    connection: Connection, principal: Principal, store_ids: Sequence[UUID]
) -> dict[UUID, StoreName]:
    """Return the memory stores of these ids that exist, are not archived, and that the key may use."""
    stores = principal.stores
    granted = None if stores is None else [one for one in store_ids if stores.access(one, None) is not None]
    cursor = await connection.execute(
        queries("sessions")["select_stores"],
        (principal.tenant_id, principal.agent_id, list(store_ids if granted is None else granted), granted),
    )
    return {row["id"]: StoreName(**row) for row in await cursor.fetchall()}


async def expire_prompts(connection: Connection, limit: int) -> int:
    """Delete up to `limit` beginnings of prompts that no provider's cache holds any more, in all tenants; how many."""
    cursor = await connection.execute(queries("sessions")["expire_prompts"], (limit,))
    row = await cursor.fetchone()
    return 0 if row is None else int(row["deleted"])


def not_found(session_id: UUID) -> NotFound:
    """Return the error for a session that is not there, for this key."""
    return NotFound(f"There is no session {ids.encode('sesn', session_id)}; GET /v1/sessions lists those there are.")


def _json(given: Mapping[str, Any] | None) -> Jsonb | None:
    return None if given is None else Jsonb(given)


def _session(row: dict[str, Any]) -> Session:
    return Session(**{**row, "resources": tuple(row["resources"]), "vault_ids": tuple(row["vault_ids"])})
