"""The memory tools that a model is offered, and carrying them out.

A refused call is an answer to the model, with what to do, and leaves the memory as it was.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

from trunkline.domain import ids, memory_tool
from trunkline.domain.agents import DeclaredBlock
from trunkline.domain.memory import Actor, AgentMemory, MemoryPreconditionFailed, Source, Subject, store_owner
from trunkline.domain.principal import Principal
from trunkline.errors import Conflict, Forbidden, InvalidRequest, NotFound
from trunkline.memory.blocks import MemoryDefinition, stored_block
from trunkline.memory.descriptions import block_words
from trunkline.memory.embedders.queries import QueryVector
from trunkline.memory.files import Files
from trunkline.memory.operations import MAX_OPERATIONS, OPS, parse_operations
from trunkline.memory.reads import BlockState, declared_block, read_blocks, readable
from trunkline.memory.recall import MAX_PASSAGES, WORDS, listed, recall, recall_attached
from trunkline.memory.values import check_text, shown
from trunkline.memory.writes import apply_operations
from trunkline.store import memory_stores
from trunkline.store.pool import Connection

SEARCH_TOKENS: Final = 2000
MAX_QUERY: Final = 2000

_UPDATE: Final = (
    "Save what you learn, so that you know it in later conversations. Call it as soon as the user tells or corrects "
    "something that belongs in one of the blocks below; save nothing else, and do not guess. What you know is shown in "
    "the <memory> blocks of the prompt: fields listed there as unknown are what you do not know yet, and it pays to "
    "ask for those that are required. What is listed as stale may no longer hold: confirm it before you rely on it, "
    "and set it again. What is listed as conflicted was said in several ways: find out which holds, and set that.\n"
    "\n"
    "Operations, on a field or on a path in it such as preferences.colour:\n"
    "- set: replace the value\n"
    "- append: add one item to an array\n"
    "- remove: forget the field; with a value, take that item out of an array\n"
    "- merge: add or replace keys of an object; a null forgets the key\n"
    "- increment: add a number to the number there\n"
    "Prefer append, merge and paths to setting a whole array or object again. All operations of a call are carried "
    "out, or none.\n"
    "\n"
    "Blocks:\n"
)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model is told; `is_error` when the call was refused."""

    content: str
    is_error: bool = False


def tool_definitions(memory: MemoryDefinition, blocks: Sequence[DeclaredBlock]) -> list[dict[str, Any]]:
    """Return the tools of an agent with these blocks: a list of `{"name", "description", "input_schema"}`.

    The same definition gives the same bytes. There is `memory_read` where there are blocks, `memory_update` where one
    of them may be written, and `memory_search` where the agent recalls.
    """
    if not memory.enabled or not memory.tools:
        return []
    tools: list[dict[str, Any]] = []
    names = [block.name for block in blocks]
    writable = [stored_block(block.stored()) for block in blocks if block.writable]
    if writable:
        tools.append({
            "name": "memory_update",
            "description": _UPDATE + "\n".join(block_words(block) for block in writable),
            "input_schema": _update_schema([block.name for block in writable]),
        })  # fmt: skip
    if memory.recall_tokens > 0:
        tools.append({
            "name": "memory_search",
            "description": "Search what was said in earlier conversations, word for word. Use it when the answer may "
            "have been said before and is not in the prompt. Search by words that the passage is likely to contain.",
            "input_schema": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "Words to look for.", "maxLength": MAX_QUERY},
                    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_PASSAGES, "description": "Default: 10."},
                },
                "required": ["query"],
                "additionalProperties": False,
            },
        })  # fmt: skip
    if names:
        tools.append({
            "name": "memory_read",
            "description": "Read memory blocks as they are now, with the content_sha256 that an expect_sha256 of "
            "memory_update can name. Needed only when the prompt's blocks may be out of date.",
            "input_schema": {
                "type": "object",
                "properties": {
                    "block": {"type": "string", "enum": names, "description": "Leave out to read all blocks."}
                },
                "additionalProperties": False,
            },
        })  # fmt: skip
    return tools


