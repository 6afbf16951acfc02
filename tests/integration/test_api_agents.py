"""Agents: declared memory, names, declarative apply."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import dict_row

from support.control_plane import ControlPlane
from support.postgres import DatabaseUrls

SMALLEST = {
    "name": "support-resolver",
    "memory": {
        "type": "session_persistent",
        "backends": ["postgres", "pgvector"],
        "context_engine": "structured",
        "refresh_on_every_turn": True,
    },
}
WITH_BLOCKS: dict[str, Any] = {
    "name": "support-resolver",
    "model": "claude-sonnet",
    "instructions": "You resolve support cases for Northwind.",
    "memory": {
        "refresh_on_every_turn": False,
        "on_unavailable": "fail",
        "blocks": {
            "customer": {
                "scope": "user",
                "description": "Who the customer is and what they like.",
                "fields": {"name": {"type": "string", "required": True}, "tier": {"type": "integer"}},
            },
            "house": {"scope": "org", "fields": {"rules": {"type": "string"}}},
        },
    },
}


def rows(database: DatabaseUrls, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(database.admin_url, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def test_what_the_gateway_reads_is_worked_out_when_a_version_is_written(
    control: ControlPlane, database: DatabaseUrls
) -> None:
    with control.http() as http:
        answer = http.post("/v1/agents", json=WITH_BLOCKS)
    assert answer.status_code == 200, answer.text
    assert answer.json()["memory"] == WITH_BLOCKS["memory"]
    (version,) = rows(database, "select * from trunkline.agent_versions")
    assert (version["model"], version["instructions"]) == ("claude-sonnet", WITH_BLOCKS["instructions"])
    assert (version["memory_enabled"], version["memory_refresh"], version["memory_fail"]) == (True, False, True)
    assert version["recall_tokens"] == 500
    assert {tool["name"] for tool in version["memory_tools"]} >= {"memory_update", "memory_read"}
    house, customer = rows(database, "select * from trunkline.agent_blocks order by position")
    assert (house["name"], house["position"], customer["name"], customer["position"]) == ("house", 1, "customer", 2)
    assert "required but unknown: name" in customer["empty_rendered"]
    assert customer["empty_tokens"] > 10


def test_an_agent_without_memory_has_none(control: ControlPlane, database: DatabaseUrls) -> None:
    with control.http() as http:
        assert http.post("/v1/agents", json={"name": "plain"}).status_code == 200
    (version,) = rows(database, "select * from trunkline.agent_versions")
    assert (version["memory_enabled"], version["recall_tokens"], version["memory_tools"]) == (False, 0, [])


def test_apply_writes_only_what_differs(control: ControlPlane) -> None:
    with control.http() as http:
        first = http.post("/v1/agents/apply", json={"definition": SMALLEST}).json()
        same = http.post("/v1/agents/apply", json={"definition": SMALLEST}).json()
        more = http.post("/v1/agents/apply", json={"definition": WITH_BLOCKS}).json()
        back = http.post("/v1/agents/apply", json={"definition": SMALLEST}).json()
    assert (first["changed"], first["agent"]["version"]) == (True, 1)
    assert (same["changed"], same["agent"]["version"]) == (False, 1)
    assert (more["changed"], more["agent"]["version"]) == (True, 2)
    assert (back["changed"], back["agent"]["version"]) == (True, 3)
    assert back["agent"]["model"]["id"] == "default", "what a definition leaves out gets its default"
    assert {step["agent"]["id"] for step in (first, same, more, back)} == {first["agent"]["id"]}


def test_an_agent_is_found_by_name_too(control: ControlPlane) -> None:
    with control.http() as http:
        made = http.post("/v1/agents", json={"name": "one & only"}).json()
        assert http.get("/v1/agents/one%20%26%20only").json()["id"] == made["id"]
        assert http.patch("/v1/agents/one%20%26%20only", json={"system": "S"}).json()["version"] == 2
        assert http.get("/v1/agents", params={"name": "one & only"}).json()["data"][0]["version"] == 2
        assert http.get("/v1/agents", params={"name": "another"}).json()["data"] == []
        session = http.post("/v1/sessions", json={"agent": "one & only"})
        assert session.json()["agent"]["id"] == made["id"]


def test_a_name_is_taken_until_its_agent_is_archived(control: ControlPlane) -> None:
    with control.http() as http:
        made = http.post("/v1/agents", json={"name": "mine"}).json()
        other = http.post("/v1/agents", json={"name": "theirs"}).json()
        taken = http.post("/v1/agents", json={"name": "mine"})
        assert taken.status_code == 409
        error = taken.json()["error"]
        assert (error["type"], error["agent_id"], error["version"]) == ("conflict_error", made["id"], 1)
        assert "update it" in error["message"]
        renamed = http.post(f"/v1/agents/{other['id']}", json={"name": "mine"})
        assert (renamed.status_code, renamed.json()["error"]["agent_id"]) == (409, made["id"])
        assert http.get("/v1/agents/theirs").json()["version"] == 1, "a refused change writes nothing"
        http.post("/v1/agents/mine/archive")
        assert http.post(f"/v1/agents/{other['id']}", json={"name": "mine"}).status_code == 200


def test_a_wrong_definition_is_refused_with_its_place(control: ControlPlane, database: DatabaseUrls) -> None:
    mcp = {"type": "mcp_toolset", "mcp_server_name": "crm"}
    custom = {"type": "custom", "name": "t", "description": "d", "input_schema": {"type": "object"}}
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "`name`: is missing"),
        ({"name": ""}, "`name`"),
        ({"name": 3}, "`name`"),
        ({"name": "a", "modle": "m"}, "`modle`: is not a known field"),
        ({"name": "a", "metadata": {"k": 1}}, "`metadata.k`"),
        ({"name": "a", "metadata": {str(number): "" for number in range(17)}}, "`metadata`"),
        ({"name": "a", "instructions": "x", "system": "y"}, "two names for one text"),
        ({"name": "a", "tools": [{"type": "hammer"}]}, "`tools[0]`: has the unknown type 'hammer'"),
        ({"name": "a", "tools": [{**custom, "input_schema": {"type": "objekt"}}]}, "`tools[0].input_schema`"),
        ({"name": "a", "tools": [{**custom, "input_schema": {"type": "object", "required": 1}}]}, "not a JSON Schema"),
        ({"name": "a", "tools": [custom, custom]}, "unique"),
        ({"name": "a", "tools": [mcp]}, "has no server of that name"),
        ({"name": "a", "mcp_servers": [{"type": "url", "name": "crm", "url": "https://x"}]}, "is not used"),
        (
            {"name": "a", "tools": [{"type": "agent_toolset_20260401", "configs": [{"name": "rm"}]}]},
            "tools[0].configs[0]",
        ),
        ({"name": "a", "memory": {"blocks": {"c": {"scope": "world", "fields": {"n": {}}}}}}, "memory.blocks.c.scope"),
        ({"name": "a", "memory": {"token_bugdet": 3}}, "token_budget"),
        ({"name": "a", "memory": {}, "tools": [{**custom, "name": "memory_search"}]}, "memory tool"),
        ({"name": "a", "model": {"id": "m", "effort": "extreme"}}, "`model.effort"),
    ]
    with control.http() as http:
        for definition, words in cases:
            answer = http.post("/v1/agents", json=definition)
            assert answer.status_code == 400, (definition, answer.text)
            error = answer.json()["error"]
            assert error["type"] == "invalid_request_error"
            assert words in error["message"], (definition, error["message"])
    assert rows(database, "select 1 from trunkline.agents") == []
