"""The runtime, whole: the unmodified SDK, the control plane, a worker, the gateway and a model server, as processes."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import psycopg
import pytest

from support import control_plane, model_server, processes
from support.control_plane import ControlPlane
from support.postgres import DatabaseUrls
from trunkline.memory.render import escape
from trunkline.store.leases import wake

PATIENCE_S = 30.0
WEATHER = {
    "type": "custom",
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CUSTOMER = {
    "scope": "user",
    "description": "Who the customer is.",
    "fields": {"name": {"type": "string", "required": True}},
}


@dataclass(frozen=True)
class Stack:
    """All but the workers, which a test starts as it wants them."""

    control: ControlPlane
    database: DatabaseUrls
    gateway_url: str
    folder: Path

    def worker(self) -> Any:
        return processes.worker(self.database, self.gateway_url, self.folder / "worker.log")

    @property
    def sdk(self) -> anthropic.Anthropic:
        return self.control.sdk()

    def session(self, model: str = "test", *, tools: tuple[Any, ...] = (), **more: Any) -> str:
        """A new session with a new agent; `model` may name faults of the model server."""
        agent = self.sdk.beta.agents.create(name=f"agent-{time.monotonic_ns()}", model=model, tools=tools, **more)
        return self.sdk.beta.sessions.create(agent=agent.id, environment_id="default", metadata={"user_id": "ada"}).id

    def send(self, session: str, *events: Any) -> list[str]:
        return [event.id for event in self.sdk.beta.sessions.events.send(session, events=list(events)).data or []]

    def events(self, session: str) -> list[Any]:
        return list(self.sdk.with_options(max_retries=3).beta.sessions.events.list(session))

    def until(self, session: str, holds: Callable[[list[Any]], bool]) -> list[Any]:
        """The session's events once they fulfil a condition."""
        give_up = time.monotonic() + PATIENCE_S
        while not holds(events := self.events(session)):
            log = (self.folder / "worker.log").read_text() if (self.folder / "worker.log").exists() else ""
            assert time.monotonic() < give_up, f"{[event.to_dict() for event in events]}\n{log}"
            time.sleep(0.05)
        return events

    def until_idle(self, session: str, times: int = 1) -> list[Any]:
        return self.until(session, lambda events: count(events)["session.status_idle"] >= times)

    def query(self, statement: str) -> list[Any]:
        with psycopg.connect(self.database.admin_url) as connection:
            return connection.execute(statement).fetchall()


def count(events: list[Any]) -> Counter[str]:
    return Counter(event.type for event in events)


def kinds(events: list[Any]) -> list[str]:
    return [event.type for event in events]


def recorded(stack: Stack, calls: int, query: str) -> list[Any]:
    """Ask what was used, once the gateway has brought the database so many calls."""
    give_up = time.monotonic() + PATIENCE_S
    # One that is told that the call is under way is in the books too, and cost nothing.
    said_once = "select count(*) from trunkline.usage where status = 200 and source <> 'replay'"
    while stack.query(said_once)[0][0] < calls and time.monotonic() < give_up:
        time.sleep(0.05)
    return stack.query(query)


def said(words: str) -> dict[str, Any]:
    return {"type": "user.message", "content": [{"type": "text", "text": words}]}


def answers(events: list[Any]) -> list[str]:
    return ["".join(block.text for block in event.content) for event in events if event.type == "agent.message"]


@contextmanager
def stack_on(database: DatabaseUrls, model_url: str, folder: Path) -> Iterator[Stack]:
    with (
        control_plane.running(database, wake=wake) as control,
        processes.gateway(database, control.base_url, model_url, folder) as gateway_url,
    ):
        yield Stack(control, database, gateway_url, folder)


@pytest.fixture
def stack(database: DatabaseUrls, model_server: str, tmp_path: Path) -> Iterator[Stack]:
    with stack_on(database, model_server, tmp_path) as running:
        yield running


