"""The control plane as the place where a local embedder runs: an OpenAI-compatible endpoint for gateways alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

import httpx
import openai
import pytest

from support.control_plane import ControlPlane, running
from support.postgres import DatabaseUrls
from trunkline.api.deps import Embedding, Served
from trunkline.memory.embedders.local import LocalEmbedder
from trunkline.memory.embedders.queries import QueryVectors
from trunkline.model_server.embeddings import vector
from trunkline.store.pool import Database

KEY = "what-gateways-show"


def encode(texts: Sequence[str]) -> list[list[float]]:
    return [vector(text, 16) for text in texts]


@contextlib.asynccontextmanager
async def opened(database: Database) -> AsyncIterator[Embedding]:
    local = LocalEmbedder(encode, "mini", 16)
    yield Embedding(QueryVectors(local, 1.0), Served(local, KEY))


@pytest.fixture
def plane(database: DatabaseUrls) -> Iterator[ControlPlane]:
    with running(database, open_embedding=opened) as plane:
        yield plane


def test_vectors_come_as_openai_gives_them(plane: ControlPlane) -> None:
    client = openai.OpenAI(base_url=f"{plane.base_url}/internal/v1", api_key=KEY, max_retries=0)
    answer = client.embeddings.create(model="mini", input=["a red kettle", "tea"], encoding_format="float")
    assert [item.index for item in answer.data] == [0, 1]
    assert answer.data[0].embedding == pytest.approx(vector("a red kettle", 16))
    assert answer.usage.prompt_tokens == 4
    with pytest.raises(openai.BadRequestError, match="16 floats"):
        client.embeddings.create(model="mini", input="x", encoding_format="base64")
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="mini", input="", encoding_format="float")


def test_nobody_else_may_use_it(plane: ControlPlane) -> None:
    body = {"model": "mini", "input": "x"}
    for key in (plane.key, "wrong", None):
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        answer = httpx.post(f"{plane.base_url}/internal/v1/embeddings", json=body, headers=headers, timeout=20)
        assert answer.status_code == 401, answer.text


def test_without_an_embedder_there_is_none(database: DatabaseUrls) -> None:
    with running(database) as plane:
        answer = plane.http().post("/internal/v1/embeddings", json={"model": "mini", "input": "x"})
    assert answer.status_code == 404
