"""Agents of other frameworks through the gateway, with their conversations kept in Trunkline."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, TypedDict
from uuid import uuid4

import openai
import pytest
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    SessionSettings,
    function_tool,
)
from langgraph.graph import END, START, StateGraph
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.messages import (
    BinaryImage,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from support.stack import Stack
from trunkline.errors import Conflict, InvalidRequest, NotFound, TooLarge, Unauthenticated
from trunkline.langgraph import TrunklineSaver
from trunkline.openai_agents import TrunklineSession
from trunkline.pydantic_ai import History

ODD: list[Any] = [
    {"role": "user", "content": "z before a: é\u2028", "z": 1, "a": {"10": 1.0, "9": 12345678901234567890}},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"b": 1, "a": [1e2]}'},
    {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": ""}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None},
]


@function_tool
def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"7 degrees in {city}"


@pytest.mark.parametrize("wire", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
async def test_a_runner_goes_on_with_its_session(stack: Stack, wire: Any) -> None:
    name = f"case {uuid4()}"
    async with openai.AsyncOpenAI(base_url=f"{stack.base_url}/v1", api_key=stack.key, max_retries=0) as client:
        agent = Agent(name="helper", model=wire("gpt", client), tools=[get_weather])
        quiet = RunConfig(tracing_disabled=True)
        session = TrunklineSession(name, stack.base_url, stack.key, user="cus_1")
        first = await Runner.run(agent, "weather in Oslo", session=session, run_config=quiet)
        assert first.final_output == "It says: 7 degrees in Oslo"
        assert await session.get_items() == first.to_input_list()
        await session.close()

        elsewhere = TrunklineSession(name, stack.base_url, stack.key, user="cus_1")
        second = await Runner.run(agent, "weather in Rome", session=elsewhere, run_config=quiet)
        assert second.final_output == "It says: 7 degrees in Rome"
        kept = await elsewhere.get_items()
        assert kept[: len(first.to_input_list())] == first.to_input_list()
        assert [item["name"] for item in kept if item.get("type") == "function_call"] == ["get_weather"] * 2  # type: ignore[typeddict-item]
        await elsewhere.close()
    said = str(stack.asked()[-1])
    assert "7 degrees in Oslo" in said, "what was said before went to the model"


async def test_items_come_back_as_they_went_in(stack: Stack) -> None:
    session = TrunklineSession(f"items {uuid4()}", stack.base_url, stack.key)
    assert await session.get_items() == []
    assert await session.pop_item() is None
    await session.clear_session()
    await session.add_items([])
    await session.add_items(ODD[:2])
    await session.add_items(ODD[2:])
    assert str(await session.get_items()) == str(ODD), "the order of members too"
    assert await session.get_items(2) == ODD[2:]
    assert await session.get_items(0) == []
    session.session_settings = SessionSettings(limit=1)
    assert await session.get_items() == ODD[3:]
    session.session_settings = None
    assert await session.pop_item() == ODD[3]
    await session.add_items(ODD[3:])
    assert await session.get_items() == ODD
    many: list[Any] = [{"role": "user", "content": str(number)} for number in range(2500)]
    await session.add_items(many)
    assert await session.get_items() == ODD + many
    await session.clear_session()
    assert await session.get_items() == []
    await session.close()


async def test_what_cannot_be_kept_is_refused_and_nothing_else_is_lost(stack: Stack) -> None:
    session = TrunklineSession(f"refused {uuid4()}", stack.base_url, stack.key)
    await session.add_items(ODD)
    bad: list[tuple[Any, type[Exception]]] = [
        ({"content": "a\0b"}, InvalidRequest),
        ({"content": "\ud800"}, (InvalidRequest, UnicodeEncodeError)),  # type: ignore[list-item]
        ({"content": "x" * 5_000_000}, TooLarge),
    ]
    for item, fault in bad:
        with pytest.raises(fault):
            await session.add_items([ODD[0], item])
    assert await session.get_items() == ODD
    await session.close()


async def test_another_users_and_another_tenants_conversation_is_not_there(stack: Stack) -> None:
    name = f"mine {uuid4()}"
    mine = TrunklineSession(name, stack.base_url, stack.key, user="cus_1")
    await mine.add_items(ODD)
    other_user = TrunklineSession(name, stack.base_url, stack.key, user="cus_2")
    other_tenant = TrunklineSession(name, stack.base_url, stack.another_tenant(f"t{uuid4().hex}"), user="cus_1")
    for theirs in (other_user, other_tenant):
        assert await theirs.get_items() == []
        assert await theirs.pop_item() is None
        await theirs.clear_session()
    with pytest.raises(Conflict, match="another user"):
        await other_user.add_items(ODD)
    await other_tenant.add_items(ODD[:1])
    assert await mine.get_items() == ODD
    nobody = TrunklineSession(name, stack.base_url, "sk-tl-" + "A" * 43)
    with pytest.raises(Unauthenticated):
        await nobody.get_items()
    lost = TrunklineSession(name + "x", stack.base_url, stack.key, session="sesn_" + "0" * 32)
    with pytest.raises(NotFound):
        await lost.add_items(ODD)
    for session in (mine, other_user, other_tenant, nobody, lost):
        await session.close()


def written(messages: list[ModelMessage]) -> bytes:
    """Messages as the library itself writes them."""
    return ModelMessagesTypeAdapter.dump_json(messages)


def test_a_pydantic_agent_goes_on_with_its_history(stack: Stack) -> None:
    model = OpenAIChatModel("gpt", provider=OpenAIProvider(base_url=f"{stack.base_url}/v1", api_key=stack.key))
    agent = PydanticAgent(model)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Tell the weather of a city."""
        return f"7 degrees in {city}"

    with History(f"case {uuid4()}", stack.base_url, stack.key, user="cus_1") as history:
        first = agent.run_sync("weather in Oslo", message_history=history.load())
        assert first.output == "It says: 7 degrees in Oslo"
        history.append(first.new_messages())
        assert written(history.load()) == written(first.all_messages())
        second = agent.run_sync("weather in Rome", message_history=history.load())
        assert second.output == "It says: 7 degrees in Rome"
        history.append(second.new_messages())
        assert written(history.load()) == written(second.all_messages())
        history.save(first.all_messages())
        assert written(history.load()) == written(first.all_messages())
        history.clear()
        assert history.load() == []