def test_a_message_is_answered_and_the_log_tells_how(stack: Stack) -> None:
    with stack.worker():
        session = stack.session()
        with stack.sdk.beta.sessions.events.stream(session) as stream:
            stack.send(session, said("Hello"))
            live = []
            for event in stream:
                live.append(event.type)
                if event.type == "session.status_idle":
                    break
        events = stack.until_idle(session)
        assert live == kinds(events)
        assert kinds(events) == [
            "user.message",
            "session.status_running",
            "span.model_request_start",
            "agent.message",
            "span.model_request_end",
            "session.status_idle",
        ]
        assert all(event.processed_at is not None for event in events)
        assert events[4].model_request_start_id == events[2].id
        assert events[5].stop_reason.type == "end_turn"

        stack.send(session, said("And another thing"))
        events = stack.until_idle(session, times=2)
        assert len(answers(events)) == 2
        read = stack.sdk.beta.sessions.retrieve(session)
        assert read.status == "idle"
        used = [event.model_usage for event in events if event.type == "span.model_request_end"]
        assert read.usage.input_tokens == sum(usage.input_tokens for usage in used) > 0
        assert read.usage.output_tokens == sum(usage.output_tokens for usage in used) > 0
        # The gateway counted the calls and their cost, and left the log alone.
        assert recorded(stack, 2, "select count(*) from trunkline.usage where status = 200")[0][0] == 2
        assert count(events)["user.message"] == 2


def test_a_conversation_reaches_the_model_whole_and_in_order(stack: Stack, model_server: str) -> None:
    with stack.worker():
        session = stack.session(system="You are terse.")
        for turn, words in enumerate(("first words", "second words"), start=1):
            stack.send(session, said(words))
            events = stack.until_idle(session, times=turn)
    [request] = [
        request["body"]
        for request in httpx.get(f"{model_server}/_requests").json()
        if "second words" in str(request["body"])
    ]
    assert [message["role"] for message in request["messages"]] == ["user", "assistant", "user"]
    assert "first words" in str(request["messages"][0])
    assert answers(events)[0] in str(request["messages"][1])
    assert "You are terse." in str(request["system"])


def test_a_session_keeps_the_version_of_its_agent(stack: Stack, model_server: str) -> None:
    sdk = stack.sdk
    agent = sdk.beta.agents.create(name="pinned", model="test", system="You are of the first version.")
    with stack.worker():
        pinned = sdk.beta.sessions.create(agent=agent.id, environment_id="default").id
        sdk.beta.agents.update(agent.id, version=agent.version, system="You are of the second version.")
        newer = sdk.beta.sessions.create(agent=agent.id, environment_id="default").id
        for session, words in ((pinned, "To the first?"), (newer, "To the second?")):
            stack.send(session, said(words))
            stack.until_idle(session)
    bodies = [str(request["body"]) for request in httpx.get(f"{model_server}/_requests").json()]
    for words, version in (("To the first?", "first version"), ("To the second?", "second version")):
        [body] = [body for body in bodies if words in body]
        assert version in body


def test_memory_tools_work_within_a_turn_and_another_session_remembers(stack: Stack) -> None:
    definition = {"name": "keeper", "model": "test", "memory": {"blocks": {"customer": CUSTOMER}}}
    with stack.control.http() as http:
        agent = http.post("/v1/agents", json=definition).json()["id"]
    with stack.worker():
        for words in ("My name is Ada Lovelace.", "What is my name?"):
            session = stack.sdk.beta.sessions.create(
                agent=agent, environment_id="default", metadata={"user_id": "ada"}
            ).id
            stack.send(session, said(words))
            events = stack.until_idle(session)
    assert "Ada Lovelace" in answers(events)[0]
    # What was said is there to be recalled, once, by the user it was said by.
    rows = stack.query("select role, content from trunkline.passages order by created_at, role desc")
    assert [role for role, _ in rows] == ["user", "assistant"] * 2
    assert rows[0][1] == "My name is Ada Lovelace."


