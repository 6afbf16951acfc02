"""What the gateway's one function for writing does: each call once, and turns together as if they came one by one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from support.control_plane import first_key
from support.postgres import DatabaseUrls

RECORD = (
    "select trunkline.gateway_record(array(select r from jsonb_populate_recordset(null::trunkline.call_row, %s) as r))"
)
AT = "2026-11-20T10:00:00Z"


@dataclass
class World:
    """A database with a key and an agent, seen as the gateway's role and as its administrator."""

    gateway: psycopg.Connection[Any]
    admin: psycopg.Connection[dict[str, Any]]
    tenant: UUID
    key: UUID
    agent: UUID = field(default_factory=uuid4)

    def record(self, *calls: dict[str, Any]) -> int:
        row = self.gateway.execute(RECORD, (Jsonb(list(calls)),)).fetchone()
        assert row is not None
        return int(row[0])

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        return self.admin.execute(query, values).fetchall()

    def call(self, **what: Any) -> dict[str, Any]:
        return {
            "tenant": str(self.tenant),
            "call": str(uuid4()),
            "at": AT,
            "key": str(self.key),
            "model": "gpt",
            "wire": "openai_chat",
            "stream": False,
            "status": 200,
            "input_tokens": 7,
            "output_tokens": 3,
            "cached_tokens": 1,
            "cache_write_tokens": 0,
            "reasoning_tokens": 0,
            "estimated": False,
            "cost_usd": 0.25,
            "source": "provider",
            "rounds": 1,
            "retries": 0,
            "total_us": 900,
            "overhead_us": 40,
            **what,
        }


@pytest.fixture
def world(database: DatabaseUrls) -> Iterator[World]:
    first_key(database.admin_url)
    with (
        psycopg.connect(database.gateway_url, autocommit=True) as gateway,
        psycopg.connect(database.admin_url, autocommit=True, row_factory=dict_row) as admin,
    ):
        key = admin.execute("select tenant_id, id from trunkline.api_keys").fetchone()
        assert key is not None
        world = World(gateway, admin, key["tenant_id"], key["id"])
        admin.execute(
            "insert into trunkline.agents values (%s, %s, 'mine', 1, now(), now())", (world.tenant, world.agent)
        )
        admin.execute(
            "insert into trunkline.agent_versions "
            "values (%s, %s, 1, '{}', null, null, true, true, false, 500, '[]', now())",
            (world.tenant, world.agent),
        )
        yield world


def spent(world: World) -> tuple[float, int]:
    (key,) = world.rows(
        "select usd::float8, requests from trunkline.meters where tenant_id = %s and kind = 'key' and subject = %s",
        world.tenant,
        str(world.key),
    )
    return key["usd"], key["requests"]


def test_a_call_is_recorded_and_charged_once_however_often_it_is_sent(world: World) -> None:
    first = [world.call() for _ in range(3)]
    assert world.record(*first) == 3
    assert world.record(*first) == 0
    more = [world.call() for _ in range(2)]
    assert world.record(first[1], more[0], first[2], more[1]) == 2
    twice = world.call()
    assert world.record(twice, twice) == 1
    assert spent(world) == (1.5, 6)
    assert world.rows("select count(*) from trunkline.usage")[0]["count"] == 6


@dataclass
class Client:
    """An end user's side of a conversation: what it holds of the history."""

    user: str | None
    session: str = field(default_factory=lambda: str(uuid4()))
    prefix: str | None = None
    said: int = 0


def turn(world: World, client: Client, *, forks: bool = False) -> dict[str, Any]:
    """The next turn, as the gateway writes it when it knows the log's end; ids follow from what is said."""

    def ident(*of: object) -> str:
        return str(UUID(bytes=hashlib.md5(repr((client.session, *of)).encode()).digest()))

    client.said += 1
    messages: list[dict[str, Any]] = []
    chain = client.prefix or ""
    for role, kind in (("user", "user.message"), ("assistant", "agent.message")):
        text = f"{role} {client.session} {client.said}"
        chain = hashlib.sha256((chain + text).encode()).hexdigest()
        event = {"id": ident(role, client.said), "type": kind, "payload": {"content": [{"type": "text", "text": text}]}}
        messages.append({"chain": chain, "role": role, "text": text, "events": [event]})
    idle = {"id": ident("idle", client.said), "type": "session.status_idle", "payload": {"stop_reason": {}}}
    row: dict[str, Any] = {
        "session": client.session,
        "fork": ident("fork", client.said),
        "forks": forks,
        "store": str(uuid4()),
        "agent": str(world.agent),
        "agent_version": 1,
        "user": client.user,
        "prefix": client.prefix,
        "remember": True,
        "messages": messages,
        "after": [idle],
    }
    client.prefix = chain
    if forks:
        client.session = str(row["fork"])
    return world.call(
        call=ident("call", client.said), agent=str(world.agent), session=client.session, user_id=client.user, turn=row
    )


def log(world: World) -> tuple[Any, ...]:
    """All that the turns have left, but for what is made by chance."""
    sessions = world.rows(
        "select id, user_id, last_seq, head_chain, root_id, parent_seq, input_tokens, output_tokens, cached_tokens "
        "from trunkline.sessions order by id"
    )
    events = world.rows(
        "select session_id, seq, type, payload, chain, call_id from trunkline.events order by session_id, seq"
    )
    passages = world.rows(
        "select s.owner_key, p.id, p.session_id, p.role, p.content, p.terms::text from trunkline.passages p "
        "join trunkline.memory_stores s on s.id = p.store_id order by p.id"
    )
    return sessions, events, passages


@pytest.mark.parametrize("seed", range(5))
def test_turns_together_leave_what_they_leave_one_by_one(world: World, seed: int) -> None:
    chance = random.Random(seed)
    clients = [Client(chance.choice([None, "cus_1", "cus_2"]), str(UUID(int=number + 1))) for number in range(8)]
    turns = []
    for _ in range(40):
        client = chance.choice(clients)
        turns.append(turn(world, client, forks=client.said > 0 and chance.random() < 0.15))
    left = []
    for size in (1, 12):
        for at in range(0, len(turns), size):
            assert world.record(*turns[at : at + size]) == len(turns[at : at + size])
        left.append(log(world))
        for table in ("usage", "events", "passages", "memory_stores", "sessions"):
            world.admin.execute(f"delete from trunkline.{table}".encode())
    assert left[0] == left[1]
    assert len(left[0][1]) > 3 * len(turns) - 1


def test_a_call_reads_as_little_of_a_store_that_grows_as_of_an_empty_one(world: World) -> None:
    """A connection's plans are made when a new database is empty: none may read all sessions for each call."""

    def begun() -> dict[str, Any]:
        client = Client("ada")
        made = turn(world, client)
        prompt = {"session": client.session, "fork": str(uuid4()), "version": 1, "hash": "00" * 16}
        return made | {"prompt": prompt}

    def read() -> int:
        world.gateway.execute("select pg_stat_force_next_flush()")
        world.gateway.execute("select 1")
        (row,) = world.rows(
            "select sum(idx_tup_read)::int as n from pg_stat_user_indexes"
            " where relname in ('sessions', 'session_prompts')"
        )
        return int(row["n"])

    world.record(*(begun() for _ in range(10)))
    few = read()
    for _ in range(9):
        world.record(*(begun() for _ in range(10)))
    assert len(world.rows("select 1 from trunkline.session_prompts")) == 100
    assert read() < 10 * few + 200, "a batch of ten reads about as much as the first"
