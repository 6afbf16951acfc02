"""Anthropic's memory tool, declared by the unmodified SDK and carried out by the gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import anthropic
import pytest

from support.memory import CUSTOMER, ok
from support.stack import Part, Stack, wait_ready

TOOL: Any = {"type": "memory_20250818", "name": "memory"}
WEATHER: Any = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
HEAD = "Here're the files and directories up to 2 levels deep in /memories, excluding hidden items and node_modules:\n"
STREAMING_AND_NOT = pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
ON_EACH_PROVIDER = pytest.mark.parametrize("model", ["claude", "gpt", "gemini", "bedrock"])


def make_agent(stack: Stack, model: str = "claude", key: str | None = None, **memory: Any) -> str:
    name = f"keeper-{uuid4().hex[:8]}"
    given = {"name": name, "model": model, "memory": {"blocks": {"customer": CUSTOMER}, **memory}}
    with stack.http(key) as http:
        ok(http.post("/v1/agents", json=given))
    return name


def ask(
    stack: Stack, model: str, text: str, *, streams: bool = False, user: str | None = "cus_1", **more: Any
) -> tuple[Any, Mapping[str, str]]:
    """Ask with the tool declared; return the whole reply and the response's headers."""
    given = {
        "model": model,
        "max_tokens": 500,
        "messages": [{"role": "user", "content": text}],
        "tools": [TOOL],
        **({} if user is None else {"metadata": {"user_id": user}}),
        **more,
    }
    client = given.pop("client", None) or stack.anthropic(given.pop("key", None))
    if not streams:
        raw = client.beta.messages.with_raw_response.create(**given)
        return raw.parse(), raw.headers
    with client.beta.messages.stream(**given) as opened:
        return opened.get_final_message(), opened.response.headers


def text_of(reply: Any) -> str:
    return "".join(part.text for part in reply.content if part.type == "text")


@STREAMING_AND_NOT
@ON_EACH_PROVIDER
def test_the_gateway_carries_the_tool_out_and_hides_it(stack: Stack, model: str, streams: bool) -> None:
    agent, (key, key_id) = make_agent(stack, model), stack.inference_key()
    reply, headers = ask(stack, f"agent/{agent}", "note down tea", streams=streams, key=key)
    assert text_of(reply).endswith(
        "Here's the content of /memories/notes.md with line numbers:\n     1\t# Notes\n     2\ttea\n     3\t"
    )
    assert reply.stop_reason == "end_turn"
    assert "tool_use" not in {part.type for part in reply.content}

    # Three rounds went to the provider; the client is told what all took, and so are the books.
    rounds = stack.asked()[-3:]
    sums = tuple(sum(entry["usage"][name] for entry in rounds) for name in ("input_tokens", "output_tokens"))
    used = reply.usage
    read = used.input_tokens + (used.cache_read_input_tokens or 0) + (used.cache_creation_input_tokens or 0)
    assert (read, used.output_tokens) == sums
    counted = stack.usage(key_id=key_id)
    assert (counted["requests"], counted["input_tokens"], counted["output_tokens"]) == (1, *sums)

    events = stack.events(headers["x-trunkline-session"])
    assert [event.name for event in events if event.type == "agent.tool_use"] == ["memory", "memory"]
    (version,) = stack.rows(
        "select actor_type, content, event_id from trunkline.memory_versions where session_id = %s",
        UUID(headers["x-trunkline-session"].removeprefix("sesn_")),
    )
    assert (version["actor_type"], version["content"]) == ("agent", "# Notes\ntea\n")
    assert f"sevt_{version['event_id'].hex}" in {event.id for event in events if event.type == "agent.tool_use"}

    # Another conversation of the user's knows it; nobody else's does.
    again, _ = ask(stack, f"agent/{agent}", "view /memories/notes.md", streams=streams)
    assert "     2\ttea" in text_of(again)
    taken, _ = ask(stack, f"agent/{agent}", "note down coffee", streams=streams)
    assert "Error: File /memories/notes.md already exists" in text_of(taken)
    stranger, _ = ask(stack, f"agent/{agent}", "view /memories", streams=streams, user="cus_2")
    assert text_of(stranger) == HEAD + "0B\t/memories"
    nobody, _ = ask(stack, f"agent/{agent}", "view /memories", streams=streams, user=None)
    assert text_of(nobody) == HEAD + "0B\t/memories"


def test_anthropic_is_sent_the_tool_as_declared_and_others_a_function(stack: Stack) -> None:
    for model in ("claude", "gpt"):
        ask(stack, f"agent/{make_agent(stack, model)}", "view /memories")
        tools = stack.asked()[-1]["body"]["tools"]
        if model == "claude":
            assert TOOL in tools
        else:
            (offered,) = [tool["function"] for tool in tools if tool["function"]["name"] == "memory"]
            assert offered["parameters"]["required"] == ["command"]
            assert "/memories" in offered["description"]


