"""Tools that workers of tests serve. Their effects are lines in the files of the folder `TOOLS_FOLDER`."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from trunkline import ToolCall, tool


def _note(name: str, line: str) -> None:
    with (Path(os.environ["TOOLS_FOLDER"]) / name).open("a") as file:
        file.write(f"{line}\n")


@tool
async def weather(city: str, days: int = 1) -> dict[str, object]:
    """The weather in a city.

    Args:
        city: Its name.
        days: How far ahead.
    """
    return {"city": city, "sky": "rain", "days": days}


@tool
def meet(others: int, call: ToolCall) -> str:
    """Wait until so many are there at the same time."""
    _note("met", call.id)
    while len((Path(os.environ["TOOLS_FOLDER"]) / "met").read_text().splitlines()) < others:
        time.sleep(0.01)
    return f"{call.user_id} met {others}"


@tool
def fail() -> str:
    """Never do it."""
    raise LookupError("nothing there")


@tool(timeout_seconds=0.2)
def hang() -> str:
    """Take too long."""
    time.sleep(5)
    return "late"


@tool
def shout() -> str:
    """Say much."""
    return "beginning" + "x" * 10_000_000 + "end"


async def _slowly(name: str, call: ToolCall) -> str:
    _note(name, call.id)
    if len((Path(os.environ["TOOLS_FOLDER"]) / name).read_text().splitlines()) == 1:
        await asyncio.sleep(60)
    return "done"


@tool(idempotent=True)
async def safe(call: ToolCall) -> str:
    """The first time it takes long; it may be done twice."""
    return await _slowly("safe", call)


@tool
async def unsafe(call: ToolCall) -> str:
    """The first time it takes long; it must not be done twice."""
    return await _slowly("unsafe", call)


@tool(permission_policy="always_ask")
async def delete_everything() -> str:
    """Delete everything."""
    _note("deleted", "everything")
    return "deleted"
