"""Passages: turns, word for word, that recall searches."""

from __future__ import annotations

from uuid import UUID

from trunkline.domain.memory import Passage, Source
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


async def recall(
    connection: Connection,
    tenant_id: UUID,
    store_id: UUID,
    query: str,
    *,
    limit: int,
    token_budget: int,
    exclude_session: UUID | None = None,
) -> list[Passage]:
    """Return the passages of a store that answer a query, best first, within `limit` passages and `token_budget`."""
    cursor = await connection.execute(
        queries("passages")["recall"], (tenant_id, store_id, query, limit, token_budget, exclude_session)
    )
    return [Passage(**row) for row in await cursor.fetchall()]


async def insert(connection: Connection, tenant_id: UUID, store_id: UUID, passage: Passage, source: Source) -> None:
    """Keep a passage; it can be recalled as soon as the transaction commits. Its score is not kept."""
    await connection.execute(
        queries("passages")["insert_passage"],
        (
            tenant_id,
            store_id,
            passage.id,
            source.session_id,
            source.event_id,
            passage.role,
            passage.content,
            passage.tokens,
            passage.created_at,
        ),
    )


async def fold_tail(connection: Connection) -> int:
    """Fold what was written to one store into its index. Returns how many passages; 0 when no store needs it."""
    cursor = await connection.execute(queries("passages")["fold_tail"])
    row = await cursor.fetchone()
    return 0 if row is None else int(row["folded"])
