"""Partitions of the tables that grow with time, made ahead of it."""

from __future__ import annotations

from trunkline.store.pool import Database
from trunkline.store.queries import queries


async def ensure(database: Database) -> None:
    """Make the partitions of the coming months that are not there yet. Raises Unavailable."""
    async with database.transaction() as connection:
        await connection.execute(queries("migrate")["ensure_partitions"])
