from __future__ import annotations

from typing import Any

import psycopg
import pytest

from support.control_plane import ControlPlane
from support.memory import CUSTOMER, SESSION, new_agent, ok, tool, write
from support.postgres import DatabaseUrls
from trunkline.domain import ids

pytestmark = pytest.mark.tenant

EVENT = "sevt_0193f0a4c1b27c55a1c8b4c0a1b2c3d4"


def definitions(control: ControlPlane, database: DatabaseUrls, memory: Any) -> dict[str, Any]:
    agent = new_agent(control, memory=memory)
    with psycopg.connect(database.admin_url) as connection:
        row = connection.execute(
            "select memory_tools from trunkline.agent_versions where agent_id = %s", (ids.decode("agent", agent),)
        ).fetchone()
    assert row is not None
    return {definition["name"]: definition for definition in row[0]}


def test_the_tools_tell_the_model_what_it_may_write(control: ControlPlane, database: DatabaseUrls) -> None:
    tools = definitions(control, database, {"blocks": {"customer": CUSTOMER}})
    assert set(tools) == {"memory_update", "memory_search", "memory_read"}
    told = tools["memory_update"]["description"]
    for line in (
        "customer (kept for this user): Who the customer is and what they like.",
        "- name (string, required): Full name.",
        "- preferences (object whose values are string)",
        "- recent_purchases (array of string, at most 200 items)",
    ):
        assert line in told.splitlines()
    operation = tools["memory_update"]["input_schema"]["properties"]["operations"]["items"]
    assert operation["properties"]["block"]["enum"] == ["customer"]
    assert operation["properties"]["op"]["enum"] == ["set", "append", "remove", "merge", "increment"]


@pytest.mark.parametrize(
    ("memory", "names"),
    [
        ({"recall": False, "blocks": {"customer": CUSTOMER}}, {"memory_update", "memory_read"}),
        ({"blocks": {}}, {"memory_search"}),
        ({"recall": False}, set()),
        ({"tools": False, "blocks": {"customer": CUSTOMER}}, set()),
    ],
)
def test_only_tools_that_can_do_something_are_offered(
    control: ControlPlane, database: DatabaseUrls, memory: Any, names: set[str]
) -> None:
    assert set(definitions(control, database, memory)) == names


def test_an_update_tells_the_state_after(control: ControlPlane) -> None:
    agent = new_agent(control)
    given = {"operations": [{"op": "set", "block": "customer", "field": "name", "value": "Ada"}]}
    with control.http() as http:
        first = ok(tool(http, agent, "memory_update", given, event_id=EVENT))
        again = ok(tool(http, agent, "memory_update", given, event_id=EVENT))
        (version,) = ok(http.get(f"/v1/agents/{agent}/memory/customer/history?user_id=cus_42"))["data"]
    assert first["is_error"] is False
    assert first["content"] == (
        "Saved: customer is at version 1 now.\n"
        '<memory block="customer" scope="user">\n'
        "Who the customer is and what they like.\n"
        'name: "Ada"\n'
        "unknown: preferences, recent_purchases\n"
        "</memory>"
    )
    assert again["content"].startswith("Nothing to change: customer holds this already (version 1).")
    assert version["actor"] == {"type": "agent", "id": agent}
    assert (version["session_id"], version["event_id"]) == (SESSION, EVENT)


def test_an_agents_write_is_a_session_actor_on_the_wire(control: ControlPlane) -> None:
    agent = new_agent(control)
    given = {"operations": [{"op": "set", "block": "customer", "field": "name", "value": "Ada"}]}
    with control.http() as http:
        ok(tool(http, agent, "memory_update", given, event_id=EVENT))
    stores = control.sdk().beta.memory_stores
    (store,) = stores.list()
    (version,) = stores.memory_versions.list(store.id, session_id=SESSION)
    assert version.created_by is not None
    assert version.created_by.to_dict() == {"type": "session_actor", "session_id": SESSION}


def test_several_blocks_in_one_call(control: ControlPlane) -> None:
    agent = new_agent(control)
    given = {
        "operations": [
            {"op": "set", "block": "case", "field": "topic", "value": "refund"},
            {"op": "append", "block": "team", "field": "members", "value": "Ada"},
            {"op": "set", "block": "customer", "field": "customer.name", "value": "Ada"},
        ]
    }
    with control.http() as http:
        told = ok(tool(http, agent, "memory_update", given))["content"]
    saved = [line for line in told.splitlines() if line.startswith("Saved")]
    assert [line.split()[1] for line in saved] == ["team", "customer", "case"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "operations: must be a list"),
        ("set name", "The input must be an object"),
        ([], "The input must be an object"),
        ({"operations": "nonsense"}, "operations: must be a list"),
        ({"operations": [{"op": "set", "field": "name", "value": "A"}]}, "must be the name of a block"),
        ({"operations": [{"op": "set", "block": "client", "field": "name", "value": "A"}]}, "its blocks: rules, team"),
        (
            {
                "operations": [
                    {"op": "set", "block": "customer", "field": "name", "value": "A"},
                    {"op": "set", "block": "customer", "field": "age", "value": 5},
                ]
            },
            'customer: has no field "age"; its fields: name, preferences, recent_purchases',
        ),
        (
            {
                "operations": [
                    {"op": "set", "block": "team", "field": "members", "value": ["A"]},
                    {"op": "set", "block": "customer", "field": "name", "value": 5},
                ]
            },
            "customer.name: must be string, got integer 5",
        ),
        (
            {"operations": [{"op": "set", "block": "customer", "field": "name", "value": "A", "expect_sha256": "x"}]},
            "required but unknown: name",
        ),
    ],
)
def test_a_refused_update_says_why_and_writes_nothing(control: ControlPlane, given: Any, words: str) -> None:
    agent = new_agent(control)
    with control.http() as http:
        answer = ok(tool(http, agent, "memory_update", given))
        blocks = ok(http.get(f"/v1/agents/{agent}/memory?user_id=cus_42&session_id={SESSION}"))["blocks"]
        stores = ok(http.get("/v1/memory_stores"))["data"]
    assert answer["is_error"] is True
    assert words in answer["content"]
    assert {block["version"] for block in blocks} == {0}
    assert stores == []


