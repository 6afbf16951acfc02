"""MCP servers as tools: what is offered of them, what becomes of what they say, and when connections end."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from mcp_types import Tool as Listed
from pydantic import ValidationError

from trunkline.function_tools import ToolCall
from trunkline.oauth.renewals import Access
from trunkline.runtime.tools.mcp.connections import Target
from trunkline.runtime.tools.mcp.credentials import Bearer
from trunkline.runtime.tools.mcp.guard import MAX_BYTES
from trunkline.runtime.tools.mcp.results import result
from trunkline.runtime.tools.mcp.tools import McpTools, Server, offer_of
from trunkline.runtime.tools.toolbox import Problem
from trunkline.tool_settings import McpSettings

TENANT = UUID(int=1)
TOOLSET = {"default_config": {"enabled": True, "permission_policy": {"type": "always_allow"}}, "configs": []}
CALL = ToolCall("sevt_1", "sesn_1", "agent_1", "tnt_1", None)


def shown(token: str) -> Bearer:
    return Bearer((TENANT, token), Access(token, None))


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_what_servers_say_is_what_models_take() -> None:
    given = CallToolResult(
        content=[
            TextContent(type="text", text="the token is tk-secret"),
            TextContent(type="text", text=""),
            ImageContent(type="image", data=encoded(b"GIF89a..."), mime_type="image/gif"),
            ImageContent(type="image", data="no base64", mime_type="image/png"),
            ImageContent(type="image", data=encoded(b"<svg/>"), mime_type="image/svg+xml"),
            AudioContent(type="audio", data="AAAA", mime_type="audio/wav"),
            ResourceLink(type="resource_link", name="notes", uri="file:///notes"),
            EmbeddedResource(type="resource", resource=TextResourceContents(uri="file:///a", text="within")),
            EmbeddedResource(
                type="resource",
                resource=BlobResourceContents(uri="file:///b", blob=encoded(b"%PDF-1"), mime_type="application/pdf"),
            ),
        ],
        is_error=True,
    )
    target = Target(TENANT, TENANT, "https://a.example", shown("tk-secret"))
    found = result(given, target.without_token)
    assert found.is_error
    said = [block.get("text") or block["source"]["media_type"] for block in found.content]
    assert said == [
        "the token is [credential]",
        "image/gif",
        "[a file that is said to be of type image/png, and is not]",
        "[a file of type image/svg+xml, which cannot be shown]",
        "[a sound of type audio/wav, which cannot be shown]",
        "[notes: file:///notes]",
        "within",
        "application/pdf",
    ]
    assert "tk-secret" not in repr(target)
    only = CallToolResult(content=[], structured_content={"sum": 3})
    assert result(only, str).content == ({"type": "text", "text": '{"sum":3}'},)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "string"},
        {"type": "object", "properties": {"a": {"type": "nonsense"}}},
        {"type": "object", "description": "x" * 40_000},
    ],
)
def test_a_tool_that_would_spoil_the_whole_model_call_is_left_out(schema: dict[str, Any]) -> None:
    assert offer_of(Listed(name="spoilt", input_schema=schema)) is None


def test_a_tool_is_offered_within_bounds() -> None:
    schema = {"type": "object", "anyOf": [{"required": ["a"]}], "properties": {"a": {"type": "string"}}}
    offer = offer_of(Listed(name="big", description="x" * 100_000, input_schema=schema))
    assert offer is not None
    assert len(offer.description) < 10_000
    assert offer.input_schema == {"type": "object", "properties": {"a": {"type": "string"}}}
    assert not offer.idempotent


async def test_a_session_has_a_program_of_its_own_which_ends_with_the_worker(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": ":".join(sys.path), "TOOLS_FOLDER": str(tmp_path)}
    program = {"command": [sys.executable, "-m", "support.mcp_server"], "env": environment}
    tools = McpTools(McpSettings.model_validate({"servers": {"here": program}}))

    async def process(session: int) -> int:
        target = Target(TENANT, UUID(int=session), "stdio://here")
        found, problems = await tools.open([Server("tests", target, TOOLSET)])
        assert problems == []
        [tool] = [tool for tool in found if tool.name == "mcp__tests__process"]
        return int((await tool.run(CALL, {})).content[0]["text"])

    try:
        first, second = await process(1), await process(2)
        assert first != second
        assert await process(1) == first
    finally:
        await tools.close()
    for pid in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """The URL of an HTTP server that answers everything with the same bytes; None: it never answers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "did not answer within"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n\r\nxx", "compressed"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + b" " * (MAX_BYTES + 1), "longer than"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}", "cannot be used"),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "refuses with status 403"),
        (b"nothing of HTTP\r\n\r\n", "could not be reached"),
    ],
    ids=["silent", "compressed", "endless", "no MCP", "refusing", "no HTTP"],
)
async def test_a_server_that_does_not_do_as_it_should_is_a_problem_and_no_more(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None, why: str
) -> None:
    if answer is None:
        monkeypatch.setattr("trunkline.runtime.tools.mcp.tools.LIST_SECONDS", 0.3)
    tools = McpTools(McpSettings.model_validate({"allow": ["127.0.0.1"]}))
    async with answering(answer) as url:
        try:
            found, [problem] = await tools.open(
                [Server("tests", Target(TENANT, TENANT, url, shown("tk-secret")), TOOLSET)]
            )
        finally:
            await tools.close()
    assert found == []
    assert why in problem.message
    assert "tk-secret" not in problem.message
    assert isinstance(problem, Problem)
    assert problem.is_refusal == ("403" in why)


def test_settings_reach_the_worker_whole_and_tell_no_secret() -> None:
    servers = {"a": {"command": ["npx"], "env": {"TOKEN": "tk-secret"}}}
    settings = McpSettings.model_validate({"allow": ["10.2.0.0/16", "::1", "Mcp.Internal"], "servers": servers})
    assert settings.allow == (ip_network("10.2.0.0/16"), ip_network("::1"), "mcp.internal")
    assert McpSettings.model_validate(settings.model_dump(mode="json")) == settings
    assert "tk-secret" not in repr(settings)
    for wrong in ({"allow": ["10.2.0.1/16"]}, {"allow": ["a b"]}, {"servers": {"a/b": {"command": ["x"]}}}):
        with pytest.raises(ValidationError):
            McpSettings.model_validate(wrong)
