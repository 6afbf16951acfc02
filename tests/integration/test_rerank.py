"""Searches whose order is a reranker's: over HTTP on real sockets, and by a cross-encoder that runs here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.control_plane import ControlPlane, running
from support.memory import new_agent, ok, write
from support.postgres import DatabaseUrls, copied_database
from support.reranker import RerankServer, rerank_server
from trunkline.domain import ids
from trunkline.errors import SetupError
from trunkline.memory import rerank
from trunkline.memory.rerankers import local
from trunkline.memory_settings import Reranker
from trunkline.processes.reranking import prepare
from trunkline.store.embedded import ConnectionInfo

KEY = "the-rerankers-key"
TEXTS = [  # the word stands in each once, so the shortest is the best; the letters stand in them once, twice, thrice
    "The red lamp.",
    "A green lamp came with its lampshade from Lisbon.",
    "Some blue lamp, lampshade included, stood between lampposts when the old house near the sea was sold.",
]
BACKWARDS = TEXTS[::-1]


@pytest.fixture(scope="module")
def reranker() -> Iterator[RerankServer]:
    with rerank_server() as served:
        yield served


@pytest.fixture(scope="module")
def plane(postgres: ConnectionInfo, migrated_template: str, reranker: RerankServer) -> Iterator[ControlPlane]:
    settings = Reranker(url=reranker.url, model="by-count", candidates=20, timeout_ms=1000)
    with (
        copied_database(postgres, migrated_template) as database,
        running(database, open_rerank=prepare(settings, KEY, None)) as plane,
    ):
        yield plane


@pytest.fixture(autouse=True)
def as_it_should(reranker: RerankServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker.status, reranker.delay_s, reranker.answer = 200, 0.0, None
    reranker.asked.clear()
    reranker.keys.clear()
    monkeypatch.setattr(rerank, "REST_SECONDS", 0.0)


@pytest.fixture
def http(plane: ControlPlane) -> Iterator[httpx.Client]:
    with plane.http() as http:
        yield http


def make_store(http: httpx.Client, *texts: str, **more: Any) -> str:
    store = str(ok(http.post("/v1/memory_stores", json={"name": "tests"}))["id"])
    for text in texts:
        keep(http, store, text, **more)
    return store


def keep(http: httpx.Client, store: str, text: str, **more: Any) -> str:
    """Keep a text in a session of its own, so that no other's score counts for it."""
    body = {"passages": [{"text": text, "session_id": ids.encode("sesn", ids.new()), **more}]}
    return str(ok(http.post(f"/v1/memory_stores/{store}/passages", json=body))["ids"][0])


def search(http: httpx.Client, store: str, query: str = "lamp", **more: Any) -> dict[str, Any]:
    answer = http.post(f"/v1/memory_stores/{store}/search", json={"query": query, "rerank": True, **more})
    found = ok(answer)
    found["header"] = answer.headers["x-trunkline-recall"]
    return dict(found)


def texts(found: dict[str, Any]) -> list[str]:
    return [passage["text"] for passage in found["data"]]


def test_what_the_reranker_takes_for_the_best_comes_first(http: httpx.Client, reranker: RerankServer) -> None:
    store = make_store(http, *TEXTS)
    plain = search(http, store, rerank=False)
    assert texts(plain) == TEXTS
    assert (plain["reranked"], plain["rerank_reason"], plain["header"]) == (False, None, "lexical")
    assert reranker.asked == [], "it is not asked where a search does not ask for it"
    found = search(http, store)
    assert texts(found) == BACKWARDS
    assert [passage["score"] for passage in found["data"]] == pytest.approx([1.0, 0.5, 0.0])
    assert (found["reranked"], found["rerank_reason"], found["header"]) == (True, None, "lexical; reranked")
    assert {passage["id"]: passage["text"] for passage in found["data"]} == {
        passage["id"]: passage["text"] for passage in plain["data"]
    }, "an id cites the same text"
    assert reranker.asked == [{"model": "by-count", "query": "lamp", "documents": TEXTS, "top_n": 3}]
    assert reranker.keys == [f"Bearer {KEY}"]


def test_the_search_finds_more_for_it_than_it_returns(http: httpx.Client, reranker: RerankServer) -> None:
    store = make_store(http, *TEXTS)
    first = search(http, store, limit=1)
    assert texts(first) == BACKWARDS[:1], "the third by words"
    assert first["tokens"] == first["data"][0]["tokens"]
    assert len(reranker.asked[0]["documents"]) == 3


