"""Retention of sessions: idle ones go as a whole, of others what is old, by the stricter rule of agent and tenant."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from support.control_plane import ControlPlane
from support.memory import new_agent, ok, write
from support.postgres import DatabaseUrls
from support.recording import first_key, rows_with, said
from trunkline.scheduling import retention
from trunkline.store.pool import open_database

BLOCKS = {
    "customer": {"scope": "user", "fields": {"name": {"type": "string"}}},
    "case": {"scope": "session", "fields": {"topic": {"type": "string"}}},
}


def expire(database: DatabaseUrls) -> None:
    """Do what a worker does once a day."""

    async def once() -> None:
        async with open_database(database.control_url) as pool:
            await retention.expire_sessions(pool)

    asyncio.run(once())


def older(database: DatabaseUrls, days: int) -> None:
    """Let days go by over all sessions and what was said in them."""
    with psycopg.connect(database.admin_url) as admin:
        for table in ("events", "passages", "sessions"):
            admin.execute(f"update trunkline.{table} set created_at = created_at - make_interval(days => %s)", (days,))
        admin.execute("update trunkline.sessions set updated_at = updated_at - make_interval(days => %s)", (days,))


def today(database: DatabaseUrls) -> str:
    """Return the day of which ten in the morning is past."""
    with psycopg.connect(database.admin_url) as admin:
        row = admin.execute("select to_char(now() - interval '10 hours', 'YYYY-MM-DD')").fetchone()
        assert row is not None
        return str(row[0])


def test_an_idle_session_goes_with_all_that_is_its_own(
    control: ControlPlane, database: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_SESSIONS_AT_ONCE", 3)
    day, key = today(database), first_key(database)
    brief = new_agent(control, "brief", {"blocks": BLOCKS, "retention": {"sessions": "30d"}})
    long = new_agent(control, "long", {"blocks": BLOCKS})
    idle = [said(database, key, agent, "cus_1", "zebrafax", day=day) for agent in (brief, brief, long)]
    with control.http() as http:
        topic = {"op": "set", "field": "topic", "value": "zebrafax"}
        ok(write(http, brief, "case", topic, user_id="cus_1", session_id=idle[0]))
        name = {"op": "set", "field": "name", "value": "quokkamol"}
        ok(write(http, brief, "customer", name, user_id="cus_1", session_id=idle[0]))
        with psycopg.connect(database.admin_url) as admin:
            admin.execute(
                "insert into trunkline.session_prompts (tenant_id, session_id, agent_version, prefix, deltas)"
                " select tenant_id, id, 1, 'zebrafax', '[]' from trunkline.sessions where agent_id = %s::uuid",
                (brief.removeprefix("agent_"),),
            )
        older(database, 28)
        busy = said(database, key, brief, "cus_1", "numbatix", day=day)
        expire(database)
        assert len(ok(http.get("/v1/sessions"))["data"]) == 4, "nothing is past its time"
        older(database, 3)
        expire(database)
        assert {session["id"] for session in ok(http.get("/v1/sessions"))["data"]} == {idle[2], busy}
        left = rows_with(database, "zebrafax")
        assert (left["events"], left["passages"]) == (2, 2), "what is the other agent's"
        assert not left.keys() & {"memories", "memory_versions", "session_prompts"}
        assert rows_with(database, "numbatix")["events"] == 2
        block = ok(http.get(f"/v1/agents/{brief}/memory/customer?user_id=cus_1"))
        assert block["value"] == {"name": "quokkamol"}, "what the user's blocks learned is the user's"


def test_the_tenants_rule_holds_for_all_and_an_agents_where_it_is_stricter(
    control: ControlPlane, database: DatabaseUrls
) -> None:
    day, key = today(database), first_key(database)
    agents = [
        new_agent(control, name, {"retention": {"sessions": time}}) for name, time in (("strict", "5d"), ("lax", "90d"))
    ]
    with control.http() as http:
        assert ok(http.get("/v1/retention")) == {"type": "retention", "sessions": None, "events": None}
        assert ok(http.post("/v1/retention", json={"sessions": "2w"}))["sessions"] == "14d"
        strict, lax = (said(database, key, agent, "cus_1", "zebrafax", day=day) for agent in agents)
        for days, left in ((3, {strict, lax}), (3, {lax}), (9, set())):
            older(database, days)
            expire(database)
            assert {session["id"] for session in ok(http.get("/v1/sessions"))["data"]} == left, days
        assert ok(http.post("/v1/retention", json={}))["sessions"] is None
        said(database, key, agents[1], "cus_1", "zebrafax", day=day)
        older(database, 60)
        expire(database)
        assert len(ok(http.get("/v1/sessions"))["data"]) == 1
        for bad in ("12h", "soon", 0, "90"):
            assert http.post("/v1/retention", json={"sessions": bad}).status_code == 400, bad


def test_of_a_session_that_lives_on_old_turns_go(
    control: ControlPlane, database: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_SESSIONS_AT_ONCE", 2)
    day, key = today(database), first_key(database)
    agent = new_agent(control, "helper", {"retention": {"events": "7d"}})
    session = said(database, key, agent, "cus_1", "zebrafax", day=day)
    waiting = said(database, key, agent, "cus_2", "numbatix", day=day)
    with psycopg.connect(database.admin_url) as admin:
        admin.execute(
            'update trunkline.events set payload = \'{"stop_reason": {"type": "requires_action"}}\''
            " where session_id = %s::uuid and type = 'session.status_idle'",
            (waiting.removeprefix("sesn_"),),
        )
    older(database, 9)
    assert said(database, key, agent, "cus_1", "quokkamol", day=day, follows=session) == session
    expire(database)
    with control.http() as http:
        events = ok(http.get(f"/v1/sessions/{session}/events"))["data"]
        assert [event["type"] for event in events] == ["user.message", "agent.message", "session.status_idle"]
    assert not rows_with(database, "zebrafax").keys() & {"events", "passages"}
    left = [rows_with(database, word)["passages"] for word in ("quokkamol", "numbatix")]
    assert left == [2, 2], "a turn that waits for the client's tool is not over, however old"


def test_a_session_that_is_at_work_is_let_be(control: ControlPlane, database: DatabaseUrls) -> None:
    agent = new_agent(control, "helper", {"retention": {"sessions": "1d"}})
    said(database, first_key(database), agent, "cus_1", "zebrafax", day=today(database))
    older(database, 9)
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        admin.execute("update trunkline.sessions set status = 'running'")
        expire(database)
        admin.execute("update trunkline.sessions set status = 'idle'")
        with admin.transaction():
            admin.execute("select from trunkline.sessions for update")
            expire(database)
    assert rows_with(database, "zebrafax")["events"] == 2
    expire(database)
    assert "events" not in rows_with(database, "zebrafax")


def test_months_of_which_nothing_is_left_are_dropped(control: ControlPlane, database: DatabaseUrls) -> None:
    agent = new_agent(control)
    with psycopg.connect(database.admin_url) as admin:
        admin.execute("set role trunkline_owner")
        for month in (3, 4):
            admin.execute(
                f"create table trunkline.events_2024_0{month} partition of trunkline.events"
                f" for values from ('2024-0{month}-01') to ('2024-0{month + 1}-01')"
            )
    said(database, first_key(database), agent, "cus_1", "zebrafax", day="2024-03-05")
    expire(database)
    with psycopg.connect(database.admin_url) as admin:
        left = admin.execute("select relname from pg_class where relname ~ '^events_2024_..$'").fetchall()
    assert left == [("events_2024_03",)]
    assert rows_with(database, "zebrafax")["events"] == 2
