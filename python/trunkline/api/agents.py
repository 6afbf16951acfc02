"""Agents: named, versioned, each version immutable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from starlette.responses import JSONResponse

from trunkline.api import paging
from trunkline.api.deps import Caller, Manager
from trunkline.api.idempotency import once
from trunkline.api.memory_caller import actor
from trunkline.domain import ids
from trunkline.domain.agents import Agent, AgentDefinition, AgentUpdate, AgentVersion, differences
from trunkline.domain.sessions import MemoryStoreResource
from trunkline.domain.times import now
from trunkline.errors import Conflict, Forbidden, InvalidRequest
from trunkline.memory.blocks import parse_memory
from trunkline.memory.declarations import declared_blocks
from trunkline.memory.evolution import evolve
from trunkline.memory.tools import tool_definitions
from trunkline.store import agents
from trunkline.store.agents import AgentFilter
from trunkline.store.attachments import attached

router = APIRouter(prefix="/v1/agents", tags=["agents"])

Limit = Annotated[int, Query(ge=1, le=100)]


class ApplyRequest(BaseModel):
    """An agent as it shall be; what the definition leaves out gets its default, not its earlier value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    definition: AgentDefinition
    dry_run: bool = False


@router.post("")
async def create(request: Request, given: AgentDefinition, caller: Manager) -> JSONResponse:
    """Create an agent. 409 when one that is not archived has its name."""

    async def act() -> dict[str, Any]:
        return (await _create(caller, given)).to_wire()

    return JSONResponse(await once(request, caller, act))


@router.get("")
async def list_agents(
    *,
    caller: Manager,
    limit: Limit = 20,
    page: str | None = None,
    include_archived: bool = False,
    name: str | None = None,
    created_from: Annotated[AwareDatetime | None, Query(alias="created_at[gte]")] = None,
    created_to: Annotated[AwareDatetime | None, Query(alias="created_at[lte]")] = None,
) -> JSONResponse:
    """List agents in their current versions, newest first."""
    wanted = AgentFilter(include_archived, name, created_from, created_to)
    found = await agents.page(caller.connection, caller.principal, wanted, paging.read_time(page), limit + 1)
    return JSONResponse(
        paging.page(found, limit, Agent.to_wire, lambda agent: paging.at_time(agent.created_at, agent.id))
    )


@router.post("/apply")
async def apply(request: Request, given: ApplyRequest, caller: Manager) -> JSONResponse:
    """Make the agent of this name be as defined: create it, or add a version only if something differs.

    `action` is create, update or unchanged, and `fields` say where an update differs. With `dry_run` nothing is
    written: they then tell what would be done, and `agent` what there is, null before a creation.
    """

    async def act() -> dict[str, Any]:
        there = await agents.find(caller.connection, caller.principal, given.definition.name)
        if there is None:
            if given.dry_run:
                _refuse_bound(caller)
                await _version(caller, given.definition)
                return _applied(None, "create")
            try:
                return _applied(await _create(caller, given.definition, applied=True), "create")
            except Conflict:  # another has made it since it was looked for
                there = await agents.find(caller.connection, caller.principal, given.definition.name)
                if there is None:
                    raise
        before = await agents.lock(caller.connection, caller.principal, ids.encode("agent", there.id))
        wanted = (await _version(caller, given.definition)).definition
        fields = differences(before.definition, wanted)
        if given.dry_run or not fields:
            return _applied(before, "update" if fields else "unchanged", fields)
        return _applied(await change(caller, before, given.definition), "update", fields)

    if given.dry_run:
        return JSONResponse(await act())
    return JSONResponse(await once(request, caller, act))


def _applied(agent: Agent | None, action: str, fields: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "agent": None if agent is None else agent.to_wire(),
        "changed": action != "unchanged",
        "action": action,
        "fields": list(fields),
    }


@router.get("/{agent}")
async def retrieve(
    agent: str, caller: Manager, version: Annotated[int | None, Query(ge=1, lt=2**31)] = None
) -> JSONResponse:
    """Get an agent by its id or name, in its current version or the one asked for."""
    return JSONResponse((await agents.get(caller.connection, caller.principal, agent, version)).to_wire())


@router.post("/{agent}")
async def update(request: Request, agent: str, given: AgentUpdate, caller: Manager) -> JSONResponse:
    """Change an agent: a new version, unless nothing differs. 409 when `version` is given and not the current one."""

    async def act() -> dict[str, Any]:
        before = await agents.lock(caller.connection, caller.principal, agent)
        if given.version is not None and given.version != before.version:
            raise Conflict(
                f"The agent is at version {before.version}, not {given.version}: it was changed meanwhile. Read it, "
                "apply your change to what it is now, and send that version.",
                param="version",
                code="version_conflict",
                details={"current_version": before.version},
            )
        current = AgentDefinition.model_validate(before.definition)
        try:
            after = AgentDefinition.model_validate(given.apply(current))
        except ValidationError as error:
            raise InvalidRequest(f"With this change the agent would not be valid: {_first(error)}.") from error
        return (await change(caller, before, after)).to_wire()

    return JSONResponse(await once(request, caller, act))


