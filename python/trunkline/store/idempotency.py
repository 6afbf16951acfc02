"""Idempotency keys: a POST sent twice with one key is carried out once."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.store.pool import Connection
from trunkline.store.queries import queries


async def claim(connection: Connection, tenant_id: UUID, key: str, request: str, at: datetime) -> dict[str, Any] | None:
    """Take a key for this transaction; if it was taken before, return `{"request", "answer"}` as kept then.

    `request` is the digest of the request. One that holds the same key right now is waited for.
    """
    cursor = await connection.execute(
        queries("idempotency")["claim"], (tenant_id, key, Jsonb({"request": request, "answer": None}), at)
    )
    if await cursor.fetchone() is not None:
        return None
    cursor = await connection.execute(queries("idempotency")["select_response"], (tenant_id, key))
    row = await cursor.fetchone()
    return None if row is None else dict(row["response"])


async def complete(connection: Connection, tenant_id: UUID, key: str, request: str, answer: dict[str, Any]) -> None:
    """Keep the answer under a key that `claim` took in this transaction."""
    await connection.execute(
        queries("idempotency")["complete"], (tenant_id, key, Jsonb({"request": request, "answer": answer}))
    )
