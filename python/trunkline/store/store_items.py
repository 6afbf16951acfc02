"""Items of a memory store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain.store_items import StoreItem
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class Place:
    """A store of a tenant at a moment."""

    tenant_id: UUID
    store_id: UUID
    at: datetime


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Which items are wanted: below a namespace, as a filter says, so many of them."""

    namespace: Sequence[str]
    members: Mapping[str, Any] | None
    limit: int
    offset: int


async def get(connection: Connection, place: Place, namespace: Sequence[str], key: str) -> StoreItem | None:
    """Return an item; None: there is none."""
    cursor = await connection.execute(
        queries("store_items")["select_item"], (place.tenant_id, place.store_id, list(namespace), key, place.at)
    )
    row = await cursor.fetchone()
    return None if row is None else StoreItem(**row)


async def put(
    connection: Connection,
    place: Place,
    namespace: Sequence[str],
    key: str,
    *,
    document_id: UUID,
    value: Mapping[str, Any],
    ttl: timedelta | None,
) -> None:
    """Write an item, in the place of one of its namespace and key."""
    await connection.execute(
        queries("store_items")["put_item"],
        (place.tenant_id, place.store_id, list(namespace), key, document_id, Jsonb(dict(value)), ttl, place.at),
    )


async def delete(connection: Connection, place: Place, namespace: Sequence[str], key: str) -> None:
    """Delete an item, if it is there. Its passages are the caller's to delete."""
    await connection.execute(
        queries("store_items")["delete_item"], (place.tenant_id, place.store_id, list(namespace), key)
    )


async def touch(connection: Connection, place: Place, items: Sequence[StoreItem]) -> None:
    """Let items that were read be kept for their time again."""
    await connection.execute(
        queries("store_items")["touch_items"],
        (
            place.tenant_id,
            place.store_id,
            [_array(item.namespace) for item in items],
            [item.key for item in items],
            place.at,
        ),
    )


async def page(connection: Connection, place: Place, wanted: ItemFilter) -> list[StoreItem]:
    """Return items, those written last first."""
    cursor = await connection.execute(queries("store_items")["list_items"], _wanted(place, wanted))
    return [StoreItem(**row) for row in await cursor.fetchall()]


async def ranked(
    connection: Connection, place: Place, wanted: ItemFilter, scores: Sequence[tuple[UUID, float]]
) -> list[StoreItem]:
    """Return the items of these documents, the best first."""
    cursor = await connection.execute(
        queries("store_items")["rank_items"],
        (*_wanted(place, wanted), [document for document, _ in scores], [score for _, score in scores]),
    )
    return [StoreItem(**row) for row in await cursor.fetchall()]


async def namespaces(
    connection: Connection,
    place: Place,
    *,
    prefix: Sequence[str | None],
    suffix: Sequence[str | None],
    max_depth: int | None,
    limit: int,
    offset: int,
) -> list[list[str]]:
    """Return the namespaces that begin and end with these labels (None: any), in order, cut after `max_depth`."""
    cursor = await connection.execute(
        queries("store_items")["list_namespaces"],
        (place.tenant_id, place.store_id, list(prefix), list(suffix), max_depth, place.at, limit, offset),
    )
    return [row["namespace"] for row in await cursor.fetchall()]


async def forget(connection: Connection, limit: int) -> int:
    """Delete up to `limit` items past their time, in all stores. Returns how many went."""
    cursor = await connection.execute(queries("store_items")["forget"], (limit,))
    row = await cursor.fetchone()
    return 0 if row is None else int(row["deleted"])


def _wanted(place: Place, wanted: ItemFilter) -> tuple[Any, ...]:
    members = None if wanted.members is None else Jsonb(dict(wanted.members))
    return place.tenant_id, place.store_id, list(wanted.namespace), members, place.at, wanted.limit, wanted.offset


def _array(labels: Sequence[str]) -> str:
    """Return labels as the text of an array."""
    quoted = ('"' + label.replace("\\", "\\\\").replace('"', '\\"') + '"' for label in labels)
    return "{" + ",".join(quoted) + "}"
