"""Blocks against models of them: operations in any order, writers at once, and the two places that render."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from psycopg.types.json import Jsonb

from support.control_plane import ControlPlane
from support.memory import new_agent, ok, write
from support.postgres import DatabaseUrls
from trunkline.domain.times import to_wire
from trunkline.memory.blocks import parse_block
from trunkline.memory.declarations import declared
from trunkline.memory.render import parts, render

FIELDS: dict[str, Any] = {
    "count": {"type": "integer"},
    "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 2000},
    "notes": {"type": "object", "additionalProperties": {"type": "string"}},
    "name": {"type": "string"},
}
KEYS = st.sampled_from(["a", "b", "c"])
SMALL = st.integers(-5, 5)


def test_operations_do_what_the_model_does(plane: ControlPlane) -> None:
    """Each step is checked against plain Python; at the end, each version's past against what was there then."""
    agent = new_agent(plane, "modelled", {"blocks": {"b": {"scope": "user", "fields": FIELDS}}})
    http = plane.http()
    users = iter(range(1_000_000))

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.user = {"user_id": f"u{next(users)}"}
            self.model: dict[str, Any] = {}
            self.past: list[dict[str, Any]] = []

        def act(self, after: dict[str, Any], *operations: Any) -> None:
            answer = ok(write(http, agent, "b", *operations, **self.user))
            changed = json.dumps(after, sort_keys=True) != json.dumps(self.model, sort_keys=True)
            assert answer["changed"] == changed
            self.model = after
            if changed:
                self.past.append(copy.deepcopy(after))
            assert (answer["value"], answer["version"]) == (self.model, len(self.past))

        @rule(by=SMALL)
        def increment(self, by: int) -> None:
            self.act(
                self.model | {"count": self.model.get("count", 0) + by},
                {"op": "increment", "field": "count", "value": by},
            )

        @rule(item=SMALL)
        def append(self, item: int) -> None:
            items = [*self.model.get("items", []), item]
            self.act(self.model | {"items": items}, {"op": "append", "field": "items", "value": item})

        @rule(item=SMALL)
        def take_out(self, item: int) -> None:
            after = dict(self.model)
            if "items" in after:
                after["items"] = [other for other in after["items"] if other != item]
            self.act(after, {"op": "remove", "field": "items", "value": item})

        @rule(field=st.sampled_from(list(FIELDS)))
        def forget(self, field: str) -> None:
            self.act({k: v for k, v in self.model.items() if k != field}, {"op": "remove", "field": field})

        @rule(key=KEYS, text=st.text(max_size=3, alphabet="xyz"))
        def set_at_path(self, key: str, text: str) -> None:
            notes = {**self.model.get("notes", {}), key: text}
            self.act(self.model | {"notes": notes}, {"op": "set", "field": f"notes.{key}", "value": text})

        @rule(patch=st.dictionaries(KEYS, st.none() | st.text(max_size=3, alphabet="xyz"), max_size=3))
        def merge(self, patch: dict[str, str | None]) -> None:
            notes = {**self.model.get("notes", {}), **patch}
            after = {key: text for key, text in notes.items() if text is not None}
            self.act(self.model | {"notes": after}, {"op": "merge", "field": "notes", "value": patch})

        @rule(item=SMALL, by=SMALL)
        def two_at_once(self, item: int, by: int) -> None:
            after = self.model | {
                "items": [*self.model.get("items", []), item],
                "count": self.model.get("count", 0) + by,
            }
            operations = (
                {"op": "append", "field": "items", "value": item},
                {"op": "increment", "field": "count", "value": by},
            )
            self.act(after, *operations)

        @rule(text=st.sampled_from(["p", "q"]))
        def set_if_absent(self, text: str) -> None:
            operation = {"op": "set", "field": "name", "value": text, "expect_absent": True}
            if self.model.get("name", text) == text:
                self.act(self.model | {"name": text}, operation)
            else:
                assert write(http, agent, "b", operation, **self.user).status_code == 409

        @rule(back=st.integers(0, 3))
        def restore(self, back: int) -> None:
            if len(self.past) <= back:
                return
            wanted = self.past[len(self.past) - 1 - back]
            given = {**self.user, "version": len(self.past) - back}
            answer = ok(http.post(f"/v1/agents/{agent}/memory/b/restore", json=given))
            if wanted != self.model:
                self.past.append(copy.deepcopy(wanted))
                self.model = copy.deepcopy(wanted)
            assert (answer["value"], answer["version"]) == (self.model, len(self.past))

        @invariant()
        def what_is_read_is_what_was_written(self) -> None:
            assert ok(http.get(f"/v1/agents/{agent}/memory/b", params=self.user))["value"] == self.model

        def teardown(self) -> None:
            history = ok(http.get(f"/v1/agents/{agent}/memory/b/history", params=self.user))["data"]
            assert [version["value"] for version in reversed(history)] == self.past
            for version, value in zip(reversed(history), self.past, strict=True):
                at = {**self.user, "as_of": version["created_at"]}
                assert ok(http.get(f"/v1/agents/{agent}/memory/b", params=at))["value"] == value

    with http:
        checks = [HealthCheck.too_slow]
        run_state_machine_as_test(
            Machine,
            settings=settings(max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=checks),
        )


