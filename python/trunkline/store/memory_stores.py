"""Memory stores: those that clients make, and the managed ones behind blocks and recall."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.grants import Access
from trunkline.domain.memory import AttachedStore, MemoryStore, StoreOwner, Subject
from trunkline.domain.principal import Principal
from trunkline.errors import Forbidden, InvalidRequest, NotFound, Unavailable
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class StoreFilter:
    """Which stores a list holds; None: no limit."""

    include_archived: bool = False
    created_from: datetime | None = None
    created_to: datetime | None = None


async def managed(connection: Connection, tenant_id: UUID, owner: StoreOwner, at: datetime) -> UUID:
    """Return the managed store of an owner, made if there is none, and keep it there until the transaction ends.

    Several may call this at once; one of them makes the store. Raises InvalidRequest when the store is archived.
    """
    for _ in range(3):
        cursor = await connection.execute(queries("memory_stores")["share_managed"], (tenant_id, owner.key))
        row = await cursor.fetchone()
        if row is not None:
            store_id: UUID = row["id"]
            refuse_archived(store_id, row["archived_at"])
            return store_id
        await connection.execute(
            queries("memory_stores")["insert_managed"],
            (tenant_id, ids.new(), owner.key, owner.scope, owner.agent_id, owner.subject, at),
        )
    raise Unavailable("The memory store is being deleted and made again by others; try again.")


async def find_managed(connection: Connection, tenant_id: UUID, owner: StoreOwner) -> UUID | None:
    """Return the managed store of an owner, or None when nothing has been kept for it yet."""
    cursor = await connection.execute(queries("memory_stores")["select_managed"], (tenant_id, owner.key))
    row = await cursor.fetchone()
    return None if row is None else row["id"]


async def attached(
    connection: Connection, tenant_id: UUID, agent_id: UUID, subject: Subject, parent: UUID | None = None
) -> list[AttachedStore]:
    """Return the stores attached to the subject's session with this agent, in their order, and those of the agent.

    `parent` is the session that it parts from, where it is a fork that is not in the log yet. The agent's alone where
    there is no such session of this agent and user.
    """
    cursor = await connection.execute(
        queries("memory_stores")["select_attached"],
        (tenant_id, agent_id, subject.user_id, subject.session_id, parent),
    )
    return [AttachedStore(**row) for row in await cursor.fetchall()]


async def create(connection: Connection, tenant_id: UUID, store: MemoryStore) -> None:
    """Insert a store that is not managed."""
    await connection.execute(
        queries("memory_stores")["insert_store"],
        (
            tenant_id,
            store.id,
            store.name,
            store.description,
            Jsonb(store.metadata),
            store.scope,
            store.agent_id,
            store.created_at,
            store.expire_after_days,
            Jsonb(list(store.redact)) if store.redact else None,
        ),
    )


async def get(connection: Connection, principal: Principal, store_id: UUID) -> MemoryStore:
    """Return a store. Raises NotFound."""
    return (await _one(connection, principal, store_id, "select_store"))[0]


async def lock(connection: Connection, principal: Principal, store_id: UUID) -> MemoryStore:
    """Return a store to write to, and keep others from changing it, or the paths in it, in this transaction.

    Raises NotFound, and Forbidden where the key may only read it.
    """
    store, access = await _one(connection, principal, store_id, "lock_store")
    if access == "read_only":
        raise Forbidden(
            f"The key {principal.key_name!r} may only read {ids.encode('memstore', store_id)}: its `stores` say so.",
            code="store_read_only",
        )
    if principal.agent_id is not None and principal.stores is None and not store.managed:
        cursor = await connection.execute(
            queries("memory_stores")["select_for_reading"], (principal.tenant_id, principal.agent_id, store_id)
        )
        row = await cursor.fetchone()
        if row is not None and row["for_reading"]:
            raise Forbidden(
                f"{ids.encode('memstore', store_id)} is attached to this key's agent, or a session of it, to be read, "
                "and so the key cannot write to it; detach it there, or use a key of no agent.",
                code="store_read_only",
            )
    return store


async def lock_managed(connection: Connection, tenant_id: UUID, store_id: UUID) -> MemoryStore:
    """Return a store that `managed` found, locked as by `lock`; a key of one agent reaches the organisation's too."""
    cursor = await connection.execute(queries("memory_stores")["lock_store"], (tenant_id, None, store_id, None))
    row = await cursor.fetchone()
    if row is None:
        raise _missing(store_id)
    return MemoryStore(**row)


