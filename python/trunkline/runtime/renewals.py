"""Renewals of leases: those of all sessions of one worker that are due at about the same time are one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from trunkline.errors import Unavailable
from trunkline.store import leases
from trunkline.store.leases import Lease, LeaseLost
from trunkline.store.pool import Database

TOGETHER_SECONDS: Final = 0.05


class Renewals:
    """The renewals of one worker. Used on one event loop."""

    def __init__(self, database: Database, *, seconds: float) -> None:
        self._database = database
        self._seconds = seconds
        self._waiting: dict[Lease, tuple[int, asyncio.Future[bool]]] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def renew(self, lease: Lease, *, since: int) -> bool:
        """Hold a session some seconds more; tell whether the user has interrupted it after event number `since`.

        Raises LeaseLost when another has it, Unavailable when the database is away.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            sending = asyncio.create_task(self._send())
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
        self._waiting[lease] = (since, future)
        return await future

    async def _send(self) -> None:
        await asyncio.sleep(TOGETHER_SECONDS)
        waiting, self._waiting = self._waiting, {}
        try:
            async with self._database.statement() as connection:
                since = {lease: number for lease, (number, _) in waiting.items()}
                renewed = await leases.renew_all(connection, since, seconds=self._seconds)
        except Unavailable as error:
            _fail(waiting, error)
        except Exception as error:
            _fail(waiting, error)
            raise
        else:
            for lease, (_, future) in waiting.items():
                if future.done():  # the turn has ended meanwhile
                    continue
                if lease in renewed:
                    future.set_result(renewed[lease])
                else:
                    future.set_exception(LeaseLost())


def _fail(waiting: Mapping[Lease, tuple[int, asyncio.Future[bool]]], error: Exception) -> None:
    for _, future in waiting.values():
        if not future.done():
            future.set_exception(error)
