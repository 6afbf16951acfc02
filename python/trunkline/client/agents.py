from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, overload

import yaml

from trunkline.client.steps import Ask, Steps, carry_out, carry_out_async
from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire
from trunkline.errors import Internal, SetupError
from trunkline.function_tools import as_tool

if TYPE_CHECKING:
    from trunkline.client.client import AsyncTrunkline, Trunkline
    from trunkline.client.runs import Run

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
    `{"refresh_on_every_turn": False}`. `model` None is the first configured one. `tools` are functions, with or
    without `@tool`, and what the wire has, such as `{"type": "agent_toolset_20260401"}`.
    """

    name: str
    model: str | None = None
    instructions: str | None = None
    blocks: Sequence[BlockClass] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    tools: Sequence[Callable[..., Any] | Mapping[str, Any]] = ()
    mcp_servers: Sequence[Mapping[str, Any]] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)
    """What each of its sessions may use: `max_turns`, `max_tokens`, `max_active_seconds`, `max_list_cost`."""

    def run(
        self, text: str, *, user_id: str | None = None, session_id: str | None = None, client: Trunkline | None = None
    ) -> Run:
        """Apply the agent, say something to it, and return what came of it: `agent.run("Where is my kettle?").text`.

        The session is a new one of this user's, or the one given. Functions among the tools are carried out here, in
        this process, side by side; one that asks a person first leaves the run with the `stop_reason` requires_action.
        Without a client it is the Trunkline that the environment names, or that runs on this machine, or else one that
        is started for this program and ends with it. Raises Unavailable where the model could not be asked, SetupError
        where no Trunkline can be started.
        """
        from trunkline.client.runs import run  # noqa: PLC0415 (it knows the client, which knows agents)

        return run(self, text, client, user_id=user_id, session_id=session_id)

    async def run_async(
        self,
        text: str,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        client: AsyncTrunkline | None = None,
    ) -> Run:
        """Do the same without keeping the event loop waiting."""
        from trunkline.client.runs import run_async  # noqa: PLC0415 (as above)

        return await run_async(self, text, client, user_id=user_id, session_id=session_id)

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
            "tools": [dict(one) if isinstance(one, Mapping) else as_tool(one).definition for one in self.tools],
            "mcp_servers": [dict(server) for server in self.mcp_servers],
            "limits": dict(self.limits),
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
    applied: bool = False
    """Whether `apply` made it; `prune` leaves all others alone."""
    change: Literal["created", "updated", "unchanged"] | None = None
    """What `apply` did; None elsewhere."""

    @property
    def model_name(self) -> str | None:
        """The name of the model, whatever form the wire gave it."""
        name = self.model.get("id") if isinstance(self.model, dict) else self.model
        return None if name == _UNNAMED_MODEL else name


class Change(Wire):
    """What `apply` does to one agent, or would do."""

    action: Literal["create", "update", "archive", "unchanged"]
    name: str
    fields: tuple[str, ...] = ()
    """Of an update, where the agent differs: `system`, `memory.blocks.customer.fields.name`."""
    agent: AppliedAgent | None = None
    """The agent after it, before it where nothing is written; None before a creation."""


Definition: TypeAlias = Agent | Mapping[str, Any] | str | os.PathLike[str]
"""An Agent, the mapping under `agent:` of the YAML form, or the path of a file with one agent."""


class Agents:
    """`client.agents`: scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @overload
    def apply(  # type: ignore[overload-overlap]  # a str is a sequence of them too, and means a path
        self, definition: Definition
    ) -> AppliedAgent: ...
    @overload
    def apply(
        self, definition: Sequence[Definition], *, prune: bool = False, dry_run: bool = False
    ) -> tuple[Change, ...]: ...
    def apply(
        self, definition: Definition | Sequence[Definition], *, prune: bool = False, dry_run: bool = False
    ) -> AppliedAgent | tuple[Change, ...]:
        """Make the agent be as defined, or all of a sequence: create it, or add a version if anything differs.

        The definition is the whole agent: what it leaves out gets its default, not its earlier value. Of a sequence all
        are checked before one is written; `prune` archives the agents that `apply` made and the sequence does not name,
        and with `dry_run` nothing is written. Returns the agent; of a sequence, a Change for each agent.

        Raises InvalidRequest that names the wrong member, SetupError for a file that cannot be read.
        """
        if isinstance(definition, Agent | Mapping | str | os.PathLike):
            return _applied(carry_out(self._transport, _apply([definition], prune=False, dry_run=False))[0])
        return carry_out(self._transport, _apply(definition, prune=prune, dry_run=dry_run))

    def list(self) -> tuple[AppliedAgent, ...]:
        """Return all agents that are not archived."""
        return carry_out(self._transport, _all())

    def get(self, agent: str) -> AppliedAgent:
        """Return one agent by its id or its name. Raises NotFound."""
        return AppliedAgent.model_validate(self._transport.request("GET", f"/v1/agents/{segment(agent)}"))

    def update(self, agent: str, **change: Any) -> AppliedAgent:
        """Change what is named, as the API has it: a new version, unless nothing differs. Raises NotFound.

        With the `version` that was read it raises Conflict where another has changed the agent meanwhile.
        """
        answer = self._transport.request("POST", f"/v1/agents/{segment(agent)}", body=change, once=True)
        return AppliedAgent.model_validate(answer)

    def versions(self, agent: str) -> Iterator[AppliedAgent]:
        """Yield the versions of an agent, newest first. Raises NotFound."""
        for item in self._transport.pages(f"/v1/agents/{segment(agent)}/versions"):
            yield AppliedAgent.model_validate(item)

    def archive(self, agent: str) -> AppliedAgent:
        """Archive an agent: it takes no more calls, and its name is free again. Raises NotFound."""
        return AppliedAgent.model_validate(self._transport.request("POST", f"/v1/agents/{segment(agent)}/archive"))


