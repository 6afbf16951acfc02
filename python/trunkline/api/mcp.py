"""`/mcp`: memory for MCP clients over streamable HTTP, under the caller's key; one URL for all agents.

Without state: each request is answered by itself, with JSON, whichever process of the control plane it comes to. There
is nothing that the server would say unasked, so no stream to listen to (GET) and no session to end (DELETE).
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from trunkline.api.deps import PartsDependency, PrincipalDependency
from trunkline.api.memory_caller import UserId, subject
from trunkline.api.memory_calls import carry_out_call
from trunkline.domain import ids
from trunkline.errors import Forbidden, InvalidRequest, NotServed
from trunkline.memory.tools import ToolResult
from trunkline.store.blocks import agent_memory

router = APIRouter(prefix="/mcp", tags=["mcp"])

LOCAL: Final = ("localhost", "127.0.0.1", "::1")


@router.post("")
async def serve(
    request: Request,
    principal: PrincipalDependency,
    parts: PartsDependency,
    *,
    agent: Annotated[str | None, Header(alias="x-trunkline-agent")] = None,
    user: Annotated[UserId | None, Header(alias="x-trunkline-user")] = None,
    session: Annotated[str | None, Header(alias="x-trunkline-session")] = None,
) -> Response:
    """Answer an MCP client: the tools `search`, `read` and `update` over an agent's memory.

    The agent is the key's own, or the one that the header names, by its name or id; so are user and session.
    """
    check_origin(request.headers.get("origin"))
    principal.require("inference")
    named = agent or (None if principal.agent_id is None else ids.encode("agent", principal.agent_id))
    if named is None:
        raise InvalidRequest(
            "Whose memory? Name the agent in the header x-trunkline-agent, or use a key that is for one agent.",
            param="x-trunkline-agent",
        )
    who = subject(principal, user, session)
    async with parts.database.tenant(principal.tenant_id) as connection:
        await agent_memory(connection, principal, named)

    async def call(name: str, given: dict[str, Any]) -> ToolResult:
        result, _ = await carry_out_call(parts, principal, named, name, given, subject=who)
        return result

    try:
        from trunkline.mcp import HttpAnswer, memory_server  # noqa: PLC0415 - an extra, which may not be there
    except ModuleNotFoundError as error:
        raise NotServed("MCP without the package mcp (pip install 'trunkline[mcp]' where it runs)") from error
    return HttpAnswer(memory_server(call))


def check_origin(origin: str | None) -> None:
    """Raise Forbidden for a web page that was not loaded from this machine; what is no page sends no Origin.

    MCP asks servers to look at it: the name of a page's host may have been made to stand for the server's address, so
    that a host that equals the request's own proves nothing.
    """
    try:
        host = None if origin is None else urlsplit(origin).hostname
    except ValueError:
        host = ""
    if origin is not None and host not in LOCAL:
        raise Forbidden(
            "Pages of this Origin may not use the memory; programs send none, and pages from localhost may.",
            code="foreign_origin",
        )
