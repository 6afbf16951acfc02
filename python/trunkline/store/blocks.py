"""The blocks that agents declare."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.memory import AgentBlock, AgentMemory, Memory, Scope
from trunkline.domain.principal import Principal
from trunkline.errors import NotFound
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


async def agent_memory(connection: Connection, principal: Principal, agent: str) -> AgentMemory:
    """Return the memory of an agent, given by its wire id or its name, in its current version. Raises NotFound.

    It has the blocks that the key reaches; those that it may only read are not writable.
    """
    agent_id, name = ids.decode_or_name("agent", agent)
    cursor = await connection.execute(
        queries("blocks")["select_agent_memory"], (principal.tenant_id, principal.agent_id, agent_id, name)
    )
    row = await cursor.fetchone()
    if row is None:
        shown = repr(agent if len(agent) <= 80 else f"{agent[:80]}…")
        raise NotFound(f"There is no agent {shown}; GET /v1/agents lists those there are.")
    blocks = tuple(
        AgentBlock(**{**block, "owner_id": None if block["owner_id"] is None else UUID(block["owner_id"])})
        for block in row.pop("blocks")
    )
    if principal.stores is not None:
        granted = principal.stores.by_scope
        blocks = tuple(
            replace(block, writable=block.writable and granted[block.scope] == "read_write")
            for block in blocks
            if block.scope in granted
        )
    return AgentMemory(**row, blocks=blocks)


async def lock_schema(connection: Connection, agent_id: UUID) -> None:
    """Keep writers of an agent's blocks waiting until the transaction ends: their schemas are about to change."""
    await connection.execute(queries("blocks")["lock_schema"], (agent_id,))


async def share_schema(connection: Connection, agent_id: UUID) -> None:
    """Keep an agent's schemas as they are until the transaction ends."""
    await connection.execute(queries("blocks")["share_schema"], (agent_id,))


async def stored(
    connection: Connection, tenant_id: UUID, agent_id: UUID, scope: Scope, name: str, *, after: str
) -> list[tuple[str, Memory]]:
    """Return the next 500 of what is stored of a block, locked, each with its owner, by which the next page goes on."""
    cursor = await connection.execute(queries("blocks")["select_stored"], (tenant_id, agent_id, scope, name, after))
    return [(row.pop("owner_key"), Memory(**row)) for row in await cursor.fetchall()]


async def declaration(
    connection: Connection, tenant_id: UUID, scope: Scope, name: str, agent_id: UUID | None
) -> AgentBlock | None:
    """Return how the agent declares a block now; without an agent (scope org), how the agent changed last does."""
    cursor = await connection.execute(queries("blocks")["select_declaration"], (tenant_id, scope, name, agent_id))
    row = await cursor.fetchone()
    return None if row is None else AgentBlock(**row)