class AsyncAgents:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    @overload
    async def apply(  # type: ignore[overload-overlap]  # as above
        self, definition: Definition
    ) -> AppliedAgent: ...
    @overload
    async def apply(
        self, definition: Sequence[Definition], *, prune: bool = False, dry_run: bool = False
    ) -> tuple[Change, ...]: ...
    async def apply(
        self, definition: Definition | Sequence[Definition], *, prune: bool = False, dry_run: bool = False
    ) -> AppliedAgent | tuple[Change, ...]:
        """Make agents be as defined, as `Agents.apply` does."""
        if isinstance(definition, Agent | Mapping | str | os.PathLike):
            changes = await carry_out_async(self._transport, _apply([definition], prune=False, dry_run=False))
            return _applied(changes[0])
        return await carry_out_async(self._transport, _apply(definition, prune=prune, dry_run=dry_run))

    async def list(self) -> tuple[AppliedAgent, ...]:
        """Return all agents that are not archived."""
        return await carry_out_async(self._transport, _all())

    async def get(self, agent: str) -> AppliedAgent:
        """Return one agent by its id or its name. Raises NotFound."""
        return AppliedAgent.model_validate(await self._transport.request("GET", f"/v1/agents/{segment(agent)}"))

    async def update(self, agent: str, **change: Any) -> AppliedAgent:
        """Change what is named, as the API has it: a new version, unless nothing differs. Raises NotFound.

        With the `version` that was read it raises Conflict where another has changed the agent meanwhile.
        """
        answer = await self._transport.request("POST", f"/v1/agents/{segment(agent)}", body=change, once=True)
        return AppliedAgent.model_validate(answer)

    async def versions(self, agent: str) -> AsyncIterator[AppliedAgent]:
        """Yield the versions of an agent, newest first. Raises NotFound."""
        async for item in self._transport.pages(f"/v1/agents/{segment(agent)}/versions"):
            yield AppliedAgent.model_validate(item)

    async def archive(self, agent: str) -> AppliedAgent:
        """Archive an agent: it takes no more calls, and its name is free again. Raises NotFound."""
        answer = await self._transport.request("POST", f"/v1/agents/{segment(agent)}/archive")
        return AppliedAgent.model_validate(answer)


_DONE: Final[Mapping[str, Any]] = {"create": "created", "update": "updated", "unchanged": "unchanged"}


def _applied(change: Change) -> AppliedAgent:
    if change.agent is None:
        raise Internal(f"Trunkline did not return the agent {change.name!r} that it was to make: is it this version?")
    return change.agent.model_copy(update={"change": _DONE[change.action]})


def _all() -> Steps[tuple[AppliedAgent, ...]]:
    found: list[AppliedAgent] = []
    page = None
    while True:
        answer = yield Ask("GET", "/v1/agents", params={"limit": 100, "page": page})
        found += (AppliedAgent.model_validate(agent) for agent in answer["data"])
        page = answer["next_page"]
        if page is None:
            return tuple(found)


def _apply(given: Sequence[Definition], *, prune: bool, dry_run: bool) -> Steps[tuple[Change, ...]]:
    """Ask what is to be done, of all agents, before anything is done."""
    definitions = [_definition(one) for one in given]
    names = [str(definition.get("name")) for definition in definitions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SetupError(f"Two definitions are of the agent {twice[0]!r}; give one.")
    plan: list[Change] = []
    if dry_run or prune or len(definitions) > 1:
        for definition in definitions:
            plan += [(yield from _ask_to_apply(definition, dry_run=True))]
    gone: list[AppliedAgent] = []
    if prune:
        there = yield from _all()
        gone = [agent for agent in there if agent.applied and agent.name not in names]
    if dry_run:
        return (*plan, *(Change(action="archive", name=agent.name, agent=agent) for agent in gone))
    done: list[Change] = []
    for definition in definitions:
        done += [(yield from _ask_to_apply(definition, dry_run=False))]
    for agent in gone:
        archived = yield Ask("POST", f"/v1/agents/{segment(agent.id)}/archive", body={})
        done.append(Change(action="archive", name=agent.name, agent=AppliedAgent.model_validate(archived)))
    return tuple(done)


def _ask_to_apply(definition: Mapping[str, Any], *, dry_run: bool) -> Steps[Change]:
    body = {"definition": definition, **({"dry_run": True} if dry_run else {})}
    answer = yield Ask("POST", "/v1/agents/apply", body=body)
    agent = None if answer["agent"] is None else AppliedAgent.model_validate(answer["agent"])
    return Change(
        action=answer["action"], name=str(definition.get("name")), fields=tuple(answer["fields"]), agent=agent
    )


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


def _definition(given: Definition) -> Mapping[str, Any]:
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
