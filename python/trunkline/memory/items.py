"""Items of a memory store with their passages: written together, found by recall."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.memory import PassageFilter
from trunkline.domain.store_items import StoreItem
from trunkline.memory.recall import MAX_PASSAGES
from trunkline.store import ingest, passages, redaction, store_items
from trunkline.store.ingest import NewPassage
from trunkline.store.pool import Connection
from trunkline.store.store_items import ItemFilter, Place

ROLE: Final = "item"
_ALL_TOKENS: Final = 2**31 - 1
_SHORT: Final = 256


async def put(
    connection: Connection,
    place: Place,
    namespace: Sequence[str],
    key: str,
    *,
    value: Mapping[str, Any],
    texts: Sequence[str],
    ttl: timedelta | None,
) -> None:
    """Write an item and what of it is searched. The caller holds the store's lock. Raises InvalidRequest: redaction."""
    redactor = await redaction.of(connection, place.tenant_id, place.store_id)
    if redactor is not None:
        for label in (*namespace, key):
            redactor.refuse_in(label, "key")
        value = redactor.value(value)
    document = _document(place.store_id, namespace, key)
    await ingest.delete_document(connection, place.tenant_id, place.store_id, document)
    await store_items.put(connection, place, namespace, key, document_id=document, value=value, ttl=ttl)
    pieces = [
        NewPassage(
            ids.new(),
            ROLE,
            text,
            document_id=document,
            tags=[_tag(namespace[:depth]) for depth in range(1, len(namespace) + 1)],
            metadata=_plain(value),
        )
        for text in texts
        if text.strip()
    ]
    if pieces:
        await ingest.add(connection, place.tenant_id, place.store_id, pieces, place.at, redactor=redactor)


async def delete(connection: Connection, place: Place, namespace: Sequence[str], key: str) -> None:
    """Delete an item with its passages, if it is there. The caller holds the store's lock."""
    document = _document(place.store_id, namespace, key)
    await ingest.delete_document(connection, place.tenant_id, place.store_id, document)
    await store_items.delete(connection, place, namespace, key)


async def search(
    connection: Connection,
    place: Place,
    wanted: ItemFilter,
    query: str,
    *,
    embedding: Sequence[float] | None,
    model: str | None,
) -> list[StoreItem]:
    """Return the items whose texts answer a query, best first, of those that the best hundred passages belong to.

    Namespace, and members of the filter that are plain values, count before that; other filters after.
    """
    plain = _plain({name: value for name, value in (wanted.members or {}).items() if not isinstance(value, dict)})
    found = await passages.recall(
        connection,
        place.tenant_id,
        place.store_id,
        query,
        limit=MAX_PASSAGES,
        token_budget=_ALL_TOKENS,
        embedding=embedding,
        model=model,
        only=PassageFilter(
            roles=[ROLE], tags=[_tag(wanted.namespace)] if wanted.namespace else None, metadata=plain or None
        ),
    )
    scores = [(passage.document_id, passage.score) for passage in found if passage.document_id is not None]
    return await store_items.ranked(connection, place, wanted, scores)


def _document(store_id: UUID, namespace: Sequence[str], key: str) -> UUID:
    return ids.derived(b"item", store_id.bytes, json.dumps([*namespace, key]).encode())


def _tag(namespace: Sequence[str]) -> str:
    """Return a short name of a namespace, for passages to be found by."""
    return "ns:" + hashlib.sha256(json.dumps(list(namespace)).encode()).hexdigest()[:32]


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members that are short texts, numbers, or true and false."""
    return {
        name: member
        for name, member in value.items()
        if isinstance(member, (int, float)) or (isinstance(member, str) and len(member) <= _SHORT)
    }
