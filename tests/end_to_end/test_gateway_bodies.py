"""Bodies of calls: stored where it is asked for, without secrets, and read by their tenant alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.postgres import copied_database, temporary_home
from support.stack import PROVIDER_KEY, Stack, eventually, serving
from trunkline.store.embedded import ConnectionInfo

CHAT = "/v1/chat/completions"
EMBED = "/v1/embeddings"
RECORD = """\
record:
  bodies: {bodies}
  max_bytes: 2000
  keep_days: 7
  redact: ['\\b\\d{{4}}-\\d{{4}}\\b']
"""


def running(bodies: str, postgres: ConnectionInfo, migrated_template: str, scripted_model: str) -> Iterator[Stack]:
    with (
        temporary_home() as home,
        copied_database(postgres, migrated_template) as database,
        serving(database, scripted_model, home, more=RECORD.format(bodies=bodies)) as stack,
    ):
        yield stack


@pytest.fixture(scope="module")
def everything(postgres: ConnectionInfo, migrated_template: str, scripted_model: str) -> Iterator[Stack]:
    """A stack that stores all bodies."""
    yield from running("all", postgres, migrated_template, scripted_model)


@pytest.fixture(scope="module")
def errors(postgres: ConnectionInfo, migrated_template: str, scripted_model: str) -> Iterator[Stack]:
    """A stack that stores the bodies of calls that failed."""
    yield from running("errors", postgres, migrated_template, scripted_model)


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt", "messages": [{"role": "user", "content": text}], **more}


def send(stack: Stack, body: Any, path: str = CHAT, key: str | None = None, **headers: str) -> httpx.Response:
    with stack.http(key) as http:
        return http.post(path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def stored(stack: Stack, call: httpx.Response, key: str | None = None) -> httpx.Response:
    """What is told of a call's bodies; the gateway flushes its spool before it asks the control plane."""
    with stack.http(key) as http:
        return http.get(f"/v1/usage/{call.headers['x-trunkline-call']}/body")


def test_request_and_response_are_stored_and_told(everything: Stack) -> None:
    key, key_id = everything.inference_key()
    text = f"say {uuid4().hex}"
    call = send(everything, said(text), key=key)
    found = stored(everything, call).json()
    assert found["call_id"] == call.headers["x-trunkline-call"]
    assert found["key_id"] == key_id
    assert text in found["request"]["text"]
    assert found["response"]["text"] == call.text
    assert (found["response"]["bytes"], found["response"]["truncated"]) == (len(call.content), False)
    assert found["redacted_at"] is None
    days = everything.rows("select expires_at - created_at = interval '7 days' as seven from trunkline.call_bodies")
    assert {row["seven"] for row in days} == {True}


@pytest.mark.parametrize("path", [CHAT, "/oai/v1/chat/completions"])
def test_of_a_stream_it_is_what_it_came_to(everything: Stack, path: str) -> None:
    text = uuid4().hex
    call = send(everything, said(f"say {text} and 1234-5678", stream=True), path)
    assert "1234-5678" not in call.text, "it came in one piece"
    found = stored(everything, call).json()
    assert found["response"]["text"] == f'{{"text":"{text} and [redacted]","tool_calls":[]}}'


def test_other_routes_are_stored_too(everything: Stack) -> None:
    for path, body in [
        ("/v1/embeddings", {"model": "gpt", "input": "a red elephant", "dimensions": 2}),
        ("/v1/responses", {"model": "claude", "input": "say a red elephant"}),
        (
            "/v1beta/models/gemini:generateContent",
            {"contents": [{"role": "user", "parts": [{"text": "say a red elephant"}]}]},
        ),
    ]:
        call = send(everything, body, path)
        found = stored(everything, call).json()
        assert "a red elephant" in found["request"]["text"]
        assert found["response"]["text"] == call.text
    private = send(everything, {"model": "claude", "input": "say this", "store": False}, "/v1/responses")
    assert stored(everything, private).status_code == 404


def test_secrets_are_never_stored(everything: Stack) -> None:
    key, _ = everything.inference_key()
    text = f"say {key} {PROVIDER_KEY} 1234-5678 hello"
    call = send(everything, said(text), key=key)
    found = stored(everything, call)
    for body in (found.json()["request"]["text"], found.json()["response"]["text"]):
        assert "[redacted] [redacted] [redacted] hello" in body
    rows = everything.rows("select request::text || response::text as body from trunkline.call_bodies")
    assert not any(secret in row["body"] for row in rows for secret in (key, PROVIDER_KEY, "1234-5678", "sk-tl-"))


def test_what_is_long_is_cut_and_marked(everything: Stack) -> None:
    call = send(everything, said("say " + "é" * 3000))
    found = stored(everything, call).json()
    assert found["request"]["truncated"] is True
    assert found["request"]["bytes"] > 6000
    assert 1990 <= len(found["request"]["text"].encode()) <= 2000


