"""Workers: who lives, so that what a dead one held is free at once.

A worker holds its name by an advisory lock of one open transaction: the lock ends with the connection, and that with
the process, whatever killed it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor

from trunkline.errors import Unavailable
from trunkline.store.pool import Connection, Database
from trunkline.store.queries import queries


async def hold(conninfo: str, database: Database, name: str, at: datetime) -> None:
    """Be known as a worker of this name, by a connection of its own, until cancelled. Raises Unavailable: lost."""
    try:
        async with await AsyncConnection.connect(
            conninfo, cursor_factory=AsyncRawCursor, fallback_application_name="trunkline worker"
        ) as connection:
            await connection.execute(queries("workers")["hold"], (name,))
            async with database.transaction() as other:
                await other.execute(queries("workers")["register"], (name, at))
            async for _ in connection.notifies():  # none come: this ends with the connection
                pass
    except psycopg.OperationalError as error:
        raise Unavailable("The connection that says that this worker lives was lost.") from error


async def gone(connection: Connection) -> set[str]:
    """Return the names of the workers whose processes are gone."""
    cursor = await connection.execute(queries("workers")["select_gone"])
    return {row["name"] for row in await cursor.fetchall()}


async def forget(connection: Connection, names: Iterable[str]) -> None:
    """Free the sessions, of any tenant, that these workers have held."""
    await connection.execute(queries("workers")["forget"], (list(names),))
