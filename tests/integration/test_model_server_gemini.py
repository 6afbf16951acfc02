"""The model server's Gemini wire over real sockets, with Google's unmodified SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import errors, types

from support.model_server import ModelServerProcess, started

HELLO = "Hello. How can I help you?"
MEMORY = """<trunkline-memory>
<memory block="customer" scope="user">
unknown: preferences, recent_purchases
required but unknown: name
</memory>
</trunkline-memory>"""
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"operations": {"type": "array"}}}
SAID = "My name is Ada Lovelace and I bought a red kettle."
NOTED = "Noted: your name is Ada Lovelace; you bought a red kettle."
OPERATIONS = {
    "operations": [
        {"op": "set", "block": "customer", "field": "name", "value": "Ada Lovelace"},
        {"op": "append", "block": "customer", "field": "recent_purchases", "value": "red kettle"},
    ]
}
LONG = "The elephant forgets nothing. " * 400  # about 3000 tokens


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServerProcess]:
    with started() as process:
        yield process


def client_of(server: ModelServerProcess, key: str = "any-key-0123456789", **headers: str) -> genai.Client:
    named = {f"x-model-server-{name.replace('_', '-')}": value for name, value in headers.items()}
    options = types.HttpOptions(base_url=server.url, headers=named, retry_options=types.HttpRetryOptions(attempts=1))
    return genai.Client(api_key=key, http_options=options)


@pytest.fixture
def gemini(server: ModelServerProcess) -> genai.Client:
    return client_of(server)


def memory_config() -> types.GenerateContentConfig:
    function = types.FunctionDeclaration(name="memory_update", parameters_json_schema=SCHEMA)
    return types.GenerateContentConfig(system_instruction=MEMORY, tools=[types.Tool(function_declarations=[function])])


def test_answers_with_usage(gemini: genai.Client) -> None:
    answer = gemini.models.generate_content(model="gemini-2.5-pro", contents="hello")
    assert answer.text == HELLO
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    assert answer.model_version == "gemini-2.5-pro"
    usage = answer.usage_metadata
    assert usage is not None
    assert usage.candidates_token_count == 7
    assert usage.total_token_count == (usage.prompt_token_count or 0) + 7


def test_streams(gemini: genai.Client) -> None:
    chunks = list(gemini.models.generate_content_stream(model="gemini-2.5-pro", contents="hello"))
    assert "".join(chunk.text or "" for chunk in chunks) == HELLO
    assert len(chunks) > 3
    reasons = [chunk.candidates[0].finish_reason for chunk in chunks if chunk.candidates]
    assert reasons == [None] * (len(chunks) - 1) + [types.FinishReason.STOP]
    assert chunks[-1].usage_metadata is not None
    assert chunks[-1].usage_metadata.candidates_token_count == 7


@pytest.mark.parametrize("model", ["gemini-2.5-pro", "gemini-3-pro"])
@pytest.mark.parametrize("stream", [False, True])
def test_tool_turn(gemini: genai.Client, model: str, stream: bool) -> None:
    chat = gemini.chats.create(model=model, config=memory_config())

    def send(message: Any) -> list[Any]:
        return list(chat.send_message_stream(message)) if stream else [chat.send_message(message)]

    calls = [call for answer in send(SAID) for call in answer.function_calls or ()]
    assert [(call.name, call.args) for call in calls] == [("memory_update", OPERATIONS)]
    assert (calls[0].id is not None) == (model == "gemini-3-pro")
    result = types.FunctionResponse(id=calls[0].id, name="memory_update", response={"output": "ok"})
    done = send(types.Part(function_response=result))
    assert "".join(answer.text or "" for answer in done) == NOTED


def test_signatures_are_wanted_of_newer_models(server: ModelServerProcess) -> None:
    call: dict[str, Any] = {"functionCall": {"name": "f", "args": {}}}
    body = {
        "contents": [
            {"role": "user", "parts": [{"text": "hello"}]},
            {"role": "model", "parts": [call]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"output": "x"}}}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
    }

    def status(model: str) -> int:
        return httpx.post(f"{server.url}/v1beta/models/{model}:generateContent", json=body).status_code

    assert (status("gemini-2.5-pro"), status("gemini-3-pro")) == (200, 400)
    call["thoughtSignature"] = "skip_thought_signature_validator"
    assert status("gemini-3-pro") == 200
    call["thoughtSignature"] = "bm90IG91cnM="
    assert status("gemini-3-pro") == 400


def test_limits_stops_and_schemas(gemini: genai.Client) -> None:
    def ask(**config: Any) -> types.GenerateContentResponse:
        return gemini.models.generate_content(model="m", contents="hello", config=types.GenerateContentConfig(**config))

    short = ask(max_output_tokens=2)
    assert short.candidates is not None
    assert (short.text, short.candidates[0].finish_reason) == ("Hello. H", types.FinishReason.MAX_TOKENS)
    assert ask(stop_sequences=["can"]).text == "Hello. How "
    schema = types.Schema(type=types.Type.OBJECT, properties={"ok": types.Schema(type=types.Type.BOOLEAN)})
    for given in ({"response_schema": schema}, {"response_json_schema": {"type": "object"}}):
        assert isinstance(json.loads(ask(response_mime_type="application/json", **given).text or ""), dict)


def test_cached_tokens(gemini: genai.Client) -> None:
    def cached(*texts: str) -> int:
        parts: Any = [types.Part(text=text) for text in texts]
        usage = gemini.models.generate_content(model="cache-test", contents=parts).usage_metadata
        assert usage is not None
        return usage.cached_content_token_count or 0

    assert cached(LONG, "one") == 0
    assert 2900 < cached(LONG, "two") <= 3000


def test_names_in_snake_case(server: ModelServerProcess) -> None:
    body = {
        "system_instruction": {"parts": [{"text": "Be brief."}]},
        "contents": [{"parts": [{"text": "hello"}]}],
        "generation_config": {"max_output_tokens": 2},
    }
    answer = httpx.post(f"{server.url}/v1beta/models/m:generateContent", params={"key": "k"}, json=body).json()
    assert answer["candidates"][0]["content"]["parts"] == [{"text": "Hello. H"}]


USER = {"role": "user", "parts": [{"text": "x"}]}
CALL = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}
RESULT = {"role": "user", "parts": [{"functionResponse": {"name": "g", "response": {}}}]}
BAD = [
    ({}, "contents is not specified"),
    ({"contents": "x"}, "Invalid value at 'contents'"),
    ({"contents": [USER], "messages": []}, 'Unknown name "messages"'),
    ({"contents": [USER], "generationConfig": {"max_tokens": 1}}, "Unknown name \"maxTokens\" at 'generationConfig'"),
    ({"contents": [{"role": "assistant", "parts": []}]}, "Please use a valid role: user, model."),
    ({"contents": [{"parts": [{}]}]}, "contents[0].parts[0]: required oneof field 'data'"),
    ({"contents": [USER, CALL, USER]}, "number of function response parts is equal"),
    ({"contents": [USER, CALL, RESULT]}, "no function call of 'g' waits"),
    ({"contents": [USER], "tools": [{"functionDeclarations": [{"name": "1"}]}]}, "Invalid function name"),
    ({"contents": [USER], "generationConfig": {"responseSchema": {}}}, "JSON mode is not enabled"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
def test_bad_requests(server: ModelServerProcess, body: Any, message: str) -> None:
    answer = httpx.post(f"{server.url}/v1beta/models/m:generateContent", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert message in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe", b'{"contents":[{"parts":[3]}]}'])
def test_bodies_that_are_no_request(server: ModelServerProcess, body: bytes) -> None:
    answer = httpx.post(f"{server.url}/v1beta/models/m:generateContent", content=body)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_faults(server: ModelServerProcess) -> None:
    def ask(model: str, *, stream: bool = False) -> None:
        client = client_of(server)
        if stream:
            list(client.models.generate_content_stream(model=model, contents="hello"))
        else:
            client.models.generate_content(model=model, contents="hello")

    for stream in (False, True):
        with pytest.raises(errors.ServerError) as failed:
            ask("error-503", stream=stream)
        assert (failed.value.code, failed.value.status) == (503, "UNAVAILABLE")
    with pytest.raises(errors.ClientError) as limited:
        ask("rate-limit-7")
    assert (limited.value.code, limited.value.status) == (429, "RESOURCE_EXHAUSTED")
    with pytest.raises(errors.APIError, match="as asked of the model server"):
        ask("error-529@3", stream=True)


def test_required_key_and_unknown_routes() -> None:
    with started("--api-key", "right") as server:
        right, wrong = client_of(server, "right"), client_of(server, "wrong")
        assert right.models.generate_content(model="m", contents="hello").text == HELLO
        with pytest.raises(errors.ClientError, match="API key not valid"):
            wrong.models.generate_content(model="m", contents="hello")
        unknown = httpx.post(f"{server.url}/v1beta/models/m:predict", json={})
        assert (unknown.status_code, unknown.json()["error"]["status"]) == (404, "NOT_FOUND")
        streamed = httpx.post(f"{server.url}/v1beta/models/m:streamGenerateContent?key=right", json={})
        assert "alt=sse" in streamed.json()["error"]["message"]
