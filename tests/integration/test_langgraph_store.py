"""LangGraph's store over a memory store: what its own in-memory store does, recall, and what must not be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypedDict
from uuid import uuid4

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore, GetOp, InvalidNamespaceError, ListNamespacesOp, Op, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from support.control_plane import ControlPlane
from support.memory import ok
from support.postgres import DatabaseUrls
from trunkline.errors import InvalidRequest, NotFound, TooLarge, TrunklineError
from trunkline.langgraph import TrunklineStore
from trunkline.store.store_items import forget

LABELS = ("a", "b", "é/%2f", 'quote"d\\', "{}")


def new_store(plane: ControlPlane, key: str | None = None) -> str:
    with plane.http(key) as http:
        return str(ok(http.post("/v1/memory_stores", json={"name": "graph"}))["id"])


@pytest.fixture
def store(plane: ControlPlane) -> Iterator[TrunklineStore]:
    with TrunklineStore(new_store(plane), plane.base_url, plane.key) as made:
        yield made


def plain(found: Any) -> Any:
    """Items without their times and scores, in an order of our own."""
    return sorted((item.namespace, item.key, json.dumps(item.value, sort_keys=True)) for item in found)


def fill(store: BaseStore) -> None:
    for number, label in enumerate(LABELS):
        store.put(("users", label, "notes"), "k", {"n": number, "kind": "note", "deep": {"list": [number, None]}})
        store.put(("users", label), "k", {"n": number + 0.5, "kind": "user"})
    store.put(("other",), "k", {"n": "text", "kind": None})
    store.put(("users", "b"), "stays", {"n": -1, "kind": "user"})
    store.delete(("users", "b"), "k")
    store.delete(("users", "b"), "never there")
    store.put(("users", "a"), "k", {"n": 0.5, "kind": "user", "again": True})


def test_it_does_what_langgraphs_own_store_does(store: TrunklineStore) -> None:
    theirs = InMemoryStore()
    for one in (store, theirs):
        fill(one)
    filters: list[dict[str, Any] | None] = [
        None,
        {"kind": "note"},
        {"kind": {"$ne": "note"}},
        {"deep": {"list": [2, None]}},
        {"deep": {"list": [2]}},
        {"kind": None},
        {"again": True, "n": {"$eq": 0.5}},
    ]
    for prefix in ((), ("users",), ("users", "é/%2f"), ("users", 'quote"d\\', "notes"), ("user",)):
        for members in filters:
            ours = store.search(prefix, filter=members, limit=100)
            assert plain(ours) == plain(theirs.search(prefix, filter=members, limit=100)), (prefix, members)
    numbers = {"kind": "note", "n": {"$gte": 1, "$lt": 4}}
    assert sorted(item.value["n"] for item in store.search(("users",), filter=numbers)) == [1, 2, 3]
    for more in ({}, {"prefix": ("users", "*", "notes")}, {"suffix": ("notes",)}, {"max_depth": 2}, {"max_depth": 1}):
        assert sorted(store.list_namespaces(**more)) == sorted(theirs.list_namespaces(**more)), more
    assert store.list_namespaces(limit=2, offset=1) == store.list_namespaces()[1:3]
    assert store.get(("users", "a"), "k") is not None
    assert store.get(("users", "b"), "k") is None
    pages = [store.search(("users",), limit=4, offset=offset) for offset in (0, 4, 8)]
    assert len({(item.namespace, item.key) for page in pages for item in page}) == 10


async def test_a_batch_reads_before_it_writes_and_the_last_write_counts(store: TrunklineStore) -> None:
    operations: list[Op] = [
        PutOp(("a",), "k", {"n": 1}),
        GetOp(("a",), "k"),
        PutOp(("a",), "k", {"n": 2}),
        SearchOp(("a",)),
        ListNamespacesOp(),
    ]
    assert await store.abatch(operations) == [None, None, None, [], []]
    found = await store.aget(("a",), "k")
    assert found is not None
    assert found.value == {"n": 2}
    assert found.created_at == found.updated_at
    assert await store.abatch([]) == []
    await store.aput(("a",), "k", {"n": 3})
    again = await store.aget(("a",), "k")
    assert again is not None
    assert again.created_at == found.created_at < again.updated_at
    with pytest.raises(InvalidRequest):
        await store.abatch([PutOp(("a",), "k", {"n": 4}), PutOp(("a",), "bad", {"text": "a\0b"})])
    kept = await store.aget(("a",), "k")
    assert kept is not None
    assert kept.value == {"n": 3}, "all or none"
    await store.aclose()


def test_items_are_found_by_what_they_say(store: TrunklineStore) -> None:
    store.put(("users", "1"), "tea", {"text": "Ada likes green tea in the morning", "n": 1})
    store.put(("users", "1"), "boat", {"text": "The boat is in the harbour", "n": 2})
    store.put(("users", "2"), "tea", {"text": "Bob drinks tea at noon, black", "n": 1})
    store.put(("users", "2"), "hidden", {"text": "tea that nobody finds"}, index=False)
    store.put(("users", "2"), "part", {"title": "coffee", "body": "tea"}, index=["title"])
    found = store.search((), query="who drinks tea?")
    assert [(item.namespace[1], item.key) for item in found] == [("2", "tea"), ("1", "tea")]
    assert found[0].score is not None
    assert found[1].score is not None
    assert found[0].score > found[1].score
    assert [item.key for item in store.search(("users", "1"), query="tea")] == ["tea"]
    assert store.search(("users", "1"), query="tea", filter={"n": 2}) == []
    assert [item.key for item in store.search(("users", "1"), query="tea", filter={"n": {"$lt": 2}})] == ["tea"]
    assert [item.key for item in store.search((), query="coffee")] == ["part"]
    store.put(("users", "1"), "tea", {"text": "Ada switched to cocoa"})
    assert [item.key for item in store.search(("users", "1"), query="cocoa")] == ["tea"]
    assert store.search(("users", "1"), query="green") == []
    store.delete(("users", "1"), "tea")
    assert store.search((), query="cocoa") == []


async def test_items_past_their_time_are_gone(plane: ControlPlane, urls: DatabaseUrls) -> None:
    made = new_store(plane)

    def age(minutes: int) -> None:
        with psycopg.connect(urls.admin_url) as admin:
            admin.execute(
                "update trunkline.store_items set expires_at = expires_at - make_interval(mins => %s)", (minutes,)
            )

    with TrunklineStore(made, plane.base_url, plane.key, ttl={"default_ttl": 10}) as store:
        store.put(("a",), "short", {"text": "short lived"})
        store.put(("a",), "long", {"text": "long lived"}, ttl=None)
        age(6)
        assert store.get(("a",), "short", refresh_ttl=False) is not None
        age(3)
        assert store.get(("a",), "short") is not None, "read, it is kept for its time again"
        age(9)
        assert len(store.search(("a",), query="lived")) == 2
        age(11)
        assert store.get(("a",), "short") is None
        assert [item.key for item in store.search(("a",))] == ["long"]
        assert [item.key for item in store.search(("a",), query="lived")] == ["long"]
        async with await psycopg.AsyncConnection.connect(
            urls.control_url, cursor_factory=psycopg.AsyncRawCursor, row_factory=psycopg.rows.dict_row
        ) as worker:
            assert await forget(worker, 100) == 1
            assert await forget(worker, 100) == 0
        with psycopg.connect(urls.admin_url) as admin:
            row = admin.execute("select count(*) from trunkline.passages where content like 'short%'").fetchone()
            assert row == (0,)


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        (PutOp(("a",), "k", {"text": "x" * 1_100_000}), TooLarge),
        (PutOp(("a",), "k", {"text": "\ud800"}), (TrunklineError, UnicodeEncodeError)),
        (PutOp(("a",), "k\0", {}), InvalidRequest),
        (PutOp(("a",) * 21, "k", {}), InvalidRequest),
        (PutOp(("é" * 400,), "k", {}), InvalidRequest),
        (PutOp(("a.b",), "k", {}), InvalidNamespaceError),
        (SearchOp(("a",), filter={"n": {"$regex": "(a+)+"}}), InvalidRequest),
        (SearchOp(("a",), limit=0), InvalidRequest),
        (SearchOp(("a",), query="a\0"), InvalidRequest),
    ],
)
def test_bad_operations_are_refused(store: TrunklineStore, operation: Any, fault: Any) -> None:
    with pytest.raises(fault):
        store.batch([operation])
    assert store.list_namespaces() == []


def test_another_tenants_and_another_agents_store_is_not_there(plane: ControlPlane) -> None:
    made = new_store(plane)
    with TrunklineStore(made, plane.base_url, plane.key) as store:
        store.put(("a",), "k", {"text": "secret"})
        with plane.http() as http:
            agent = ok(http.post("/v1/agents", json={"name": f"a{uuid4().hex}", "model": "m"}))["id"]
        strangers = [plane.another_tenant(f"t{uuid4().hex}"), plane.new_key(scopes=["memory"], agent_id=agent)]
        for key in strangers:
            with TrunklineStore(made, plane.base_url, key) as theirs:
                tries: list[Op] = [
                    GetOp(("a",), "k"),
                    SearchOp((), query="secret"),
                    PutOp(("a",), "k", {"text": "theirs"}),
                    PutOp(("a",), "k", None),
                ]
                for one in tries:
                    with pytest.raises(NotFound):
                        theirs.batch([one])
        found = store.get(("a",), "k")
        assert found is not None
        assert found.value == {"text": "secret"}
        with plane.http() as http:
            erased = ok(http.post(f"/v1/memory_stores/{made}/erase", json={"everything": True}))["erased"]
            assert (erased["items"], erased["passages"]) == (1, 1)
            assert store.get(("a",), "k") is None
            assert http.delete(f"/v1/memory_stores/{made}").status_code == 200
        with pytest.raises(NotFound):
            store.get(("a",), "k")


class Said(TypedDict):
    said: str
    known: str


def test_a_graph_remembers_across_its_threads(store: TrunklineStore) -> None:
    def note(state: Said, runtime: Runtime[None]) -> dict[str, str]:
        assert runtime.store is not None
        found = runtime.store.search(("users", "1"), query=state["said"])
        runtime.store.put(("users", "1"), str(uuid4()), {"text": state["said"]})
        return {"known": found[0].value["text"] if found else ""}

    builder = StateGraph(Said)
    builder.add_node("note", note)
    builder.add_edge(START, "note")
    builder.add_edge("note", END)
    graph: Any = builder.compile(store=store)
    assert graph.invoke({"said": "my cat is called Mog"})["known"] == ""
    assert graph.invoke({"said": "what is my cat called?"})["known"] == "my cat is called Mog"