def test_what_models_get_slightly_wrong_is_understood(control: ControlPlane) -> None:
    agent = new_agent(control)
    one = {"op": "set", "block": "customer", "field": "name", "value": "Ada"}
    text = '[{"op": "set", "block": "customer", "field": "preferences.size", "value": "M"}]'
    with control.http() as http:
        assert not ok(tool(http, agent, "memory_update", one))["is_error"]
        assert not ok(tool(http, agent, "memory_update", {"operations": text}))["is_error"]
        read = ok(tool(http, agent, "memory_read", None))["content"]
    assert 'preferences: {"size": "M"}' in read


def test_reading(control: ControlPlane) -> None:
    agent = new_agent(control)
    with control.http() as http:
        state = ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Ada"}, user_id="cus_42"))
        one = ok(tool(http, agent, "memory_read", {"block": "customer"}))["content"]
        every = ok(tool(http, agent, "memory_read", {}))["content"]
        nobody = ok(tool(http, agent, "memory_read", {}, user_id=None))["content"]
        unknown = ok(tool(http, agent, "memory_read", {"block": "client"}))
        without = ok(tool(http, agent, "memory_read", {"block": "customer"}, user_id=None))
    assert one == f"{state['rendered']}\ncustomer: version 1, content_sha256 {state['content_sha256']}"
    assert every.count("<memory ") == 4
    assert "rules: version 0, not written yet" in every
    assert "customer: kept for each user, and this call names no user." in nobody
    assert unknown["is_error"] is True
    assert without["is_error"] is True
    assert "Block customer:" in without["content"]


def add_passages(database: DatabaseUrls, store: str, *texts: tuple[str, str]) -> None:
    with psycopg.connect(database.admin_url) as connection:
        for session, text in texts:
            connection.execute(
                "insert into trunkline.passages (tenant_id, store_id, id, session_id, role, content, tokens, "
                "created_at) select tenant_id, id, %s, %s, 'user', %s, 10, '2026-11-20T10:00Z' "
                "from trunkline.memory_stores where id = %s",
                (ids.new(), ids.decode("sesn", session), text, ids.decode("memstore", store)),
            )


def test_searching(control: ControlPlane, database: DatabaseUrls) -> None:
    agent = new_agent(control)
    earlier, earliest = SESSION.replace("0193", "0192"), SESSION.replace("0193", "0191")
    with control.http() as http:
        store = ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Ada"}, user_id="cus_42"))
        other = ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Bea"}, user_id="cus_43"))
        add_passages(
            database,
            store["store_id"],
            (earlier, "My lamp arrived\nbroken <again>."),
            (earliest, "The weather is fine."),
            (SESSION, "The lamp again: it is in this session."),
        )
        add_passages(database, other["store_id"], (earlier, "Another customer's lamp."))
        found = ok(tool(http, agent, "memory_search", {"query": "lamps that broke"}))
        nothing = ok(tool(http, agent, "memory_search", {"query": "zebra"}))
        punctuation = ok(tool(http, agent, "memory_search", {"query": "?!' & | \\ (:*"}))
        limited = ok(tool(http, agent, "memory_search", {"query": "lamp weather", "limit": 1}))
        fresh = ok(tool(http, agent, "memory_search", {"query": "lamp"}, user_id="cus_44"))
    assert found == {"content": "- [2026-11-20 user] My lamp arrived broken \\u003cagain\\u003e.", "is_error": False}
    for empty in (nothing, punctuation, fresh):
        assert empty["is_error"] is False
        assert empty["content"].startswith("Nothing in earlier conversations matches")
    assert len(limited["content"].splitlines()) == 1


@pytest.mark.parametrize(
    "given", [{}, {"query": ""}, {"query": 5}, {"query": "a", "limit": 0}, {"query": "a", "limit": "x"}]
)
def test_a_bad_search_is_refused(control: ControlPlane, given: Any) -> None:
    agent = new_agent(control)
    with control.http() as http:
        assert ok(tool(http, agent, "memory_search", given))["is_error"] is True


def test_search_needs_recall_and_someone(control: ControlPlane) -> None:
    agent = new_agent(control, memory={"recall": False, "blocks": {"customer": CUSTOMER}})
    recalls = new_agent(control, "recalls")
    with control.http() as http:
        assert "recall is off" in ok(tool(http, agent, "memory_search", {"query": "a"}))["content"]
        alone = ok(tool(http, recalls, "memory_search", {"query": "a"}, user_id=None, session_id=None))
    assert alone["is_error"] is True
    assert "session" in alone["content"]


def test_what_the_gateway_gets_wrong_is_an_error(control: ControlPlane) -> None:
    agent = new_agent(control)
    with control.http() as http:
        assert tool(http, agent, "memory_forget", {}).status_code == 404
        assert tool(http, "nobody", "memory_read", {}).status_code == 404
        assert tool(http, agent, "memory_read", {}, session_id="s").status_code == 404
        assert tool(http, agent, "memory_read", {}, event_id="e").status_code == 404
        assert tool(http, agent, "memory_read", {}, user="u").status_code == 400
