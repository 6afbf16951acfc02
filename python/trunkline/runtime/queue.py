"""The queue: procrastinate's, in its own schema. It tells one of all workers when a daily task is due.

No job is retried, and none is kept: what one has left undone the next day's does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from trunkline.store.queue_schema import SCHEMA

_logger = logging.getLogger(__name__)

_DAY_SECONDS: Final = 86_400
_IDLE_SECONDS: Final = 60.0
"""After this, connections that nobody used are closed: others may have none left to open."""
_AT_ONCE: Final = 4
"""Tasks at once."""
_DEAD_SECONDS: Final = 3600
"""A job whose worker has been silent this long will never end by itself."""


class Queue:
    """The jobs of one worker process. `conninfo` logs in as, or sets, the role `trunkline_control`."""

    def __init__(self, conninfo: str) -> None:
        self._app = App(
            connector=PsycopgConnector(conninfo=_in_schema(conninfo), min_size=1, max_size=2, max_idle=_IDLE_SECONDS),
            # A worker that was off at the hour of a daily task does it when it starts.
            periodic_defaults={"max_delay": _DAY_SECONDS},
        )
        self.daily("forget_dead_jobs", self._forget_dead_jobs)

    def daily(self, name: str, act: Callable[[], Awaitable[None]]) -> None:
        """Call `act` once a day, in one of all workers."""

        async def run(timestamp: int) -> None:  # noqa: ARG001 (procrastinate tells when it was due)
            await act()

        self._app.periodic(cron="0 3 * * *")(self._app.task(name=name, queue="daily")(run))

    async def run(self, *, drain_seconds: float) -> None:
        """Take jobs until cancelled; then, or when the database is lost, let those under way end, and cut off the rest.

        Returns, or raises whatever the database said, when the database is lost.
        """
        async with self._app.open_async():
            await self._app.run_worker_async(
                concurrency=_AT_ONCE,
                shutdown_graceful_timeout=drain_seconds,
                delete_jobs="always",
                install_signal_handlers=False,
            )

    async def _forget_dead_jobs(self) -> None:
        """Delete the jobs that killed workers have left."""
        for job in await self._app.job_manager.get_stalled_jobs(seconds_since_heartbeat=_DEAD_SECONDS):
            if job.id is not None:
                await self._app.job_manager.finish_job_by_id_async(job.id, Status.FAILED, delete_job=True)


def _in_schema(conninfo: str) -> str:
    """Return the address with procrastinate's schema as what unqualified names mean."""
    options = conninfo_to_dict(conninfo).get("options")
    return make_conninfo(conninfo, options=f"{options or ''} -c search_path={SCHEMA}".strip())
