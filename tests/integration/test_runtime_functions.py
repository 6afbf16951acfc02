"""Python functions as tools of agents: the unmodified SDK, a worker that serves them, and a scripted model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from integration.test_runtime import Stack, answers, count, kinds, said, stack_on, waits_for
from support import functions, model_server, processes
from support.postgres import DatabaseUrls

SCRIPT = """
rules:
  - when: {last_role: tool}
    reply: "It said: {{tool_result}}"
  - when: {user: "^twice"}
    tool_calls: [{name: meet, arguments: {others: 2}}, {name: meet, arguments: {others: 2}}]
  - when: {user: "^the weather in (\\\\w+)"}
    tool_calls: [{name: weather, arguments: {city: "{{1}}"}}]
  - when: {user: "^wrongly"}
    tool_calls: [{name: weather, arguments: {town: Rome}}]
  - when: {user: "^both"}
    tool_calls: [{name: safe}, {name: unsafe}]
"""
CALLED = ("fail", "hang", "shout", "unsafe", "delete_everything", "nothing_of_that_name")
RULE = """  - when: {{user: "^call {name}"}}
    tool_calls: [{{name: {name}}}]
"""
TOOLS = [value.definition for value in vars(functions).values() if hasattr(value, "definition")]


@dataclass(frozen=True)
class Served:
    """A stack whose workers serve `support.functions`."""

    stack: Stack
    model_url: str

    def worker(self) -> AbstractContextManager[Any]:
        log = self.stack.folder / "worker.log"
        tools = {"modules": ["support.functions"]}
        return processes.worker(self.stack.database, self.stack.gateway_url, log, tools=tools)

    def session(self, *more: Any) -> str:
        return self.stack.session(tools=(*TOOLS, *more))

    def noted(self, name: str) -> list[str]:
        noted = self.stack.folder / name
        return noted.read_text().splitlines() if noted.exists() else []


@pytest.fixture
def served(database: DatabaseUrls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    (tmp_path / "script.yaml").write_text(SCRIPT + "".join(RULE.format(name=name) for name in CALLED))
    monkeypatch.setenv("TOOLS_FOLDER", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=":")
    with (
        model_server.started("--script", str(tmp_path / "script.yaml")) as model,
        stack_on(database, model.url, tmp_path) as stack,
    ):
        yield Served(stack, model.url)


def results(events: list[Any]) -> list[tuple[str, bool]]:
    return [
        ("".join(block.text for block in event.content), event.is_error)
        for event in events
        if event.type == "agent.tool_result"
    ]


def test_an_agent_calls_functions_at_the_same_time_and_hears_what_went_wrong(served: Served) -> None:
    stack = served.stack
    with served.worker():
        session = served.session()
        turns = 0

        def turn(words: str) -> list[tuple[str, bool]]:
            nonlocal turns
            before = results(stack.events(session))
            stack.send(session, said(words))
            turns += 1
            return results(stack.until_idle(session, turns))[len(before) :]

        assert turn("the weather in Rome") == [('{"city":"Rome","sky":"rain","days":1}', False)]
        events = stack.events(session)
        assert kinds(events)[2:8] == [
            "span.model_request_start",
            "agent.tool_use",
            "span.model_request_end",
            "agent.tool_result",
            "span.model_request_start",
            "agent.message",
        ]
        assert answers(events) == ['It said: {"city":"Rome","sky":"rain","days":1}']
        use, result = events[3], events[5]
        assert (use.name, use.input, use.evaluated_permission) == ("weather", {"city": "Rome"}, "allow")
        assert use.evaluation.type == "always_allow"
        assert result.tool_use_id == use.id
        # Neither could end alone.
        assert turn("twice") == [("ada met 2", False)] * 2
        assert len(set(served.noted("met"))) == 2

        [(words, wrong)] = turn("wrongly")
        assert wrong
        assert "city: Field required" in words
        assert turn("call fail") == [("LookupError: nothing there", True)]
        assert turn("call hang") == [("The tool did not end within 0.2 s and was stopped.", True)]
        [(words, wrong)] = turn("call shout")
        assert words.startswith("beginning")
        assert words.endswith("end")
        assert len(words) < 100_000
        assert "were cut here" in words
        assert turn("call nothing_of_that_name") == [("There is no tool named 'nothing_of_that_name' here.", True)]
    offered = httpx.get(f"{served.model_url}/_requests").json()[0]["body"]["tools"]
    assert [tool["name"] for tool in offered] == [tool["name"] for tool in TOOLS]


def test_after_a_crash_only_what_may_be_done_twice_is_done_again(served: Served) -> None:
    stack = served.stack
    with served.worker() as first:
        session = served.session()
        stack.send(session, said("both"))
        stack.until(session, lambda _: bool(served.noted("unsafe") and served.noted("safe")))
        first.kill()
        with served.worker():
            events = stack.until_idle(session)
    uses = {event.name: event.id for event in events if event.type == "agent.tool_use"}
    found = {
        event.tool_use_id: ("".join(block.text for block in event.content), event.is_error)
        for event in events
        if event.type == "agent.tool_result"
    }
    assert found[uses["safe"]] == ("done", False)
    assert served.noted("safe") == [uses["safe"]] * 2
    words, wrong = found[uses["unsafe"]]
    assert wrong
    assert "unknown" in words
    assert served.noted("unsafe") == [uses["unsafe"]]
    assert len(answers(events)) == 1


def test_an_interrupt_ends_the_tools(served: Served) -> None:
    stack = served.stack
    with served.worker():
        session = served.session()
        stack.send(session, said("call unsafe"))
        stack.until(session, lambda _: bool(served.noted("unsafe")))
        stack.send(session, {"type": "user.interrupt"})
        events = stack.until_idle(session)
        assert events[-1].stop_reason.type == "end_turn"
        [(words, wrong)] = results(events)
        assert wrong
        assert "interrupted" in words
        assert answers(events) == []
        stack.send(session, said("the weather in Oslo"))
        assert len(answers(stack.until_idle(session, 2))) == 1


def test_a_person_allows_or_denies(served: Served) -> None:
    stack = served.stack
    with served.worker():
        session = served.session()
        stack.send(session, said("call delete_everything"))
        events = stack.until_idle(session)
        [use] = waits_for(events)
        [event] = [event for event in events if event.id == use]
        assert (event.evaluated_permission, event.evaluation.type) == ("ask", "always_ask")
        deny = {"type": "user.tool_confirmation", "tool_use_id": use, "result": "deny", "deny_message": "Never."}
        stack.send(session, deny)
        events = stack.until_idle(session, 2)
        assert results(events) == [("The user did not allow this call. Never.", True)]
        assert events[-1].stop_reason.type == "end_turn"
        assert not (stack.folder / "deleted").exists()

        stack.send(session, said("call delete_everything"))
        [use] = waits_for(stack.until_idle(session, 3))
    # Allowed while no worker is there, it is still carried out: nobody can have begun it.
    stack.send(session, {"type": "user.tool_confirmation", "tool_use_id": use, "result": "allow"})
    with served.worker():
        events = stack.until_idle(session, 4)
    assert results(events)[-1] == ("deleted", False)
    assert served.noted("deleted") == ["everything"]
    assert all(event.processed_at is not None for event in events)
    assert count(events)["agent.message"] == 2
