"""Letta's agent files: what an agent of theirs knew, an agent here knows; of its secrets nothing is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from support.control_plane import ControlPlane
from support.memory import new_agent, ok
from support.postgres import DatabaseUrls
from trunkline.cli.app import run

FILE = Path(__file__).parent.parent / "data" / "assistant.af"


def given() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def put(http: httpx.Client, agent: str, file: Any, **query: Any) -> httpx.Response:
    return http.post(f"/v1/agents/{agent}/memory_import", json=file, params=query)


def test_an_agent_file_becomes_blocks_and_passages(
    plane: ControlPlane, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new_agent(plane, "concierge", {"blocks": {"persona": {"scope": "agent", "fields": {"text": {"type": "string"}}}}})
    monkeypatch.setenv("TRUNKLINE_BASE_URL", plane.base_url)
    monkeypatch.setenv("TRUNKLINE_API_KEY", plane.key)
    command = ["memory", "import", str(FILE), "--agent", "concierge", "--user", "grace"]
    assert run(command) == 2
    assert "human, house_rules" in capsys.readouterr().err
    assert run([*command, "--declare"]) == 0
    told = capsys.readouterr().out
    assert "declared by concierge now: human, house_rules" in told
    assert "4 turns and 1 documents: 5 passages, 5 of them new" in told
    assert "were read only, and the agent may write them here: persona" in told
    blocks = {block["block"]: block for block in ok(http.get("/v1/agents/concierge/memory?user_id=grace"))["blocks"]}
    assert blocks["human"]["value"] == {"text": "Grace Hopper. Likes to eat early."}
    assert blocks["human"]["scope"] == "user"
    assert "What is known of the guest." in blocks["human"]["rendered"]
    assert blocks["persona"]["value"] == {"text": "I am a helpful concierge."}
    store = blocks["human"]["store_id"]
    said: dict[str, list[str]] = {"user": [], "assistant": [], "document": []}
    for line in map(json.loads, http.get(f"/v1/memory_stores/{store}/export").text.splitlines()):
        if line["type"] == "passage":
            said[line["role"]].append(line["text"])
    assert said == {
        "user": ["A table for two near the harbour, please.", "Book it."],
        "assistant": ["The Anchor has one at eight.", "Booked: the Anchor, at eight."],
        "document": ["The Anchor serves turbot on Fridays."],
    }
    before = http.get(f"/v1/memory_stores/{store}/export").text
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == 0, "given again, it is there"
    assert http.get(f"/v1/memory_stores/{store}/export").text == before


def test_nothing_of_its_tools_and_secrets_is_stored(
    plane: ControlPlane, http: httpx.Client, urls: DatabaseUrls
) -> None:
    agent = new_agent(plane, "careful", {"blocks": {}})
    ok(put(http, agent, given(), user_id="grace", declare=True))
    with psycopg.connect(urls.admin_url) as admin:
        names = admin.execute("select tablename from pg_tables where schemaname = 'trunkline'").fetchall()
        for (name,) in names:
            for word in ("bk-live", "BOOKING_API_KEY", "Not this agent", "sound hungry", "hotel.example"):
                query = sql.SQL("select count(*) from trunkline.{} t where strpos(t::text, %s) > 0")
                row = admin.execute(query.format(sql.Identifier(name)), (word,)).fetchone()
                assert row == (0,), (name, word)


def test_the_older_form_is_read_too(plane: ControlPlane, http: httpx.Client) -> None:
    agent = new_agent(plane, "older", {"blocks": {"human": {"scope": "user", "fields": {"about": {"type": "string"}}}}})
    file = {
        "agent_type": "memgpt_agent",
        "name": "old",
        "core_memory": [{"label": "human", "value": "Likes kites.", "limit": 100}],
        "messages": [{"role": "user", "text": "Where do kites fly?", "created_at": "2025-03-28T01:11:04"}],
        "tool_exec_environment_variables": [{"key": "K", "value": "v"}],
        "tools": [],
    }
    assert ok(put(http, agent, file, user_id="u"))["turns"] == 1
    assert ok(http.get(f"/v1/agents/{agent}/memory/human?user_id=u"))["value"] == {"about": "Likes kites."}


def test_what_cannot_be_taken_is_refused_whole(plane: ControlPlane, http: httpx.Client) -> None:
    fields = {"a": {"type": "string"}, "b": {"type": "string"}}
    agent = new_agent(plane, "strict", {"blocks": {"persona": {"scope": "agent", "fields": fields}}})
    two = given()
    two["agents"].append({**two["agents"][0], "name": "other", "id": "agent-1"})
    lost = given()
    lost["blocks"] = lost["blocks"][1:]
    bad: list[tuple[Any, dict[str, Any], str]] = [
        ({}, {}, "not an agent file"),
        ({"agents": []}, {}, "from_agent"),
        ({"agents": [{"messages": [{"content": "x"}]}]}, {}, "messages.0.role"),
        (two, {"user_id": "u", "declare": True}, '"concierge", "other"'),
        (lost, {"user_id": "u", "declare": True}, "block-0"),
        (given(), {"user_id": "u"}, "declares no block human, house_rules"),
        (given(), {"user_id": "u", "declare": True}, "persona has no field 'text'"),
    ]
    for file, query, why in bad:
        answer = put(http, agent, file, **query)
        assert answer.status_code == 400, answer.text
        assert why in answer.json()["error"]["message"]
        assert "bk-live" not in answer.text
    with plane.http(plane.new_key(scopes=["memory"])) as key:
        other = new_agent(plane, "unchanged", {"blocks": {}})
        assert put(key, other, given(), user_id="u", declare=True).status_code == 403
        assert put(key, other, {"agents": [{"name": "a"}]}).status_code == 200
    assert put(http, "unchanged", given(), declare=True).status_code == 400, "whose words these are is not said"
    assert [block["block"] for block in ok(http.get("/v1/agents/unchanged/memory"))["blocks"]] == []
    assert [block["block"] for block in ok(http.get("/v1/agents/strict/memory?user_id=u"))["blocks"]] == ["persona"]
