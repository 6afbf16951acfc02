"""Carrying out memory tools for routes: a search's vector is made with no connection held."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from trunkline.api.deps import Parts
from trunkline.domain.memory import Subject
from trunkline.domain.principal import Principal
from trunkline.errors import InvalidRequest
from trunkline.memory.embedders.queries import QueryVector
from trunkline.memory.recall import WORDS, model_of_turns
from trunkline.memory.tools import ToolResult, carry_out, searched_for
from trunkline.store.blocks import agent_memory


async def carry_out_call(
    parts: Parts,
    principal: Principal,
    agent: str,
    name: str,
    given: Any,
    *,
    subject: Subject,
    event_id: UUID | None = None,
    parent: UUID | None = None,
) -> tuple[ToolResult, QueryVector | None]:
    """Carry out a memory tool of an agent (id or name); return its result, and of a search, how it was made.

    Raises NotFound for an agent or tool that is not there, and Unavailable.
    """
    by = None
    text = searched_for(name, given)
    if text is not None:
        by = await _vector(parts, principal, agent, text, subject)
    async with parts.database.tenant(principal.tenant_id) as connection:
        memory = await agent_memory(connection, principal, agent)
        result = await carry_out(
            connection,
            principal,
            memory,
            name,
            given,
            subject=subject,
            event_id=event_id,
            parent=parent,
            by=by or WORDS,
        )
    return result, by


async def _vector(parts: Parts, principal: Principal, agent: str, text: str, subject: Subject) -> QueryVector:
    async with parts.database.tenant(principal.tenant_id) as connection:
        memory = await agent_memory(connection, principal, agent)
        try:
            model = await model_of_turns(connection, principal.tenant_id, memory, subject)
        except InvalidRequest:  # neither user nor session: the tool says so to the model
            return WORDS
    return await parts.embedding.queries.of(principal.tenant_id, model, text)
