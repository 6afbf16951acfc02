"""Turns and documents from outside, as passages. The same turn or document given again is the same passages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.redaction import Redactor
from trunkline.errors import NotFound
from trunkline.store import ingest
from trunkline.store.ingest import NewPassage
from trunkline.store.pool import Connection

Format = Literal["text", "markdown"]

DOCUMENT_ROLE: Final = "document"
_HEADING: Final = re.compile(r"(#{1,6})[ \t]+(.+?)[ \t#]*$")
_FENCE: Final = re.compile(r"[ ]{0,3}(```|~~~)")
BATCH: Final = 1000
"""Passages in one statement."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What somebody said. `session` is the caller's own name of a conversation, or the id of one of our sessions."""

    text: str
    role: str = "user"
    speaker: str | None = None
    time: datetime | None = None
    session: str | None = None
    id: str | None = None
    tags: Sequence[str] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """A text to be found in pieces; it takes the place of another one that was given under its `id`."""

    text: str
    format: Format = "text"
    title: str | None = None
    time: datetime | None = None
    id: str | None = None
    tags: Sequence[str] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ingested:
    """How many passages what was given makes, and how many of them were not there before."""

    passages: int
    added: int


def session_id(store_id: UUID, session: str) -> UUID:
    """Return the id under which a store keeps the turns of a session, named by its caller or by our id."""
    if session.startswith("sesn_"):
        try:
            return ids.decode("sesn", session)
        except NotFound:
            pass
    return ids.derived(b"session", store_id.bytes, session.encode())


def document_id(store_id: UUID, document: Document) -> UUID:
    """Return the id of a document: of the name that its caller gave it, else of its text."""
    name = document.id or hashlib.sha256(document.text.encode()).hexdigest()
    return ids.derived(b"document", store_id.bytes, name.encode())


async def add_turns(
    connection: Connection,
    tenant_id: UUID,
    store_id: UUID,
    turns: Sequence[Turn],
    at: datetime,
    *,
    redactor: Redactor | None,
) -> Ingested:
    """Keep turns in their order. The caller holds the store's lock."""
    passages = added = 0
    for start in range(0, len(turns), BATCH):
        some = [_passage(store_id, turn) for turn in turns[start : start + BATCH]]
        given, new = await ingest.add(connection, tenant_id, store_id, some, at, redactor=redactor)
        passages += given
        added += new
    return Ingested(passages, added)


async def add_document(
    connection: Connection,
    tenant_id: UUID,
    store_id: UUID,
    document: Document,
    at: datetime,
    *,
    redactor: Redactor | None,
) -> Ingested:
    """Keep a document; one of the same id with another text goes. The caller holds the store's lock."""
    of = document_id(store_id, document)
    digest = hashlib.sha256(repr((document.text, document.format, document.title)).encode()).digest()
    pieces = []
    for number, content in enumerate(sections(document)):
        piece = ids.derived(of.bytes, digest, number.to_bytes(4, "big"))
        metadata = document.metadata | ({"title": document.title} if document.title else {})
        pieces.append(
            NewPassage(
                piece,
                DOCUMENT_ROLE,
                content,
                document_id=of,
                created_at=document.time,
                tags=document.tags,
                metadata=metadata,
            )
        )
    if not (pieces and await ingest.holds(connection, tenant_id, store_id, pieces[0].id)):
        await ingest.delete_document(connection, tenant_id, store_id, of)
    given, added = await ingest.add(connection, tenant_id, store_id, pieces, at, redactor=redactor)
    return Ingested(given, added)


def sections(document: Document) -> list[str]:
    """Return a document's texts in order: markdown by its headings, each under the headings that it stands below.

    Nothing is cut here but at headings; long texts are split where they are stored.
    """
    texts = [document.text] if document.format == "text" else _sections(document.text, document.title)
    return [text.strip() for text in texts if text.strip()]


def _sections(text: str, title: str | None) -> Iterator[str]:
    above: dict[int, str] = {} if title is None else {0: title}
    lines: list[str] = []
    fence: str | None = None

    def section() -> str:
        body = "\n".join(lines).strip()
        return "\n\n".join([" > ".join(above[level] for level in sorted(above)), body]) if above and body else body

    for line in text.splitlines():
        opened = _FENCE.match(line)
        if opened:
            fence = None if fence == opened[1] else fence or opened[1]
        heading = None if fence or opened else _HEADING.match(line)
        if heading is None:
            lines.append(line)
            continue
        yield section()
        level = len(heading[1])
        above = {higher: name for higher, name in above.items() if higher < level} | {level: heading[2]}
        lines = []
    yield section()


def _passage(store_id: UUID, turn: Turn) -> NewPassage:
    content = f"{turn.speaker}: {turn.text}" if turn.speaker else turn.text
    metadata = dict(turn.metadata)
    if turn.session is not None:
        metadata.setdefault("session", turn.session)
    if turn.speaker is not None:
        metadata.setdefault("speaker", turn.speaker)
    said = turn.id or "\0".join([turn.role, turn.time.isoformat() if turn.time else "", content])
    passage_id = ids.derived(b"turn", store_id.bytes, (turn.session or "").encode(), said.encode())
    of = None if turn.session is None else session_id(store_id, turn.session)
    return NewPassage(
        passage_id, turn.role, content, session_id=of, created_at=turn.time, tags=turn.tags, metadata=metadata
    )
