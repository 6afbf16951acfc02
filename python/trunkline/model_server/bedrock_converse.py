"""Amazon Bedrock's `Converse` and `ConverseStream`. The model and whether to stream come from the path."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trunkline.model_server import event_stream, tokens
from trunkline.model_server.fields import Fields, InvalidField, Path, checked
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

_STOP_REASONS: dict[Stop, str] = {
    "end": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "stop_sequence": "stop_sequence",
}
_EXCEPTIONS = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}
_TTLS = {"5m": 300, "1h": 3600}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # of tools, and ids of calls
# Signature Version 4, as `Authorization` carries it: the scope is date, region, service and a fixed word.
_SIGNED = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,\s]+)/\d{8}/[a-z0-9-]+/bedrock/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=[0-9a-f]{64}"
)
_SIGNED_HEADERS = {"host", "x-amz-date"}


class BedrockConverse:
    """`/model/{model}/converse` and `/model/{model}/converse-stream`."""

    request_id_header = "x-amzn-requestid"

    def parse(self, body: Mapping[str, Any]) -> Call:
        """Read a request, with `model` and `stream` of its URL; raises `ApiError`."""
        try:
            return _parse(Fields(body))
        except InvalidField as fault:
            raise _invalid(fault) from fault

    def cache(self, cache: PromptCache, owner: str, segments: Sequence[Segment]) -> CacheUse:
        """Account for caching up to `cachePoint`s."""
        return cache.at_breakpoints(owner, segments)

    def body(self, call: Call, answer: Answer, usage: Usage, ids: Ids) -> dict[str, Any]:
        """Return a whole answer; it names neither itself nor the model."""
        del call
        content: list[dict[str, Any]] = [{"text": answer.text}] if answer.text else []
        content += [
            {"toolUse": {"toolUseId": ids.make("tooluse_", i), "name": made.name, "input": dict(made.arguments)}}
            for i, made in enumerate(answer.tool_calls)
        ]
        return {
            "metrics": {"latencyMs": 1},
            "output": {"message": {"content": content, "role": "assistant"}},
            "stopReason": _STOP_REASONS[answer.stop],
            "usage": _usage(usage),
        }

    def events(self, call: Call, answer: Answer, usage: Usage, ids: Ids) -> Iterator[Event]:
        """`messageStart` … `metadata`; texts have no `contentBlockStart`."""
        whole = self.body(call, answer, usage, ids)
        yield _event("messageStart", {"role": "assistant"})
        for index, block in enumerate(whole["output"]["message"]["content"]):
            place = {"contentBlockIndex": index}
            if "text" in block:
                for piece in tokens.pieces(block["text"]):
                    yield _event("contentBlockDelta", {**place, "delta": {"text": piece}}, tokens.of_text(piece))
            else:
                use = block["toolUse"]
                start = {"toolUse": {"name": use["name"], "toolUseId": use["toolUseId"]}}
                yield _event("contentBlockStart", {**place, "start": start}, tokens.of_text(use["name"]))
                for piece in ["", *tokens.pieces(tokens.compact(use["input"]))]:
                    delta = {"toolUse": {"input": piece}}
                    yield _event("contentBlockDelta", {**place, "delta": delta}, tokens.of_text(piece))
            yield _event("contentBlockStop", place)
        yield _event("messageStop", {"stopReason": whole["stopReason"]})
        yield _event("metadata", {"metrics": whole["metrics"], "usage": whole["usage"]})

    def error(self, error: ApiError, request_id: str) -> dict[str, Any]:  # noqa: ARG002  # Amazon has it in a header
        """Amazon's error body; what kind of error it is stands in a header."""
        return {"message": error.message}

    def error_event(self, error: ApiError, request_id: str) -> bytes:
        """Return an exception, as a message of the stream."""
        kind = exception(error)
        headers = {
            ":exception-type": kind[0].lower() + kind[1:],
            ":content-type": "application/json",
            ":message-type": "exception",
        }
        return event_stream.message(headers, tokens.compact(self.error(error, request_id)).encode())


def exception(error: ApiError) -> str:
    """Return the name of the exception that an error is, as in `x-amzn-errortype`."""
    usual = "InternalServerException" if error.status >= 500 else "ValidationException"
    return error.kind or _EXCEPTIONS.get(error.status, usual)


