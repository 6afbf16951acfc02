"""Anthropic messages and token counting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trunkline.model_server import tokens
from trunkline.model_server.fields import Fields, InvalidField, checked
from trunkline.model_server.prompt import (
    Answer,
    Call,
    Message,
    Prompt,
    Segment,
    Stop,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from trunkline.model_server.prompt_cache import MAX_BREAKPOINTS, CacheUse, PromptCache
from trunkline.model_server.wire import ApiError, Event, Ids

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STOP_REASONS: dict[Stop, str] = {
    "end": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "stop_sequence": "stop_sequence",
}
_TTLS = {"5m": 300, "1h": 3600}
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_TYPES = {"string": "string", "array": "list", "object": "dictionary", "integer": "integer", "boolean": "boolean"}


class AnthropicMessages:
    """`/v1/messages`; with `counting`, `/v1/messages/count_tokens`, where `max_tokens` is not wanted."""

    request_id_header = "request-id"

    def __init__(self, counting: bool = False) -> None:
        self._counting = counting

    def parse(self, body: Mapping[str, Any]) -> Call:
        """Read a request; raises `ApiError`."""
        try:
            return _parse(Fields(body), self._counting)
        except InvalidField as fault:
            raise _invalid(fault) from fault

    def cache(self, cache: PromptCache, owner: str, segments: Sequence[Segment]) -> CacheUse:
        """Account for caching up to `cache_control` breakpoints."""
        return cache.at_breakpoints(owner, segments)

    def body(self, call: Call, answer: Answer, usage: Usage, ids: Ids) -> dict[str, Any]:
        """Return a `message`."""
        content: list[dict[str, Any]] = [{"type": "text", "text": answer.text}] if answer.text else []
        content += [
            {"type": "tool_use", "id": ids.make("toolu_", index), "name": call_.name, "input": dict(call_.arguments)}
            for index, call_ in enumerate(answer.tool_calls)
        ]
        return {
            "id": ids.make("msg_"),
            "type": "message",
            "role": "assistant",
            "model": call.prompt.model,
            "content": content,
            "stop_reason": _STOP_REASONS[answer.stop],
            "stop_sequence": answer.stop_sequence,
            "usage": _usage(usage),
        }

    def events(self, call: Call, answer: Answer, usage: Usage, ids: Ids) -> Iterator[Event]:
        """`message_start` … `message_stop`."""
        whole = self.body(call, answer, usage, ids)
        start = {**whole, "content": [], "stop_reason": None, "stop_sequence": None}
        start["usage"] = {**whole["usage"], "output_tokens": 1}
        yield _event({"type": "message_start", "message": start})
        for index, block in enumerate(whole["content"]):
            empty = {**block, "text": ""} if block["type"] == "text" else {**block, "input": {}}
            yield _event({"type": "content_block_start", "index": index, "content_block": empty})
            if index == 0:
                yield _event({"type": "ping"})
            for delta, count in _deltas(block):
                yield _event({"type": "content_block_delta", "index": index, "delta": delta}, count)
            yield _event({"type": "content_block_stop", "index": index})
        delta = {"stop_reason": whole["stop_reason"], "stop_sequence": whole["stop_sequence"]}
        counted = {
            key: whole["usage"][key]
            for key in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
        }
        yield _event({"type": "message_delta", "delta": delta, "usage": counted})
        yield _event({"type": "message_stop"})

    def error(self, error: ApiError, request_id: str) -> dict[str, Any]:
        """Anthropic's error body."""
        kind = (
            error.kind or _KINDS.get(error.status) or ("api_error" if error.status >= 500 else "invalid_request_error")
        )
        return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}

    def error_event(self, error: ApiError, request_id: str) -> bytes:
        """Return an `error` event."""
        return _event(self.error(error, request_id)).data


