"""Model calls by the unmodified SDKs: each client wire over each provider wire, streaming and not."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
import openai
import pytest

from support.stack import PROVIDER_KEY, Stack, eventually

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
OPENAI_TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
ANTHROPIC_TOOL: Any = {"name": "get_weather", "input_schema": WEATHER}
PROVIDERS = {"gpt": "oai", "claude": "ant", "gemini": "gem", "bedrock": "bed"}
"""Each model's provider, which speaks OpenAI's, Anthropic's, Google's and Amazon's wire."""
ON_EACH_PROVIDER = pytest.mark.parametrize("model", PROVIDERS)
STORY_ENDS = "waited there."


def says(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@ON_EACH_PROVIDER
def test_openai_whole(stack: Stack, model: str) -> None:
    raw = stack.openai().chat.completions.with_raw_response.create(model=model, messages=says("count the tokens"))
    reply = raw.parse()
    assert reply.choices[0].message.content == "Counted."
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (2000, 11, 2011)
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 1536
    assert raw.headers["x-trunkline-call"].startswith("call_")
    assert raw.headers["x-trunkline-upstream"].startswith(f"{PROVIDERS[model]}/")
    assert reply.id
    assert "scripted" in reply.model
    assert raw.headers["x-trunkline-memory"] == "none"
    assert "x-trunkline-session" not in raw.headers


@ON_EACH_PROVIDER
def test_anthropic_whole(stack: Stack, model: str) -> None:
    reply = stack.anthropic().messages.create(model=model, max_tokens=100, messages=says("count the tokens"))
    assert [block.type for block in reply.content] == ["text"]
    assert reply.content[0].text == "Counted."  # type: ignore[union-attr]
    assert reply.stop_reason == "end_turn"
    # Anthropic counts apart what it read from its cache.
    assert (reply.usage.input_tokens, reply.usage.cache_read_input_tokens, reply.usage.output_tokens) == (464, 1536, 11)


@ON_EACH_PROVIDER
def test_openai_streamed(stack: Stack, model: str) -> None:
    stream = stack.openai().chat.completions.create(
        model=model, messages=says("a long story"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len(texts) > 5, "it came in one piece"
    assert "".join(texts).endswith(STORY_ENDS)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert reasons == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens > 0
    assert chunks[-1].usage.completion_tokens > 20
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].id


@ON_EACH_PROVIDER
def test_anthropic_streamed(stack: Stack, model: str) -> None:
    with stack.anthropic().messages.stream(model=model, max_tokens=400, messages=says("a long story")) as stream:
        texts = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(texts) > 5, "it came in one piece"
    assert "".join(texts) == message.content[0].text  # type: ignore[union-attr]
    assert message.content[0].text.endswith(STORY_ENDS)  # type: ignore[union-attr]
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 20


@ON_EACH_PROVIDER
@pytest.mark.parametrize("streams", [False, True])
def test_openai_tools_and_their_results(stack: Stack, model: str, streams: bool) -> None:
    client = stack.openai()
    asked = says("compare Oslo and Rome")
    if streams:
        with client.chat.completions.stream(model=model, messages=asked, tools=[OPENAI_TOOL]) as stream:
            reply: Any = stream.get_final_completion()
    else:
        reply = client.chat.completions.create(model=model, messages=asked, tools=[OPENAI_TOOL])
    assert reply.choices[0].finish_reason == "tool_calls"
    message = reply.choices[0].message
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]
    assert calls == [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Rome"})]
    assert len({call.id for call in message.tool_calls}) == 2
    results: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": f"{number} degrees"}
        for number, call in enumerate(message.tool_calls)
    ]
    echo = message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"})
    for call in echo["tool_calls"]:
        call.pop("index", None)
        call["function"].pop("parsed_arguments", None)
    final = client.chat.completions.create(model=model, messages=[*asked, echo, *results], tools=[OPENAI_TOOL])
    text = final.choices[0].message.content
    assert text is not None
    assert "0 degrees" in text
    assert "1 degrees" in text


@ON_EACH_PROVIDER
@pytest.mark.parametrize("streams", [False, True])
def test_anthropic_tools_and_their_results(stack: Stack, model: str, streams: bool) -> None:
    client = stack.anthropic()
    asked = says("the weather in Oslo please")
    given: Any = {"model": model, "max_tokens": 200, "messages": asked, "tools": [ANTHROPIC_TOOL]}
    if streams:
        with client.messages.stream(**given) as stream:
            reply = stream.get_final_message()
    else:
        reply = client.messages.create(**given)
    assert reply.stop_reason == "tool_use"
    # Gemini's signature of the call comes as reasoning without words, so that the client brings it back.
    signed = ["thinking"] if model == "gemini" else []
    assert [block.type for block in reply.content] == ["text", *signed, "tool_use"]
    use: Any = reply.content[-1]
    assert (use.name, use.input) == ("get_weather", {"city": "Oslo"})
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "3 degrees"}
    echo = [
        block.model_dump(include={"type", "text", "thinking", "signature", "id", "name", "input"}, exclude_none=True)
        for block in reply.content
    ]
    final = client.messages.create(
        **given | {"messages": [*asked, {"role": "assistant", "content": echo}, {"role": "user", "content": [result]}]}
    )
    assert final.content[0].text == "It says: 3 degrees"
    assert final.stop_reason == "end_turn"
    if signed:
        parts = next(entry for entry in reversed(stack.asked()) if "3 degrees" in json.dumps(entry["body"]))
        assert '"thoughtSignature": "ModelServer+' in json.dumps(parts["body"])


