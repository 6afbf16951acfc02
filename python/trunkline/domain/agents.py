"""Agents: a name for a chain of immutable definitions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from trunkline.domain import ids
from trunkline.domain.budgets import AgentLimits
from trunkline.domain.memory import AgentBlock, Scope
from trunkline.domain.redaction import Wanted
from trunkline.domain.retention import Retention
from trunkline.domain.times import to_wire
from trunkline.domain.toolsets import McpServer, Tool, check_references
from trunkline.errors import NotServed

DEFAULT_MODEL: Final = "default"
"""How the wire, which has no null here, names "the first configured model"."""

Name = Annotated[str, Field(min_length=1, max_length=256)]
Description = Annotated[str, Field(max_length=2048)]
System = Annotated[str, Field(max_length=100_000)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
MetadataPatch = dict[MetadataKey, MetadataValue | None]
Tools = Annotated[tuple[Tool, ...], Field(max_length=256)]
McpServers = Annotated[tuple[McpServer, ...], Field(max_length=20)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Effort(_Frozen):
    """How hard the model works on each call."""

    type: Literal["low", "medium", "high", "xhigh", "max"]


class ModelConfig(_Frozen):
    """A model and how it is used; input may be its name alone."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    effort: Effort | None = None
    speed: Literal["standard", "fast"] | None = None
    inference_geo: str | None = None

    @field_validator("effort", mode="before")
    @classmethod
    def _bare_level(cls, given: Any) -> Any:
        return {"type": given} if isinstance(given, str) else given


def _model(given: Any) -> Any:
    """Turn a bare name into a configuration, and the wire's word for "no model" into None."""
    if isinstance(given, str):
        given = {"id": given}
    if isinstance(given, dict) and given.get("id") == DEFAULT_MODEL:
        return None
    return given


def _one_text(given: Any) -> Any:
    """Read `instructions`, the word of agent files, as the wire's `system`."""
    if isinstance(given, dict) and "instructions" in given:
        if "system" in given:
            raise ValueError("`instructions` and `system` are two names for one text; give one of them")
        given = {("system" if key == "instructions" else key): value for key, value in given.items()}
    return given


def _refuse_unserved(given: Any) -> Any:
    """Refuse what an agent cannot do here yet, rather than store and ignore it. Raises NotServed."""
    if isinstance(given, dict):
        for field in ("skills", "multiagent"):
            if given.get(field):
                raise NotServed(f"agents with `{field}`", param=field)
        identity = given.get("execution_identity")
        if identity not in (None, {"type": "service_account"}):
            raise NotServed("an `execution_identity` other than the default", param="execution_identity")
    return given


def _without_unserved(given: Any) -> Any:
    if isinstance(given, dict):
        return {key: value for key, value in given.items() if key not in ("skills", "multiagent", "execution_identity")}
    return given


class AgentDefinition(_Frozen):
    """Everything that a version of an agent fixes. `memory` is the structure of an agent file's `memory:`."""

    name: Name
    model: ModelConfig | None = None
    description: Description | None = None
    system: System | None = None
    tools: Tools = ()
    mcp_servers: McpServers = ()
    metadata: Metadata = {}
    memory: dict[str, Any] | None = None
    limits: AgentLimits | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `limits` where there are none: definitions from before there were any are the same as now."""
        plain: dict[str, Any] = dumped(self)
        return plain if self.limits is not None else {key: value for key, value in plain.items() if key != "limits"}

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, given: Any) -> Any:
        given = _without_unserved(_refuse_unserved(_one_text(given)))
        if isinstance(given, dict):  # null means absent, as in the wire's optional fields
            return {key: value for key, value in given.items() if value is not None}
        return given

    @field_validator("model", mode="before")
    @classmethod
    def _short_model(cls, given: Any) -> Any:
        return _model(given)

    @field_validator("system", "description")
    @classmethod
    def _empty_is_none(cls, text: str | None) -> str | None:
        return text or None

    @model_validator(mode="after")
    def _references(self) -> AgentDefinition:
        check_references(self.tools, self.mcp_servers)
        return self


class AgentUpdate(_Frozen):
    """A change to an agent: what is absent stays, null clears; `metadata` is a patch key by key.

    `version`, where given, must be the current one.
    """

    version: Annotated[int | None, Field(ge=1)] = None
    name: Name | None = None
    model: ModelConfig | None = None
    description: Description | None = None
    system: System | None = None
    tools: Tools | None = None
    mcp_servers: McpServers | None = None
    metadata: MetadataPatch | None = None
    memory: dict[str, Any] | None = None
    limits: AgentLimits | None = None

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, given: Any) -> Any:
        return _without_unserved(_refuse_unserved(_one_text(given)))

    @field_validator("model", mode="before")
    @classmethod
    def _short_model(cls, given: Any) -> Any:
        return _model(given)

    @model_validator(mode="after")
    def _name_stays(self) -> AgentUpdate:
        if "name" in self.model_fields_set and self.name is None:
            raise ValueError("`name` cannot be cleared; leave it out to keep it")
        return self

    def apply(self, current: AgentDefinition) -> dict[str, Any]:
        """Return the definition after this change, as input to `AgentDefinition`."""
        after = current.model_dump(mode="json")
        change = self.model_dump(mode="json", exclude_unset=True, exclude={"version"})
        patch = change.pop("metadata", None)
        if patch is not None:
            merged = {**after["metadata"], **patch}
            after["metadata"] = {key: value for key, value in merged.items() if value is not None}
        model = change.get("model")
        if model and current.model and model["effort"] is None and model["id"] == current.model.id:
            model["effort"] = after["model"]["effort"]
        return after | change


@dataclass(frozen=True, slots=True)
class Agent:
    """One version of an agent. `definition` is an `AgentDefinition` as JSON."""

    id: UUID
    version: int
    definition: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    applied: bool = False
    """Whether `apply` made it, so that a pruning `apply` may archive it."""

    def to_wire(self) -> dict[str, Any]:
        """Return the Managed Agents `agent`, with our `memory` and `limits`."""
        return snapshot(self.id, self.version, self.definition) | {
            "metadata": self.definition["metadata"],
            "memory": self.definition["memory"],
            "limits": self.definition.get("limits"),
            "created_at": to_wire(self.created_at),
            "updated_at": to_wire(self.updated_at),
            "archived_at": to_wire(self.archived_at),
            "applied": self.applied,
        }


def differences(before: Any, after: Any, path: str = "", depth: int = 5) -> list[str]:
    """Return where two definitions differ, as paths: `system`, `memory.blocks.customer.fields.name`."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping) or depth == 0:
        return [path] if before != after else []
    found: list[str] = []
    for key in sorted({*before, *after}):
        inner = f"{path}.{key}" if path else str(key)
        if key not in before or key not in after:
            found.append(inner)
        else:
            found += differences(before[key], after[key], inner, depth - 1)
    return found


