"""The life of a field: who said it, how long it holds, what contradicts it, and what a new schema makes of it."""

from __future__ import annotations

import time
from typing import Any

import httpx
import psycopg
import pytest

from support.control_plane import ControlPlane
from support.memory import SESSION, new_agent, ok, tool, write
from support.postgres import DatabaseUrls

USER = {"user_id": "cus_42"}
FIELDS: dict[str, Any] = {
    "name": {"type": "string", "required": True},
    "address": {"type": "string", "on_conflict": "record"},
    "mood": {"type": "string", "stale_after": "1s"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "points": {"type": "integer", "minimum": 0},
    "notes": {"type": "string"},
}


def agent_of(plane: ControlPlane, name: str, fields: Any = None, **memory: Any) -> str:
    block = {"scope": "user", "fields": fields or FIELDS}
    return new_agent(plane, name, {"blocks": {"customer": block}, **memory})


def prompt(urls: DatabaseUrls, agent: str, user: str = "cus_42") -> str:
    """What the gateway's own function gives a call, with the gateway's rights."""
    with psycopg.connect(urls.gateway_url) as connection, psycopg.connect(urls.admin_url) as admin:
        row = admin.execute(
            "select tenant_id, id, current_version from trunkline.agents where id = %s", (agent.removeprefix("agent_"),)
        ).fetchone()
        assert row is not None
        found = connection.execute(
            "select blocks from trunkline.gateway_context(%s, %s, %s, %s, null, null, null, 0)", (*row, user)
        ).fetchone()
    assert found is not None
    return str(found[0])


def test_each_value_knows_who_said_it_and_when(plane: ControlPlane, http: httpx.Client) -> None:
    agent = agent_of(plane, "provenance")
    event = "sevt_0193f0a4c1b27c55a1c8b4c0a1b2c3d5"
    given = {"operations": [{"op": "set", "block": "customer", "field": "name", "value": "Ada"}]}
    assert not ok(tool(http, agent, "memory_update", given, event_id=event))["is_error"]
    state = ok(write(http, agent, "customer", {"op": "set", "field": "notes", "value": "n"}, **USER))
    name, notes = state["states"]["name"], state["states"]["notes"]
    assert name["by"] == {"type": "session_actor", "session_id": SESSION}
    assert (name["session_id"], name["event_id"]) == (SESSION, event)
    assert notes["by"]["type"] == "api_actor"
    assert notes["version_id"] != name["version_id"]
    assert name["valid_from"] == name["at"] < notes["at"]
    history = ok(http.get(f"/v1/agents/{agent}/memory/customer/history", params=USER))["data"]
    assert history[0]["states"]["name"] == name, "a value's provenance stays with it in every later version"


def test_a_value_becomes_stale_by_the_clock_and_the_prompt_says_so(
    plane: ControlPlane, http: httpx.Client, urls: DatabaseUrls
) -> None:
    agent = agent_of(plane, "staleness")
    ok(write(http, agent, "customer", {"op": "set", "field": "mood", "value": "glad"}, **USER))
    assert "stale" not in prompt(urls, agent)
    deadline = time.monotonic() + 20
    while "stale, confirm before use: mood" not in prompt(urls, agent) and time.monotonic() < deadline:
        time.sleep(0.1)
    read = ok(http.get(f"/v1/agents/{agent}/memory/customer", params=USER))
    assert read["states"]["mood"]["state"] == "stale"
    assert read["rendered"] == prompt(urls, agent)
    assert read["version"] == 1, "nobody wrote"
    again = ok(write(http, agent, "customer", {"op": "set", "field": "mood", "value": "glad"}, **USER))
    assert again["changed"], "saying it again confirms it"
    assert again["states"]["mood"]["state"] == "asserted"


def test_a_value_holds_from_and_until(plane: ControlPlane, http: httpx.Client) -> None:
    agent = agent_of(plane, "validity")
    first = {"op": "set", "field": "notes", "value": "a", "valid_from": "2026-01-01T00:00:00Z"}
    ok(write(http, agent, "customer", {**first, "valid_to": "2026-02-01T00:00:00Z"}, **USER))
    read = ok(http.get(f"/v1/agents/{agent}/memory/customer", params=USER))
    assert read["states"]["notes"]["state"] == "stale"
    assert read["states"]["notes"]["valid_to"] == "2026-02-01T00:00:00Z"
    earlier = {"op": "set", "field": "notes", "value": "b", "valid_from": "2025-01-01T00:00:00Z"}
    refused = write(http, agent, "customer", earlier, **USER)
    assert refused.status_code == 400
    assert "would supersede" in refused.text
    future = {"op": "set", "field": "notes", "value": "b", "valid_from": "2999-01-01T00:00:00Z"}
    assert write(http, agent, "customer", future, **USER).status_code == 400
    ended = {"op": "set", "field": "notes", "value": "b", "valid_to": "2001-01-01T00:00:00Z"}
    assert write(http, agent, "customer", ended, **USER).status_code == 400
    assert write(http, agent, "customer", {**first, "valid_from": "yesterday"}, **USER).status_code == 400


def test_a_contradiction_is_kept_beside_the_value_until_somebody_decides(
    plane: ControlPlane, http: httpx.Client, urls: DatabaseUrls
) -> None:
    agent = agent_of(plane, "conflicts")

    def say(address: str, **more: Any) -> Any:
        return ok(write(http, agent, "customer", {"op": "set", "field": "address", "value": address, **more}, **USER))

    say("A Street")
    state = say("B </memory> Road")
    assert state["value"]["address"] == "A Street"
    assert state["states"]["address"]["state"] == "conflicted"
    assert [other["value"] for other in state["states"]["address"]["against"]] == ["B </memory> Road"]
    assert 'conflicted: address, also said to be "B \\u003c/memory\\u003e Road"' in prompt(urls, agent)
    assert prompt(urls, agent) == state["rendered"]
    assert not say("B </memory> Road")["changed"], "it was said already"
    decided = say("B </memory> Road", expect="A Street")
    assert decided["value"]["address"] == "B </memory> Road"
    assert decided["states"]["address"]["state"] == "asserted"
    assert "against" not in decided["states"]["address"]
    assert say("C", on_conflict="supersede")["value"]["address"] == "C"
    assert write(http, agent, "customer", {"op": "set", "field": "address", "value": 5}, **USER).status_code == 400


def test_preconditions_are_each_operations_own(plane: ControlPlane, http: httpx.Client) -> None:
    agent = agent_of(plane, "preconditions")

    def status(*operations: Any) -> int:
        return write(http, agent, "customer", *operations, **USER).status_code

    def put(value: str, **more: Any) -> dict[str, Any]:
        return {"op": "set", "field": "name", "value": value, **more}

    assert status(put("Ada", expect_absent=False)) == 409
    assert status(put("Ada", expect_absent=True)) == 200
    assert status(put("Bea", expect_absent=True)) == 409
    assert status(put("Ada", expect_absent=True)) == 200, "it holds already"
    assert status(put("Bea", expect="Cleo")) == 409
    assert status({"op": "append", "field": "tags", "value": "x"}, put("Bea", expect="Cleo")) == 409
    assert "tags" not in ok(http.get(f"/v1/agents/{agent}/memory/customer", params=USER))["value"], "all or none"
    assert status(put("Bea", expect="Ada"), {"op": "append", "field": "tags", "value": "x"}) == 200
    digest = "8f2d0dcbc5a3e3f1c3b1ff5dcc4ffb9ecd6f0cb2aa7a1ae7bd4dcb1dc1cf1c0a"
    assert status(put("Cleo", expect_value_sha256=digest)) == 409
    assert status(put("Cleo", expect_value_sha256=5)) == 400
    conflict = write(http, agent, "customer", put("Cleo", expect_version=1), **USER)
    assert conflict.json()["error"]["current"]["value"]["name"] == "Bea"


def test_increment(plane: ControlPlane, http: httpx.Client) -> None:
    agent = agent_of(plane, "increment")

    def add(by: Any, field: str = "points") -> httpx.Response:
        return write(http, agent, "customer", {"op": "increment", "field": field, "value": by}, **USER)

    assert ok(add(5))["value"]["points"] == 5
    assert ok(add(-2))["value"]["points"] == 3
    assert "must be at least 0" in add(-4).text
    assert "must be integer" in add(0.5).text
    assert add("1").status_code == 400
    assert add(True).status_code == 400
    assert add(2**63).status_code == 400
    assert "increment needs a number" in add(1, "notes").text or add(1, "notes").status_code == 400
    assert ok(http.get(f"/v1/agents/{agent}/memory/customer", params=USER))["value"] == {"points": 3}


def test_several_blocks_change_together_or_not_at_all(plane: ControlPlane, http: httpx.Client) -> None:
    fields = {"text": {"type": "string", "maxLength": 3}}
    agent = new_agent(plane, "several", {"blocks": {name: {"scope": "agent", "fields": fields} for name in "abc"}})

    def change(**values: str) -> httpx.Response:
        operations = [{"op": "set", "block": name, "field": "text", "value": value} for name, value in values.items()]
        return http.post(f"/v1/agents/{agent}/memory", json={"operations": operations, "idempotency_key": str(values)})

    both = ok(change(c="one", a="two"))["blocks"]
    assert [(block["block"], block["value"]["text"]) for block in both] == [("a", "two"), ("c", "one")]
    assert [block["changed"] for block in ok(change(c="one", a="two"))["blocks"]] == [False, False]
    assert change(a="x", b="too long").status_code == 400
    assert change(a="x", nobody="y").status_code == 404
    values = {block["block"]: block["value"] for block in ok(http.get(f"/v1/agents/{agent}/memory"))["blocks"]}
    assert values == {"a": {"text": "two"}, "b": {}, "c": {"text": "one"}}


def test_the_past_can_be_read_compared_and_restored(plane: ControlPlane, http: httpx.Client) -> None:
    agent = agent_of(plane, "history")
    where = f"/v1/agents/{agent}/memory/customer"
    for value in ("Ada", "Bea"):
        ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": value}, **USER))
    ok(
        write(
            http,
            agent,
            "customer",
            {"op": "remove", "field": "name"},
            {"op": "append", "field": "tags", "value": "x"},
            **USER,
        )
    )
    third, second, first = ok(http.get(f"{where}/history", params=USER))["data"]
    then = ok(http.get(where, params={**USER, "as_of": second["created_at"]}))
    assert (then["version"], then["value"]) == (2, {"name": "Bea"})
    assert 'name: "Bea"' in then["rendered"]
    listed = ok(http.get(f"/v1/agents/{agent}/memory", params={**USER, "as_of": first["created_at"]}))
    assert listed["blocks"][0]["value"] == {"name": "Ada"}
    assert ok(http.get(where, params={**USER, "as_of": "2020-01-01T00:00:00Z"}))["version"] == 0
    assert ok(http.get(f"{where}/diff", params={**USER, "from_version": 1}))["fields"] == {
        "name": {"change": "removed", "before": "Ada"},
        "tags": {"change": "added", "after": ["x"]},
    }
    assert http.get(f"{where}/diff", params={**USER, "from_version": 9}).status_code == 404
    back = ok(http.post(f"{where}/restore", json={**USER, "version": 1}))
    assert (back["version"], back["value"], back["changed"]) == (4, {"name": "Ada"}, True)
    assert back["states"]["name"]["version_id"] == first["id"], "where the value came from is restored with it"
    assert not ok(http.post(f"{where}/restore", json={**USER, "version": 1}))["changed"]
    versions = f"/v1/memory_stores/{back['store_id']}/memory_versions"
    ok(http.post(f"{versions}/{second['id']}/redact"))
    assert http.post(f"{where}/restore", json={**USER, "version": 2}).status_code == 400
    assert ok(http.get(where, params={**USER, "as_of": second["created_at"]}))["value"] == {}
    assert third["states"]["tags"]["state"] == "asserted"


def test_a_deleted_text_comes_back_as_itself(http: httpx.Client) -> None:
    store = ok(http.post("/v1/memory_stores", json={"name": "n"}))["id"]
    memories, versions = f"/v1/memory_stores/{store}/memories", f"/v1/memory_stores/{store}/memory_versions"
    made = ok(http.post(memories, json={"path": "/a.md", "content": "one\ntwo\n"}))
    ok(http.post(f"{memories}/{made['id']}", json={"content": "one\nthree\n"}))
    ok(http.delete(f"{memories}/{made['id']}"))
    deleted, changed, created = ok(http.get(versions))["data"]
    assert ok(http.get(f"{versions}/{changed['id']}/diff"))["diff"].splitlines()[3:] == [" one", "-two", "+three"]
    assert http.post(f"{versions}/{deleted['id']}/restore").status_code == 400
    back = ok(http.post(f"{versions}/{created['id']}/restore?view=full"))
    assert (back["id"], back["content"], back["version"]) == (made["id"], "one\ntwo\n", 4)
    ok(http.delete(f"{memories}/{made['id']}"))
    ok(http.post(memories, json={"path": "/a.md", "content": "other"}))
    taken = http.post(f"{versions}/{created['id']}/restore")
    assert taken.json()["error"]["type"] == "memory_path_conflict_error"


def test_a_new_schema_is_checked_against_what_is_stored(plane: ControlPlane, http: httpx.Client) -> None:
    fields = {"full_name": {"type": "string"}, "age": {"type": "string"}, "junk": {"type": "string"}}
    agent = agent_of(plane, "evolving", fields)
    for user, value in (("u1", {"full_name": "Ada", "age": "7", "junk": "j"}), ("u2", {"full_name": "Bea"})):
        ok(write(http, agent, "customer", {"op": "merge", "value": value}, user_id=user))

    def change(fields: Any, *steps: Any) -> httpx.Response:
        block = {"scope": "user", "fields": fields, "migrate": list(steps)}
        return http.post(f"/v1/agents/{agent}", json={"memory": {"blocks": {"customer": block}}})

    ok(change({**fields, "extra": {"type": "string", "required": True}}))
    new = {"name": {"type": "string"}, "age": {"type": "integer"}}
    refused = change(new)
    assert refused.status_code == 409
    assert {(fault["blocks"], fault["reason"].split(";")[0]) for fault in refused.json()["error"]["faults"]} == {
        (2, "holds full_name, which is no longer declared"),
        (1, "holds junk, which is no longer declared"),
        (1, "holds a age that no longer fits"),
    }
    assert change(new, {"rename": "full_name", "to": "nobody"}).status_code == 400
    assert change(new, {"default": "age", "value": "x"}).status_code == 400
    before = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "u1"}))
    assert before["version"] == 1, "a refused change wrote nothing"
    steps = [{"rename": "full_name", "to": "name"}, {"drop": "junk"}, {"default": "age", "value": 0}]
    ok(change(new, *steps))
    after = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "u1"}))
    assert after["value"] == {"name": "Ada", "age": 0}
    assert after["states"]["name"]["version_id"] == before["states"]["full_name"]["version_id"]
    assert ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "u2"}))["value"] == {
        "name": "Bea",
        "age": 0,
    }
    newest, oldest = ok(http.get(f"/v1/agents/{agent}/memory/customer/history", params={"user_id": "u1"}))["data"]
    assert [step["op"] for step in newest["operations"]] == ["migrate"] * 3
    assert oldest["value"]["junk"] == "j", "a dropped value stays readable"
    assert change({"name": {"type": "string", "minLength": 4}, "age": new["age"]}).status_code == 409