def test_they_can_be_redacted_and_deleted(everything: Stack) -> None:
    call = send(everything, said("say goodbye"))
    path = f"/v1/usage/{call.headers['x-trunkline-call']}/body"
    with everything.http() as http:
        redacted = http.post(f"{path}/redact")
        assert redacted.status_code == 200
        assert (redacted.json()["request"], redacted.json()["response"]) == (None, None)
        assert redacted.json()["redacted_by"].startswith("key_")
        assert http.post(f"{path}/redact").json()["redacted_at"] == redacted.json()["redacted_at"]
        assert http.get(path).json() == redacted.json()
        assert http.delete(path).status_code == 204
        assert [http.get(path).status_code, http.delete(path).status_code] == [404, 404]
        assert http.get("/v1/usage/call_nonsense/body").status_code == 404


def test_another_tenant_and_another_agents_key_see_nothing(everything: Stack) -> None:
    with everything.http() as http:
        stranger = http.post("/v1/tenants", json={"name": f"bodies-{uuid4().hex[:8]}"}).json()["key"]
        http.post("/v1/agents", json={"name": "a-stranger"})
        bound = http.post("/v1/keys", json={"name": "b", "scopes": ["manage"], "agent_id": "a-stranger"}).json()["key"]
    call = send(everything, said("say nothing to strangers"))
    path = f"/v1/usage/{call.headers['x-trunkline-call']}/body"
    for key in (stranger, bound):
        with everything.http(key) as http:
            answers = [http.get(path), http.post(f"{path}/redact"), http.delete(path)]
        assert [answer.status_code for answer in answers] == [404, 404, 404]
    inference, _ = everything.inference_key()
    assert stored(everything, call, inference).status_code == 403
    assert "say nothing" in stored(everything, call).json()["request"]["text"]


def test_a_client_may_keep_its_call_out(everything: Stack) -> None:
    assert stored(everything, send(everything, said("say x"), x_trunkline_store="false")).status_code == 404
    assert stored(everything, send(everything, said("say x"), x_trunkline_store="true")).status_code == 200
    refused = send(everything, said("say x"), x_trunkline_store="perhaps")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "x-trunkline-store")


def test_where_only_errors_are_stored_the_rest_is_not(errors: Stack) -> None:
    assert stored(errors, send(errors, said("say x"), x_trunkline_store="true")).status_code == 404
    wrong = send(errors, {"model": "gpt", "messages": [], "user": "u-1"})
    assert wrong.status_code == 400
    found = stored(errors, wrong).json()
    assert found["response"]["text"] == wrong.text
    assert "u-1" in found["request"]["text"]
    passed = send(errors, {"model": "m", "messages": []}, "/oai/v1/chat/completions")
    assert stored(errors, passed).json()["response"]["text"] == passed.text
    once = uuid4().hex
    send(errors, said("say a"), Idempotency_Key=once)
    ours = send(errors, said("say b"), Idempotency_Key=once)
    assert (ours.status_code, stored(errors, ours).json()["response"]["text"]) == (422, ours.text)


def test_a_key_may_have_its_calls_stored_or_never(everything: Stack, errors: Stack) -> None:
    never, _ = everything.inference_key(store_bodies=False)
    for headers in ({}, {"x_trunkline_store": "true"}):
        assert stored(everything, send(everything, said("say x"), key=never, **headers)).status_code == 404
    assert stored(everything, send(everything, {"model": "gpt", "input": "x"}, EMBED, never)).status_code == 404
    always, key_id = errors.inference_key(store_bodies=True)
    call = send(errors, said("say 1234-5678 hello"), key=always)
    assert "[redacted] hello" in stored(errors, call).json()["response"]["text"]
    declined = send(errors, said("say x"), key=always, x_trunkline_store="false")
    assert stored(errors, declined).status_code == 404
    with errors.http() as http:
        assert http.post(f"/v1/keys/{key_id}", json={"store_bodies": None}).json()["store_bodies"] is None
    assert eventually(lambda: stored(errors, send(errors, said("say x"), key=always)).status_code == 404)


def test_without_the_setting_nothing_is(stack: Stack) -> None:
    key, _ = stack.inference_key(store_bodies=True)
    call = send(stack, said("say x"), key=key, x_trunkline_store="true")
    assert call.status_code == 200
    assert stored(stack, call).status_code == 404


def test_they_are_forgotten_when_their_time_is_over(everything: Stack) -> None:
    call = send(everything, said("say old things"))
    other = send(everything, said("say new things"))
    assert stored(everything, call).status_code == stored(everything, other).status_code == 200
    move = "update trunkline.call_bodies set expires_at = now() - interval '1 s' where call_id = %s returning 1"
    everything.rows(move, call.headers["x-trunkline-call"].removeprefix("call_"))
    assert eventually(lambda: stored(everything, call).status_code == 404)
    everything.rows("select trunkline.forget_bodies()")
    left = {row["call_id"].hex for row in everything.rows("select call_id from trunkline.call_bodies")}
    assert call.headers["x-trunkline-call"].removeprefix("call_") not in left
    assert other.headers["x-trunkline-call"].removeprefix("call_") in left
