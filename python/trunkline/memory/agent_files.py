"""Letta's agent files (`.af`): what an agent of theirs knows, as blocks and passages of an agent here.

Read are the blocks, the messages and the texts of files; of both forms that Letta has written: an object with `agents`
and `blocks`, and the older one that is a single agent with its `core_memory`. Models, tools, rules, MCP servers and the
environment variables of tools, among which are secrets, are not looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trunkline.domain import ids
from trunkline.domain.memory import Actor, AgentMemory, Scope, Subject, store_owner
from trunkline.domain.principal import Principal
from trunkline.domain.times import now
from trunkline.errors import InvalidRequest
from trunkline.memory.blocks import stored_block
from trunkline.memory.ingest import Document, Ingested, Turn, add_document, add_turns
from trunkline.memory.operations import Operation, parse_operations
from trunkline.memory.reads import declared_block
from trunkline.memory.values import shown
from trunkline.memory.writes import apply_operations
from trunkline.store import memory_stores, redaction
from trunkline.store.pool import Connection

FIELD: Final = "text"
"""The field of a block that holds the text of one of theirs."""

_SPOKEN: Final = "send_message"
"""The tool by which older agents of theirs say something; the rest of such a message is what they think."""
_USERS: Final = frozenset({"human"})
"""Labels of blocks that are about the user; all others are the agent's."""


class _Read(BaseModel):
    # What else there is, secrets among it, is not read, and an error does not show what it found.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class LettaBlock(_Read):
    """A block of theirs: a text under a label, of at most `limit` characters."""

    id: str | None = None
    label: str
    value: str
    description: str | None = None
    limit: int | None = None
    read_only: bool | None = None


class _Function(_Read):
    name: str
    arguments: str = ""


class _ToolCall(_Read):
    function: _Function | None = None


class _Message(_Read):
    id: str | None = None
    role: str
    content: str | list[dict[str, Any]] | None = None
    text: str | None = None
    tool_calls: list[_ToolCall] | None = None
    created_at: datetime | None = None


class _File(_Read):
    id: str | None = None
    file_name: str | None = None
    content: str | None = None


class _Agent(_Read):
    id: str | None = None
    name: str | None = None
    block_ids: list[str] | None = None
    messages: list[_Message] = Field(default_factory=list)
    core_memory: list[LettaBlock] | None = None


class _Whole(_Read):
    agents: list[_Agent]
    blocks: list[LettaBlock] = Field(default_factory=list)
    files: list[_File] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AgentFile:
    """What is taken from a file: of one agent."""

    name: str
    blocks: tuple[LettaBlock, ...]
    turns: tuple[Turn, ...]
    documents: tuple[Document, ...]
    silent: int
    """Messages in which nobody says anything: of the system and of tools, and what only an agent thought."""


def read(given: Any, *, name: str | None = None) -> AgentFile:
    """Read a file, of which `name` says which agent is meant where it has several. Raises InvalidRequest."""
    try:
        if isinstance(given, dict) and "agents" not in given and "core_memory" in given:
            whole = _Whole(agents=[_Agent.model_validate(given)])
        else:
            whole = _Whole.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise InvalidRequest(
            f"This is not an agent file of Letta's: {place or 'it'}: {fault['msg']}.", param=place or None
        ) from error
    found = [agent for agent in whole.agents if name is None or name in (agent.name, agent.id)]
    if len(found) != 1:
        names = ", ".join(shown(agent.name or agent.id or "") for agent in whole.agents[:20]) or "none"
        raise InvalidRequest(
            f"Say which agent of the file is meant, with from_agent; it has {names}.", param="from_agent"
        )
    agent = found[0]
    wanted = agent.core_memory if agent.core_memory is not None else _blocks(agent, whole.blocks)
    session = _named("letta", agent.id or agent.name)
    turns = [turn for number, message in enumerate(agent.messages) if (turn := _turn(message, session, number))]
    documents = [
        Document(
            file.content, title=(file.file_name or "")[:256] or None, id=_named("letta", file.id or file.file_name)
        )
        for file in whole.files
        if file.content and file.content.strip()
    ]
    silent = len(agent.messages) - len(turns)
    return AgentFile(agent.name or "agent", tuple(wanted), tuple(turns), tuple(documents), silent)


def block_name(label: str) -> str:
    """Return the name of the block here that a label of theirs becomes."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", label.strip())[:64]
    return name if re.match(r"[A-Za-z_]", name) else f"_{name}"[:64]


def declaration(block: LettaBlock) -> dict[str, Any]:
    """Return how an agent's definition declares what a block of theirs becomes."""
    limit = None if block.limit is None else max(block.limit, len(block.value))
    field: dict[str, Any] = {"type": "string"} | ({} if limit is None else {"maxLength": limit})
    found: dict[str, Any] = {"scope": "user" if block.label in _USERS else "agent", "fields": {FIELD: field}}
    return found | ({"description": block.description[:1024]} if block.description else {})


