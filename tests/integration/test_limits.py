"""Leases of limits: what the store lends to gateways adds up, whoever asks, dies or comes late."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.control_plane import ControlPlane
from support.postgres import DatabaseUrls

NANO = 1_000_000_000
TERM_MS = 60_000


@dataclass
class Gateway:
    """One holder of leases on one key: what the gateway's arithmetic keeps, and the store's functions as its role."""

    connection: psycopg.Connection[Any]
    tenant: str
    key: str
    holder: UUID
    granted: int = 0
    new: bool = True

    def lease(self, *, need: int = 0, want: int = 0, term_ms: int = TERM_MS, **more: Any) -> dict[str, Any]:
        item = {
            "tenant": self.tenant, "kind": "key", "id": self.key, "look": False,
            "usd_new": self.new, "usd_granted": self.granted, "usd_need": need, "usd_want": want,
            "slots_held": 0, "slots_need": 0, "slots_want": 0, "minute": 0,
            "requests_need": 0, "requests_want": 0, "tokens_need": 0, "tokens_want": 0, **more,
        }  # fmt: skip
        with self.connection.transaction():
            row = self.connection.execute(
                "select trunkline.gateway_lease(%s, %s, %s::jsonb)", (self.holder, term_ms, json.dumps([item]))
            ).fetchone()
        assert row is not None
        (answer,) = row[0]
        if "usd" in answer:
            self.granted = answer["usd"]["granted"] + (0 if answer["usd"]["fresh"] else self.granted)
            self.new = False
        found: dict[str, Any] = answer
        return found

    def record(self, usd: float, at: datetime | None = None, user: str | None = None) -> None:
        """Record a call, and send it twice, as after an answer that was lost."""
        call = (self.tenant, str(uuid4()), at or datetime.now(UTC), self.key, user, usd, self.holder)
        statement = """
            select trunkline.gateway_record(array(
              select jsonb_populate_record(null::trunkline.call_row, jsonb_build_object(
                'tenant', %s::uuid, 'call', %s::uuid, 'at', %s::timestamptz, 'key', %s::uuid, 'user_id', %s::text,
                'cost_usd', %s::float8, 'holder', %s::uuid, 'model', 'm', 'wire', 'openai_chat', 'stream', false,
                'status', 200, 'input_tokens', 1, 'output_tokens', 1, 'cached_tokens', 0, 'cache_write_tokens', 0,
                'reasoning_tokens', 0, 'estimated', false, 'source', 'provider', 'rounds', 1, 'retries', 0,
                'total_us', 1, 'overhead_us', 1))))"""
        for _ in range(2):
            self.connection.execute(statement, call)


class World:
    """A key with limits and the gateways that serve it."""

    def __init__(self, control: ControlPlane, database: DatabaseUrls, **limits: Any) -> None:
        self.control, self.database = control, database
        with control.http() as http:
            answer = http.post("/v1/keys", json={"name": "limited", **limits})
        assert answer.status_code == 200, answer.text
        self.id = answer.json()["id"]
        with psycopg.connect(database.admin_url) as connection:
            row = connection.execute("select id::text from trunkline.tenants where name = 'default'").fetchone()
        assert row is not None
        self.tenant = row[0]

    def gateway(self) -> Gateway:
        connection = psycopg.connect(self.database.gateway_url, autocommit=True)
        return Gateway(connection, self.tenant, str(UUID(self.id.removeprefix("key_"))), uuid4())

    def key(self) -> dict[str, Any]:
        with self.control.http() as http:
            found: dict[str, Any] = http.get(f"/v1/keys/{self.id}").json()
        return found

    def change(self, **limits: Any) -> None:
        with self.control.http() as http:
            answer = http.post(f"/v1/keys/{self.id}", json=limits)
        assert answer.status_code == 200, answer.text

    def run(self, statement: str) -> None:
        with psycopg.connect(self.database.admin_url) as connection:
            connection.execute(statement.encode())


def test_what_is_lent_spent_and_left_adds_up(control: ControlPlane, database: DatabaseUrls) -> None:
    world = World(control, database, budget_usd=10)
    one, two = world.gateway(), world.gateway()
    assert one.lease(need=NANO, want=100 * NANO)["usd"] == {
        "fresh": True, "granted": int(2.5 * NANO), "left": int(7.5 * NANO), "ends_us": None,
    }  # fmt: skip
    assert two.lease(need=7 * NANO, want=7 * NANO)["usd"]["granted"] == 7 * NANO, "what a call needs is lent in full"
    assert one.lease(need=NANO, want=NANO)["usd"]["granted"] == NANO // 2, "and no more than there is"
    one.record(1.25)
    assert world.key()["spent_usd"] == 1.25
    assert one.lease()["usd"]["left"] == 0, "what is spent comes out of the lease, and is not counted twice"
    # Gives back what it has: 3.0 lent, 1.25 spent.
    assert one.lease(want=-int(1.75 * NANO))["usd"]["left"] == int(1.75 * NANO)
    assert two.lease(want=-7 * NANO)["usd"]["left"] == int(8.75 * NANO)
    # A call that cost more than was reserved: the rest is less by that.
    two.lease(need=NANO, want=NANO)
    two.record(3.0)
    assert two.lease()["usd"]["left"] == int(5.75 * NANO)


def test_an_answer_that_was_lost_is_made_good(control: ControlPlane, database: DatabaseUrls) -> None:
    world = World(control, database, budget_usd=10)
    gateway = world.gateway()
    gateway.lease(need=NANO, want=NANO)
    heard = gateway.granted
    gateway.lease(need=5 * NANO, want=5 * NANO)
    gateway.granted = heard
    assert gateway.lease()["usd"]["left"] == 9 * NANO
    gateway.lease(want=-NANO)
    gateway.granted = heard
    assert gateway.lease()["usd"] == {"fresh": False, "granted": 0, "left": 9 * NANO, "ends_us": None}


def test_a_lease_that_nobody_renews_ends_on_the_databases_clock(control: ControlPlane, database: DatabaseUrls) -> None:
    world = World(control, database, budget_usd=10, parallel=3)
    dead, other = world.gateway(), world.gateway()
    dead.lease(need=10 * NANO, want=10 * NANO, slots_need=3, slots_want=3)
    answer = other.lease(need=NANO, want=NANO, slots_need=1, slots_want=1)
    assert (answer["usd"]["granted"], answer["slots"]["granted"]) == (0, 0)
    world.run("update trunkline.leases set until = clock_timestamp()")
    answer = other.lease(need=8 * NANO, want=8 * NANO, slots_need=2, slots_want=2)
    assert (answer["usd"]["granted"], answer["slots"]["granted"]) == (8 * NANO, 2)
    # It was not dead, only away: what the other has is the other's.
    answer = dead.lease(slots_held=3)
    assert (answer["usd"]["granted"], answer["slots"]["granted"]) == (-8 * NANO, -2)


def test_a_gateway_that_ends_gives_all_back(control: ControlPlane, database: DatabaseUrls) -> None:
    world = World(control, database, budget_usd=10)
    one, two = world.gateway(), world.gateway()
    one.lease(need=10 * NANO, want=10 * NANO)
    one.connection.execute("select trunkline.gateway_release(%s)", (one.holder,))
    assert two.lease(need=10 * NANO, want=10 * NANO)["usd"]["granted"] == 10 * NANO


@pytest.mark.parametrize(("period", "earlier"), [("day", 1), ("week", 7), ("month", 31), (3600, 1), (86400, 1)])
def test_a_budget_begins_anew_with_its_period(
    control: ControlPlane, database: DatabaseUrls, period: str | int, earlier: int
) -> None:
    world = World(control, database, budget_usd=1, budget_period=period)
    gateway = world.gateway()
    gateway.record(0.75, datetime.now(UTC) - timedelta(days=earlier))
    assert gateway.lease(need=NANO, want=NANO)["usd"]["granted"] == NANO, "of another period"
    gateway.record(0.25)
    key = world.key()
    assert (key["spent_usd"], key["period_spent_usd"]) == (1.0, 0.25)
    starts, ends = (datetime.fromisoformat(key[name]) for name in ("period_starts_at", "period_ends_at"))
    assert starts <= datetime.now(UTC) < ends
    assert (starts.minute, starts.second) == (0, 0)
    gateway.record(0.5, datetime.now(UTC) - timedelta(days=earlier))
    assert world.key()["period_spent_usd"] == 0.25, "what comes late counts where it belongs"
    # The period is over: what was lent of it is worth nothing in the next, and what was spent is forgotten.
    world.run("update trunkline.meters set period_start = period_start - interval '40 days'")
    world.run("update trunkline.leases set period_start = period_start - interval '40 days'")
    answer = gateway.lease(need=NANO, want=NANO)["usd"]
    assert (answer["fresh"], answer["granted"]) == (True, NANO)
    assert 0 < answer["ends_us"] <= 31 * 86_400_000_000


def test_periods_begin_and_end_where_they_say(database: DatabaseUrls) -> None:
    at = "2026-02-25T23:59:59.5Z"  # a Wednesday
    wanted = {
        "day": ("2026-02-25T00:00:00", "2026-02-26T00:00:00"),
        "week": ("2026-02-23T00:00:00", "2026-03-02T00:00:00"),
        "month": ("2026-02-01T00:00:00", "2026-03-01T00:00:00"),
        "3600": ("2026-02-25T23:00:00", "2026-02-26T00:00:00"),
        "86400": ("2026-02-25T00:00:00", "2026-02-26T00:00:00"),
    }
    with psycopg.connect(database.control_url, options="-c timezone=America/New_York") as connection:
        for period, (start, end) in wanted.items():
            row = connection.execute(
                "select trunkline.period_start(%s, %s) at time zone 'UTC',"
                " trunkline.period_end(%s, %s) at time zone 'UTC'",
                (period, at, period, at),
            ).fetchone()
            assert row is not None
            assert [time.isoformat() for time in row] == [start, end], period


def test_a_minute_is_shared_and_begins_anew(control: ControlPlane, database: DatabaseUrls) -> None:
    world = World(control, database, rpm=10, tpm=1000)
    one, two = world.gateway(), world.gateway()
    first = one.lease(requests_need=6, requests_want=6, tokens_need=900, tokens_want=900)
    assert (first["requests"], first["tokens"]) == ({"granted": 6, "left": 4}, {"granted": 900, "left": 100})
    second = two.lease(requests_need=6, requests_want=6, tokens_need=101, tokens_want=101)
    assert (second["requests"]["granted"], second["tokens"]["granted"]) in [(4, 100), (6, 101)]
    if second["minute"] == first["minute"]:
        back = one.lease(minute=first["minute"], requests_want=-2)
        assert back["requests"] in [{"granted": -2, "left": 2}, {"granted": 0, "left": 10}]
    world.run("update trunkline.meters set minute = minute - interval '1 minute'")
    late = two.lease(minute=second["minute"] - 60, requests_want=-3)
    assert late["requests"] == {"granted": 0, "left": 10}, "of a minute that is over nothing is given back"
    assert 0 < late["minute_ends_us"] <= 60_000_000


def test_a_lower_budget_is_taken_back_and_a_higher_one_lent(control: ControlPlane, database: DatabaseUrls) -> None:
    world = World(control, database, budget_usd=10)
    gateway = world.gateway()
    gateway.lease(need=8 * NANO, want=8 * NANO)
    world.change(budget_usd=3)
    assert gateway.lease()["usd"]["granted"] == -5 * NANO
    world.change(budget_usd=20)
    assert gateway.lease(need=17 * NANO, want=17 * NANO)["usd"]["granted"] == 17 * NANO
    world.change(budget_usd=None)
    assert gateway.lease()["limits"] is None, "without limits there is nothing to lend"


def test_many_gateways_at_once_are_lent_no_more_than_there_is(control: ControlPlane, database: DatabaseUrls) -> None:
    world = World(control, database, budget_usd=1)
    spent: list[int] = []

    def serve() -> None:
        gateway = world.gateway()
        held = mine = 0
        for _ in range(60):
            cost = NANO // 150
            if held < cost:
                held += gateway.lease(need=cost - held, want=4 * cost)["usd"]["granted"]
            if held < cost:
                break
            held -= cost
            mine += cost
            gateway.record(cost / NANO)
        gateway.lease(want=-held)
        spent.append(mine)

    threads = [threading.Thread(target=serve) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spent) == 6
    assert sum(spent) <= NANO
    assert world.key()["spent_usd"] == pytest.approx(sum(spent) / NANO)
    last = world.gateway()
    assert last.lease(need=NANO, want=NANO)["usd"]["granted"] == pytest.approx(NANO - sum(spent), abs=1000)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["call", "call", "call", "return", "die", "unheard"]),
        st.integers(1, NANO // 3),
        st.integers(0, 200),
    ),
    max_size=40,
)
"""Which gateway; what it does; what a call reserves, in billionths of a US dollar; the percent of it that it uses."""


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_a_budget_is_overshot_only_by_what_calls_use_beyond_their_reserve(
    control: ControlPlane, database: DatabaseUrls, steps: list[tuple[int, str, int, int]]
) -> None:
    world = World(control, database, budget_usd=1)
    gateways = [world.gateway() for _ in range(4)]
    held = [0] * 4
    spent = beyond = 0
    for who, what, reserve, share in steps:
        gateway = gateways[who]
        if what == "return" and held[who] > 0:
            answer = gateway.lease(want=-held[who])["usd"]
            held[who] = max(answer["granted"], 0)
        elif what == "die":
            gateway.connection.close()
            gateways[who], held[who] = world.gateway(), 0
        elif what == "unheard":
            before = (gateway.granted, gateway.new)
            gateway.lease(want=reserve)
            gateway.granted, gateway.new = before
        elif what == "call":
            if held[who] < reserve:
                answer = gateway.lease(need=reserve - held[who], want=2 * reserve - held[who])["usd"]
                held[who] = answer["granted"] + (0 if answer["fresh"] else held[who])
                assert answer["left"] >= 0
            if held[who] >= reserve:
                used = reserve * share // 100
                gateway.record(used / NANO)
                held[who] -= used
                spent += used
                beyond += max(used - reserve, 0)
    for gateway in gateways:
        gateway.connection.close()
    assert spent <= NANO + beyond
    assert world.key()["spent_usd"] == pytest.approx(spent / NANO, abs=1e-6), "each call is charged once"


def test_a_call_is_charged_to_its_key_its_team_and_its_user(control: ControlPlane, database: DatabaseUrls) -> None:
    with control.http() as http:
        team = http.post("/v1/teams", json={"name": "crew", "budget_usd": 5, "users": {"budget_usd": 1}}).json()
        http.post("/v1/user_limits", json={"user_id": "ada", "budget_usd": 2})
        world = World(control, database, team_id="crew")
        gateway = world.gateway()
        for user in ("ada", "bob", None):
            gateway.record(0.5, user=user)
        assert http.get("/v1/teams/crew").json()["spent_usd"] == 1.5
        (ada,) = http.get("/v1/user_limits", params={"user_id": "ada"}).json()["data"]
        assert (ada["spent_usd"], ada["requests"]) == (0.5, 1)
    item: dict[str, Any] = {"kind": "user", "key": gateway.key, "look": True}
    found = {}
    for user in ("ada", "bob"):
        answer = gateway.lease(id=user, user=user, **item)
        found[user] = (answer["kind"], answer["subject"], answer["limits"]["budget_usd"])
    owner = str(UUID(team["id"].removeprefix("team_")))
    assert found == {"ada": ("user", "ada", 2.0), "bob": ("user_of_team", f"{owner} bob", 1.0)}
    # Whoever is asked for under a name that is no longer the user's is told so, and lent nothing.
    moved = gateway.lease(kind="user_of_team", id=f"{owner} ada", key=gateway.key, user="ada", need=NANO, want=NANO)
    assert moved["limits"] is None
    taken = gateway.lease(kind="user_of_team", id=f"{owner} bob", key=gateway.key, user="bob", need=NANO, want=NANO)
    assert taken["usd"]["granted"] == NANO // 2


def test_the_gateways_role_may_do_no_more_than_that(database: DatabaseUrls) -> None:
    for statement in ("select trunkline.charge(null, null, null, null, null, null)", "select from trunkline.leases"):
        with psycopg.connect(database.gateway_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())
    with psycopg.connect(database.control_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("update trunkline.meters set usd = 0")
