"""The tools of MCP servers: which there are, which of them a session's agent may call, and calling them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import jsonschema
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult
from mcp_types import Tool as Listed
from pydantic import ValidationError
from pydantic_core import to_json

from trunkline.domain.toolsets import PermissionName, mcp_tool_name
from trunkline.function_tools import ToolCall
from trunkline.runtime.tools.mcp.connections import Connections, ServerFailed, Target
from trunkline.runtime.tools.mcp.credentials import Bearer
from trunkline.runtime.tools.mcp.results import result
from trunkline.runtime.tools.output import cut
from trunkline.runtime.tools.tool import Input, Result, Tool, ToolError
from trunkline.runtime.tools.toolbox import News, Problem
from trunkline.tool_settings import McpSettings

_logger = logging.getLogger(__name__)

LIST_SECONDS: Final = 15.0
"""To connect and to list: as long as the model is asked later at most."""
CALL_SECONDS: Final = 120.0
MOST_TOOLS: Final = 128
"""Of one server; more are left out."""
MOST_SCHEMA: Final = 32 * 1024
MOST_LISTED: Final = 256 * 1024
"""Characters of one tool's schema, and of all that a server's tools say; what is beyond is left out."""
_LONGEST_DESCRIPTION: Final = 8192
_LONGEST_ERROR: Final = 2000
KEPT_SECONDS: Final = 300.0
"""For how long a listing is not asked for again."""
AWAY_SECONDS: Final = 10.0
"""For how long a server that could not list its tools is not asked again."""
_MOST_KEPT: Final = 1000
_NOT_AT_THE_TOP: Final = ("oneOf", "anyOf", "allOf")
"""What providers do not take at the top of a schema; the server checks it all the same."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server as an agent declares it, with its toolset."""

    name: str
    target: Target
    toolset: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as its server describes it, within bounds."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    idempotent: bool


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a server offers. `problem`: it could not be asked again; these are the tools that it had before."""

    offers: tuple[Offer, ...]
    until: float
    problem: ServerFailed | None = None


class McpTools:
    """The MCP servers of one worker's sessions. Used on one event loop."""

    def __init__(self, settings: McpSettings) -> None:
        self._connections = Connections(settings)
        self._listings: dict[tuple[UUID, str, Bearer], _Listing] = {}
        """By tenant, URL and credential: servers may offer each client other tools."""

    async def open(self, servers: Sequence[Server]) -> tuple[list[Tool], list[News]]:
        """Return the enabled tools of servers, and what servers could not be asked.

        A server that refuses the credential of a later call is added to these problems then.
        """
        tools: list[Tool] = []
        problems: list[News] = []
        for server, listing in zip(servers, await asyncio.gather(*map(self._list, servers)), strict=True):
            if listing.problem is not None:
                problems.append(Problem(server.name, str(listing.problem), is_refusal=listing.problem.is_refusal))
            tools += self._enabled(server, listing.offers, problems)
        return tools, problems

    async def close(self) -> None:
        """End all connections and programs."""
        await self._connections.close()

    async def _list(self, server: Server) -> _Listing:
        place = (server.target.tenant_id, server.target.url, server.target.bearer)
        kept = self._listings.get(place)
        if kept is not None and time.monotonic() < kept.until:
            return kept
        try:
            async with asyncio.timeout(LIST_SECONDS):
                offers = await self._connections.use(server.target, _offers)
            found = _Listing(offers, time.monotonic() + KEPT_SECONDS)
        except (ServerFailed, MCPError, TimeoutError, ValidationError) as error:
            before = () if kept is None else kept.offers
            found = _Listing(before, time.monotonic() + AWAY_SECONDS, _failure(server, error))
        self._listings.pop(place, None)
        self._listings[place] = found
        while len(self._listings) > _MOST_KEPT:
            del self._listings[next(iter(self._listings))]
        return found

    def _enabled(self, server: Server, offers: Sequence[Offer], problems: list[News]) -> list[Tool]:
        configs = {config["name"]: config for config in server.toolset["configs"]}
        tools = []
        for offer in offers:
            config = configs.get(offer.name, server.toolset["default_config"])
            if config["enabled"]:
                tools.append(self._tool(server, offer, config["permission_policy"]["type"], problems))
        return tools

    def _tool(self, server: Server, offer: Offer, permission: PermissionName, problems: list[News]) -> Tool:
        async def run(_: ToolCall, given: Input) -> Result:
            async def call(client: Client) -> CallToolResult:
                return await client.call_tool(offer.name, dict(given))

            try:
                return result(await self._connections.use(server.target, call), server.target.without_token)
            except (ServerFailed, MCPError, RuntimeError, ValidationError) as error:
                failure = _failure(server, error)
                problem = Problem(server.name, str(failure), is_refusal=True)
                if failure.is_refusal and problem not in problems:
                    problems.append(problem)
                raise ToolError(str(failure)) from error

        return Tool(
            mcp_tool_name(server.name, offer.name),
            offer.description,
            offer.input_schema,
            permission,
            run,
            CALL_SECONDS,
            idempotent=offer.idempotent,
            server=(server.name, offer.name),
        )


async def _offers(client: Client) -> tuple[Offer, ...]:
    """Return a server's tools, those that a model can be offered. Raises MCPError and ValidationError."""
    found: dict[str, Offer] = {}
    room = MOST_LISTED
    cursor: str | None = None
    for _ in range(MOST_TOOLS):
        page = await client.list_tools(cursor=cursor, cache_mode="bypass")
        for listed in page.tools:
            offer = offer_of(listed)
            if offer is None or offer.name in found:
                continue
            room -= len(offer.description) + len(to_json(offer.input_schema))
            if room < 0 or len(found) == MOST_TOOLS:
                return tuple(found.values())
            found[offer.name] = offer
        cursor = page.next_cursor
        if cursor is None:
            break
    return tuple(found.values())


def offer_of(listed: Listed) -> Offer | None:
    """Return a tool; None where a provider would refuse the whole model call for its schema."""
    schema = {key: value for key, value in listed.input_schema.items() if key not in _NOT_AT_THE_TOP}
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        is_fit = schema.get("type") == "object" and len(to_json(schema)) <= MOST_SCHEMA
    except (jsonschema.SchemaError, RecursionError, ValueError):
        is_fit = False
    if not is_fit:
        _logger.info("the tool %r of an MCP server is left out: its input_schema is not fit", listed.name)
        return None
    hints = listed.annotations
    return Offer(
        listed.name,
        cut(listed.description or listed.title or listed.name, _LONGEST_DESCRIPTION),
        schema,
        idempotent=hints is not None and bool(hints.read_only_hint or hints.idempotent_hint),
    )


def _failure(server: Server, error: Exception) -> ServerFailed:
    """Return what went wrong with a server in words for users and models."""
    match error:
        case ServerFailed():
            words = str(error)
        case TimeoutError():
            words = f"It did not answer within {LIST_SECONDS:g} s."
        case MCPError():
            words = f"It answered with an error: {cut(server.target.without_token(error.message), _LONGEST_ERROR)}"
        case _:
            words = "What it answered is not MCP, or not what its tool says that it gives."
    is_refusal = isinstance(error, ServerFailed) and error.is_refusal
    return ServerFailed(f"The MCP server {server.name} cannot be used: {words}", is_refusal=is_refusal)
