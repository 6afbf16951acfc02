"""What is given to a store from outside: turns of conversations, and documents in pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from trunkline.domain.redaction import Redactor
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class NewPassage:
    """A text to keep. Texts of one session or document stand in the order in which they are given."""

    id: UUID
    role: str
    content: str
    session_id: UUID | None = None
    document_id: UUID | None = None
    created_at: datetime | None = None
    """When it was said; None: now."""
    tags: Sequence[str] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


async def add(
    connection: Connection,
    tenant_id: UUID,
    store_id: UUID,
    passages: Sequence[NewPassage],
    at: datetime,
    *,
    redactor: Redactor | None,
) -> tuple[int, int]:
    """Keep passages, long ones in parts; returns how many parts there are, and how many of them are new.

    Redacted first, but for ids. One statement, whatever their number. The caller holds the store's lock, so that no
    two write to one session.
    """
    rows = [
        {
            "id": str(passage.id),
            "session_id": passage.session_id and str(passage.session_id),
            "document_id": passage.document_id and str(passage.document_id),
            "role": passage.role,
            "content": passage.content if redactor is None else redactor.text(passage.content),
            "created_at": passage.created_at and passage.created_at.isoformat(),
            "tags": list(passage.tags) if redactor is None else redactor.value(passage.tags),
            "metadata": passage.metadata if redactor is None else redactor.value(passage.metadata),
        }
        for passage in passages
    ]
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    cursor = await connection.execute(queries("ingest")["insert_passages"], (tenant_id, store_id, at, text))
    row = await cursor.fetchone()
    return (int(row["given"]), int(row["added"])) if row else (0, 0)


async def holds(connection: Connection, tenant_id: UUID, store_id: UUID, passage_id: UUID) -> bool:
    """Tell whether a passage of this id is there."""
    cursor = await connection.execute(queries("ingest")["select_passage"], (tenant_id, store_id, passage_id))
    return await cursor.fetchone() is not None


async def delete_document(connection: Connection, tenant_id: UUID, store_id: UUID, document_id: UUID) -> int:
    """Delete the pieces of a document; returns how many there were."""
    cursor = await connection.execute(queries("ingest")["delete_document"], (tenant_id, store_id, document_id))
    return cursor.rowcount
