"""Blocks as they stand: for the API, and for the model's tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.memory import AgentBlock, AgentMemory, Memory, Subject, store_owner
from trunkline.domain.times import now
from trunkline.errors import InvalidRequest, NotFound
from trunkline.memory.blocks import BlockDefinition, stored_block
from trunkline.memory.render import render
from trunkline.memory.states import State, state_to_wire
from trunkline.store import memories
from trunkline.store.pool import Connection


@dataclass(frozen=True, slots=True)
class BlockState:
    """A block of an agent for one subject; `memory` is None while nobody has written it.

    `changed` tells whether the write that returned it made a version.
    """

    declared: AgentBlock
    memory: Memory | None
    changed: bool = False

    @property
    def definition(self) -> BlockDefinition:
        """The block's definition, compiled."""
        return stored_block(self.declared)

    @property
    def value(self) -> dict[str, Any]:
        """Field → value; a field without a value is unknown."""
        return {} if self.memory is None else self.memory.value

    @property
    def version(self) -> int:
        """The number of writes; 0: none."""
        return 0 if self.memory is None else self.memory.version

    @property
    def states(self) -> dict[str, State]:
        """Known field → its state, as stored."""
        return (self.memory.states if self.memory else None) or {}

    def rendered(self, at: datetime | None = None, *, whole: bool = False) -> str:
        """Return what the model reads at a moment, by default now; the `whole` of it, whatever the block's budget."""
        return render(self.definition, self.value, self.states, at, whole=whole).text

    def to_wire(self, at: datetime | None = None) -> dict[str, Any]:
        """Return the block as the API tells it, as it is known at a moment, by default now."""
        memory, at = self.memory, at or now()
        return {
            "block": self.declared.name,
            "scope": self.declared.scope,
            "value": self.value,
            "states": {
                name: state_to_wire(self.states.get(name), at)
                for name in dict.fromkeys([*self.definition.fields, *self.states])
            },
            "content_sha256": None if memory is None else memory.content_sha256,
            "version": self.version,
            "memory_id": None if memory is None else ids.encode("mem", memory.id),
            "store_id": None if memory is None else ids.encode("memstore", memory.store_id),
            "rendered": self.rendered(at),
        }


def declared_block(agent: AgentMemory, name: str) -> AgentBlock:
    """Return the agent's block of this name. Raises NotFound that lists those there are."""
    for block in agent.blocks:
        if block.name == name:
            return block
    names = ", ".join(block.name for block in agent.blocks)
    has = f"its blocks: {names}" if names else "it declares no blocks (memory.blocks of the agent)"
    raise NotFound(f"The agent has no block {name[:80]!r}; {has}.", param="block")


def readable(agent: AgentMemory, subject: Subject) -> tuple[list[AgentBlock], list[AgentBlock]]:
    """Split the agent's blocks into those that this subject has, and those for which it names no user or session."""
    has: list[AgentBlock] = []
    lacks: list[AgentBlock] = []
    for block in agent.blocks:
        given = {"user": subject.user_id, "session": subject.session_id}.get(block.scope, "")
        (lacks if given is None else has).append(block)
    return has, lacks


async def read_blocks(
    connection: Connection, tenant_id: UUID, agent: AgentMemory, blocks: Sequence[AgentBlock], subject: Subject
) -> list[BlockState]:
    """Return the state of these blocks, in their order, in one query.

    Raises InvalidRequest when a block is kept for each user or session and the subject names none.
    """
    if not blocks:
        return []
    owners = []
    for block in blocks:
        try:
            owners.append((store_owner(block.scope, block.owner_id or agent.agent_id, subject), block.name))
        except InvalidRequest as error:
            raise InvalidRequest(f"Block {block.name}: {error.message}", param=error.param) from None
    found = await memories.blocks(connection, tenant_id, owners)
    return [BlockState(block, found.get(block.name)) for block in blocks]