def test_a_stored_block_is_rendered_as_the_agent_declares_it_now(
    plane: ControlPlane, http: httpx.Client, urls: DatabaseUrls
) -> None:
    agent = agent_of(plane, "rerendered")
    ok(write(http, agent, "customer", {"op": "set", "field": "notes", "value": "n"}, **USER))
    fields = {**FIELDS, "birthday": {"type": "string", "required": True}}
    block = {"scope": "user", "description": "Told anew.", "fields": fields}
    ok(http.post(f"/v1/agents/{agent}", json={"memory": {"blocks": {"customer": block}}}))
    text = prompt(urls, agent)
    assert "required but unknown: birthday, name" in text
    assert "Told anew." in text
    assert text == ok(http.get(f"/v1/agents/{agent}/memory/customer", params=USER))["rendered"]


def test_what_does_not_fit_is_left_out_and_said_so(plane: ControlPlane, http: httpx.Client, urls: DatabaseUrls) -> None:
    field = {"type": "string"}
    blocks = {
        "long": {
            "scope": "agent",
            "token_budget": 45,
            "fields": {"a": field, "b": {**field, "priority": 5}, "c": field},
        },
        "low": {"scope": "agent", "priority": -1, "fields": {"a": field}},
        "high": {"scope": "agent", "priority": 1, "fields": {"a": field}},
    }
    agent = new_agent(plane, "budget", {"token_budget": 100, "blocks": blocks})
    for block, values in (
        ("long", {"a": "x" * 90, "b": "y" * 90, "c": "z" * 20}),
        ("low", {"a": "l" * 100}),
        ("high", {"a": "h" * 100}),
    ):
        ok(write(http, agent, block, {"op": "merge", "value": values}))
    text = prompt(urls, agent)
    assert "y" * 90 in text
    assert "x" * 90 not in text
    assert "left out, too long: a" in text
    assert "h" * 100 in text
    assert "l" * 100 not in text
    assert text.endswith('<memory left-out="low">Too long for this prompt; memory_read shows them.</memory>')
    assert text == prompt(urls, agent)
    shown = ok(tool(http, agent, "memory_read", {}))["content"]
    assert "x" * 90 in shown
    assert "l" * 100 in shown


