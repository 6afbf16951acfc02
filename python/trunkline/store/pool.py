"""Connections to Postgres for the Python side: a pool whose unit is one transaction of one tenant."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from trunkline.errors import Unavailable
from trunkline.store.queries import queries

Connection = AsyncConnection[DictRow]
"""A connection with `$1` parameters whose rows are dictionaries by column name."""

Pool = AsyncConnectionPool[Connection]

_IDLE_SECONDS = 60.0
"""After this, connections beyond the first that nobody used are closed: others may have none left to open."""


class Database:
    """A pool of connections of the control plane's role.

    Outside `tenant` row level security hides every row; `transaction` is for functions that look across tenants on
    purpose (finding a key by its hash) and for the operator's work.
    """

    def __init__(self, pool: Pool, *, asleep_s: int | None = None) -> None:
        self._pool = pool
        self._asleep_s = asleep_s

    @asynccontextmanager
    async def tenant(self, tenant_id: UUID) -> AsyncIterator[Connection]:
        """Open one transaction that sees and writes the rows of this tenant alone.

        It commits at the end and rolls back on an error. Raises Unavailable when Postgres is away, or gave the
        transaction up in favour of another.
        """
        async with self.transaction() as connection:
            if self._asleep_s is None:
                await connection.execute(queries("pool")["set_tenant"], (str(tenant_id),))
            else:
                given = (str(tenant_id), f"{self._asleep_s}s")
                await connection.execute(queries("pool")["set_tenant_while_awake"], given)
            yield connection

    @asynccontextmanager
    async def snapshot(self, tenant_id: UUID) -> AsyncIterator[Connection]:
        """Open one transaction of this tenant that reads what stands at its beginning, and cannot write."""
        async with self.transaction() as connection:
            await connection.execute(queries("pool")["begin_snapshot"])
            await connection.execute(queries("pool")["set_tenant"], (str(tenant_id),))
            yield connection

    @asynccontextmanager
    async def transaction(self, *, pipelined: bool = False) -> AsyncIterator[Connection]:
        """Open one transaction without a tenant; commit at the end, roll back on error. Raises Unavailable.

        `pipelined`: statements are sent without waiting for the ones before, until a result is fetched; so `begin` goes
        with the first and `commit` with the last. An error of a statement that nothing was fetched of is raised by the
        next fetch or at the end, and nothing may be tried again within (no savepoints).
        """
        async with (
            self.statement() as connection,
            connection.pipeline() if pipelined else nullcontext(),
            connection.transaction(),
        ):
            yield connection

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """Open a connection for a statement that is a transaction by itself, and says whose it is. Raises Unavailable.

        It saves the round trips of `begin` and `commit`.
        """
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (PoolTimeout, PoolClosed) as error:
            raise Unavailable("The database has no free connection; try again in a moment.") from error
        except (psycopg.OperationalError, psycopg.errors.IdleInTransactionSessionTimeout) as error:
            raise Unavailable("The database is not reachable or gave up this transaction; try again.") from error


@asynccontextmanager
async def open_database(
    conninfo: str, *, min_size: int = 1, max_size: int = 8, timeout_s: float = 5.0, asleep_s: int | None = None
) -> AsyncIterator[Database]:
    """Open a pool on a connection string or URL and close it at the end.

    `asleep_s`: a tenant's transaction that this process leaves alone for so long is rolled back, locks and all; so one
    that is frozen keeps nobody from anything. Not for those that wait for others in the middle, as requests do.

    The pool connects in the background and again after every loss, so this succeeds while Postgres is still away.
    Nothing is kept on a connection between transactions, prepared statements included: a pooler in transaction mode may
    stand between.
    """
    settings: dict[str, Any] = {
        "autocommit": True,
        "cursor_factory": AsyncRawCursor,
        "row_factory": dict_row,
        "prepare_threshold": None,
        "fallback_application_name": "trunkline",
    }
    pool = AsyncConnectionPool(
        conninfo,
        connection_class=AsyncConnection[DictRow],
        kwargs=settings,
        min_size=min_size,
        max_size=max_size,
        timeout=timeout_s,
        max_idle=_IDLE_SECONDS,
        check=_refuse_lost,
        name="trunkline",
        open=False,
    )
    async with pool:
        yield Database(pool, asleep_s=asleep_s)


async def give_up_after(connection: Connection, milliseconds: int) -> None:
    """Wait in this transaction for no lock longer than so long; what then fails is a `LockNotAvailable`."""
    await connection.execute(queries("pool")["give_up_after"], (f"{milliseconds}ms",))


async def _refuse_lost(connection: Connection) -> None:
    """Raise OperationalError for a connection that the server closed while it was idle, as a restart does.

    The pool then gives another one. One poll of the socket and no round trip: on an idle connection a server has
    nothing to say but its goodbye.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        await connection.close()
        raise psycopg.OperationalError("The server closed this connection while it was idle.")
