"""OpenAI chat completions."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trunkline.model_server import openai_errors, tokens
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
from trunkline.model_server.prompt_cache import CacheUse, PromptCache
from trunkline.model_server.wire import ApiError, Event, Ids

FINISH: dict[Stop, str] = {"end": "stop", "tool_calls": "tool_calls", "length": "length", "stop_sequence": "stop"}
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ROLES = ("system", "developer", "user", "assistant", "tool")


class OpenAIChat:
    """`/v1/chat/completions`."""

    request_id_header = "x-request-id"

    def parse(self, body: Mapping[str, Any]) -> Call:
        """Read a request; raises `ApiError`."""
        try:
            return _parse(Fields(body))
        except InvalidField as fault:
            raise openai_errors.invalid(fault) from fault

    def cache(self, cache: PromptCache, owner: str, segments: Sequence[Segment]) -> CacheUse:
        """Automatic caching."""
        return cache.automatic(owner, segments)

    def body(self, call: Call, answer: Answer, usage: Usage, ids: Ids) -> dict[str, Any]:
        """Return a `chat.completion`."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.text or None,
            "refusal": None,
            "annotations": [],
        }
        if answer.tool_calls:
            message["tool_calls"] = [
                {
                    "id": ids.make("call_", index),
                    "type": "function",
                    "function": {"name": call_.name, "arguments": tokens.compact(call_.arguments)},
                }
                for index, call_ in enumerate(answer.tool_calls)
            ]
        else:
            message["content"] = answer.text
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": FINISH[answer.stop]}
        return {
            "id": ids.make("chatcmpl-"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": call.prompt.model,
            "choices": [choice],
            "usage": _usage(usage),
            "service_tier": "default",
            "system_fingerprint": "fp_model_server",
        }

    def events(self, call: Call, answer: Answer, usage: Usage, ids: Ids) -> Iterator[Event]:
        """`chat.completion.chunk`s, and `[DONE]`."""
        frame: dict[str, Any] = {
            "id": ids.make("chatcmpl-"),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": call.prompt.model,
            "service_tier": "default",
            "system_fingerprint": "fp_model_server",
        }

        def chunk(delta: Mapping[str, Any], finish: str | None = None, count: int = 0) -> Event:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            shown = {**frame, "choices": [choice]}
            if call.include_usage:
                shown["usage"] = None
            return Event(_data(shown), count)

        yield chunk(
            {"role": "assistant", "content": "" if answer.text or not answer.tool_calls else None, "refusal": None}
        )
        for piece in tokens.pieces(answer.text):
            yield chunk({"content": piece}, count=tokens.of_text(piece))
        for index, call_ in enumerate(answer.tool_calls):
            head = {
                "index": index,
                "id": ids.make("call_", index),
                "type": "function",
                "function": {"name": call_.name, "arguments": ""},
            }
            yield chunk({"tool_calls": [head]}, count=tokens.of_text(call_.name))
            for piece in tokens.pieces(tokens.compact(call_.arguments)):
                delta = {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
                yield chunk(delta, count=tokens.of_text(piece))
        yield chunk({}, finish=FINISH[answer.stop])
        if call.include_usage:
            yield Event(_data({**frame, "choices": [], "usage": _usage(usage)}))
        yield Event(b"data: [DONE]\n\n")

    def error(self, error: ApiError, request_id: str) -> dict[str, Any]:  # noqa: ARG002  # OpenAI has it in a header
        """OpenAI's error body."""
        return openai_errors.body(error)

    def error_event(self, error: ApiError, request_id: str) -> bytes:  # noqa: ARG002  # OpenAI has it in a header
        """Return a `data:` line with the error."""
        return openai_errors.event(error)


def _parse(body: Fields) -> Call:
    model = body.require("model", str)
    if not body.require("messages", list):
        raise body.refuse("messages", "empty array. Expected an array with minimum length 1.")
    if (body.get("n", int) or 1) != 1:
        raise body.refuse("n", "the model server gives one choice; leave `n` out or send 1.")
    tools = tuple(_tools(body))
    messages: list[Message] = []
    segments = [Segment(tokens.canonical("tool", tool.value)) for tool in body.objects("tools")]
    for item in body.objects("messages"):
        messages.append(_message(item))
        segments.extend(_segments(item))
    _check_tool_results(messages)
    options = body.object("stream_options")
    response_format = body.object("response_format")
    prompt = Prompt(
        model=model,
        messages=tuple(messages),
        segments=tuple(segments),
        system="\n\n".join(m.text for m in messages if m.role == "system"),
        tools=tools,
        tool_choice=tool_choice(body, tools),
        max_tokens=body.get("max_completion_tokens", int) or body.get("max_tokens", int),
        stops=_stops(body),
        json_schema=_json_schema(response_format),
    )
    body.get("temperature", float)
    body.get("top_p", float)
    return Call(
        prompt, stream=body.get("stream", bool) or False, include_usage=options.get("include_usage", bool) or False
    )


def _tools(body: Fields) -> Iterator[Tool]:
    for item in body.objects("tools"):
        if item.require("type", str) != "function":
            raise item.refuse("type", f"'{item.value['type']}'. Supported values are: 'function'.")
        function = Fields(item.require("function", dict), (*item.path, "function"))
        yield function_tool(function)


def function_tool(function: Fields) -> Tool:
    """Return a function tool's name, description and parameters."""
    name = function.require("name", str)
    if not TOOL_NAME.fullmatch(name):
        raise function.refuse("name", "string does not match pattern. Expected '^[a-zA-Z0-9_-]{1,64}$'.")
    return Tool(name, function.get("description", str) or "", function.get("parameters", dict) or {})


def tool_choice(body: Fields, tools: Sequence[Tool]) -> str:
    """`auto`, `none`, `required`, or the name of the tool that must be called."""
    choice = body.value.get("tool_choice")
    if choice is None:
        return "auto"
    if choice in ("auto", "none", "required"):
        return str(choice)
    if isinstance(choice, dict) and choice.get("type") == "function":
        named = choice.get("function") if isinstance(choice.get("function"), dict) else choice
        name = named.get("name") if isinstance(named, dict) else None
        if name in {tool.name for tool in tools}:
            return str(name)
        raise body.refuse("tool_choice", f"Tool choice '{name}' not found in 'tools' parameter.")
    if isinstance(choice, dict):
        return "auto"  # allowed_tools and other kinds only narrow what is offered
    raise body.refuse("tool_choice", "Supported values are: 'none', 'auto', 'required', or a function.")


def _message(item: Fields) -> Message:
    role = item.require("role", str)
    if role not in _ROLES:
        raise item.refuse("role", f"'{role}'. Supported values are: {', '.join(map(repr, _ROLES))}.")
    if role == "assistant":
        calls = tuple(_tool_call(call) for call in item.objects("tool_calls"))
        if not calls and item.value.get("content") is None:
            raise InvalidField((*item.path, "content"), "missing", "string")
        return Message("assistant", content_text(item, allow_null=True), tool_calls=calls)
    if role == "tool":
        result = ToolResult(item.require("tool_call_id", str), content_text(item))
        return Message("tool", tool_results=(result,))
    return Message("user" if role == "user" else "system", content_text(item))


def _tool_call(call: Fields) -> ToolCall:
    call.require("type", str)
    function = Fields(call.require("function", dict), (*call.path, "function"))
    return ToolCall(function.require("name", str), arguments(function, "arguments"), call.require("id", str))


def arguments(holder: Fields, name: str) -> Mapping[str, Any]:
    """Return the arguments of a call, a JSON object in a string; empty if they are not one."""
    try:
        value = json.loads(holder.require(name, str) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def content_text(item: Fields, allow_null: bool = False) -> str:
    """Return the text of a `content` that is a string or an array of parts; parts that are no text are left out."""
    content = item.value.get("content")
    if content is None and allow_null:
        return ""
    if content is None:
        raise InvalidField((*item.path, "content"), "missing", "string")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        checked(content, list, (*item.path, "content"))
    texts = []
    for part in item.objects("content"):
        kind = part.require("type", str)
        if kind in ("text", "input_text", "output_text"):
            texts.append(part.require("text", str))
    return "\n".join(texts)


def _segments(item: Fields) -> Iterator[Segment]:
    role = str(item.value["role"])
    content = item.value.get("content")
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or ():
        yield Segment(tokens.canonical(role, part))
    rest = {key: value for key, value in item.value.items() if key in ("tool_calls", "tool_call_id", "name") and value}
    if rest:
        yield Segment(tokens.canonical(role, rest))


def _check_tool_results(messages: Sequence[Message]) -> None:
    """Each tool call is answered right after it, and nothing else is."""
    waiting: dict[str, int] = {}
    for index, message in enumerate(messages):
        if message.role == "tool":
            call_id = message.tool_results[0].call_id
            if waiting.pop(call_id, None) is None:
                raise ApiError(
                    400,
                    "Invalid parameter: messages with role 'tool' must be a response to a preceding message "
                    "with 'tool_calls'.",
                    param=f"messages[{index}].role",
                )
            continue
        _refuse_waiting(waiting, index)
        waiting = {call.id: index for call in message.tool_calls}
    _refuse_waiting(waiting, len(messages))


def _refuse_waiting(waiting: Mapping[str, int], index: int) -> None:
    if waiting:
        raise ApiError(
            400,
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(waiting)}",
            param=f"messages[{index}].role",
        )


def _stops(body: Fields) -> tuple[str, ...]:
    stop = body.value.get("stop")
    if stop is None:
        return ()
    if isinstance(stop, str):
        return (stop,)
    return tuple(checked(text, str, ("stop", i)) for i, text in enumerate(checked(stop, list, ("stop",))))


def _json_schema(response_format: Fields) -> Mapping[str, Any] | None:
    kind = response_format.get("type", str)
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema":
        return response_format.object("json_schema").get("schema", dict) or {"type": "object"}
    return None


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _data(value: Mapping[str, Any]) -> bytes:
    return b"data: " + tokens.compact(value).encode("utf-8", "replace") + b"\n\n"
