"""API keys, and the tenants they open."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncRawCursor
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from trunkline.domain import ids, keys
from trunkline.domain.grants import Stores
from trunkline.domain.keys import Key
from trunkline.domain.limits import Limits, Used
from trunkline.domain.principal import SCOPES, Principal
from trunkline.domain.times import now
from trunkline.errors import Conflict, Forbidden, NotFound
from trunkline.store import limits
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


async def authenticate(connection: Connection, digest: bytes, request_id: str | None = None) -> Principal | None:
    """Return whom a key's SHA-256 stands for and bind the transaction to that tenant; None: no key in force has it.

    What the transaction changes is that key's in the audit log, in the request of this id.
    """
    cursor = await connection.execute(queries("keys")["authenticate"], (digest, request_id))
    row = await cursor.fetchone()
    if row is None:
        return None
    return Principal(
        tenant_id=row["tenant_id"],
        key_id=row["key_id"],
        key_name=row["name"],
        scopes=frozenset(row["scopes"]),
        agent_id=row["agent_id"],
        models=None if row["models"] is None else tuple(row["models"]),
        user_id=row["user_id"],
        stores=Stores.from_json(row["stores"]),
        tools=None if row["tools"] is None else tuple(row["tools"]),
        bounded=row["bounded"],
    )


async def create_tenant(connection: Connection, tenant_id: UUID, name: str, at: datetime) -> None:
    """Write a tenant, in a transaction bound to `tenant_id`. Raises Conflict when the name is taken."""
    cursor = await connection.execute(queries("keys")["insert_tenant"], (tenant_id, name, at))
    if await cursor.fetchone() is None:
        raise Conflict(
            f"There is a tenant named {name!r} already; choose another name.", param="name", code="name_taken"
        )


async def create(connection: Connection, tenant_id: UUID, key: Key, digest: bytes) -> None:
    """Write a key and its limits."""
    await connection.execute(queries("keys")["insert_key"], _row(tenant_id, key, digest))
    await _write_limits(connection, tenant_id, key, key.created_at)


async def change(connection: Connection, tenant_id: UUID, key: Key, at: datetime) -> None:
    """Write a key's name, models, stores, tools, end, limits and whether its calls' bodies are stored anew."""
    models, stores, tools = _bounds(key)
    values = (tenant_id, key.id, key.name, models, key.expires_at, key.store_bodies, stores, tools)
    await connection.execute(queries("keys")["update_key"], values)
    await _write_limits(connection, tenant_id, key, at)


async def _write_limits(connection: Connection, tenant_id: UUID, key: Key, at: datetime) -> None:
    await limits.write(connection, tenant_id, ("key", str(key.id)), key.limits, at)
    await limits.write(connection, tenant_id, ("users_of_key", str(key.id)), key.users, at)


async def get(connection: Connection, principal: Principal, key_id: UUID) -> Key:
    """Return a key. Raises NotFound."""
    cursor = await connection.execute(queries("keys")["select_key"], (principal.tenant_id, principal.agent_id, key_id))
    row = await cursor.fetchone()
    if row is None:
        raise _not_found(key_id)
    return _key(row)


async def in_force(connection: Connection, tenant_id: UUID, key_id: UUID) -> Key:
    """Return the key in whose name work goes on. Raises NotFound, and Forbidden when it was revoked or has expired."""
    key = await get(connection, Principal(tenant_id, key_id, "", frozenset()), key_id)
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now()):
        raise Forbidden(
            f"The key {key.name!r}, in whose name this works, was revoked or has expired; have another key give it "
            "work.",
            code="key_ended",
        )
    return key


async def page(
    connection: Connection, principal: Principal, after: tuple[datetime, UUID] | None, limit: int
) -> list[Key]:
    """Return up to `limit` keys, newest first, that come after the position `(created_at, id)`."""
    created_at, key_id = after or (None, None)
    cursor = await connection.execute(
        queries("keys")["list_keys"], (principal.tenant_id, principal.agent_id, created_at, key_id, limit)
    )
    return [_key(row) for row in await cursor.fetchall()]


async def revoke(connection: Connection, principal: Principal, key_id: UUID, at: datetime) -> Key:
    """End a key for good and return it. Raises NotFound."""
    cursor = await connection.execute(
        queries("keys")["revoke_key"], (principal.tenant_id, principal.agent_id, key_id, at)
    )
    if await cursor.fetchone() is None:
        raise _not_found(key_id)
    return await get(connection, principal, key_id)


async def bootstrap(connection: Connection, tenant_name: str = "default", *, key_name: str = "admin") -> str:
    """Make the tenant, unless it is there, and a key with all scopes; return the key's text, which is kept nowhere.

    For the first start, on a connection that acts as the schema's owner or a superuser.
    """
    at = now()
    text = keys.new_text()
    async with connection.transaction(), AsyncRawCursor(connection, row_factory=dict_row) as cursor:
        await cursor.execute(queries("keys")["insert_tenant"], (ids.new(), tenant_name, at))
        await cursor.execute(queries("keys")["select_tenant"], (tenant_name,))
        row = await cursor.fetchone()
        if row is None:
            raise NotFound(f"The tenant {tenant_name!r} was removed while its key was made; start again.")
        key = Key(ids.new(), key_name, keys.hint(text), SCOPES, at)
        await cursor.execute(queries("keys")["insert_key"], _row(row["id"], key, keys.digest(text)))
    return text


def _bounds(key: Key) -> tuple[list[str] | None, Jsonb | None, list[str] | None]:
    """Return a key's models, stores and tools as they are kept."""
    return (
        None if key.models is None else list(key.models),
        None if key.stores is None else Jsonb(key.stores.to_wire()),
        None if key.tools is None else list(key.tools),
    )


def _row(tenant_id: UUID, key: Key, digest: bytes) -> tuple[Any, ...]:
    models, stores, tools = _bounds(key)
    return (
        tenant_id,
        key.id,
        key.name,
        digest,
        key.hint,
        list(key.scopes),
        key.agent_id,
        key.team_id,
        key.user_id,
        models,
        key.expires_at,
        key.created_at,
        key.store_bodies,
        stores,
        tools,
        key.for_key,
    )


_OWN = (
    "id",
    "name",
    "hint",
    "created_at",
    "agent_id",
    "team_id",
    "user_id",
    "store_bodies",
    "expires_at",
    "revoked_at",
)


def _key(row: dict[str, Any]) -> Key:
    return Key(
        **{name: row[name] for name in _OWN},
        scopes=tuple(row["scopes"]),
        models=None if row["key_models"] is None else tuple(row["key_models"]),
        limits=Limits.from_row({**row, "models": None, "expires_at": None}),
        stores=Stores.from_json(row["stores"]),
        tools=None if row["tools"] is None else tuple(row["tools"]),
        users=Limits.from_json(row["users"]),
        used=Used.from_row(row),
    )


def _not_found(key_id: UUID) -> NotFound:
    return NotFound(f"There is no key {ids.encode('key', key_id)}; GET /v1/keys lists those there are.")
