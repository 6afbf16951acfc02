"""Leases and waking: one holder a session, by the fence, and no session left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from support.control_plane import ControlPlane
from support.postgres import DatabaseUrls
from support.stack import eventually
from trunkline.domain import ids
from trunkline.domain.times import now
from trunkline.runtime.renewals import Renewals
from trunkline.scheduling import partitions
from trunkline.store import leases, workers
from trunkline.store.leases import Lease, LeaseLost
from trunkline.store.pool import Database, open_database


@pytest.fixture
async def pool(database: DatabaseUrls) -> AsyncIterator[Database]:
    async with open_database(database.control_url) as opened:
        yield opened


@pytest.fixture
def session(control: ControlPlane, database: DatabaseUrls) -> tuple[UUID, UUID]:
    """The tenant and id of a session that runs, and of which nobody has been told."""
    sdk = control.sdk()
    agent = sdk.beta.agents.create(name="a", model="m")
    created = sdk.beta.sessions.create(agent=agent.id, environment_id="default")
    sdk.beta.sessions.events.send(
        created.id, events=[{"type": "user.message", "content": [{"type": "text", "text": "hi"}]}]
    )
    with psycopg.connect(database.admin_url) as connection:
        row = connection.execute("select id from trunkline.tenants where name = 'default'").fetchone()
    assert row is not None
    return row[0], ids.decode("sesn", created.id)


async def claim(pool: Database, session: tuple[UUID, UUID], *, seconds: float) -> Lease | None:
    async with pool.tenant(session[0]) as connection:
        return await leases.claim(connection, *session, owner="test", seconds=seconds)


async def hold(pool: Database, session: tuple[UUID, UUID], *, seconds: float) -> Lease:
    lease = await claim(pool, session, seconds=seconds)
    assert lease is not None
    return lease


def jobs(database: DatabaseUrls) -> list[dict[str, object]]:
    with psycopg.connect(database.admin_url, row_factory=dict_row) as connection:
        return connection.execute(
            "select queueing_lock, args, status from trunkline_queue.procrastinate_jobs order by id"
        ).fetchall()


async def test_one_of_many_gets_a_session(pool: Database, session: tuple[UUID, UUID]) -> None:
    claims = await asyncio.gather(*(claim(pool, session, seconds=60) for _ in range(8)))
    assert len([lease for lease in claims if lease is not None]) == 1


async def test_a_lease_that_ran_out_is_anothers_and_its_former_holder_is_kept_out(
    pool: Database, session: tuple[UUID, UUID]
) -> None:
    former = await hold(pool, session, seconds=0)
    async with pool.tenant(session[0]) as connection:
        await leases.lock(connection, former)  # nobody else has it yet: what was worked out can still be saved
    latter = await hold(pool, session, seconds=60)
    assert latter.fence > former.fence
    async with pool.tenant(session[0]) as connection:
        with pytest.raises(LeaseLost):
            await leases.lock(connection, former)
        assert await leases.renew_all(connection, {former: 0, latter: 0}, seconds=60) == {latter: False}
        assert await leases.renew_all(connection, {former: 0}, seconds=60) == {}
        await leases.release(connection, former)  # changes nothing
        assert (await leases.lock(connection, latter)).status == "running"


async def test_a_released_session_can_be_had_at_once(pool: Database, session: tuple[UUID, UUID]) -> None:
    lease = await hold(pool, session, seconds=60)
    async with pool.tenant(session[0]) as connection:
        await leases.release(connection, lease)
        assert await leases.renew_all(connection, {lease: 0}, seconds=60) == {}
    assert await claim(pool, session, seconds=60) is not None


async def test_another_tenant_cannot_claim_a_session(pool: Database, session: tuple[UUID, UUID]) -> None:
    other = ids.new()
    async with pool.tenant(other) as connection:
        assert await leases.claim(connection, session[0], session[1], owner="test", seconds=60) is None
        assert await leases.claim(connection, other, session[1], owner="test", seconds=60) is None


async def test_one_job_waits_for_a_session_however_often_it_is_woken(
    pool: Database, session: tuple[UUID, UUID], database: DatabaseUrls
) -> None:
    for _ in range(2):
        async with pool.tenant(session[0]) as connection:
            await leases.wake(connection, *session)
            await leases.wake(connection, *session)
    [job] = jobs(database)
    assert job["queueing_lock"] == str(session[1])
    assert job["args"] == {"tenant": str(session[0]), "session": str(session[1])}


async def test_a_job_is_there_if_and_only_if_its_transaction_was_committed(
    pool: Database, session: tuple[UUID, UUID], database: DatabaseUrls
) -> None:
    async with pool.tenant(session[0]) as connection:
        await leases.wake(connection, *session)
        raise psycopg.Rollback
    assert jobs(database) == []


async def test_running_sessions_without_a_holder_are_found_whoever_they_belong_to(
    pool: Database, session: tuple[UUID, UUID], database: DatabaseUrls
) -> None:
    async def found() -> int:
        async with pool.transaction() as connection:
            return await leases.wake_abandoned(connection, 10)

    lease = await hold(pool, session, seconds=60)
    assert await found() == 0
    async with pool.tenant(session[0]) as connection:
        await leases.renew_all(connection, {lease: 0}, seconds=0)
    assert await found() == 1
    assert await found() == 0  # a job waits already
    assert len(jobs(database)) == 1


async def test_what_a_worker_held_is_free_once_the_connection_that_it_lives_by_is_gone(
    pool: Database, session: tuple[UUID, UUID], database: DatabaseUrls
) -> None:
    living = asyncio.create_task(workers.hold(database.control_url, pool, "test", now()))
    try:
        await asyncio.to_thread(eventually, lambda: known(database))
        former = await hold(pool, session, seconds=60)
        async with pool.transaction() as connection:
            assert await workers.gone(connection) == set()
    finally:
        living.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await living
    await asyncio.to_thread(eventually, lambda: not held(database))
    async with pool.transaction() as connection:
        assert await workers.gone(connection) == {"test"}
        await workers.forget(connection, ["test"])
        assert await workers.gone(connection) == set()
        assert await leases.wake_abandoned(connection, 10) == 1
    assert (await hold(pool, session, seconds=60)).fence > former.fence


def held(database: DatabaseUrls) -> bool:
    with psycopg.connect(database.admin_url) as connection:
        found = connection.execute(
            "select from pg_locks where locktype = 'advisory' and database = (select oid from pg_database"
            " where datname = current_database())"
        )
        return found.fetchone() is not None


def known(database: DatabaseUrls) -> bool:
    with psycopg.connect(database.admin_url) as connection:
        return connection.execute("select from trunkline.workers").fetchone() is not None


async def test_renewals_that_are_due_together_are_one_and_tell_of_interrupts(
    pool: Database, session: tuple[UUID, UUID], control: ControlPlane
) -> None:
    lease = await hold(pool, session, seconds=60)
    lost = Lease(lease.tenant_id, lease.session_id, lease.fence - 1)
    renewals = Renewals(pool, seconds=60)
    renewed = await asyncio.gather(
        renewals.renew(lease, since=0), renewals.renew(lost, since=0), return_exceptions=True
    )
    assert renewed[0] is False
    assert isinstance(renewed[1], LeaseLost)
    control.sdk().beta.sessions.events.send(ids.encode("sesn", session[1]), events=[{"type": "user.interrupt"}])
    assert await renewals.renew(lease, since=0) is True
    assert await renewals.renew(lease, since=100) is False


async def test_partitions_are_made_ahead(pool: Database, database: DatabaseUrls) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        gone = connection.execute(
            "select max(inhrelid::regclass::text) from pg_inherits"
            " where inhparent = 'trunkline.usage'::regclass and inhrelid::regclass::text ~ '20'"
        ).fetchone()
        assert gone is not None
        connection.execute(f"drop table {gone[0]}")
        await partitions.ensure(pool)
        assert connection.execute("select to_regclass(%s)", gone).fetchone() != (None,)
