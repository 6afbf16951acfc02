"""Recall over the API and in the database: what is found, in which order, and what never is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from support.control_plane import ControlPlane, running
from support.postgres import DatabaseUrls, copied_database
from trunkline.benchmarks import recall as benchmark
from trunkline.benchmarks.recall_set import read
from trunkline.domain import ids
from trunkline.memory.embedders import Vector, checked
from trunkline.memory.rerankers.local import LocalReranker
from trunkline.store.embedded import ConnectionInfo

SMALL = Path(__file__).parents[1] / "data" / "recall.json"
WORDS = ["lamp", "broken", "order", "Lisbon", "train", "olives", "greenhouse", "the", "of", "seven", "Ada", "shelf"]
SESSIONS = [ids.encode("sesn", UUID(int=n + 1)) for n in range(4)]


@pytest.fixture(scope="module")
def shared(postgres: ConnectionInfo, migrated_template: str) -> Iterator[DatabaseUrls]:
    with copied_database(postgres, migrated_template) as copy:
        yield copy


@pytest.fixture(scope="module")
def control(shared: DatabaseUrls) -> Iterator[ControlPlane]:
    with running(shared) as plane:
        yield plane


class Store:
    """A store of the tests' own."""

    def __init__(self, plane: ControlPlane, database: DatabaseUrls, key: str | None = None) -> None:
        self._http = plane.http(key)
        self._admin = psycopg.connect(database.admin_url, autocommit=True, row_factory=dict_row)
        made = self._http.post("/v1/memory_stores", json={"name": "tests"})
        assert made.status_code == 200, made.text
        self.id = str(made.json()["id"])
        self.uuid = ids.decode("memstore", self.id)

    def keep(self, *texts: str, session: str | None = SESSIONS[0], **more: Any) -> list[str]:
        body = [{"text": text, "session_id": session, **more} for text in texts]
        answer = self._http.post(f"/v1/memory_stores/{self.id}/passages", json={"passages": body})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["ids"])

    def search(self, query: str, **more: Any) -> list[dict[str, Any]]:
        answer = self._http.post(f"/v1/memory_stores/{self.id}/search", json={"query": query, **more})
        assert answer.status_code == 200, answer.text
        assert answer.json()["mode"] == "lexical"
        return list(answer.json()["data"])

    def texts(self, query: str, **more: Any) -> list[str]:
        return [passage["text"] for passage in self.search(query, **more)]

    def fold(self) -> None:
        self.rows("select trunkline.fold_store(tenant_id, id) from trunkline.memory_stores where id = %s", self.uuid)

    def rows(self, statement: Any, *values: Any) -> list[dict[str, Any]]:
        return self._admin.execute(statement, values).fetchall()

    def index(self) -> dict[str, Any]:
        """What the index holds of this store."""
        postings = self.rows(
            "select word, array_agg(place order by place) as places "
            "from trunkline.passage_postings p, unnest(p.places) as place where store_id = %s group by word",
            self.uuid,
        )
        statistics = self.rows(
            "select passages, length from trunkline.passage_statistics where store_id = %s", self.uuid
        )
        return {"postings": {row["word"]: row["places"] for row in postings}, "statistics": statistics}

    def close(self) -> None:
        self._http.close()
        self._admin.close()


@pytest.fixture
def store(control: ControlPlane, shared: DatabaseUrls) -> Iterator[Store]:
    made = Store(control, shared)
    yield made
    made.close()


def test_rare_words_count_for_more_than_common_ones(store: Store) -> None:
    for number in range(12):
        store.keep(f"The order number {number} is on its way.", session=ids.encode("sesn", ids.new()))
    store.keep("The lamp came.", session=SESSIONS[1])
    assert store.texts("Is the lamp in my order?")[0] == "The lamp came."
    assert store.texts("what of the") == [], "stop words alone"


def test_what_was_said_before_and_after_is_found_by_the_words_between(store: Store) -> None:
    store.keep("Where do you live?", "In Lisbon, by the harbour.", "Nice!")
    store.keep("Nothing to do with it.", session=SESSIONS[1])
    found = store.texts("Lisbon")
    assert found[0] == "In Lisbon, by the harbour."
    assert set(found[1:]) == {"Where do you live?", "Nice!"}


