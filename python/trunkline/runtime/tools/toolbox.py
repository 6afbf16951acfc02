"""What the agent of one session may call, by the model's name for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from trunkline.runtime.context import ToolUse
from trunkline.runtime.tools.tool import Tool
from trunkline.store.leases import Lease, Task
from trunkline.store.pool import Database


@dataclass(frozen=True, slots=True)
class Problem:
    """An MCP server, by the agent's name for it, that cannot be used, and why.

    `is_refusal`: for want of credentials.
    """

    server: str
    message: str
    is_refusal: bool = False


RepositoryErrorName = Literal[
    "repository_authentication_error",
    "repository_checkout_error",
    "repository_clone_error",
    "repository_forbidden_error",
    "repository_not_found_error",
]


@dataclass(frozen=True, slots=True)
class RepositoryProblem:
    """A repository that could not be cloned, and why; `kind` is the wire's name of the error."""

    url: str
    kind: RepositoryErrorName
    message: str


News = Problem | RepositoryProblem
"""What the log of the session is told."""


class Toolbox:
    """The tools of one session: those that the worker carries out, and those that the client does."""

    def __init__(
        self,
        custom: Sequence[Mapping[str, Any]],
        served: Sequence[Tool],
        problems: Sequence[News] = (),
    ) -> None:
        """`problems` may grow: with what is found out when a tool is called."""
        self._custom = {tool["name"]: tool for tool in custom}
        self._served = {tool.name: tool for tool in served}
        self._problems = problems
        self._told = 0

    def offers(self) -> list[dict[str, Any]]:
        """Return the tools as the Anthropic wire offers them to the model, in a stable order."""
        served = [
            {"name": tool.name, "description": tool.description, "input_schema": dict(tool.input_schema)}
            for tool in self._served.values()
            if tool.name not in self._custom
        ]
        return custom_offers(self._custom.values()) + served

    def news(self) -> tuple[News, ...]:
        """Return what cannot be used; once, for the log of the session."""
        untold = tuple(self._problems[self._told :])
        self._told += len(untold)
        return untold

    def why_not(self, use: ToolUse) -> str:
        """Tell the model why a call cannot be carried out that there is no tool for."""
        servers = [problem for problem in self._problems if isinstance(problem, Problem)]
        words = [problem.message for problem in servers if problem.server == use.server]
        return words[-1] if words else f"There is no tool named {use.name!r} here."

    def find(self, name: str) -> Tool | None:
        """Return the tool that the worker carries out under this name."""
        return self._served.get(name)

    def use(self, name: str, given: Any) -> tuple[str, dict[str, Any]]:
        """Return the event, type and payload, of a call by the model."""
        payload = {"name": name, "input": given if isinstance(given, dict) else {}}
        tool = self._served.get(name)
        if tool is None and name in self._custom:
            return "agent.custom_tool_use", payload
        if tool is None:  # no policy was asked: there is no such tool
            return "agent.tool_use", {**payload, "evaluated_permission": "deny"}
        # Nobody here judges single calls: what is to be judged, a person is asked.
        if tool.permission == "always_allow":
            payload |= {"evaluated_permission": "allow", "evaluation": {"type": "always_allow"}}
        elif tool.permission == "always_ask":
            payload |= {"evaluated_permission": "ask", "evaluation": {"type": "always_ask"}}
        else:
            judged = {"type": "auto", "evaluated_permission": {"type": "ask", "reason_code": "indeterminate"}}
            payload |= {"evaluated_permission": "ask", "evaluation": judged}
        if tool.server is None:
            return "agent.tool_use", payload
        server, own_name = tool.server
        return "agent.mcp_tool_use", {**payload, "name": own_name, "mcp_server_name": server}


def custom_offers(declared: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return an agent's custom tools as the Anthropic wire offers them, whoever carries them out."""
    return [{key: tool[key] for key in ("name", "description", "input_schema")} for tool in declared]


class Tools(Protocol):
    """Where the tools of all sessions of a worker come from."""

    async def open(self, database: Database, lease: Lease, task: Task) -> Toolbox:
        """Return what a session's agent may call. Raises Unavailable when the database is away."""
        ...

    async def sweep(self, database: Database) -> None:
        """Delete, again and again, what sessions that have ended left on this machine."""
        ...

    async def close(self) -> None:
        """End what tools have left open: connections and programs."""
        ...
