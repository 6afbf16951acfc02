"""Redaction: what an agent or store says must not be stored is in no table, whatever way it came in by."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from support.control_plane import ControlPlane
from support.memory import new_agent, ok, tool, write
from support.postgres import DatabaseUrls
from support.recording import rows_with

MAIL = "ada@example.com"
CARD = "4111 1111 1111 1111"
BLOCKS: dict[str, Any] = {
    "customer": {
        "scope": "user",
        "fields": {
            "name": {"type": "string"},
            "notes": {"type": "array", "items": {"type": "string"}},
            "preferences": {"type": "object", "additionalProperties": {"type": "string"}},
            "number": {"type": "integer"},
        },
    }
}
REDACT = ["email", "credit_card", {"name": "ticket", "pattern": "T-[0-9]{4}"}]
USER = {"user_id": "cus_42"}


@pytest.fixture
def agent(control: ControlPlane) -> str:
    return new_agent(control, "clerk", {"blocks": BLOCKS, "redact": REDACT})


def nothing_left(database: DatabaseUrls) -> None:
    for word in (MAIL, CARD, CARD.replace(" ", ""), "T-1234"):
        assert rows_with(database, word) == {}, word


def store_of(http: httpx.Client, **more: Any) -> str:
    return str(ok(http.post("/v1/memory_stores", json={"name": "notes", **more}))["id"])


def test_blocks_by_the_api_and_by_tools_keep_marks(control: ControlPlane, database: DatabaseUrls, agent: str) -> None:
    with control.http() as http:
        operations = [
            {"op": "set", "field": "name", "value": f"Ada <{MAIL}>"},
            {"op": "append", "field": "notes", "value": f"pays with {CARD}, see T-1234"},
            {"op": "merge", "field": "preferences", "value": {MAIL: "yes"}},
            {"op": "set", "field": ["preferences", "T-1234"], "value": "open"},
        ]
        after = ok(write(http, agent, "customer", *operations, **USER))
        assert after["value"] == {
            "name": "Ada <[email]>",
            "notes": ["pays with [credit_card], see [ticket]"],
            "preferences": {"[email]": "yes", "[ticket]": "open"},
        }
        again = write(http, agent, "customer", operations[0], **USER)
        assert ok(again)["version"] == after["version"], "what holds already makes no version"
        refused = write(
            http, agent, "customer", {"op": "set", "field": "number", "value": int(CARD.replace(" ", ""))}, **USER
        )
        assert refused.status_code == 400, "the schema wants a number, and the mark is none"
        given = {"operations": [{"op": "append", "block": "customer", "field": "notes", "value": f"mail {MAIL}"}]}
        assert "mail [email]" in ok(tool(http, agent, "memory_update", given))["content"]
        for command in (
            {"command": "create", "path": "/memories/a.txt", "file_text": f"one\n{MAIL}\n"},
            {"command": "str_replace", "path": "/memories/a.txt", "old_str": "one", "new_str": CARD},
        ):
            assert not ok(tool(http, agent, "memory", command))["is_error"]
        refused = tool(http, agent, "memory", {"command": "create", "path": f"/memories/{MAIL}", "file_text": "x"})
        assert ok(refused)["is_error"]
        assert "[email]" in ok(refused)["content"]
        view = tool(http, agent, "memory", {"command": "view", "path": "/memories/a.txt"})
        assert "[credit_card]" in ok(view)["content"]
    nothing_left(database)


def test_what_a_client_gives_to_a_store_is_redacted_as_the_store_says(
    control: ControlPlane, database: DatabaseUrls
) -> None:
    with control.http() as http:
        store = store_of(http, redact=REDACT)
        path = f"/v1/memory_stores/{store}"
        memory = ok(http.post(f"{path}/memories?view=full", json={"path": "/a", "content": f"mail {MAIL}"}))
        assert memory["content"] == "mail [email]"
        changed = ok(http.post(f"{path}/memories/{memory['id']}?view=full", json={"content": f"card {CARD}"}))
        assert changed["content"] == "card [credit_card]"
        for moved in (f"/{MAIL}", "/T-1234"):
            assert http.post(f"{path}/memories/{memory['id']}", json={"path": moved}).status_code == 400
            assert http.post(f"{path}/memories", json={"path": moved, "content": ""}).status_code == 400
        turn = {"text": f"write to {MAIL}", "speaker": MAIL, "session": "T-1234", "metadata": {"of": CARD}}
        assert [ok(http.post(f"{path}/ingest", json={"turns": [turn]}))["added"] for _ in range(2)] == [1, 0]
        document = {
            "text": f"# About {MAIL}\n\n{'word ' * 300}{CARD}",
            "format": "markdown",
            "title": "T-1234",
            "id": "d",
        }
        ok(http.post(f"{path}/ingest", json={"documents": [document]}))
        ok(http.post(f"{path}/passages", json={"passages": [{"text": f"also {MAIL}", "tags": ["T-1234"]}]}))
        item = {"op": "put", "namespace": ["a"], "key": "k", "value": {"to": MAIL}, "texts": [f"item of {MAIL}"]}
        ok(http.post(f"{path}/items", json={"operations": [item]}))
        named = item | {"key": MAIL}
        assert http.post(f"{path}/items", json={"operations": [named]}).status_code == 400
        found = ok(http.post(f"{path}/search", json={"query": "write also item", "limit": 10}))["data"]
        assert {"[email]: write to [email]", "also [email]", "item of [email]"} <= {one["text"] for one in found}
    nothing_left(database)


def test_imports_and_restored_versions_are_redacted(control: ControlPlane, database: DatabaseUrls) -> None:
    with control.http() as http:
        store = store_of(http)
        path = f"/v1/memory_stores/{store}"
        memory = ok(http.post(f"{path}/memories", json={"path": "/a", "content": f"mail {MAIL}"}))
        ok(http.post(f"{path}/memories/{memory['id']}", json={"content": "none"}))
        ok(http.post(f"{path}/memories", json={"path": "/b", "content": f"pays with {CARD}"}))
        ok(http.post(f"{path}/passages", json={"passages": [{"text": f"said {MAIL}", "metadata": {"of": "T-1234"}}]}))
        oldest = ok(http.get(f"{path}/memory_versions?memory_id={memory['id']}"))["data"][-1]["id"]
        file = http.get(f"{path}/export").text
        ok(http.post(path, json={"redact": REDACT}))
        ok(http.post(f"{path}/memory_versions/{oldest}/restore"))
        assert ok(http.get(f"{path}/memories/{memory['id']}"))["content"] == "mail [email]"
        assert MAIL in file
        ok(http.delete(path))
        nothing_left(database)
        copy = f"/v1/memory_stores/{store_of(http, redact=REDACT)}"
        headers = {"content-type": "application/x-ndjson"}
        for added in (2, 0):
            answer = ok(http.post(f"{copy}/import", content=file.encode(), headers=headers))
            assert answer["added"]["memories"] == added
        texts = {one["path"]: one["content"] for one in ok(http.get(f"{copy}/memories?view=full"))["data"]}
        assert texts == {"/a": "none", "/b": "pays with [credit_card]"}
        assert (
            http.post(f"{copy}/import", content=file.replace("none", "some").encode(), headers=headers).status_code
            == 400
        )
    nothing_left(database)


def test_a_sessions_log_is_redacted_unless_the_agent_says_otherwise(
    control: ControlPlane, database: DatabaseUrls, agent: str
) -> None:
    said = {"type": "user.message", "content": [{"type": "text", "text": f"I am {MAIL}"}]}
    with control.http() as http:
        session = ok(http.post("/v1/sessions", json={"agent": agent, "initial_events": [said]}))["id"]
        sent = ok(http.post(f"/v1/sessions/{session}/events", json={"events": [said]}))["data"]
        events = ok(http.get(f"/v1/sessions/{session}/events"))["data"]
        texts = [event["content"][0]["text"] for event in (*sent, *events) if event["type"] == "user.message"]
        assert texts == ["I am [email]"] * 3
        nothing_left(database)
        lax = new_agent(control, "lax", {"redact": {"detect": ["email"], "log": False}})
        session = ok(http.post("/v1/sessions", json={"agent": lax}))["id"]
        ok(http.post(f"/v1/sessions/{session}/events", json={"events": [said]}))
    assert rows_with(database, MAIL) == {"events": 1}


def test_a_store_says_what_it_redacts_and_an_agents_store_leaves_it_to_the_agent(
    control: ControlPlane, agent: str
) -> None:
    with control.http() as http:
        path = f"/v1/memory_stores/{store_of(http)}"
        assert ok(http.get(path))["redact"] is None
        assert ok(http.post(path, json={"redact": ["email"]}))["redact"] == ["email"]
        assert ok(http.post(path, json={"name": "n"}))["redact"] == ["email"]
        assert ok(http.post(path, json={"redact": []}))["redact"] is None
        made = ok(http.post(f"{path}/memories?view=full", json={"path": "/a", "content": MAIL}))
        assert made["content"] == MAIL
        ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Ada"}, **USER))
        managed = ok(http.get(f"/v1/agents/{agent}/memory/customer?user_id=cus_42"))["store_id"]
        refused = http.post(f"/v1/memory_stores/{managed}", json={"redact": ["phone"]})
        assert (refused.status_code, "memory.redact" in refused.text) == (400, True)
        block = ok(http.get(f"/v1/memory_stores/{managed}/memories"))["data"][0]["id"]
        content = json.dumps({"name": MAIL})
        changed = ok(http.post(f"/v1/memory_stores/{managed}/memories/{block}?view=full", json={"content": content}))
        assert changed["content"] == '{"name":"[email]"}'


@pytest.mark.parametrize(
    "bad",
    [
        "email",
        ["emails"],
        [{"name": "a"}],
        [{"name": "a", "pattern": "("}],
        [{"name": "a", "pattern": "x*"}],
        [{"name": "email", "pattern": "x"}],
        [{"name": "a", "pattern": "x"}] * 51,
        [1],
    ],
)
def test_a_redaction_that_cannot_be_is_refused(control: ControlPlane, bad: Any) -> None:
    with control.http() as http:
        for path, body in (
            ("/v1/agents", {"name": "a", "memory": {"redact": bad}}),
            ("/v1/memory_stores", {"name": "s", "redact": bad}),
        ):
            refused = http.post(path, json=body)
            assert (refused.status_code, "redact" in refused.text) == (400, True), refused.text
