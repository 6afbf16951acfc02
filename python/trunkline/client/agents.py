from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from trunkline.client.transport import Transport, segment
from trunkline.client.wire import Wire
from trunkline.errors import InvalidRequest, NotFound, SetupError

_OTHER_MEMBERS = ("description", "mcp_servers", "metadata", "multiagent", "skills", "tools")
_MEMBERS = ("name", "model", "instructions", "system", "memory", *_OTHER_MEMBERS)
_CLEARED: dict[str, Any] = {
    "model": None,
    "system": None,
    "description": None,
    "memory": None,
    "mcp_servers": [],
    "skills": [],
    "tools": [],
}
"""What an update sends for a member that the definition leaves out: the definition is the whole agent."""


class BlockClass(Protocol):
    """A subclass of `trunkline.Block`."""

    def definition(self) -> Mapping[str, Any]:
        """Return the block as under `memory.blocks` in YAML, with its `name`."""
        ...


@dataclass(frozen=True)
class Agent:
    """An agent as its author writes it, the Python form of the YAML file.

    `blocks` are classes made with `trunkline.Block`; `memory` is the YAML's `memory` for all else, for example
    `{"refresh_on_every_turn": False}`. `model` None is the first configured one.
    """

    name: str
    model: str | None = None
    instructions: str | None = None
    blocks: Sequence[BlockClass] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def to_definition(self) -> dict[str, Any]:
        """Return what stands under `agent:` in the YAML form."""
        memory = {"type": "session_persistent", "backends": ["postgres", "pgvector"], **self.memory}
        blocks = dict(memory.get("blocks") or {})
        for block in self.blocks:
            definition = dict(block.definition())
            blocks[definition.pop("name")] = definition
        if blocks:
            memory["blocks"] = blocks
        definition = {
            "name": self.name,
            "model": self.model,
            "instructions": self.instructions,
            "memory": memory,
            "metadata": dict(self.metadata),
        }
        return {member: value for member, value in definition.items() if value}


class AppliedAgent(Wire):
    """An agent as Trunkline keeps it."""

    id: str
    name: str
    version: int
    model: Any = None
    """A model's name, or the wire's `{"id": …}`; None is the first configured one."""
    system: str | None = None
    memory: dict[str, Any] | None = None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None
    change: Literal["created", "updated", "unchanged"] | None = None
    """What `apply` did; None elsewhere."""

    @property
    def model_name(self) -> str | None:
        """The name of the model, whatever form the wire gave it."""
        name = self.model.get("id") if isinstance(self.model, dict) else self.model
        return name or None


class Agents:
    """`client.agents`: scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def apply(self, definition: Agent | Mapping[str, Any] | str | os.PathLike[str]) -> AppliedAgent:
        """Make the agent be as defined: create it, or write a new version if anything differs.

        Takes an Agent, the mapping under `agent:` of the YAML form, or the path of a file with one agent. Raises
        InvalidRequest that names the wrong member, SetupError for a file that cannot be read.
        """
        wire = _to_wire(_definition(definition))
        before = self._find(wire["name"])
        if before is None:
            created = self._transport.request("POST", "/v1/agents", body=wire)
            return AppliedAgent.model_validate({**created, "change": "created"})
        kept = (before.model_extra or {}).get("metadata") or {}
        metadata = {**dict.fromkeys(kept), **wire.get("metadata", {})}
        body = {**_CLEARED, **wire, "metadata": metadata, "version": before.version}
        after = self._transport.request("POST", f"/v1/agents/{segment(before.id)}", body=body)
        change = "unchanged" if after["version"] == before.version else "updated"
        return AppliedAgent.model_validate({**after, "change": change})

    def list(self) -> tuple[AppliedAgent, ...]:
        """Return all agents that are not archived."""
        return tuple(AppliedAgent.model_validate(item) for item in self._transport.pages("/v1/agents"))

    def get(self, agent: str) -> AppliedAgent:
        """Return one agent by its id or its name. Raises NotFound."""
        if agent.startswith("agent_"):
            return AppliedAgent.model_validate(self._transport.request("GET", f"/v1/agents/{segment(agent)}"))
        found = self._find(agent)
        if found is None:
            raise NotFound(f"There is no agent named {agent!r}: `trunkline agent list` shows those there are.")
        return found

    def _find(self, name: str) -> AppliedAgent | None:
        for item in self._transport.pages("/v1/agents", params={"name": name}):
            if item["name"] == name:
                return AppliedAgent.model_validate(item)
        return None


def read_agents(text: str, source: str) -> tuple[dict[str, Any], ...]:
    """Return the agents of a YAML text: one under `agent:` in each of its documents.

    Raises SetupError that names `source` and what is wrong.
    """
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise SetupError(f"{source}: is not YAML: {' '.join(str(error).split())}") from error
    agents = []
    for document in documents:
        if not isinstance(document, dict) or not isinstance(document.get("agent"), dict):
            raise SetupError(f"{source}: expected `agent:` and the agent's members under it.")
        for key in document:
            if key != "agent":
                raise SetupError(f"{source}: unknown key `{key}` beside `agent`; remove it or move it under `agent`.")
        agents.append(document["agent"])
    if not agents:
        raise SetupError(f"{source}: holds no agent; expected `agent:` and the agent's members under it.")
    return tuple(agents)


def _definition(given: Agent | Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    if isinstance(given, Agent):
        return given.to_definition()
    if isinstance(given, Mapping):
        inner = given.get("agent")
        return inner if isinstance(inner, Mapping) and len(given) == 1 else given
    path = Path(given)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: cannot be read: {error}.") from error
    agents = read_agents(text, str(path))
    if len(agents) != 1:
        raise SetupError(f"{path}: holds {len(agents)} agents; apply them one by one with `read_agents`.")
    return agents[0]


def _to_wire(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the author's form into the wire's: `instructions` is its `system`; unknown members are refused."""
    for member in definition:
        if member not in _MEMBERS:
            raise InvalidRequest(
                f"unknown member `{member}` of the agent; known are {', '.join(_MEMBERS)}.", param=str(member)
            )
    if not isinstance(definition.get("name"), str) or not definition["name"]:
        raise InvalidRequest("the agent needs a `name`.", param="name")
    if "instructions" in definition and "system" in definition:
        raise InvalidRequest("`instructions` and `system` are the same thing; give one of them.", param="system")
    wire = {member: value for member, value in definition.items() if member != "instructions" and value is not None}
    if definition.get("instructions") is not None:
        wire["system"] = definition["instructions"]
    return wire
