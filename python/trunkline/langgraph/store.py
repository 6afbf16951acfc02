from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

import httpx
from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    get_text_at_path,
    tokenize_path,
    validate_op_namespace,
)

from trunkline.client.steps import Ask, Link, Steps
from trunkline.client.transport import segment

_AT_ONCE = 1000
_MOST_TEXT = 100_000
_MOST_TEXTS = 100


class TrunklineStore(BaseStore):
    """A store over a memory store of Trunkline: `graph.compile(store=TrunklineStore("memstore_…"))`; scope `memory`.

    Without further arguments it finds Trunkline as `Trunkline()` does. What of an item is searched: its `fields`
    (paths, as in `put(index=[…])`), or all texts in it. Search goes by words, and by meaning where Trunkline has an
    embedder; it looks at the items of the best hundred passages. `ttl` is LangGraph's `TTLConfig`; items past their
    time are never returned. A batch is one request of at most a thousand operations, of which all are carried out or
    none. Methods raise the errors of `trunkline.errors`: TooLarge for a value over 1 MiB, NotFound where the memory
    store is not.
    """

    supports_ttl = True

    def __init__(
        self,
        memory_store_id: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        fields: Sequence[str] | None = None,
        ttl: TTLConfig | None = None,
        timeout_s: float = 30.0,
        http: httpx.BaseTransport | None = None,
        async_http: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._path = f"/v1/memory_stores/{segment(memory_store_id)}/items"
        self._fields = None if fields is None else list(fields)
        self.ttl_config = ttl
        self._link = Link(base_url, api_key, timeout_s=timeout_s, http=http, async_http=async_http)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations together; reads see what was there before the writes."""
        return self._link.carry_out(self._steps(list(ops)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations together; reads see what was there before the writes."""
        return await self._link.carry_out_async(self._steps(list(ops)))

    def close(self) -> None:
        """Close the connections of synchronous calls."""
        self._link.close()

    async def aclose(self) -> None:
        """Close all connections of this event loop."""
        await self._link.close_async()

    def __enter__(self) -> TrunklineStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> TrunklineStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _steps(self, ops: list[Op]) -> Steps[list[Result]]:
        if len(ops) > _AT_ONCE:
            raise ValueError(f"A batch has {len(ops)} operations; at most {_AT_ONCE} are carried out together.")
        if not ops:
            return []
        for op in ops:
            validate_op_namespace(op)
        answer = yield Ask("POST", self._path, body={"operations": [self._to_wire(op) for op in ops]})
        return [_from_wire(result) for result in answer["results"]]

    def _to_wire(self, op: Op) -> dict[str, Any]:
        match op:
            case GetOp():
                return {"op": "get", "namespace": op.namespace, "key": op.key, "touch": op.refresh_ttl}
            case PutOp(value=None):
                return {"op": "delete", "namespace": op.namespace, "key": op.key}
            case PutOp():
                value = dict(op.value or {})
                texts = [] if op.index is False else _texts(value, self._fields if op.index is None else op.index)
                where = {"op": "put", "namespace": op.namespace, "key": op.key}
                return {**where, "value": value, "texts": texts, "ttl_minutes": op.ttl}
            case SearchOp():
                return {
                    "op": "search",
                    "namespace": op.namespace_prefix,
                    "query": op.query or None,
                    "filter": op.filter,
                    "limit": op.limit,
                    "offset": op.offset,
                    "touch": op.refresh_ttl,
                }
            case ListNamespacesOp():
                return _namespaces(op)
        raise ValueError(f"There is no operation {type(op).__name__}.")


def _namespaces(op: ListNamespacesOp) -> dict[str, Any]:
    paths: dict[str, list[str | None]] = {"prefix": [], "suffix": []}
    for condition in op.match_conditions or ():
        if condition.match_type not in paths or paths[condition.match_type]:
            raise ValueError("Namespaces are listed by one prefix and one suffix at most.")
        paths[condition.match_type] = [None if label == "*" else label for label in condition.path]
    return {"op": "list_namespaces", **paths, "max_depth": op.max_depth, "limit": op.limit, "offset": op.offset}


def _from_wire(result: dict[str, Any] | None) -> Result:
    if result is None:
        return None
    if "namespaces" in result:
        return [tuple(namespace) for namespace in result["namespaces"]]
    if "items" in result:
        return [SearchItem(**_read(item), score=item["score"]) for item in result["items"]]
    return None if result["item"] is None else Item(**_read(result["item"]))


def _read(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "namespace": tuple(item["namespace"]),
        "key": item["key"],
        "value": item["value"],
        "created_at": datetime.fromisoformat(item["created_at"]),
        "updated_at": datetime.fromisoformat(item["updated_at"]),
    }


def _texts(value: dict[str, Any], fields: Sequence[str] | None) -> list[str]:
    """Return what of a value is searched: a text for each field, or one of all texts in it."""
    if fields is None or "$" in fields:
        texts = ["\n".join(_leaves(value))]
    else:
        texts = [text for path in fields for text in get_text_at_path(value, tokenize_path(path))]
    return [text[:_MOST_TEXT] for text in texts if text.strip()][:_MOST_TEXTS]


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for member in value.values():
            yield from _leaves(member)
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from _leaves(member)
