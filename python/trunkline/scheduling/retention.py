"""What is kept for a while only, deleted when that is over."""

from __future__ import annotations

from typing import Final

from trunkline.store import audit, files, memory_stores, sessions, store_items
from trunkline.store import retention as retentions
from trunkline.store.pool import Database
from trunkline.store.queries import queries

_ROWS_AT_ONCE: Final = 2000
"""Rows of a kind in one transaction: writers of the store wait for it."""

_SESSIONS_AT_ONCE: Final = 1000
"""Sessions looked at in one transaction, and the most rows of theirs that go in it."""

_FILES_AT_ONCE: Final = 100


async def forget_answers(database: Database) -> None:
    """Delete what was kept under idempotency keys and is past its day. Raises Unavailable."""
    async with database.transaction() as connection:
        await connection.execute(queries("idempotency")["forget"])


async def forget_bodies(database: Database) -> None:
    """Delete the bodies of calls that are past their time. Raises Unavailable."""
    async with database.transaction() as connection:
        await connection.execute(queries("call_bodies")["forget"])


async def forget_audit(database: Database, *, days: int) -> None:
    """Delete what the audit log has kept for longer than so many days. Raises Unavailable."""
    async with database.transaction() as connection:
        await audit.forget(connection, days)


async def expire_memory(database: Database) -> None:
    """Delete what memory stores hold for longer than their `expire_after_days`, in batches. Raises Unavailable.

    Broken off, it goes on where it was; several may do it at once.
    """
    while True:
        async with database.transaction() as connection:
            if await memory_stores.expire(connection, _ROWS_AT_ONCE) is None:
                return


async def expire_files(database: Database) -> None:
    """Delete files that are past their `expires_at`, in batches. Raises Unavailable."""
    while True:
        async with database.transaction() as connection:
            if not await files.expire(connection, _FILES_AT_ONCE):
                return


async def forget_items(database: Database) -> None:
    """Delete items of memory stores that are past their time, in batches. Raises Unavailable."""
    while True:
        async with database.transaction() as connection:
            if await store_items.forget(connection, _ROWS_AT_ONCE) < _ROWS_AT_ONCE:
                return


async def expire_prompts(database: Database) -> None:
    """Delete what prompts of sessions began with that nobody has called for a day, in batches. Raises Unavailable."""
    while True:
        async with database.transaction() as connection:
            if await sessions.expire_prompts(connection, _ROWS_AT_ONCE) < _ROWS_AT_ONCE:
                return


async def expire_sessions(database: Database) -> None:
    """Delete sessions and events that are past the time that their agent or tenant keeps them, in batches.

    Broken off, the next run finds what is left; several may do it at once. Raises Unavailable.
    """
    async with database.transaction() as connection:
        tenants = await retentions.tenants(connection)
    for tenant_id in tenants:
        after: retentions.Position | None = None
        while True:
            async with database.transaction() as connection:
                after = await retentions.expire(connection, tenant_id, after, _SESSIONS_AT_ONCE)
            if after is None:
                break
    async with database.transaction() as connection:
        await retentions.drop_empty_events(connection)