router.patch("/{agent}", name="patch", summary="Update", description=update.__doc__ or "")(update)


@router.post("/{agent}/archive")
async def archive(request: Request, agent: str, caller: Manager) -> JSONResponse:
    """Archive an agent: it can no longer be changed or called; its sessions stay readable, its name is free again."""

    async def act() -> dict[str, Any]:
        return (await agents.archive(caller.connection, caller.principal, agent, now())).to_wire()

    return JSONResponse(await once(request, caller, act))


@router.get("/{agent}/versions")
async def versions(agent: str, caller: Manager, limit: Limit = 20, page: str | None = None) -> JSONResponse:
    """List an agent's versions, newest first."""
    current = await agents.get(caller.connection, caller.principal, agent)
    before = paging.read_number(page)
    found = await agents.versions(caller.connection, caller.principal, current.id, before, limit + 1)
    return JSONResponse(paging.page(found, limit, Agent.to_wire, lambda version: paging.at_number(version.version)))


def _refuse_bound(caller: Caller) -> None:
    if caller.principal.agent_id is not None:
        raise Forbidden("The key may act for one agent only, and so it cannot create another; use a key of no agent.")


async def _create(caller: Caller, definition: AgentDefinition, *, applied: bool = False) -> Agent:
    _refuse_bound(caller)
    version = await _version(caller, definition)
    return await agents.create(caller.connection, caller.principal, ids.new(), version, now(), applied=applied)


async def change(caller: Caller, before: Agent, definition: AgentDefinition) -> Agent:
    """Add a version with this definition, unless it is what the agent is already."""
    if before.archived_at is not None:
        raise Conflict("The agent is archived and can no longer be changed; create another.", code="archived")
    version = await _version(caller, definition)
    if version.definition == before.definition:
        return before
    after = await agents.add_version(caller.connection, caller.principal, before, version, now())
    await evolve(
        caller.connection,
        caller.principal.tenant_id,
        before.id,
        parse_memory(before.definition["memory"]),
        parse_memory(version.definition["memory"]),
        actor=actor(caller),
    )
    return after


async def _version(caller: Caller, definition: AgentDefinition) -> AgentVersion:
    """Work out what the gateway reads of a definition. Raises InvalidRequest for memory that cannot be."""
    memory = parse_memory(definition.memory)
    blocks = await declared_blocks(caller.connection, caller.principal, definition.name, memory)
    tools: tuple[Mapping[str, Any], ...] = tuple(tool_definitions(memory, blocks))
    reserved = {tool["name"] for tool in tools}
    shared = [
        MemoryStoreResource(
            type="memory_store", memory_store_id=one.store, access=one.access, instructions=one.instructions
        )
        for one in memory.stores
    ]
    for index, tool in enumerate(definition.tools):
        if tool.type == "custom" and tool.name in reserved:
            raise InvalidRequest(
                f"`tools[{index}]`: {tool.name!r} is the name of a memory tool that this agent has; choose another, "
                "or set `memory.tools` to false.",
                param=f"tools[{index}].name",
            )
    return AgentVersion(
        definition=definition.model_dump(mode="json"),
        memory_enabled=memory.enabled,
        # A copy that the gateway keeps is told of writes, and not of the time that makes a field stale.
        memory_refresh=memory.refresh
        or any(rule.get("stale_after") for block in blocks for rule in block.options["rules"].values()),
        memory_fail=memory.on_unavailable == "fail",
        recall_tokens=memory.recall_tokens,
        memory_budget=memory.token_budget,
        prompt_cache_ttl=memory.prompt_cache.ttl_seconds if memory.prompt_cache else None,
        cache_control=memory.prompt_cache is not None and memory.prompt_cache.cache_control,
        context_tokens=memory.context.budget_tokens if memory.context else None,
        context_turns=memory.context.keep_turns if memory.context else None,
        memory_tools=tools,
        retention=memory.retention,
        redact=memory.redaction.detect,
        redact_log=memory.redaction.log,
        stores=await attached(caller.connection, caller.principal, shared, now(), where="memory.stores"),
        consolidate=memory.consolidation.to_json() if memory.consolidation else None,
        blocks=blocks,
    )


def _first(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place + ': ' if place else ''}{fault['msg'].removeprefix('Value error, ')}"
