from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest

from support.control_plane import ControlPlane
from support.memory import MEMORY, SESSION, new_agent, ok, write

pytestmark = pytest.mark.tenant


def set_name(value: Any, **more: Any) -> dict[str, Any]:
    return {"op": "set", "field": "name", "value": value, **more}


def test_an_unwritten_block_is_there_and_empty(control: ControlPlane) -> None:
    agent = new_agent(control)
    with control.http() as http:
        listed = ok(http.get(f"/v1/agents/{agent}/memory", params={"user_id": "cus_42"}))
        assert [block["block"] for block in listed["blocks"]] == ["rules", "team", "customer"]
        assert listed["left_out"] == [{"block": "case", "scope": "session", "needs": "session_id"}]
        customer = listed["blocks"][-1]
    assert customer["value"] == {}
    assert (customer["version"], customer["content_sha256"], customer["memory_id"]) == (0, None, None)
    assert customer["states"]["name"] == {"state": "unknown"}
    assert "required but unknown: name" in customer["rendered"]


def test_what_is_written_is_read_with_states_and_rendering(control: ControlPlane) -> None:
    agent = new_agent(control)
    with control.http() as http:
        first = ok(write(http, agent, "customer", set_name("Ada </memory>"), user_id="cus_42"))
        operation = {"op": "merge", "field": "preferences", "value": {"size": "M", "colour": "green"}}
        second = ok(write(http, "helper", "customer", operation, user_id="cus_42"))
        read = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "cus_42"}))
        other = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "cus_43"}))
    assert (first["version"], second["version"], second["changed"]) == (1, 2, True)
    assert read["value"] == {"name": "Ada </memory>", "preferences": {"colour": "green", "size": "M"}}
    content = '{"name":"Ada </memory>","preferences":{"colour":"green","size":"M"}}'
    assert read["content_sha256"] == hashlib.sha256(content.encode()).hexdigest()
    assert read["states"]["name"] == first["states"]["name"], "a field keeps the version that last changed it"
    assert read["states"]["preferences"]["state"] == "asserted"
    assert read["states"]["preferences"]["version_id"] != read["states"]["name"]["version_id"]
    assert read["states"]["recent_purchases"] == {"state": "unknown"}
    assert read["rendered"] == (
        '<memory block="customer" scope="user">\n'
        "Who the customer is and what they like.\n"
        'name: "Ada \\u003c/memory\\u003e"\n'
        'preferences: {"colour": "green", "size": "M"}\n'
        "unknown: recent_purchases\n"
        "</memory>"
    )
    assert other["version"] == 0, "another user has a block of their own"


def test_history_tells_who_wrote_what(control: ControlPlane) -> None:
    agent = new_agent(control)
    with control.http() as http:
        for name in ("Ada", "Bea", "Cleo"):
            ok(write(http, agent, "customer", set_name(name), user_id="cus_42"))
        where = f"/v1/agents/{agent}/memory/customer/history"
        versions = ok(http.get(where, params={"user_id": "cus_42"}))["data"]
        older = ok(http.get(where, params={"user_id": "cus_42", "before_version": 3, "limit": 1}))["data"]
        nobody = ok(http.get(where, params={"user_id": "cus_43"}))["data"]
        keys = {key["id"] for key in ok(http.get("/v1/keys"))["data"]}
    assert [version["version"] for version in versions] == [3, 2, 1]
    assert [version["operation"] for version in versions] == ["modified", "modified", "created"]
    assert versions[0]["operations"] == [set_name("Cleo")]
    assert versions[0]["value"] == {"name": "Cleo"}
    assert versions[0]["actor"]["type"] == "api_key"
    assert versions[0]["actor"]["id"] in keys
    assert older == versions[1:2]
    assert nobody == []


def test_what_holds_already_makes_no_version(control: ControlPlane) -> None:
    agent = new_agent(control)
    with control.http() as http:
        ok(write(http, agent, "customer", {"op": "remove", "field": "name"}, user_id="u"))
        first = ok(write(http, agent, "customer", set_name("Ada"), user_id="u"))
        for repeat in (
            set_name("Ada"),
            set_name("Ada", expect_sha256="0" * 64),
            {"op": "remove", "field": "preferences.size"},
            {"op": "merge", "value": {"name": "Ada"}},
        ):
            again = ok(write(http, agent, "customer", repeat, user_id="u"))
            assert (again["version"], again["changed"]) == (1, False)
    assert first["version"] == 1