def test_fifty_writers_with_operations_that_commute_are_never_refused(plane: ControlPlane) -> None:
    """Over fifty connections at once: numbers added up, items appended, keys of an object set."""
    agent = new_agent(plane, "commuting", {"blocks": {"b": {"scope": "user", "fields": FIELDS}}})
    rounds = 4

    def act(number: int) -> list[int]:
        with plane.http() as http:
            return [
                write(
                    http,
                    agent,
                    "b",
                    {"op": "increment", "field": "count", "value": number},
                    {"op": "append", "field": "items", "value": number * rounds + turn},
                    {"op": "set", "field": f"notes.k{number}", "value": str(turn)},
                    user_id="u",
                ).status_code
                for turn in range(rounds)
            ]

    with ThreadPoolExecutor(50) as threads:
        statuses = [status for answers in threads.map(act, range(50)) for status in answers]
    assert statuses == [200] * (50 * rounds)
    with plane.http() as http:
        state = ok(http.get(f"/v1/agents/{agent}/memory/b", params={"user_id": "u"}))
    assert state["version"] == 50 * rounds
    assert state["value"]["count"] == rounds * sum(range(50))
    assert sorted(state["value"]["items"]) == list(range(50 * rounds))
    assert state["value"]["notes"] == {f"k{number}": str(rounds - 1) for number in range(50)}


NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TEXTS = st.text(max_size=30) | st.sampled_from(["</memory>", "a\nb", "ü" * 40, "\u2028"])
MOMENTS = st.integers(-3, 3).map(lambda days: to_wire(NOW + timedelta(days=days)))


@st.composite
def rendered_blocks(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    names = ["a", "b", "long_name", "Z", "_x"]
    fields = {name: {"type": "string", "priority": draw(st.integers(-2, 2))} for name in names}
    definition = {
        "scope": "user",
        "description": draw(TEXTS).replace("\0", ""),
        "fields": fields,
        "required": draw(st.lists(st.sampled_from(names), unique=True)),
        "token_budget": draw(st.none() | st.integers(10, 60)),
    }
    value = draw(st.dictionaries(st.sampled_from([*names, "gone"]), TEXTS.map(lambda text: text.replace("\0", ""))))
    states: dict[str, Any] = {}
    for name in value:
        states[name] = {"state": "asserted"}
        if draw(st.booleans()):
            states[name]["stale_at"] = draw(MOMENTS)
        if draw(st.integers(0, 3)) == 0:
            against = draw(st.lists(TEXTS.map(lambda text: text.replace("\0", "")), min_size=1, max_size=5))
            states[name] |= {"state": "conflicted", "against": [{"value": text} for text in against]}
    return definition, value, states


def test_postgres_renders_as_python_does(urls: DatabaseUrls) -> None:
    with psycopg.connect(urls.admin_url) as connection:

        @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(rendered_blocks())
        def check(made: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
            definition, value, states = made
            block = parse_block("b", definition, "b")
            row = declared(block).to_json()
            found = connection.execute(
                "select trunkline.render_block(jsonb_populate_record(null::trunkline.agent_blocks, %s), %s, %s, %s)",
                (Jsonb(row), Jsonb(parts(value, states)), Jsonb(states), NOW),
            ).fetchone()
            assert found is not None
            assert found[0] == render(block, value, states, NOW).text

        check()


def test_one_idempotency_key_writes_once_however_many_send_it(plane: ControlPlane) -> None:
    agent = new_agent(plane, "repeating", {"blocks": {"b": {"scope": "user", "fields": FIELDS}}})

    def act(_: int) -> httpx.Response:
        with plane.http() as http:
            operation = {"op": "increment", "field": "count", "value": 1}
            return write(http, agent, "b", operation, user_id="u", idempotency_key="once")

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(act, range(12)))
    assert [answer.status_code for answer in answers] == [200] * 12
    assert sorted(answer.json()["changed"] for answer in answers) == [False] * 11 + [True]
    assert {answer.json()["value"]["count"] for answer in answers} == {1}
