"""Blocks as an agent's version stores them: with all that reading and rendering need, worked out once."""

from __future__ import annotations

from dataclasses import replace

from trunkline.domain.agents import DeclaredBlock
from trunkline.domain.memory import SCOPES
from trunkline.domain.principal import Principal
from trunkline.errors import InvalidRequest
from trunkline.memory.blocks import BlockDefinition, MemoryDefinition, parse_memory
from trunkline.memory.render import digest, empty, head, keep_order
from trunkline.store import agents
from trunkline.store.pool import Connection


def declared(block: BlockDefinition) -> DeclaredBlock:
    """Return the row of a block."""
    rendered = empty(block)
    return DeclaredBlock(
        name=block.name,
        scope=block.scope,
        description=block.description,
        schema=block.schema,
        empty_rendered=rendered.text,
        empty_tokens=rendered.tokens,
        head=head(block),
        fields=sorted(block.fields),
        keep_order=keep_order(block),
        required=sorted(block.required),
        token_budget=block.token_budget,
        priority=block.priority,
        options=block.options(),
        digest=digest(block),
    )


async def declared_blocks(
    connection: Connection, principal: Principal, name: str, memory: MemoryDefinition
) -> tuple[DeclaredBlock, ...]:
    """Return the rows of all blocks of the agent `name`, borrowed ones too, in the order of the prompt.

    Raises InvalidRequest where another agent does not share a block, or not with these rights.
    """
    found = [declared(block) for block in memory.blocks]
    for borrowed in memory.borrowed:
        where = f"memory.blocks.{borrowed.name}"
        owner = await agents.find(connection, principal, borrowed.owner)
        block = None if owner is None else parse_memory(owner.definition["memory"]).block(borrowed.name)
        shared = None if block is None or owner is None else block.shared_with.get(name)
        if owner is None or block is None or shared is None:
            raise InvalidRequest(
                f"{where}: the agent {borrowed.owner!r} does not share a block of this name with {name!r}; there, "
                f"declare it with shared_with: {{{name}: read_only}} first.",
                param=where,
            )
        if block.scope in ("org", "session"):
            raise InvalidRequest(
                f"{where}: a block of scope {block.scope} is not borrowed: every agent may declare one of scope org, "
                "and a session has one agent.",
                param=where,
            )
        if borrowed.access == "read_write" and shared == "read_only":
            raise InvalidRequest(f"{where}.access: {borrowed.owner!r} shares it read_only.", param=f"{where}.access")
        found.append(replace(declared(block), owner_id=owner.id, writable=borrowed.access == "read_write"))
    return tuple(sorted(found, key=lambda block: SCOPES.index(block.scope)))