def test_the_token_budget_holds_in_the_new_order(http: httpx.Client) -> None:
    store = make_store(http, *TEXTS)
    last = search(http, store)["data"]
    budget = last[0]["tokens"] + last[1]["tokens"]
    assert texts(search(http, store, token_budget=budget)) == BACKWARDS[:2]
    assert texts(search(http, store, token_budget=budget - 1)) == BACKWARDS[:1]
    assert texts(search(http, store, token_budget=1)) == []


def test_filters_hold_and_what_they_leave_out_is_not_shown(http: httpx.Client, reranker: RerankServer) -> None:
    store = make_store(http, *TEXTS, tags=["home"])
    keep(http, store, "lamp lamp lamp lamp lamp", tags=["secret"])
    assert texts(search(http, store, tags=["home"])) == BACKWARDS
    assert all("lamp lamp" not in document for document in reranker.asked[0]["documents"])


def test_the_same_words_are_still_returned_once(http: httpx.Client, reranker: RerankServer) -> None:
    store = make_store(http, *TEXTS, TEXTS[2], TEXTS[2].upper())
    assert [text.lower() for text in texts(search(http, store))] == [text.lower() for text in BACKWARDS]
    assert len(reranker.asked[0]["documents"]) == 3


def test_what_is_newer_is_still_preferred_when_asked_for(http: httpx.Client) -> None:
    store = make_store(http, TEXTS[0])
    keep(http, store, TEXTS[1])
    keep(http, store, TEXTS[2], created_at="2006-01-01T00:00:00Z")
    assert texts(search(http, store))[0] == TEXTS[2]
    aged = search(http, store, half_life_days=365)
    assert aged["data"][0]["score"] == pytest.approx(0.5, abs=0.01), "half of the best one's has faded"
    keep(http, store, TEXTS[2].replace("sea", "river"))
    assert "river" in texts(search(http, store, half_life_days=365))[0]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, None),
        (401, {"message": f"the key {KEY} is not known"}),
        (302, None),
        (200, []),
        (200, {"results": []}),
        (200, {"results": [{"index": 0, "relevance_score": 1}]}),
        (200, {"results": [{"index": index, "relevance_score": 1} for index in (0, 1, 1)]}),
        (200, {"results": [{"index": index, "relevance_score": 1} for index in (0, 1, 7)]}),
        (200, {"results": [{"index": index, "relevance_score": float("nan")} for index in range(3)]}),
        (200, {"results": [{"index": index, "relevance_score": "good"} for index in range(3)]}),
        (200, {"results": [{"index": index} for index in range(3)]}),
        (200, {"data": [{"index": index, "score": 1} for index in range(3)]}),
    ],
)
def test_when_it_fails_the_order_stands_and_the_answer_says_so(
    http: httpx.Client, reranker: RerankServer, caplog: pytest.LogCaptureFixture, status: int, answer: Any
) -> None:
    store = make_store(http, *TEXTS)
    plain = search(http, store, rerank=False)
    reranker.status, reranker.answer = status, answer
    with caplog.at_level(logging.DEBUG):
        found = search(http, store)
    assert found["data"] == plain["data"]
    assert (found["reranked"], found["rerank_reason"]) == (False, "reranker_failed")
    assert found["header"] == "lexical; rerank_reason=reranker_failed"
    assert "not reranked" in caplog.text
    assert KEY not in caplog.text
    assert "Lisbon" not in caplog.text


def test_past_the_time_limit_the_order_stands_and_the_reranker_is_left_alone(
    http: httpx.Client, reranker: RerankServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerank, "REST_SECONDS", 1.0)
    store = make_store(http, *TEXTS)
    reranker.delay_s = 3.0
    began = time.monotonic()
    late = search(http, store, limit=2)
    assert time.monotonic() - began < 2.5
    assert texts(late) == TEXTS[:2]
    assert late["header"] == "lexical; rerank_reason=timeout"
    reranker.delay_s = 0.0
    assert search(http, store)["rerank_reason"] == "reranker_resting"
    assert len(reranker.asked) == 1
    time.sleep(1.1)
    assert search(http, store)["reranked"]


