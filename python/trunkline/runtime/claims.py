"""Claims: taking the sessions that have something to do, as many as there is room for, and working on each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from trunkline.errors import Unavailable
from trunkline.store import leases
from trunkline.store.leases import Claim
from trunkline.store.pool import Database

_logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
"""How often to look where nothing was heard: a session whose lease ran out tells nobody."""
TOGETHER: Final = 16
"""Sessions taken by one statement: the first of them wait for the last, and other workers want some too."""
LONGEST_LOG: Final = 1_024
"""Events of the longest log that comes with a claim."""
_AGAIN_SECONDS: Final = 0.1


class Claims:
    """The sessions of one worker, at most `at_once`. `owner` names it in leases; `work` carries out a turn."""

    def __init__(
        self,
        conninfo: str,
        database: Database,
        work: Callable[[Claim], Awaitable[None]],
        *,
        owner: str,
        seconds: float,
        at_once: int,
    ) -> None:
        self._conninfo = conninfo
        self._database = database
        self._work = work
        self._owner = owner
        self._seconds = seconds
        self._at_once = at_once
        self._heard = asyncio.Event()
        self._turns: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take sessions until cancelled; the turns that were begun go on."""
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                self._heard.clear()
                room = min(TOGETHER, self._at_once - len(self._turns))
                if room == 0 or await self._take(room) < room:
                    await self._hear()
        finally:
            listening.cancel()

    async def drain(self, seconds: float) -> None:
        """Let the turns that were begun go on for so long, and end the rest, which is left to other workers."""
        if self._turns:
            await asyncio.wait(self._turns, timeout=seconds)
        for turn in self._turns:
            turn.cancel()
        await asyncio.gather(*self._turns, return_exceptions=True)

    async def _take(self, limit: int) -> int:
        """Take up to so many sessions and begin their turns; tell how many there were."""
        try:
            async with self._database.statement() as connection:
                claims = await leases.claim(
                    connection, owner=self._owner, seconds=self._seconds, limit=limit, log=LONGEST_LOG
                )
        except Unavailable as error:
            _logger.info("looking for sessions again after: %s", error)
            return 0
        for claim in claims:
            turn = asyncio.create_task(self._turn(claim))
            self._turns.add(turn)
            turn.add_done_callback(self._ended)
        return len(claims)

    async def _turn(self, claim: Claim) -> None:
        try:
            await self._work(claim)
        except Exception:  # (a worker outlives whatever happens in a turn)
            _logger.exception("the turn of session %s is left for later", claim.lease.session_id)

    def _ended(self, turn: asyncio.Task[None]) -> None:
        if len(self._turns) == self._at_once:
            self._heard.set()  # there is room again
        self._turns.discard(turn)

    async def _hear(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self._heard.wait()

    async def _listen(self) -> None:
        while True:
            try:
                async for _ in leases.wakings(self._conninfo):
                    self._heard.set()
            except Unavailable as error:
                _logger.info("listening for work again after: %s", error)
            await asyncio.sleep(_AGAIN_SECONDS)