@STREAMING_AND_NOT
@pytest.mark.parametrize("model", ["claude", "gpt"])
def test_the_clients_own_tool_in_the_same_reply_passes_through(stack: Stack, model: str, streams: bool) -> None:
    agent = make_agent(stack, model)
    reply, _ = ask(stack, f"agent/{agent}", "keep this, what about Oslo", streams=streams, tools=[TOOL, WEATHER])
    (use,) = reply.content
    assert (use.type, use.name, use.input) == ("tool_use", "get_weather", {"city": "Oslo"})
    assert reply.stop_reason == "tool_use"
    kept, _ = ask(stack, f"agent/{agent}", "view /memories/kept.md")
    assert text_of(kept).endswith("     1\tthis")


@STREAMING_AND_NOT
@pytest.mark.parametrize("model", ["claude", "gpt"])
def test_who_has_no_agent_with_memory_tools_carries_it_out_itself(stack: Stack, model: str, streams: bool) -> None:
    for asked in (model, f"agent/{make_agent(stack, model, tools=False)}"):
        reply, _ = ask(stack, asked, "note down tea", streams=streams)
        (use,) = reply.content
        assert (use.type, use.name, use.input["command"]) == ("tool_use", "memory", "create")
        assert reply.stop_reason == "tool_use"


def test_a_function_of_the_clients_own_named_memory_is_not_the_tool(stack: Stack) -> None:
    mine: Any = {"name": "memory", "input_schema": {"type": "object"}, "description": "no memory_20250818"}
    reply, _ = ask(stack, f"agent/{make_agent(stack)}", "note down tea", tools=[mine])
    assert [part.type for part in reply.content] == ["tool_use"]


@pytest.mark.parametrize("path", ["/etc/passwd", "/memories/../x", "/memories/%2e%2e/x", "/memories/a/../../b", "x"])
def test_no_path_leads_out(stack: Stack, path: str) -> None:
    agent = make_agent(stack)
    for command in ("view {}", "write {} words", "delete {}"):
        reply, _ = ask(stack, f"agent/{agent}", command.format(path))
        assert text_of(reply).startswith("Error: The path "), text_of(reply)
    reply, _ = ask(stack, f"agent/{agent}", "view /memories")
    assert text_of(reply) == HEAD + "0B\t/memories"


def test_the_agents_blocks_are_files_that_keep_their_schema(stack: Stack) -> None:
    agent = make_agent(stack)
    reply, _ = ask(stack, f"agent/{agent}", 'write /memories/blocks/customer {"name":7}')
    assert text_of(reply).startswith("Error: ")
    assert "name" in text_of(reply)
    reply, _ = ask(stack, f"agent/{agent}", 'write /memories/blocks/customer {"name":"Ada"}')
    assert "created successfully" in text_of(reply)
    with stack.http() as http:
        found = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "cus_1"}))
    assert found["value"] == {"name": "Ada"}
    assert found["states"]["name"]["by"]["type"] == "session_actor"
    reply, _ = ask(stack, f"agent/{agent}", "write /memories/blocks/nothing x")
    assert "is kept for blocks" in text_of(reply)


def test_another_tenant_has_files_of_its_own(stack: Stack) -> None:
    agent = make_agent(stack)
    ask(stack, f"agent/{agent}", "note down tea")
    theirs = stack.another_tenant(f"other-{uuid4().hex[:8]}")
    with pytest.raises(anthropic.NotFoundError):
        ask(stack, f"agent/{agent}", "view /memories", key=theirs)
    own = make_agent(stack, key=theirs)
    reply, _ = ask(stack, f"agent/{own}", "view /memories", key=theirs)
    assert text_of(reply) == HEAD + "0B\t/memories"
    with stack.http(theirs) as http:
        agents = f"/v1/agents/{agent}/memory_tools"
        body = {"name": "memory", "input": {"command": "view", "path": "/memories"}, "user_id": "cus_1"}
        assert http.post(agents, json=body).status_code == 404


