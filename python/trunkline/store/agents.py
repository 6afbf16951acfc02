"""Agents and their versions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.agents import Agent, AgentVersion
from trunkline.domain.principal import Principal
from trunkline.errors import Conflict, NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class AgentFilter:
    """Which agents a list holds; None: no limit."""

    include_archived: bool = False
    name: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


async def create(
    connection: Connection,
    principal: Principal,
    agent_id: UUID,
    version: AgentVersion,
    at: datetime,
    *,
    applied: bool = False,
) -> Agent:
    """Write an agent with its first version. Raises Conflict, with the agent there is, when its name is taken."""
    tenant = principal.tenant_id
    cursor = await connection.execute(queries("agents")["insert_agent"], (tenant, agent_id, version.name, at, applied))
    if await cursor.fetchone() is None:
        raise await _name_taken(connection, principal, version.name)
    await _insert_version(connection, tenant, agent_id, number=1, version=version, at=at)
    return Agent(agent_id, 1, version.definition, at, at, None, applied)


async def find(connection: Connection, principal: Principal, agent: str, version: int | None = None) -> Agent | None:
    """Return an agent by its wire id or (not archived) its name, in its current version or the one given."""
    agent_id, name = None, None
    try:
        agent_id = ids.decode("agent", agent)
    except NotFound:
        name = agent
    cursor = await connection.execute(
        queries("agents")["select_agent"], (principal.tenant_id, principal.agent_id, agent_id, name, version)
    )
    row = await cursor.fetchone()
    return None if row is None else Agent(**row)


async def get(connection: Connection, principal: Principal, agent: str, version: int | None = None) -> Agent:
    """Return an agent by its wire id or its name. Raises NotFound that tells which of both is not there."""
    found = await find(connection, principal, agent, version)
    if found is not None:
        return found
    if version is not None and await find(connection, principal, agent) is not None:
        raise NotFound(
            f"The agent {_shown(agent)} has no version {version}; GET /v1/agents/{{id}}/versions lists them."
        )
    raise NotFound(f"There is no agent {_shown(agent)}; GET /v1/agents lists those there are.")


async def lock(connection: Connection, principal: Principal, agent: str) -> Agent:
    """Return the current version of an agent and keep others from changing it in this transaction. Raises NotFound."""
    found = await get(connection, principal, agent)
    await connection.execute(queries("agents")["lock_agent"], (principal.tenant_id, principal.agent_id, found.id))
    # Read again: another change may have been waited for.
    return await get(connection, principal, ids.encode("agent", found.id))


async def add_version(
    connection: Connection, principal: Principal, before: Agent, version: AgentVersion, at: datetime
) -> Agent:
    """Write the version after `before`, which `lock` returned. Raises Conflict when its new name is taken."""
    tenant = principal.tenant_id
    number = before.version + 1
    await _insert_version(connection, tenant, before.id, number=number, version=version, at=at)
    try:
        async with connection.transaction():
            await connection.execute(queries("agents")["advance_agent"], (tenant, before.id, number, version.name, at))
    except psycopg.errors.UniqueViolation as error:
        raise await _name_taken(connection, principal, version.name) from error
    return Agent(before.id, number, version.definition, before.created_at, at, None)


async def archive(connection: Connection, principal: Principal, agent: str, at: datetime) -> Agent:
    """Archive an agent and return it. Raises NotFound."""
    found = await get(connection, principal, agent)
    await connection.execute(
        queries("agents")["archive_agent"], (principal.tenant_id, principal.agent_id, found.id, at)
    )
    return await get(connection, principal, ids.encode("agent", found.id))


async def page(
    connection: Connection,
    principal: Principal,
    wanted: AgentFilter,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[Agent]:
    """Return up to `limit` agents, newest first, that come after the position `(created_at, id)`."""
    created_at, agent_id = after or (None, None)
    cursor = await connection.execute(
        queries("agents")["list_agents"],
        (
            principal.tenant_id,
            principal.agent_id,
            created_at,
            agent_id,
            wanted.include_archived,
            wanted.name,
            wanted.created_from,
            wanted.created_to,
            limit,
        ),
    )
    return [Agent(**row) for row in await cursor.fetchall()]


async def versions(
    connection: Connection, principal: Principal, agent_id: UUID, before: int | None, limit: int
) -> list[Agent]:
    """Return up to `limit` versions of an agent, newest first, older than `before`."""
    cursor = await connection.execute(
        queries("agents")["list_versions"], (principal.tenant_id, principal.agent_id, agent_id, before, limit)
    )
    return [Agent(**row) for row in await cursor.fetchall()]


async def _insert_version(
    connection: Connection, tenant: UUID, agent_id: UUID, *, number: int, version: AgentVersion, at: datetime
) -> None:
    parameters: tuple[Any, ...] = (
        tenant,
        agent_id,
        number,
        Jsonb(version.definition),
        version.model,
        version.definition["system"],
        version.memory_enabled,
        version.memory_refresh,
        version.memory_fail,
        version.recall_tokens,
        Jsonb(list(version.memory_tools)),
        at,
        version.memory_budget,
        version.prompt_cache_ttl,
        version.cache_control,
        version.retention.sessions,
        version.retention.events,
        version.context_tokens,
        version.context_turns,
        Jsonb(list(version.redact)) if version.redact else None,
        version.redact_log,
        Jsonb(list(version.stores)),
        None if version.consolidate is None else Jsonb(dict(version.consolidate)),
    )
    await connection.execute(queries("agents")["insert_version"], parameters)
    if version.blocks:
        await connection.execute(
            queries("agents")["insert_blocks"],
            (tenant, agent_id, number, Jsonb([block.to_json() for block in version.blocks])),
        )


async def _name_taken(connection: Connection, principal: Principal, name: str) -> Conflict:
    there = await find(connection, principal, name)
    details = None if there is None else {"agent_id": ids.encode("agent", there.id), "version": there.version}
    where = "" if details is None else f" (POST /v1/agents/{details['agent_id']})"
    return Conflict(
        f"There is an agent named {_shown(name)} already; update it{where}, or choose another name.",
        param="name",
        code="name_taken",
        details=details,
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")