def test_preconditions(control: ControlPlane) -> None:
    agent = new_agent(control)
    with control.http() as http:
        first = ok(write(http, agent, "customer", set_name("Ada", expect_version=0), user_id="u"))
        second = ok(write(http, agent, "customer", set_name("Bea", expect_sha256=first["content_sha256"]), user_id="u"))
        late = write(http, agent, "customer", set_name("Cleo", expect_sha256=first["content_sha256"]), user_id="u")
        wrong = write(http, agent, "customer", set_name("Cleo", expect_version=1), user_id="u")
        fresh = write(http, agent, "customer", set_name("Cleo", expect_sha256=""), user_id="u")
        now = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "u"}))
    for refused in (late, wrong, fresh):
        assert refused.status_code == 409
        error = refused.json()["error"]
        assert error["type"] == "memory_precondition_failed_error"
        assert error["current"]["value"] == {"name": "Bea"}
        assert error["current"]["content_sha256"] == second["content_sha256"]
    assert now["version"] == 2


def test_all_operations_of_a_call_or_none(control: ControlPlane) -> None:
    agent = new_agent(control)
    with control.http() as http:
        refused = write(
            http, agent, "customer", set_name("Ada"), {"op": "set", "field": "age", "value": 3}, user_id="u"
        )
        state = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "u"}))
    assert refused.status_code == 400
    assert "customer: has no field" in refused.json()["error"]["message"]
    assert state["version"] == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "`operations`: is missing"),
        ({"operations": []}, "operations: must be a list"),
        ({"operations": [set_name("a")], "operation": 1}, "`operation`: is not a known field"),
        ({"operations": [set_name(5)]}, "customer.name: must be string, got integer 5"),
        ({"operations": [set_name("x" * 102_400)]}, "a memory holds at most 102400"),
        (
            {"operations": [{"op": "merge", "field": "preferences", "value": {str(n): "" for n in range(10_000)}}]},
            "values",
        ),
        ({"operations": [set_name("a\0")]}, "NUL"),
        ({"operations": [set_name("a")], "user_id": ""}, "user_id"),
        ({"operations": [set_name("a")], "user_id": "u" * 257}, "user_id"),
        ({"operations": [set_name("a")], "user_id": None}, "names no user"),
    ],
)
def test_bad_operations_are_refused_and_write_nothing(control: ControlPlane, body: Any, words: str) -> None:
    agent = new_agent(control)
    with control.http() as http:
        answer = http.post(f"/v1/agents/{agent}/memory/customer/operations", json={"user_id": "u", **body})
        state = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "u"}))
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert state["version"] == 0