async def test_messages_come_back_as_they_went_in(stack: Stack) -> None:
    messages: list[ModelMessage] = [
        ModelRequest(
            parts=[UserPromptPart(["look:", BinaryImage(bytes(range(256)), media_type="image/png")])],
            instructions="Be brief.",
        ),
        ModelResponse(parts=[TextPart("é\u2028"), ToolCallPart("f", {"z": 1, "a": [1.5]}, "c1")], model_name="gpt"),
        ModelRequest(parts=[ToolReturnPart("f", {"any": None}, "c1")]),
    ]
    async with (
        History("odd", stack.base_url, stack.key, user="cus_1") as history,
        History("odd", stack.base_url, stack.key, user="cus_2") as other,
        History("odd", stack.base_url, stack.another_tenant(f"t{uuid4().hex}")) as stranger,
    ):
        await history.asave(messages)
        assert await history.aload() == messages
        await history.aappend(messages[:1])
        assert await history.aload(2) == [messages[2], messages[0]]
        assert await other.aload() == await stranger.aload() == []
        await stranger.aclear()
        with pytest.raises(Conflict, match="another user"):
            await other.asave([])
        with pytest.raises(InvalidRequest, match="NUL"):
            await history.asave([ModelRequest(parts=[UserPromptPart("a\0b")])])
        assert len(await history.aload()) == 4
        await history.aclear()


class Said(TypedDict):
    question: str
    answer: str


def test_a_graph_asks_the_model_and_keeps_its_state_through_the_gateway(stack: Stack) -> None:
    with stack.openai() as client, TrunklineSaver(stack.base_url, stack.key) as saver:

        def answer(state: Said) -> dict[str, str]:
            said = client.chat.completions.create(
                model="gpt", messages=[{"role": "user", "content": state["question"]}]
            )
            return {"answer": said.choices[0].message.content or ""}

        builder = StateGraph(Said)
        builder.add_node("answer", answer)
        builder.add_edge(START, "answer")
        builder.add_edge("answer", END)
        graph: Any = builder.compile(checkpointer=saver)
        config = {"configurable": {"thread_id": str(uuid4()), "user_id": "cus_graph"}}
        graph.invoke({"question": "count the tokens"}, config)
        assert graph.get_state(config).values["answer"] == "Counted."
        with stack.http() as http:
            erased = http.post("/v1/erase", json={"user_id": "cus_graph"}).json()["erased"]
        assert (erased["threads"], erased["checkpoints"]) == (1, 3)
        assert graph.get_state(config).values == {}


@pytest.mark.parametrize(
    ("module", "needs", "extra"),
    [
        ("trunkline.langgraph", "langgraph", "langgraph"),
        ("trunkline.openai_agents", "agents", "openai-agents"),
        ("trunkline.pydantic_ai", "pydantic_ai", "pydantic-ai"),
    ],
)
def test_a_missing_extra_is_named_and_none_is_imported_unasked(module: str, needs: str, extra: str) -> None:
    code = (
        "import sys, trunkline.client, trunkline.api.app\n"
        f"assert {needs!r} not in sys.modules\n"
        f"sys.modules[{needs!r}] = None\n"
        f"try: import {module}\n"
        "except ImportError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install 'trunkline[{extra}]'" in told.stdout
