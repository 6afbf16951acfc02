"""The tools that an agent declares, in the Managed Agents vocabulary.

Input leaves out what it takes from the defaults; what is stored and returned has every value written out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, get_args

import jsonschema
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PermissionName = Literal["always_allow", "always_ask", "auto"]
_LONGEST_NAME: Final = 64
"""What all wires take as a tool's name."""
AgentToolName = Literal["bash", "edit", "read", "write", "glob", "grep", "web_fetch", "web_search"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PermissionPolicy(_Frozen):
    """Whether a tool call runs at once, waits for a person, or is judged call by call."""

    type: PermissionName


class DefaultConfig(_Frozen):
    """What holds for the tools of a set that have no entry of their own."""

    enabled: bool
    permission_policy: PermissionPolicy


class AgentToolConfig(_Frozen):
    """One built-in tool of a set."""

    name: AgentToolName
    type: AgentToolName
    enabled: bool
    permission_policy: PermissionPolicy
    allowed_domains: tuple[str, ...] | None = None
    blocked_domains: tuple[str, ...] | None = None
    max_content_tokens: Annotated[int | None, Field(gt=0)] = None

    @model_validator(mode="after")
    def _consistent(self) -> AgentToolConfig:
        if self.type != self.name:
            raise ValueError(f"`type` must be {self.name!r}, like `name`")
        if not self.name.startswith("web_") and (self.allowed_domains or self.blocked_domains):
            raise ValueError("`allowed_domains` and `blocked_domains` are for web_fetch and web_search alone")
        if self.name != "web_fetch" and self.max_content_tokens:
            raise ValueError("`max_content_tokens` is for web_fetch alone")
        return self


class McpToolConfig(_Frozen):
    """One tool of an MCP server."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    enabled: bool
    permission_policy: PermissionPolicy


def _written_out(given: Any, policy: PermissionName, *, typed: bool) -> Any:
    """Fill in a set's defaults, then each tool's from the set's; leave for validation what has the wrong type."""
    if not isinstance(given, dict):
        return given
    default: dict[str, Any] = {"enabled": True, "permission_policy": {"type": policy}}
    own = given.get("default_config")
    if isinstance(own, dict):
        default |= {key: value for key, value in own.items() if value is not None}
    elif own is not None:
        return given
    configs = given.get("configs")
    if configs is None:
        configs = []
    if isinstance(configs, list | tuple):
        configs = [
            default
            | ({"type": config.get("name")} if typed else {})
            | {key: value for key, value in config.items() if value is not None}
            if isinstance(config, dict)
            else config
            for config in configs
        ]
    return given | {"default_config": default, "configs": configs}


class AgentToolset(_Frozen):
    """The built-in file, shell and web tools."""

    type: Literal["agent_toolset_20260401"]
    configs: tuple[AgentToolConfig, ...]
    default_config: DefaultConfig

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        return _written_out(given, "always_allow", typed=True)


class McpToolset(_Frozen):
    """The tools of one of the agent's MCP servers."""

    type: Literal["mcp_toolset"]
    mcp_server_name: Annotated[str, Field(min_length=1, max_length=255)]
    configs: tuple[McpToolConfig, ...]
    default_config: DefaultConfig

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        return _written_out(given, "always_ask", typed=False)


class CustomTool(_Frozen):
    """A tool that the API's client carries out."""

    type: Literal["custom"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
    description: str
    input_schema: dict[str, Any]

    @field_validator("input_schema")
    @classmethod
    def _object_schema(cls, schema: dict[str, Any]) -> dict[str, Any]:
        if schema.get("type") != "object":
            raise ValueError('must be a JSON Schema whose type is "object"')
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise ValueError(f"is not a JSON Schema: {error.message} (at {error.json_path})") from error
        return schema


Tool = Annotated[AgentToolset | McpToolset | CustomTool, Field(discriminator="type")]


def mcp_tool_name(server: str, tool: str) -> str:
    """Return the name by which the model knows a tool of an MCP server: of letters that all wires take, at most 64."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", f"mcp__{server}__{tool}")
    if name == f"mcp__{server}__{tool}" and len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(f"{server}\0{tool}".encode()).hexdigest()[:8]  # two names may look alike now
    return f"{name[: _LONGEST_NAME - 9]}_{digest}"


class McpServer(_Frozen):
    """An MCP server by its URL; `stdio://NAME` is a program that the operator of the workers has configured."""

    type: Literal["url"]
    name: Annotated[str, Field(min_length=1, max_length=255)]
    url: Annotated[str, Field(pattern=r"^(https?://[^\s]+|stdio://[A-Za-z0-9_-]{1,64})$", max_length=2048)]


def check_references(tools: Iterable[Tool], servers: Iterable[McpServer]) -> None:
    """Raise ValueError unless tool and server names are unique and every MCP toolset and server has its counterpart."""
    custom = [tool.name for tool in tools if isinstance(tool, CustomTool)]
    used = [tool.mcp_server_name for tool in tools if isinstance(tool, McpToolset)]
    declared = [server.name for server in servers]
    for what, names in (("custom tools", custom), ("MCP toolsets", used), ("MCP servers", declared)):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two {what} are named {twice[0]!r}; names must be unique")
    if missing := sorted(set(used) - set(declared)):
        raise ValueError(f"the mcp_toolset for {missing[0]!r} has no server of that name in `mcp_servers`; add it")
    if unused := sorted(set(declared) - set(used)):
        raise ValueError(
            f"the MCP server {unused[0]!r} is not used; add an mcp_toolset for it to `tools`, or remove it"
        )


def granted(definition: Mapping[str, Any], names: Sequence[str] | None) -> Mapping[str, Any]:
    """Return an agent's stored definition with the tools of these names alone; None: with all of them."""
    if names is None:
        return definition
    tools: list[Mapping[str, Any]] = []
    for tool in definition["tools"]:
        if tool["type"] == "custom":
            if tool["name"] in names:
                tools.append(tool)
            continue
        default = tool["default_config"]
        there = {config["name"]: config for config in tool["configs"]}
        typed = tool["type"] == "agent_toolset_20260401"
        known = get_args(AgentToolName) if typed else dict.fromkeys([*there, *names])
        configs = []
        for name in known:
            config = there.get(name, {"name": name, **({"type": name} if typed else {}), **default})
            configs.append({**config, "enabled": config["enabled"] and name in names})
        tools.append({**tool, "configs": configs, "default_config": {**default, "enabled": False}})
    return {**definition, "tools": tools}