def test_a_client_carries_out_its_own_tools(database: DatabaseUrls, tmp_path: Path) -> None:
    script = tmp_path / "script.yaml"
    script.write_text(
        """
rules:
  - when: {tool_result: rains, last_role: tool}
    reply: "It rains in {{tool_result}}"
  - when: {user: weather, has_tool: weather}
    reply: "Let me see."
    tool_calls:
      - {name: weather, arguments: {city: Paris}}
      - {name: weather, arguments: {city: Rome}}
"""
    )
    with model_server.started("--script", str(script)) as model, stack_on(database, model.url, tmp_path) as stack:
        with stack.worker():
            session = stack.session(tools=(WEATHER,))
            stack.send(session, said("How is the weather?"))
            events = stack.until_idle(session)
            uses = [event for event in events if event.type == "agent.custom_tool_use"]
            assert [(use.name, use.input) for use in uses] == [
                ("weather", {"city": "Paris"}),
                ("weather", {"city": "Rome"}),
            ]
            assert answers(events) == ["Let me see."]
            assert waits_for(events) == [use.id for use in uses]

            stack.send(session, result(uses[0].id, "It rains."), said("Hurry."))  # waits with the agent for the rest
            events = stack.until_idle(session, times=2)
            assert waits_for(events) == [uses[1].id]
            assert count(events)["span.model_request_start"] == 1
            assert [event.processed_at for event in events if event.type == "user.custom_tool_result"] == [None]

            stack.send(session, result(uses[1].id, "It rains, too."))
            events = stack.until_idle(session, times=3)
            assert events[-1].stop_reason.type == "end_turn"
            assert len(answers(events)) == 2
            assert all(event.processed_at is not None for event in events)
            with pytest.raises(anthropic.ConflictError):
                stack.send(session, result(uses[0].id, "The sun shines."))
        requests = httpx.get(f"{model.url}/_requests").json()
        [body] = [request["body"] for request in requests if "rains, too" in str(request["body"])]
        assert [block["type"] for block in body["messages"][2]["content"]] == ["tool_result", "tool_result", "text"]


def waits_for(events: list[Any]) -> list[str]:
    assert events[-1].stop_reason.type == "requires_action"
    return list(events[-1].stop_reason.event_ids)


def result(use: str, words: str) -> dict[str, Any]:
    content = [{"type": "text", "text": words}]
    return {"type": "user.custom_tool_result", "custom_tool_use_id": use, "content": content}


def test_an_interrupt_ends_the_turn_without_its_answer(stack: Stack) -> None:
    with stack.worker():
        session = stack.session("fake/slow-60000")
        stack.send(session, said("Think hard."))
        stack.until(session, lambda events: "span.model_request_start" in kinds(events))
        stack.send(session, {"type": "user.interrupt"})
        events = stack.until_idle(session)
    assert answers(events) == []
    assert events[-1].stop_reason.type == "end_turn"
    assert all(event.processed_at is not None for event in events)


def test_errors_that_pass_are_tried_again(stack: Stack) -> None:
    with stack.worker():
        # One failed call is the gateway's to repeat; more than it repeats are the runtime's.
        session = stack.session("fake/error-529x4")
        stack.send(session, said("Hello"))
        events = stack.until_idle(session)
    assert len(answers(events)) == 1
    errors = [event.error for event in events if event.type == "session.error"]
    assert [error.retry_status.type for error in errors] == ["retrying"] * len(errors)
    assert errors
    assert errors[0].type == "model_overloaded_error"
    assert events[-1].stop_reason.type == "end_turn"


def test_a_turn_that_cannot_succeed_ends_and_the_session_goes_on(stack: Stack) -> None:
    with stack.worker():
        session = stack.session("fake/error-400x1")
        stack.send(session, said("Hello"))
        events = stack.until_idle(session)
        [error] = [event.error for event in events if event.type == "session.error"]
        assert (error.type, error.retry_status.type) == ("model_request_failed_error", "exhausted")
        assert error.message
        assert events[-1].stop_reason.type == "retries_exhausted"
        stack.send(session, said("And now?"))
        events = stack.until_idle(session, times=2)
    assert len(answers(events)) == 1


def test_messages_are_answered_when_a_worker_comes_later(stack: Stack) -> None:
    sessions = [stack.session() for _ in range(3)]
    for session in sessions:
        stack.send(session, said("Is anybody there?"))
    with stack.worker():
        for session in sessions:
            assert len(answers(stack.until_idle(session))) == 1


