from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire, given


class StoredMemory(Wire):
    """A memory of a store, a text at a path; or, in a list with a `depth`, a prefix of deeper ones (no `id`)."""

    type: str
    path: str
    id: str | None = None
    content: str | None = None
    content_sha256: str | None = None
    memory_version_id: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class MemoryVersion(Wire):
    """What a memory said from then on; of a redacted one, who wrote it alone."""

    id: str
    memory_id: str
    version: int
    operation: str
    path: str | None = None
    content: str | None = None
    content_sha256: str | None = None
    session_id: str | None = None
    created_at: datetime
    redacted_at: datetime | None = None


def _path(store: str, memory_id: str | None = None) -> str:
    path = f"/v1/memory_stores/{segment(store)}/memories"
    return path if memory_id is None else f"{path}/{segment(memory_id)}"


def _versions(store: str, *more: str) -> str:
    return "/".join([f"/v1/memory_stores/{segment(store)}/memory_versions", *map(segment, more)])


class StoredMemories:
    """`client.memory_stores.memories`: scope `memory`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, store: str, path: str, content: str) -> StoredMemory:
        """Write a memory where none is. Raises Conflict when there is one at the path, above it or below it."""
        body = {"path": path, "content": content}
        return StoredMemory.model_validate(self._transport.request("POST", _path(store), body=body, once=True))

    def list(
        self, store: str, *, path_prefix: str | None = None, depth: int | None = None, contents: bool = False
    ) -> Iterator[StoredMemory]:
        """Yield memories by their paths, deeper ones than `depth` as their prefixes; with `contents` what they say."""
        params = {"path_prefix": path_prefix, "depth": depth, "view": "full" if contents else "basic"}
        for item in self._transport.pages(_path(store), params=params):
            yield StoredMemory.model_validate(item)

    def get(self, store: str, memory_id: str) -> StoredMemory:
        """Return one with its content. Raises NotFound."""
        return StoredMemory.model_validate(self._transport.request("GET", _path(store, memory_id)))

    def update(
        self,
        store: str,
        memory_id: str,
        *,
        content: str | None = None,
        path: str | None = None,
        expect_sha256: str | None = None,
    ) -> StoredMemory:
        """Replace its content, its path or both, if it is still what is expected. Raises NotFound and Conflict."""
        expected = None if expect_sha256 is None else {"type": "content_sha256", "content_sha256": expect_sha256}
        body = given(content=content, path=path, precondition=expected)
        answer = self._transport.request("POST", _path(store, memory_id), body=body, once=True)
        return StoredMemory.model_validate(answer)

    def delete(self, store: str, memory_id: str, *, expect_sha256: str | None = None) -> None:
        """Delete a memory; its versions stay. Raises NotFound and Conflict."""
        params = {"expected_content_sha256": expect_sha256}
        self._transport.request("DELETE", _path(store, memory_id), params=params)


class AsyncStoredMemories:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, store: str, path: str, content: str) -> StoredMemory:
        """Write a memory where none is. Raises Conflict when there is one at the path, above it or below it."""
        body = {"path": path, "content": content}
        return StoredMemory.model_validate(await self._transport.request("POST", _path(store), body=body, once=True))

    async def list(
        self, store: str, *, path_prefix: str | None = None, depth: int | None = None, contents: bool = False
    ) -> AsyncIterator[StoredMemory]:
        """Yield memories by their paths, deeper ones than `depth` as their prefixes; with `contents` what they say."""
        params = {"path_prefix": path_prefix, "depth": depth, "view": "full" if contents else "basic"}
        async for item in self._transport.pages(_path(store), params=params):
            yield StoredMemory.model_validate(item)

    async def get(self, store: str, memory_id: str) -> StoredMemory:
        """Return one with its content. Raises NotFound."""
        return StoredMemory.model_validate(await self._transport.request("GET", _path(store, memory_id)))

    async def update(
        self,
        store: str,
        memory_id: str,
        *,
        content: str | None = None,
        path: str | None = None,
        expect_sha256: str | None = None,
    ) -> StoredMemory:
        """Replace its content, its path or both, if it is still what is expected. Raises NotFound and Conflict."""
        expected = None if expect_sha256 is None else {"type": "content_sha256", "content_sha256": expect_sha256}
        body = given(content=content, path=path, precondition=expected)
        answer = await self._transport.request("POST", _path(store, memory_id), body=body, once=True)
        return StoredMemory.model_validate(answer)

    async def delete(self, store: str, memory_id: str, *, expect_sha256: str | None = None) -> None:
        """Delete a memory; its versions stay. Raises NotFound and Conflict."""
        params = {"expected_content_sha256": expect_sha256}
        await self._transport.request("DELETE", _path(store, memory_id), params=params)


class MemoryVersions:
    """`client.memory_stores.versions`: scope `memory`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self, store: str, *, memory_id: str | None = None, session_id: str | None = None
    ) -> Iterator[MemoryVersion]:
        """Yield versions, newest first, of deleted memories too: of one memory, written in one session, or all."""
        params = {"memory_id": memory_id, "session_id": session_id}
        for item in self._transport.pages(_versions(store), params=params):
            yield MemoryVersion.model_validate(item)

    def get(self, store: str, version_id: str) -> MemoryVersion:
        """Return one with its content. Raises NotFound."""
        return MemoryVersion.model_validate(self._transport.request("GET", _versions(store, version_id)))

    def restore(self, store: str, version_id: str) -> StoredMemory:
        """Have the memory say again what it said then, a deleted one too. Raises NotFound and Conflict."""
        answer = self._transport.request("POST", _versions(store, version_id, "restore"), once=True)
        return StoredMemory.model_validate(answer)

    def redact(self, store: str, version_id: str) -> MemoryVersion:
        """Empty a version for good. Raises NotFound, and Conflict for the one that a memory stands at."""
        answer = self._transport.request("POST", _versions(store, version_id, "redact"), once=True)
        return MemoryVersion.model_validate(answer)

    def diff(self, store: str, version_id: str, *, since: str | None = None) -> dict[str, Any]:
        """Return what it changed since the version before it, or since another of the memory. Raises NotFound."""
        params = {"since": since}
        found: dict[str, Any] = self._transport.request("GET", _versions(store, version_id, "diff"), params=params)
        return found


