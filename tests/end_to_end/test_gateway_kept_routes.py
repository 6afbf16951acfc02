"""`Idempotency-Key` on every route that calls a model, and on what is passed through."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.memory import ok
from support.plain_provider import SPEECH, PlainProvider, plain_provider
from support.postgres import copied_database, temporary_home
from support.stack import PROVIDER_KEY, Stack, eventually, serving
from trunkline.store.embedded import ConnectionInfo

REPLAYED = "x-trunkline-replayed"


@pytest.fixture(scope="module")
def provider() -> Iterator[PlainProvider]:
    with plain_provider() as running:
        yield running


@pytest.fixture(scope="module")
def plain(postgres: ConnectionInfo, migrated_template: str, provider: PlainProvider) -> Iterator[Stack]:
    """A stack whose every provider is the plain one."""
    with (
        temporary_home() as home,
        copied_database(postgres, migrated_template) as database,
        serving(database, provider.url, home) as running,
    ):
        yield running


def send(stack: Stack, key: str, path: str, once: str, **what: Any) -> httpx.Response:
    with stack.http(key) as http:
        return http.post(path, headers={"idempotency-key": once, **what.pop("headers", {})}, **what)


GEMINI = "/v1beta/models/gemini:generateContent"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "gpt", "input": "?"}),
        ("/v1/responses", {"model": "claude", "input": "?", "stream": True}),
        (GEMINI, {"contents": [{"role": "user", "parts": [{"text": "?"}]}]}),
        (
            "/v1beta/models/gpt:streamGenerateContent?alt=sse",
            {"contents": [{"role": "user", "parts": [{"text": "?"}]}]},
        ),
        ("/v1/embeddings", {"model": "gpt", "input": "?"}),
        ("/oai/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "?"}]}),
        ("/oai/v1/chat/completions", {"model": "m", "stream": True, "messages": [{"role": "user", "content": "?"}]}),
        ("/ant/v1/messages", {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}]}),
    ],
)
def test_every_route_answers_again(stack: Stack, path: str, body: dict[str, Any]) -> None:
    key, key_id = stack.inference_key()
    once, text = uuid4().hex, f"say {uuid4().hex}"
    what = _with(body, text)
    first = send(stack, key, path, once, json=what)
    again = send(stack, key, path, once, json=what)
    assert first.status_code == again.status_code == 200, first.text
    assert first.content == again.content
    assert first.headers["content-type"] == again.headers["content-type"]
    assert again.headers[REPLAYED] == first.headers["x-trunkline-call"] != again.headers["x-trunkline-call"]
    assert again.headers["x-trunkline-upstream"] == first.headers["x-trunkline-upstream"]
    assert sum(text in str(request["body"]) for request in stack.asked()) == 1
    other = send(stack, key, path, once, json=_with(body, f"say {uuid4().hex}"))
    assert other.status_code == 422, other.text
    assert eventually(lambda: stack.usage(key_id=key_id)["requests"] == 3)
    spent = stack.usage(key_id=key_id, source="replay")
    assert (spent["requests"], spent["cost_usd"], spent["input_tokens"]) == (1, 0, 0)


def _with(body: Any, text: str) -> Any:
    """The body with its question marks replaced."""
    if isinstance(body, dict):
        return {name: _with(value, text) for name, value in body.items()}
    if isinstance(body, list):
        return [_with(value, text) for value in body]
    return text if body == "?" else body


def test_a_key_is_of_one_model_also_where_the_url_names_it(stack: Stack) -> None:
    key, _ = stack.inference_key()
    once, body = uuid4().hex, {"contents": [{"role": "user", "parts": [{"text": "say a"}]}]}
    assert send(stack, key, GEMINI, once, json=body).status_code == 200
    assert send(stack, key, GEMINI.replace("gemini", "gpt"), once, json=body).status_code == 422


def test_another_keys_and_another_tenants_keys_are_their_own(stack: Stack) -> None:
    with stack.http() as http:
        stranger = str(ok(http.post("/v1/tenants", json={"name": f"kept-{uuid4().hex[:8]}"}))["key"])
    once, body = uuid4().hex, {"model": "gpt", "input": f"say {uuid4().hex}"}
    answers = [
        send(stack, key, path, once, json=body)
        for key in (stack.inference_key()[0], stack.inference_key()[0], stranger)
        for path in ("/v1/embeddings",)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert all(REPLAYED not in answer.headers for answer in answers)


def test_a_repeat_in_a_conversation_is_the_same_request_though_the_log_has_grown(stack: Stack) -> None:
    name = f"kept-{uuid4().hex[:8]}"
    with stack.http() as http:
        ok(http.post("/v1/agents", json={"name": name, "model": "claude"}))
    key, _ = stack.inference_key()
    with stack.http(key) as http:
        begun = http.post("/v1/responses", json={"model": f"agent/{name}", "input": "say one"})
    session = begun.headers["x-trunkline-session"]
    body = {"model": f"agent/{name}", "input": "say two", "conversation": session.replace("sesn_", "conv_")}
    once = uuid4().hex
    first = send(stack, key, "/v1/responses", once, json=body)
    again = send(stack, key, "/v1/responses", once, json=body)
    assert (first.status_code, again.status_code) == (200, 200), again.text
    assert first.content == again.content
    assert again.headers["x-trunkline-session"] == session
    assert sum(event.type == "user.message" for event in stack.events(session)) == 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "gpt", "prompt": "?"}),
        ("/v1/moderations", {"model": "gpt", "input": "?"}),
        ("/v1/images/generations", {"model": "gpt", "prompt": "?"}),
        ("/v1/audio/speech", {"model": "gpt", "input": "?", "voice": "alloy"}),
        ("/oai/v1/images/generations", {"model": "gpt", "prompt": "?"}),
    ],
)
def test_routes_that_are_no_chat(plain: Stack, provider: PlainProvider, path: str, body: dict[str, Any]) -> None:
    key, _ = plain.inference_key()
    once, text = uuid4().hex, uuid4().hex
    first = send(plain, key, path, once, json=_with(body, text))
    again = send(plain, key, path, once, json=_with(body, text))
    assert (first.status_code, again.status_code) == (200, 200), first.text
    assert first.content == again.content
    assert first.headers["content-type"] == again.headers["content-type"]
    assert path != "/v1/audio/speech" or again.content == SPEECH
    assert (REPLAYED in first.headers, REPLAYED in again.headers) == (False, True)
    assert provider.count(text) == 1


def test_an_answer_too_long_to_be_kept_is_not_bought_again(plain: Stack, provider: PlainProvider) -> None:
    key, _ = plain.inference_key()
    once, prompt = uuid4().hex, uuid4().hex
    body = {"model": "gpt", "prompt": prompt, "n": 4}
    first = send(plain, key, "/v1/images/generations", once, json=body)
    assert len(base64.b64decode(first.json()["data"][0]["b64_json"])) == 4_000_000
    again = send(plain, key, "/v1/images/generations", once, json=body)
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "idempotency_answer_not_kept"
    assert provider.count(prompt) == 1


def test_a_form_sent_again_has_another_boundary_and_is_the_same(plain: Stack, provider: PlainProvider) -> None:
    """Files of a provider's account, too: the answer with its status, 201."""
    text = uuid4().hex
    once = uuid4().hex
    first = send(plain, plain.key, "/oai/v1/files", once, files={"file": ("a.txt", text)}, data={"purpose": "batch"})
    again = send(plain, plain.key, "/oai/v1/files", once, files={"file": ("a.txt", text)}, data={"purpose": "batch"})
    assert (first.status_code, again.status_code) == (201, 201), again.text
    assert first.content == again.content
    assert REPLAYED in again.headers
    assert provider.count(text) == 1
    other = send(plain, plain.key, "/oai/v1/files", once, files={"file": ("a.txt", "other")}, data={"purpose": "batch"})
    assert other.status_code == 422
    # All callers share the account there: each has keys of its own.
    seen = next(asked for asked in provider.asked if text.encode() in asked.body)
    assert seen.headers["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert len(seen.headers["idempotency-key"]) == 64 != len(once)


def test_a_stream_without_an_end_in_sight_goes_through_and_says_that_it_is_not_kept(
    plain: Stack, provider: PlainProvider
) -> None:
    text = uuid4().hex

    def pieces() -> Iterator[bytes]:
        yield text.encode()

    headers = {"content-type": "application/octet-stream"}
    for _ in range(2):
        answer = send(plain, plain.key, "/oai/v1/files", text, content=pieces(), headers=headers)
        assert answer.status_code == 201
        assert answer.headers["x-trunkline-idempotency"] == "not-kept"
        assert REPLAYED not in answer.headers
    assert provider.count(text) == 2
