"""Google's `generateContent` and `streamGenerateContent`. The model and whether to stream come from the path."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trunkline.model_server import tokens
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

FINISH: dict[Stop, str] = {"end": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "stop_sequence": "STOP"}
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TOOL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,127}")
_REQUEST = {
    "model",
    "stream",
    "alt",
    "contents",
    "systemInstruction",
    "tools",
    "toolConfig",
    "safetySettings",
    "generationConfig",
    "cachedContent",
    "labels",
    "store",
    "serviceTier",
}
_CONFIG = {
    "temperature",
    "topP",
    "topK",
    "candidateCount",
    "maxOutputTokens",
    "stopSequences",
    "seed",
    "presencePenalty",
    "frequencyPenalty",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "responseModalities",
    "responseLogprobs",
    "logprobs",
    "thinkingConfig",
    "mediaResolution",
}
_SIGNATURE = "ModelServer+"  # how the signatures of this server begin
_NO_SIGNATURE = "skip_thought_signature_validator"  # what Google documents for calls that another model made


class Gemini:
    """`/v1beta/models/{model}:generateContent`, and `:streamGenerateContent?alt=sse`.

    Models whose name begins with `gemini-3` sign their calls, give them ids, and refuse calls without a signature.
    """

    request_id_header = "x-goog-request-id"

    def parse(self, body: Mapping[str, Any]) -> Call:
        """Read a request, with `model`, `stream` and `alt` of its URL; raises `ApiError`."""
        try:
            return _parse(_camel(Fields(body)))
        except InvalidField as fault:
            raise _invalid(fault) from fault

    def cache(self, cache: PromptCache, owner: str, segments: Sequence[Segment]) -> CacheUse:
        """Automatic caching, which Google calls implicit."""
        return cache.automatic(owner, segments)

    def body(self, call: Call, answer: Answer, usage: Usage, ids: Ids) -> dict[str, Any]:
        """Return a whole `GenerateContentResponse`."""
        parts: list[dict[str, Any]] = [{"text": answer.text}] if answer.text or not answer.tool_calls else []
        parts += [_call_part(call, call_, ids, index) for index, call_ in enumerate(answer.tool_calls)]
        return _response(call, ids, parts, FINISH[answer.stop], _usage(usage))

    def events(self, call: Call, answer: Answer, usage: Usage, ids: Ids) -> Iterator[Event]:
        """Pieces of a `GenerateContentResponse`; the last has the finish reason."""
        so_far = _usage(Usage(usage.input_tokens, 0, usage.cached_tokens))
        for piece in tokens.pieces(answer.text):
            yield _event(_response(call, ids, [{"text": piece}], None, so_far), tokens.of_text(piece))
        for index, call_ in enumerate(answer.tool_calls):
            count = tokens.of_text(call_.name) + tokens.of_text(tokens.compact(call_.arguments))
            yield _event(_response(call, ids, [_call_part(call, call_, ids, index)], None, so_far), count)
        yield _event(_response(call, ids, [{"text": ""}], FINISH[answer.stop], _usage(usage)))

    def error(self, error: ApiError, request_id: str) -> dict[str, Any]:  # noqa: ARG002  # Google has it nowhere
        """Google's error body."""
        usual = "INTERNAL" if error.status >= 500 else "INVALID_ARGUMENT"
        status = error.kind or _STATUSES.get(error.status, usual)
        return {"error": {"code": error.status, "message": error.message, "status": status}}

    def error_event(self, error: ApiError, request_id: str) -> bytes:
        """Return a `data:` line with the error."""
        return _event(self.error(error, request_id)).data


def _response(
    call: Call, ids: Ids, parts: Sequence[Mapping[str, Any]], finish: str | None, usage: Mapping[str, Any]
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [{**candidate, "index": 0}],
        "usageMetadata": usage,
        "modelVersion": call.prompt.model,
        "responseId": ids.make("")[:22],
    }


def _call_part(call: Call, made: ToolCall, ids: Ids, index: int) -> dict[str, Any]:
    function: dict[str, Any] = {"name": made.name, "args": dict(made.arguments)}
    if not _signs(call.prompt.model):
        return {"functionCall": function}
    part: dict[str, Any] = {"functionCall": {"id": ids.make("", index)[:8], **function}}
    if index == 0:  # of several calls at once only the first is signed
        part["thoughtSignature"] = _SIGNATURE + base64.b64encode(ids.make("sig_").encode()).decode()
    return part


def _signs(model: str) -> bool:
    return model.startswith("gemini-3")