def test_there_is_nothing_to_rerank_where_one_passage_or_none_is_found(
    http: httpx.Client, reranker: RerankServer
) -> None:
    store = make_store(http, *TEXTS[:1])
    assert texts(search(http, store)) == TEXTS[:1]
    assert texts(search(http, store, "kettle")) == []
    assert reranker.asked == []


def test_a_users_turns_are_reranked_too(http: httpx.Client, plane: ControlPlane) -> None:
    agent = new_agent(plane)
    named = {"op": "set", "field": "name", "value": "Ada"}
    store = str(ok(write(http, agent, "customer", named, user_id="cus_42"))["store_id"])
    for text in TEXTS:
        keep(http, store, text)
    body = {"query": "lamp", "user_id": "cus_42", "rerank": True}
    assert texts(ok(http.post(f"/v1/agents/{agent}/memory_search", json=body))) == BACKWARDS
    nobody = ok(http.post(f"/v1/agents/{agent}/memory_search", json=body | {"user_id": "cus_43"}))
    assert (nobody["data"], nobody["reranked"]) == ([], True)


def test_nothing_of_another_tenants_reaches_it(http: httpx.Client, plane: ControlPlane, reranker: RerankServer) -> None:
    store = make_store(http, *TEXTS)
    with plane.http(plane.another_tenant(f"t{ids.new().hex[-8:]}")) as other:
        own = make_store(other, "A lamp of theirs.", "Another tall lamp, in the attic.")
        answer = other.post(f"/v1/memory_stores/{store}/search", json={"query": "lamp", "rerank": True})
        assert answer.status_code == 404
        assert reranker.asked == []
        assert len(texts(search(other, own))) == 2
    assert not {*TEXTS} & {*reranker.asked[0]["documents"]}
    with plane.http(plane.new_key(scopes=["inference"])) as without:
        answer = without.post(f"/v1/memory_stores/{store}/search", json={"query": "lamp", "rerank": True})
        assert answer.status_code == 403


def test_without_a_reranker_who_asks_for_one_is_told(database: DatabaseUrls) -> None:
    with running(database) as plane, plane.http() as http:
        store = make_store(http, *TEXTS)
        answer = http.post(f"/v1/memory_stores/{store}/search", json={"query": "lamp", "rerank": True})
        assert answer.status_code == 400
        assert "memory.reranker" in answer.json()["error"]["message"]
        assert texts(search(http, store, rerank=False)) == TEXTS


def test_one_that_is_not_there_fails_as_any(database: DatabaseUrls) -> None:
    settings = Reranker(url="http://127.0.0.1:9/rerank", model="m")
    with running(database, open_rerank=prepare(settings, None, None)) as plane, plane.http() as http:
        store = make_store(http, *TEXTS)
        found = search(http, store)
        assert (texts(found), found["rerank_reason"]) == (TEXTS, "reranker_failed")


def cross_encoder(folder: Path, *, labels: int = 1, head: bool = True) -> Path:
    """Make a cross-encoder with weights by chance."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lamp", "the", "old", "new", "house", "sea", "lisbon"]
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=64,
        initializer_range=1.0,
        num_labels=labels,
    )
    made = transformers.BertForSequenceClassification if head else transformers.BertModel
    made(config).save_pretrained(folder)
    transformers.BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
    return folder


def test_a_cross_encoder_runs_here(database: DatabaseUrls, tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path / "model")
    scores = asyncio.run(local.load(folder).scores("lamp", TEXTS))
    assert all(0 <= score <= 1 for score in scores)
    assert len(set(scores)) == len(scores), "weights by chance tell texts apart"
    settings = Reranker(kind="sentence_transformers", path=folder, timeout_ms=10_000)
    with running(database, open_rerank=prepare(settings, None, None)) as plane, plane.http() as http:
        found = search(http, make_store(http, *TEXTS))
    assert found["reranked"]
    assert texts(found) == [text for _, text in sorted(zip(scores, TEXTS, strict=True), reverse=True)]


def test_models_that_are_no_cross_encoders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="3 labels"):
        local.load(cross_encoder(tmp_path / "classes", labels=3))
    with pytest.raises(SetupError, match="encoder of single texts"):
        local.load(cross_encoder(tmp_path / "embedder", head=False))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SetupError, match="cannot be loaded"):
        local.load(tmp_path / "nothing")