def test_a_killed_workers_sessions_are_taken_over_and_each_message_is_answered_once(stack: Stack) -> None:
    sessions = [stack.session("fake/slow-1500") for _ in range(5)]
    with stack.worker() as first:
        for session in sessions:
            stack.send(session, said("Hello"))
        for session in sessions:
            stack.until(session, lambda events: "span.model_request_start" in kinds(events))
        with stack.worker():
            first.kill()
            for session in sessions:
                events = stack.until_idle(session)
                assert len(answers(events)) == 1
                # Begun by the one, and answered to the other: bought once.
                assert count(events)["span.model_request_start"] == 1
                stack.send(session, said("And again"))
            for session in sessions:
                events = stack.until_idle(session, times=2)
                assert len(answers(events)) == 2
                assert [event.seq for event in events] == list(range(1, len(events) + 1))
    bought = "select count(*) from trunkline.usage where status = 200 and source <> 'replay'"
    assert recorded(stack, 10, bought) == [(10,)]


def test_a_frozen_worker_that_comes_back_appends_nothing(stack: Stack) -> None:
    session = stack.session("fake/slow-1500")
    with stack.worker() as first:
        stack.send(session, said("Hello"))
        stack.until(session, lambda events: "span.model_request_start" in kinds(events))
        os.kill(first.pid, signal.SIGSTOP)
        try:
            with stack.worker():
                events = stack.until_idle(session)
                assert len(answers(events)) == 1
        finally:
            os.kill(first.pid, signal.SIGCONT)
        other = stack.session()
        stack.send(other, said("Hello"))
        stack.until_idle(other)
    # Stopped in an orderly way, it has tried to save the answer that it had asked for.
    assert stack.events(session) == events
    log = (stack.folder / "worker.log").read_text()
    assert "Traceback" not in log, log


def test_a_worker_told_to_stop_leaves_its_sessions_to_others_and_revokes_its_keys(stack: Stack) -> None:
    session = stack.session("fake/slow-60000")
    with stack.worker() as first:
        stack.send(session, said("Hello"))
        stack.until(session, lambda events: "span.model_request_start" in kinds(events))
        in_force = "from trunkline.api_keys where name = 'runtime' and revoked_at is null"
        [(scopes, expires)] = stack.query(f"select scopes, expires_at - created_at {in_force}")
        assert scopes == ["inference", "runtime"]
        assert expires.total_seconds() == 24 * 3600
        first.terminate()
        assert first.wait(20) == 0
    assert stack.query("select count(*) from trunkline.api_keys where name = 'runtime' and revoked_at is null") == [
        (0,)
    ]
    assert stack.query("select status, lease_owner from trunkline.sessions") == [("running", None)]
    with stack.worker():
        free = "select count(*) from trunkline.sessions where lease_owner is null"
        stack.until(session, lambda _: stack.query(free) == [(0,)])


def test_a_worker_outlives_its_connections_and_keeps_the_answer(stack: Stack) -> None:
    session = stack.session("fake/slow-1500")
    with stack.worker():
        stack.send(session, said("Hello"))
        stack.until(session, lambda events: "span.model_request_start" in kinds(events))
        stack.query(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and usename = 'trunkline_control'"
        )
        events = stack.until_idle(session)
        assert len(answers(events)) == 1
        other = stack.session()
        stack.send(other, said("Still there?"))
        assert len(answers(stack.until_idle(other))) == 1


def test_tenants_are_served_with_keys_of_their_own(stack: Stack) -> None:
    other = stack.control.sdk(stack.control.another_tenant())
    with stack.worker():
        agent = other.beta.agents.create(name="theirs", model="test")
        theirs = other.beta.sessions.create(agent=agent.id, environment_id="default").id
        other.beta.sessions.events.send(theirs, events=[said("Hello")])  # type: ignore[list-item]
        ours = stack.session()
        stack.send(ours, said("Hello"))
        stack.until_idle(ours)
        give_up = time.monotonic() + PATIENCE_S
        while other.beta.sessions.retrieve(theirs).status != "idle":
            assert time.monotonic() < give_up
            time.sleep(0.05)
        assert len(stack.query("select distinct tenant_id from trunkline.api_keys where name = 'runtime'")) == 2
        assert len(recorded(stack, 2, "select distinct tenant_id from trunkline.usage")) == 2