def access_key(headers: Mapping[str, str]) -> str:
    """Return the access key id or bearer token that a request is signed with; raises `ApiError` 403.

    Any signature will do, if its form and scope are right: the server has no secret to check it with.
    """
    given = headers.get("authorization", "")
    if given.startswith("Bearer "):
        return given.removeprefix("Bearer ").strip()
    signed = _SIGNED.fullmatch(given)
    if signed is None:
        raise ApiError(
            403,
            "The request signature does not conform to AWS standards: expected `AWS4-HMAC-SHA256 "
            "Credential=KEY/DATE/REGION/bedrock/aws4_request, SignedHeaders=…, Signature=…`.",
            kind="IncompleteSignatureException",
        )
    if missing := _SIGNED_HEADERS - set(signed[2].split(";")):
        raise ApiError(403, f"Not signed: {', '.join(sorted(missing))}.", kind="InvalidSignatureException")
    date = headers.get("x-amz-date", "")
    if re.fullmatch(r"\d{8}T\d{6}Z", date) is None or f"/{date[:8]}/" not in given:
        text = f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: {date!r}."
        raise ApiError(403, text, kind="InvalidSignatureException")
    return signed[1]


def _parse(body: Fields) -> Call:
    config = body.object("inferenceConfig")
    if (config.get("temperature", float) or 0) > 1:
        raise config.refuse("temperature", "Member must have value less than or equal to 1")
    specs = [item.object("toolSpec") for item in body.object("toolConfig").objects("tools") if "toolSpec" in item.value]
    tools = tuple(_tool(spec) for spec in specs)
    segments = [Segment(tokens.canonical("tool", spec.value)) for spec in specs]
    system = list(_blocks(body, "system", segments, "system"))
    if not body.get("messages", list):
        raise ApiError(400, "The messages field is required: add at least one message, and try again.")
    messages: list[Message] = []
    waiting: set[str] = set()
    previous = "assistant"
    for index, item in enumerate(body.objects("messages")):
        role = item.require("role", str)
        if role not in ("user", "assistant"):
            raise item.refuse("role", "Member must satisfy enum value set: [user, assistant]")
        if role == previous:
            raise ApiError(400, _ALTERNATE if index else _BEGIN)
        previous = role
        read = list(_messages(role, list(_blocks(item, "content", segments, role))))
        given = {result.call_id for message in read for result in message.tool_results}
        if given != waiting:
            raise ApiError(400, _results(index, waiting, given))
        waiting = {call.id for message in read for call in message.tool_calls}
        messages += read
    if waiting:
        raise ApiError(400, _results(len(messages), waiting, set()))
    if not tools and any(message.tool_calls or message.tool_results for message in messages):
        text = "The toolConfig field must be defined when using toolUse and toolResult content blocks."
        raise ApiError(400, text)
    prompt = Prompt(
        model=body.require("model", str),
        messages=tuple(messages),
        segments=tuple(segments),
        system="\n\n".join(block.get("text", str) or "" for block in system),
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        max_tokens=config.get("maxTokens", int),
        stops=tuple(
            checked(text, str, (*config.path, "stopSequences", i))
            for i, text in enumerate(config.get("stopSequences", list) or ())
        ),
        json_schema=_json_schema(body),
    )
    return Call(prompt, stream=bool(body.value["stream"]))


_BEGIN = "A conversation must start with a user message. Try again with a conversation that starts with a user message."
_ALTERNATE = (
    "A conversation must alternate between user and assistant roles. Make sure the conversation alternates between "
    "user and assistant roles and try again."
)


def _results(index: int, waiting: set[str], given: set[str]) -> str:
    place = f"messages.{index}.content"
    if missing := waiting - given:
        return f"Expected toolResult blocks at {place} for the following Ids: {', '.join(sorted(missing))}"
    return f"The number of toolResult blocks at {place} exceeds the number of toolUse blocks of previous turn."


def _blocks(holder: Fields, name: str, segments: list[Segment], kind: str) -> Iterator[Fields]:
    """Return the blocks of content, and add them to the prompt; a `cachePoint` marks the one before it."""
    for block in holder.objects(name):
        if len(block.value) != 1:
            raise ApiError(400, f"The value at {_place(block.path)} must have one field: a content block is a union.")
        if "cachePoint" in block.value:
            ttl = _TTLS.get(block.object("cachePoint").get("ttl", str) or "5m")
            if segments and ttl is not None:
                segments[-1] = Segment(segments[-1].data, ttl)
            continue
        if not (block.get("text", str) or "x").strip():
            text = f"The text field in the ContentBlock object at {_place(block.path)} is blank. Add text to the text "
            raise ApiError(400, text + "field, and try again.")
        segments.append(Segment(tokens.canonical(kind, block.value)))
        yield block


