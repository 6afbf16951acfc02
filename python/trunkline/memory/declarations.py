"""Blocks as an agent's version stores them: with all that reading and rendering need, worked out once."""

from __future__ import annotations

from trunkline.domain.agents import DeclaredBlock
from trunkline.memory.blocks import BlockDefinition
from trunkline.memory.render import digest, empty, head, keep_order


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
