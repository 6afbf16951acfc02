"""Durable, structured memory in every model call an agent makes.

`Trunkline` talks to a running Trunkline; an `Agent` is what it applies; a `Block` is a piece of typed memory; a `tool`
is a function that agents may call. What these raise is in `trunkline.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trunkline.client import Agent, AsyncTrunkline, Trunkline
    from trunkline.errors import (
        Conflict,
        Forbidden,
        Internal,
        InvalidRequest,
        NotFound,
        SetupError,
        TooLarge,
        TrunklineError,
        Unauthenticated,
        Unavailable,
    )
    from trunkline.function_tools import ToolCall, tool
    from trunkline.memory.blocks import Block

__all__ = [
    "Agent",
    "AsyncTrunkline",
    "Block",
    "Conflict",
    "Forbidden",
    "Internal",
    "InvalidRequest",
    "NotFound",
    "SetupError",
    "TooLarge",
    "ToolCall",
    "Trunkline",
    "TrunklineError",
    "Unauthenticated",
    "Unavailable",
    "tool",
]

_ELSEWHERE = {
    "Agent": "trunkline.client",
    "AsyncTrunkline": "trunkline.client",
    "Trunkline": "trunkline.client",
    "Block": "trunkline.memory.blocks",
    "ToolCall": "trunkline.function_tools",
    "tool": "trunkline.function_tools",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `trunkline gateway` starts through this package and needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module 'trunkline' has no attribute {name!r}")
    value = getattr(import_module(_ELSEWHERE.get(name, "trunkline.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
