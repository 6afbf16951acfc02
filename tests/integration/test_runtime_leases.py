"""Leases and waking: one holder a session, by the fence, and no session left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import psycopg
import pytest

from support.control_plane import ControlPlane
from support.postgres import DatabaseUrls
from support.stack import eventually
from trunkline.domain import ids
from trunkline.domain.memory import StoreOwner
from trunkline.domain.times import now
from trunkline.errors import Unavailable
from trunkline.runtime.renewals import Renewals
from trunkline.scheduling import partitions
from trunkline.store import leases, steps, workers
from trunkline.store.events import NewEvent
from trunkline.store.leases import Claim, Lease, LeaseLost, Tokens
from trunkline.store.pool import Database, open_database
from trunkline.store.steps import Append, Outcome, Said, Step


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


async def claim(pool: Database, *, seconds: float) -> Lease | None:
    async with pool.statement() as connection:
        claims = await leases.claim(connection, owner="test", seconds=seconds, limit=10, log=10)
    assert len(claims) < 2
    return claims[0].lease if claims else None


async def hold(pool: Database, session: tuple[UUID, UUID], *, seconds: float) -> Lease:
    lease = await claim(pool, seconds=seconds)
    assert lease is not None
    assert (lease.tenant_id, lease.session_id) == session
    return lease


async def test_one_of_many_gets_a_session(pool: Database, session: tuple[UUID, UUID]) -> None:
    claims = await asyncio.gather(*(claim(pool, seconds=60) for _ in range(8)))
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
    assert await claim(pool, seconds=60) is not None


async def test_a_claim_brings_what_the_turn_begins_with(pool: Database, session: tuple[UUID, UUID]) -> None:
    async with pool.statement() as connection:
        [claimed] = await leases.claim(connection, owner="test", seconds=0, limit=10, log=10)
    assert [event.type for event in claimed.log] == ["user.message", "session.status_running"]
    assert (claimed.head.status, claimed.head.last_seq) == ("running", 2)
    assert claimed.task.definition["name"] == "a"
    async with pool.statement() as connection:
        [claimed] = await leases.claim(connection, owner="test", seconds=0, limit=10, log=1)
    assert claimed.log == [], "a long log is read by who works on it"


async def test_a_step_is_appended_once_by_who_holds_the_session_and_knows_its_head(
    pool: Database, session: tuple[UUID, UUID], database: DatabaseUrls
) -> None:
    async with pool.statement() as connection:
        [claimed] = await leases.claim(connection, owner="test", seconds=0, limit=10, log=10)

    async def append(claimed: Claim, last_seq: int, *, wait: bool = False) -> Outcome:
        said = NewEvent(ids.new(), "agent.message", {"content": []}, None)
        owner = StoreOwner("session", claimed.task.agent_id, str(session[1]))
        kept = [Said(said.id, "assistant", "yes", 1)]
        step = Step([said], "running", Tokens(1, 2, 3), [1], kept, owner, is_last=False, at=now())
        head = replace(claimed.head, last_seq=last_seq)
        async with pool.statement() as connection:
            [outcome] = await steps.append(connection, [Append(claimed.lease, head, step)], wait=wait)
        return outcome

    assert await append(claimed, 1) == Outcome.CHANGED, "somebody has appended meanwhile"
    assert await append(claimed, 2) == Outcome.SAVED
    assert await append(claimed, 2, wait=True) == Outcome.CHANGED
    async with pool.statement() as connection:
        [latter] = await leases.claim(connection, owner="test", seconds=60, limit=10, log=10)
    assert await append(claimed, 3, wait=True) == Outcome.LOST
    async with pool.tenant(session[0]) as other:
        await leases.lock(other, latter.lease)
        assert await append(latter, 3) == Outcome.BUSY
        assert await append(claimed, 3) == Outcome.LOST
    assert await append(latter, 3, wait=True) == Outcome.SAVED
    with psycopg.connect(database.admin_url) as admin:
        log = "select seq, type, processed_at is null from trunkline.events order by seq"
        assert admin.execute(log).fetchall() == [
            (1, "user.message", False),
            (2, "session.status_running", False),
            (3, "agent.message", False),
            (4, "agent.message", False),
        ]
        used = "select last_seq, input_tokens, output_tokens, cached_tokens from trunkline.sessions"
        assert admin.execute(used).fetchone() == (4, 2, 4, 6)
        assert admin.execute("select content from trunkline.passages").fetchall() == [("yes",), ("yes",)]


async def test_workers_hear_of_work_if_and_only_if_its_transaction_was_committed(
    pool: Database, database: DatabaseUrls
) -> None:
    wakings = leases.wakings(database.control_url)
    await anext(wakings)  # it listens
    heard = asyncio.ensure_future(anext(wakings))
    async with pool.transaction() as connection:
        await leases.wake(connection)
        raise psycopg.Rollback
    async with pool.transaction() as connection:
        await leases.wake(connection)
        await asyncio.sleep(0.1)
        assert not heard.done()
    await heard
    await wakings.aclose()


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


async def test_a_process_that_freezes_within_a_transaction_holds_its_locks_for_seconds_only(
    session: tuple[UUID, UUID], database: DatabaseUrls
) -> None:
    tenant_id, session_id = session
    lock = "select id from trunkline.sessions where id = $1 for update"

    async def freeze(frozen: Database, other: Database) -> None:
        async with frozen.tenant(tenant_id) as connection:
            await connection.execute(lock, (session_id,))
            async with asyncio.timeout(20), other.tenant(tenant_id) as free:
                await free.execute(lock, (session_id,))
            await connection.execute(lock, (session_id,))

    async with (
        open_database(database.control_url, asleep_s=1) as frozen,
        open_database(database.control_url) as other,
    ):
        with pytest.raises(Unavailable):
            await freeze(frozen, other)
        async with frozen.tenant(tenant_id) as connection:
            await connection.execute(lock, (session_id,))
