"""Who waits for the events of which session, and one connection that hears of new ones.

NOTIFY is a hint: whoever is woken reads the log again. What a lost hint would hide is found by a look at the heads of
all awaited sessions every few seconds, one statement a tenant.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Final
from uuid import UUID

import psycopg

from trunkline.errors import Unavailable
from trunkline.store import sessions
from trunkline.store.pool import Database
from trunkline.store.queries import queries

_logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 3.0
_RETRY_SECONDS: Final = 0.5


class Waiter:
    """One stream that waits for events of one session. `seen` is the number of the last event it has sent."""

    def __init__(self, tenant_id: UUID, session_id: UUID, seen: int) -> None:
        self.tenant_id = tenant_id
        self.session_id = session_id
        self.seen = seen
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Let `wait` return: there may be news."""
        self._news.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for news, at most this long; tell whether there may be any."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True


class EventFeed:
    """The streams of one process. Used on one event loop."""

    def __init__(self, conninfo: str, database: Database) -> None:
        self._conninfo = conninfo
        self._database = database
        self._waiters: dict[UUID, set[Waiter]] = defaultdict(set)
        self.closing = False

    @contextlib.contextmanager
    def waiting(self, tenant_id: UUID, session_id: UUID, seen: int) -> Iterator[Waiter]:
        """Wait for the events of a session after number `seen`, as long as the block runs."""
        waiter = Waiter(tenant_id, session_id, seen)
        self._waiters[session_id].add(waiter)
        try:
            yield waiter
        finally:
            others = self._waiters[session_id]
            others.discard(waiter)
            if not others:
                del self._waiters[session_id]

    def close(self) -> None:
        """Let every stream come to its end: the process is about to stop."""
        self.closing = True
        self._wake_all()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen and look for new events as long as the block runs."""
        async with asyncio.TaskGroup() as tasks:
            work = [tasks.create_task(self._listen()), tasks.create_task(self._look())]
            try:
                yield
            finally:
                for task in work:
                    task.cancel()

    async def _listen(self) -> None:
        """Keep one connection that listens, and wake those whom a notification concerns."""
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True, fallback_application_name="trunkline events"
                )
                async with connection:
                    await connection.execute(queries("events")["listen"])
                    self._wake_all()  # what came while nobody listened
                    async for notification in connection.notifies():
                        with contextlib.suppress(ValueError):
                            for waiter in self._waiters.get(UUID(notification.payload), ()):
                                waiter.wake()
            except psycopg.OperationalError as error:
                _logger.info("listening for events again after: %s", type(error).__name__)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _look(self) -> None:
        """Every few seconds compare what the streams have sent with the heads of their sessions."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            awaited: dict[UUID, set[UUID]] = defaultdict(set)
            for session_id, waiters in self._waiters.items():
                for waiter in waiters:
                    awaited[waiter.tenant_id].add(session_id)
            for tenant_id, session_ids in awaited.items():
                try:
                    async with self._database.tenant(tenant_id) as connection:
                        heads = await sessions.heads(connection, tenant_id, list(session_ids))
                except (Unavailable, psycopg.Error) as error:
                    _logger.info("looking for events again after: %s", type(error).__name__)
                    continue
                for session_id in session_ids:
                    for waiter in self._waiters.get(session_id, ()):
                        if heads.get(session_id) != waiter.seen:
                            waiter.wake()

    def _wake_all(self) -> None:
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.wake()
