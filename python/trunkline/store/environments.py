"""Environments of a tenant."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from trunkline.domain import environments, ids
from trunkline.domain.environments import Environment
from trunkline.errors import Conflict, NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


async def create(connection: Connection, tenant_id: UUID, environment: Environment) -> None:
    """Write an environment. Raises Conflict when its name is taken."""
    values = (
        tenant_id,
        environment.id,
        environment.name,
        environment.description,
        Jsonb(environment.config),
        Jsonb(environment.metadata),
        environment.created_at,
    )
    cursor = await connection.execute(queries("environments")["insert_environment"], values)
    if await cursor.fetchone() is None:
        raise _name_taken(environment.name)


async def get(connection: Connection, tenant_id: UUID, environment: str) -> Environment:
    """Return an environment by its wire id or (not archived) its name; the default one too. Raises NotFound."""
    environment_id, name = ids.decode_or_name("env", environment)
    if environment_id == tenant_id or name == environments.DEFAULT:
        return environments.default(tenant_id)
    cursor = await connection.execute(queries("environments")["select_environment"], (tenant_id, environment_id, name))
    row = await cursor.fetchone()
    if row is None:
        raise _not_found(environment)
    return Environment(**row)


async def lock(connection: Connection, tenant_id: UUID, environment_id: UUID) -> Environment:
    """Return an environment and keep others from changing it in this transaction. Raises NotFound.

    Raises Conflict for the default one, which nobody made and nobody changes.
    """
    if environment_id == tenant_id:
        raise Conflict(
            "The default environment is always there and cannot be changed; make another (POST /v1/environments).",
            code="default_environment",
        )
    cursor = await connection.execute(queries("environments")["lock_environment"], (tenant_id, environment_id))
    row = await cursor.fetchone()
    if row is None:
        raise _not_found(ids.encode("env", environment_id))
    return Environment(**row)


async def update(connection: Connection, tenant_id: UUID, environment: Environment) -> None:
    """Write an environment that `lock` returned. Raises Conflict when its new name is taken."""
    values = (
        tenant_id,
        environment.id,
        environment.name,
        environment.description,
        Jsonb(environment.config),
        Jsonb(environment.metadata),
        environment.updated_at,
        environment.archived_at,
    )
    try:
        async with connection.transaction():
            await connection.execute(queries("environments")["update_environment"], values)
    except psycopg.errors.UniqueViolation as error:
        raise _name_taken(environment.name) from error


async def delete(connection: Connection, tenant_id: UUID, environment_id: UUID) -> None:
    """Delete an environment that `lock` returned. Raises Conflict while sessions name it."""
    try:
        async with connection.transaction():
            await connection.execute(queries("environments")["delete_environment"], (tenant_id, environment_id))
    except psycopg.errors.ForeignKeyViolation as error:
        raise Conflict(
            "There are sessions or deployments of this environment; delete them, or archive it.", code="in_use"
        ) from error


async def page(
    connection: Connection,
    tenant_id: UUID,
    after: tuple[datetime, UUID] | None,
    limit: int,
    *,
    include_archived: bool,
) -> list[Environment]:
    """Return up to `limit` environments, newest first, after `(created_at, id)`; the default one comes last."""
    created_at, environment_id = after or (None, None)
    cursor = await connection.execute(
        queries("environments")["list_environments"], (tenant_id, created_at, environment_id, include_archived, limit)
    )
    found = [Environment(**row) for row in await cursor.fetchall()]
    default = environments.default(tenant_id)
    if len(found) < limit and (after is None or after > (default.created_at, default.id)):
        found.append(default)
    return found


def _name_taken(name: str) -> Conflict:
    return Conflict(
        f"There is an environment named {name[:80]!r} already; choose another name.", param="name", code="name_taken"
    )


def _not_found(environment: str) -> NotFound:
    return NotFound(f"There is no environment {environment[:80]!r}; GET /v1/environments lists those there are.")