async def page(
    connection: Connection, principal: Principal, wanted: StoreFilter, after: tuple[datetime, UUID] | None, limit: int
) -> list[MemoryStore]:
    """Return up to `limit` stores, newest first, that come after the position `(created_at, id)`."""
    created_at, store_id = after or (None, None)
    cursor = await connection.execute(
        queries("memory_stores")["list_stores"],
        (
            principal.tenant_id,
            principal.agent_id,
            created_at,
            store_id,
            wanted.include_archived,
            wanted.created_from,
            wanted.created_to,
            limit,
            *_granted(principal),
        ),
    )
    return [MemoryStore(**row) for row in await cursor.fetchall()]


async def update(connection: Connection, tenant_id: UUID, store: MemoryStore) -> None:
    """Write the name, description, metadata, retention, redaction and `updated_at` of a store that `lock` returned."""
    await connection.execute(
        queries("memory_stores")["update_store"],
        (
            tenant_id,
            store.id,
            store.name,
            store.description,
            Jsonb(store.metadata),
            store.updated_at,
            store.expire_after_days,
            Jsonb(list(store.redact)) if store.redact else None,
        ),
    )


async def archive(connection: Connection, tenant_id: UUID, store_id: UUID, at: datetime) -> None:
    """Archive a store that `lock` returned."""
    await connection.execute(queries("memory_stores")["archive_store"], (tenant_id, store_id, at))


async def delete(connection: Connection, principal: Principal, store_id: UUID) -> None:
    """Delete a store with all that is in it. Raises NotFound, and Forbidden where the key may only read it."""
    await lock(connection, principal, store_id)
    await connection.execute(queries("memory_stores")["delete_store"], (principal.tenant_id, store_id))


async def expire(connection: Connection, limit: int) -> int | None:
    """Delete up to `limit` rows of each kind of one store, of any tenant, that are past the time it keeps them.

    Returns how many rows went, None when no store is left to be looked at today.
    """
    cursor = await connection.execute(queries("memory_stores")["expire_memory"], (limit,))
    row = await cursor.fetchone()
    return None if row is None else row["deleted"]


def refuse_archived(store_id: UUID, archived_at: datetime | None) -> None:
    """Raise InvalidRequest when the store is archived: it can be read, and no longer written."""
    if archived_at is not None:
        raise InvalidRequest(
            f"The memory store {ids.encode('memstore', store_id)} is archived and can only be read; "
            "archiving cannot be undone. Write to another store.",
            code="memory_store_archived",
        )


async def _one(
    connection: Connection, principal: Principal, store_id: UUID, statement: str
) -> tuple[MemoryStore, Access]:
    """Return a store and how the key may use it. Raises NotFound, also for one that the key does not reach."""
    cursor = await connection.execute(
        queries("memory_stores")[statement],
        (principal.tenant_id, principal.agent_id, store_id, _granted(principal)[0]),
    )
    row = await cursor.fetchone()
    if row is None:
        raise _missing(store_id)
    store = MemoryStore(**row)
    if principal.stores is None:
        return store, "read_write"
    access = principal.stores.access(store_id, store.scope if store.managed else None)
    if access is None:
        raise _missing(store_id)
    return store, access


def _granted(principal: Principal) -> tuple[list[UUID] | None, list[str] | None]:
    """Return the stores and scopes that a key is granted, both None for one that is not bound to any."""
    stores = principal.stores
    return (None, None) if stores is None else (list(stores.by_id), list(stores.by_scope))


def _missing(store_id: UUID) -> NotFound:
    return NotFound(
        f"There is no memory store {ids.encode('memstore', store_id)}; GET /v1/memory_stores lists those there are."
    )
