"""Memory stores attached to an agent: its sessions have them, and nobody attaches what their key may not use."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.control_plane import ControlPlane
from support.memory import ok


def store(http: httpx.Client, name: str, *passages: str, **files: str) -> str:
    made = str(ok(http.post("/v1/memory_stores", json={"name": name}))["id"])
    for path, content in files.items():
        ok(http.post(f"/v1/memory_stores/{made}/memories", json={"path": f"/{path}.md", "content": content}))
    if passages:
        given = {"passages": [{"text": text} for text in passages]}
        ok(http.post(f"/v1/memory_stores/{made}/passages", json=given))
    return made


def agent(http: httpx.Client, *stores: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = ok(
        http.post("/v1/agents", json={"name": f"helper-{uuid4().hex[:8]}", "memory": {"stores": list(stores)}})
    )
    return made


def told(http: httpx.Client, name: str, command: str, *, session: str | None = None, **given: Any) -> str:
    body = {"name": "memory", "user_id": "cus_42", "session_id": session, "input": {"command": command, **given}}
    answer = ok(http.post(f"/v1/agents/{name}/memory_tools", json=body))
    return ("!" if answer["is_error"] else "") + str(answer["content"])


def test_every_session_has_them_and_access_is_held(http: httpx.Client) -> None:
    handbook, notes = store(http, "The Handbook", rule="30 days"), store(http, "notes", a="one")
    made = agent(http, {"store": handbook, "instructions": "Our rules."}, {"store": notes, "access": "read_write"})
    assert made["memory"]["stores"][0] == {"store": handbook, "instructions": "Our rules."}
    session = ok(http.post("/v1/sessions", json={"agent": made["id"], "user_id": "cus_42"}))["id"]
    for where in (None, session, "sesn_" + uuid4().hex):
        view = told(http, made["name"], "view", session=where, path="/memories")
        assert "/memories/the-handbook/rule.md" in view
        assert "/memories/notes/" in view
    assert told(http, made["name"], "create", path="/memories/the-handbook/x.md", file_text="x").startswith("!")
    assert told(http, made["name"], "create", path="/memories/notes/x.md", file_text="x").startswith("File created")
    assert [one["path"] for one in ok(http.get(f"/v1/memory_stores/{notes}/memories"))["data"]] == ["/a.md", "/x.md"]
    # What a session says of a store counts.
    resources = [{"type": "memory_store", "memory_store_id": handbook, "access": "read_write"}]
    given = {"agent": made["id"], "user_id": "cus_42", "resources": resources}
    trusted = ok(http.post("/v1/sessions", json=given))["id"]
    written = told(http, made["name"], "create", session=trusted, path="/memories/the-handbook/x.md", file_text="x")
    assert written.startswith("File created")
    other = agent(http)
    assert "the-handbook" not in told(http, other["name"], "view", path="/memories"), "another agent has nothing of it"


def test_a_session_keeps_those_of_its_version(http: httpx.Client) -> None:
    old, new = store(http, "old", a="1"), store(http, "new", a="2")
    made = agent(http, {"store": old})
    session = ok(http.post("/v1/sessions", json={"agent": made["id"], "user_id": "cus_42"}))["id"]
    ok(http.post(f"/v1/agents/{made['id']}", json={"version": 1, "memory": {"stores": [{"store": new}]}}))
    assert "/memories/old" in told(http, made["name"], "view", session=session, path="/memories")
    fresh = told(http, made["name"], "view", path="/memories")
    assert ("/memories/old" in fresh, "/memories/new" in fresh) == (False, True)
    later = ok(http.post("/v1/sessions", json={"agent": made["id"], "user_id": "cus_42"}))["id"]
    assert "/memories/new" in told(http, made["name"], "view", session=later, path="/memories")


def test_memory_search_looks_into_them(http: httpx.Client) -> None:
    made = agent(http, {"store": store(http, "Handbook", "Returns are taken for 30 days.", shipping="By pigeon post.")})
    body = {"name": "memory_search", "user_id": "cus_42", "input": {"query": "returns pigeon"}}
    found = str(ok(http.post(f"/v1/agents/{made['name']}/memory_tools", json=body))["content"])
    assert "- [handbook] Returns are taken for 30 days." in found
    assert "pigeon" in found


@pytest.mark.parametrize(
    ("stores", "where"),
    [
        ("memstore_1", "memory.stores"),
        ([{"store": 1}], "memory.stores[0].store"),
        ([{"store": "notes"}], "memory.stores[0].store"),
        ([{"store": "memstore_" + "0" * 32, "access": "write"}], "memory.stores[0].access"),
        ([{"store": "memstore_" + "0" * 32, "instructions": 1}], "memory.stores[0].instructions"),
        ([{"store": "memstore_" + "0" * 32, "more": 1}], "memory.stores[0]"),
        ([{"store": "memstore_" + "0" * 32}] * 2, "memory.stores[1].store"),
        ([{"store": "memstore_" + "0" * 32}] * 11, "memory.stores"),
    ],
)
def test_what_cannot_be_attached_is_refused_by_its_place(http: httpx.Client, stores: Any, where: str) -> None:
    refused = http.post("/v1/agents", json={"name": "refused", "memory": {"stores": stores}})
    assert (refused.status_code, where in refused.text) == (400, True), refused.text


def test_only_stores_that_the_definer_may_use_are_attached(http: httpx.Client, plane: ControlPlane) -> None:
    mine, closed = store(http, "mine"), store(http, "closed")
    ok(http.post(f"/v1/memory_stores/{closed}/archive"))

    def refusal(client: httpx.Client, wanted: dict[str, Any]) -> tuple[int, bool]:
        name = f"refused-{uuid4().hex[:8]}"
        answer = client.post("/v1/agents", json={"name": name, "memory": {"stores": [wanted]}})
        return answer.status_code, "memory.stores[0]" in answer.text

    assert refusal(http, {"store": "memstore_" + uuid4().hex}) == (404, True)
    assert refusal(http, {"store": closed}) == (404, True)
    with plane.http(plane.another_tenant(f"tenant-{uuid4().hex[:8]}")) as theirs:
        assert refusal(theirs, {"store": mine}) == (404, True)
    grants = [{"memory_store_id": mine, "access": "read_only"}]
    with plane.http(plane.new_key(scopes=["manage", "memory"], stores=grants)) as granted:
        assert refusal(granted, {"store": mine, "access": "read_write"}) == (403, True)
        assert refusal(granted, {"store": store(http, "not granted")}) == (404, True)
        assert agent(granted, {"store": mine})["memory"]["stores"] == [{"store": mine}]
        # A key with less does not carry on with what it could not attach.
        wider = agent(http, {"store": mine, "access": "read_write"})
        kept = granted.post(f"/v1/agents/{wider['id']}", json={"version": 1, "system": "Be brief."})
        assert kept.status_code == 403


def test_a_key_of_the_agent_does_not_write_what_is_attached_to_be_read(http: httpx.Client, plane: ControlPlane) -> None:
    made = agent(http)
    with plane.http(plane.new_key(scopes=["manage", "memory"], agent_id=made["id"])) as own:
        handbook = store(own, "handbook")
        path = f"/v1/memory_stores/{handbook}/memories"
        ok(own.post(path, json={"path": "/a", "content": "one"}))
        change = {"version": 1, "memory": {"stores": [{"store": handbook}]}}
        ok(http.post(f"/v1/agents/{made['id']}", json=change))
        refused = own.post(path, json={"path": "/b", "content": "two"})
        assert (refused.status_code, "store_read_only" in refused.text) == (403, True)
    ok(http.post(path, json={"path": "/b", "content": "two"}))