class AsyncMemoryVersions:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(
        self, store: str, *, memory_id: str | None = None, session_id: str | None = None
    ) -> AsyncIterator[MemoryVersion]:
        """Yield versions, newest first, of deleted memories too: of one memory, written in one session, or all."""
        params = {"memory_id": memory_id, "session_id": session_id}
        async for item in self._transport.pages(_versions(store), params=params):
            yield MemoryVersion.model_validate(item)

    async def get(self, store: str, version_id: str) -> MemoryVersion:
        """Return one with its content. Raises NotFound."""
        return MemoryVersion.model_validate(await self._transport.request("GET", _versions(store, version_id)))

    async def restore(self, store: str, version_id: str) -> StoredMemory:
        """Have the memory say again what it said then, a deleted one too. Raises NotFound and Conflict."""
        answer = await self._transport.request("POST", _versions(store, version_id, "restore"), once=True)
        return StoredMemory.model_validate(answer)

    async def redact(self, store: str, version_id: str) -> MemoryVersion:
        """Empty a version for good. Raises NotFound, and Conflict for the one that a memory stands at."""
        answer = await self._transport.request("POST", _versions(store, version_id, "redact"), once=True)
        return MemoryVersion.model_validate(answer)

    async def diff(self, store: str, version_id: str, *, since: str | None = None) -> dict[str, Any]:
        """Return what it changed since the version before it, or since another of the memory. Raises NotFound."""
        params = {"since": since}
        found: dict[str, Any] = await self._transport.request(
            "GET", _versions(store, version_id, "diff"), params=params
        )
        return found