def _messages(role: str, blocks: Sequence[Fields]) -> Iterator[Message]:
    results: list[ToolResult] = []
    calls: list[ToolCall] = []
    texts: list[str] = []
    for block in blocks:
        if "toolResult" in block.value:
            result = block.object("toolResult")
            parts = list(result.objects("content"))
            shown = [part.get("text", str) or tokens.compact(part.value.get("json", "")) for part in parts]
            failed = result.get("status", str) == "error"
            results.append(ToolResult(_id(result), "\n".join(shown), failed))
        elif "toolUse" in block.value:
            use = block.object("toolUse")
            calls.append(ToolCall(use.require("name", str), use.require("input", dict), _id(use)))
        elif "text" in block.value:
            texts.append(block.require("text", str))
        elif "image" in block.value:
            block.object("image").object("source").require("bytes", str)
    if results:
        yield Message("tool", tool_results=tuple(results))
    if texts or not results:
        yield Message("assistant" if role == "assistant" else "user", "\n".join(texts), tool_calls=tuple(calls))


def _id(holder: Fields) -> str:
    id_ = holder.require("toolUseId", str)
    if not _NAME.fullmatch(id_):
        raise holder.refuse("toolUseId", "Member must satisfy regular expression pattern: [a-zA-Z0-9_-]{1,64}")
    return id_


def _tool(spec: Fields) -> Tool:
    name = spec.require("name", str)
    if not _NAME.fullmatch(name):
        raise spec.refuse("name", "Member must satisfy regular expression pattern: [a-zA-Z0-9_-]{1,64}")
    schema = spec.object("inputSchema").require("json", dict)
    if schema.get("type") != "object":
        raise spec.refuse("inputSchema", "The value at inputSchema.json.type must be one of the following: object.")
    return Tool(name, spec.get("description", str) or "", schema)


def _tool_choice(body: Fields, tools: Sequence[Tool]) -> str:
    choice = body.object("toolConfig").object("toolChoice")
    if "tool" in choice.value:
        name = choice.object("tool").require("name", str)
        if name not in {tool.name for tool in tools}:
            raise ApiError(400, f"The tool {name} of toolChoice is not among the tools.")
        return name
    return "required" if "any" in choice.value else "auto"


def _json_schema(body: Fields) -> Mapping[str, Any] | None:
    text_format = body.object("outputConfig").object("textFormat")
    if not text_format.value:
        return None
    if text_format.require("type", str) != "json_schema":
        raise text_format.refuse("type", "Member must satisfy enum value set: [json_schema]")
    schema = text_format.object("structure").object("jsonSchema")
    try:
        value = json.loads(schema.require("schema", str))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise schema.refuse("schema", "The schema must be a JSON object as text.")
    return value


def _usage(usage: Usage) -> dict[str, Any]:
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    return {
        "inputTokens": max(0, usage.input_tokens - usage.cached_tokens - written),
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.input_tokens + usage.output_tokens,
        "cacheReadInputTokens": usage.cached_tokens,
        "cacheWriteInputTokens": written,
    }


def _invalid(fault: InvalidField) -> ApiError:
    place = _place(fault.path)
    if fault.problem == "missing":
        return ApiError(400, f"1 validation error detected: Value at '{place}' failed to satisfy constraint: not null")
    if fault.problem == "type":
        return ApiError(400, f"Expected {fault.expected} at '{place}', got {fault.got}.")
    return ApiError(
        400, f"1 validation error detected: Value at '{place}' failed to satisfy constraint: {fault.expected}"
    )


def _place(path: Path) -> str:
    return ".".join(map(str, path))


def _event(name: str, value: Mapping[str, Any], count: int = 0) -> Event:
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    # Amazon pads events, so that their lengths tell less about the words in them.
    payload = tokens.compact({**value, "p": "abcdefghij"[: 1 + count % 10]}).encode("utf-8", "replace")
    return Event(event_stream.message(headers, payload), count)
