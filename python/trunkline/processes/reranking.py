"""What puts passages in a better order, made of the settings: a model that runs in this process, or an endpoint."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from trunkline.api.app import OpenRerank
from trunkline.errors import SetupError
from trunkline.memory.embedders.local import folder_of
from trunkline.memory.rerank import Rerank
from trunkline.memory.rerankers.endpoint import EndpointReranker
from trunkline.memory.rerankers.local import load
from trunkline.memory_settings import Reranker


def prepare(settings: Reranker | None, api_key: str | None, ca_file: Path | str | None) -> OpenRerank | None:
    """Return what the control plane opens to rerank; a local model is loaded at once. Raises SetupError.

    `api_key` is what an endpoint is shown, `ca_file` has the authorities that it is trusted by besides the public ones.
    """
    if settings is None:
        return None
    timeout_s = settings.timeout_ms / 1000
    if settings.kind == "endpoint":
        url, model = settings.url or "", settings.model or ""
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        trusted = _trusted(ca_file)

        @asynccontextmanager
        async def opened() -> AsyncIterator[Rerank]:
            # `Rerank` ends what takes too long, and says so.
            async with httpx.AsyncClient(
                headers=headers, timeout=2 * timeout_s, verify=trusted, trust_env=False
            ) as http:
                yield Rerank(EndpointReranker(http, url, model), settings.candidates, timeout_s)

        return opened
    folder = settings.path.expanduser().absolute() if settings.path else folder_of(settings.package or "")
    local = load(folder)

    @asynccontextmanager
    async def loaded() -> AsyncIterator[Rerank]:
        yield Rerank(local, settings.candidates, timeout_s)

    return loaded


def _trusted(ca_file: Path | str | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file is not None:
        path = Path(ca_file).expanduser()
        try:
            context.load_verify_locations(path)
        except OSError as error:  # ssl.SSLError is one
            raise SetupError(f"The certificates of ca_file cannot be read from {path}: {error}") from error
    return context
