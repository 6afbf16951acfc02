"""Memory stores, memories and versions, through the unmodified `anthropic` SDK."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import anthropic
import pytest
from anthropic import BaseModel
from anthropic.types.beta.memory_stores import BetaManagedAgentsMemory, BetaManagedAgentsMemoryPrefix

from support.control_plane import ControlPlane
from support.memory import new_agent, ok, write

pytestmark = pytest.mark.tenant

Model = TypeVar("Model", bound=BaseModel)


def strict(model: Model) -> Model:
    """The SDK builds its models without checking; check one against its own types."""
    return type(model).model_validate(model.to_dict(mode="json"))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def body_of(error: anthropic.APIStatusError) -> Any:
    assert isinstance(error.body, dict)
    assert error.body["type"] == "error"
    return error.body["error"]


def test_a_store_lives(control: ControlPlane) -> None:
    stores = control.sdk().beta.memory_stores
    store = strict(stores.create(name="Notes", description="What we know", metadata={"owner": "ops", "tier": "1"}))
    assert (store.type, store.name, store.archived_at) == ("memory_store", "Notes", None)
    assert strict(stores.retrieve(store.id)) == store
    changed = strict(stores.update(store.id, name="Facts", metadata={"tier": None, "region": "eu"}))
    assert (changed.name, changed.description) == ("Facts", "What we know")
    assert changed.metadata == {"owner": "ops", "region": "eu"}
    assert changed.updated_at > store.updated_at
    assert stores.update(store.id, name="Facts").updated_at == changed.updated_at, "no change, no update"
    assert stores.update(store.id, description="").description == ""
    archived = strict(stores.archive(store.id))
    assert archived.archived_at is not None
    assert stores.archive(store.id).archived_at == archived.archived_at
    assert [found.id for found in stores.list()] == []
    assert [found.id for found in stores.list(include_archived=True)] == [store.id]
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        stores.update(store.id, name="Again")
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        stores.memories.create(store.id, path="/a", content="x")
    assert strict(stores.delete(store.id)).type == "memory_store_deleted"
    with pytest.raises(anthropic.NotFoundError):
        stores.retrieve(store.id)


def test_stores_are_listed_in_pages_and_by_age(control: ControlPlane) -> None:
    stores = control.sdk().beta.memory_stores
    made = [stores.create(name=f"store {number}") for number in range(5)]
    assert [store.id for store in stores.list(limit=2)] == [store.id for store in reversed(made)]
    page = stores.list(limit=2)
    assert page.next_page is not None
    assert len(page.data) == 2
    middle = made[2].created_at
    assert {store.id for store in stores.list(created_at_gte=middle)} == {store.id for store in made[2:]}
    assert {store.id for store in stores.list(created_at_lte=middle)} == {store.id for store in made[:3]}
    assert list(stores.list(created_at_gte=datetime.now(UTC) + timedelta(hours=1))) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": "a\nb"}, "control characters"),
        ({"name": "a", "description": "x" * 1025}, "description"),
        ({"name": "a", "description": "\0"}, "NUL"),
        ({"name": "a", "metadata": {f"k{number}": "" for number in range(17)}}, "at most 16"),
        ({"name": "a", "metadata": {"k": "x" * 513}}, "metadata"),
        ({"name": "a", "metadata": {"": "x"}}, "metadata"),
        ({"name": "a", "metadata": {"k": 1}}, "metadata"),
        ({"name": "a", "color": "red"}, "`color`: is not a known field"),
        ({}, "`name`: is missing"),
    ],
)
def test_a_bad_store_is_refused(control: ControlPlane, given: Any, words: str) -> None:
    with control.http() as http:
        answer = http.post("/v1/memory_stores", json=given)
        assert ok(http.get("/v1/memory_stores"))["data"] == []
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_a_memory_lives(control: ControlPlane) -> None:
    stores = control.sdk().beta.memory_stores
    store = stores.create(name="Notes")
    memories = stores.memories
    made = strict(memories.create(store.id, path="/notes/todo.md", content="Grüße"))
    assert (made.type, made.content, made.content_size_bytes) == ("memory", None, 7)
    assert made.content_sha256 == sha("Grüße")
    assert memories.create(store.id, path="/full.md", content="x", view="full").content == "x"
    read = strict(memories.retrieve(made.id, memory_store_id=store.id))
    assert read.content == "Grüße"
    assert memories.retrieve(made.id, memory_store_id=store.id, view="basic").content is None
    changed = strict(memories.update(made.id, memory_store_id=store.id, content="Hallo", view="full"))
    assert (changed.id, changed.content, changed.created_at) == (made.id, "Hallo", made.created_at)
    assert changed.memory_version_id != made.memory_version_id
    moved = memories.update(made.id, memory_store_id=store.id, path="/done/todo.md", view="full")
    assert (moved.path, moved.content) == ("/done/todo.md", "Hallo")
    same = memories.update(made.id, memory_store_id=store.id, content="Hallo", path="/done/todo.md")
    assert same.memory_version_id == moved.memory_version_id, "what is so already makes no version"
    assert strict(memories.delete(made.id, memory_store_id=store.id)).type == "memory_deleted"
    with pytest.raises(anthropic.NotFoundError):
        memories.retrieve(made.id, memory_store_id=store.id)
    assert memories.create(store.id, path="/empty", content=None).content_size_bytes == 0
    assert memories.create(store.id, path="/done/todo.md", content="new").id != made.id


def test_patch_is_taken_where_post_is(control: ControlPlane) -> None:
    stores = control.sdk().beta.memory_stores
    store = stores.create(name="Notes")
    memory = stores.memories.create(store.id, path="/a", content="1")
    with control.http() as http:
        assert ok(http.patch(f"/v1/memory_stores/{store.id}", json={"name": "N"}))["name"] == "N"
        patched = http.patch(f"/v1/memory_stores/{store.id}/memories/{memory.id}?view=full", json={"content": "2"})
    assert ok(patched)["content"] == "2"


def test_preconditions(control: ControlPlane) -> None:
    stores = control.sdk().beta.memory_stores
    store = stores.create(name="Notes")
    memory = stores.memories.create(store.id, path="/a", content="1")
    update = stores.memories.update
    expected = {"type": "content_sha256", "content_sha256": sha("1")}
    update(memory.id, memory_store_id=store.id, content="2", precondition=expected)  # type: ignore[arg-type]
    with pytest.raises(anthropic.ConflictError) as caught:
        update(memory.id, memory_store_id=store.id, content="3", precondition=expected)  # type: ignore[arg-type]
    error = body_of(caught.value)
    assert error["type"] == "memory_precondition_failed_error"
    assert error["current"]["content_sha256"] == sha("2")
    again = update(memory.id, memory_store_id=store.id, content="2", precondition=expected)  # type: ignore[arg-type]
    assert again.content_sha256 == sha("2"), "it is as asked for already"
    with pytest.raises(anthropic.ConflictError):
        stores.memories.delete(memory.id, memory_store_id=store.id, expected_content_sha256=sha("1"))
    with pytest.raises(anthropic.BadRequestError):
        stores.memories.delete(memory.id, memory_store_id=store.id, expected_content_sha256="1")
    stores.memories.delete(memory.id, memory_store_id=store.id, expected_content_sha256=sha("2"))


@pytest.mark.parametrize("path", ["/a/b", "/a", "/a/b/c"])
def test_a_path_that_overlaps_another_is_a_conflict(control: ControlPlane, path: str) -> None:
    stores = control.sdk().beta.memory_stores
    store = stores.create(name="Notes")
    there = stores.memories.create(store.id, path="/a/b", content="1")
    other = stores.memories.create(store.id, path="/z", content="1")
    with pytest.raises(anthropic.ConflictError) as creating:
        stores.memories.create(store.id, path=path, content="2")
    with pytest.raises(anthropic.ConflictError) as renaming:
        stores.memories.update(other.id, memory_store_id=store.id, path=path)
    for caught in (creating, renaming):
        error = body_of(caught.value)
        assert error["type"] == "memory_path_conflict_error"
        assert (error["conflicting_path"], error["conflicting_memory_id"]) == ("/a/b", there.id)
    assert stores.memories.create(store.id, path="/a/bc", content="2").path == "/a/bc"


@pytest.mark.parametrize(
    "path",
    [
        "", "a", "/", "//", "/a/", "/a//b", "/.", "/..", "/a/../b", "/a/./b", "/a\nb", "/a\x7f", "/a\u200bb",
        "/a\u2028b", "/e\u0301", "/" + "/".join("a" * 21), "/" + "a" * 1024, "/" + "ü" * 512,
    ],
)  # fmt: skip
def test_a_bad_path_is_refused(control: ControlPlane, path: str) -> None:
    stores = control.sdk().beta.memory_stores
    store = stores.create(name="Notes")
    with pytest.raises(anthropic.BadRequestError) as caught:
        stores.memories.create(store.id, path=path, content="x")
    assert body_of(caught.value)["code"] == "invalid_path"


def test_unusual_paths_that_are_good(control: ControlPlane) -> None:
    stores = control.sdk().beta.memory_stores
    store = stores.create(name="Notes")
    paths = [
        "/ ",
        "/...",
        "/a b/ü",
        "/%2e%2e",
        "/" + "/".join("a" * 20),
        "/" + "b" * 1023,
        "/Notes",
        "/notes",
        "/blocks/x",
    ]
    for path in paths:
        stores.memories.create(store.id, path=path, content=path)
    assert [memory.path for memory in stores.memories.list(store.id)] == sorted(paths, key=str.encode)


def test_the_content_limit_is_exact(control: ControlPlane) -> None:
    stores = control.sdk().beta.memory_stores
    store = stores.create(name="Notes")
    memory = stores.memories.create(store.id, path="/a", content="ü" * 51_200)
    assert memory.content_size_bytes == 102_400
    with pytest.raises(anthropic.BadRequestError, match="102400"):
        stores.memories.create(store.id, path="/b", content="x" * 102_401)
    with pytest.raises(anthropic.BadRequestError, match="102400"):
        stores.memories.update(memory.id, memory_store_id=store.id, content="x" * 102_401)


def test_listing_by_prefix_depth_and_page(control: ControlPlane) -> None:
    stores = control.sdk().beta.memory_stores
    store = stores.create(name="Notes")
    paths = ["/a.md", "/notes/a", "/notes/b/c", "/notes/b/d/e", "/notes-archive/x", "/z/1", "/z/2", "/%_"]
    for path in paths:
        stores.memories.create(store.id, path=path, content=path)

    def listed(**how: Any) -> list[str]:
        return [strict(item).path for item in stores.memories.list(store.id, **how)]

    in_order = sorted(paths, key=str.encode)
    assert listed() == in_order
    assert listed(limit=3) == in_order, "across pages"
    assert listed(path_prefix="/notes/") == ["/notes/a", "/notes/b/c", "/notes/b/d/e"]
    assert listed(path_prefix="/notes/", depth=1) == ["/notes/a", "/notes/b/"]
    assert listed(path_prefix="/notes/", depth=2) == ["/notes/a", "/notes/b/c", "/notes/b/d/"]
    top = ["/%_", "/a.md", "/notes-archive/", "/notes/", "/z/"]
    assert listed(depth=1) == top
    assert listed(depth=1, limit=1) == top
    assert listed(path_prefix="/no/such/") == []
    kinds = {type(item) for item in stores.memories.list(store.id, depth=1)}
    assert kinds == {BetaManagedAgentsMemory, BetaManagedAgentsMemoryPrefix}
    full = stores.memories.list(store.id, view="full", path_prefix="/z/").data
    assert [item.content for item in full if item.type == "memory"] == ["/z/1", "/z/2"]
    for bad in ({"path_prefix": "/notes"}, {"path_prefix": "notes/"}, {"limit": 0}, {"limit": 101}, {"page": "page_x"}):
        with pytest.raises(anthropic.BadRequestError):
            stores.memories.list(store.id, **bad)


def test_a_page_with_contents_holds_at_most_twenty(control: ControlPlane) -> None:
    stores = control.sdk().beta.memory_stores
    store = stores.create(name="Notes")
    for number in range(21):
        stores.memories.create(store.id, path=f"/{number:02}", content="x")
    assert len(stores.memories.list(store.id, view="full", limit=100).data) == 20
    assert len(list(stores.memories.list(store.id, view="full", limit=100))) == 21
    assert len(stores.memory_versions.list(store.id, view="full", limit=100).data) == 20


def test_versions_record_every_change(control: ControlPlane) -> None:
    stores = control.sdk().beta.memory_stores
    store = stores.create(name="Notes")
    memory = stores.memories.create(store.id, path="/a", content="1")
    other = stores.memories.create(store.id, path="/other", content="1")
    stores.memories.update(memory.id, memory_store_id=store.id, content="2")
    stores.memories.delete(memory.id, memory_store_id=store.id)
    versions = [strict(version) for version in stores.memory_versions.list(store.id, memory_id=memory.id)]
    assert [version.operation for version in versions] == ["deleted", "modified", "created"]
    assert [version.content_sha256 for version in versions] == [None, sha("2"), sha("1")]
    assert {version.path for version in versions} == {"/a"}
    assert versions[0].created_by is not None
    assert versions[0].created_by.type == "api_actor"
    read = strict(stores.memory_versions.retrieve(versions[1].id, memory_store_id=store.id))
    assert read.content == "2"
    everything = list(stores.memory_versions.list(store.id, limit=1))
    assert len(everything) == 4
    assert [version.memory_id for version in stores.memory_versions.list(store.id, operation="created")] == [
        other.id,
        memory.id,
    ]
    writer = versions[0].created_by.api_key_id
    assert len(list(stores.memory_versions.list(store.id, api_key_id=writer))) == 4
    assert list(stores.memory_versions.list(store.id, api_key_id="key_" + "0" * 32)) == []
    assert list(stores.memory_versions.list(store.id, service_account_id="svac_1")) == []
    assert list(stores.memory_versions.list(store.id, session_id="sesn_" + "0" * 32)) == []
    since = everything[1].created_at
    assert len(list(stores.memory_versions.list(store.id, created_at_gte=since))) == 2


def test_redaction_empties_a_version_for_good(control: ControlPlane, database_url: str) -> None:
    import psycopg

    stores = control.sdk().beta.memory_stores
    store = stores.create(name="Notes")
    memory = stores.memories.create(store.id, path="/secret-path", content="secret-content")
    first = memory.memory_version_id
    with pytest.raises(anthropic.ConflictError, match="cannot be redacted"):
        stores.memory_versions.redact(first, memory_store_id=store.id)
    stores.memories.update(memory.id, memory_store_id=store.id, content="harmless", path="/harmless")
    redacted = strict(stores.memory_versions.redact(first, memory_store_id=store.id))
    assert (redacted.content, redacted.path, redacted.content_sha256, redacted.content_size_bytes) == (None,) * 4
    assert redacted.redacted_at is not None
    assert redacted.redacted_by is not None
    assert redacted.created_by is not None
    assert stores.memory_versions.redact(first, memory_store_id=store.id) == redacted, "once is enough"
    assert stores.memory_versions.retrieve(first, memory_store_id=store.id) == redacted
    assert stores.memories.retrieve(memory.id, memory_store_id=store.id).content == "harmless"
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "select v::text from trunkline.memory_versions v where memory_id = %s", (memory.id.removeprefix("mem_"),)
        ).fetchall()
    assert len(rows) == 2
    assert not [row for row in rows if "secret" in row[0] or sha("secret-content") in row[0]]


def test_a_redacted_block_version_keeps_who_and_when_alone(control: ControlPlane, database_url: str) -> None:
    import psycopg

    agent = new_agent(control)
    with control.http() as http:
        first = ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Secret"}, user_id="u"))
        ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Harmless"}, user_id="u"))
        history = f"/v1/agents/{agent}/memory/customer/history?user_id=u"
        oldest = ok(http.get(history))["data"][-1]
        ok(http.post(f"/v1/memory_stores/{first['store_id']}/memory_versions/{oldest['id']}/redact"))
        redacted = ok(http.get(history))["data"][-1]
    assert (redacted["value"], redacted["operations"], redacted["version"]) == (None, None, 1)
    assert redacted["actor"] == oldest["actor"]
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("select v::text from trunkline.memory_versions v").fetchall()
    assert not [row for row in rows if "Secret" in row[0]]


def test_a_block_is_a_memory_of_its_managed_store(control: ControlPlane) -> None:
    agent = new_agent(control)
    stores = control.sdk().beta.memory_stores
    with control.http() as http:
        state = ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Ada"}, user_id="cus_42"))
        where = {"memory_store_id": state["store_id"]}
        assert stores.retrieve(state["store_id"]).to_dict()["scope"] == "user"
        memory = stores.memories.retrieve(state["memory_id"], **where)
        assert (memory.path, memory.content) == ("/blocks/customer", '{"name":"Ada"}')
        changed = stores.memories.update(memory.id, content='{ "name": "Bea", "preferences": {"size": "M"} }', **where)
        after = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "cus_42"}))
        assert after["value"] == {"name": "Bea", "preferences": {"size": "M"}}
        assert after["content_sha256"] == changed.content_sha256
        assert 'preferences: {"size": "M"}' in after["rendered"]
        for bad, words in {
            "Bea": "no JSON",
            "[1]": "must be a JSON object",
            '{"name": 5}': "must be string",
            '{"age": 5}': 'has no field "age"',
            '{"name": NaN}': "not a JSON number",
            "[" * 50_000: "no JSON",
        }.items():
            with pytest.raises(anthropic.BadRequestError) as caught:
                stores.memories.update(memory.id, content=bad, **where)
            assert words in caught.value.message
        for path in ("/blocks/other", "/elsewhere"):
            with pytest.raises(anthropic.BadRequestError):
                stores.memories.update(memory.id, path=path, **where)
        for path in ("/blocks/unknown", "/blocks", "/blocks/a/b"):
            with pytest.raises(anthropic.BadRequestError, match="kept for blocks"):
                stores.memories.create(state["store_id"], path=path, content="{}")
        note = stores.memories.create(state["store_id"], path="/note", content="text beside blocks")
        with pytest.raises(anthropic.BadRequestError):
            stores.memories.update(note.id, path="/blocks/customer2", **where)
        stores.memories.delete(memory.id, **where)
        assert ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "cus_42"}))["version"] == 0
        made = stores.memories.create(state["store_id"], path="/blocks/customer", content='{"name": "Cleo"}')
        again = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "cus_42"}))
        assert (again["value"], again["memory_id"]) == ({"name": "Cleo"}, made.id)


def test_malformed_ids(control: ControlPlane) -> None:
    store = control.sdk().beta.memory_stores.create(name="Notes").id
    with control.http() as http:
        for path in (
            "memory_stores/nope",
            "memory_stores/memstore_1",
            f"memory_stores/{store}/memories/mem_zz",
            f"memory_stores/{store}/memory_versions/{store}",
            f"memory_stores/{store}/memories/mem_{'0' * 32}",
            f"memory_stores/{store}/memory_versions/memver_{'0' * 32}",
        ):
            answer = http.get(f"/v1/{path}")
            assert answer.status_code == 404, path
            assert answer.json()["error"]["type"] == "not_found_error"


def test_a_key_of_one_agent_sees_that_agents_stores(control: ControlPlane) -> None:
    agent, other = new_agent(control, "one"), new_agent(control, "two")
    bound = control.new_key(scopes=["memory"], agent_id=agent)
    operation = {"op": "set", "field": "name", "value": "Ada"}
    with control.http(bound) as http, control.http() as admin:
        mine = ok(write(http, agent, "customer", operation, user_id="u"))
        theirs = ok(write(admin, other, "customer", operation, user_id="u"))
        free = ok(admin.post("/v1/memory_stores", json={"name": "free"}))["id"]
        assert write(http, other, "customer", operation, user_id="u").status_code == 404
        assert http.get("/v1/agents/two/memory/customer?user_id=u").status_code == 404
        own = ok(http.post("/v1/memory_stores", json={"name": "own"}))["id"]
        assert {store["id"] for store in ok(http.get("/v1/memory_stores"))["data"]} == {mine["store_id"], own}
        for store in (theirs["store_id"], free):
            assert http.get(f"/v1/memory_stores/{store}").status_code == 404
            assert http.get(f"/v1/memory_stores/{store}/memories").status_code == 404
            assert (
                http.post(f"/v1/memory_stores/{store}/memories", json={"path": "/a", "content": ""}).status_code == 404
            )
            assert http.delete(f"/v1/memory_stores/{store}").status_code == 404
        assert http.get(f"/v1/memory_stores/{own}").status_code == 200


def test_a_create_sent_twice_with_one_idempotency_key(control: ControlPlane, database_url: str) -> None:
    import psycopg

    with control.http() as http:
        store = ok(http.post("/v1/memory_stores", json={"name": "n"}))["id"]
        where = f"/v1/memory_stores/{store}/memories"
        given = {"path": "/a", "content": "secret-content"}
        first = ok(http.post(where, params={"view": "full"}, json=given, headers={"idempotency-key": "twice"}))
        again = ok(http.post(where, params={"view": "full"}, json=given, headers={"idempotency-key": "twice"}))
    assert (first["content"], again["content"]) == ("secret-content", None)
    assert again["id"] == first["id"]
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("select k::text from trunkline.idempotency_keys k where key = 'twice'").fetchall()
    assert len(rows) == 1
    assert "secret" not in rows[0][0]
