"""A model that the gateway serves, whichever provider has it: keys, limits and usage are those of any other call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import httpx

from trunkline.memory.embedders import EmbeddingFailed, Vector, checked


class TenantKeys(Protocol):
    """Keys to call the gateway with."""

    async def key(self, tenant_id: UUID) -> str:
        """Return the tenant's key. Raises Unavailable when the database is away."""

    def forget(self, tenant_id: UUID, text: str) -> None:
        """Make another one next time: this one was refused."""


class GatewayEmbedder:
    """Asks `POST /v1/embeddings` of the gateway. `http` has the gateway's address and the time limit."""

    def __init__(self, http: httpx.AsyncClient, keys: TenantKeys, model: str, dimension: int | None) -> None:
        self._http = http
        self._keys = keys
        self.model = model
        self.dimension = dimension

    def by(self, model: str) -> GatewayEmbedder:
        """Return one that asks another model, of whatever dimension it is."""
        return GatewayEmbedder(self._http, self._keys, model, None)

    async def embed(self, tenant_id: UUID, texts: Sequence[str]) -> list[Vector]:
        """Return a vector for each text. Raises EmbeddingFailed, and Unavailable when a key cannot be had."""
        if not texts:
            return []
        key = await self._keys.key(tenant_id)
        body = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        try:
            response = await self._http.post("/v1/embeddings", json=body, headers={"authorization": f"Bearer {key}"})
        except httpx.HTTPError as error:
            message = f"The gateway at {self._http.base_url} did not answer: {type(error).__name__}."
            raise EmbeddingFailed("unavailable", message) from error
        if response.status_code == 401:
            self._keys.forget(tenant_id, key)
        if response.status_code != 200:
            raise _refusal(response)
        return checked(_vectors(response), len(texts), self.dimension)


def _vectors(response: httpx.Response) -> list[Vector]:
    """Read the answer, in the order of the texts. Raises EmbeddingFailed when it is none."""
    try:
        items = json.loads(response.content)["data"]
        ordered = sorted(items, key=lambda item: item["index"])
        if [item["index"] for item in ordered] != list(range(len(ordered))):
            raise EmbeddingFailed("wrong_count", "The vectors that came back are not one for each text.")
        return [[float(number) for number in item["embedding"]] for item in ordered]
    except (ValueError, KeyError, TypeError) as error:
        raise EmbeddingFailed("refused", "The embedder's answer is not one of /v1/embeddings.") from error


def _refusal(response: httpx.Response) -> EmbeddingFailed:
    status = response.status_code
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"The gateway answered with status {status}."
    # 401: of our own key, which is made anew. 402 and 429: a limit that has nothing left for now.
    passes = status >= 500 or status in (401, 402, 408, 409, 425, 429)
    try:
        retry_after_s: float | None = max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        retry_after_s = None
    return EmbeddingFailed("unavailable" if passes else "refused", message[:500], retry_after_s=retry_after_s)
