"""Giving turns and documents to a store, beside the Managed Agents wire."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter
from pydantic import ValidationError as PydanticError
from starlette.responses import JSONResponse

from trunkline.api.bodies import check
from trunkline.api.idempotency import once
from trunkline.api.memory_caller import MemoryCaller, no_controls, no_nul
from trunkline.domain import ids
from trunkline.domain.times import now
from trunkline.errors import InvalidRequest
from trunkline.memory import ingest
from trunkline.memory.ingest import Document, Turn
from trunkline.store import memory_stores, redaction
from trunkline.store.memory_stores import refuse_archived

router = APIRouter(prefix="/v1/memory_stores", tags=["memory stores"])

MAX_TURNS: Final = 10_000
MAX_TURN: Final = 100_000
MAX_DOCUMENT: Final = 10_000_000

Short = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(no_controls)]
Tags = Annotated[list[Annotated[Short, Field(max_length=64)]], Field(max_length=16)]
Metadata = Annotated[dict[Short, Annotated[str, AfterValidator(no_nul)] | int | float | bool], Field(max_length=16)]


class TurnBody(BaseModel):
    """What somebody said. Its `id`, else its text, role and time, tells it from the others of its session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TURN), AfterValidator(no_nul)]
    role: Annotated[Short, Field(max_length=64)] = "user"
    speaker: Short | None = None
    time: AwareDatetime | None = None
    session: Short | None = None
    id: Short | None = None
    tags: Tags = []
    metadata: Metadata = {}


class DocumentBody(BaseModel):
    """A text to be found in pieces; one of the same `id` with another text is replaced."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Annotated[str, StringConstraints(min_length=1, max_length=MAX_DOCUMENT), AfterValidator(no_nul)]
    format: Literal["text", "markdown"] = "text"
    title: Short | None = None
    time: AwareDatetime | None = None
    id: Short | None = None
    tags: Tags = []
    metadata: Metadata = {}


class Ingest(BaseModel):
    """Turns, documents, or both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turns: Annotated[list[TurnBody], Field(max_length=MAX_TURNS)] = []
    documents: Annotated[list[DocumentBody], Field(max_length=100)] = []


_INGEST: Final[TypeAdapter[Ingest]] = TypeAdapter(Ingest)


@router.post(
    "/{store_id}/ingest",
    openapi_extra={
        "requestBody": {
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "application/x-ndjson": {"schema": {"type": "string"}},
                "text/plain": {"schema": {"type": "string"}},
                "text/markdown": {"schema": {"type": "string"}},
            }
        }
    },
)
async def take(
    request: Request,
    store_id: str,
    caller: MemoryCaller,
    id: Annotated[Short | None, Query()] = None,  # noqa: A002 (the document's, as in JSON)
    title: Annotated[Short | None, Query()] = None,
) -> JSONResponse:
    """Keep turns and documents for recall; they are found by their words when this answers.

    The body is `{"turns": […], "documents": […]}`, or JSON Lines of turns (`application/x-ndjson`), or one document as
    it is (`text/plain`, `text/markdown`, with `id` and `title` in the query). What is given again is kept once.
    """
    given = _read(request, await request.body(), id, title)

    async def act() -> dict[str, Any]:
        store = await memory_stores.lock(caller.connection, caller.principal, ids.decode("memstore", store_id))
        refuse_archived(store.id, store.archived_at)
        at, tenant_id = now(), caller.principal.tenant_id
        turns = [Turn(**dict(turn)) for turn in given.turns]
        redactor = await redaction.of(caller.connection, tenant_id, store.id)
        done = [await ingest.add_turns(caller.connection, tenant_id, store.id, turns, at, redactor=redactor)]
        documents = [Document(**dict(document)) for document in given.documents]
        done += [
            await ingest.add_document(caller.connection, tenant_id, store.id, one, at, redactor=redactor)
            for one in documents
        ]
        passages = sum(some.passages for some in done)
        return {"type": "memory_ingest", "passages": passages, "added": sum(some.added for some in done)}

    return JSONResponse(await once(request, caller, act))


def _read(request: Request, body: bytes, name: str | None, title: str | None) -> Ingest:
    """Read what the content type says. Raises InvalidRequest that says where it is wrong."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("text/plain", "text/markdown"):
        document: dict[str, Any] = {"text": _text(body), "format": "markdown" if kind == "text/markdown" else "text"}
        document |= {key: value for key, value in (("id", name), ("title", title)) if value is not None}
        return _valid({"documents": [document]})
    if name is not None or title is not None:
        raise InvalidRequest("`id` and `title` in the query are for text/plain and text/markdown.", param="id")
    if kind in ("application/x-ndjson", "application/jsonl", "application/x-jsonlines"):
        turns = []
        for number, line in enumerate(_text(body).split("\n"), 1):
            if line.strip():
                try:
                    check(line.encode())
                except InvalidRequest as error:
                    raise InvalidRequest(f"Line {number}: {error.message}", code=error.code) from error
                turns.append(json.loads(line))
        return _valid({"turns": turns})
    if kind != "application/json":
        raise InvalidRequest(
            f"The body is {kind or 'of no type'!r}; send application/json, application/x-ndjson, text/plain or "
            "text/markdown.",
            param="content-type",
        )
    return _valid(json.loads(body))


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8: byte {error.start} is invalid.", code="invalid_utf8") from error


def _valid(given: Any) -> Ingest:
    try:
        read = _INGEST.validate_python(given)
    except PydanticError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"{where or 'The body'}: {first['msg']}.", param=where or None) from error
    if not read.turns and not read.documents:
        raise InvalidRequest("There is nothing to keep: give `turns` or `documents`.", param="turns")
    return read