def _update_schema(names: Sequence[str]) -> dict[str, Any]:
    operation = {
        "type": "object",
        "properties": {
            "op": {"type": "string", "enum": list(OPS)},
            "block": {"type": "string", "enum": list(names)},
            "field": {
                "type": "string",
                "description": "A field of the block, or a path such as preferences.colour.",
            },
            "value": {"description": "The new value, item or keys, of the type that the block's field says."},
            "expect_sha256": {
                "type": "string",
                "description": "Only write if the block still has this content_sha256. Rarely needed.",
            },
        },
        "required": ["op", "block", "field"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"operations": {"type": "array", "minItems": 1, "maxItems": MAX_OPERATIONS, "items": operation}},
        "required": ["operations"],
        "additionalProperties": False,
    }


async def carry_out(
    connection: Connection,
    principal: Principal,
    agent: AgentMemory,
    name: str,
    given: Any,
    *,
    subject: Subject,
    event_id: UUID | None = None,
    parent: UUID | None = None,
    by: QueryVector = WORDS,
) -> ToolResult:
    """Carry out a memory tool that a model called with the input `given`.

    `by` is the vector of what `searched_for` returns. `parent` is the session that the subject's parts from, where it
    is a fork that is not in the log yet. What the model did wrong is in the result. Raises NotFound for a tool that
    there is not, and Unavailable.
    """
    if not principal.may_use(name):
        return ToolResult(f"The key that this call was made with may not use the tool {name}.", is_error=True)
    if name == memory_tool.NAME:
        return await _files(connection, principal, agent, given, subject=subject, event_id=event_id, parent=parent)
    tools: dict[str, Callable[..., Awaitable[str]]] = {
        "memory_update": _update,
        "memory_search": partial(_search, parent=parent, by=by),
        "memory_read": _read,
    }
    if name not in tools:
        there = ", ".join([*tools, memory_tool.NAME])
        raise NotFound(f"There is no memory tool {shown(name)}; there are {there}.", param="name")
    if not isinstance(given, dict):
        return ToolResult(f"The input must be an object, got {shown(given)}.", is_error=True)
    try:
        async with connection.transaction():
            return ToolResult(
                await tools[name](connection, principal, agent, given, subject=subject, event_id=event_id)
            )
    except (InvalidRequest, NotFound, Conflict, Forbidden) as error:
        refusal = f"Not saved; nothing was changed. {error.message}" if name == "memory_update" else error.message
        if isinstance(error, MemoryPreconditionFailed) and error.details:
            refusal += f"\nThe block now:\n{error.details['current']['rendered']}"
        return ToolResult(refusal, is_error=True)


def searched_for(name: str, given: Any) -> str | None:
    """Return the text that a call searches by, for a vector to be made of it; None where it is no such call."""
    query = given.get("query") if name == "memory_search" and isinstance(given, dict) else None
    return query[:MAX_QUERY] if isinstance(query, str) and query.strip() and "\0" not in query else None


async def _files(
    connection: Connection,
    principal: Principal,
    agent: AgentMemory,
    given: Any,
    *,
    subject: Subject,
    event_id: UUID | None,
    parent: UUID | None,
) -> ToolResult:
    """Carry out Anthropic's memory tool: all of a command, or nothing."""
    if subject.user_id is None and subject.session_id is None:
        return ToolResult("Error: Memory is kept for a user or a session, and this call names neither.", is_error=True)
    try:
        async with connection.transaction():
            files = Files(
                connection,
                principal,
                store_owner("session" if subject.user_id is None else "user", agent.agent_id, subject),
                await memory_stores.attached(connection, principal.tenant_id, agent.agent_id, subject, parent),
                agent_id=agent.agent_id,
                actor=Actor("agent", ids.encode("agent", agent.agent_id)),
                source=Source(subject.session_id, event_id),
            )
            return ToolResult(await files.carry_out(given))
    except Forbidden as error:
        return ToolResult(f"Error: {error.message}", is_error=True)
    except memory_tool.CommandRefused as error:
        # It may repeat half a surrogate pair of the model's, which no answer can carry.
        return ToolResult(str(error).encode(errors="replace").decode(), is_error=True)


