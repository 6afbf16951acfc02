"""The one internal form: a wire parses its request into a `Prompt`, a script or the persona makes an `Answer` of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Stop = Literal["end", "tool_calls", "length", "stop_sequence"]

# What a gateway puts in front of the user's own words, e.g. `<trunkline-recall>…</trunkline-recall>`.
_SECTION = re.compile(r"\s*<trunkline-([a-z-]+)>\n?(.*?)\n?</trunkline-\1>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model makes. `id` is empty in an `Answer`: the wire gives it one."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool said. `is_error` is only ever true on the Anthropic wire; OpenAI's has no such mark."""

    call_id: str
    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One message; tool results are always in a message of role `tool`, whatever the wire calls it."""

    role: Role
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool offered; `parameters` is its JSON Schema, empty for a provider's built-in tool."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the canonical prompt in cache order: tools, system, messages.

    `ttl` in seconds marks an Anthropic cache breakpoint after this piece.
    """

    data: bytes
    ttl: int | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked, free of any wire."""

    model: str
    messages: tuple[Message, ...]
    segments: tuple[Segment, ...]
    system: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"  # auto, none, required, or the name of a tool
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None  # the answer's text must be JSON of this shape

    @property
    def newest_user(self) -> str:
        """The newest user text, without what a gateway put before it."""
        return _split_sections(self._newest_user_raw)[1]

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """(name, text) of each `<trunkline-NAME>` section before the newest user text."""
        return _split_sections(self._newest_user_raw)[0]

    @property
    def memory_updates(self) -> tuple[str, ...]:
        """What user messages say of how memory has changed, oldest first, wherever in them it stands."""
        return tuple(
            found[2]
            for message in self.messages
            if message.role == "user"
            for found in _SECTION.finditer(message.text)
            if found[1] == "memory-update"
        )

    @property
    def _newest_user_raw(self) -> str:
        return next((m.text for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def turn(self) -> int:
        """The number of user messages so far; 1 on the first turn."""
        return sum(m.role == "user" for m in self.messages)

    @property
    def last_role(self) -> Role:
        """The role of the last message; `tool` after a tool result, on either wire."""
        return next((m.role for m in reversed(self.messages) if m.role != "system"), "system")

    @property
    def tool_names(self) -> frozenset[str]:
        """The names of the tools offered."""
        return frozenset(tool.name for tool in self.tools)

    @property
    def results(self) -> tuple[tuple[ToolCall, ToolResult], ...]:
        """The tool calls of this turn (since the newest user message) with their results, in order."""
        calls: dict[str, ToolCall] = {}
        done: list[tuple[ToolCall, ToolResult]] = []
        for message in self.messages:
            if message.role == "user":
                calls, done = {}, []
            calls.update({call.id: call for call in message.tool_calls})
            for result in message.tool_results:
                done.append((calls.get(result.call_id, ToolCall("unknown", {})), result))
        return tuple(done)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says: text, tool calls, or both (text first)."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    stop: Stop = "end"
    stop_sequence: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. `input_tokens` is the whole prompt, cached or not."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed request: the prompt, and how the caller wants the answer written."""

    prompt: Prompt
    stream: bool = False
    include_usage: bool = True
    # Request fields that the wire repeats in its response.
    echo: Mapping[str, Any] = field(default_factory=dict)


def _split_sections(text: str) -> tuple[tuple[tuple[str, str], ...], str]:
    found: list[tuple[str, str]] = []
    position = 0
    while match := _SECTION.match(text, position):
        found.append((match[1], match[2]))
        position = match.end()
    return tuple(found), text[position:]
