"""A store as lines of a file (`domain/memory_file.py`): the same store gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from trunkline.domain import ids
from trunkline.domain.memory import MemoryStore
from trunkline.domain.memory_file import FORMAT
from trunkline.domain.principal import Principal
from trunkline.domain.times import to_wire
from trunkline.store import exports
from trunkline.store.exports import Kind
from trunkline.store.pool import Connection

_KINDS: Final[tuple[Kind, ...]] = ("blocks", "versions", "memories", "passages")
_EMPTY: Final = frozenset({"description", "metadata", "managed", "options", "block", "tags"})
"""What is left out where it is empty, too."""


async def lines(connection: Connection, principal: Principal, store: MemoryStore) -> AsyncGenerator[str]:
    """Yield the lines of a store, each with its end. The connection's transaction is one snapshot."""
    count = 1
    yield _line({"type": "header", "format": FORMAT, "store": _header(store)})
    for kind in _KINDS:
        async with aclosing(exports.rows(connection, principal.tenant_id, store.id, kind)) as rows:
            async for row in rows:
                count += 1
                yield _line(_OF[kind](row))
    yield _line({"type": "end", "lines": count})


def _header(store: MemoryStore) -> dict[str, Any]:
    subject = store.subject
    if store.scope == "session" and subject is not None:
        subject = f"sesn_{subject.replace('-', '')}"
    said = {
        "name": store.name if not store.managed else store.scope,
        "description": store.description,
        "metadata": dict(sorted(store.metadata.items())),
        "scope": store.scope,
        "managed": store.managed,
        "subject": subject,
        "expire_after_days": store.expire_after_days,
    }
    return _said(said)


def _block(row: dict[str, Any]) -> dict[str, Any]:
    return {"type": "block", **row}


def _version(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "version",
        "id": ids.encode("memver", row["id"]),
        "memory_id": ids.encode("mem", row["memory_id"]),
        "version": row["version"],
        "operation": row["operation"],
        "operations": row["operations"],
        "path": row["path"],
        "content": row["content"],
        "content_sha256": row["content_sha256"],
        "block": row["block"],
        "states": row["states"],
        "actor": {"type": row["actor_type"], "id": row["actor_id"]},
        **_source(row),
        "created_at": to_wire(row["created_at"]),
        "redacted_at": to_wire(row["redacted_at"]),
        "redacted_by": row["redacted_by"],
    }


def _memory(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "memory",
        "id": ids.encode("mem", row["id"]),
        "path": row["path"],
        "content": row["content"],
        "content_sha256": row["content_sha256"],
        "block": row["block"],
        "states": row["states"],
        "version": row["version"],
        "version_id": ids.encode("memver", row["version_id"]),
        "created_at": to_wire(row["created_at"]),
        "updated_at": to_wire(row["updated_at"]),
    }


def _passage(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "passage",
        "id": ids.encode("psg", row["id"]),
        **_source(row),
        "document_id": None if row["document_id"] is None else str(row["document_id"]),
        "role": row["role"],
        "text": row["content"],
        "tags": row["tags"],
        "metadata": row["metadata"],
        "created_at": to_wire(row["created_at"]),
    }


_OF: Final = {"blocks": _block, "versions": _version, "memories": _memory, "passages": _passage}


def _source(row: dict[str, Any]) -> dict[str, Any]:
    session, event = row["session_id"], row["event_id"]
    return {
        "session_id": None if session is None else ids.encode("sesn", session),
        "event_id": None if event is None else ids.encode("sevt", event),
    }


def _line(record: dict[str, Any]) -> str:
    return json.dumps(_said(record), ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _said(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if value is not None and (value or key not in _EMPTY)}
