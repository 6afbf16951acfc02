"""OpenAI responses."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trunkline.model_server import openai_errors, tokens
from trunkline.model_server.fields import Fields, InvalidField
from trunkline.model_server.openai_chat import arguments, content_text, function_tool, tool_choice
from trunkline.model_server.prompt import Answer, Call, Message, Prompt, Segment, ToolCall, ToolResult, Usage
from trunkline.model_server.prompt_cache import CacheUse, PromptCache
from trunkline.model_server.wire import ApiError, Event, Ids

_KEPT = 1000  # responses remembered for `previous_response_id`
_ROLES = ("system", "developer", "user", "assistant")
_ECHO = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "previous_response_id",
    "temperature",
    "tools",
    "top_p",
    "user",
)


class OpenAIResponses:
    """`/v1/responses`; keeps the newest 1000 answers, so that `previous_response_id` works."""

    request_id_header = "x-request-id"

    def __init__(self) -> None:
        self._kept: OrderedDict[str, list[Any]] = OrderedDict()

    def parse(self, body: Mapping[str, Any]) -> Call:
        """Read a request; raises `ApiError`."""
        try:
            return self._parse(Fields(body))
        except InvalidField as fault:
            raise openai_errors.invalid(fault) from fault

    def cache(self, cache: PromptCache, owner: str, segments: Sequence[Segment]) -> CacheUse:
        """Automatic caching."""
        return cache.automatic(owner, segments)

    def body(self, call: Call, answer: Answer, usage: Usage, ids: Ids) -> dict[str, Any]:
        """Return a `response`."""
        status = "incomplete" if answer.stop == "length" else "completed"
        output: list[dict[str, Any]] = []
        if answer.text or not answer.tool_calls:
            part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
            output.append(
                {"id": ids.make("msg_"), "type": "message", "role": "assistant", "status": status, "content": [part]}
            )
        output += [
            {
                "id": ids.make("fc_", index),
                "type": "function_call",
                "status": "completed",
                "call_id": ids.make("call_", index),
                "name": call_.name,
                "arguments": tokens.compact(call_.arguments),
            }
            for index, call_ in enumerate(answer.tool_calls)
        ]
        identity = ids.make("resp_")
        if call.echo.get("store"):
            self._kept[identity] = [*call.echo["items"], *output]
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        now = int(time.time())
        return {
            "id": identity,
            "object": "response",
            "created_at": now,
            "completed_at": now,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": None,
            "max_output_tokens": None,
            "metadata": {},
            "model": call.prompt.model,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": call.echo.get("store", True),
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": _usage(usage),
            **{name: call.echo[name] for name in (*_ECHO, "tool_choice", "text") if name in call.echo},
        }

    def events(self, call: Call, answer: Answer, usage: Usage, ids: Ids) -> Iterator[Event]:
        """`response.created` … `response.completed`, numbered."""
        whole = self.body(call, answer, usage, ids)
        begun = {**whole, "status": "in_progress", "completed_at": None, "output": [], "usage": None}
        begun["incomplete_details"] = None
        for sequence, (event, count) in enumerate(_events(whole, begun)):
            numbered = {"type": event.pop("type"), "sequence_number": sequence, **event}
            yield _event(numbered, count)

    def error(self, error: ApiError, request_id: str) -> dict[str, Any]:  # noqa: ARG002  # OpenAI has it in a header
        """OpenAI's error body."""
        return openai_errors.body(error)

    def error_event(self, error: ApiError, request_id: str) -> bytes:  # noqa: ARG002  # OpenAI has it in a header
        """Return an `error` event."""
        shown = openai_errors.body(error)["error"]
        code = shown["code"] or shown["type"]
        value = {"type": "error", "sequence_number": 0, "code": code, "message": error.message, "param": error.param}
        return _event(value).data

    def _parse(self, body: Fields) -> Call:
        model = body.require("model", str)
        items = [*self._earlier(body), *_input(body)]
        tools = tuple(function_tool(item) for item in body.objects("tools") if item.require("type", str) == "function")
        instructions = body.get("instructions", str)
        messages = [Message("system", instructions)] if instructions else []
        segments = [Segment(tokens.canonical("tool", tool.value)) for tool in body.objects("tools")]
        if instructions:
            segments.append(Segment(tokens.canonical("system", {"type": "text", "text": instructions})))
        for index, item in enumerate(items):
            fields = Fields(item, ("input", index))
            if message := _message(fields):
                messages.append(message)
            segments += _segments(fields)
        _check_outputs(messages)
        text_format = body.object("text").object("format")
        wants_json = text_format.get("type", str) in ("json_schema", "json_object")
        prompt = Prompt(
            model=model,
            messages=tuple(_joined(messages)),
            segments=tuple(segments),
            system="\n\n".join(m.text for m in messages if m.role == "system"),
            tools=tools,
            tool_choice=tool_choice(body, tools),
            max_tokens=body.get("max_output_tokens", int),
            json_schema=(text_format.get("schema", dict) or {"type": "object"}) if wants_json else None,
        )
        store = body.get("store", bool)
        echo = {name: body.value[name] for name in (*_ECHO, "tool_choice", "text") if body.value.get(name) is not None}
        echo |= {"store": store is not False, "items": items}
        return Call(prompt, stream=body.get("stream", bool) or False, echo=echo)

    def _earlier(self, body: Fields) -> list[Any]:
        identity = body.get("previous_response_id", str)
        if identity is None:
            return []
        if identity not in self._kept:
            raise ApiError(
                400,
                f"Previous response with id '{identity}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return self._kept[identity]


def _input(body: Fields) -> list[Any]:
    value = body.value.get("input")
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    return [item.value for item in body.objects("input")] if body.require("input", list) else []


def _message(item: Fields) -> Message | None:
    """Return the message that an input item is; None for kinds that carry no words (reasoning, references)."""
    kind = item.get("type", str) or "message"
    if kind == "message":
        role = item.require("role", str)
        if role not in _ROLES:
            raise item.refuse("role", f"'{role}'. Supported values are: {', '.join(map(repr, _ROLES))}.")
        text = content_text(item)
        if role == "assistant":
            return Message("assistant", text)
        return Message("user" if role == "user" else "system", text)
    if kind == "function_call":
        call = ToolCall(item.require("name", str), arguments(item, "arguments"), item.require("call_id", str))
        return Message("assistant", tool_calls=(call,))
    if kind == "function_call_output":
        output = item.value.get("output")
        text = output if isinstance(output, str) else content_text(Fields({"content": output}, item.path))
        return Message("tool", tool_results=(ToolResult(item.require("call_id", str), text),))
    return None


def _segments(item: Fields) -> Iterator[Segment]:
    content = item.value.get("content")
    role = str(item.value.get("role") or item.value.get("type"))
    if content is None:
        rest = {key: value for key, value in item.value.items() if key not in ("id", "status")}
        yield Segment(tokens.canonical(role, rest))
        return
    for part in [{"text": content}] if isinstance(content, str) else content:
        # An answer's own text comes back as `output_text` with annotations: the words are what is cached.
        yield Segment(tokens.canonical(role, {"type": "text", "text": part["text"]} if "text" in part else part))


def _check_outputs(messages: Sequence[Message]) -> None:
    calls: set[str] = set()
    outputs: set[str] = set()
    for message in messages:
        calls |= {call.id for call in message.tool_calls}
        for result in message.tool_results:
            if result.call_id not in calls:
                text = f"No tool call found for function call output with call_id {result.call_id}."
                raise ApiError(400, text, param="input")
            outputs.add(result.call_id)
    if missing := calls - outputs:
        raise ApiError(400, f"No tool output found for function call {min(missing)}.", param="input")


def _joined(messages: Sequence[Message]) -> Iterator[Message]:
    """Tool calls that stand next to each other are one message's, as on the other wires."""
    held: Message | None = None
    for message in messages:
        if held and message.role == "assistant" and message.tool_calls:
            held = Message("assistant", held.text, held.tool_calls + message.tool_calls)
            continue
        if held:
            yield held
            held = None
        if message.role == "assistant":
            held = message
        else:
            yield message
    if held:
        yield held


def _events(whole: Mapping[str, Any], begun: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    yield {"type": "response.created", "response": begun}, 0
    yield {"type": "response.in_progress", "response": begun}, 0
    for index, item in enumerate(whole["output"]):
        place = {"item_id": item["id"], "output_index": index}
        hollow: dict[str, Any] = {"content": []} if item["type"] == "message" else {"arguments": ""}
        added = {**item, "status": "in_progress", **hollow}
        yield {"type": "response.output_item.added", "output_index": index, "item": added}, 0
        yield from _text_events(item, place) if item["type"] == "message" else _call_events(item, place)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}, 0
    yield {"type": f"response.{whole['status']}", "response": whole}, 0


def _text_events(item: Mapping[str, Any], place: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    part = item["content"][0]
    where = {**place, "content_index": 0}
    yield {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}, 0
    for piece in tokens.pieces(part["text"]):
        event = {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
        yield event, tokens.of_text(piece)
    yield {"type": "response.output_text.done", **where, "text": part["text"], "logprobs": []}, 0
    yield {"type": "response.content_part.done", **where, "part": part}, 0


def _call_events(item: Mapping[str, Any], place: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    for piece in tokens.pieces(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}, tokens.of_text(piece)
    done = {"type": "response.function_call_arguments.done", **place, "name": item["name"]}
    yield {**done, "arguments": item["arguments"]}, 0


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _event(value: Mapping[str, Any], count: int = 0) -> Event:
    return Event(f"event: {value['type']}\ndata: {tokens.compact(value)}\n\n".encode("utf-8", "replace"), count)
