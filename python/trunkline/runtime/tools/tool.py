"""What a tool is to the runtime, whoever made it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trunkline.domain.toolsets import PermissionName
from trunkline.function_tools import ToolCall

Input = Mapping[str, Any]
"""What the model gave a tool. Nothing has checked it yet."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool gave: blocks of the Managed Agents vocabulary."""

    content: tuple[Mapping[str, Any], ...]
    is_error: bool = False


class ToolError(Exception):
    """A tool did not do what it was asked; the text is for the model."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of one session. `name` is the model's name for it."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    permission: PermissionName
    run: Callable[[ToolCall, Input], Awaitable[Result]]
    """Carries out a call. Raises ToolError, or anything; ends what it started when it is cancelled."""
    timeout_seconds: float
    idempotent: bool = False
    """Whether to carry out a call twice does no harm."""
    server: tuple[str, str] | None = None
    """The MCP server that has it, and its name there."""


def text(words: str, *, is_error: bool = False) -> Result:
    """Return a result that is words alone."""
    return Result(({"type": "text", "text": words},) if words else (), is_error)
