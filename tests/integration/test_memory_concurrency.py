from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from support.control_plane import ControlPlane
from support.memory import SESSION, new_agent, ok, write
from support.postgres import DatabaseUrls
from trunkline.domain import ids
from trunkline.domain.memory import Actor, Source, Subject
from trunkline.domain.principal import Principal
from trunkline.memory.operations import parse_operations
from trunkline.memory.writes import apply_operations
from trunkline.store.pool import Database, open_database

WRITERS = 50
WHO = Subject("cus_42", ids.decode("sesn", SESSION))


def tenant_of(database: DatabaseUrls) -> UUID:
    with psycopg.connect(database.admin_url) as connection:
        row = connection.execute("select id from trunkline.tenants where name = 'default'").fetchone()
    assert row is not None
    found: UUID = row[0]
    return found


@asynccontextmanager
async def agent_at(urls: DatabaseUrls, agent: str) -> AsyncIterator[tuple[Database, Principal, str]]:
    principal = Principal(tenant_of(urls), ids.new(), "test", frozenset({"memory"}))
    async with open_database(urls.control_url, min_size=20, max_size=20, timeout_s=60) as database:
        yield database, principal, agent


async def all_at_once(count: int, act: Callable[[int], Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*(act(number) for number in range(count)))


def versions(urls: DatabaseUrls) -> list[dict[str, Any]]:
    with psycopg.connect(urls.admin_url, row_factory=dict_row) as connection:
        return connection.execute(
            "select path, memory_id, version, operation from trunkline.memory_versions order by path, version"
        ).fetchall()


def test_fifty_writers_lose_nothing(control: ControlPlane, database: DatabaseUrls) -> None:
    agent = new_agent(control)

    async def main() -> list[int]:
        async with agent_at(database, agent) as (pool, who, helper):

            async def append(number: int) -> int:
                given = [{"op": "append", "field": "recent_purchases", "value": f"item {number}"}]
                async with pool.tenant(who.tenant_id) as connection:
                    operations = parse_operations(given, "customer")
                    actor = Actor("agent", agent)
                    (state,) = await apply_operations(connection, who, helper, operations, WHO, actor=actor)
                    assert state.changed
                    return state.version

            return await all_at_once(WRITERS, append)

    assert sorted(asyncio.run(main())) == list(range(1, WRITERS + 1))
    with control.http() as http:
        state = ok(http.get(f"/v1/agents/{agent}/memory/customer", params={"user_id": "cus_42"}))
        stores = ok(http.get("/v1/memory_stores"))["data"]
    assert sorted(state["value"]["recent_purchases"]) == sorted(f"item {number}" for number in range(WRITERS))
    assert state["version"] == WRITERS
    assert len(stores) == 1, "the first writers made one store between them"
    written = versions(database)
    assert len({row["memory_id"] for row in written}) == 1
    assert [row["version"] for row in written] == list(range(1, WRITERS + 1))
    assert [row["operation"] for row in written] == ["created"] + ["modified"] * (WRITERS - 1)


def test_writers_of_many_blocks_in_any_order_do_not_deadlock(control: ControlPlane, database: DatabaseUrls) -> None:
    agent = new_agent(control)
    every = [
        {"op": "append", "block": "customer", "field": "recent_purchases"},
        {"op": "append", "block": "team", "field": "members"},
        {"op": "set", "block": "rules", "field": "text"},
        {"op": "set", "block": "case", "field": "topic"},
    ]

    async def main() -> None:
        async with agent_at(database, agent) as (pool, who, helper):

            async def write_all(number: int) -> None:
                order = every[number % 4 :] + every[: number % 4]
                given = [{**operation, "value": str(number)} for operation in (order if number % 2 else order[::-1])]
                async with pool.tenant(who.tenant_id) as connection:
                    states = await apply_operations(
                        connection, who, helper, parse_operations(given), WHO, actor=Actor("agent", agent)
                    )
                    assert [state.changed for state in states] == [True] * 4

            await all_at_once(WRITERS, write_all)

    asyncio.run(main())
    written = versions(database)
    for path in ("case", "customer", "rules", "team"):
        numbers = [row["version"] for row in written if row["path"] == f"/blocks/{path}"]
        assert numbers == list(range(1, WRITERS + 1))


def test_of_writers_with_one_precondition_one_wins(control: ControlPlane, database: DatabaseUrls) -> None:
    agent = new_agent(control)

    async def main() -> list[str]:
        async with agent_at(database, agent) as (pool, who, helper):

            async def set_name(number: int) -> str:
                given = [{"op": "set", "field": "name", "value": str(number), "expect_version": 0}]
                try:
                    async with pool.tenant(who.tenant_id) as connection:
                        operations = parse_operations(given, "customer")
                        await apply_operations(connection, who, helper, operations, WHO, actor=Actor("agent", agent))
                except Exception as error:  # noqa: BLE001 - counted by kind
                    return type(error).__name__
                return "won"

            return await all_at_once(WRITERS, set_name)

    outcomes = asyncio.run(main())
    assert sorted(set(outcomes)) == ["MemoryPreconditionFailed", "won"]
    assert outcomes.count("won") == 1


def test_writers_survive_deleters(control: ControlPlane, database: DatabaseUrls) -> None:
    """Stores that vanish under their writers: every write lands in a store that was there, and nothing deadlocks."""
    agent = new_agent(control)

    async def main() -> list[str]:
        async with agent_at(database, agent) as (pool, who, helper):

            async def act(number: int) -> str:
                async with pool.tenant(who.tenant_id) as connection:
                    if number % 5 == 0:
                        await connection.execute(
                            "delete from trunkline.memory_stores where id = "
                            "(select id from trunkline.memory_stores order by random() limit 1)"
                        )
                        return "deleted"
                    given = [
                        {"op": "append", "block": "customer", "field": "recent_purchases", "value": str(number)},
                        {"op": "append", "block": "team", "field": "members", "value": str(number)},
                    ]
                    await apply_operations(
                        connection, who, helper, parse_operations(given), WHO, actor=Actor("agent", agent)
                    )
                    return "written"

            return await all_at_once(WRITERS, act)

    assert asyncio.run(main()).count("written") == 40
    written = versions(database)
    for path in {row["path"] for row in written}:
        numbers = [row["version"] for row in written if row["path"] == path]
        assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_retry_of_the_same_event_is_recognised(
    control: ControlPlane, database: DatabaseUrls, meanwhile: bool
) -> None:
    agent = new_agent(control)
    source = Source(WHO.session_id, ids.new())

    async def main() -> list[bool]:
        async with agent_at(database, agent) as (pool, who, helper):
            changed = []
            given = [{"op": "append", "field": "recent_purchases", "value": "lamp"}]
            operations = parse_operations(given, "customer")
            for attempt in range(2):
                if attempt and meanwhile:
                    with control.http() as http:
                        ok(
                            write(
                                http, agent, "customer", {"op": "set", "field": "name", "value": "A"}, user_id="cus_42"
                            )
                        )
                async with pool.tenant(who.tenant_id) as connection:
                    (state,) = await apply_operations(
                        connection, who, helper, operations, WHO, actor=Actor("agent", agent), source=source
                    )
                    changed.append(state.changed)
            return changed

    assert asyncio.run(main()) == [True, False]


def test_paths_that_overlap_are_not_made_at_once(control: ControlPlane) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with control.http() as http:
        store = ok(http.post("/v1/memory_stores", json={"name": "n"}))["id"]

        def create(number: int) -> int:
            path = "/a" + "/b" * (number % 4)
            return http.post(f"/v1/memory_stores/{store}/memories", json={"path": path, "content": "x"}).status_code

        with ThreadPoolExecutor(16) as threads:
            statuses = list(threads.map(create, range(32)))
        there = ok(http.get(f"/v1/memory_stores/{store}/memories"))["data"]
    assert sorted(set(statuses)) == [200, 409]
    assert statuses.count(200) == len(there) == 1
