"""The worker: takes sessions, carries out their turns, and looks after what others have left undone.

That is sessions whose worker is gone, and passages that are not in recall's index yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import httpx
import uvloop

from trunkline.domain import ids
from trunkline.domain.times import now
from trunkline.errors import Unavailable
from trunkline.memory import embedding
from trunkline.memory.embedders.gateway import GatewayEmbedder
from trunkline.memory_settings import Embedder as EmbedderSettings
from trunkline.runtime.appends import Appends
from trunkline.runtime.claims import Claims
from trunkline.runtime.consolidation import Consolidator
from trunkline.runtime.credentials import Credentials
from trunkline.runtime.loop import LEASE_SECONDS, Runtime, work
from trunkline.runtime.model import open_model
from trunkline.runtime.queue import Queue
from trunkline.runtime.renewals import Renewals
from trunkline.runtime.tools.toolbox import Tools
from trunkline.store import leases, passages, workers
from trunkline.store.pool import Database, open_database

_logger = logging.getLogger(__name__)

CONCURRENCY: Final = 500
"""Sessions at once in one process."""
LOOK_SECONDS: Final = 1.0
"""How often to look for what is due."""
GONE_SECONDS: Final = 0.5
"""How often to look for sessions whose worker is gone, and how long one may lack the connection that it lives by."""
DRAIN_SECONDS: Final = 5.0
"""How long turns may go on when the worker is to stop; the rest is another worker's."""
ASLEEP_SECONDS: Final = 4
"""A worker that is frozen within a transaction holds what that has locked for so long: as long as its sessions."""
EMBED_SECONDS: Final = 45.0
"""How long one request for embeddings may take: less than their passages are taken for."""
_AGAIN_SECONDS: Final = 1.0
_KNOWN_AGAIN_SECONDS: Final = 0.1

DailyTask = Callable[[Database], Awaitable[None]]
Tick = Callable[[Database], Awaitable[bool]]
"""Called about every second; at once again where it says that there may be more to do."""


def run(
    database: str,
    base_url: str,
    tools: Tools,
    *,
    on_loss: Callable[[Callable[[], None]], None] | None = None,
    daily: Mapping[str, DailyTask] | None = None,
    ticks: Sequence[Tick] = (),
    embedder: EmbedderSettings | None = None,
) -> None:
    """Work until SIGTERM or SIGINT, then drain.

    `database` logs in as, or sets, the role `trunkline_control`; `base_url` is the gateway that model calls go through;
    `tools` are those that are carried out here; `on_loss` is given what to call when whoever started this process is
    gone; `daily` are tasks by name; `ticks` are called about every second; `embedder` is what passages are embedded by,
    through the gateway.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(database, base_url, tools, on_loss, daily=daily or {}, ticks=ticks, embedder=embedder))


async def _run(
    conninfo: str,
    base_url: str,
    tools: Tools,
    on_loss: Callable[[Callable[[], None]], None] | None,
    *,
    daily: Mapping[str, DailyTask],
    ticks: Sequence[Tick],
    embedder: EmbedderSettings | None,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    if on_loss is not None:
        on_loss(lambda: _stop(loop, stop))
    async with open_database(conninfo, asleep_s=ASLEEP_SECONDS) as database:
        await serve(conninfo, database, base_url, tools, stop=stop, daily=daily, ticks=ticks, embedder=embedder)


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    loop.call_soon_threadsafe(stop.set)


async def serve(
    conninfo: str,
    database: Database,
    base_url: str,
    tools: Tools,
    *,
    stop: asyncio.Event,
    daily: Mapping[str, DailyTask],
    ticks: Sequence[Tick] = (),
    embedder: EmbedderSettings | None = None,
) -> None:
    """Work until `stop` is set, then drain and revoke the worker's keys."""
    credentials = Credentials(database)
    queue = Queue(conninfo)
    for name, task in daily.items():
        queue.daily(name, partial(task, database))
    async with open_model(base_url, credentials) as model:
        name = f"{socket.gethostname()}:{os.getpid()}:{ids.new().hex[-8:]}"
        runtime = Runtime(database, model, tools, Renewals(database, seconds=LEASE_SECONDS), Appends(database))
        claims = Claims(
            conninfo, database, partial(work, runtime), owner=name, seconds=LEASE_SECONDS, at_once=CONCURRENCY
        )
        living = asyncio.create_task(_live(conninfo, database, name))
        looking = asyncio.create_task(_look(database))
        sweeping = asyncio.create_task(tools.sweep(database))
        folding = asyncio.create_task(_fold(database))
        ticking = [
            asyncio.create_task(_tick(database, tick)) for tick in (*ticks, Consolidator(model, name).consolidate_due)
        ]
        claiming = asyncio.create_task(claims.run())
        working = asyncio.create_task(_work(queue))
        embeds = asyncio.create_task(_embed(database, credentials, base_url, embedder))
        await stop.wait()
        embeds.cancel()
        looking.cancel()
        sweeping.cancel()
        folding.cancel()
        for one in ticking:
            one.cancel()
        claiming.cancel()
        working.cancel()
        await claims.drain(DRAIN_SECONDS)
        with contextlib.suppress(asyncio.CancelledError):
            await working
        await tools.close()
        living.cancel()
        with contextlib.suppress(Unavailable):
            async with database.transaction() as connection:
                await workers.forget(connection, [name])
    await credentials.revoke()


