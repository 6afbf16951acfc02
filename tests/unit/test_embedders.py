"""Embedders: what they are configured with, and that no vector is taken which could not be compared."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import SetupError
from trunkline.memory.embedders import EmbeddingFailed, checked
from trunkline.memory.embedders.gateway import GatewayEmbedder
from trunkline.memory.embedders.local import AT_ONCE, LocalEmbedder, folder_of, load
from trunkline.settings import Settings
from trunkline.settings import load as read_settings

TENANT = UUID(int=7)


def read(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "trunkline.yaml"
    path.write_text(text)
    return read_settings(path, {"TRUNKLINE_HOME": str(tmp_path / "home")})


@pytest.mark.parametrize(
    ("vectors", "dimension", "fault"),
    [
        ([[1.0, 2.0]], None, "wrong_count"),
        ([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], None, "wrong_count"),
        ([[1.0, 2.0], [1.0]], None, "wrong_dimension"),
        ([[1.0, 2.0], [1.0, 2.0]], 3, "wrong_dimension"),
        ([[], []], None, "wrong_dimension"),
        ([[1.0] * 4001] * 2, None, "wrong_dimension"),
        ([[1.0, math.nan], [1.0, 2.0]], None, "not_finite"),
        ([[1.0, 2.0], [math.inf, 2.0]], None, "not_finite"),
        ([[0.0, 0.0], [1.0, 2.0]], None, "zero"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(
    vectors: list[list[float]], dimension: int | None, fault: str
) -> None:
    with pytest.raises(EmbeddingFailed) as refused:
        checked(vectors, 2, dimension)
    assert refused.value.fault == fault


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_what_is_taken_has_unit_length_and_keeps_its_direction(vector: list[float]) -> None:
    if not any(vector):
        return
    (unit,) = checked([vector], 1, len(vector))
    assert math.isclose(math.fsum(number * number for number in unit), 1.0, rel_tol=1e-9)
    assert all(math.copysign(1, a) == math.copysign(1, b) for a, b in zip(unit, vector, strict=True) if a)


class Keys:
    """Keys that are numbered, so that one that was forgotten is seen to be replaced."""

    def __init__(self) -> None:
        self.made = 1

    async def key(self, tenant_id: UUID) -> str:
        assert tenant_id == TENANT
        return f"key-{self.made}"

    def forget(self, tenant_id: UUID, text: str) -> None:
        assert (tenant_id, text) == (TENANT, f"key-{self.made}")
        self.made += 1


def embedder(answer: httpx.Response | Exception) -> tuple[GatewayEmbedder, Keys]:
    def respond(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    http = httpx.AsyncClient(base_url="http://gateway", transport=httpx.MockTransport(respond))
    keys = Keys()
    return GatewayEmbedder(http, keys, "e", None), keys


async def test_vectors_come_in_the_order_of_the_texts() -> None:
    data = [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}]
    asked, _ = embedder(httpx.Response(200, json={"data": data}))
    assert await asked.embed(TENANT, ["a", "b"]) == [[1.0, 0.0], [0.0, 1.0]]
    assert await asked.embed(TENANT, []) == []


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (httpx.ConnectError("refused"), "unavailable"),
        (httpx.ReadTimeout("slow"), "unavailable"),
        (httpx.Response(503, json={"error": {"message": "busy"}}), "unavailable"),
        (httpx.Response(429, headers={"retry-after": "7"}, json={"error": {"message": "slow down"}}), "unavailable"),
        (httpx.Response(400, json={"error": {"message": "too long"}}), "refused"),
        (httpx.Response(200, text="<html>"), "refused"),
        (httpx.Response(200, json={"data": [{"index": 0, "embedding": ["x"]}]}), "refused"),
        (httpx.Response(200, json={"data": [{"index": 1, "embedding": [1]}]}), "wrong_count"),
        (httpx.Response(200, text='{"data": [{"index": 0, "embedding": [NaN, 1]}]}'), "not_finite"),
    ],
)
async def test_what_passes_by_itself_is_told_from_what_does_not(answer: httpx.Response | Exception, fault: str) -> None:
    asked, _ = embedder(answer)
    with pytest.raises(EmbeddingFailed) as failed:
        await asked.embed(TENANT, ["a"])
    assert failed.value.fault == fault
    if isinstance(answer, httpx.Response) and answer.status_code == 429:
        assert failed.value.retry_after_s == 7


async def test_a_key_that_was_revoked_is_made_anew() -> None:
    asked, keys = embedder(httpx.Response(401, json={"error": {"message": "unknown key"}}))
    with pytest.raises(EmbeddingFailed, match="unknown key"):
        await asked.embed(TENANT, ["a"])
    assert await keys.key(TENANT) == "key-2"


async def test_a_local_model_is_given_few_texts_at_once() -> None:
    sizes = []

    def encode(texts: object) -> list[list[float]]:
        assert isinstance(texts, list)
        sizes.append(len(texts))
        return [[float(len(text)), 1.0] for text in texts]

    local = LocalEmbedder(encode, "m", 2)
    texts = ["x" * (1 + number) for number in range(AT_ONCE + 3)]
    vectors = await local.embed(TENANT, texts)
    assert sizes == [AT_ONCE, 3]
    assert [round(vector[0] / vector[1]) for vector in vectors] == [len(text) for text in texts]


def test_a_package_is_where_its_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one_model/model", "one_model/model/2_Dense", "two_models/a", "two_models/b", "no_model"):
        (tmp_path / name).mkdir(parents=True)
    for package in ("one_model", "two_models", "no_model"):
        (tmp_path / package / "__init__.py").touch()
    for folder in ("one_model/model", "one_model/model/2_Dense", "two_models/a", "two_models/b"):
        (tmp_path / folder / "model.safetensors").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert folder_of("one_model") == tmp_path / "one_model" / "model"
    for package in ("two_models", "no_model", "not_there", "not_there.at_all"):
        with pytest.raises(SetupError):
            folder_of(package)


def test_an_extra_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model2vec", None)
    with pytest.raises(SetupError, match=r"trunkline\[embed-model2vec\]"):
        load("model2vec", tmp_path, "m", None)
    with pytest.raises(SetupError, match="does not exist"):
        load("model2vec", tmp_path / "nothing", "m", None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("memory: {embedder: {}}", "`model` is missing"),
        ("memory: {embedder: {model: e, path: /m}}", "set `kind`"),
        ("memory: {embedder: {kind: model2vec}}", "needs `path`"),
        ("memory: {embedder: {kind: model2vec, path: /m, package: m}}", "give one of"),
        ("memory: {embedder: {model: e, timeout: 3}}", "timeout"),
        ("memory: {embedder: {kind: cleverer, model: e}}", "kind"),
        ("memory: {embedder: {model: e, dimension: 5000}}", "dimension"),
    ],
)
def test_an_embedder_that_cannot_work_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SetupError, match=complaint):
        read(tmp_path, text)


def test_a_local_embedder_is_a_provider_of_the_gateways(tmp_path: Path) -> None:
    settings = read(tmp_path, "memory: {embedder: {kind: sentence_transformers, path: /models/mini}}")
    assert settings.memory.embedder is not None
    assert settings.memory.embedder.name == "mini"
    config = settings.gateway_config("", "http://127.0.0.1:4001", [], embedder_key="k")
    assert config["providers"] == [
        {
            "name": "trunkline-embedder",
            "wire": "openai_chat",
            "base_url": "http://127.0.0.1:4001/internal/v1",
            "api_key": "k",
        }
    ]
    assert config["models"] == [{"name": "mini", "upstreams": [{"provider": "trunkline-embedder", "model": "mini"}]}]
    assert config["default_model"] is None
    assert config["embedder"] == {"model": "mini", "query_timeout_ms": 150}
    with pytest.raises(SetupError, match="has no api_key"):
        settings.gateway_config("", "http://127.0.0.1:4001", [])