def test_the_same_words_are_returned_once(store: Store) -> None:
    for session in SESSIONS:
        store.keep("My lamp is broken!", "something else", session=session)
    store.keep("my lamps, broken", "The lamp of Ada is broken.", session=SESSIONS[1])
    found = store.texts("broken lamp", limit=100)
    assert sum("y lamp" in text for text in found) == 1
    assert "The lamp of Ada is broken." in found


@pytest.mark.parametrize("folded", [False, True])
def test_a_name_is_found_though_it_is_misspelt(store: Store, folded: bool) -> None:
    store.keep("Marguerite moved to Lisbon.", session=SESSIONS[0])
    store.keep("Margins are thin.", session=SESSIONS[1])
    if folded:
        store.fold()
    assert store.texts("Where does Margerite live?") == ["Marguerite moved to Lisbon."]


def test_what_is_newer_comes_first_when_asked_for(store: Store) -> None:
    store.keep("The lamp stands in the hall now.", session=SESSIONS[0], created_at="2020-01-01T00:00:00Z")
    store.keep("The lamp stands in the attic, behind the old shelf.", session=SESSIONS[1])
    assert "hall" in store.texts("Where is the lamp?")[0]
    assert "attic" in store.texts("Where is the lamp?", half_life_days=30)[0]
    found = store.search("Where is the lamp?", half_life_days=0.001)
    assert len(found) == 2, "what is older than a thousand half-lives is found too"
    assert found[1]["score"] == pytest.approx(store.search("Where is the lamp?")[0]["score"] / 2)


def test_filters(store: Store) -> None:
    store.keep("The lamp is old.", session=SESSIONS[0], role="user", tags=["home"], created_at="2026-01-01T00:00:00Z")
    store.keep(
        "The lamp is new.",
        session=SESSIONS[1],
        role="assistant",
        tags=["home", "order"],
        metadata={"order": "7"},
        created_at="2026-03-01T00:00:00Z",
    )
    assert len(store.texts("lamp")) == 2
    for only_new in (
        {"roles": ["assistant"]},
        {"session_ids": [SESSIONS[1]]},
        {"tags": ["order", "home"]},
        {"metadata": {"order": "7"}},
        {"created_at[gte]": "2026-02-01T00:00:00Z"},
    ):
        assert store.texts("lamp", **only_new) == ["The lamp is new."], only_new
    assert store.texts("lamp", **{"created_at[lt]": "2026-03-01T00:00:00Z"}) == ["The lamp is old."]
    assert store.texts("lamp", roles=["tool"]) == []


def test_searches_of_another_tenants_store_are_refused(store: Store, control: ControlPlane) -> None:
    store.keep("The lamp is secret.")
    name = f"t{ids.new().hex[-8:]}"
    with control.http(control.another_tenant(name)) as http:
        for path, body in (("search", {"query": "lamp"}), ("passages", {"passages": [{"text": "x"}]})):
            answer = http.post(f"/v1/memory_stores/{store.id}/{path}", json=body)
            assert answer.status_code == 404
            assert "secret" not in answer.text
    with control.http(control.new_key(scopes=["inference"])) as http:
        assert http.post(f"/v1/memory_stores/{store.id}/search", json={"query": "lamp"}).status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {"query": ""},
        {"query": "x" * 2001},
        {"query": "a\0"},
        {"query": "a", "limit": 0},
        {"query": "a", "limit": 101},
        {"query": "a", "token_budget": 0},
        {"query": "a", "created_at[gte]": "yesterday"},
        {"query": "a", "surprise": 1},
    ],
)
def test_a_bad_search_is_refused(store: Store, control: ControlPlane, body: dict[str, Any]) -> None:
    with control.http() as http:
        answer = http.post(f"/v1/memory_stores/{store.id}/search", json=body)
    assert answer.status_code == 400, answer.text


def test_what_is_erased_leaves_the_index(store: Store) -> None:
    store.keep("The lamp is broken.", "Ada lives in Lisbon.", session=SESSIONS[0])
    store.keep("Olives from Lisbon.", "A train.", session=SESSIONS[1])
    before = store.index()
    store.fold()
    store.keep("Seven lamps wait on the shelf.", session=SESSIONS[2])
    assert len(store.texts("lamp Lisbon", limit=100)) >= 4
    store.rows("delete from trunkline.passages where session_id = %s returning 1", ids.decode("sesn", SESSIONS[0]))
    after = store.index()
    assert before["postings"] == {}, "nothing was folded then"
    assert set(after["postings"]) == {"oliv", "lisbon", "train"}
    assert after["statistics"] == [{"passages": 2, "length": 3}]
    assert set(store.texts("lamp Lisbon Ada broken", limit=100)) == {
        "Seven lamps wait on the shelf.",
        "Olives from Lisbon.",
        "A train.",
    }
    store.rows("delete from trunkline.passages where store_id = %s returning 1", store.uuid)
    assert store.index() == {"postings": {}, "statistics": []}
    assert store.texts("lamp") == []


