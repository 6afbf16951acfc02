"""Appends: the steps of one worker's sessions, saved together with those that wait at the same time.

A commit that notifies, as each of a step does, waits in Postgres until the one before it is on the disk. One statement
is under way at a time, and takes all that came meanwhile; so a step that is alone is not held up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from trunkline.store import steps
from trunkline.store.leases import LeaseLost
from trunkline.store.pool import Database
from trunkline.store.steps import Append, Outcome

TOGETHER: Final = 64
"""Steps of one statement: more of them would make the first wait for the last."""

_Waiting = tuple[Append, asyncio.Future[bool]]


class Appends:
    """The steps of one worker. Used on one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Waiting] = []
        self._sending: asyncio.Task[None] | None = None
        self._alone: set[asyncio.Task[None]] = set()

    async def append(self, append: Append) -> bool:
        """Save a step, or tell that the session's head is not the one it was made for: nothing is changed then.

        Raises LeaseLost when another has the session, Unavailable when the database is away: whether it was saved is
        unknown then.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((append, future))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await future

    async def _send(self) -> None:
        try:
            while self._waiting:
                now, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
                await self._together(now)
        finally:
            self._sending = None

    async def _together(self, waiting: Sequence[_Waiting]) -> None:
        """Save steps with one statement; what cannot be saved so is saved alone, and holds up no other."""
        try:
            async with self._database.statement() as connection:
                outcomes = await steps.append(connection, [append for append, _ in waiting], wait=False)
        except Exception:  # noqa: BLE001 (perhaps it is of one of them alone, and raised again there)
            outcomes = [Outcome.BUSY for _ in waiting]
        for (append, future), outcome in zip(waiting, outcomes, strict=True):
            if outcome is not Outcome.BUSY:
                _tell(future, outcome)
                continue
            alone = asyncio.create_task(self._by_itself(append, future))
            self._alone.add(alone)
            alone.add_done_callback(self._alone.discard)

    async def _by_itself(self, append: Append, future: asyncio.Future[bool]) -> None:
        try:
            async with self._database.statement() as connection:
                [outcome] = await steps.append(connection, [append], wait=True)
        except Exception as error:  # noqa: BLE001 (it is the caller's)
            if not future.done():
                future.set_exception(error)
        else:
            _tell(future, outcome)


def _tell(future: asyncio.Future[bool], outcome: Outcome) -> None:
    if future.done():  # the turn was ended meanwhile
        return
    if outcome is Outcome.LOST:
        future.set_exception(LeaseLost())
    else:
        future.set_result(outcome is Outcome.SAVED)
