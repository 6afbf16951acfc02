"""The next prompt of a session: what is shown is what the provider is then sent, and nothing comes of showing it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from integration.test_runtime import CUSTOMER, WEATHER, Stack, answers, kinds, said, stack_on
from support import control_plane, model_server, processes
from support.plain_provider import plain_provider
from support.postgres import DatabaseUrls
from trunkline.client import Trunkline
from trunkline.store.leases import wake

SCRIPT = """
rules:
  - when: {last_role: tool}
    reply: "It is {{tool_result}}."
  - when: {user: "weather"}
    tool_calls: [{name: weather, arguments: {city: Oslo}}]
"""
BUILTIN = ("bash", "read", "write", "edit", "glob", "grep")
MEMORY = {"blocks": {"customer": CUSTOMER}, "context": {"budget_tokens": 200, "keep_turns": 1}}


@pytest.fixture
def stack(database: DatabaseUrls, model_server: str, tmp_path: Path) -> Iterator[Stack]:
    with stack_on(database, model_server, tmp_path) as running:
        yield running


def ask(stack: Stack, session: str, key: str | None = None) -> httpx.Response:
    url = f"{stack.gateway_url}/v1/sessions/{session}/context"
    return httpx.get(url, headers={"x-api-key": key or stack.control.key}, timeout=20)


def shown(stack: Stack, session: str) -> dict[str, Any]:
    answer = ask(stack, session)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def set_name(stack: Stack, session: str, name: str) -> None:
    agent = stack.sdk.beta.sessions.retrieve(session).agent.id
    operations = [{"op": "set", "block": "customer", "field": "name", "value": name}]
    with stack.control.http() as http:
        answer = http.post(f"/v1/agents/{agent}/memory", json={"user_id": "ada", "operations": operations})
    assert answer.status_code == 200, answer.text


def contents(stack: Stack) -> dict[str, int]:
    tables = stack.query(
        "select relname from pg_class where relnamespace = 'trunkline'::regnamespace and relkind in ('r', 'p')"
    )
    return {name: stack.query(f'select count(*) from trunkline."{name}"')[0][0] for (name,) in sorted(tables)}


class Model:
    """A scripted model server, and what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url

    def bodies(self) -> list[Any]:
        return [request["body"] for request in httpx.get(f"{self.url}/_requests").json()]

    def asked_next(self, stack: Stack, session: str, *, idle: int) -> tuple[dict[str, Any], Any]:
        """What is shown now, and what the model is then asked first, when a worker comes."""
        before, there = contents(stack), len(self.bodies())
        prompt = shown(stack, session)
        assert (contents(stack), len(self.bodies())) == (before, there), "nothing came of it"
        assert prompt["asks_model"]
        with stack.worker():
            stack.until_idle(session, times=idle)
        return prompt, self.bodies()[there]


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    script = tmp_path / "script.yaml"
    script.write_text(SCRIPT)
    with model_server.started("--script", str(script)) as server:
        yield Model(server.url)


def same(shown: Any, asked: Any) -> None:
    assert json.dumps(shown) == json.dumps(asked), "to the order of its members"


def test_what_is_shown_is_what_the_model_is_asked(database: DatabaseUrls, model: Model, tmp_path: Path) -> None:
    with stack_on(database, model.url, tmp_path) as stack:
        session = stack.session(extra_body={"memory": MEMORY})
        empty = shown(stack, session)
        assert not empty["asks_model"]
        assert empty["request"]["messages"] == []
        set_name(stack, session, "Ada")
        stack.send(session, said("Hello."))
        prompt, asked = model.asked_next(stack, session, idle=1)
        same(prompt["request"], asked)
        assert prompt["upstream"] == {"provider": "fake", "model": "any", "wire": "anthropic_messages", "dropped": []}
        assert "Ada" in prompt["memory"]["blocks"]
        assert prompt["memory"]["updates"] == []
        assert prompt["compaction"] is None

        set_name(stack, session, "Ada Lovelace")
        stack.send(session, said("My parcel is blue. " + "filler " * 80))
        prompt, asked = model.asked_next(stack, session, idle=2)
        same(prompt["request"], asked)
        assert "Ada Lovelace" in prompt["memory"]["updates"][0]

        # With this prompt turns leave: the log says so, and recall finds them, once the turn has begun.
        stack.send(session, said("And heavy. " + "filler " * 80))
        prompt, asked = model.asked_next(stack, session, idle=3)
        assert prompt["compaction"]["is_due"]
        newest, newest_asked = prompt["request"]["messages"].pop(), asked["messages"].pop()
        same(prompt["request"], asked)
        assert newest["content"][-1] == newest_asked["content"][-1]

        stack.send(session, said("Which parcel is it?"))
        prompt, asked = model.asked_next(stack, session, idle=4)
        same(prompt["request"], asked)
        numbers = [event.seq for event in stack.events(session) if event.type == "user.message"]
        assert prompt["compaction"] == {"kept_from_seq": numbers[-2], "is_due": False, "summary": None}
        assert "blue" in prompt["memory"]["recall"]
        assert prompt["memory"]["recalled_by"] == "lexical"


