"""What a session may use: the worker stops at the limit, says so, and goes on when it is raised, whoever goes on."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic.types.beta import BetaManagedAgentsBudgetLimit
from anthropic.types.beta.sessions import BetaManagedAgentsSessionBudgetReached

from integration.test_runtime import Stack, answers, count, kinds, recorded, said, stack
from integration.test_runtime_functions import TOOLS, Served, results, served

__all__ = ["served", "stack"]


def cents(amount: int) -> Any:
    return {"type": "limit", "max_list_cost": {"amount": str(amount), "currency": "USD"}}


def session_of(stack: Stack, model: str = "test", *, tools: Any = (), agent: Any = None, **more: Any) -> str:
    """A new session of a new agent; `agent` are its `limits`, and `more` is for the session."""
    made = stack.sdk.beta.agents.create(
        name=f"agent-{model}".replace("/", "-"), model=model, tools=tools, extra_body={"limits": agent}
    )
    limits = {"limits": more.pop("limits")} if "limits" in more else {}
    return stack.sdk.beta.sessions.create(
        agent=made.id, environment_id="default", metadata={"user_id": "ada"}, extra_body=limits, **more
    ).id


def stops(events: list[Any]) -> list[tuple[str, str | None]]:
    """Why the session was idle, each time; for a limit, with its name."""
    return [
        (event.stop_reason.type, getattr(event.stop_reason, "limit", None))
        for event in events
        if event.type == "session.status_idle"
    ]


def refused(call: Any) -> str:
    with pytest.raises(anthropic.BadRequestError) as error:
        call()
    body: Any = error.value.body
    return str(body["error"]["code"])


def test_a_session_stops_at_its_budget_and_goes_on_when_it_is_raised(stack: Stack) -> None:
    sessions = stack.sdk.beta.sessions
    with stack.control.http() as http:
        hook = {"url": "https://hooks.invalid/", "events": ["session.budget_reached"]}
        assert http.post("/v1/webhooks", json=hook).status_code == 200
    with stack.worker():
        session = session_of(stack, "fake/priced", budget=cents(1))
        stack.send(session, said("Hello"))
        assert stops(stack.until_idle(session)) == [("end_turn", None)]
        spent = sessions.retrieve(session).usage.list_cost
        assert spent is not None
        assert int(spent.amount) >= 1

        stack.send(session, said("And again"))
        events = stack.until_idle(session, 2)
        assert stops(events)[1:] == [("budget_reached", "max_list_cost")]
        assert isinstance(events[-1].stop_reason, BetaManagedAgentsSessionBudgetReached)
        assert kinds(events)[-4:] == ["user.message", "session.status_running", "session.usage", "session.status_idle"]
        assert events[-2].usage.list_cost == spent
        assert isinstance(events[-2].budget, BetaManagedAgentsBudgetLimit)
        assert stack.query("select event_type from trunkline.webhook_deliveries") == [("session.budget_reached",)]

        assert refused(lambda: sessions.update(session, budget=cents(int(spent.amount)))) == "budget_not_raised"
        raised = sessions.update(session, budget=cents(100_000), title="goes on")
        assert raised.budget is not None
        assert raised.budget.max_list_cost.amount == "100000"
        events = stack.until_idle(session, 3)
        assert stops(events)[2:] == [("end_turn", None)]
        assert len(answers(events)) == count(events)["span.model_request_start"] == 2
        (updated,) = [event for event in events if event.type == "session.updated"]
        assert (updated.title, updated.budget) == ("goes on", raised.budget)

        assert sessions.update(session, budget=None).budget is None
        assert refused(lambda: sessions.update(session, budget=cents(100_000))) == "budget_create_only"
    cost = "select round(sum(cost_usd) * 1000000000)::bigint from trunkline.usage"
    assert recorded(stack, 2, cost) == stack.query("select cost_nano from trunkline.sessions")


def test_a_budget_cannot_be_kept_with_a_model_that_has_no_price(stack: Stack) -> None:
    sessions = stack.sdk.beta.sessions
    with stack.worker():
        session = session_of(stack, "fake/unpriced", budget=cents(100_000))
        stack.send(session, said("Hello"))
        stack.until_idle(session)
        stack.send(session, said("And again"))
        assert stops(stack.until_idle(session, 2))[1:] == [("budget_reached", "max_list_cost")]
        assert sessions.retrieve(session).usage.list_cost is None
        assert refused(lambda: sessions.update(session, budget=cents(200_000))) == "model_not_budgetable"
        sessions.update(session, budget=None)
        events = stack.until_idle(session, 3)
        assert stops(events)[2:] == [("end_turn", None)]
        assert len(answers(events)) == 2


def test_what_a_killed_worker_used_counts_for_the_one_that_takes_over(stack: Stack) -> None:
    session = session_of(stack, "fake/slow-1500", budget=cents(1))
    with stack.worker() as first:
        stack.send(session, said("Hello"))
        stack.until(session, lambda events: "span.model_request_start" in kinds(events))
        with stack.worker():
            first.kill()
            events = stack.until_idle(session)
            assert len(answers(events)) == 1
            found = stack.sdk.beta.sessions.retrieve(session)
            assert (found.usage.active_seconds or 0) > 1
            assert found.usage.turns == 1  # type: ignore[attr-defined] # an addition
            cost = "select round(sum(cost_usd) * 1000000000)::bigint from trunkline.usage where status = 200"
            bought = recorded(stack, 1, cost)
            assert bought[0][0] > 10_000_000
            assert stack.query("select cost_nano from trunkline.sessions") == bought
            stack.send(session, said("And again"))
            assert stops(stack.until_idle(session, 2))[1:] == [("budget_reached", "max_list_cost")]
            stack.sdk.beta.sessions.update(session, budget=None, extra_body={"limits": {"max_active_seconds": 1}})
            stack.send(session, said("And again"))
            assert stops(stack.until_idle(session, 3))[2:] == [("budget_reached", "max_active_seconds")]
            assert len(answers(stack.events(session))) == 1


def test_tools_wait_for_a_raised_limit_and_are_then_carried_out_once(served: Served) -> None:
    stack = served.stack
    session = session_of(stack, tools=TOOLS, agent={"max_turns": 1})
    with served.worker() as first:
        stack.send(session, said("twice"))
        events = stack.until_idle(session)
        assert stops(events) == [("budget_reached", "max_turns")]
        assert count(events)["agent.tool_use"] == 2
        assert served.noted("met") == []
        first.kill()
    with served.worker():
        stack.sdk.beta.sessions.update(session, extra_body={"limits": {"max_turns": 2}})
        events = stack.until_idle(session, 2)
        assert stops(events)[1:] == [("end_turn", None)]
        assert results(events) == [("ada met 2", False)] * 2
        assert len(served.noted("met")) == 2
        stack.send(session, said("twice"))
        assert stops(stack.until_idle(session, 3))[2:] == [("budget_reached", "max_turns")]


def test_a_call_that_waited_is_not_begun_twice(served: Served) -> None:
    """Stopped before its tools, raised, and the worker killed while it carries them out."""
    stack = served.stack
    session = session_of(stack, tools=TOOLS, limits={"max_turns": 1})
    with served.worker() as first:
        stack.send(session, said("both"))
        stack.until_idle(session)
        assert (served.noted("safe"), served.noted("unsafe")) == ([], [])
        stack.sdk.beta.sessions.update(session, extra_body={"limits": None})
        stack.until(session, lambda _: bool(served.noted("safe") and served.noted("unsafe")))
        with served.worker():
            first.kill()
            events = stack.until_idle(session, 2)
    (safe, unsafe) = sorted(results(events))[::-1]
    assert safe == ("done", False)
    assert "unknown" in unsafe[0]
    assert len(served.noted("unsafe")) == 1
    assert len(served.noted("safe")) == 2


def test_tokens_count_and_a_raise_that_is_too_small_changes_nothing(stack: Stack) -> None:
    with stack.worker():
        session = session_of(stack, agent={"max_tokens": 1_000_000}, limits={"max_tokens": 1})
        stack.send(session, said("Hello"))
        stack.until_idle(session)
        stack.send(session, said("And again"))
        assert stops(stack.until_idle(session, 2))[1:] == [("budget_reached", "max_tokens")]
        stack.sdk.beta.sessions.update(session, extra_body={"limits": {"max_tokens": 2}})
        assert stack.sdk.beta.sessions.retrieve(session).status == "idle"
        stack.sdk.beta.sessions.update(session, extra_body={"limits": {"max_tokens": None}})
        assert len(answers(stack.until_idle(session, 3))) == 2


def test_an_agents_limits_are_those_of_its_sessions_unless_they_say_otherwise(stack: Stack) -> None:
    sdk: Any = stack.sdk.beta
    limits = {"max_turns": 5, "max_tokens": 1000, "max_list_cost": {"amount": "250", "currency": "USD"}}
    agent = sdk.agents.create(name="bounded", model="test", extra_body={"limits": limits})
    assert agent.limits == limits | {"max_active_seconds": None}
    plain = sdk.sessions.create(agent=agent.id, environment_id="default")
    assert (plain.limits, plain.budget.max_list_cost.amount) == ({"max_turns": 5, "max_tokens": 1000}, "250")
    own = sdk.sessions.create(
        agent=agent.id, environment_id="default", budget=cents(10), extra_body={"limits": {"max_turns": 50}}
    )
    assert (own.limits, own.budget.max_list_cost.amount) == ({"max_turns": 50, "max_tokens": 1000}, "10")
    with stack.control.http() as http:
        fork = http.post(f"/v1/sessions/{own.id}/fork", json={}).json()
        assert (fork["limits"], fork["budget"]) == (own.limits, cents(10))
        for wrong in ({"max_turns": 0}, {"max_turns": "many"}, {"turns": 1}, {"max_list_cost": cents(1)}):
            assert http.post(f"/v1/sessions/{own.id}", json={"limits": wrong}).status_code == 400
        for amount in ("0", "-1", "1.5", 5, "05"):
            wrong_budget = {"type": "limit", "max_list_cost": {"amount": amount, "currency": "USD"}}
            answer = http.post("/v1/sessions", json={"agent": agent.id, "budget": wrong_budget})
            assert answer.status_code == 400, amount
    again = sdk.agents.update(agent.id, version=agent.version, extra_body={"limits": None})
    assert again.limits is None
    free = sdk.sessions.create(agent=agent.id, environment_id="default")
    assert (free.limits, free.budget) == ({}, None)
    assert sdk.sessions.retrieve(plain.id).limits == {"max_turns": 5, "max_tokens": 1000}