async def _work(queue: Queue) -> None:
    """Do what is due once a day, again whenever the database was lost."""
    while True:
        try:
            await queue.run(drain_seconds=DRAIN_SECONDS)
        except Exception as error:  # noqa: BLE001 (a worker outlives whatever its queue meets)
            _logger.warning("the queue is lost, trying again: %s: %s", type(error).__name__, error)
        await asyncio.sleep(_AGAIN_SECONDS)


async def _embed(
    database: Database, credentials: Credentials, base_url: str, settings: EmbedderSettings | None
) -> None:
    """Embed what is written, as long as there is an embedder."""
    if settings is None:
        await embedding.configure(database, None)
        return
    async with httpx.AsyncClient(base_url=base_url, timeout=EMBED_SECONDS, trust_env=False) as http:
        embedder = GatewayEmbedder(http, credentials, settings.name, settings.dimension)
        while True:
            try:
                await embedding.run(database, embedder, batch=settings.batch)
            except Exception:  # (a worker outlives whatever its embedder meets)
                _logger.exception("embedding is begun again")
            await asyncio.sleep(_AGAIN_SECONDS)


async def _live(conninfo: str, database: Database, name: str) -> None:
    """Be known as a worker that lives."""
    while True:
        try:
            await workers.hold(conninfo, database, name, now())
        except Unavailable as error:
            _logger.info("being known again after: %s", error)
        await asyncio.sleep(_KNOWN_AGAIN_SECONDS)


async def _look(database: Database) -> None:
    """Free the sessions of workers that are gone."""
    suspects: set[str] = set()
    while True:
        try:
            async with database.transaction() as connection:
                gone = await workers.gone(connection)
                if gone & suspects:  # one that has only lost its connection has another by now
                    await workers.forget(connection, gone & suspects)
                    await leases.wake(connection)
                suspects = gone
        except Unavailable as error:
            _logger.info("looking for workers that are gone again after: %s", error)
        await asyncio.sleep(GONE_SECONDS)


async def _tick(database: Database, tick: Tick) -> None:
    """Do what is due, again and again."""
    while True:
        try:
            while await tick(database):
                pass
        except Unavailable as error:
            _logger.info("looking for what is due again after: %s", error)
        except Exception:  # (a worker outlives whatever it finds)
            _logger.exception("looking for what is due is begun again")
        await asyncio.sleep(LOOK_SECONDS)


async def _fold(database: Database) -> None:
    """Fold what was written into recall's index: searches find it before, but take longer the more of it there is."""
    while True:
        try:
            folded = 1
            while folded:
                async with database.transaction() as connection:
                    folded = await passages.fold_tail(connection)
        except Unavailable as error:
            _logger.info("folding again after: %s", error)
        await asyncio.sleep(LOOK_SECONDS)
