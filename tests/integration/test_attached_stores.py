"""Memory stores attached to a session: what its agent sees of them, and that read-only means it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.control_plane import ControlPlane
from support.memory import MEMORY, ok

HEAD = "Here're the files and directories up to 2 levels deep in {}, excluding hidden items and node_modules:\n"


@dataclass(frozen=True)
class Attached:
    """A session of `cus_42` with a store to read and one to write."""

    http: httpx.Client
    agent: str
    agent_id: str
    session: str
    handbook: str
    notes: str

    def told(self, command: str, **given: Any) -> str:
        """Carry out a command of the memory tool; what is refused is marked."""
        more: dict[str, Any] = {
            name: given.pop(name) for name in ("user_id", "session_id", "parent_session_id") if name in given
        }
        body = {"name": "memory", "user_id": "cus_42", "session_id": self.session, **more}
        answer = ok(
            self.http.post(
                f"/v1/agents/{self.agent}/memory_tools", json={**body, "input": {"command": command, **given}}
            )
        )
        return ("!" if answer["is_error"] else "") + str(answer["content"])

    def texts(self, store: str) -> dict[str, str]:
        """What is in a store, by path."""
        found = ok(self.http.get(f"/v1/memory_stores/{store}/memories", params={"view": "full"}))["data"]
        return {memory["path"]: memory["content"] for memory in found}


@pytest.fixture
def attached(http: httpx.Client) -> Attached:
    agent = f"helper-{uuid4().hex[:8]}"
    agent_id = ok(http.post("/v1/agents", json={"name": agent, "model": "m", "memory": MEMORY}))["id"]
    stores = [ok(http.post("/v1/memory_stores", json={"name": name}))["id"] for name in ("The Handbook", "notes")]
    ok(http.post(f"/v1/memory_stores/{stores[0]}/memories", json={"path": "/returns/rule.md", "content": "30 days"}))
    resources = [
        {"type": "memory_store", "memory_store_id": stores[0], "access": "read_only"},
        {"type": "memory_store", "memory_store_id": stores[1]},
    ]
    given = {"agent": agent_id, "user_id": "cus_42", "resources": resources}
    session = ok(http.post("/v1/sessions", json=given))["id"]
    return Attached(http, agent, agent_id, session, *stores)


def test_attached_stores_are_directories(attached: Attached) -> None:
    told = attached.told
    assert told("view", path="/memories") == HEAD.format("/memories") + (
        "7B\t/memories\n7B\t/memories/the-handbook/\n7B\t/memories/the-handbook/returns/"
    )
    assert told("view", path="/memories/the-handbook/returns/rule.md").endswith("     1\t30 days")
    assert told("view", path="/memories/notes").endswith("0B\t/memories/notes")

    assert told("create", path="/memories/notes/a.md", file_text="one").startswith("File created")
    assert told("create", path="/memories/own.md", file_text="mine").startswith("File created")
    assert told("str_replace", path="/memories/notes/a.md", old_str="one", new_str="two").startswith("The memory file")
    assert attached.texts(attached.notes) == {"/a.md": "two"}
    assert told("view", path="/memories") == HEAD.format("/memories") + (
        "14B\t/memories\n4B\t/memories/own.md\n7B\t/memories/the-handbook/\n7B\t/memories/the-handbook/returns/\n"
        "3B\t/memories/notes/\n3B\t/memories/notes/a.md"
    )
    # From one store into another, and whole directories.
    assert told("rename", old_path="/memories/own.md", new_path="/memories/notes/d/own.md").startswith("Successfully")
    assert attached.texts(attached.notes) == {"/a.md": "two", "/d/own.md": "mine"}
    assert told("rename", old_path="/memories/notes/d", new_path="/memories/e").startswith("Successfully")
    assert told("view", path="/memories/e/own.md").endswith("     1\tmine")
    assert attached.texts(attached.notes) == {"/a.md": "two"}
    assert told("create", path="/memories/notes", file_text="") == "!Error: File /memories/notes already exists"
    assert "'/notes/a.md'" in told("create", path="/memories/notes/a.md/b", file_text="")
    assert "store of its own" in told("delete", path="/memories/notes")
    assert "store of its own" in told("rename", old_path="/memories/notes/", new_path="/memories/z")
    assert told("delete", path="/memories/notes/a.md").startswith("Successfully")
    assert attached.texts(attached.notes) == {}


def test_a_store_attached_to_be_read_is_not_written(attached: Attached) -> None:
    rule = "/memories/the-handbook/returns/rule.md"
    attached.told("create", path="/memories/own.md", file_text="mine")
    refused: list[tuple[str, dict[str, Any]]] = [
        ("create", {"path": "/memories/the-handbook/new.md", "file_text": "x"}),
        ("str_replace", {"path": rule, "old_str": "30", "new_str": "90"}),
        ("insert", {"path": rule, "insert_line": 0, "insert_text": "x"}),
        ("delete", {"path": rule}),
        ("delete", {"path": "/memories/the-handbook/returns"}),
        ("rename", {"old_path": rule, "new_path": "/memories/the-handbook/x.md"}),
        ("rename", {"old_path": rule, "new_path": "/memories/notes/x.md"}),
        ("rename", {"old_path": "/memories/own.md", "new_path": "/memories/the-handbook/x.md"}),
    ]
    for command, given in refused:
        told = attached.told(command, **given)
        assert told.startswith("!Error: /memories/the-handbook is attached to this session to be read"), (command, told)
    assert attached.texts(attached.handbook) == {"/returns/rule.md": "30 days"}
    assert attached.texts(attached.notes) == {}, "nothing half moved"


def test_only_the_sessions_own_user_and_agent_see_them(attached: Attached, plane: ControlPlane) -> None:
    other = f"other-{uuid4().hex[:8]}"
    ok(attached.http.post("/v1/agents", json={"name": other, "model": "m", "memory": MEMORY}))
    nothing = HEAD.format("/memories") + "0B\t/memories"
    assert attached.told("view", path="/memories", user_id="cus_43") == nothing
    assert attached.told("view", path="/memories", session_id="sesn_" + uuid4().hex) == nothing
    body = {"name": "memory", "user_id": "cus_42", "session_id": attached.session}
    view = {**body, "input": {"command": "view", "path": "/memories"}}
    assert ok(attached.http.post(f"/v1/agents/{other}/memory_tools", json=view))["content"] == nothing
    with plane.http(plane.another_tenant(f"tenant-{uuid4().hex[:8]}")) as theirs:
        assert theirs.post(f"/v1/agents/{attached.agent}/memory_tools", json=view).status_code == 404
        ok(theirs.post("/v1/agents", json={"name": attached.agent, "model": "m", "memory": MEMORY}))
        assert ok(theirs.post(f"/v1/agents/{attached.agent}/memory_tools", json=view))["content"] == nothing
    # A fork that is not in the log yet has what its origin has.
    fork = {"session_id": "sesn_" + uuid4().hex, "parent_session_id": attached.session}
    assert "the-handbook" in attached.told("view", path="/memories", **fork)


def test_a_key_of_the_agent_alone_reaches_what_its_session_has(attached: Attached, plane: ControlPlane) -> None:
    key = plane.new_key(scopes=["inference"], agent_id=attached.agent_id)
    with plane.http(key) as http:
        theirs = Attached(http, attached.agent, attached.agent_id, attached.session, attached.handbook, attached.notes)
        assert theirs.told("create", path="/memories/notes/a.md", file_text="one").startswith("File created")
    assert attached.texts(attached.notes) == {"/a.md": "one"}


def test_an_archived_store_can_be_read_and_a_deleted_one_is_gone(attached: Attached) -> None:
    ok(attached.http.post(f"/v1/memory_stores/{attached.notes}/archive"))
    assert "is archived" in attached.told("create", path="/memories/notes/a.md", file_text="one")
    ok(attached.http.delete(f"/v1/memory_stores/{attached.handbook}"))
    assert "does not exist" in attached.told("view", path="/memories/the-handbook")


def test_stores_of_one_name_are_told_apart(http: httpx.Client) -> None:
    agent = f"helper-{uuid4().hex[:8]}"
    agent_id = ok(http.post("/v1/agents", json={"name": agent, "model": "m", "memory": MEMORY}))["id"]
    stores = [ok(http.post("/v1/memory_stores", json={"name": name}))["id"] for name in ("Same", "same!", "блоки")]
    resources = [{"type": "memory_store", "memory_store_id": store} for store in stores]
    session = ok(http.post("/v1/sessions", json={"agent": agent_id, "resources": resources}))["id"]
    for name in ("same", f"same-{stores[1][-8:]}", stores[2][-8:]):
        body = {"name": "memory", "session_id": session}
        given = {"command": "create", "path": f"/memories/{name}/x", "file_text": name}
        answer = ok(http.post(f"/v1/agents/{agent}/memory_tools", json={**body, "input": given}))
        assert not answer["is_error"], answer
    for store in stores:
        assert len(ok(http.get(f"/v1/memory_stores/{store}/memories"))["data"]) == 1


def test_a_search_looks_into_attached_stores(attached: Attached) -> None:
    body = {"passages": [{"text": "The warehouse is closed on Mondays."}]}
    ok(attached.http.post(f"/v1/memory_stores/{attached.notes}/passages", json=body))

    def search(query: str, **more: Any) -> str:
        given = {"name": "memory_search", "user_id": "cus_42", "session_id": attached.session, **more}
        path = f"/v1/agents/{attached.agent}/memory_tools"
        answer = ok(attached.http.post(path, json={**given, "input": {"query": query}}))
        assert not answer["is_error"]
        return str(answer["content"])

    assert search("when is the warehouse closed?") == "- [notes] The warehouse is closed on Mondays."
    assert search("how many days") == "- [/memories/the-handbook/returns/rule.md] 30 days"
    assert "rule.md" in search("returns"), "by its path"
    for more in ({"user_id": "cus_43"}, {"session_id": "sesn_" + uuid4().hex}):
        assert search("warehouse days", **more).startswith("Nothing in earlier conversations")


def test_a_key_of_one_user_speaks_for_that_user(attached: Attached, plane: ControlPlane) -> None:
    write = {"operations": [{"op": "set", "block": "customer", "field": "name", "value": "Ada"}]}
    call = {"name": "memory_update", "input": write, "user_id": "cus_42"}
    assert not ok(attached.http.post(f"/v1/agents/{attached.agent}/memory_tools", json=call))["is_error"]
    key = plane.new_key(scopes=["inference", "memory"], user_id="cus_43")
    with plane.http(key) as http:
        read = {"name": "memory_read", "input": {}, "user_id": "cus_42", "session_id": attached.session}
        assert "Ada" not in ok(http.post(f"/v1/agents/{attached.agent}/memory_tools", json=read))["content"]
        found = ok(http.get(f"/v1/agents/{attached.agent}/memory/customer", params={"user_id": "cus_42"}))
        assert found["value"] == {}
        view = {"command": "view", "path": "/memories"}
        files = {"name": "memory", "input": view, "user_id": "cus_42", "session_id": attached.session}
        told = ok(http.post(f"/v1/agents/{attached.agent}/memory_tools", json=files))["content"]
        assert told == HEAD.format("/memories") + "0B\t/memories"
