"""Deployments and their runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.deployments import Deployment, Run
from trunkline.domain.principal import Principal
from trunkline.errors import NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries

Position = tuple[datetime, UUID] | None
"""Where a page begins: after this `(created_at, id)`; None: at the newest."""


@dataclass(frozen=True, slots=True)
class DeploymentFilter:
    """Which deployments a list holds; None: no limit."""

    include_archived: bool = False
    agent_id: UUID | None = None
    status: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a list holds; None: no limit."""

    deployment_id: UUID | None = None
    has_error: bool | None = None
    scheduled: bool | None = None
    created_after: datetime | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    created_to: datetime | None = None


async def create(connection: Connection, tenant_id: UUID, new: Deployment) -> None:
    """Write a deployment."""
    values = (
        tenant_id,
        new.id,
        new.agent_id,
        new.agent_version,
        new.environment_id,
        new.name,
        new.description,
        list(new.vault_ids),
        Jsonb(list(new.resources)),
        Jsonb(list(new.initial_events)),
        Jsonb(new.metadata),
        None if new.schedule is None else Jsonb(new.schedule),
        new.next_run_at,
        new.due_at,
        new.created_at,
        new.key_id,
        None if new.budget is None else Jsonb(new.budget),
    )
    await connection.execute(queries("deployments")["insert_deployment"], values)


async def get(connection: Connection, principal: Principal, deployment_id: UUID) -> Deployment:
    """Return a deployment. Raises NotFound."""
    return await _one(connection, "select_deployment", principal, deployment_id)


async def lock(connection: Connection, principal: Principal, deployment_id: UUID) -> Deployment:
    """Return a deployment and keep others from changing or firing it in this transaction. Raises NotFound."""
    return await _one(connection, "lock_deployment", principal, deployment_id)


async def lock_due(connection: Connection, tenant_id: UUID, deployment_id: UUID, at: datetime) -> Deployment | None:
    """Return a deployment that is due, locked; None where another has it, or has fired it."""
    cursor = await connection.execute(queries("deployments")["lock_due"], (tenant_id, deployment_id, at))
    row = await cursor.fetchone()
    return None if row is None else _deployment(row)


async def update(connection: Connection, tenant_id: UUID, deployment: Deployment) -> None:
    """Write a deployment that was locked."""
    values = (
        tenant_id,
        deployment.id,
        deployment.agent_id,
        deployment.agent_version,
        deployment.environment_id,
        deployment.name,
        deployment.description,
        list(deployment.vault_ids),
        Jsonb(list(deployment.resources)),
        Jsonb(list(deployment.initial_events)),
        Jsonb(deployment.metadata),
        None if deployment.schedule is None else Jsonb(deployment.schedule),
        deployment.status,
        None if deployment.paused_reason is None else Jsonb(deployment.paused_reason),
        deployment.failures,
        deployment.next_run_at,
        deployment.due_at,
        deployment.last_run_at,
        deployment.updated_at,
        deployment.archived_at,
        deployment.key_id,
        None if deployment.budget is None else Jsonb(deployment.budget),
    )
    await connection.execute(queries("deployments")["update_deployment"], values)


async def page(
    connection: Connection, principal: Principal, wanted: DeploymentFilter, after: Position, limit: int
) -> list[Deployment]:
    """Return up to `limit` deployments, newest first."""
    created_at, deployment_id = after or (None, None)
    cursor = await connection.execute(
        queries("deployments")["list_deployments"],
        (
            principal.tenant_id,
            principal.agent_id,
            created_at,
            deployment_id,
            wanted.include_archived,
            wanted.agent_id,
            wanted.status,
            wanted.created_from,
            wanted.created_to,
            limit,
        ),
    )
    return [_deployment(row) for row in await cursor.fetchall()]


async def due(connection: Connection, at: datetime, limit: int) -> list[tuple[UUID, UUID]]:
    """Return `(tenant, deployment)` of up to `limit` deployments of any tenant that are due, the longest first."""
    cursor = await connection.execute(queries("deployments")["due"], (at, limit))
    return [(row["tenant_id"], row["id"]) for row in await cursor.fetchall()]


async def is_working(connection: Connection, tenant_id: UUID, deployment_id: UUID) -> bool:
    """Tell whether the session of the newest run is still at work."""
    cursor = await connection.execute(queries("deployments")["select_working"], (tenant_id, deployment_id))
    row = await cursor.fetchone()
    return row is not None and bool(row["working"])


async def add_run(connection: Connection, tenant_id: UUID, run: Run) -> bool:
    """Write a run; False, and nothing is written, where its time on the schedule was run before."""
    values = (
        tenant_id,
        run.id,
        run.deployment_id,
        run.agent_id,
        run.agent_version,
        run.scheduled_at,
        run.session_id,
        None if run.error is None else Jsonb(run.error),
        run.created_at,
    )
    cursor = await connection.execute(queries("deployments")["insert_run"], values)
    return await cursor.fetchone() is not None


async def get_run(connection: Connection, principal: Principal, run_id: UUID) -> Run:
    """Return a run. Raises NotFound."""
    cursor = await connection.execute(
        queries("deployments")["select_run"], (principal.tenant_id, principal.agent_id, run_id)
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(
            f"There is no deployment run {ids.encode('drun', run_id)}; GET /v1/deployment_runs lists those there are."
        )
    return Run(**row)


async def runs(
    connection: Connection, principal: Principal, wanted: RunFilter, after: Position, limit: int
) -> list[Run]:
    """Return up to `limit` runs, newest first."""
    created_at, run_id = after or (None, None)
    cursor = await connection.execute(
        queries("deployments")["list_runs"],
        (
            principal.tenant_id,
            principal.agent_id,
            created_at,
            run_id,
            wanted.deployment_id,
            wanted.has_error,
            wanted.scheduled,
            wanted.created_after,
            wanted.created_from,
            wanted.created_before,
            wanted.created_to,
            limit,
        ),
    )
    return [Run(**row) for row in await cursor.fetchall()]


async def _one(connection: Connection, statement: str, principal: Principal, deployment_id: UUID) -> Deployment:
    cursor = await connection.execute(
        queries("deployments")[statement], (principal.tenant_id, principal.agent_id, deployment_id)
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(
            f"There is no deployment {ids.encode('depl', deployment_id)}; GET /v1/deployments lists those there are."
        )
    return _deployment(row)


def _deployment(row: dict[str, Any]) -> Deployment:
    return Deployment(**{**row, **{name: tuple(row[name]) for name in ("vault_ids", "resources", "initial_events")}})