def test_results_of_tools_are_shown_as_the_model_is_then_given_them(
    database: DatabaseUrls, model: Model, tmp_path: Path
) -> None:
    weather: Any = WEATHER
    with stack_on(database, model.url, tmp_path) as stack:
        toolset: Any = {"type": "agent_toolset_20260401"}
        session = stack.session(tools=(weather, toolset), extra_body={"memory": MEMORY})
        stack.send(session, said("How is the weather?"))
        with stack.worker():
            events = stack.until_idle(session)
        [use] = [event for event in events if event.type == "agent.custom_tool_use"]
        assert not shown(stack, session)["asks_model"]
        content = [{"type": "text", "text": "rain"}]
        stack.send(session, {"type": "user.custom_tool_result", "custom_tool_use_id": use.id, "content": content})
        prompt, asked = model.asked_next(stack, session, idle=2)
        assert prompt["tools_of_worker"] == [{"type": "agent_toolset_20260401"}]
        offered = [tool["name"] for tool in asked["tools"]]
        assert {"weather", "bash", "memory_search"} <= set(offered)
        asked["tools"] = [tool for tool in asked["tools"] if tool["name"] not in BUILTIN]
        same(prompt["request"], asked)
        assert answers(stack.events(session))[-1] == "It is rain."
        idle = Trunkline(base_url=stack.gateway_url, api_key=stack.control.key).sessions.context(session)
        assert not idle.asks_model
        assert idle.request["messages"][-1]["role"] == "assistant"
        assert idle.memory is not None
        assert idle.memory["recall"] is None


def test_every_byte_is_shown_as_another_wire_has_it(database: DatabaseUrls, tmp_path: Path) -> None:
    with (
        plain_provider() as provider,
        control_plane.running(database, wake=wake) as control,
        processes.gateway(database, control.base_url, provider.url, tmp_path, wire="openai_chat") as gateway_url,
    ):
        stack = Stack(control, database, gateway_url, tmp_path)
        for memory in ({"blocks": {"customer": CUSTOMER}}, None):
            session = stack.session(system='Be brief. Ünïcode "quoted".', extra_body={"memory": memory})
            stack.send(session, said("Grüße\n\\n \u2028 <b>"))
            answer, asked = ask(stack, session), len(provider.asked)
            with stack.worker():
                stack.until_idle(session)
            body = provider.asked[asked].body.decode()
            assert f'"request":{body},' in answer.text
            assert answer.json()["upstream"]["wire"] == "openai_chat"
            assert ("trunkline-memory" in body) == (memory is not None)


def test_prompts_are_shown_to_those_who_may_read_all_that_is_in_them(stack: Stack) -> None:
    session = stack.session(extra_body={"memory": {"blocks": {"customer": CUSTOMER}}})
    stack.send(session, said("Hello"))
    agent = stack.sdk.beta.sessions.retrieve(session).agent.id
    control = stack.control
    refused = {
        "memory": control.new_key(scopes=["manage"]),
        "manage": control.new_key(scopes=["memory", "inference"]),
        "stores": control.new_key(scopes=["manage", "memory"], stores=[{"scope": "user", "access": "read_only"}]),
    }
    for why, key in refused.items():
        answer = ask(stack, session, key)
        assert answer.status_code == 403, (why, answer.text)
        assert why in answer.json()["error"]["message"]
    other = stack.sdk.beta.agents.create(name="other", model="test").id
    scopes = ["manage", "memory"]
    for key in (
        control.another_tenant(),
        control.new_key(scopes=scopes, agent_id=other),
        control.new_key(scopes=scopes, user_id="grace"),
    ):
        assert ask(stack, session, key).status_code == 404
    for bound in ({"agent_id": agent}, {"user_id": "ada"}, {}):
        assert ask(stack, session, control.new_key(scopes=scopes, **bound)).status_code == 200
    assert ask(stack, session, "sk-tl-nobody").status_code == 401
    with control.http() as http:
        draft = http.get(f"/v1/sessions/{session}/context").json()
    assert draft["memory"] is None
    assert draft["request"]["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    assert kinds(stack.events(session)) == ["user.message", "session.status_running"]
