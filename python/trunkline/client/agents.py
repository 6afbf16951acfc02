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
from trunkline.errors import SetupError

_UNNAMED_MODEL = "default"
"""How the wire, whose agents always have a model, names the first configured one."""


class BlockDefinition(Protocol):
    """What a block class says of itself."""

    @property
    def name(self) -> str:
        """The block's name."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the block as under `memory.blocks.NAME`."""
        ...


class BlockClass(Protocol):
    """A subclass of `trunkline.Block`."""

    def definition(self) -> BlockDefinition:
        """Return the block's definition."""
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
            declared = block.definition()
            blocks[declared.name] = declared.to_json()
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
        return None if name == _UNNAMED_MODEL else name


class Agents:
    """`client.agents`: scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def apply(self, definition: Agent | Mapping[str, Any] | str | os.PathLike[str]) -> AppliedAgent:
        """Make the agent be as defined: create it, or add a version if anything differs.

        The definition is the whole agent: what it leaves out gets its default, not its earlier value.

        Takes an Agent, the mapping under `agent:` of the YAML form, or the path of a file with one agent. Raises
        InvalidRequest that names the wrong member, SetupError for a file that cannot be read.
        """
        answer = self._transport.request("POST", "/v1/agents/apply", body={"definition": _definition(definition)})
        agent = answer["agent"]
        change = "unchanged" if not answer["changed"] else "created" if agent["version"] == 1 else "updated"
        return AppliedAgent.model_validate({**agent, "change": change})

    def list(self) -> tuple[AppliedAgent, ...]:
        """Return all agents that are not archived."""
        return tuple(AppliedAgent.model_validate(item) for item in self._transport.pages("/v1/agents"))

    def get(self, agent: str) -> AppliedAgent:
        """Return one agent by its id or its name. Raises NotFound."""
        return AppliedAgent.model_validate(self._transport.request("GET", f"/v1/agents/{segment(agent)}"))


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