def missing(declared: AgentMemory, file: AgentFile) -> dict[str, dict[str, Any]]:
    """Return the blocks of a file that an agent does not declare, as its definition would."""
    there = {block.name for block in declared.blocks}
    return {name: declaration(block) for block in file.blocks if (name := block_name(block.label)) not in there}


async def put(
    connection: Connection,
    principal: Principal,
    declared: AgentMemory,
    file: AgentFile,
    subject: Subject,
    *,
    actor: Actor,
) -> Ingested:
    """Write a file into an agent's memory: its blocks, and what was said and filed for recall. Given again: no change.

    Raises InvalidRequest for a block that the agent does not declare, or has no text for, and where the file has turns
    and the subject names nobody.
    """
    operations: list[Operation] = []
    for block in file.blocks:
        name = block_name(block.label)
        fields = stored_block(declared_block(declared, name)).fields
        texts = [field for field, schema in fields.items() if schema.get("type") == "string"]
        field = FIELD if FIELD in fields else texts[0] if len(texts) == 1 else None
        if field is None:
            raise InvalidRequest(
                f"The block {name} has no field {FIELD!r}, and not one of type string alone, for the text of the "
                f"file's block {shown(block.label)}.",
                param=name,
            )
        operations += parse_operations([{"op": "set", "block": name, "field": field, "value": block.value}])
    at = now()
    done = Ingested(0, 0)
    if file.turns or file.documents:
        scope: Scope = "session" if subject.user_id is None else "user"
        principal.require_memory(scope, write=True)
        owner = store_owner(scope, declared.agent_id, subject)
        store_id = await memory_stores.managed(connection, principal.tenant_id, owner, at)
        store = await memory_stores.lock_managed(connection, principal.tenant_id, store_id)
        redactor = await redaction.of(connection, principal.tenant_id, store.id, [declared.agent_id])
        kept = [await add_turns(connection, principal.tenant_id, store.id, file.turns, at, redactor=redactor)]
        kept += [
            await add_document(connection, principal.tenant_id, store.id, one, at, redactor=redactor)
            for one in file.documents
        ]
        done = Ingested(sum(some.passages for some in kept), sum(some.added for some in kept))
    if operations:
        agent = ids.encode("agent", declared.agent_id)
        await apply_operations(connection, principal, agent, operations, subject, actor=actor)
    return done


def _blocks(agent: _Agent, blocks: Sequence[LettaBlock]) -> list[LettaBlock]:
    if agent.block_ids is None:
        return list(blocks)
    by_id = {block.id: block for block in blocks}
    lost = [block_id for block_id in agent.block_ids if block_id not in by_id]
    if lost:
        raise InvalidRequest(f"The file's agent has the block {shown(lost[0])}, and `blocks` has none of that id.")
    return [by_id[block_id] for block_id in agent.block_ids]


def _turn(message: _Message, session: str, number: int) -> Turn | None:
    """Return what a message says to somebody; None: nothing."""
    text = _said(message)
    if message.role not in ("user", "assistant") or text is None or not text.strip():
        return None
    time = message.created_at
    if time is not None and time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return Turn(text, role=message.role, time=time, session=session, id=_named(session, message.id or str(number)))


def _named(of: str, what: str | None) -> str:
    return f"{of} {what or ''}"[-256:]


def _said(message: _Message) -> str | None:
    text = message.content if isinstance(message.content, str) else message.text
    if isinstance(message.content, list):
        text = "\n".join(str(part["text"]) for part in message.content if part.get("type") == "text" and "text" in part)
    if message.role == "user":
        return _unpacked(text)
    calls = [call.function for call in message.tool_calls or () if call.function is not None]
    if not calls:
        return text
    return next((_argument(call.arguments) for call in calls if call.name == _SPOKEN), None)


def _unpacked(text: str | None) -> str | None:
    """Return a user's words out of the JSON that theirs may be packed in; None for an event of their system."""
    try:
        packed = json.loads(text or "")
    except (ValueError, RecursionError):
        return text
    if not isinstance(packed, dict) or "type" not in packed:
        return text
    return str(packed["message"]) if packed["type"] == "user_message" and "message" in packed else None


def _argument(arguments: str) -> str | None:
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return None
    return str(found["message"]) if isinstance(found, dict) and isinstance(found.get("message"), str) else None
