"""Running a deployment: the session that it starts, or why it starts none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import Rollback

from trunkline.domain import ids
from trunkline.domain.deployments import Deployment, Run
from trunkline.domain.principal import Principal
from trunkline.domain.times import now
from trunkline.errors import TrunklineError, Unavailable
from trunkline.store import deployments, keys
from trunkline.store.launches import launch
from trunkline.store.leases import Wake
from trunkline.store.pool import Connection

_TYPES: Final[Mapping[str, str]] = {
    "agent_archived": "agent_archived_error",
    "environment_archived": "environment_archived_error",
    "environment_not_found": "environment_not_found_error",
    "vault_archived": "vault_archived_error",
    "vault_not_found": "vault_not_found_error",
    "file_not_found": "file_not_found_error",
    "memory_store_not_found": "memory_store_archived_error",
}
"""The wire's words for what keeps a session from being started, by the error's `code`."""
FOR_GOOD: Final = frozenset(_TYPES.values())
"""What no later run gets over by itself: a deployment is paused at the first."""


async def run(
    connection: Connection,
    tenant_id: UUID,
    deployment: Deployment,
    scheduled_at: datetime | None,
    wake: Wake | None,
    *,
    by: Principal | None = None,
) -> Run | None:
    """Start a session for a deployment that is locked, and write the run. None: that time was run before.

    The session works in the name of `by`, where somebody runs it by hand, else of the key that made the deployment.
    """
    try:
        async with connection.transaction() as started:
            principal = await _principal(connection, tenant_id, deployment, by)
            asked = deployment.session(tenant_id)
            session_id = await launch(connection, principal, asked, wake=wake, deployment_id=deployment.id)
            made = _run(deployment, scheduled_at, session_id=session_id)
            if await deployments.add_run(connection, tenant_id, made):
                return made
            raise Rollback(started)
    except Unavailable:
        raise
    except TrunklineError as error:
        kind = _TYPES.get(error.code or "", "session_creation_rejected_error")
        return await refuse(connection, tenant_id, deployment, scheduled_at, kind=kind, message=error.message)
    return None


async def _principal(
    connection: Connection, tenant_id: UUID, deployment: Deployment, by: Principal | None
) -> Principal:
    """Return in whose name a session is started. What it refers to was allowed to the key that made the deployment."""
    if by is not None:
        return replace(by, agent_id=None, user_id=None)
    if deployment.key_id is None:
        return Principal(tenant_id, UUID(int=0), "deployment", frozenset())
    key = await keys.in_force(connection, tenant_id, deployment.key_id)
    return Principal(
        tenant_id, key.id, key.name, frozenset(key.scopes), stores=key.stores, tools=key.tools, bounded=True
    )


async def refuse(
    connection: Connection,
    tenant_id: UUID,
    deployment: Deployment,
    scheduled_at: datetime | None,
    *,
    kind: str,
    message: str,
) -> Run | None:
    """Write a run that starts no session. None: that time was run before."""
    made = _run(deployment, scheduled_at, error={"type": kind, "message": message})
    return made if await deployments.add_run(connection, tenant_id, made) else None


def _run(
    deployment: Deployment,
    scheduled_at: datetime | None,
    *,
    session_id: UUID | None = None,
    error: Mapping[str, str] | None = None,
) -> Run:
    return Run(
        ids.new(), deployment.id, deployment.agent_id, deployment.agent_version, scheduled_at, session_id, error, now()
    )
