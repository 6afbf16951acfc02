from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path

from trunkline.client.transport import AsyncTransport, Transport, Upload, segment
from trunkline.client.wire import Wire
from trunkline.errors import SetupError


class File(Wire):
    """A file that sessions may be given."""

    id: str
    filename: str
    mime_type: str
    size_bytes: int
    created_at: datetime


def _upload(content: bytes | Path, name: str | None, media_type: str | None) -> Upload:
    if isinstance(content, Path):
        path, name = content, name or content.name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SetupError(f"{path}: cannot be read: {error.strerror}.") from error
    if not name:
        raise SetupError("Give the `name` that the file is to have.")
    return Upload(name, media_type or mimetypes.guess_type(name)[0] or "application/octet-stream", content)


class Files:
    """`client.files`: scope `manage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, content: bytes | Path, *, name: str | None = None, media_type: str | None = None) -> File:
        """Keep a file: bytes with a `name`, or the file at a path. Raises SetupError, TooLarge."""
        sent = _upload(content, name, media_type)
        return File.model_validate(self._transport.request("POST", "/v1/files", file=sent, once=True))

    def list(self) -> Iterator[File]:
        """Yield the files, newest first, page after page."""
        for item in self._transport.pages("/v1/files"):
            yield File.model_validate(item)

    def get(self, file_id: str) -> File:
        """Return what is known of a file. Raises NotFound."""
        return File.model_validate(self._transport.request("GET", f"/v1/files/{segment(file_id)}"))

    def download(self, file_id: str) -> bytes:
        """Return what is in a file. Raises NotFound."""
        return self._transport.content(f"/v1/files/{segment(file_id)}/content")

    def delete(self, file_id: str) -> None:
        """Delete a file. Raises NotFound."""
        self._transport.request("DELETE", f"/v1/files/{segment(file_id)}")


class AsyncFiles:
    """The same, asynchronously."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def upload(self, content: bytes | Path, *, name: str | None = None, media_type: str | None = None) -> File:
        """Keep a file: bytes with a `name`, or the file at a path. Raises SetupError, TooLarge."""
        sent = _upload(content, name, media_type)
        return File.model_validate(await self._transport.request("POST", "/v1/files", file=sent, once=True))

    async def list(self) -> AsyncIterator[File]:
        """Yield the files, newest first, page after page."""
        async for item in self._transport.pages("/v1/files"):
            yield File.model_validate(item)

    async def get(self, file_id: str) -> File:
        """Return what is known of a file. Raises NotFound."""
        return File.model_validate(await self._transport.request("GET", f"/v1/files/{segment(file_id)}"))

    async def download(self, file_id: str) -> bytes:
        """Return what is in a file. Raises NotFound."""
        return await self._transport.content(f"/v1/files/{segment(file_id)}/content")

    async def delete(self, file_id: str) -> None:
        """Delete a file. Raises NotFound."""
        await self._transport.request("DELETE", f"/v1/files/{segment(file_id)}")
