"""`Idempotency-Key`: a call sent again is answered again, and carried out once."""

from __future__ import annotations

import signal
import threading
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.stack import Stack, eventually, wait_ready

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt", "messages": [{"role": "user", "content": text}], **more}


def send(stack: Stack, key: str, once: str, what: dict[str, Any], path: str = CHAT) -> httpx.Response:
    with stack.http(key) as http:
        return http.post(path, json=what, headers={"idempotency-key": once})


def asked(stack: Stack, text: str) -> int:
    """How often the model was asked this."""
    return sum(text in str(request["body"]) for request in stack.asked())


def recorded(stack: Stack, key_id: str) -> list[dict[str, Any]]:
    return stack.rows(
        "select source, status, output_tokens, cost_usd from trunkline.usage where key_id = %s order by created_at",
        key_id.removeprefix("key_"),
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_sent_again_is_answered_again_and_carried_out_once(stack: Stack, stream: bool) -> None:
    key, key_id = stack.inference_key()
    once, text = uuid4().hex, f"say {uuid4().hex}"
    first = send(stack, key, once, body(text, stream=stream))
    again = send(stack, key, once, body(text, stream=stream))
    assert first.status_code == again.status_code == 200
    assert first.content == again.content
    assert stream or text.removeprefix("say ") in first.text
    assert not stream or first.text.endswith("data: [DONE]\n\n")
    assert first.headers["content-type"] == again.headers["content-type"]
    assert (
        again.headers["x-trunkline-replayed"] == first.headers["x-trunkline-call"] != again.headers["x-trunkline-call"]
    )
    assert "x-trunkline-replayed" not in first.headers
    assert asked(stack, text) == 1
    assert eventually(lambda: len(recorded(stack, key_id)) == 2)
    one, two = recorded(stack, key_id)
    assert (one["source"], two["source"]) == ("provider", "replay")
    assert one["output_tokens"] > 0
    assert (two["output_tokens"], two["cost_usd"]) == (0, 0)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_key_that_came_with_another_request_is_refused(stack: Stack, path: str) -> None:
    key, _ = stack.inference_key()
    once = uuid4().hex
    model = "gpt" if path == CHAT else "claude"
    assert send(stack, key, once, body("say a", max_tokens=50, model=model), path).status_code == 200
    refused = send(stack, key, once, body("say b", max_tokens=50, model=model), path)
    assert refused.status_code == 422
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert "another request" in refused.json()["error"]["message"]
    # Another API key's keys are its own.
    other, _ = stack.inference_key()
    assert send(stack, other, once, body("say b", max_tokens=50, model=model), path).status_code == 200


def test_a_repeat_while_the_first_is_under_way_is_told_to_come_back(stack: Stack) -> None:
    key, _ = stack.inference_key()
    once = uuid4().hex
    what = body("take your time", stream=True, user=uuid4().hex)
    begun = threading.Event()
    answers: list[str] = []

    def first() -> None:
        with stack.http(key) as http, http.stream("POST", CHAT, json=what, headers={"idempotency-key": once}) as answer:
            begun.set()
            answers.append(answer.read().decode())

    with_it = threading.Thread(target=first)
    with_it.start()
    assert begun.wait(20)
    waiting = send(stack, key, once, what)
    with_it.join()
    assert waiting.status_code == 409
    assert waiting.headers["retry-after"] == "1"
    assert waiting.json()["error"]["code"] == "idempotency_key_in_use"
    assert send(stack, key, once, what).text == answers[0]


def test_what_failed_may_be_sent_again(stack: Stack) -> None:
    key, key_id = stack.inference_key()
    once = uuid4().hex
    what = body("say hello", model=f"oai/{uuid4().hex}+error-503x3")
    assert send(stack, key, once, what).status_code == 503
    assert eventually(lambda: send(stack, key, once, what).status_code == 200)
    assert "x-trunkline-replayed" in send(stack, key, once, what).headers
    assert eventually(lambda: {row["source"] for row in recorded(stack, key_id)} == {"provider", "replay"})


def test_keys_that_are_none_are_refused(stack: Stack) -> None:
    key, _ = stack.inference_key()
    refused = send(stack, key, "k" * 256, body("say a"))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "idempotency-key"


def test_a_killed_gateway_frees_what_it_had_not_answered_and_keeps_what_it_had(stack: Stack) -> None:
    key, _ = stack.inference_key()
    answered, cut = uuid4().hex, uuid4().hex
    text = f"say {uuid4().hex}"
    slow = body("take your time", stream=True, user=uuid4().hex)
    with stack.http(key) as http, http.stream("POST", CHAT, json=slow, headers={"idempotency-key": cut}) as answer:
        next(answer.iter_lines())
        first = send(stack, key, answered, body(text))
        stack.gateway.send(signal.SIGKILL)
        stack.gateway.wait()
    stack.gateway.start()
    wait_ready(stack.base_url)
    assert eventually(lambda: send(stack, key, answered, body(text)).content == first.content)
    assert asked(stack, text) == 1
    assert eventually(lambda: send(stack, key, cut, slow).status_code == 200)
    again = send(stack, key, cut, slow)
    assert again.text.endswith("data: [DONE]\n\n")
    assert "x-trunkline-replayed" in again.headers