async def _update(
    connection: Connection,
    principal: Principal,
    agent: AgentMemory,
    given: dict[str, Any],
    *,
    subject: Subject,
    event_id: UUID | None,
) -> str:
    operations = given.get("operations")
    if operations is None and "op" in given:  # one operation, not in a list
        operations = [given]
    if isinstance(operations, str):  # some models write nested JSON as text
        with suppress(ValueError, RecursionError):
            operations = json.loads(operations)
    states = await apply_operations(
        connection,
        principal,
        ids.encode("agent", agent.agent_id),
        parse_operations(operations),
        subject,
        actor=Actor("agent", ids.encode("agent", agent.agent_id)),
        source=Source(subject.session_id, event_id),
    )
    return "\n".join(_told(state) for state in states)


def _told(state: BlockState) -> str:
    name = state.declared.name
    if state.changed:
        return f"Saved: {name} is at version {state.version} now.\n{state.rendered()}"
    return f"Nothing to change: {name} holds this already (version {state.version}).\n{state.rendered()}"


async def _search(
    connection: Connection,
    principal: Principal,
    agent: AgentMemory,
    given: dict[str, Any],
    *,
    subject: Subject,
    event_id: UUID | None,  # noqa: ARG001 - all tools are called alike
    parent: UUID | None,
    by: QueryVector,
) -> str:
    query, limit = given.get("query"), given.get("limit", 10)
    if agent.recall_tokens == 0:
        raise InvalidRequest("This agent does not keep earlier conversations for search (memory.recall is off).")
    if not isinstance(query, str) or not query.strip():
        raise InvalidRequest(f"query must be words to look for, got {shown(query)}.", param="query")
    if limit is None:
        limit = 10
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise InvalidRequest(
            f"limit must be a whole number from 1 to {MAX_PASSAGES}, got {shown(limit)}.", param="limit"
        )
    check_text(query, "query")
    principal.require_memory("session" if subject.user_id is None else "user", write=False)
    found = await recall(
        connection,
        principal.tenant_id,
        agent,
        subject,
        query[:MAX_QUERY],
        limit=min(limit, MAX_PASSAGES),
        token_budget=SEARCH_TOKENS,
        by=by,
    )
    stores = await memory_stores.attached(connection, principal.tenant_id, agent.agent_id, subject, parent)
    lines = await recall_attached(connection, principal.tenant_id, stores, query[:MAX_QUERY], limit=limit)
    return (
        "\n".join(filter(None, [listed(found), *lines]))
        or "Nothing in earlier conversations matches. Try other words, or ask the user."
    )


async def _read(
    connection: Connection,
    principal: Principal,
    agent: AgentMemory,
    given: dict[str, Any],
    *,
    subject: Subject,
    event_id: UUID | None,  # noqa: ARG001 - all tools are called alike
) -> str:
    name = given.get("block")
    if name is not None and not isinstance(name, str):
        raise InvalidRequest(f"block must be the name of a block, got {shown(name)}.", param="block")
    has, lacks = readable(agent, subject)
    wanted = has if name is None else [declared_block(agent, name)]
    states = await read_blocks(connection, principal.tenant_id, agent, wanted, subject)
    lines = [
        f"{state.rendered(whole=True)}\n{state.declared.name}: version {state.version}"
        + (f", content_sha256 {state.memory.content_sha256}" if state.memory else ", not written yet")
        for state in states
    ]
    if name is None:
        lines += [
            f"{block.name}: kept for each {block.scope}, and this call names no {block.scope}." for block in lacks
        ]
    return "\n".join(lines) or "This agent has no memory blocks."