@dataclass(frozen=True, slots=True)
class DeclaredBlock:
    """A memory block as an agent version declares it; the columns of `agent_blocks`."""

    name: str
    scope: Scope
    description: str
    schema: Mapping[str, Any]
    empty_rendered: str
    empty_tokens: int
    head: str
    fields: Sequence[str]
    keep_order: Sequence[str]
    required: Sequence[str]
    token_budget: int | None
    priority: int
    options: Mapping[str, Any]
    digest: str
    owner_id: UUID | None = None
    writable: bool = True

    def stored(self) -> AgentBlock:
        """Return the block as it is read back."""
        return AgentBlock(
            name=self.name,
            scope=self.scope,
            description=self.description,
            schema=json.dumps(self.schema),
            options=json.dumps(self.options),
            digest=self.digest,
            owner_id=self.owner_id,
            writable=self.writable,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the block as JSON by column."""
        return asdict(self) | {"owner_id": None if self.owner_id is None else str(self.owner_id)}


@dataclass(frozen=True, slots=True)
class AgentVersion:
    """A version about to be written: its definition and what the gateway reads of it, worked out."""

    definition: Mapping[str, Any]
    memory_enabled: bool
    memory_refresh: bool
    memory_fail: bool
    recall_tokens: int
    memory_budget: int
    prompt_cache_ttl: int | None
    cache_control: bool
    context_tokens: int | None
    context_turns: int | None
    memory_tools: tuple[Mapping[str, Any], ...]
    retention: Retention
    redact: tuple[Wanted, ...]
    redact_log: bool
    stores: Sequence[Mapping[str, Any]]
    """Attached to the sessions of this version, in the form of their resources."""
    consolidate: Mapping[str, Any] | None
    blocks: tuple[DeclaredBlock, ...]

    @property
    def name(self) -> str:
        """The agent's name."""
        return str(self.definition["name"])

    @property
    def model(self) -> str | None:
        """The model's name; None: the first configured one."""
        model = self.definition["model"]
        return None if model is None else str(model["id"])


def snapshot(agent_id: UUID, version: int, definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an agent and the `agent` of a session have in common on the wire."""
    return {
        "id": ids.encode("agent", agent_id),
        "type": "agent",
        "version": version,
        "name": definition["name"],
        "description": definition["description"],
        "model": definition["model"] or {"id": DEFAULT_MODEL, "effort": None, "speed": None, "inference_geo": None},
        "system": definition["system"],
        "tools": [_shown(tool) for tool in definition["tools"]],
        "mcp_servers": definition["mcp_servers"],
        "skills": [],
        "multiagent": None,
        "execution_identity": {"type": "service_account"},
    }


def _shown(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave out the settings that a built-in tool does not have."""
    if tool["type"] != "agent_toolset_20260401":
        return tool
    configs = [{key: value for key, value in config.items() if value is not None} for config in tool["configs"]]
    return {**tool, "configs": configs}
