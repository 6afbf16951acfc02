"""The model server over real sockets, with the unmodified SDKs: every wire, streaming and not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from support.model_server import ModelServerProcess, started

MEMORY = """<trunkline-memory>
<memory block="customer" scope="user">
unknown: preferences, recent_purchases
required but unknown: name
</memory>
</trunkline-memory>"""
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"operations": {"type": "array"}}}
SAID = "My name is Ada Lovelace and I bought a red kettle."
OPERATIONS = {
    "operations": [
        {"op": "set", "block": "customer", "field": "name", "value": "Ada Lovelace"},
        {"op": "append", "block": "customer", "field": "recent_purchases", "value": "red kettle"},
    ]
}
NOTED = "Noted: your name is Ada Lovelace; you bought a red kettle."
HELLO = "Hello. How can I help you?"
LONG = "The elephant forgets nothing. " * 400  # about 3000 tokens


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServerProcess]:
    with started() as process:
        yield process


@pytest.fixture
def chat(server: ModelServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-openai-0123456789", max_retries=0)


@pytest.fixture
def claude(server: ModelServerProcess) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="sk-anthropic-0123456789", max_retries=0)


def chat_tool() -> Any:
    return {"type": "function", "function": {"name": "memory_update", "parameters": SCHEMA}}


def claude_tool() -> Any:
    return {"name": "memory_update", "description": "Remember.", "input_schema": SCHEMA}


def test_chat_answers_with_usage(chat: openai.OpenAI) -> None:
    answer = chat.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hello"}])
    assert answer.choices[0].message.content == HELLO
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "gpt-5"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7


def test_chat_tool_turn(chat: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": MEMORY}, {"role": "user", "content": SAID}]
    called = chat.chat.completions.create(model="m", messages=messages, tools=[chat_tool()]).choices[0]
    assert called.finish_reason == "tool_calls"
    assert called.message.content is None
    assert called.message.tool_calls is not None
    call: Any = called.message.tool_calls[0]
    assert json.loads(call.function.arguments) == OPERATIONS
    messages += [called.message, {"role": "tool", "tool_call_id": call.id, "content": "ok"}]
    done = chat.chat.completions.create(model="m", messages=messages, tools=[chat_tool()]).choices[0]
    assert (done.message.content, done.finish_reason) == (NOTED, "stop")


@pytest.mark.parametrize("include_usage", [True, False])
def test_chat_streams(chat: openai.OpenAI, include_usage: bool) -> None:
    options: Any = {"include_usage": True} if include_usage else openai.omit
    chunks = list(
        chat.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hello"}], stream=True, stream_options=options
        )
    )
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(delta or "" for delta in deltas) == HELLO
    assert len([delta for delta in deltas if delta]) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    reported = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(reported) == include_usage
    assert (not chunks[-1].choices) == include_usage


def test_chat_streams_a_tool_call(chat: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": MEMORY}, {"role": "user", "content": SAID}]
    with chat.chat.completions.stream(model="m", messages=messages, tools=[chat_tool()]) as stream:
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert json.loads(choice.message.tool_calls[0].function.arguments) == OPERATIONS
    assert choice.message.tool_calls[0].id.startswith("call_")


def test_chat_limits_and_stops(chat: openai.OpenAI) -> None:
    user: Any = [{"role": "user", "content": "hello"}]
    short = chat.chat.completions.create(model="m", messages=user, max_completion_tokens=2)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("Hello. H", "length")
    stopped = chat.chat.completions.create(model="m", messages=user, stop="can")
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("Hello. How ", "stop")


def test_chat_reports_cached_tokens(chat: openai.OpenAI) -> None:
    def cached(*texts: str) -> int:
        messages: list[Any] = [{"role": "user", "content": text} for text in texts]
        usage = chat.chat.completions.create(model="cache-test", messages=messages).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        return usage.prompt_tokens_details.cached_tokens or 0

    assert cached(LONG, "one") == 0
    assert 2900 < cached(LONG, "two") <= 3000
    assert cached(LONG, "two") % 128 == 0
    assert cached("short", LONG) == 0


def test_messages_answer_with_usage(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model="claude-5", max_tokens=50, messages=[{"role": "user", "content": "hello"}])
    assert [block.model_dump(include={"type", "text"}) for block in answer.content] == [{"type": "text", "text": HELLO}]
    assert (answer.stop_reason, answer.model, answer.usage.output_tokens) == ("end_turn", "claude-5", 7)
    counted = claude.messages.count_tokens(model="claude-5", messages=[{"role": "user", "content": "hello"}])
    assert counted.input_tokens == answer.usage.input_tokens > 0


def test_messages_tool_turn(claude: anthropic.Anthropic) -> None:
    tools = [claude_tool()]
    messages: list[Any] = [{"role": "user", "content": SAID}]
    called = claude.messages.create(model="c", max_tokens=500, system=MEMORY, messages=messages, tools=tools)
    assert called.stop_reason == "tool_use"
    use = called.content[0]
    assert use.type == "tool_use"
    assert use.input == OPERATIONS
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": use.id, "content": "ok"}
    messages += [{"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    done = claude.messages.create(model="c", max_tokens=500, system=MEMORY, messages=messages, tools=tools)
    assert done.content[0].model_dump()["text"] == NOTED
    result |= {"is_error": True, "content": [{"type": "text", "text": "the block is full"}]}
    failed = claude.messages.create(model="c", max_tokens=500, system=MEMORY, messages=messages, tools=tools)
    assert failed.content[0].model_dump()["text"] == "I could not store that: the block is full"


def test_messages_stream(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="c", max_tokens=50, messages=[{"role": "user", "content": "hello"}]) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == HELLO
    assert len(pieces) > 3
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 7)


def test_messages_stream_a_tool_call(claude: anthropic.Anthropic) -> None:
    events = []
    with claude.messages.stream(
        model="c",
        max_tokens=500,
        system=MEMORY,
        messages=[{"role": "user", "content": SAID}],
        tools=[claude_tool()],
    ) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert final.content[0].type == "tool_use"
    assert final.content[0].input == OPERATIONS
    assert (events[0], events[-1]) == ("message_start", "message_stop")


def test_messages_stop_and_limit(claude: anthropic.Anthropic) -> None:
    user: Any = [{"role": "user", "content": "hello"}]
    stopped = claude.messages.create(model="c", max_tokens=50, messages=user, stop_sequences=["can"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "can")
    assert claude.messages.create(model="c", max_tokens=2, messages=user).stop_reason == "max_tokens"


def test_messages_cache_up_to_breakpoints(claude: anthropic.Anthropic) -> None:
    def used(user: str, *, marked: bool = True) -> tuple[int, int, int]:
        system: Any = {"type": "text", "text": LONG}
        if marked:
            system["cache_control"] = {"type": "ephemeral"}
        answer = claude.messages.create(
            model="cache-test", max_tokens=50, system=[system], messages=[{"role": "user", "content": user}]
        )
        usage = answer.usage
        assert usage.cache_creation_input_tokens is not None
        assert usage.cache_read_input_tokens is not None
        return usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens

    fresh, written, read = used("one")
    assert (read, written > 2900, fresh < 50) == (0, True, True)
    assert used("two") == (fresh, 0, written)
    assert used("two", marked=False) == (fresh + written, 0, 0)


def test_responses_remember_the_previous_one(chat: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "name": "memory_update", "parameters": SCHEMA, "strict": False}
    called = chat.responses.create(model="m", instructions=MEMORY, input=SAID, tools=[tool])
    call = called.output[0]
    assert call.type == "function_call"
    assert json.loads(call.arguments) == OPERATIONS
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "ok"}
    done = chat.responses.create(
        model="m", instructions=MEMORY, input=[result], tools=[tool], previous_response_id=called.id
    )
    assert done.output_text == NOTED
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens
    with pytest.raises(openai.BadRequestError, match="Previous response with id 'resp_none' not found"):
        chat.responses.create(model="m", input="hello", previous_response_id="resp_none")


def test_responses_stream(chat: openai.OpenAI) -> None:
    with chat.responses.stream(model="m", input="hello") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == HELLO
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    short = chat.responses.create(model="m", input="hello", max_output_tokens=2)
    assert short.status == "incomplete"
    tool: Any = {"type": "function", "name": "memory_update", "parameters": SCHEMA, "strict": False}
    with chat.responses.stream(model="m", instructions=MEMORY, input=SAID, tools=[tool]) as stream:
        call = stream.get_final_response().output[0]
    assert call.type == "function_call"
    assert json.loads(call.arguments) == OPERATIONS


def test_embeddings(chat: openai.OpenAI) -> None:
    packed = chat.embeddings.create(model="e", input=["a red kettle", "a red kettle!"])
    assert [len(item.embedding) for item in packed.data] == [384, 384]
    plain = chat.embeddings.create(model="e", input="a red kettle", encoding_format="float")
    assert all(
        math.isclose(a, b, abs_tol=1e-6) for a, b in zip(packed.data[0].embedding, plain.data[0].embedding, strict=True)
    )
    assert len(chat.embeddings.create(model="e", input=[[1, 2], [3]], dimensions=16).data[1].embedding) == 16
    assert packed.usage.prompt_tokens > 0


def test_models_in_the_callers_shape(chat: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    assert [model.id for model in chat.models.list()] == [model.id for model in claude.models.list()]
    assert chat.models.retrieve("any/thing").id == claude.models.retrieve("any/thing").id == "any/thing"


BAD_CHAT = [
    ({}, "you must provide a model parameter", None),
    ({"model": "m"}, "Missing required parameter: 'messages'.", "messages"),
    ({"model": "m", "messages": "hi"}, "Invalid type for 'messages': expected an array, but got a string", "messages"),
    ({"model": "m", "messages": []}, "empty array", "messages"),
    (
        {"model": "m", "messages": [{"content": "x"}]},
        "Missing required parameter: 'messages[0].role'.",
        "messages[0].role",
    ),
    ({"model": 3, "messages": []}, "Invalid type for 'model': expected a string, but got an integer", "model"),
    ({"model": "m", "messages": [{"role": "wizard", "content": "x"}]}, "'wizard'", "messages[0].role"),
    ({"model": "m", "messages": [{"role": "user", "content": 3}]}, "expected an array", "messages[0].content"),
    (
        {"model": "m", "messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]},
        "must be a response to a preceding message",
        "messages[0].role",
    ),
    ({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": "yes"}, "expected a boolean", "stream"),
]


@pytest.mark.parametrize(("body", "message", "param"), BAD_CHAT)
def test_bad_chat_requests(server: ModelServerProcess, body: Any, message: str, param: str | None) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert message in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


USER = {"role": "user", "content": "x"}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
BAD_MESSAGES = [
    ({}, "model: Field required"),
    ({"model": "m"}, "max_tokens: Field required"),
    ({"model": "m", "max_tokens": "9"}, "max_tokens: Input should be a valid integer"),
    ({"model": "m", "max_tokens": 9}, "messages: Field required"),
    ({"model": "m", "max_tokens": 9, "messages": {}}, "messages: Input should be a valid list"),
    ({"model": "m", "max_tokens": 9, "messages": [{"role": "user"}]}, "messages.0.content: Field required"),
    (
        {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
        "text content blocks must be non-empty",
    ),
    (
        {"model": "m", "max_tokens": 9, "messages": [USER, {"role": "assistant", "content": [USE]}, USER]},
        "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: t1",
    ),
    (
        {
            "model": "m",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t9"}]}],
        },
        "unexpected `tool_use_id` found in `tool_result` blocks: t9",
    ),
    ({"model": "m", "max_tokens": 9, "messages": [USER], "tools": [{"name": "f"}]}, "input_schema: Field required"),
    (
        {
            "model": "m",
            "max_tokens": 9,
            "messages": [USER],
            "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}] * 5,
        },
        "A maximum of 4 blocks with cache_control may be provided. Found 5.",
    ),
]


@pytest.mark.parametrize(("body", "message"), BAD_MESSAGES)
def test_bad_messages_requests(server: ModelServerProcess, body: Any, message: str) -> None:
    answer = httpx.post(f"{server.url}/v1/messages", json=body, headers={"anthropic-version": "2023-06-01"})
    shown = answer.json()
    assert (answer.status_code, shown["type"], shown["error"]["type"]) == (400, "error", "invalid_request_error")
    assert message in shown["error"]["message"]
    assert shown["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize("path", ["chat/completions", "responses", "embeddings", "messages"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b'{"model":"\\ud800"}']
)
def test_bodies_that_are_no_request(server: ModelServerProcess, path: str, body: bytes) -> None:
    answer = httpx.post(f"{server.url}/v1/{path}", content=body, headers={"anthropic-version": "2023-06-01"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_half_a_surrogate_pair_is_survived(server: ModelServerProcess) -> None:
    body = b'{"model":"\\ud800","messages":[{"role":"user","content":"my name is \\ud800"}]}'
    for stream in (b"", b',"stream":true'):
        answer = httpx.post(f"{server.url}/v1/chat/completions", content=body[:-1] + stream + b"}")
        assert answer.status_code == 200
    listed = httpx.get(f"{server.url}/_requests", params={"limit": 1}).json()
    assert listed[0]["body"]["model"] == "\ud800"


def test_other_refusals(server: ModelServerProcess) -> None:
    missing = httpx.post(f"{server.url}/v1/messages", json={})
    assert "anthropic-version: header is required" in missing.json()["error"]["message"]
    unknown = httpx.get(f"{server.url}/v1/nothing")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_url")
    header = {"x-model-server-eror": "500"}
    wrong = httpx.post(f"{server.url}/v1/chat/completions", json={}, headers=header)
    assert "unknown header x-model-server-eror" in wrong.json()["error"]["message"]


def test_records_requests_and_totals() -> None:
    with started() as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-openai-0123456789")
        for word in ("hello", "thanks"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": word}])
        httpx.post(f"{server.url}/v1/chat/completions", content=b"{")
        listed = httpx.get(f"{server.url}/_requests").json()
        assert [entry["status"] for entry in listed] == [200, 200, 400]
        assert listed[1]["path"] == "/v1/chat/completions"
        assert listed[1]["body"]["messages"][0]["content"] == "thanks"
        assert listed[1]["headers"]["authorization"] == "Bearer ***6789"
        assert listed[1]["usage"]["output_tokens"] == 4
        assert (listed[2]["body"], listed[2]["usage"]) == ("{", None)
        assert httpx.get(f"{server.url}/_requests", params={"limit": 1}).json() == listed[2:]
        totals = httpx.get(f"{server.url}/_stats").json()
        assert (totals["requests"], totals["errors"], totals["output_tokens"]) == (3, 1, 11)
        httpx.delete(f"{server.url}/_requests")
        assert httpx.get(f"{server.url}/_requests").json() == []
        assert httpx.get(f"{server.url}/_stats").json()["requests"] == 0


def test_required_key() -> None:
    with started("--api-key", "sk-right") as server:
        right = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-right", max_retries=0)
        assert right.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}]).choices
        wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError) as refused:
            wrong.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
        assert refused.value.code == "invalid_api_key"
        claude = anthropic.Anthropic(base_url=server.url, api_key="sk-wrong", max_retries=0)
        with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
            claude.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "hello"}])
