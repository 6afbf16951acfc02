"""Gemini's wire by the unmodified SDK: over each provider wire, with an agent's memory, and its sessions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from google import genai
from google.genai import errors, types

from support.memory import CUSTOMER, ok
from support.stack import PROVIDER_KEY, Stack

Clients = Callable[..., genai.Client]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = types.FunctionDeclaration(name="get_weather", parameters_json_schema=WEATHER)
TOOLS = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[FUNCTION])])
ON_EACH_PROVIDER = pytest.mark.parametrize("model", ["gpt", "claude", "gemini", "bedrock"])
STREAMING_AND_NOT = pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])


@pytest.fixture
def client_of(stack: Stack) -> Iterator[Clients]:
    """Make the unmodified SDK, with headers; no retries, so that an error is seen at once."""
    held = []  # one that nobody holds closes itself

    def made(key: str | None = None, **headers: str) -> genai.Client:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        once = types.HttpRetryOptions(attempts=1)
        options = types.HttpOptions(base_url=stack.base_url, headers=named, retry_options=once, timeout=30_000)
        held.append(genai.Client(api_key=key or stack.key, http_options=options))
        return held[-1]

    yield made
    for client in held:
        client.close()


def make_agent(stack: Stack, model: str) -> str:
    """Make an agent that knows customers; return its name."""
    name = f"gem-{uuid4().hex[:8]}"
    given = {"name": name, "model": model, "system": "You help.", "memory": {"blocks": {"customer": CUSTOMER}}}
    with stack.http() as http:
        ok(http.post("/v1/agents", json=given))
    return name


def send(chat: Any, message: Any, *, streams: bool) -> tuple[list[Any], str]:
    """Say something in one of the SDK's chats; return the responses or chunks, and the session."""
    answers = list(chat.send_message_stream(message)) if streams else [chat.send_message(message)]
    return answers, answers[0].sdk_http_response.headers.get("x-trunkline-session", "")


def text_of(answers: list[Any]) -> str:
    parts = [part for answer in answers for part in answer.candidates[0].content.parts or ()]
    return "".join(part.text for part in parts if part.text and not part.thought)


def calls_of(answers: list[Any]) -> list[types.FunctionCall]:
    return [call for answer in answers for call in answer.function_calls or ()]


def all_of(answers: list[Any]) -> str:
    return "".join(answer.model_dump_json(exclude={"sdk_http_response"}) for answer in answers)


@ON_EACH_PROVIDER
def test_whole(stack: Stack, client_of: Clients, model: str) -> None:
    answer = client_of().models.generate_content(
        model=model, contents="count the tokens", config=types.GenerateContentConfig(system_instruction="Be brief.")
    )
    assert answer.text == "Counted."
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    usage = answer.usage_metadata
    assert usage is not None
    assert (usage.prompt_token_count, usage.cached_content_token_count, usage.candidates_token_count) == (
        2000,
        1536,
        11,
    )
    assert "Be brief." in json.dumps(stack.asked()[-1]["body"])


@ON_EACH_PROVIDER
def test_streamed(stack: Stack, client_of: Clients, model: str) -> None:
    chunks = list(client_of().models.generate_content_stream(model=model, contents="a long story"))
    assert len(chunks) > 5, "it came in one piece"
    assert text_of(chunks).endswith("waited there.")
    reasons = [chunk.candidates[0].finish_reason for chunk in chunks if chunk.candidates]
    assert [reason for reason in reasons if reason] == [types.FinishReason.STOP]
    assert chunks[-1].usage_metadata is not None
    assert (chunks[-1].usage_metadata.candidates_token_count or 0) > 20


@ON_EACH_PROVIDER
@STREAMING_AND_NOT
def test_parallel_tools(stack: Stack, client_of: Clients, model: str, *, streams: bool) -> None:
    chat = client_of().chats.create(model=model, config=TOOLS)
    calls = calls_of(send(chat, "compare Bern and Rome", streams=streams)[0])
    assert [(call.name, call.args) for call in calls] == [
        ("get_weather", {"city": "Bern"}),
        ("get_weather", {"city": "Rome"}),
    ]
    results = [
        types.Part(
            function_response=types.FunctionResponse(
                id=call.id, name=call.name, response={"output": f"{number} degrees"}
            )
        )
        for number, call in enumerate(calls)
    ]
    text = text_of(send(chat, results, streams=streams)[0])
    assert "0 degrees" in text
    assert "1 degrees" in text


@ON_EACH_PROVIDER
@STREAMING_AND_NOT
def test_an_agent_remembers_and_its_session_goes_on(
    stack: Stack, client_of: Clients, model: str, *, streams: bool
) -> None:
    agent = make_agent(stack, model)
    client = client_of(x_trunkline_user="cus_1")
    chat = client.chats.create(model=f"agent/{agent}")
    answers, session = send(chat, "My name is Ada Lovelace.", streams=streams)
    assert "Ada Lovelace" in text_of(answers)
    assert "memory_update" not in all_of(answers)
    assert session.startswith("sesn_")
    with stack.http() as http:
        block = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "cus_1"}))
    assert block["value"] == {"name": "Ada Lovelace"}
    for text in ("say two", "say three and four"):
        answers, again = send(chat, text, streams=streams)
        assert text_of(answers) == text.removeprefix("say ")
        assert again == session, "the chat's own history leads back to its session"
    assert [event.type for event in stack.events(session)] == [
        *("user.message", "agent.tool_use", "agent.tool_result", "agent.message", "session.status_idle"),
        *("user.message", "agent.message", "session.status_idle") * 2,
    ]

    # Another conversation: what is known of the user is in front of the model, whose provider has never heard it there.
    answers, other = send(client.chats.create(model=f"agent/{agent}"), "say hello", streams=streams)
    assert other != session
    asked = json.dumps(stack.asked()[-1]["body"])
    assert "<trunkline-memory>" in asked
    assert "Ada Lovelace" in asked
    assert "You help." in asked


