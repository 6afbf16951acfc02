"""What `tools:` in trunkline.yaml says: what workers carry out themselves."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class StdioServer(_Frozen):
    """A program that speaks MCP on standard input and output. Each session that uses it has a process of its own."""

    command: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """The program and its arguments. It runs as the worker's user, outside of any sandbox."""
    env: Annotated[dict[str, str], Field(repr=False)] = {}
    """Its environment variables, beside PATH, HOME and the like."""
    directory: Path | None = None
    """Where it starts; without it where the worker did."""


Place = Annotated[
    IPv4Network
    | IPv6Network
    | Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$", to_lower=True)],
    Field(union_mode="left_to_right"),
]


class McpSettings(_Frozen):
    """MCP servers as agents' tools."""

    allow: tuple[Place, ...] = ()
    """What agents' servers may be at beside public addresses: networks such as `10.2.0.0/16`, single addresses, or
    names of hosts, wherever these lead."""
    servers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")], StdioServer] = {}
    """Programs by the name that agents use them by, as `stdio://NAME`."""


class RepositorySettings(_Frozen):
    """Repositories that sessions are given."""

    allow: tuple[Place, ...] = ()
    """Where their hosts may be beside public addresses, written as for MCP servers; from there http will do."""


class ToolSettings(_Frozen):
    """The tools of workers."""

    modules: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")], ...] = ()
    """Python modules whose functions with `@trunkline.tool` agents may call; importable where workers start."""
    sandbox: Literal["auto", "bubblewrap", "limits", "none"] = "auto"
    """How commands and files of sessions are kept apart from the machine. `auto`: by bubblewrap; where there is none,
    as another user within limits if the worker is root, and else there are none. `limits`: as the worker's own user
    too, who can read what the worker can, if that is not root."""
    network: Literal["none", "host"] = "none"
    """What commands can reach: nothing, or, in environments that do not limit it, what the worker's machine can."""
    directory: Path | None = None
    """Where sessions' files are; without it `sandboxes` in TRUNKLINE_HOME. Every user of the machine must be allowed to
    pass through the directories above it where the worker is root."""
    mcp: McpSettings = McpSettings()
    repositories: RepositorySettings = RepositorySettings()
