"""What a database needs before anything runs on it: this version's schema, and a first key."""

from __future__ import annotations

import asyncio

from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import dict_row

from trunkline.domain.keys import digest
from trunkline.processes.addresses import SCHEMA_OWNER, Addresses, as_role
from trunkline.processes.home import Home
from trunkline.store import keys
from trunkline.store.migrate import migrate


def prepare(addresses: Addresses, home: Home) -> bool:
    """Migrate, and see to it that the home has a key in force for this database; tell whether one was made.

    Raises SetupError.
    """
    migrate(addresses.owner, embedded=addresses.embedded)
    return asyncio.run(_ensure_key(as_role(addresses.owner, SCHEMA_OWNER), home))


async def _ensure_key(owner: str, home: Home) -> bool:
    connection = await AsyncConnection.connect(
        owner, autocommit=True, cursor_factory=AsyncRawCursor, row_factory=dict_row
    )
    async with connection:
        text = home.read_key()
        if text is not None:
            async with connection.transaction():
                if await keys.authenticate(connection, digest(text)) is not None:
                    return False
        home.write_key(await keys.bootstrap(connection))
        return True
