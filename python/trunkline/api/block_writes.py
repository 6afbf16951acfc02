"""Writes of blocks over the API: those that come while others are under way go together in the next transaction.

A transaction costs nearly as much for one write as for ten: its beginning, the key, the agent, the round trips, the
commit and its flush to disk. So the writes of one key to one agent wait for each other, never for a clock: one that
comes alone is carried out at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import psycopg
from fastapi import Depends, Request
from psycopg.errors import DeadlockDetected, LockNotAvailable, QueryCanceled, SerializationFailure

from trunkline.api.deps import Caller, calling
from trunkline.api.memory_caller import actor, subject
from trunkline.domain.memory import Source
from trunkline.errors import TrunklineError, Unavailable
from trunkline.memory.operations import Operation
from trunkline.memory.reads import BlockState
from trunkline.memory.writes import BlockWrite, apply_all
from trunkline.store import pool
from trunkline.store.pool import Database

AT_ONCE: Final = 2
"""Transactions at once of one key and agent, those that are held up aside.

Postgres works on one while the next is made up.
"""

MAX_TOGETHER: Final = 64
"""Writes in one transaction: so many blocks are locked, and so much is done again, at most, when it fails."""

PATIENCE_MS: Final = 200
"""A transaction that takes longer is held up, by whoever holds a block for long.

The next ones do not wait for it any more, and the writes that share it are each tried alone.
"""

_GIVEN_UP = (DeadlockDetected, LockNotAvailable, QueryCanceled, SerializationFailure)


@dataclass(frozen=True, slots=True)
class AskedWrite:
    """Operations on blocks of one subject, as a client sent them."""

    operations: Sequence[Operation]
    user_id: str | None
    session_id: str | None
    request_id: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    write: AskedWrite
    outcome: asyncio.Future[list[BlockState]]


@dataclass(slots=True)
class _Line:
    waiting: list[_Waiting] = field(default_factory=list)
    under_way: int = 0
    """Transactions that the next ones wait for."""


class BlockWrites:
    """Carries out writes of blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lines: dict[tuple[str, str], _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def write(self, key: str, agent: str, write: AskedWrite) -> list[BlockState]:
        """Carry out a write for the holder of a key; it is committed when this returns.

        Returns and raises what `memory.writes.apply_operations` does, and Unauthenticated, Forbidden and Unavailable.
        """
        line = self._lines.setdefault((key, agent), _Line())
        waiting = _Waiting(write, asyncio.get_running_loop().create_future())
        line.waiting.append(waiting)
        self._go_on(key, agent, line)
        return await waiting.outcome

    def _go_on(self, key: str, agent: str, line: _Line) -> None:
        if line.waiting and line.under_way < AT_ONCE:
            line.under_way += 1
            task = asyncio.create_task(self._serve(key, agent, line))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif not line.waiting and not line.under_way:
            del self._lines[key, agent]

    async def _serve(self, key: str, agent: str, line: _Line) -> None:
        waited_for = True

        def let_others_go() -> None:
            nonlocal waited_for
            if waited_for:
                waited_for = False
                line.under_way -= 1
                self._go_on(key, agent, line)

        together = line.waiting[:MAX_TOGETHER]
        del line.waiting[:MAX_TOGETHER]
        timer = asyncio.get_running_loop().call_later(PATIENCE_MS / 1000, let_others_go)
        try:
            if together:
                await self._settle(key, agent, together)
        finally:
            timer.cancel()
            let_others_go()

    async def _settle(self, key: str, agent: str, together: list[_Waiting]) -> None:
        """Carry out writes in one transaction, or, where that failed for what one of them met, each in its own."""
        try:
            outcomes = await self._attempt(key, agent, [waiting.write for waiting in together])
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            if len(together) > 1 and _undone(error):
                await asyncio.gather(*(self._settle(key, agent, [waiting]) for waiting in together))
                return
            outcomes = [error] * len(together)
        for waiting, outcome in zip(together, outcomes, strict=True):
            if waiting.outcome.done():
                continue
            if isinstance(outcome, Exception):
                waiting.outcome.set_exception(outcome)
            else:
                waiting.outcome.set_result(outcome)

    async def _attempt(
        self, key: str, agent: str, writes: Sequence[AskedWrite]
    ) -> Sequence[list[BlockState] | Exception]:
        outcomes: list[list[BlockState] | TrunklineError] = []
        # What is made for several is nobody's request. (Blocks and the stores that they make are not in the audit log.)
        request_id = writes[0].request_id if len(writes) == 1 else None
        async with calling(self._database, key, "memory", request_id, pipelined=True) as caller:
            if len(writes) > 1:
                await pool.give_up_after(caller.connection, PATIENCE_MS)
            outcomes = await _apply(caller, agent, writes)
            _roll_back_if_refused(outcomes)
        return outcomes


def _roll_back_if_refused(outcomes: Sequence[list[BlockState] | TrunklineError]) -> None:
    """Where nothing is written, end the transaction by a rollback: the stores that were made for it go with it."""
    if all(isinstance(outcome, TrunklineError) for outcome in outcomes):
        raise psycopg.Rollback


async def _apply(caller: Caller, agent: str, writes: Sequence[AskedWrite]) -> list[list[BlockState] | TrunklineError]:
    given: list[BlockWrite | TrunklineError] = []
    by = actor(caller)
    for write in writes:
        try:
            who = subject(caller.principal, write.user_id, write.session_id)
        except TrunklineError as error:
            given.append(error)
        else:
            given.append(BlockWrite(write.operations, who, by, Source(session_id=who.session_id)))
    sound = [write for write in given if isinstance(write, BlockWrite)]
    applied = iter(await apply_all(caller.connection, caller.principal, agent, sound) if sound else ())
    return [next(applied) if isinstance(write, BlockWrite) else write for write in given]


def _undone(error: Exception) -> bool:
    """Tell whether a transaction was surely rolled back, for a reason that need not concern all of its writes.

    A key that is refused concerns all. After a lost connection nobody knows whether the transaction was committed.
    """
    if isinstance(error, Unavailable):
        return error.__cause__ is None or isinstance(error.__cause__, _GIVEN_UP)
    return not isinstance(error, TrunklineError | psycopg.InterfaceError)


async def _block_writes(request: Request) -> BlockWrites:
    found = request.app.state.block_writes
    if not isinstance(found, BlockWrites):
        raise TypeError("the app has not been started")
    return found


BlockWritesDependency = Annotated[BlockWrites, Depends(_block_writes)]