def test_another_language_is_searched_by_its_own_words(store: Store) -> None:
    store.keep("Die Häuser sind alt.")
    store.fold()
    assert store.texts("ein Haus") == []
    store.rows("update trunkline.memory_stores set language = 'german' where id = %s returning 1", store.uuid)
    assert store.texts("ein Haus") == ["Die Häuser sind alt."]
    store.fold()
    assert store.texts("ein Haus") == ["Die Häuser sind alt."]
    assert store.texts("die sind") == []


texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    said=st.lists(st.tuples(st.integers(0, 3), texts), min_size=1, max_size=25),
    query=texts,
    limit=st.integers(1, 12),
    budget=st.integers(1, 60),
    folds=st.integers(0, 25),
)
def test_an_answer_depends_on_what_is_stored_alone(  # noqa: PLR0917 (hypothesis gives them by name)
    control: ControlPlane,
    shared: DatabaseUrls,
    said: list[tuple[int, str]],
    query: str,
    limit: int,
    budget: int,
    folds: int,
) -> None:
    """Not on what is folded, nor on how often it is asked; within its limits, and of its own store."""
    store, neighbour = Store(control, shared), Store(control, shared)
    kept = [store.keep(text, session=SESSIONS[session])[0] for session, text in said[:folds]]
    neighbour.keep(*[text for _, text in said], session=SESSIONS[0])
    store.fold()
    kept += [store.keep(text, session=SESSIONS[session])[0] for session, text in said[folds:]]
    first = store.search(query, limit=100, token_budget=10_000)
    assert store.search(query, limit=100, token_budget=10_000) == first
    some = store.search(query, limit=limit, token_budget=budget)
    store.fold()
    assert store.search(query, limit=100, token_budget=10_000) == first
    assert {passage["id"] for passage in first} <= set(kept)
    assert len(some) <= limit
    assert sum(passage["tokens"] for passage in some) <= budget
    assert [passage["id"] for passage in some] == [passage["id"] for passage in first][: len(some)]
    store.close()
    neighbour.close()


class Letters:
    """An embedder that counts pairs of letters: near are texts that are spelt alike."""

    model = "letters"
    dimension = 64

    async def embed(self, tenant_id: UUID, texts: Sequence[str]) -> list[Vector]:  # noqa: ARG002 (it costs nobody)
        counted = []
        for text in texts:
            vector = [0.0] * self.dimension
            for one, other in pairwise(text.lower()):
                vector[(ord(one) * 31 + ord(other)) % self.dimension] += 1
            counted.append(vector)
        return checked(counted, len(texts), self.dimension)


def shared_letters(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """A reranker that counts the pairs of letters that query and text share."""

    def letters(text: str) -> set[tuple[str, str]]:
        return set(pairwise(text.lower()))

    return [len(letters(query) & letters(text)) / (1 + len(letters(text))) for query, text in pairs]


def test_recall_of_a_small_set_does_not_get_worse(database: DatabaseUrls) -> None:
    told: list[str] = []
    measured = asyncio.run(
        benchmark.run(
            read(SMALL),
            database.admin_url,
            database.control_url,
            told.append,
            embedder=Letters(),
            reranker=LocalReranker(shared_letters),
        )
    )
    lexical, hybrid = measured["lexical"], measured["hybrid"]
    assert hybrid["questions"] == 13
    assert hybrid["turn_recall@10"] >= 76
    assert hybrid["ndcg@10"] != lexical["ndcg@10"], "the embeddings counted for nothing"
    assert measured["reranked"]["questions"] == 13
    assert measured["reranked"]["ndcg@10"] != hybrid["ndcg@10"], "the reranker counted for nothing"
    assert lexical["questions"] == 13
    assert lexical["turn_recall@5"] >= 69
    assert lexical["turn_recall@10"] >= 76
    with psycopg.connect(database.admin_url) as connection:
        for table in ("passages", "passage_tail", "passage_postings", "passage_statistics", "memory_stores"):
            assert connection.execute(f"select count(*) from trunkline.{table}").fetchone() == (0,), table