def test_bodies_that_json_can_say_and_memory_cannot_hold(control: ControlPlane) -> None:
    agent = new_agent(control)
    where = f"/v1/agents/{agent}/memory/customer/operations"
    bodies = {
        "NaN": b'{"operations": [{"op": "set", "field": "name", "value": NaN}], "user_id": "u"}',
        "surrogate": b'{"operations": [{"op": "set", "field": "name", "value": "\\ud800"}], "user_id": "u"}',
        "deep": b'{"operations": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "digits": b'{"operations": [{"op": "set", "field": "name", "value": ' + b"9" * 5_000 + b"}]}",
    }
    with control.http() as http:
        for what, body in bodies.items():
            answer = http.post(where, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 400, what
            assert answer.json()["error"]["type"] == "invalid_request_error"
        big = http.post(where, json={"operations": [set_name("x" * 10_000_000)], "user_id": "u"})
        assert big.status_code == 413
        assert ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "u"}))["version"] == 0


def test_each_scope_has_its_own_subject(control: ControlPlane) -> None:
    agent, other = new_agent(control, "one"), new_agent(control, "two")
    session = {"session_id": SESSION}
    with control.http() as http:
        ok(write(http, agent, "rules", {"op": "set", "field": "text", "value": "Be kind."}))
        ok(write(http, agent, "team", {"op": "append", "field": "members", "value": "Ada"}))
        ok(write(http, agent, "case", {"op": "set", "field": "topic", "value": "refund"}, **session))
        mine = ok(http.get(f"/v1/agents/{agent}/memory", params={**session, "user_id": "u"}))["blocks"]
        theirs = ok(http.get(f"/v1/agents/{other}/memory", params={**session, "user_id": "u"}))["blocks"]
    assert [block["version"] for block in mine] == [1, 1, 0, 1]
    assert theirs[0]["value"] == {"text": "Be kind."}, "org memory is shared by agents that declare the block"
    assert [block["version"] for block in theirs[1:3]] == [0, 0]


def test_a_missing_subject_is_named(control: ControlPlane) -> None:
    agent = new_agent(control)
    lonely = new_agent(control, "lonely", {"blocks": {"customer": MEMORY["blocks"]["customer"]}})
    with control.http() as http:
        answers = [
            http.get(f"/v1/agents/{agent}/memory/customer"),
            http.get(f"/v1/agents/{agent}/memory/customer/history"),
            write(http, agent, "customer", set_name("Ada")),
            write(http, agent, "case", {"op": "set", "field": "topic", "value": "x"}),
            http.get(f"/v1/agents/{lonely}/memory"),
        ]
    assert [answer.status_code for answer in answers] == [400] * 5
    assert [answer.json()["error"]["param"] for answer in answers] == ["user_id"] * 3 + ["session_id", "user_id"]


def test_an_idempotency_key_carries_out_once(control: ControlPlane) -> None:
    agent = new_agent(control)
    append = {"op": "append", "field": "recent_purchases", "value": "lamp"}
    with control.http() as http:
        first = ok(write(http, agent, "customer", append, user_id="u", idempotency_key="k1"))
        again = ok(write(http, agent, "customer", append, user_id="u", idempotency_key="k1"))
        other = write(http, agent, "customer", set_name("Ada"), user_id="u", idempotency_key="k1")
        without = ok(write(http, agent, "customer", append, user_id="u"))
    assert (first["changed"], again["changed"]) == (True, False)
    assert again["value"] == {"recent_purchases": ["lamp"]}
    assert other.status_code == 409
    assert without["value"] == {"recent_purchases": ["lamp", "lamp"]}


def test_a_refused_operation_does_not_use_up_its_idempotency_key(control: ControlPlane) -> None:
    agent = new_agent(control)
    with control.http() as http:
        refused = write(http, agent, "customer", set_name("Ada", expect_version=7), user_id="u", idempotency_key="k")
        assert refused.status_code == 409
        ok(write(http, agent, "customer", set_name("Bea"), user_id="u"))
        retried = write(http, agent, "customer", set_name("Ada", expect_version=1), user_id="u", idempotency_key="k")
    assert ok(retried)["value"] == {"name": "Ada"}


def test_a_field_that_a_new_version_of_the_agent_drops_stays_in_the_history(control: ControlPlane) -> None:
    agent = new_agent(control, memory={"blocks": {"customer": {"fields": {"name": {}, "old": {"type": "string"}}}}})
    with control.http() as http:
        ok(write(http, agent, "customer", {"op": "set", "field": "old", "value": "kept"}, user_id="u"))
        block: dict[str, Any] = {"fields": {"name": {"type": "string"}}}
        change = {"version": 1, "memory": {"blocks": {"customer": block}}}
        assert http.post(f"/v1/agents/{agent}", json=change).status_code == 409
        block["migrate"] = [{"drop": "old"}]
        ok(http.post(f"/v1/agents/{agent}", json=change))
        state = ok(write(http, agent, "customer", set_name("Ada"), user_id="u"))
        first = ok(http.get(f"/v1/agents/{agent}/memory/customer/history", params={"user_id": "u"}))["data"][-1]
    assert state["value"] == {"name": "Ada"}
    assert "kept" not in state["rendered"]
    assert first["value"] == {"old": "kept"}


def test_unknown_agents_and_blocks(control: ControlPlane) -> None:
    new_agent(control)
    with control.http() as http:
        for path in (
            "nobody/memory",
            "helper/memory/custom",
            f"agent_{'0' * 32}/memory",
            "helper/memory/custom/history",
        ):
            answer = http.get(f"/v1/agents/{path}", params={"user_id": "u"})
            assert answer.status_code == 404, path
        assert "its blocks: rules, team, customer, case" in answer.json()["error"]["message"]


def test_an_agent_without_memory_says_so(control: ControlPlane) -> None:
    with control.http() as http:
        ok(http.post("/v1/agents", json={"name": "plain", "model": "m"}))
        assert ok(http.get("/v1/agents/plain/memory"))["blocks"] == []
        answer = write(http, "plain", "customer", set_name("Ada"), user_id="u")
    assert answer.status_code == 404
    assert "declares no blocks" in answer.json()["error"]["message"]


def test_a_managed_store_that_is_archived_or_deleted(control: ControlPlane) -> None:
    agent = new_agent(control)
    with control.http() as http:
        store = ok(write(http, agent, "customer", set_name("Ada"), user_id="u"))["store_id"]
        ok(http.post(f"/v1/memory_stores/{store}/archive"))
        refused = write(http, agent, "customer", set_name("Bea"), user_id="u")
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "memory_store_archived"
        ok(http.delete(f"/v1/memory_stores/{store}"))
        again = ok(write(http, agent, "customer", set_name("Bea"), user_id="u"))
    assert again["version"] == 1
    assert again["store_id"] != store


def test_numbers_are_kept_as_they_were_written(control: ControlPlane) -> None:
    agent = new_agent(control, memory={"blocks": {"n": {"scope": "agent", "fields": {"a": {}}}}})
    value = [1.0, 1e22, -0.0, 2**63 - 1, 0.1, 5e-324]
    with control.http() as http:
        ok(write(http, agent, "n", {"op": "set", "field": "a", "value": value}))
        answer: httpx.Response = http.get(f"/v1/agents/{agent}/memory/n")
    assert repr(answer.json()["value"]["a"]) == repr(value)
