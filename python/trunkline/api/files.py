"""Files, in Anthropic's wire. Their bytes are in Postgres, at most `limits.max_body_bytes` a file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from starlette.responses import JSONResponse, StreamingResponse

from trunkline.api import paging
from trunkline.api.deps import Manager, Parts, PartsDependency
from trunkline.api.idempotency import once
from trunkline.domain import files as domain
from trunkline.domain import ids
from trunkline.domain.times import now
from trunkline.errors import InvalidRequest, Unavailable
from trunkline.store import files
from trunkline.store.files import PIECE_BYTES

router = APIRouter(prefix="/v1/files", tags=["files"])

_MIME: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(;[ -~]*)?")
_DEFAULT_MIME: Final = "application/octet-stream"
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f/\\]")
_YEAR_SECONDS: Final = 366 * 86_400


@router.post("")
async def upload(
    request: Request,
    caller: Manager,
    file: Annotated[UploadFile, File(description="the bytes, with their name and type")],
    expires_in_seconds: Annotated[int | None, Form(ge=1, le=10 * _YEAR_SECONDS)] = None,
) -> JSONResponse:
    """Keep a file. A key of one agent uploads for that agent alone."""
    name = file.filename or "file"
    if not 1 <= len(name) <= 500 or _CONTROLS.search(name):
        raise InvalidRequest("A file's name has 1 to 500 characters, no slash and no control characters.", param="file")
    mime = file.content_type or _DEFAULT_MIME
    if len(mime) > 255 or not _MIME.fullmatch(mime):
        raise InvalidRequest("The file's content-type is not of the form type/subtype.", param="file")

    async def act() -> dict[str, Any]:
        at = now()
        expires_at = None if expires_in_seconds is None else at + timedelta(seconds=expires_in_seconds)
        principal = caller.principal
        made = domain.File(ids.new(), principal.agent_id, None, name, mime, file.size or 0, at, expires_at)
        await files.create(caller.connection, principal.tenant_id, made)
        position = 0
        while piece := await file.read(PIECE_BYTES):
            await files.add_piece(caller.connection, principal.tenant_id, made.id, position, piece)
            position += 1
        return made.to_wire()

    # The body's own bytes differ with each repetition: clients make a new multipart boundary.
    said = (name, mime, str(expires_in_seconds), await _digest(file))
    return JSONResponse(await once(request, caller, act, of="\0".join(said).encode()))


@router.get("")
async def list_files(
    caller: Manager,
    *,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    page: str | None = None,
    scope_id: str | None = None,
    file_ids: Annotated[list[str] | None, Query(alias="ids", max_length=100)] = None,
    file_ids_of_sdk: Annotated[list[str] | None, Query(alias="ids[]", max_length=100)] = None,
) -> JSONResponse:
    """List files, newest first; `scope_id`: those that a session made."""
    asked = (*(file_ids or ()), *(file_ids_of_sdk or ()))
    found = await files.page(
        caller.connection,
        caller.principal,
        paging.read_time(page),
        limit + 1,
        session_id=None if scope_id is None else ids.decode("sesn", scope_id),
        file_ids=[ids.decode("file", one) for one in asked] or None,
        at=now(),
    )
    return JSONResponse(
        paging.page(found, limit, domain.File.to_wire, lambda file: paging.at_time(file.created_at, file.id))
    )


@router.get("/{file_id}")
async def retrieve(file_id: str, caller: Manager) -> JSONResponse:
    """Get what there is to tell of a file beside its bytes."""
    found = await files.get(caller.connection, caller.principal, ids.decode("file", file_id), now())
    return JSONResponse(found.to_wire())


@router.get("/{file_id}/content", response_class=StreamingResponse)
async def content(file_id: str, caller: Manager, parts: PartsDependency) -> StreamingResponse:
    """Get a file's bytes."""
    found = await files.get(caller.connection, caller.principal, ids.decode("file", file_id), now())
    return StreamingResponse(
        _pieces(parts, caller.principal.tenant_id, found),
        media_type=found.mime_type,
        headers={
            "content-length": str(found.size_bytes),
            # What somebody uploaded is never run by a browser as ours.
            "content-disposition": f"attachment; filename*=UTF-8''{quote(found.filename, safe='')}",
            "x-content-type-options": "nosniff",
        },
    )


@router.delete("/{file_id}")
async def delete(file_id: str, caller: Manager) -> JSONResponse:
    """Delete a file. Sessions that it is attached to lose it."""
    found = ids.decode("file", file_id)
    await files.delete(caller.connection, caller.principal, found)
    return JSONResponse({"id": ids.encode("file", found), "type": "file_deleted"})


async def _digest(file: UploadFile) -> str:
    digest = hashlib.sha256()
    while piece := await file.read(PIECE_BYTES):
        digest.update(piece)
    await file.seek(0)
    return digest.hexdigest()


async def _pieces(parts: Parts, tenant_id: UUID, file: domain.File) -> AsyncIterator[bytes]:
    """Yield a file's bytes; no connection is held while the client reads.

    Raises Unavailable in the middle where the file was deleted meanwhile, which breaks the answer off.
    """
    position, left = 0, file.size_bytes
    while left > 0:
        async with parts.database.tenant(tenant_id) as connection:
            piece = await files.piece(connection, tenant_id, file.id, position)
        if piece is None:
            raise Unavailable("The file was deleted while it was read.")
        yield piece
        left -= len(piece)
        position += 1