@pytest.mark.parametrize("model", ["gpt", "gemini", "gem/gemini-2-scripted"])
@pytest.mark.parametrize("named", [True, False], ids=["ids", "no-ids"])
@STREAMING_AND_NOT
def test_a_session_goes_on_over_the_clients_tools(
    stack: Stack, client_of: Clients, model: str, *, named: bool, streams: bool
) -> None:
    """Gemini's older models give their calls no id, and the SDK's own calling of functions gives results none."""
    agent = make_agent(stack, "gpt")
    chat = client_of(x_trunkline_user="cus_1", x_trunkline_agent=agent).chats.create(model=model, config=TOOLS)
    answers, session = send(chat, "compare Oslo and Rome", streams=streams)
    calls = calls_of(answers)
    assert len(calls) == 2
    results = [
        types.Part(
            function_response=types.FunctionResponse(
                id=call.id if named else None, name=call.name, response={"result": "3 degrees"}
            )
        )
        for call in calls
    ]
    answers, again = send(chat, results, streams=streams)
    assert "3 degrees" in text_of(answers)
    assert again == session
    answers, again = send(chat, "say thanks", streams=streams)
    assert again == session
    assert [event.type for event in stack.events(session)] == [
        *("user.message", "agent.custom_tool_use", "agent.custom_tool_use", "session.status_idle"),
        *("user.custom_tool_result", "user.custom_tool_result", "agent.message", "session.status_idle"),
        *("user.message", "agent.message", "session.status_idle"),
    ]


@pytest.mark.parametrize("provider", ["oai", "ant", "gem", "bed"])
@pytest.mark.parametrize(("fault", "code"), [("error-400", 400), ("error-500", 500), ("rate-limit-9", 429)])
@STREAMING_AND_NOT
def test_a_providers_refusal_is_the_sdks_error(
    stack: Stack, client_of: Clients, provider: str, fault: str, code: int, *, streams: bool
) -> None:
    chat = client_of().chats.create(model=f"{provider}/{fault}")
    with pytest.raises(errors.APIError) as refused:
        send(chat, "hi", streams=streams)
    assert refused.value.code == code
    assert refused.value.status
    assert refused.value.message


def test_a_call_that_cannot_be_is_the_sdks_error(stack: Stack, client_of: Clients) -> None:
    models = client_of().models
    for model, contents, code in (("no-such-model", "hi", 404), ("agent/no-such-agent", "hi", 404), ("gpt", [], 400)):
        with pytest.raises((errors.ClientError, ValueError)) as refused:
            models.generate_content(model=model, contents=contents)
        if isinstance(refused.value, errors.ClientError):
            assert refused.value.code == code
            assert refused.value.message


def test_unknown_keys_and_those_of_others_are_refused(stack: Stack, client_of: Clients) -> None:
    text = f"hi, {uuid4().hex}"
    for key in ("sk-tl-wrong", PROVIDER_KEY):
        with pytest.raises(errors.ClientError) as refused:
            client_of(key).models.generate_content(model="gpt", contents=text)
        assert (refused.value.code, refused.value.status) == (401, "UNAUTHENTICATED")
    limited, _ = stack.inference_key(models=["claude"])
    with pytest.raises(errors.ClientError) as refused:
        client_of(limited).models.generate_content(model="gpt", contents=text)
    assert refused.value.code == 403
    agent, theirs = make_agent(stack, "gpt"), stack.another_tenant(f"other-{uuid4().hex[:8]}")
    for model, headers in ((f"agent/{agent}", {}), ("gpt", {"x_trunkline_agent": agent})):
        with pytest.raises(errors.ClientError, match="There is no agent") as refused:
            client_of(theirs, **headers).models.generate_content(model=model, contents=text)
        assert refused.value.code == 404
    assert text not in str(stack.asked()), "nothing of it reached a provider"


@ON_EACH_PROVIDER
def test_the_clients_key_never_reaches_the_provider(stack: Stack, client_of: Clients, model: str) -> None:
    client_of().models.generate_content(model=model, contents="say key-by-header")
    with stack.http(stack.key) as http:
        path = f"/v1beta/models/{model}:generateContent?key={stack.key}"
        del http.headers["x-api-key"]
        ok(http.post(path, json={"contents": [{"parts": [{"text": "say key-by-query"}]}]}))
    asked = [entry for entry in stack.asked() if "say key-by" in json.dumps(entry["body"])][-2:]
    assert len(asked) == 2
    for entry in asked:
        assert stack.key not in json.dumps(entry)
        if model == "gemini":
            assert entry["headers"]["x-goog-api-key"].endswith(PROVIDER_KEY[-4:])