def test_daily_tasks_that_are_due_are_done_when_a_worker_starts(stack: Stack) -> None:
    left = "select count(*) from trunkline_queue.procrastinate_jobs where task_name = 'left'"
    with psycopg.connect(stack.database.admin_url) as connection:
        connection.execute("set search_path = trunkline_queue")
        connection.execute("insert into procrastinate_workers (last_heartbeat) values (now() - interval '2 hours')")
        connection.execute(
            "insert into procrastinate_jobs (queue_name, task_name, status, worker_id)"
            " select 'sessions', 'left', 'doing', id from procrastinate_workers"
        )
        newest = connection.execute(
            "select max(inhrelid::regclass::text) from pg_inherits"
            " where inhparent = 'trunkline.usage'::regclass and inhrelid::regclass::text ~ '_2'"
        ).fetchone()
        assert newest is not None
        connection.execute(f"drop table {newest[0]}")
        connection.execute(
            "insert into trunkline.idempotency_keys select id, age::text, '{}', now() - age * interval '1 hour'"
            " from trunkline.tenants, unnest(array[1, 30]) as age"
        )
    assert stack.query(left) == [(1,)]
    with stack.worker():
        give_up = time.monotonic() + PATIENCE_S
        while (
            stack.query(left) != [(0,)]
            or stack.query(f"select to_regclass('{newest[0]}')") == [(None,)]
            or stack.query("select key from trunkline.idempotency_keys where key in ('1', '30')") != [("1",)]
        ):
            assert time.monotonic() < give_up, (stack.folder / "worker.log").read_text()
            time.sleep(0.05)


def test_a_session_works_in_the_name_of_the_key_that_gave_it_work(stack: Stack, model_server: str) -> None:
    weather: Any = WEATHER
    agent = stack.sdk.beta.agents.create(name="named", model="test", tools=[weather])
    text = stack.control.new_key(name="desk", scopes=["manage"], agent_id=agent.id, budget_usd=5, tools=["refund"])
    with stack.control.http(text) as http:
        (key,) = [key for key in http.get("/v1/keys").json()["data"] if key["name"] == "desk"]
        session = stack.sdk.beta.sessions.create(agent=agent.id, environment_id="default").id
        with stack.worker():
            stack.send(session, said("As the administrator"))
            stack.until_idle(session)
            words: Any = said("As the desk")
            stack.control.sdk(text).beta.sessions.events.send(session, events=[words])
            stack.until_idle(session, times=2)
        # What the desk asked is counted as the desk's, and the tool that it was not granted was not offered.
        calls = recorded(stack, 2, "select key_id from trunkline.usage where status = 200 order by created_at")
        assert [f"key_{call.hex}" == key["id"] for (call,) in calls] == [False, True]
        asked = [request["body"] for request in httpx.get(f"{model_server}/_requests").json()]
        offered = ["weather" in str(body.get("tools")) for body in asked if "As the admin" in str(body["messages"])]
        assert offered == [True, False]


def test_work_of_a_key_that_was_revoked_is_not_carried_out(stack: Stack) -> None:
    agent = stack.sdk.beta.agents.create(name="named", model="test")
    theirs = stack.control.sdk(stack.control.new_key(name="leaver", scopes=["manage"], agent_id=agent.id))
    session = theirs.beta.sessions.create(agent=agent.id, environment_id="default").id
    words: Any = said("One more thing")
    theirs.beta.sessions.events.send(session, events=[words])
    with stack.control.http() as http:
        (key,) = [key for key in http.get("/v1/keys").json()["data"] if key["name"] == "leaver"]
        assert http.delete(f"/v1/keys/{key['id']}").status_code == 200
    with stack.worker():
        events = stack.until_idle(session)
    (error,) = [event for event in events if event.type == "session.error"]
    assert "was revoked" in error.error.message
    assert events[-1].stop_reason.type == "retries_exhausted"
    assert stack.query("select count(*) from trunkline.usage where status = 200")[0][0] == 0


