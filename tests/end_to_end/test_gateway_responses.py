"""OpenAI's responses by the unmodified SDK: over each provider wire, with memory, and going on by ids."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import openai
import pytest

from support.memory import CUSTOMER, ok
from support.stack import Stack, eventually

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": False}
ON_EACH_PROVIDER = pytest.mark.parametrize("model", ["gpt", "claude", "duo"])


@pytest.fixture(scope="module")
def agent(stack: Stack) -> str:
    name = f"responder-{uuid4().hex[:8]}"
    with stack.http() as http:
        ok(http.post("/v1/agents", json={"name": name, "model": "claude", "memory": {"blocks": {}}}))
    return name


@ON_EACH_PROVIDER
def test_whole(stack: Stack, model: str) -> None:
    reply = stack.openai().responses.create(model=model, input="count the tokens", instructions="Be brief.")
    assert reply.output_text == "Counted."
    assert reply.status == "completed"
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.input_tokens_details.cached_tokens) == (2000, 1536)
    assert reply.id.startswith("resp_")


@ON_EACH_PROVIDER
def test_streamed(stack: Stack, model: str) -> None:
    with stack.openai().responses.stream(model=model, input="a long story") as stream:
        events = list(stream)
        reply = stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 5, "it came in one piece"
    assert "".join(deltas) == reply.output_text
    assert [event.sequence_number for event in events] == sorted(event.sequence_number for event in events)
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"


@ON_EACH_PROVIDER
def test_parallel_tools(stack: Stack, model: str) -> None:
    client = stack.openai()
    given: Any = [{"role": "user", "content": "compare Bern and Rome"}]
    with client.responses.stream(model=model, input=given, tools=[TOOL]) as stream:
        list(stream)
        reply = stream.get_final_response()
    calls = [item for item in reply.output if item.type == "function_call"]
    assert [call.arguments.replace(" ", "") for call in calls] == ['{"city":"Bern"}', '{"city":"Rome"}']
    given += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in reply.output]
    given += [{"type": "function_call_output", "call_id": call.call_id, "output": "20 degrees"} for call in calls]
    final = client.responses.create(model=model, input=given, tools=[TOOL])
    assert "20 degrees" in final.output_text


def test_an_earlier_response_is_gone_on_with(stack: Stack, agent: str) -> None:
    client = stack.openai(default_headers={"x-trunkline-user": f"u-{uuid4().hex[:6]}"})
    raw = client.responses.with_raw_response.create(model=f"agent/{agent}", input="say one")
    first = raw.parse()
    session = raw.headers["x-trunkline-session"]
    assert first.id == "resp_" + raw.headers["x-trunkline-call"].removeprefix("call_")
    raw = client.responses.with_raw_response.create(
        model=f"agent/{agent}", input="say two", previous_response_id=first.id
    )
    assert raw.parse().output_text == "two"
    assert raw.headers["x-trunkline-session"] == session, "it is the same session"
    asked = stack.asked()[-1]["body"]["messages"]
    texts = [part["text"] for message in asked for part in message["content"]]
    assert texts == ["say one", "one", "say two"], "the provider was given all of it"
    raw = client.responses.with_raw_response.create(
        model=f"agent/{agent}", input="say three", conversation=session.replace("sesn_", "conv_")
    )
    assert raw.headers["x-trunkline-session"] == session
    eventually(lambda: [event.type for event in stack.events(session)].count("user.message") == 3)
    # A response in the middle: the history parts from the log, and goes on in a fork.
    raw = client.responses.with_raw_response.create(
        model=f"agent/{agent}", input="say else", previous_response_id=first.id
    )
    assert raw.headers["x-trunkline-session"] != session


@pytest.mark.parametrize("model", ["gpt", "claude", "gemini", "bedrock", "duo"])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_memory_tools_are_carried_out_and_never_shown(stack: Stack, model: str, *, streams: bool) -> None:
    name = f"keeper-{uuid4().hex[:8]}"
    with stack.http() as http:
        ok(http.post("/v1/agents", json={"name": name, "model": model, "memory": {"blocks": {"customer": CUSTOMER}}}))
    client = stack.openai(default_headers={"x-trunkline-user": "cus_1"})

    def ask(text: str, **more: Any) -> tuple[Any, str, str]:
        """The reply, the session, and all that the client was shown."""
        given: Any = {"model": f"agent/{name}", "input": text, **more}
        if streams:
            with client.responses.stream(**given) as stream:
                shown = "".join(event.to_json(warnings=False) for event in stream)
                return stream.get_final_response(), stream._response.headers["x-trunkline-session"], shown
        raw = client.responses.with_raw_response.create(**given)
        return raw.parse(), raw.headers["x-trunkline-session"], raw.text

    reply, session, shown = ask("My name is Ada Lovelace.")
    assert "Ada Lovelace" in reply.output_text
    assert [item.type for item in reply.output if item.type != "reasoning"] == ["message"]
    assert "memory_update" not in shown
    assert "function_call" not in shown
    with stack.http() as http:
        block = ok(http.get(f"/v1/agents/{name}/memory/customer", params={"user_id": "cus_1"}))
    assert block["value"] == {"name": "Ada Lovelace"}
    kinds = ["user.message", "agent.tool_use", "agent.tool_result", "agent.message", "session.status_idle"]
    assert [event.type for event in stack.events(session)] == kinds

    # Gone on with by its id, and what is known of the user is in front of the model.
    reply, again, _ = ask("say two", previous_response_id=reply.id)
    assert (reply.output_text, again) == ("two", session)
    reply, other, _ = ask("say hello")
    assert other != session
    asked = json.dumps(stack.asked()[-1]["body"])
    assert "<trunkline-memory>" in asked
    assert "Ada Lovelace" in asked


def test_the_oldest_turns_of_a_long_conversation_are_not_sent_on_and_stay_in_the_log(stack: Stack) -> None:
    name = f"brief-{uuid4().hex[:8]}"
    context = {"budget_tokens": 500, "keep_turns": 1}
    with stack.http() as http:
        ok(http.post("/v1/agents", json={"name": name, "model": "claude", "memory": {"context": context}}))
    client = stack.openai(default_headers={"x-trunkline-user": f"u-{uuid4().hex[:6]}"})
    words, begun, sessions = "filler " * 50, [], set()
    goes_on: dict[str, str] = {}
    for turn in range(9):
        raw = client.responses.with_raw_response.create(
            model=f"agent/{name}", input=f"Turn number {turn}: {words}", store=True, extra_body=goes_on
        )
        session = raw.headers["x-trunkline-session"]
        sessions.add(session)
        # By the one name and by the other: both are of the same log.
        by_conversation = {"conversation": session.replace("sesn_", "conv_")}
        goes_on = by_conversation if turn % 2 else {"previous_response_id": raw.parse().id}
        messages = stack.asked()[-1]["body"]["messages"]
        texts = ["".join(part["text"] for part in message["content"]) for message in messages]
        assert f"Turn number {turn}:" in texts[-1]
        begun.append((texts[0].startswith("<trunkline-context>"), texts[0].split("Turn number ")[-1][0]))
    assert len(sessions) == 1, "what is left out is no edit of the history"
    assert not begun[0][0]
    assert begun[-1][0]
    assert len(set(begun)) < 5, "several prompts begin alike, for the provider's cache"
    eventually(lambda: [event.type for event in stack.events(session)].count("agent.message") == 9)
    events = stack.events(session)
    assert "trunkline-context" not in str([event.to_dict() for event in events])
    cuts = [event.to_dict()["kept_from_seq"] for event in events if event.type == "agent.thread_context_compacted"]
    assert cuts == sorted(set(cuts))
    assert cuts
    assert {event.to_dict()["seq"] for event in events if event.type == "user.message"} >= set(cuts)


def test_what_is_not_there_or_anothers_is_not_found(stack: Stack, agent: str) -> None:
    mine = stack.openai(default_headers={"x-trunkline-user": "one"})
    theirs = stack.openai(default_headers={"x-trunkline-user": "another"})
    raw = mine.responses.with_raw_response.create(model=f"agent/{agent}", input="say mine")
    reply, session = raw.parse(), raw.headers["x-trunkline-session"]
    for previous in (reply.id, "resp_" + 32 * "0", "resp_x"):
        with pytest.raises(openai.NotFoundError) as refused:
            theirs.responses.create(model=f"agent/{agent}", input="more", previous_response_id=previous)
        assert refused.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError):
        theirs.responses.create(model=f"agent/{agent}", input="more", conversation=session.replace("sesn_", "conv_"))


def test_nothing_is_kept_where_the_client_says_so(stack: Stack, agent: str) -> None:
    client = stack.openai(default_headers={"x-trunkline-user": f"u-{uuid4().hex[:6]}"})
    reply = client.responses.create(model=f"agent/{agent}", input="say secret", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=f"agent/{agent}", input="more", previous_response_id=reply.id)


def test_what_a_provider_cannot_be_told_is_refused(stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        stack.openai().responses.create(model="claude", input="say x", truncation="auto")
    assert refused.value.param == "truncation"
    with pytest.raises(openai.BadRequestError) as refused:
        stack.openai().responses.create(model="claude", input="say x", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"
    with pytest.raises(openai.AuthenticationError):
        stack.openai("sk-tl-wrong").responses.create(model="gpt", input="say x")


def test_a_conversation_made_with_items_goes_on_by_responses(stack: Stack) -> None:
    with stack.http() as http:
        http.post("/v1/agents/apply", json={"definition": {"name": "conversant", "model": "gpt"}})
    client: Any = stack.openai(default_headers={"x-trunkline-agent": "conversant", "x-trunkline-user": "ada"})
    made = client.conversations.create(
        items=[
            {"role": "user", "content": "My name is Ada."},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello Ada."}]},
            {"role": "user", "content": "I drink tea."},
        ]
    )
    for said in ("What do I drink?", "And who am I?"):
        answer = client.responses.with_raw_response.create(model="agent/conversant", input=said, conversation=made.id)
        assert answer.headers["x-trunkline-session"] == made.id.replace("conv_", "sesn_")
    items = list(client.conversations.items.list(made.id, order="asc"))
    said_by = [(item.role, item.content[0].text) for item in items if item.type == "message"]
    assert [role for role, _ in said_by] == ["user", "assistant", "user", "user", "assistant", "user", "assistant"]
    asked = stack.asked()[-1]["body"]["messages"]
    assert next(message["content"] for message in asked if message["role"] == "user") == "My name is Ada."
