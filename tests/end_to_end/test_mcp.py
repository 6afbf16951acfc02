"""Memory over MCP by the official client: `trunkline mcp` on standard input and output, and `/mcp` over HTTP."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import httpx2
import pytest
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from support.memory import MEMORY, ok
from support.stack import Stack


@asynccontextmanager
async def connected(stack: Stack, key: str, *arguments: str) -> AsyncIterator[Client]:
    kept = {name: value for name, value in os.environ.items() if "TRUNKLINE" not in name}
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "trunkline", "mcp", *arguments],
        env=kept | {"TRUNKLINE_BASE_URL": stack.base_url, "TRUNKLINE_API_KEY": key},
    )
    async with Client(parameters) as client:
        yield client


@asynccontextmanager
async def over_http(stack: Stack, key: str, mode: str = "auto", **headers: str) -> AsyncIterator[Client]:
    """A client of the gateway's `/mcp` that sends `x-trunkline-…` headers."""
    named = {f"x-trunkline-{name}": value for name, value in headers.items()}
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {key}", **named}, timeout=30) as http,
        Client(streamable_http_client(f"{stack.base_url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


async def told(client: Client, tool: str, **given: Any) -> tuple[bool, str]:
    """Call a tool and return whether it was refused, and what the model is told."""
    result = await client.call_tool(tool, given)
    return bool(result.is_error), "".join(part.text for part in result.content if part.type == "text")


def agent(http: httpx.Client, name: str) -> None:
    ok(http.post("/v1/agents", json={"name": name, "model": "m", "memory": MEMORY}))


async def test_an_mcp_client_reads_updates_and_searches_memory(stack: Stack) -> None:
    with stack.http() as http:
        agent(http, "mcp-helper")
    key, _ = stack.inference_key()
    async with connected(stack, key, "mcp-helper", "--user", "cus_42") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search", "read", "update"}
        refused, text = await told(client, "read", block="customer")
        assert not refused
        assert "required but unknown: name" in text

        saved = {"op": "set", "block": "customer", "field": "name", "value": "Ada"}
        assert (await told(client, "update", operations=[saved]))[0] is False
        assert 'name: "Ada"' in (await told(client, "read"))[1]
        assert await told(client, "search", query="elephants") == (
            False,
            "Nothing in earlier conversations matches. Try other words, or ask the user.",
        )

        refused, text = await told(client, "update", operations=[saved | {"value": 7}])
        assert refused
        assert "nothing was changed" in text
        refused, text = await told(client, "read", block="nothing")
        assert refused
        assert "nothing" in text
        assert (await told(client, "update", operations=[{"op": "drop", "block": "customer", "field": "name"}]))[0]
    async with connected(stack, key, "mcp-helper", "--user", "cus_43") as client:
        assert "Ada" not in (await told(client, "read"))[1], "another user's"


async def test_a_key_that_does_not_hold_is_told(stack: Stack) -> None:
    async with connected(stack, "sk-tl-wrong", "mcp-helper") as client:
        refused, text = await told(client, "read")
        assert refused
        assert "key" in text


LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
ACCEPT = {"accept": "application/json, text/event-stream"}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_mcp_client_over_http_does_the_same(stack: Stack, mode: str) -> None:
    name = f"mcp-{uuid4().hex[:8]}"
    with stack.http() as http:
        agent(http, name)
    key, _ = stack.inference_key()
    async with over_http(stack, key, mode, agent=name, user="cus_42") as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"search", "read", "update"}
        saved = {"op": "set", "block": "customer", "field": "name", "value": "Ada"}
        assert (await told(client, "update", operations=[saved]))[0] is False
        assert 'name: "Ada"' in (await told(client, "read"))[1]
        refused, text = await told(client, "update", operations=[saved | {"value": 7}])
        assert refused
        assert "nothing was changed" in text
        assert "matches" in (await told(client, "search", query="elephants"))[1]
    for headers in ({"user": "cus_43"}, {}):
        async with over_http(stack, key, mode, agent=name, **headers) as client:
            assert "Ada" not in (await told(client, "read"))[1], "another user's, or nobody's"
    bound, _ = stack.inference_key(agent_id=name, user_id="cus_42")
    async with over_http(stack, bound, mode, user="cus_43") as client:
        assert 'name: "Ada"' in (await told(client, "read"))[1], "the key speaks for one user, whatever a header says"


def test_who_may_not_reach_memory_over_http(stack: Stack) -> None:
    name = f"mcp-{uuid4().hex[:8]}"
    with stack.http() as http:
        agent(http, name)
    theirs = stack.another_tenant(f"other-{uuid4().hex[:8]}")

    def status(key: str | None, method: str = "POST", **headers: str) -> int:
        sent = {**ACCEPT, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        return httpx.request(method, f"{stack.base_url}/mcp", headers=sent, json=LIST, timeout=20).status_code

    key, _ = stack.inference_key()
    named = {"x_trunkline_agent": name}
    assert status(key, **named) == 200
    assert status(None, **named) == 401
    assert status("sk-tl-wrong", **named) == 401
    assert status(theirs, **named) == 404
    assert status(key) == 400, "no agent is named"
    assert status(key, x_trunkline_agent="nobody") == 404
    # Pages of other hosts may not, whatever name they reached us by; programs and pages of this machine may.
    assert status(key, **named, origin="https://evil.example") == 403
    assert status(key, **named, origin="http://evil.example", host="evil.example") == 403
    assert status(key, **named, origin="http://[::1") == 403
    assert status(key, **named, origin="null") == 403
    assert status(key, **named, origin="http://localhost:6274") == 200
    # There is nothing to listen to, and no session to end.
    assert status(key, "GET", **named) == 405
    assert status(key, "DELETE", **named) == 405