def _parse(body: Fields, counting: bool) -> Call:
    model = body.require("model", str)
    max_tokens = None if counting else body.require("max_tokens", int)
    if max_tokens is not None and max_tokens < 0:
        raise body.refuse("max_tokens", "Input should be greater than or equal to 0")
    if not body.require("messages", list):
        raise body.refuse("messages", "at least one message is required")
    tools = tuple(_tools(body))
    system = list(_blocks(body, "system")) if body.value.get("system") else []
    messages: list[Message] = []
    segments = [_segment("tool", item) for item in body.objects("tools")]
    segments += [_segment("system", block) for block in system]
    waiting: set[str] = set()
    for index, item in enumerate(body.objects("messages")):
        role = item.require("role", str)
        if role not in ("user", "assistant", "system"):
            raise item.refuse("role", "Input should be 'user', 'assistant' or 'system'")
        if item.value.get("content") is None:
            raise InvalidField((*item.path, "content"), "missing", "string")
        blocks = list(_blocks(item, "content"))
        segments += [_segment(role, block) for block in blocks]
        read = list(_messages(role, blocks))
        _check_tool_results(index, read, waiting)
        waiting = {call.id for message in read for call in message.tool_calls}
        messages += read
    if waiting:
        raise ApiError(400, _unanswered(len(messages) - 1, waiting))
    if body.value.get("cache_control") is not None and segments:
        segments[-1] = Segment(segments[-1].data, _ttl(body))
    breakpoints = sum(segment.ttl is not None for segment in segments)
    if breakpoints > MAX_BREAKPOINTS:
        raise ApiError(400, f"A maximum of 4 blocks with cache_control may be provided. Found {breakpoints}.")
    texts = [_text(block) for block in system] + [m.text for m in messages if m.role == "system"]
    prompt = Prompt(
        model=model,
        messages=tuple(messages),
        segments=tuple(segments),
        system="\n\n".join(texts),
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        max_tokens=max_tokens,
        stops=tuple(
            checked(text, str, ("stop_sequences", i)) for i, text in enumerate(body.get("stop_sequences", list) or ())
        ),
        json_schema=body.object("output_config").object("format").get("schema", dict),
    )
    body.get("temperature", float)
    return Call(prompt, stream=body.get("stream", bool) or False)


def _tools(body: Fields) -> Iterator[Tool]:
    seen: set[str] = set()
    for item in body.objects("tools"):
        name = item.require("name", str)
        if not _TOOL_NAME.fullmatch(name):
            raise item.refuse("name", "String should match pattern '^[a-zA-Z0-9_-]{1,128}$'")
        if name in seen:
            raise ApiError(400, "tools: Tool names must be unique.")
        seen.add(name)
        built_in = (item.get("type", str) or "custom") != "custom"
        schema = (item.get("input_schema", dict) or {}) if built_in else item.require("input_schema", dict)
        if not built_in and schema.get("type") != "object":
            path = (*item.path, "input_schema", "type")
            raise InvalidField(path, "missing" if "type" not in schema else "value", "Input should be 'object'")
        yield Tool(name, item.get("description", str) or "", schema)


def _tool_choice(body: Fields, tools: Sequence[Tool]) -> str:
    if body.value.get("tool_choice") is None:
        return "auto"
    choice = body.object("tool_choice")
    kind = choice.require("type", str)
    if kind == "tool":
        name = choice.require("name", str)
        if name not in {tool.name for tool in tools}:
            raise ApiError(400, f"Tool '{name}' not found in provided tools")
        return name
    if kind not in ("auto", "any", "none"):
        raise choice.refuse("type", "Input should be 'auto', 'any', 'tool' or 'none'")
    return "required" if kind == "any" else kind