def compacting(**context: Any) -> dict[str, Any]:
    """An agent's keys by which its conversations leave their prompts soon."""
    return {"extra_body": {"memory": {"context": {"budget_tokens": 150, "keep_turns": 1, **context}}}}


def text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


def asked_with(model_server: str, words: str) -> list[dict[str, Any]]:
    """What the model server was asked, where these words are in it."""
    bodies = [request["body"] for request in httpx.get(f"{model_server}/_requests").json()]
    return [body for body in bodies if words in str(body)]


def test_turns_that_have_left_the_prompt_are_in_the_log_and_are_found_again(
    database: DatabaseUrls, tmp_path: Path
) -> None:
    script = tmp_path / "script.yaml"
    script.write_text(
        """
rules:
  - when: {last_role: tool, user: "which number"}
    reply: "Found: {{tool_result}}"
  - when: {user: "which number", has_tool: memory_search}
    tool_calls:
      - {name: memory_search, arguments: {query: "lucky number"}}
"""
    )
    with model_server.started("--script", str(script)) as model, stack_on(database, model.url, tmp_path) as stack:
        with stack.worker():
            session = stack.session(**compacting())
            told = ("My lucky number is 4711. " + "filler " * 60, "Another matter. " + "filler " * 60, "which number?")
            for turn, words in enumerate(told, start=1):
                stack.send(session, said(words))
                events = stack.until_idle(session, times=turn)
        assert "4711" in answers(events)[-1], "the turn was found"
        asked = asked_with(model.url, "which number?")
        assert all("older turns are left out" in text(body["messages"][0]) for body in asked)
        assert "Another matter" in text(asked[0]["messages"][1])
        assert "4711" not in str(asked[0]["messages"][:-1]), "it had left the conversation"
        assert "4711" in text(asked[0]["messages"][-1]), "and is recalled"
        [cut] = [event for event in events if event.type == "agent.thread_context_compacted"]
        assert cut.kept_from_seq == [event.seq for event in events if event.type == "user.message"][1]
        assert count(events)["user.message"] == len(told), "the log is whole"


def test_a_summary_is_bought_once_though_its_worker_is_killed(stack: Stack, model_server: str) -> None:
    session = stack.session(**compacting(summary={"model": "fake/slow-1500"}))
    with stack.worker() as first:
        stack.send(session, said("The parcel is blue. " + "filler " * 60))
        stack.until_idle(session)
        stack.send(session, said("It is heavy. " + "filler " * 60))
        stack.until(session, lambda _: bool(asked_with(model_server, "You sum up the older part of a conversation")))
        with stack.worker():
            first.kill()
            events = stack.until_idle(session, times=2)
    [cut] = [event for event in events if event.type == "agent.thread_context_compacted"]
    [summary] = asked_with(model_server, "You sum up the older part of a conversation")
    assert "The parcel is blue." in text(summary["messages"][0])
    assert "It is heavy." not in str(summary)
    shown = asked_with(model_server, "It is heavy.")
    assert shown
    for body in shown:
        assert len(body["messages"]) == 2
        assert escape(cut.summary) in text(body["messages"][0])
    ends = [event.model_usage for event in events if event.type == "span.model_request_end"]
    read = stack.sdk.beta.sessions.retrieve(session)
    assert len(ends) == 3, "the summary is a model request of its own, and counted"
    assert read.usage.input_tokens == sum(usage.input_tokens for usage in ends)


def test_a_turn_goes_on_without_a_summary_that_cannot_be_made(stack: Stack, model_server: str) -> None:
    session = stack.session(**compacting(summary={"model": "no-such-model"}))
    with stack.worker():
        for turn, words in enumerate(("The crate is green. ", "It is round. "), start=1):
            stack.send(session, said(words + "filler " * 60))
            events = stack.until_idle(session, times=turn)
    assert len(answers(events)) == 2
    [cut] = [event for event in events if event.type == "agent.thread_context_compacted"]
    assert "summary" not in cut.to_dict()
    [asked] = asked_with(model_server, "It is round.")
    assert "older turns are left out" in text(asked["messages"][0])
    assert len(asked["messages"]) == 2