def test_time_that_runs_backwards_does_not_disorder_history(
    plane: ControlPlane, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime, timedelta

    from trunkline.memory import writes

    agent = agent_of(plane, "clock")
    ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "A"}, **USER))
    monkeypatch.setattr(writes, "now", lambda: datetime.now(UTC) - timedelta(days=365))
    ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "B"}, **USER))
    second, first = ok(http.get(f"/v1/agents/{agent}/memory/customer/history", params=USER))["data"]
    assert (first["value"]["name"], second["value"]["name"]) == ("A", "B")
    assert first["created_at"] < second["created_at"]


def test_a_block_is_shared_only_with_whom_its_owner_names(
    plane: ControlPlane, http: httpx.Client, urls: DatabaseUrls
) -> None:
    field = {"name": {"type": "string"}}

    def owner(**shared: str) -> dict[str, Any]:
        return {"blocks": {"customer": {"scope": "user", "fields": field, "shared_with": shared}}}

    def borrower(access: str) -> dict[str, Any]:
        return {"blocks": {"customer": {"from": "owner", "access": access}}}

    owning = new_agent(plane, "owner", owner())
    refused = http.post("/v1/agents", json={"name": "reader", "memory": borrower("read_only")})
    assert refused.status_code == 400
    assert "does not share" in refused.text
    ok(http.post(f"/v1/agents/{owning}", json={"memory": owner(reader="read_only", writer="read_write")}))
    assert http.post("/v1/agents", json={"name": "reader", "memory": borrower("read_write")}).status_code == 400
    reader, writer = (
        new_agent(plane, "reader", borrower("read_only")),
        new_agent(plane, "writer", borrower("read_write")),
    )
    ok(write(http, owning, "customer", {"op": "set", "field": "name", "value": "Ada"}, **USER))
    assert 'name: "Ada"' in prompt(urls, reader)
    told = ok(tool(http, reader, "memory_update", {"op": "set", "block": "customer", "field": "name", "value": "x"}))
    assert told["is_error"]
    assert write(http, reader, "customer", {"op": "set", "field": "name", "value": "x"}, **USER).status_code == 403
    ok(write(http, writer, "customer", {"op": "set", "field": "name", "value": "Bea"}, **USER))
    assert ok(http.get(f"/v1/agents/{owning}/memory/customer", params=USER))["value"] == {"name": "Bea"}
    ok(http.post(f"/v1/agents/{owning}", json={"memory": owner(writer="read_only")}))
    assert "Bea" not in prompt(urls, reader)
    assert http.get(f"/v1/agents/{reader}/memory/customer", params=USER).status_code == 404
    assert write(http, writer, "customer", {"op": "set", "field": "name", "value": "x"}, **USER).status_code == 403


