"""Passages: turns, word for word, that recall searches."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain.memory import Passage, PassageFilter
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
    embedding: Sequence[float] | None = None,
    model: str | None = None,
    only: PassageFilter | None = None,
    half_life: timedelta | None = None,
) -> list[Passage]:
    """Return the passages of a store that answer a query, best first, within `limit` passages and `token_budget`.

    `embedding` is the query's by `model`, of unit length; without it the words alone count.
    With `half_life`, half of a passage's score fades with its age.
    """
    only = only or PassageFilter()
    cursor = await connection.execute(
        queries("passages")["recall"],
        (
            tenant_id,
            store_id,
            query,
            limit,
            token_budget,
            exclude_session,
            None if embedding is None else f"[{','.join(map(repr, embedding))}]",
            model,
            only.since,
            only.until,
            None if only.roles is None else list(only.roles),
            None if only.sessions is None else list(only.sessions),
            None if only.tags is None else list(only.tags),
            None if only.metadata is None else Jsonb(dict(only.metadata)),
            half_life,
        ),
    )
    return [Passage(**row) for row in await cursor.fetchall()]


async def lock_sessions(connection: Connection, store_id: UUID, sessions: Sequence[str]) -> None:
    """Be the only one to add to these sessions of a store until the transaction ends."""
    if sessions:
        await connection.execute(queries("passages")["lock_sessions"], (store_id, list(sessions)))


async def fold_tail(connection: Connection) -> int:
    """Fold what was written to one store into its index. Returns how many passages; 0 when no store needs it."""
    cursor = await connection.execute(queries("passages")["fold_tail"])
    row = await cursor.fetchone()
    return 0 if row is None else int(row["folded"])
