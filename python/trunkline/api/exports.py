"""A memory store as a file. Trunkline's addition to the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from trunkline.api.deps import Parts, PartsDependency, PrincipalDependency
from trunkline.domain import ids
from trunkline.domain.memory_file import MEDIA_TYPE
from trunkline.domain.principal import Principal
from trunkline.errors import Unavailable
from trunkline.memory.exports import lines
from trunkline.store import memory_stores

router = APIRouter(prefix="/v1/memory_stores", tags=["memory stores"])

_CHUNK: Final = 65_536
_STALLED_SECONDS: Final = 60.0
"""A reader that takes nothing for so long is given up: it holds a snapshot, and a connection."""


class _Lines(StreamingResponse):
    """A file that is read from Postgres while it is sent."""

    def __init__(self, text: AsyncGenerator[str], filename: str, ended: Callable[[], None]) -> None:
        self._text = text
        self._ended = ended
        headers = {"content-disposition": f'attachment; filename="{filename}"', "cache-control": "no-store"}
        super().__init__(text, media_type=MEDIA_TYPE, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, and tell that it has ended, however that was."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._text.aclose()
            self._ended()

    async def stream_response(self, send: Send) -> None:
        """Send the lines to a reader who takes them in time."""

        async def in_time(message: Message) -> None:
            async with asyncio.timeout(_STALLED_SECONDS):
                await send(message)

        await super().stream_response(in_time)


@router.get(
    "/{store_id}/export",
    response_class=StreamingResponse,
    responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "The store's lines."}},
)
async def export(store_id: str, caller: PrincipalDependency, parts: PartsDependency) -> StreamingResponse:
    """Export a store: JSON Lines of all versions, memories and passages, as they stand when the answer begins.

    The same store gives the same bytes. The last line is of type `end`; without it the file is not whole. Embeddings
    are not part of it. 503 while as many exports as one process carries out are under way.
    """
    caller.require("memory")
    found = ids.decode("memstore", store_id)
    # Asked for before the answer begins, so that what is not there is a 404.
    async with parts.database.tenant(caller.tenant_id) as connection:
        await memory_stores.get(connection, caller, found)
    if parts.exports.locked():
        raise Unavailable("Other exports are under way here; try again when one of them has ended.")
    await parts.exports.acquire()
    return _Lines(_text(parts, caller, found), f"{store_id}.jsonl", parts.exports.release)


async def _text(parts: Parts, caller: Principal, store_id: UUID) -> AsyncGenerator[str]:
    """Yield the lines, many at once."""
    async with parts.database.snapshot(caller.tenant_id) as connection:
        store = await memory_stores.get(connection, caller, store_id)
        some: list[str] = []
        size = 0
        async with aclosing(lines(connection, caller, store)) as all_lines:
            async for line in all_lines:
                some.append(line)
                size += len(line)
                if size >= _CHUNK:
                    yield "".join(some)
                    some, size = [], 0
        yield "".join(some)
