"""Agents that run from Python: `agent.run`, its functions in the program, and saying things to sessions."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.test_runtime import Stack, stack_on
from support import model_server
from support.postgres import DatabaseUrls
from trunkline import Agent, AsyncTrunkline, ToolCall, Trunkline, Unavailable, tool

SCRIPT = """
rules:
  - when: {last_role: tool}
    reply: "It said: {{tool_result}}"
  - when: {user: "^both"}
    tool_calls: [{name: meet, arguments: {who: ada}}, {name: meet, arguments: {who: eve}}]
  - when: {user: "^fail"}
    tool_calls: [{name: fail}]
  - when: {user: "^delete"}
    tool_calls: [{name: delete}]
  - when: {user: "."}
    reply: "You said something."
"""
_meeting = threading.Barrier(2, timeout=20)


def meet(who: str, call: ToolCall) -> str:
    """Wait for the other."""
    _meeting.wait()
    return f"{who} came for {call.user_id}"


async def fail() -> str:
    """Never do it."""
    raise LookupError("nothing there")


@tool(permission_policy="always_ask")
def delete() -> str:
    """Delete all of it."""
    raise AssertionError("nobody allowed it")


AGENT = Agent(name="helper", model="test", tools=[meet, fail, delete])


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("script") / "script.yaml"
    path.write_text(SCRIPT)
    with model_server.started("--script", str(path)) as model:
        yield model.url


@pytest.fixture
def stack(database: DatabaseUrls, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    with stack_on(database, script, tmp_path) as running, running.worker():
        monkeypatch.setenv("TRUNKLINE_BASE_URL", running.control.base_url)
        monkeypatch.setenv("TRUNKLINE_API_KEY", running.control.key)
        yield running


def test_an_agent_runs_with_its_functions_in_the_program(stack: Stack) -> None:
    first = AGENT.run("Hello", user_id="ada")
    assert (first.text, first.stop_reason["type"]) == ("You said something.", "end_turn")
    both = AGENT.run("both", user_id="ada", session_id=first.session_id)
    assert both.session_id == first.session_id
    assert "came for ada" in both.text  # neither could end alone
    assert "LookupError: nothing there" in AGENT.run("fail").text
    waits = AGENT.run("delete")
    assert waits.stop_reason["type"] == "requires_action"
    with Trunkline() as client:
        refusal = {
            "type": "user.custom_tool_result",
            "custom_tool_use_id": waits.stop_reason["event_ids"][0],
            "content": [{"type": "text", "text": "not today"}],
        }
        assert "not today" in client.sessions.send_and_wait(waits.session_id, refusal).text
        turn = client.sessions.say(first.session_id, "And now?")
        assert (turn.text, turn.stop_reason["type"]) == ("You said something.", "end_turn")
        assert client.sessions.get(first.session_id).user_id == "ada"
        assert [agent.version for agent in client.agents.versions("helper")] == [1]


async def test_many_agents_run_at_the_same_time(stack: Stack) -> None:
    async with AsyncTrunkline() as client:
        runs = await asyncio.gather(*(AGENT.run_async(words, client=client) for words in ("Hello", "both", "fail")))
        assert runs[0].text == "You said something."
        assert "came for None" in runs[1].text
        assert (await client.sessions.say(runs[0].session_id, "Again")).text == "You said something."
    assert (await AGENT.run_async("Hello")).text == "You said something."


def test_a_model_that_cannot_be_asked_is_an_error(stack: Stack) -> None:
    with pytest.raises(Unavailable) as caught:
        Agent(name="lost", model="nowhere/at-all").run("Hello")
    assert caught.value.details is not None
    assert str(caught.value.details["session_id"]).startswith("sesn_")


def test_what_the_documentation_shows_runs(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    [program] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(compile(program, "docs/python.md", "exec"), {"__name__": "shown"})
    said = capsys.readouterr().out
    assert said.startswith("You said something.\nYou said something.\n")
    assert "agent.message" in said
