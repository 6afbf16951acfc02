"""What makes vectors, made of the settings: a model that runs in this process, or one that the gateway serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from trunkline.api.app import OpenEmbedding
from trunkline.api.deps import Embedding, Served
from trunkline.memory.embedders.gateway import GatewayEmbedder
from trunkline.memory.embedders.local import Library, LocalEmbedder, folder_of, load
from trunkline.memory.embedders.queries import QueryVectors
from trunkline.memory_settings import Embedder
from trunkline.runtime.credentials import Credentials
from trunkline.store.pool import Database


def prepare(settings: Embedder | None, base_url: str, key: str | None) -> OpenEmbedding | None:
    """Return what the control plane opens to embed queries; a local model is loaded at once. Raises SetupError.

    `base_url` is the gateway's; `key` is what gateways show to use a model that runs here.
    """
    if settings is None:
        return None
    local = _loaded(settings) if settings.local else None
    timeout_s = settings.query_timeout_ms / 1000

    @asynccontextmanager
    async def opened(database: Database) -> AsyncIterator[Embedding]:
        if local is not None:
            yield Embedding(QueryVectors(local, timeout_s), Served(local, key or ""))
            return
        credentials = Credentials(database)
        async with httpx.AsyncClient(base_url=base_url, timeout=timeout_s, trust_env=False) as http:
            embedder = GatewayEmbedder(http, credentials, settings.name, settings.dimension)
            yield Embedding(QueryVectors(embedder, timeout_s))
        await credentials.revoke()

    return opened


def _loaded(settings: Embedder) -> LocalEmbedder:
    library: Library = "model2vec" if settings.kind == "model2vec" else "sentence_transformers"
    if settings.hub is not None:
        return load(library, settings.hub, settings.name, settings.dimension)
    folder = settings.path.expanduser().absolute() if settings.path else folder_of(settings.package or "")
    return load(library, folder, settings.name, settings.dimension)
