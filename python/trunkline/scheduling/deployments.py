"""Firing what is due: each time of a schedule once, however many workers look.

A look is one indexed query. Whoever finds a deployment due locks its row, looks again, and writes the runs, their
sessions and the next time in one transaction; the unique key of a run is what holds where everything else fails.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Final
from uuid import UUID

import psycopg

from trunkline.domain.deployments import Deployment, timed
from trunkline.domain.schedules import Cron, Once, jittered, times
from trunkline.domain.times import now
from trunkline.errors import Unavailable
from trunkline.store import deployments
from trunkline.store.deployment_runs import FOR_GOOD, refuse, run
from trunkline.store.leases import wake
from trunkline.store.pool import Connection, Database

_logger = logging.getLogger(__name__)

AT_ONCE: Final = 100
GRACE: Final = timedelta(seconds=60)
"""A run that starts later than this was missed, and `catch_up` decides."""
FAILURES: Final = 3
"""So many scheduled runs in a row that start no session pause a deployment."""
_QUEUE: Final = timedelta(seconds=5)
"""How soon a run that waits for the one before looks again."""
_AGAIN: Final = timedelta(seconds=60)
"""How soon a deployment is looked at again that could not be fired through a fault of ours."""
_MOST: Final = 10_000
"""Times looked at one by one; of a schedule with more of them, missed for days, the last day's are."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to do of a schedule at some moment."""

    runs: Sequence[datetime]
    missed: int
    """How many times are not made up for, and the last of them."""
    last_missed: datetime | None
    next_run_at: datetime | None


async def fire_due(database: Database, at: datetime | None = None) -> bool:
    """Fire up to `AT_ONCE` deployments that are due; tell whether there may be more. Raises Unavailable."""
    moment = at or now()
    async with database.transaction() as connection:
        found = await deployments.due(connection, moment, AT_ONCE)
    for tenant_id, deployment_id in found:
        try:
            async with database.tenant(tenant_id) as connection:
                await _fire(connection, tenant_id, deployment_id, moment)
        except Unavailable:
            raise
        except (psycopg.Error, ValueError, KeyError) as error:
            # Its message may hold what the deployment says.
            _logger.error("deployment %s could not be fired: %s", deployment_id, type(error).__name__)  # noqa: TRY400
            await _put_off(database, tenant_id, deployment_id, moment)
    return len(found) == AT_ONCE


async def _fire(connection: Connection, tenant_id: UUID, deployment_id: UUID, at: datetime) -> None:
    deployment = await deployments.lock_due(connection, tenant_id, deployment_id, at)
    schedule = None if deployment is None else deployment.plan
    if deployment is None or schedule is None or deployment.next_run_at is None:
        return
    overlap = schedule.overlap if isinstance(schedule, Cron) else "parallel"
    if overlap == "queue" and await deployments.is_working(connection, tenant_id, deployment_id):
        await deployments.update(connection, tenant_id, replace(deployment, due_at=at + _QUEUE))
        return
    plan = _planned(schedule, deployment, at)
    after = deployment
    if plan.last_missed is not None:
        await refuse(
            connection,
            tenant_id,
            deployment,
            plan.last_missed,
            kind="unknown_error",
            message=f"{plan.missed} runs up to this one were missed and are not made up for "
            f"(catch_up: {schedule.catch_up}).",
        )
    runs = plan.runs[:1] if overlap == "queue" else plan.runs
    for moment in runs:
        after = await _run(connection, tenant_id, after, moment, overlap)
        if after.status == "paused":
            break
    next_run_at = plan.runs[1] if overlap == "queue" and len(plan.runs) > 1 else plan.next_run_at
    await deployments.update(connection, tenant_id, timed(after, next_run_at))


async def _run(
    connection: Connection, tenant_id: UUID, deployment: Deployment, moment: datetime, overlap: str
) -> Deployment:
    """Run a deployment for one time of its schedule and return what it is then."""
    if overlap == "skip" and await deployments.is_working(connection, tenant_id, deployment.id):
        words = "The session of the run before was still at work (overlap: skip)."
        await refuse(connection, tenant_id, deployment, moment, kind="unknown_error", message=words)
        return deployment
    made = await run(connection, tenant_id, deployment, moment, wake)
    if made is None:
        return deployment
    if made.error is None:
        return replace(deployment, failures=0, last_run_at=made.created_at)
    kind, failures = made.error["type"], deployment.failures + 1
    if kind not in FOR_GOOD and failures < FAILURES:
        return replace(deployment, failures=failures)
    reason = {"type": "error", "error": {"type": kind if kind in FOR_GOOD else "unknown_error"}}
    return replace(deployment, failures=failures, status="paused", paused_reason=reason)


def _planned(schedule: Cron | Once, deployment: Deployment, at: datetime) -> _Plan:
    """Divide the times that are due into those that run and those that are said to be missed."""
    begin = deployment.next_run_at
    if begin is None:
        raise ValueError("a deployment that is due has no next time")
    late, coming = _late(schedule, deployment.id, begin - timedelta(microseconds=1), at)
    if coming is None and len(late) == _MOST:
        late, coming = _late(schedule, deployment.id, at - timedelta(days=1), at)
    fresh = [moment for moment in late if jittered(schedule, deployment.id, moment) > at - GRACE]
    match schedule.catch_up:
        case "skip":
            runs = fresh
        case "latest":
            runs = fresh or late[-1:]
        case "all":
            runs = late[-schedule.catch_up_limit :] if isinstance(schedule, Cron) else late
    missed = [moment for moment in late if moment not in runs]
    return _Plan(runs, len(missed), missed[-1] if missed else None, coming)


def _late(
    schedule: Cron | Once, deployment_id: UUID, after: datetime, at: datetime
) -> tuple[list[datetime], datetime | None]:
    """Return the times after `after` that are due, and the first that is not; at most `_MOST`."""
    late: list[datetime] = []
    for moment in islice(times(schedule, after), _MOST):
        if jittered(schedule, deployment_id, moment) > at:
            return late, moment
        late.append(moment)
    return late, None


async def _put_off(database: Database, tenant_id: UUID, deployment_id: UUID, at: datetime) -> None:
    async with database.tenant(tenant_id) as connection:
        deployment = await deployments.lock_due(connection, tenant_id, deployment_id, at)
        if deployment is not None:
            await deployments.update(connection, tenant_id, replace(deployment, due_at=at + _AGAIN))