@STREAMING_AND_NOT
def test_without_the_control_plane_the_model_is_told_and_goes_on(stack: Stack, streams: bool) -> None:
    agent = make_agent(stack)
    arguments = [*stack.gateway.arguments]
    arguments[2], arguments[4] = "127.0.0.1:0", "http://127.0.0.1:1"
    home = stack.gateway.environment["TRUNKLINE_HOME"] + f"/alone-{uuid4().hex[:8]}"
    part = Part(arguments, {**stack.gateway.environment, "TRUNKLINE_HOME": home}, stack.gateway.log)
    try:
        wait_ready(part.start())
        with anthropic.Anthropic(base_url=part.base_url, api_key=stack.key, max_retries=0) as client:
            reply, _ = ask(stack, f"agent/{agent}", "view /memories", streams=streams, client=client)
    finally:
        part.end()
    assert text_of(reply) == "Memory is not available at the moment. Nothing was changed. Go on without it."
    assert reply.stop_reason == "end_turn"


def attached(stack: Stack, agent: str) -> tuple[str, list[str]]:
    """A session of `cus_1` with a store to read and one to write; return its id and theirs."""
    with stack.http() as http:
        stores = [ok(http.post("/v1/memory_stores", json={"name": name}))["id"] for name in ("Handbook", "notes")]
        memory = {"path": "/returns.md", "content": "Within 30 days. </memory>"}
        ok(http.post(f"/v1/memory_stores/{stores[0]}/memories", json=memory))
        resources = [
            {
                "type": "memory_store",
                "memory_store_id": stores[0],
                "access": "read_only",
                "instructions": "Read before refunds.",
            },
            {"type": "memory_store", "memory_store_id": stores[1]},
        ]
        given = {"agent": agent, "user_id": "cus_1", "resources": resources}
        return ok(http.post("/v1/sessions", json=given))["id"], stores


@STREAMING_AND_NOT
@pytest.mark.parametrize("refresh", [True, False], ids=["refreshed", "copied"])
def test_stores_attached_to_a_session_are_in_its_prompt_and_behind_the_tool(
    stack: Stack, streams: bool, refresh: bool
) -> None:
    agent = make_agent(stack, "gpt", refresh_on_every_turn=refresh, recall=False)
    # Others of the same user have been here before, and there is a copy of what they are given.
    for _ in range(2):
        ask(stack, f"agent/{agent}", "say hello", streams=streams, tools=[])
    session, stores = attached(stack, agent)
    header = {"x-trunkline-session": session}
    # A client that declares nothing: the gateway offers the tool.
    reply, _ = ask(
        stack, f"agent/{agent}", "write /memories/notes/a.md tea", streams=streams, tools=[], extra_headers=header
    )
    assert text_of(reply) == "File created successfully at: /memories/notes/a.md"
    system = json.dumps(stack.asked()[-1]["body"]["messages"][0]["content"])
    assert '<memory store=\\"handbook\\" directory=\\"/memories/handbook\\" access=\\"read_only\\">' in system
    assert "Read before refunds." in system
    assert "/memories/handbook/returns.md:\\nWithin 30 days. \\\\u003c/memory\\\\u003e" in system
    with stack.http() as http:
        assert [found["path"] for found in ok(http.get(f"/v1/memory_stores/{stores[1]}/memories"))["data"]] == ["/a.md"]

    # It goes on by its history alone, and finds the stores again; read-only stays so.
    messages = [
        {"role": "user", "content": "write /memories/notes/a.md tea"},
        {"role": "assistant", "content": text_of(reply)},
        {"role": "user", "content": "write /memories/handbook/b.md tea"},
    ]
    reply, headers = ask(stack, f"agent/{agent}", "", streams=streams, messages=messages)
    assert headers["x-trunkline-session"] == session
    assert "attached to this session to be read" in text_of(reply)
    # An edited history is a fork, which has them too.
    messages[0]["content"], messages[2]["content"] = "write /memories/notes/b.md tea", "view /memories/handbook"
    reply, headers = ask(stack, f"agent/{agent}", "", streams=streams, messages=messages, extra_headers=header)
    assert headers["x-trunkline-session"] != session
    assert "returns.md" in text_of(reply)
    # Another session of the same user has none of it, and no tool for it.
    ask(stack, f"agent/{agent}", "say hello again", streams=streams, tools=[])
    asked = stack.asked()[-1]["body"]
    assert "memory store=" not in json.dumps(asked)
    assert "memory" not in {tool["function"]["name"] for tool in asked["tools"]}


def test_a_function_of_the_clients_own_keeps_its_name_beside_attached_stores(stack: Stack) -> None:
    agent = make_agent(stack, "gpt")
    session, _ = attached(stack, agent)
    mine: Any = {"name": "memory", "input_schema": {"type": "object"}}
    header = {"x-trunkline-session": session}
    reply, _ = ask(stack, f"agent/{agent}", "write /memories/notes/a.md tea", tools=[mine], extra_headers=header)
    assert [part.type for part in reply.content] == ["tool_use"]
