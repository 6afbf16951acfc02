"""A tenant never reaches another's agents, sessions or memory, by whichever of the gateway's routes and headers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import anthropic
import httpx
import openai
import pytest

from support.memory import CUSTOMER, ok
from support.stack import Stack


@dataclass(frozen=True)
class Ours:
    """What the first tenant has, and the key of another."""

    agent: str
    agent_id: str
    session: str
    messages: list[Any]
    their_key: str


@pytest.fixture(scope="module")
def ours(stack: Stack) -> Iterator[Ours]:
    name = f"secret-{uuid4().hex[:8]}"
    with stack.http() as http:
        agent = {"name": name, "model": "gpt", "memory": {"blocks": {"customer": CUSTOMER}}}
        agent_id = ok(http.post("/v1/agents", json=agent))["id"]
    messages: list[Any] = [{"role": "user", "content": "My name is Ada Lovelace."}]
    raw = stack.openai().chat.completions.with_raw_response.create(
        model=f"agent/{name}", messages=messages, user="cus_1"
    )
    messages.append({"role": "assistant", "content": raw.parse().choices[0].message.content})
    session = raw.headers["x-trunkline-session"]
    yield Ours(name, agent_id, session, messages, stack.another_tenant(f"other-{uuid4().hex[:8]}"))
    # Whatever was tried: our log and our memory are what they were.
    texts = [event.content[0].text for event in stack.events(session) if event.type == "user.message"]
    assert texts == ["My name is Ada Lovelace."]
    with stack.http() as http:
        block = ok(http.get(f"/v1/agents/{name}/memory/customer", params={"user_id": "cus_1"}))
    assert (block["value"], block["version"]) == ({"name": "Ada Lovelace"}, 1)


def test_their_key_does_not_reach_our_agent_by_any_name(stack: Stack, ours: Ours) -> None:
    tries: list[tuple[str, dict[str, str]]] = [
        (f"agent/{ours.agent}", {}),
        (f"agent/{ours.agent_id}", {}),
        ("gpt", {"x-trunkline-agent": ours.agent}),
        ("gpt", {"x-trunkline-agent": ours.agent_id}),
    ]
    for model, headers in tries:
        for streams in (False, True):
            with pytest.raises(openai.NotFoundError, match="There is no agent"):
                stack.openai(ours.their_key).chat.completions.create(
                    model=model,
                    messages=ours.messages[:1],
                    user="cus_1",
                    stream=streams,
                    extra_headers=headers,
                )
            with pytest.raises(anthropic.NotFoundError, match="There is no agent"):
                stack.anthropic(ours.their_key).messages.create(
                    model=model,
                    max_tokens=9,
                    messages=ours.messages[:1],
                    metadata={"user_id": "cus_1"},
                    stream=streams,
                    extra_headers=headers,
                )


def test_our_agents_are_not_among_their_models(stack: Stack, ours: Ours) -> None:
    names = [model.id for model in stack.openai(ours.their_key).models.list()]
    assert "gpt" in names
    assert not [name for name in names if name.startswith("agent/")]
    for name in (ours.agent, ours.agent_id):
        with pytest.raises(openai.NotFoundError):
            stack.openai(ours.their_key).models.retrieve(f"agent/{name}")
        with pytest.raises(anthropic.NotFoundError):
            stack.anthropic(ours.their_key).models.retrieve(f"agent/{name}")


def test_the_same_names_are_other_things_in_another_tenant(stack: Stack, ours: Ours) -> None:
    """An agent, a user and a session of the same names, and the same words: nothing of ours is in it."""
    third_key = stack.another_tenant(f"third-{uuid4().hex[:8]}")
    with stack.http(third_key) as http:
        agent = {"name": ours.agent, "model": "gpt", "memory": {"blocks": {"customer": CUSTOMER}}}
        ok(http.post("/v1/agents", json=agent))
    client = stack.openai(third_key)

    def ask(messages: list[Any], **headers: str) -> tuple[str, dict[str, Any]]:
        raw = client.chat.completions.with_raw_response.create(
            model=f"agent/{ours.agent}", messages=messages, user="cus_1", extra_headers=headers
        )
        return raw.headers["x-trunkline-session"], stack.asked()[-1]["body"]

    question = {"role": "user", "content": "What is my name? My name is Lovelace?"}
    named = {"x-trunkline-session": ours.session}
    for headers in ({}, named):
        _, sent = ask([question], **headers)
        assert "Lovelace?" in str(sent)
        assert "Ada" not in str(sent), "memory or a recalled turn of another tenant"
    # The very words of our conversation do not lead to its session.
    session, sent = ask([*ours.messages, question])
    assert session != ours.session
    assert "Ada" not in str(sent["messages"][0])
    ask([*ours.messages, question], **named)
    with stack.http(third_key) as http:
        block = ok(http.get(f"/v1/agents/{ours.agent}/memory/customer", params={"user_id": "cus_1"}))
    assert block["value"].get("name") != "Ada Lovelace"


def test_a_session_of_another_tenant_is_an_id_that_was_never_begun(stack: Stack, ours: Ours) -> None:
    before = [event.id for event in stack.events(ours.session)]
    third_key = stack.another_tenant(f"third-{uuid4().hex[:8]}")
    with stack.http(third_key) as http:
        ok(http.post("/v1/agents", json={"name": "a", "model": "gpt", "memory": {"recall": False}}))
    told = []
    for session in (ours.session, f"sesn_{uuid4().hex}"):
        with stack.http(third_key) as http:
            assert http.get(f"/v1/sessions/{session}").status_code == 404
            for text in ("say one", "say two"):
                # The second time it is their own.
                body = {"model": "agent/a", "messages": [{"role": "user", "content": text}]}
                answer = http.post("/v1/chat/completions", json=body, headers={"x-trunkline-session": session})
                assert answer.status_code == 200, answer.text
                assert answer.headers["x-trunkline-session"].startswith("sesn_")
                told.append((answer.json()["choices"][0]["message"]["content"], sorted(answer.headers.keys())))
            assert ok(http.get(f"/v1/sessions/{session}"))["id"] == session
    assert told[:2] == told[2:], "the two can be told apart"
    assert [event.id for event in stack.events(ours.session)] == before


def test_a_session_of_another_user_or_agent_is_not_found(stack: Stack, ours: Ours) -> None:
    other = f"other-{uuid4().hex[:8]}"
    with stack.http() as http:
        ok(http.post("/v1/agents", json={"name": other, "model": "gpt", "memory": {"blocks": {}}}))
    tries: list[tuple[str, str | None]] = [(ours.agent, "cus_2"), (ours.agent, None), (other, "cus_1")]
    for agent, user in tries:
        for messages in (ours.messages[:1], [*ours.messages, {"role": "user", "content": "more"}]):
            with pytest.raises(openai.NotFoundError, match="no such session") as refused:
                stack.openai().chat.completions.create(
                    model=f"agent/{agent}",
                    messages=messages,
                    user=user or openai.omit,
                    extra_headers={"x-trunkline-session": ours.session},
                )
            assert refused.value.param == "x-trunkline-session"


def test_relayed_paths_know_the_callers_tenant(stack: Stack, ours: Ours) -> None:
    tool = {
        "name": "memory_read",
        "input": {},
        "user_id": "cus_1",
        "session_id": ours.session,
        "event_id": "sevt_" + 32 * "1",
    }
    with stack.http(ours.their_key) as http:
        answers = {
            "agent": http.get(f"/v1/agents/{ours.agent_id}"),
            "session": http.get(f"/v1/sessions/{ours.session}"),
            "events": http.get(f"/v1/sessions/{ours.session}/events"),
            "stream": http.get(f"/v1/sessions/{ours.session}/events/stream"),
            "memory": http.get(f"/v1/agents/{ours.agent_id}/memory/customer", params={"user_id": "cus_1"}),
            "tools": http.post(f"/v1/agents/{ours.agent_id}/memory_tools", json=tool),
            "usage": http.get("/v1/usage", params={"session_id": ours.session}),
        }
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(answers, 404)
    assert not [name for name, answer in answers.items() if "Ada" in answer.text]
    anonymous = httpx.get(f"{stack.base_url}/v1/sessions/{ours.session}", timeout=20)
    assert anonymous.status_code == 401


def test_usage_is_counted_for_the_caller_alone(stack: Stack, ours: Ours) -> None:
    theirs, mine = stack.usage(ours.their_key)["requests"], stack.usage()["requests"]
    stack.openai(ours.their_key).chat.completions.create(model="gpt", messages=[{"role": "user", "content": "hi"}])
    assert (stack.usage(ours.their_key)["requests"], stack.usage()["requests"]) == (theirs + 1, mine)
