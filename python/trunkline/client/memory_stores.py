from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import Field

from trunkline.client.erasure import Erasure, erase_from_store, erase_from_store_async
from trunkline.client.memory_files import Imported, added_up, parts
from trunkline.client.stored_memories import (
    AsyncMemoryVersions,
    AsyncStoredMemories,
    MemoryVersions,
    StoredMemories,
)
from trunkline.client.transport import AsyncTransport, File, Transport, segment
from trunkline.client.wire import Wire
from trunkline.domain.memory_file import MEDIA_TYPE


class MemoryStore(Wire):
    """A store: memories as files, and passages for recall."""

    id: str
    name: str
    description: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    expire_after_days: int | None = None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None


class Ingested(Wire):
    """What became of what was given."""

    passages: int
    """Pieces that it makes."""
    added: int
    """How many of them were not there before."""


class Passage(Wire):
    """A text that answers a search; its id is to be cited by."""

    id: str
    text: str
    role: str
    tokens: int
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime
    score: float


class Embeddings(Wire):
    """How far a store's embeddings are."""

    memory_store_id: str
    model: str | None = None
    """The model by which the store is searched."""
    next_model: str | None = None
    """The one that takes its place when all is embedded by it."""
    passages: int
    embedded: int
    waiting: int
    failing: int
    fault: str | None = None
    message: str | None = None
    indexed: bool


class MemoryStores:
    """`client.memory_stores`: what is kept in stores for recall; scope `memory`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.memories = StoredMemories(transport)
        self.versions = MemoryVersions(transport)

    def ingest(
        self,
        store: str,
        *,
        turns: Sequence[Mapping[str, Any]] = (),
        documents: Sequence[Mapping[str, Any]] = (),
    ) -> Ingested:
        """Keep turns (`{"text", "role"?, "speaker"?, "time"?, "session"?, "id"?, "tags"?, "metadata"?}`) and documents.

        At most 10,000 turns and 100 documents (`{"text", "format"?: text|markdown, "title"?, "id"?, …}`) at once. What
        is given again is kept once. Raises InvalidRequest, NotFound.
        """
        body = {"turns": [dict(turn) for turn in turns], "documents": [dict(document) for document in documents]}
        path = f"/v1/memory_stores/{segment(store)}/ingest"
        return Ingested.model_validate(self._transport.request("POST", path, body=body))

    def search(self, store: str, query: str, **filters: Any) -> tuple[Passage, ...]:
        """Return the passages that answer a query, best first; `filters` are the route's own, such as `limit`."""
        path = f"/v1/memory_stores/{segment(store)}/search"
        answer = self._transport.request("POST", path, body={"query": query, **filters})
        return tuple(Passage.model_validate(passage) for passage in answer["data"])

    def embeddings(self, store: str) -> Embeddings:
        """Return how far the embeddings of a store are, and what is in their way."""
        answer = self._transport.request("GET", f"/v1/memory_stores/{segment(store)}/embeddings")
        return Embeddings.model_validate(answer)

    def create(self, name: str, **options: Any) -> str:
        """Make a store and return its id; `options` are `description`, `metadata` and `expire_after_days`."""
        answer = self._transport.request("POST", "/v1/memory_stores", body={"name": name, **options})
        return str(answer["id"])

    def list(self, *, include_archived: bool = False) -> Iterator[MemoryStore]:
        """Yield them, newest first, those that agents' blocks have made too."""
        params = {"include_archived": "true" if include_archived else None}
        for item in self._transport.pages("/v1/memory_stores", params=params):
            yield MemoryStore.model_validate(item)

    def get(self, store: str) -> MemoryStore:
        """Return one. Raises NotFound."""
        answer = self._transport.request("GET", f"/v1/memory_stores/{segment(store)}")
        return MemoryStore.model_validate(answer)

    def update(self, store: str, **change: Any) -> MemoryStore:
        """Change `name`, `description`, `metadata` key by key, or `expire_after_days` (0: never). Raises NotFound."""
        answer = self._transport.request("POST", f"/v1/memory_stores/{segment(store)}", body=change, once=True)
        return MemoryStore.model_validate(answer)

    def archive(self, store: str) -> MemoryStore:
        """Have a store be read alone from now on, for good. Raises NotFound."""
        answer = self._transport.request("POST", f"/v1/memory_stores/{segment(store)}/archive", once=True)
        return MemoryStore.model_validate(answer)

    def erase(self, store: str, **part: Any) -> Erasure:
        """Erase of a store for good, by `path_prefix`, `session_id`, `since`, `before`, or `everything=True`.

        With a prefix memories with all versions, without one passages. Scopes `manage` and `memory`.
        """
        return erase_from_store(self._transport, store, part)

    def delete(self, store: str) -> None:
        """Delete a store with all that is in it. Raises NotFound."""
        self._transport.request("DELETE", f"/v1/memory_stores/{segment(store)}")

    def export(self, store: str) -> Iterator[str]:
        """Yield a store's versions, memories and passages as JSON Lines, the last of type `end`."""
        return self._transport.lines(f"/v1/memory_stores/{segment(store)}/export")

    def import_lines(self, store: str, lines: Iterable[str], *, new_ids: bool = False) -> Imported:
        """Import what `export` gave; scopes `memory` and `manage`. What is there already is left as it is.

        Over 8 MiB it goes in parts, each of them all or nothing: broken off, it is to be given again. With `new_ids` it
        is a copy beside the store that it came from. Raises InvalidRequest and Conflict, with the number of the line.
        """
        path = f"/v1/memory_stores/{segment(store)}/import"
        done = []
        for content, query in parts(lines):
            query |= {"ids": "new" if new_ids else None}
            answer = self._transport.request("POST", path, params=query, file=File(MEDIA_TYPE, content))
            done.append(Imported.model_validate(answer))
        return added_up(done)


