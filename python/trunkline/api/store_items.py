"""Items of a memory store, several operations at once, for agent frameworks. Trunkline's addition to the wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import JSONResponse

from trunkline.api.deps import PartsDependency, PrincipalDependency
from trunkline.api.memory_caller import no_nul
from trunkline.domain import ids
from trunkline.domain.times import now
from trunkline.errors import InvalidRequest, TooLarge
from trunkline.memory import items
from trunkline.memory.embedders.queries import QueryVector
from trunkline.store import embedding, memory_stores, store_items
from trunkline.store.memory_stores import refuse_archived
from trunkline.store.pool import Connection
from trunkline.store.store_items import ItemFilter, Place

router = APIRouter(prefix="/v1/memory_stores/{store_id}", tags=["memory stores"])

MAX_OPERATIONS: Final = 1000
MAX_DEPTH: Final = 20
"""Labels of a namespace."""
MAX_VALUE: Final = 1024 * 1024
"""Bytes of a value as JSON."""
MAX_TEXT: Final = 100_000
MAX_MINUTES: Final = 60 * 24 * 36_500
_COMPARISONS: Final = frozenset({"$eq", "$ne", "$gt", "$gte", "$lt", "$lte"})


def _within(limit: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        if len(text.encode()) > limit:
            raise ValueError(f"must have at most {limit} bytes")
        return no_nul(text)

    return check


def _short(labels: list[str]) -> list[str]:
    if sum(len(label.encode()) for label in labels) > 1024:  # part of an index, whose rows have at most 2,704 bytes
        raise ValueError("must have at most 1024 bytes in all")
    return labels


Label = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_within(512))]
Namespace = Annotated[list[Label], Field(max_length=MAX_DEPTH), AfterValidator(_short)]
Pattern = Annotated[list[Label | None], Field(max_length=MAX_DEPTH)]
Key = Annotated[str, StringConstraints(max_length=512), AfterValidator(_within(512))]
Query = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(no_nul)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT), AfterValidator(no_nul)]


class _Operation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Get(_Operation):
    """Read an item. `touch`: let it be kept for its time again."""

    op: Literal["get"]
    namespace: Namespace
    key: Key
    touch: bool = False


class Put(_Operation):
    """Write an item; `texts` are what of it is searched, `ttl_minutes`, for how long it is kept after that."""

    op: Literal["put"]
    namespace: Annotated[Namespace, Field(min_length=1)]
    key: Key
    value: dict[str, Any]
    texts: Annotated[list[Text], Field(max_length=100)] = []
    ttl_minutes: Annotated[float | None, Field(gt=0, le=MAX_MINUTES)] = None


class Delete(_Operation):
    """Delete an item, if it is there."""

    op: Literal["delete"]
    namespace: Namespace
    key: Key


class Search(_Operation):
    """Find items below a namespace, as `filter` says: by a text, best first, or all, those written last first."""

    op: Literal["search"]
    namespace: Namespace = []
    query: Query | None = None
    filter: dict[str, Any] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    touch: bool = False


class ListNamespaces(_Operation):
    """List namespaces that begin and end with labels, where null stands for any."""

    op: Literal["list_namespaces"]
    prefix: Pattern = []
    suffix: Pattern = []
    max_depth: Annotated[int | None, Field(ge=1, le=MAX_DEPTH)] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0


Operation = Annotated[Get | Put | Delete | Search | ListNamespaces, Field(discriminator="op")]


class Operations(BaseModel):
    """Operations that are carried out together, or none of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operations: Annotated[list[Operation], Field(min_length=1, max_length=MAX_OPERATIONS)]


@router.post("/items")
async def operate(
    store_id: str, given: Operations, principal: PrincipalDependency, parts: PartsDependency
) -> JSONResponse:
    """Read, search, write and delete items; one result for each operation, in order. Reads come before writes."""
    principal.require("memory")
    found_id = ids.decode("memstore", store_id)
    for number, operation in enumerate(given.operations):
        _check(f"operations[{number}]", operation)
    queries = {one.query for one in given.operations if isinstance(one, Search) and one.query is not None}
    writes = [one for one in given.operations if isinstance(one, (Put, Delete))]
    async with parts.database.tenant(principal.tenant_id) as connection:
        store = await memory_stores.get(connection, principal, found_id)
        model = await embedding.model_of_store(connection, principal.tenant_id, store.id) if queries else None
    # No connection is held meanwhile.
    vectors = {query: await parts.embedding.queries.of(principal.tenant_id, model, query) for query in queries}
    async with parts.database.tenant(principal.tenant_id) as connection:
        if writes:
            store = await memory_stores.lock(connection, principal, found_id)
            refuse_archived(store.id, store.archived_at)
        place = Place(principal.tenant_id, store.id, now())
        results = [await _read(connection, place, one, vectors) for one in given.operations]
        await _write(connection, place, writes)
    return JSONResponse({"results": results})


async def _read(
    connection: Connection, place: Place, operation: Operation, vectors: dict[str, QueryVector]
) -> dict[str, Any] | None:
    """Return what a reading operation finds; None for the others."""
    match operation:
        case Get():
            found = await store_items.get(connection, place, operation.namespace, operation.key)
            if found is not None and operation.touch:
                await store_items.touch(connection, place, [found])
            return {"item": None if found is None else found.to_wire()}
        case Search():
            wanted = ItemFilter(operation.namespace, operation.filter, operation.limit, operation.offset)
            if operation.query is None:
                several = await store_items.page(connection, place, wanted)
            else:
                vector = vectors[operation.query]
                several = await items.search(
                    connection, place, wanted, operation.query, embedding=vector.vector, model=vector.model
                )
            if several and operation.touch:
                await store_items.touch(connection, place, several)
            return {"items": [item.to_wire() for item in several]}
        case ListNamespaces():
            return {
                "namespaces": await store_items.namespaces(
                    connection,
                    place,
                    prefix=operation.prefix,
                    suffix=operation.suffix,
                    max_depth=operation.max_depth,
                    limit=operation.limit,
                    offset=operation.offset,
                )
            }
        case _:
            return None


async def _write(connection: Connection, place: Place, operations: Sequence[Put | Delete]) -> None:
    """Carry out the last operation on each key."""
    last = {(*one.namespace, one.key): one for one in operations}
    for one in last.values():
        if isinstance(one, Put):
            ttl = None if one.ttl_minutes is None else timedelta(minutes=one.ttl_minutes)
            await items.put(connection, place, one.namespace, one.key, value=one.value, texts=one.texts, ttl=ttl)
        else:
            await items.delete(connection, place, one.namespace, one.key)


def _check(where: str, operation: Operation) -> None:
    """Raise TooLarge for a value over its bound, InvalidRequest for a comparison that there is not."""
    if isinstance(operation, Put):
        size = len(json.dumps(operation.value, ensure_ascii=False).encode())
        if size > MAX_VALUE:
            raise TooLarge(
                f"{where}.value has {size} bytes as JSON; at most {MAX_VALUE} are kept.",
                param=f"{where}.value",
                details={"limit_bytes": MAX_VALUE},
            )
    if isinstance(operation, Search):
        _check_filter(f"{where}.filter", operation.filter or {})


def _check_filter(where: str, members: dict[str, Any]) -> None:
    for name, value in members.items():
        if name.startswith("$") and name not in _COMPARISONS:
            raise InvalidRequest(
                f"{where} has {name!r}; comparisons are {', '.join(sorted(_COMPARISONS))}.", param=where
            )
        if isinstance(value, dict):
            _check_filter(f"{where}.{name}", value)