def _parse(body: Fields) -> Call:
    if body.value["stream"] and body.value.get("alt") != "sse":
        raise ApiError(400, "The model server streams server-sent events only: add `?alt=sse` to the URL.")
    _known(body, _REQUEST)
    config = _camel(body.object("generationConfig"))
    _known(config, _CONFIG)
    if not body.get("contents", list):
        raise ApiError(400, "* GenerateContentRequest.contents: contents is not specified\n")
    if (config.get("candidateCount", int) or 1) != 1:
        raise config.refuse("candidateCount", "the model server gives one candidate.")
    functions = [f for tool in body.objects("tools") for f in _camel(tool).objects("functionDeclarations")]
    tools = tuple(_tool(_camel(function)) for function in functions)
    instruction = list(_parts(_camel(body.object("systemInstruction"))))
    segments = [Segment(tokens.canonical("tool", function.value)) for function in functions]
    segments += [Segment(tokens.canonical("system", part.value)) for part in instruction]
    contents = list(_contents(body))
    segments += [Segment(tokens.canonical(content.role, part.value)) for content in contents for part in content.parts]
    model = body.require("model", str)
    if _signs(model):
        _check_signatures(contents)
    prompt = Prompt(
        model=model,
        messages=tuple(_messages(contents)),
        segments=tuple(segments),
        system="\n\n".join(part.get("text", str) or "" for part in instruction),
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        max_tokens=config.get("maxOutputTokens", int),
        stops=tuple(
            checked(text, str, (*config.path, "stopSequences", i))
            for i, text in enumerate(config.get("stopSequences", list) or ())
        ),
        json_schema=_json_schema(config),
    )
    config.get("temperature", float)
    return Call(prompt, stream=bool(body.value["stream"]))


def _contents(body: Fields) -> Iterator[_Content]:
    """Return the turns. Clients that stream send back each piece of a model's turn as an element of its own."""
    role, parts = "", list[Fields]()
    for index, given in enumerate(body.objects("contents")):
        item = _camel(given)
        _known(item, {"role", "parts"})
        next_role = item.get("role", str) or "user"
        if next_role not in ("user", "model", "function"):
            raise ApiError(400, "Please use a valid role: user, model.")
        if next_role != "model" or role != "model":
            if role:
                yield _Content(role, index - 1, parts)
            role, parts = next_role, []
        parts.extend(_parts(item))
    yield _Content(role, index, parts)


class _Content:
    """One turn."""

    def __init__(self, role: str, index: int, parts: Sequence[Fields]) -> None:
        self.role = role
        self.index = index
        self.parts = parts
        self.calls = [_camel(part.object("functionCall")) for part in self.parts if part.value.get("functionCall")]
        self.results = [
            _camel(part.object("functionResponse")) for part in self.parts if part.value.get("functionResponse")
        ]

    @property
    def text(self) -> str:
        """Its text, thoughts left out."""
        return "\n".join(
            part.get("text", str) or "" for part in self.parts if "text" in part.value and not _thinks(part)
        )


def _parts(holder: Fields) -> Iterator[Fields]:
    for item in holder.objects("parts"):
        part = _camel(item)
        data = {"text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode"} & set(
            part.value
        )
        if len(data) != 1:
            raise ApiError(400, f"{_place(part.path)}: required oneof field 'data' must have one initialized field")
        if part.get("thoughtSignature", str) is not None and not part.value["thoughtSignature"]:
            raise part.refuse("thoughtSignature", "must not be empty")
        yield part


def _thinks(part: Fields) -> bool:
    return part.get("thought", bool) or False


def _messages(contents: Sequence[_Content]) -> Iterator[Message]:
    """Give calls without an id one of their place, and results without one to the first open call of their function."""
    calls: tuple[ToolCall, ...] = ()
    for content in contents:
        if len(content.results) != len(calls):
            raise ApiError(
                400,
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn.",
            )
        waiting = list(calls)
        if content.results:
            yield Message("tool", tool_results=tuple(_result(result, waiting) for result in content.results))
        calls = tuple(
            ToolCall(
                call.require("name", str),
                call.get("args", dict) or {},
                call.get("id", str) or f"{content.index}-{place}",
            )
            for place, call in enumerate(content.calls)
        )
        if content.role == "model":
            yield Message("assistant", content.text, tool_calls=calls)
        elif content.text or not content.results:
            yield Message("user", content.text)
    if calls:
        raise ApiError(400, "Please ensure that function call turn is followed by a function response turn.")


def _result(result: Fields, waiting: list[ToolCall]) -> ToolResult:
    name, id_ = result.require("name", str), result.get("id", str)
    for call in waiting:
        if call.name == name and id_ in (None, call.id):
            waiting.remove(call)
            response = result.require("response", dict)
            shown = next((response[key] for key in ("output", "result", "error") if key in response), response)
            text = shown if isinstance(shown, str) else tokens.compact(shown)
            return ToolResult(call.id, text, "error" in response)
    raise result.refuse("name", f"no function call of '{name}' waits for a response.")