class AsyncMemoryStores:
    """The same for asynchronous programs."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self.memories = AsyncStoredMemories(transport)
        self.versions = AsyncMemoryVersions(transport)

    async def ingest(
        self,
        store: str,
        *,
        turns: Sequence[Mapping[str, Any]] = (),
        documents: Sequence[Mapping[str, Any]] = (),
    ) -> Ingested:
        """Keep turns and documents, as `MemoryStores.ingest` does."""
        body = {"turns": [dict(turn) for turn in turns], "documents": [dict(document) for document in documents]}
        path = f"/v1/memory_stores/{segment(store)}/ingest"
        return Ingested.model_validate(await self._transport.request("POST", path, body=body))

    async def search(self, store: str, query: str, **filters: Any) -> tuple[Passage, ...]:
        """Return the passages that answer a query, as `MemoryStores.search` does."""
        path = f"/v1/memory_stores/{segment(store)}/search"
        answer = await self._transport.request("POST", path, body={"query": query, **filters})
        return tuple(Passage.model_validate(passage) for passage in answer["data"])

    async def embeddings(self, store: str) -> Embeddings:
        """Return how far the embeddings of a store are, and what is in their way."""
        answer = await self._transport.request("GET", f"/v1/memory_stores/{segment(store)}/embeddings")
        return Embeddings.model_validate(answer)

    async def create(self, name: str, **options: Any) -> str:
        """Make a store and return its id; `options` are `description`, `metadata` and `expire_after_days`."""
        answer = await self._transport.request("POST", "/v1/memory_stores", body={"name": name, **options})
        return str(answer["id"])

    async def list(self, *, include_archived: bool = False) -> AsyncIterator[MemoryStore]:
        """Yield them, newest first, those that agents' blocks have made too."""
        params = {"include_archived": "true" if include_archived else None}
        async for item in self._transport.pages("/v1/memory_stores", params=params):
            yield MemoryStore.model_validate(item)

    async def get(self, store: str) -> MemoryStore:
        """Return one. Raises NotFound."""
        answer = await self._transport.request("GET", f"/v1/memory_stores/{segment(store)}")
        return MemoryStore.model_validate(answer)

    async def update(self, store: str, **change: Any) -> MemoryStore:
        """Change `name`, `description`, `metadata` key by key, or `expire_after_days` (0: never). Raises NotFound."""
        answer = await self._transport.request("POST", f"/v1/memory_stores/{segment(store)}", body=change, once=True)
        return MemoryStore.model_validate(answer)

    async def archive(self, store: str) -> MemoryStore:
        """Have a store be read alone from now on, for good. Raises NotFound."""
        answer = await self._transport.request("POST", f"/v1/memory_stores/{segment(store)}/archive", once=True)
        return MemoryStore.model_validate(answer)

    async def erase(self, store: str, **part: Any) -> Erasure:
        """Erase of a store for good, by `path_prefix`, `session_id`, `since`, `before`, or `everything=True`.

        With a prefix memories with all versions, without one passages. Scopes `manage` and `memory`.
        """
        return await erase_from_store_async(self._transport, store, part)

    async def delete(self, store: str) -> None:
        """Delete a store with all that is in it. Raises NotFound."""
        await self._transport.request("DELETE", f"/v1/memory_stores/{segment(store)}")

    def export(self, store: str) -> AsyncIterator[str]:
        """Yield a store's versions, memories and passages as JSON Lines, the last of type `end`."""
        return self._transport.lines(f"/v1/memory_stores/{segment(store)}/export")

    async def import_lines(self, store: str, lines: Iterable[str], *, new_ids: bool = False) -> Imported:
        """Import what `export` gave, as `MemoryStores.import_lines` does."""
        path = f"/v1/memory_stores/{segment(store)}/import"
        done = []
        for content, query in parts(lines):
            query |= {"ids": "new" if new_ids else None}
            answer = await self._transport.request("POST", path, params=query, file=File(MEDIA_TYPE, content))
            done.append(Imported.model_validate(answer))
        return added_up(done)