@ON_EACH_PROVIDER
@pytest.mark.parametrize("streams", [False, True])
def test_stop_reasons(stack: Stack, model: str, streams: bool) -> None:
    def by_openai(**more: Any) -> str | None:
        made: Any = stack.openai().chat.completions.create(
            model=model, messages=says("a long story"), stream=streams, **more
        )
        if not streams:
            return str(made.choices[0].finish_reason)
        return str([chunk.choices[0].finish_reason for chunk in made if chunk.choices][-1])

    def by_anthropic(**more: Any) -> tuple[str | None, str | None]:
        given: Any = {"model": model, "max_tokens": 400, "messages": says("a long story"), **more}
        if not streams:
            message = stack.anthropic().messages.create(**given)
        else:
            with stack.anthropic().messages.stream(**given) as stream:
                message = stream.get_final_message()
        return message.stop_reason, message.stop_sequence

    assert by_openai(max_tokens=5) == "length"
    assert by_openai(stop=["elephant"]) == "stop"
    assert by_anthropic(max_tokens=5) == ("max_tokens", None)
    # Not every wire tells which sequence stopped it, or that one did at all.
    told = {"claude": ("stop_sequence", "elephant"), "bedrock": ("stop_sequence", None)}
    assert by_anthropic(stop_sequences=["elephant"]) == told.get(model, ("end_turn", None))


