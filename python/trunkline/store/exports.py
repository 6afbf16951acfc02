"""Reading all of a store, row by row, without holding it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final, Literal
from uuid import UUID

from psycopg import AsyncRawServerCursor
from psycopg.rows import dict_row

from trunkline.store.pool import Connection
from trunkline.store.queries import queries

Kind = Literal["blocks", "versions", "memories", "passages"]

_ROWS_AT_ONCE: Final = 200
"""Rows fetched at once: of the largest memories, 20 MB."""


async def rows(connection: Connection, tenant_id: UUID, store_id: UUID, kind: Kind) -> AsyncGenerator[dict[str, Any]]:
    """Yield the rows of a kind in the order of a file, by a cursor of the server's."""
    async with AsyncRawServerCursor(connection, f"export_{kind}", row_factory=dict_row) as cursor:
        cursor.itersize = _ROWS_AT_ONCE
        await cursor.execute(queries("exports")[f"select_{kind}"], (tenant_id, store_id))
        async for row in cursor:
            yield row