def test_a_fork_takes_the_sessions_blocks_with_it(plane: ControlPlane, http: httpx.Client, urls: DatabaseUrls) -> None:
    field = {"type": "string"}
    agent = new_agent(plane, "forking", {"blocks": {"case": {"scope": "session", "fields": {"a": field, "b": field}}}})
    origin = ok(http.post("/v1/sessions", json={"agent": agent}))["id"]
    session = {"session_id": origin}
    ok(write(http, agent, "case", {"op": "set", "field": "a", "value": "<early>"}, **session))
    with psycopg.connect(urls.admin_url) as connection:
        for seq in (1, 2):
            connection.execute(
                "insert into trunkline.events (tenant_id, session_id, seq, id, type, payload, created_at) "
                "select tenant_id, id, %s, gen_random_uuid(), 'user.message', '{}', clock_timestamp() "
                "from trunkline.sessions where id = %s",
                (seq, origin.removeprefix("sesn_")),
            )
    ok(write(http, agent, "case", {"op": "set", "field": "b", "value": "late"}, **session))

    def fork(after: int) -> str:
        with psycopg.connect(urls.admin_url) as connection:
            row = connection.execute(
                "insert into trunkline.sessions (tenant_id, id, agent_id, agent_version, origin, status, root_id, "
                "parent_id, parent_seq, created_at, updated_at) "
                "select tenant_id, gen_random_uuid(), agent_id, agent_version, "
                "'gateway', 'idle', id, id, %s, now(), now() from trunkline.sessions where id = %s returning id",
                (after, origin.removeprefix("sesn_")),
            ).fetchone()
        assert row is not None
        return f"sesn_{row[0].hex}"

    early, late = fork(1), fork(2)
    blocks = [
        ok(http.get(f"/v1/agents/{agent}/memory/case", params={"session_id": one})) for one in (early, late, origin)
    ]
    assert [block["value"] for block in blocks] == [{"a": "<early>"}, *[{"a": "<early>", "b": "late"}] * 2]
    ok(write(http, agent, "case", {"op": "set", "field": "a", "value": "mine"}, session_id=early))
    assert ok(http.get(f"/v1/agents/{agent}/memory/case", params=session))["value"]["a"] == "<early>"
    (newest, copied) = ok(http.get(f"/v1/agents/{agent}/memory/case/history", params={"session_id": early}))["data"]
    assert copied["operations"] == [{"op": "fork", "session_id": origin, "version": 1}]
    assert newest["value"] == {"a": "mine"}