@pytest.mark.parametrize("provider", PROVIDERS.values())
@pytest.mark.parametrize(
    ("fault", "kinds", "word"),
    [
        ("error-400", (openai.BadRequestError, anthropic.BadRequestError), "Error 400"),
        ("error-500", (openai.InternalServerError, anthropic.InternalServerError), "Error 500"),
        ("error-529", (openai.InternalServerError, anthropic.APIStatusError), "Error 529"),
        ("rate-limit-9", (openai.RateLimitError, anthropic.RateLimitError), "Rate limit"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_a_providers_refusal_comes_in_the_clients_wire(
    stack: Stack,
    provider: str,
    fault: str,
    kinds: tuple[type[openai.APIStatusError], type[anthropic.APIStatusError]],
    word: str,
    *,
    streams: bool,
) -> None:
    of_openai, of_anthropic = kinds
    model = f"{provider}/{fault}"
    with pytest.raises(of_openai) as refused:
        stack.openai().chat.completions.create(model=model, messages=says("hi"), stream=streams)
    body: Any = refused.value.response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert word in body["error"]["message"]
    with pytest.raises(of_anthropic) as refused_too:
        stack.anthropic().messages.create(model=model, max_tokens=9, messages=says("hi"), stream=streams)
    body = refused_too.value.response.json()
    assert (body["type"], body["error"].keys() >= {"type", "message"}) == ("error", True)
    assert body["request_id"]
    assert word in body["error"]["message"]
    assert refused.value.status_code == refused_too.value.status_code
    if fault.startswith("rate-limit"):
        assert refused.value.response.headers["retry-after"] == "9"
        assert refused_too.value.response.headers["retry-after"] == "9"


@pytest.mark.parametrize("provider", PROVIDERS.values())
@pytest.mark.parametrize("fault", ["cut-3", "error-500@3", "cut-0", "malformed"])
def test_a_stream_that_breaks_is_an_error_and_never_a_clean_end(stack: Stack, provider: str, fault: str) -> None:
    model = f"{provider}/{fault}"
    with pytest.raises((openai.APIError, json.JSONDecodeError)):
        list(stack.openai().chat.completions.create(model=model, messages=says("a long story"), stream=True))
    with (
        pytest.raises((anthropic.APIError, json.JSONDecodeError)),
        stack.anthropic().messages.stream(model=model, max_tokens=99, messages=says("a long story")) as stream,
    ):
        stream.get_final_message()


@pytest.mark.parametrize(
    "model",
    [
        "oai/cut-3",
        "oai/cut-0",
        "ant/cut-3",
        "ant/cut-0",
        "ant/malformed",
        "gem/cut-3",
        "gem/malformed",
        "bed/malformed",
    ],
)
def test_a_whole_reply_that_breaks_is_an_error(stack: Stack, model: str) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        stack.openai().chat.completions.create(model=model, messages=says("hi"))
    assert refused.value.status_code == 502


@ON_EACH_PROVIDER
@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_a_stream_in_pieces_of_any_size_is_the_same(stack: Stack, model: str, size: int) -> None:
    stream = stack.openai().chat.completions.create(
        model=f"{PROVIDERS[model]}/chunk-{size}", messages=says("say größer: \u2028 🐘"), stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "größer: \u2028 🐘"


def test_usage_is_counted_for_us_and_hidden_from_a_client_that_did_not_ask(stack: Stack) -> None:
    for model in PROVIDERS:
        key, key_id = stack.inference_key()
        stream = stack.openai(key).chat.completions.create(model=model, messages=says("count the tokens"), stream=True)
        chunks = list(stream)
        assert all(chunk.choices for chunk in chunks), "a chunk without choices breaks clients that did not ask for it"
        assert all(chunk.usage is None for chunk in chunks)
        counted = stack.usage(key_id=key_id)
        assert (counted["requests"], counted["input_tokens"], counted["output_tokens"]) == (1, 2000, 11)
        assert counted["cached_tokens"] == 1536


@ON_EACH_PROVIDER
def test_what_the_provider_gets_holds_its_own_key_and_nothing_of_ours(stack: Stack, model: str) -> None:
    secret = {
        "cookie": "session=secret",
        "x-forwarded-for": "10.0.0.7",
        "x-trunkline-user": "cus_headers",
        "x-tag": "mine",
    }
    stack.openai().chat.completions.create(model=model, messages=says("say headers-by-openai"), extra_headers=secret)
    stack.anthropic().messages.create(
        model=model, max_tokens=9, messages=says("say headers-by-anthropic"), extra_headers=secret
    )
    asked = [entry for entry in stack.asked() if "say headers-by" in json.dumps(entry["body"])][-2:]
    assert len(asked) == 2
    for entry in asked:
        headers = entry["headers"]
        assert stack.key not in json.dumps(entry)
        if model == "bedrock":
            assert "Credential=AKIDEXAMPLE/" in headers["authorization"]
        else:
            credential = headers.get("authorization") or headers.get("x-api-key") or headers["x-goog-api-key"]
            assert credential.endswith(PROVIDER_KEY[-4:])
        assert not {"cookie", "x-forwarded-for", "x-trunkline-user", "x-tag", "x-stainless-lang"} & headers.keys()


def test_models_in_both_wires(stack: Stack) -> None:
    with stack.http() as http:
        assert http.post("/v1/agents", json={"name": "listed"}).status_code == 200
    # The gateway is told of a new agent, which takes it a moment.
    assert eventually(lambda: "agent/listed" in [model.id for model in stack.openai().models.list()])
    names = [model.id for model in stack.openai().models.list()]
    assert names[:2] == ["gpt", "claude"]
    assert [model.id for model in stack.anthropic().models.list()] == names
    assert stack.openai().models.retrieve("gpt").id == "gpt"
    assert stack.anthropic().models.retrieve("claude").id == "claude"
    assert stack.openai().models.retrieve("agent/listed").id == "agent/listed"
    assert stack.anthropic().models.retrieve("agent/listed").id == "agent/listed"
    with pytest.raises(openai.NotFoundError, match="no model 'nope'"):
        stack.openai().models.retrieve("nope")
    with pytest.raises(anthropic.NotFoundError, match="no model 'nope'"):
        stack.anthropic().models.retrieve("nope")
    with pytest.raises(openai.AuthenticationError):
        stack.openai("sk-tl-wrong").models.list()


def test_its_own_pages(stack: Stack) -> None:
    assert httpx.get(f"{stack.base_url}/healthz").text == "ok\n"
    assert httpx.get(f"{stack.base_url}/readyz").text == "ready\n"
    stack.openai().chat.completions.create(model="gpt", messages=says("hi"))
    with pytest.raises(openai.NotFoundError):
        stack.openai().chat.completions.create(model="nope", messages=says("hi"))
    metrics = httpx.get(f"{stack.base_url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = metrics.text.splitlines()
    names = {line.split("{")[0].split(" ")[0] for line in lines if line and not line.startswith("#")}
    assert names
    assert all(name.startswith("trunkline_") for name in names)
    told = {line.split(" ")[2] for line in lines if line.startswith("# TYPE")}
    assert all(any(name.startswith(known) for known in told) for name in names), "a metric without its type"
    assert any('status="200"' in line or 'status="2xx"' in line for line in lines)


def test_other_paths_are_relayed_with_all_methods_and_streams(stack: Stack) -> None:
    with stack.http() as http:
        assert http.get("/openapi.json").json()["info"]["title"]
        agent = http.post("/v1/agents", json={"name": "relayed"}).json()["id"]
        assert http.get(f"/v1/agents/{agent}").json()["name"] == "relayed"
        assert http.get("/v1/agents", params={"limit": 1, "include_archived": "true"}).status_code == 200
        assert http.get("/v1/agents/agent_none").status_code == 404
        assert http.get("/nowhere").json()["type"] == "error"
        key = http.post("/v1/keys", json={"name": "short"}).json()["id"]
        assert http.delete(f"/v1/keys/{key}").json()["revoked_at"]
        assert http.head("/docs").status_code in {200, 405}
        session = http.post("/v1/sessions", json={"agent": agent}).json()["id"]
        with http.stream("GET", f"/v1/sessions/{session}/events/stream") as events:
            assert events.headers["content-type"].startswith("text/event-stream")
            lines = events.iter_lines()
            assert next(lines) == ": open", "the head of a stream must not wait for its end"
            sent = stack.anthropic().beta.sessions.events.send(
                session, events=[{"type": "user.message", "content": [{"type": "text", "text": "hello"}]}]
            )
            assert sent.data
            assert any("user.message" in line for line in lines)
