"""Agents with memory through the gateway: tools it carries out, copies it keeps, what a client sees of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

from support.memory import CUSTOMER, ok, write
from support.stack import Stack, eventually

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
OPENAI_TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
ANTHROPIC_TOOL: Any = {"name": "get_weather", "input_schema": WEATHER}
ON_EACH_PROVIDER = pytest.mark.parametrize("model", ["gpt", "claude"])
STREAMING_AND_NOT = pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
CLIENTS = pytest.mark.parametrize("client", ["openai", "anthropic"])


def says(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def make_agent(stack: Stack, model: str = "gpt", **memory: Any) -> str:
    """Make an agent that knows customers; return its name."""
    name = f"helper-{uuid4().hex[:8]}"
    given = {
        "name": name,
        "model": model,
        "system": "You help.",
        "memory": {"blocks": {"customer": CUSTOMER}, **memory},
    }
    with stack.http() as http:
        ok(http.post("/v1/agents", json=given))
    return name


def block(stack: Stack, agent: str, user: str) -> dict[str, Any]:
    with stack.http() as http:
        found: dict[str, Any] = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": user}))
    return found


def ask(
    stack: Stack,
    client: str,
    agent: str,
    user: str,
    messages: list[Any],
    *,
    streams: bool,
    key: str | None = None,
    **more: Any,
) -> tuple[Any, Mapping[str, str]]:
    """Ask an agent with an SDK; return its whole reply, in its own type, and the response's headers."""
    if client == "openai":
        chat = stack.openai(key).chat.completions
        given: Any = {"model": f"agent/{agent}", "messages": messages, "user": user, **more}
        if not streams:
            raw = chat.with_raw_response.create(**given)
            return raw.parse(), raw.headers
        with chat.stream(**given, stream_options={"include_usage": True}) as stream:
            return stream.get_final_completion(), stream._response.headers  # no public way to them
    given = {
        "model": f"agent/{agent}",
        "messages": messages,
        "max_tokens": 400,
        "metadata": {"user_id": user},
        **more,
    }
    if not streams:
        message = stack.anthropic(key).messages.with_raw_response.create(**given)
        return message.parse(), message.headers
    with stack.anthropic(key).messages.stream(**given) as opened:
        return opened.get_final_message(), opened.response.headers


def text_of(reply: Any) -> str:
    if hasattr(reply, "choices"):
        return reply.choices[0].message.content or ""
    return "".join(part.text for part in reply.content if part.type == "text")


def stop_of(reply: Any) -> str:
    return str(reply.choices[0].finish_reason if hasattr(reply, "choices") else reply.stop_reason)


def tokens_of(reply: Any) -> tuple[int, int]:
    if hasattr(reply, "choices"):
        return reply.usage.prompt_tokens, reply.usage.completion_tokens
    used = reply.usage
    return used.input_tokens + (used.cache_read_input_tokens or 0) + (
        used.cache_creation_input_tokens or 0
    ), used.output_tokens


@CLIENTS
@STREAMING_AND_NOT
@ON_EACH_PROVIDER
def test_memory_tools_are_carried_out_and_never_shown(stack: Stack, client: str, streams: bool, model: str) -> None:
    agent, key_and_id = make_agent(stack, model), stack.inference_key()
    reply, headers = ask(
        stack, client, agent, "cus_1", says("My name is Ada Lovelace."), streams=streams, key=key_and_id[0]
    )
    assert "Ada Lovelace" in text_of(reply)
    assert stop_of(reply) in {"stop", "end_turn"}
    assert "memory_update" not in reply.to_json()
    found = block(stack, agent, "cus_1")
    assert found["value"] == {"name": "Ada Lovelace"}
    assert found["version"] == 1

    # Two rounds went to the provider; the client is told what both took, and so are the books.
    rounds = [entry for entry in stack.asked() if "Ada Lovelace" in json.dumps(entry["body"])][-2:]
    sums = tuple(sum(entry["usage"][name] for entry in rounds) for name in ("input_tokens", "output_tokens"))
    assert tokens_of(reply) == sums
    counted = stack.usage(key_id=key_and_id[1])
    assert (counted["requests"], counted["input_tokens"], counted["output_tokens"]) == (1, *sums)

    events = stack.events(headers["x-trunkline-session"])
    kinds = [event.type for event in events]
    assert kinds == ["user.message", "agent.tool_use", "agent.tool_result", "agent.message", "session.status_idle"]
    assert events[1].name == "memory_update"
    assert events[2].tool_use_id == events[1].id
    with stack.http() as http:
        history = ok(http.get(f"/v1/agents/{agent}/memory/customer/history", params={"user_id": "cus_1"}))["data"]
    assert history[0]["event_id"] == events[1].id, "a version names the event it came from"
    assert history[0]["session_id"] == headers["x-trunkline-session"]

    # Another conversation, by the other client: the agent knows.
    other = "anthropic" if client == "openai" else "openai"
    again, later = ask(stack, other, agent, "cus_1", says("What is my name?"), streams=streams)
    assert "Ada Lovelace" in text_of(again)
    assert later["x-trunkline-session"] != headers["x-trunkline-session"]
    stranger, _ = ask(stack, other, agent, "cus_2", says("What is my name?"), streams=streams)
    assert "Ada" not in text_of(stranger)