def _check_signatures(contents: Sequence[_Content]) -> None:
    """Refuse unsigned first calls of the steps of the current turn; a turn begins with the user's words."""
    said = (place for place, content in enumerate(contents) if content.role == "user" and not content.results)
    for content in contents[max(said, default=0) :]:
        part = next((part for part in content.parts if part.value.get("functionCall")), None)
        if part is None:
            continue
        signature = part.value.get("thoughtSignature")
        name = part.object("functionCall").require("name", str)
        if signature is None:
            raise ApiError(
                400,
                "Function call is missing a thought_signature in functionCall parts. This is required for tools to "
                f"work correctly. Additional data, function call `{name}`, position {content.index + 1}.",
            )
        # Google's clients write base64 in either alphabet.
        if signature != _NO_SIGNATURE and not str(signature).replace("-", "+").startswith(_SIGNATURE):
            raise ApiError(400, "Corrupted thought signature.")


def _tool(function: Fields) -> Tool:
    name = function.require("name", str)
    if not _TOOL_NAME.fullmatch(name):
        raise function.refuse("name", "Invalid function name. Must start with a letter or an underscore.")
    given = function.get("parameters", dict)
    schema = function.get("parametersJsonSchema", dict)
    if given is not None and schema is not None:
        raise function.refuse("parameters", "`parameters` and `parametersJsonSchema` are mutually exclusive.")
    return Tool(name, function.get("description", str) or "", schema or _lower(given or {}))


def _tool_choice(body: Fields, tools: Sequence[Tool]) -> str:
    config = _camel(_camel(body.object("toolConfig")).object("functionCallingConfig"))
    mode = (config.get("mode", str) or "AUTO").upper()
    allowed = config.get("allowedFunctionNames", list) or []
    if unknown := set(map(str, allowed)) - {tool.name for tool in tools}:
        raise config.refuse("allowedFunctionNames", f"not in function_declarations: {', '.join(sorted(unknown))}.")
    if mode not in ("AUTO", "ANY", "NONE", "VALIDATED"):
        raise config.refuse("mode", "Invalid value.")
    if mode == "ANY":
        return str(allowed[0]) if len(allowed) == 1 else "required"
    return "none" if mode == "NONE" else "auto"


def _json_schema(config: Fields) -> Mapping[str, Any] | None:
    schema = config.get("responseJsonSchema", dict)
    if schema is None and (given := config.get("responseSchema", dict)) is not None:
        schema = _lower(given)
    if config.get("responseMimeType", str) == "application/json":
        return schema or {"type": "object"}
    if schema is not None:
        raise config.refuse("responseMimeType", "JSON mode is not enabled, so no schema can be set.")
    return None


def _lower(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return Google's own kind of schema with the types of JSON Schema."""
    return {
        key: value.lower()
        if key == "type" and isinstance(value, str)
        else _lower(value)
        if isinstance(value, dict)
        else [_lower(item) if isinstance(item, dict) else item for item in value]
        if isinstance(value, list)
        else value
        for key, value in schema.items()
    }


def _camel(fields: Fields) -> Fields:
    """Return the object with its names in `camelCase`: Google takes them in `snake_case` too."""
    renamed = {re.sub(r"(?<!^)_([a-z])", lambda m: m[1].upper(), name): value for name, value in fields.value.items()}
    return Fields(renamed, fields.path)


def _known(fields: Fields, names: set[str]) -> None:
    for name in fields.value:
        if name not in names:
            at = f" at '{_place(fields.path)}'" if fields.path else ""
            raise ApiError(400, f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.')


def _usage(usage: Usage) -> dict[str, Any]:
    counts: dict[str, Any] = {"promptTokenCount": usage.input_tokens}
    if usage.output_tokens:
        counts["candidatesTokenCount"] = usage.output_tokens
    if usage.cached_tokens:
        counts["cachedContentTokenCount"] = usage.cached_tokens
    counts["totalTokenCount"] = usage.input_tokens + usage.output_tokens
    counts["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": usage.input_tokens}]
    return counts


def _invalid(fault: InvalidField) -> ApiError:
    place = _place(fault.path)
    if fault.problem == "missing":
        return ApiError(400, f"* GenerateContentRequest.{place}: {place} is not specified\n")
    if fault.problem == "type":
        return ApiError(400, f"Invalid value at '{place}': expected {fault.expected}, got {fault.got}.")
    return ApiError(400, f"Invalid value at '{place}': {fault.expected}")


def _place(path: Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _event(value: Mapping[str, Any], count: int = 0) -> Event:
    return Event(b"data: " + tokens.compact(value).encode("utf-8", "replace") + b"\r\n\r\n", count)
