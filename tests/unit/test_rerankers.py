"""Rerankers: what they are configured with, and what becomes of a model that fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from trunkline.config_check import check
from trunkline.domain.memory import Passage
from trunkline.errors import SetupError
from trunkline.memory.rerank import Rerank
from trunkline.memory.rerankers import RerankFailed
from trunkline.memory.rerankers.local import AT_ONCE, LocalReranker, load
from trunkline.memory_settings import Reranker
from trunkline.processes.reranking import prepare
from trunkline.settings import Settings
from trunkline.settings import load as read_settings

AT = datetime(2026, 11, 24, tzinfo=UTC)
ENDPOINT = "memory: {reranker: {url: 'http://127.0.0.1:9/v1/rerank', model: m, api_key: os.environ/RERANK_KEY}}"


def read(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "trunkline.yaml"
    path.write_text(text)
    return read_settings(path, {"TRUNKLINE_HOME": str(tmp_path / "home"), "RERANK_KEY": "secret"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("memory: {reranker: {}}", "`url` and `model`"),
        ("memory: {reranker: {url: 'http://x/rerank'}}", "`url` and `model`"),
        ("memory: {reranker: {url: x, model: m}}", "url"),
        ("memory: {reranker: {url: 'http://x/rerank', model: m, path: /m}}", "set `kind`"),
        ("memory: {reranker: {kind: sentence_transformers}}", "needs `path`"),
        ("memory: {reranker: {kind: sentence_transformers, path: /m, package: m}}", "give one of `path` and `package`"),
        ("memory: {reranker: {kind: sentence_transformers, hub: m}}", "hub"),
        ("memory: {reranker: {kind: sentence_transformers, path: /m, url: 'http://x'}}", "over HTTP"),
        ("memory: {reranker: {url: 'http://x/rerank', model: m, candidates: 1}}", "candidates"),
        ("memory: {reranker: {url: 'http://x/rerank', model: m, candidates: 101}}", "candidates"),
        ("memory: {reranker: {url: 'http://x/rerank', model: m, timeout_ms: 0}}", "timeout_ms"),
    ],
)
def test_a_reranker_that_cannot_work_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SetupError, match=complaint):
        read(tmp_path, text)


def test_its_key_is_read_from_the_environment_and_stays_out_of_sight(tmp_path: Path) -> None:
    settings = read(tmp_path, ENDPOINT)
    assert settings.reranker_key == "secret"
    assert "secret" not in repr(settings)
    assert read(tmp_path, "").reranker_key is None


def test_config_check_knows_it(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.yaml"
    environ = {"TRUNKLINE_HOME": str(tmp_path), "RERANK_KEY": "secret"}
    path.write_text(ENDPOINT)
    assert {found.key: found.status for found in check(path, environ, [], lambda _: None)} == {
        "memory.reranker.url": "used",
        "memory.reranker.model": "used",
        "memory.reranker.api_key": "used",
    }
    path.write_text("memory: {reranker: {url: 'http://x/rerank', model: m, candidates: 1000}}")
    wrong = [found for found in check(path, environ, [], lambda _: None) if found.status == "invalid"]
    assert [found.key for found in wrong] == ["memory.reranker.candidates"]


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SetupError, match=r"trunkline\[rerank\]"):
        load(tmp_path)
    with pytest.raises(SetupError, match="does not exist"):
        load(tmp_path / "nothing")
    settings = Reranker(url="https://x/rerank", model="m")
    with pytest.raises(SetupError, match="ca_file"):
        prepare(settings, None, tmp_path / "no.pem")


async def test_a_local_model_is_given_few_pairs_at_once() -> None:
    sizes = []

    def score(pairs: Sequence[tuple[str, str]]) -> list[float]:
        sizes.append(len(pairs))
        return [float(len(text)) for _, text in pairs]

    texts = ["x" * number for number in range(AT_ONCE + 3)]
    assert await LocalReranker(score).scores("q", texts) == [float(number) for number in range(AT_ONCE + 3)]
    assert sizes == [AT_ONCE, 3]


async def test_a_local_model_that_fails_fails_as_any() -> None:
    def score(_pairs: Sequence[tuple[str, str]]) -> list[float]:
        raise RuntimeError("a passage, word for word")

    with pytest.raises(RerankFailed) as failed:
        await LocalReranker(score).scores("q", ["a"])
    assert "word for word" not in str(failed.value)


@pytest.mark.parametrize(
    ("scores", "order"),
    [
        ([1.0, 2.0, 3.0], [2, 1, 0]),
        ([-8.0, -9.5, -8.5], [0, 2, 1]),
        ([0.5, 0.5, 0.5], [0, 1, 2]),
        ([0.0, 1.0, 1.0], [1, 2, 0]),
    ],
)
async def test_equals_stay_in_the_order_that_they_were_found_in(scores: list[float], order: list[int]) -> None:
    found = [Passage(UUID(int=number), None, "user", str(number), 1, AT, 0.1) for number in range(3)]
    made = await Rerank(LocalReranker(lambda _pairs: scores), 50, 5.0).order("q", found, at=AT, half_life=None)
    assert [passage.id.int for passage in made.passages] == order
    assert all(0 <= passage.score <= 1 for passage in made.passages)