def _blocks(holder: Fields, name: str) -> Iterator[Fields]:
    """Return the content blocks of a field that is a string or an array of blocks."""
    content = holder.value[name]
    path = (*holder.path, name)
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
        yield from Fields({name: content}, holder.path).objects(name)
        return
    checked(content, list, path)
    for block in holder.objects(name):
        kind = block.require("type", str)
        if kind == "text" and not block.require("text", str):
            raise ApiError(400, f"{_place(block.path[:-2])}: text content blocks must be non-empty")
        yield block


def _messages(role: str, blocks: Sequence[Fields]) -> Iterator[Message]:
    results: list[ToolResult] = []
    calls: list[ToolCall] = []
    texts: list[str] = []
    for block in blocks:
        kind = block.value["type"]
        if kind == "tool_result":
            content = list(_blocks(block, "content")) if block.value.get("content") else []
            text = "\n".join(_text(part) for part in content if part.value["type"] == "text")
            results.append(ToolResult(block.require("tool_use_id", str), text, block.get("is_error", bool) or False))
        elif kind == "tool_use":
            calls.append(ToolCall(block.require("name", str), block.require("input", dict), block.require("id", str)))
        elif kind == "text":
            texts.append(_text(block))
    if results:
        yield Message("tool", tool_results=tuple(results))
    if texts or not results:
        text = "\n".join(texts)
        if role == "assistant":
            yield Message("assistant", text, tool_calls=tuple(calls))
        else:
            yield Message("user" if role == "user" else "system", text)


def _check_tool_results(index: int, read: Sequence[Message], waiting: set[str]) -> None:
    """Each `tool_use` has its `tool_result` in the next message, and no other."""
    given = {result.call_id for message in read for result in message.tool_results}
    if unknown := given - waiting:
        raise ApiError(
            400,
            f"messages.{index}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: "
            f"{', '.join(sorted(unknown))}. Each `tool_result` block must have a corresponding "
            "`tool_use` block in the previous message.",
        )
    if missing := waiting - given:
        raise ApiError(400, _unanswered(index - 1, missing))


def _unanswered(index: int, missing: set[str]) -> str:
    return (
        f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: "
        f"{', '.join(sorted(missing))}. Each `tool_use` block must have a corresponding `tool_result` block "
        "in the next message."
    )


def _segment(kind: str, block: Fields) -> Segment:
    return Segment(tokens.canonical(kind, block.value), _ttl(block))


def _ttl(block: Fields) -> int | None:
    if block.value.get("cache_control") is None:
        return None
    control = block.object("cache_control")
    if control.require("type", str) != "ephemeral":
        raise control.refuse("type", "Input should be 'ephemeral'")
    ttl = control.get("ttl", str) or "5m"
    if ttl not in _TTLS:
        raise control.refuse("ttl", "Input should be '5m' or '1h'")
    return _TTLS[ttl]


def _text(block: Fields) -> str:
    return block.get("text", str) or ""


def _deltas(block: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    if block["type"] == "text":
        for piece in tokens.pieces(block["text"]):
            yield {"type": "text_delta", "text": piece}, tokens.of_text(piece)
        return
    for piece in ["", *tokens.pieces(tokens.compact(block["input"]))]:
        yield {"type": "input_json_delta", "partial_json": piece}, tokens.of_text(piece)


def _usage(usage: Usage) -> dict[str, Any]:
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    return {
        "input_tokens": max(0, usage.input_tokens - usage.cached_tokens - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.output_tokens,
        "service_tier": "standard",
    }


def _invalid(fault: InvalidField) -> ApiError:
    place = _place(fault.path)
    if fault.problem == "missing":
        return ApiError(400, f"{place}: Field required")
    if fault.problem == "type":
        return ApiError(400, f"{place}: Input should be a valid {_TYPES.get(fault.expected, fault.expected)}")
    return ApiError(400, f"{place}: {fault.expected}")


def _place(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path)) or "body"


def _event(value: Mapping[str, Any], count: int = 0) -> Event:
    return Event(f"event: {value['type']}\ndata: {tokens.compact(value)}\n\n".encode("utf-8", "replace"), count)