@CLIENTS
@STREAMING_AND_NOT
@ON_EACH_PROVIDER
def test_the_clients_own_tool_passes_through(stack: Stack, client: str, streams: bool, model: str) -> None:
    agent = make_agent(stack, model)
    tool = OPENAI_TOOL if client == "openai" else ANTHROPIC_TOOL
    reply, headers = ask(
        stack, client, agent, "cus_1", says("the weather in Oslo please"), streams=streams, tools=[tool]
    )
    assert stop_of(reply) in {"tool_calls", "tool_use"}
    assert "get_weather" in reply.to_json()
    assert text_of(reply) == "Let me look."
    events = stack.events(headers["x-trunkline-session"])
    assert [event.type for event in events] == [
        "user.message",
        "agent.message",
        "agent.custom_tool_use",
        "session.status_idle",
    ]
    assert events[2].input == {"city": "Oslo"}
    assert events[3].stop_reason.type == "requires_action"
    assert events[3].stop_reason.event_ids == [events[2].id]


@CLIENTS
@STREAMING_AND_NOT
@ON_EACH_PROVIDER
def test_both_kinds_of_tools_in_one_reply(stack: Stack, client: str, streams: bool, model: str) -> None:
    agent = make_agent(stack, model)
    tool = OPENAI_TOOL if client == "openai" else ANTHROPIC_TOOL
    asked = says("I am Ada, what about Oslo")
    reply, headers = ask(stack, client, agent, "cus_1", asked, streams=streams, tools=[tool])
    assert block(stack, agent, "cus_1")["value"] == {"name": "Ada"}
    assert "memory_update" not in reply.to_json()
    assert stop_of(reply) in {"tool_calls", "tool_use"}
    if client == "openai":
        (call,) = reply.choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": "get_weather", "arguments": call.function.arguments},
            }
        ]
        echo: list[Any] = [
            {"role": "assistant", "content": text_of(reply), "tool_calls": calls},
            {"role": "tool", "tool_call_id": call.id, "content": "3 degrees"},
        ]
    else:
        text, use = reply.content
        assert (use.name, use.input) == ("get_weather", {"city": "Oslo"})
        content = [
            {"type": "text", "text": text.text},
            {"type": "tool_use", "id": use.id, "name": use.name, "input": use.input},
        ]
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "3 degrees"}
        echo = [{"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    final, after = ask(stack, client, agent, "cus_1", [*asked, *echo], streams=streams, tools=[tool])
    assert text_of(final) == "It says: 3 degrees"
    assert after["x-trunkline-session"] == headers["x-trunkline-session"]
    assert [event.type for event in stack.events(headers["x-trunkline-session"])] == [
        "user.message",
        "agent.tool_use",
        "agent.tool_result",
        "agent.message",
        "agent.custom_tool_use",
        "session.status_idle",
        "user.custom_tool_result",
        "agent.message",
        "session.status_idle",
    ]


@STREAMING_AND_NOT
def test_tool_input_nested_too_deeply_is_the_models_error(stack: Stack, streams: bool) -> None:
    agent = make_agent(stack)
    reply, _ = ask(stack, "openai", agent, "cus_1", says("remember something deep"), streams=streams)
    assert stop_of(reply) == "stop"
    assert "could not store" in text_of(reply)
    assert block(stack, agent, "cus_1")["value"] == {}
    assert stack.gateway.alive()


@STREAMING_AND_NOT
def test_a_model_that_calls_memory_for_ever_is_stopped(stack: Stack, streams: bool) -> None:
    agent = make_agent(stack)
    (key, key_id), user = stack.inference_key(), f"cus_{streams}"
    reply, headers = ask(stack, "openai", agent, user, says("go round and round"), streams=streams, key=key)
    assert stop_of(reply) == "stop"
    assert "memory_read" not in reply.to_json()
    kinds = [event.type for event in stack.events(headers["x-trunkline-session"])]
    assert kinds.count("agent.tool_use") == 8
    assert stack.usage(key_id=key_id)["requests"] == 1
    rounds = stack.rows("select rounds from trunkline.usage where key_id = %s", key_id.removeprefix("key_"))
    assert rounds == [{"rounds": 8}]


def test_who_the_user_is_in_each_way(stack: Stack) -> None:
    agent = make_agent(stack)
    client = stack.openai()
    client.chat.completions.create(model=f"agent/{agent}", messages=says("My name is Ada Lovelace."), user="cus_1")
    stack.anthropic().messages.create(
        model=f"agent/{agent}", max_tokens=99, messages=says("My name is Bob Ross."), metadata={"user_id": "cus_2"}
    )
    client.chat.completions.create(
        model=f"agent/{agent}", messages=says("My name is Eve Moneypenny."), extra_headers={"x-trunkline-user": "cus_3"}
    )
    assert [block(stack, agent, f"cus_{n}")["value"].get("name") for n in (1, 2, 3)] == [
        "Ada Lovelace",
        "Bob Ross",
        "Eve Moneypenny",
    ]
    # The header is set by those who run the application; what is in the body may be anybody's.
    client.chat.completions.create(
        model=f"agent/{agent}",
        messages=says("My name is Grace Hopper."),
        user="cus_1",
        extra_headers={"x-trunkline-user": "cus_4"},
    )
    assert block(stack, agent, "cus_1")["value"] == {"name": "Ada Lovelace"}
    assert block(stack, agent, "cus_4")["value"] == {"name": "Grace Hopper"}


def test_which_agent_it_is_in_each_way(stack: Stack) -> None:
    agent = make_agent(stack, model="claude")
    with stack.http() as http:
        agent_id = ok(http.get(f"/v1/agents/{agent}"))["id"]
    bound, _ = stack.inference_key(agent_id=agent)
    plain = stack.openai()

    def upstream(client: Any, model: str, **headers: str) -> str:
        raw = client.chat.completions.with_raw_response.create(model=model, messages=says("hi"), extra_headers=headers)
        assert raw.headers["x-trunkline-session"].startswith("sesn_")
        return str(raw.headers["x-trunkline-upstream"])

    assert upstream(plain, f"agent/{agent}") == "ant/claude-scripted"
    assert upstream(plain, f"agent/{agent_id}") == "ant/claude-scripted"
    # A model of its own choice, with the agent named beside it.
    assert upstream(plain, "gpt", **{"x-trunkline-agent": agent}) == "oai/gpt-scripted"
    assert upstream(plain, "gpt", **{"x-trunkline-agent": agent_id}) == "oai/gpt-scripted"
    assert upstream(stack.openai(bound), "gpt") == "oai/gpt-scripted"
    assert upstream(stack.openai(bound), f"agent/{agent}") == "ant/claude-scripted"
    system = [entry for entry in stack.asked() if entry["body"].get("messages")][-2]["body"]
    assert "You help." in json.dumps(system)


@pytest.mark.parametrize("refresh", [True, False])
def test_a_change_by_the_api_is_seen_in_the_next_call(stack: Stack, refresh: bool) -> None:
    agent = make_agent(stack, refresh_on_every_turn=refresh, recall=False, recall_tokens=0)
    state = "fresh" if refresh else "cached"

    def name_told() -> tuple[str, str]:
        reply, headers = ask(stack, "openai", agent, "cus_1", says("What is my name?"), streams=False)
        return text_of(reply), headers["x-trunkline-memory"]

    with stack.http() as http:
        for name in ("Ada", "Bob", "Eve"):
            ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": name}, user_id="cus_1"))
            assert name in name_told()[0]
            # Word of the write may come after the first call has read it, which is then read once more.
            assert eventually(lambda: name_told()[1] == state)
        # Its own write, through a tool, too.
        ask(stack, "anthropic", agent, "cus_1", says("My name is Grace Hopper."), streams=True)
        assert "Grace Hopper" in name_told()[0]


def test_an_agent_without_memory_says_none(stack: Stack) -> None:
    with stack.http() as http:
        ok(http.post("/v1/agents", json={"name": "forgetful", "model": "gpt", "memory": None}))
    raw = stack.openai().chat.completions.with_raw_response.create(model="agent/forgetful", messages=says("hi"))
    assert raw.headers["x-trunkline-memory"] == "none"


def test_past_turns_are_recalled_in_another_session(stack: Stack) -> None:
    agent = make_agent(stack)
    ask(stack, "openai", agent, "cus_1", says("The Zanzibar shipment arrived with a broken lid."), streams=False)
    ask(stack, "openai", agent, "cus_1", says("Was anything wrong with the Zanzibar shipment?"), streams=True)
    newest = stack.asked()[-1]["body"]["messages"][-1]["content"]
    assert newest.startswith("<trunkline-recall>\n")
    assert "broken lid" in newest
    ask(stack, "openai", agent, "cus_2", says("Was anything wrong with the Zanzibar shipment?"), streams=False)
    assert "broken lid" not in json.dumps(stack.asked()[-1]["body"])


def test_a_new_version_of_the_agent_is_used_at_once(stack: Stack) -> None:
    agent = make_agent(stack)
    with stack.http() as http:
        agent_id = ok(http.get(f"/v1/agents/{agent}"))["id"]
        ask(stack, "openai", agent, "cus_1", says("hi"), streams=False)
        stack.anthropic().beta.agents.update(agent_id, system="You help in rhymes.")

    def told() -> bool:
        ask(stack, "openai", agent, "cus_1", says("hi"), streams=False)
        return "in rhymes" in json.dumps(stack.asked()[-1]["body"])

    assert eventually(told)
