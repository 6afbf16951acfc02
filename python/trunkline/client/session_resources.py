from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from trunkline.client.transport import AsyncTransport, Transport, segment
from trunkline.client.wire import Wire, given


class SessionResource(Wire):
    """A memory store, a file or a repository that is attached to a session. A store goes by its own id."""

    type: str
    id: str | None = None
    memory_store_id: str | None = None
    access: str | None = None
    """Of a store: read_only or read_write."""
    file_id: str | None = None
    mount_path: str | None = None
    url: str | None = None
    """Of a repository."""


def _path(session_id: str) -> str:
    return f"/v1/sessions/{segment(session_id)}/resources"


class SessionResources:
    """`client.sessions.resources`: scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def add_store(
        self, session_id: str, memory_store_id: str, *, access: str | None = None, instructions: str | None = None
    ) -> SessionResource:
        """Attach a memory store, to be read or written too. Raises NotFound, Forbidden and InvalidRequest."""
        body = given(type="memory_store", memory_store_id=memory_store_id, access=access, instructions=instructions)
        return SessionResource.model_validate(self._transport.request("POST", _path(session_id), body=body))

    def add_file(self, session_id: str, file_id: str, *, mount_path: str | None = None) -> SessionResource:
        """Attach a file. Raises NotFound and InvalidRequest."""
        body = given(type="file", file_id=file_id, mount_path=mount_path)
        return SessionResource.model_validate(self._transport.request("POST", _path(session_id), body=body))

    def list(self, session_id: str) -> Iterator[SessionResource]:
        """Yield what is attached. Raises NotFound."""
        for item in self._transport.pages(_path(session_id)):
            yield SessionResource.model_validate(item)

    def get(self, session_id: str, resource_id: str) -> SessionResource:
        """Return one. Raises NotFound."""
        path = f"{_path(session_id)}/{segment(resource_id)}"
        return SessionResource.model_validate(self._transport.request("GET", path))

    def remove(self, session_id: str, resource_id: str) -> None:
        """Detach a store or a file. Raises NotFound."""
        self._transport.request("DELETE", f"{_path(session_id)}/{segment(resource_id)}")


class AsyncSessionResources:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def add_store(
        self, session_id: str, memory_store_id: str, *, access: str | None = None, instructions: str | None = None
    ) -> SessionResource:
        """Attach a memory store, to be read or written too. Raises NotFound, Forbidden and InvalidRequest."""
        body = given(type="memory_store", memory_store_id=memory_store_id, access=access, instructions=instructions)
        return SessionResource.model_validate(await self._transport.request("POST", _path(session_id), body=body))

    async def add_file(self, session_id: str, file_id: str, *, mount_path: str | None = None) -> SessionResource:
        """Attach a file. Raises NotFound and InvalidRequest."""
        body = given(type="file", file_id=file_id, mount_path=mount_path)
        return SessionResource.model_validate(await self._transport.request("POST", _path(session_id), body=body))

    async def list(self, session_id: str) -> AsyncIterator[SessionResource]:
        """Yield what is attached. Raises NotFound."""
        async for item in self._transport.pages(_path(session_id)):
            yield SessionResource.model_validate(item)

    async def get(self, session_id: str, resource_id: str) -> SessionResource:
        """Return one. Raises NotFound."""
        path = f"{_path(session_id)}/{segment(resource_id)}"
        return SessionResource.model_validate(await self._transport.request("GET", path))

    async def remove(self, session_id: str, resource_id: str) -> None:
        """Detach a store or a file. Raises NotFound."""
        await self._transport.request("DELETE", f"{_path(session_id)}/{segment(resource_id)}")
