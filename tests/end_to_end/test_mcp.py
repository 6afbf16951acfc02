"""`trunkline mcp` over standard input and output, by the official client."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from mcp import StdioServerParameters
from mcp.client import Client

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
