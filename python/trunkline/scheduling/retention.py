"""What is kept for a while only, deleted when that is over."""

from __future__ import annotations

from trunkline.store.pool import Database
from trunkline.store.queries import queries


async def forget_answers(database: Database) -> None:
    """Delete what was kept under idempotency keys and is past its day. Raises Unavailable."""
    async with database.transaction() as connection:
        await connection.execute(queries("idempotency")["forget"])


async def forget_bodies(database: Database) -> None:
    """Delete the bodies of calls that are past their time. Raises Unavailable."""
    async with database.transaction() as connection:
        await connection.execute(queries("call_bodies")["forget"])
