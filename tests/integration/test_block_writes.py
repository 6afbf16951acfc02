"""Writes that go together in one transaction: nobody is to notice, but by the time that they take."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import httpx
import psycopg

from support.control_plane import ControlPlane, running
from support.memory import new_agent, ok
from support.postgres import DatabaseUrls, temporary_home
from trunkline.store.embedded import EmbeddedPostgres
from trunkline.store.migrate import migrate
from trunkline.store.postmaster import read_postmaster

WRITERS = 60


async def send(http: httpx.AsyncClient, agent: str, user: str, *operations: dict[str, Any]) -> httpx.Response:
    body = {"user_id": user, "operations": list(operations)}
    return await http.post(f"/v1/agents/{agent}/memory", json=body, timeout=60)


def client(control: ControlPlane, key: str | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=control.base_url, headers={"x-api-key": key or control.key})


def name(value: Any, **preconditions: Any) -> dict[str, Any]:
    return {"op": "set", "block": "customer", "field": "name", "value": value, **preconditions}


def bought(item: Any) -> dict[str, Any]:
    return {"op": "append", "block": "customer", "field": "recent_purchases", "value": item}


def history(control: ControlPlane, agent: str, user: str) -> list[dict[str, Any]]:
    with control.http() as http:
        found = ok(http.get(f"/v1/agents/{agent}/memory/customer/history", params={"user_id": user, "limit": 1000}))[
            "data"
        ]
    return sorted(found, key=lambda version: int(version["version"]))


async def test_writers_of_one_block_each_make_a_version_of_what_they_did(control: ControlPlane) -> None:
    agent = new_agent(control)
    async with client(control) as http:
        answers = await asyncio.gather(*(send(http, agent, "one", bought(f"item {n}")) for n in range(WRITERS)))
    told = [ok(answer)["blocks"][0] for answer in answers]
    assert sorted(block["version"] for block in told) == list(range(1, WRITERS + 1))
    versions = history(control, agent, "one")
    assert [version["version"] for version in versions] == list(range(1, WRITERS + 1))
    assert [version["operation"] for version in versions] == ["created"] + ["modified"] * (WRITERS - 1)
    for block in told:
        version = versions[block["version"] - 1]
        assert version["value"] == block["value"]
        assert len(block["value"]["recent_purchases"]) == block["version"]
        assert version["operations"][0]["value"] == block["value"]["recent_purchases"][-1]


async def test_a_refused_write_takes_no_other_with_it_and_leaves_nothing(
    control: ControlPlane, database: DatabaseUrls
) -> None:
    agent = new_agent(control)
    async with client(control) as http:
        answers = await asyncio.gather(
            *(send(http, agent, f"sound {n % 3}", bought(f"item {n}")) for n in range(20)),
            *(send(http, agent, f"refused {n % 3}", bought("kept?"), name(n)) for n in range(20)),
            *(send(http, agent, f"late {n}", name("x", expect_version=7)) for n in range(5)),
            *(
                send(http, agent, "sound 0", {"op": "set", "block": "nowhere", "field": "x", "value": 1})
                for _ in range(5)
            ),
        )
    assert [answer.status_code for answer in answers] == [200] * 20 + [400] * 20 + [409] * 5 + [404] * 5
    assert sum(len(history(control, agent, f"sound {n}")) for n in range(3)) == 20
    with psycopg.connect(database.admin_url) as admin:
        subjects = admin.execute(
            "select subject from trunkline.memory_stores where scope = 'user' order by 1"
        ).fetchall()
    assert subjects == [("sound 0",), ("sound 1",), ("sound 2",)]


async def test_of_writers_with_one_precondition_one_wins(control: ControlPlane) -> None:
    agent = new_agent(control)
    async with client(control) as http:
        answers = await asyncio.gather(*(send(http, agent, "one", name(str(n), expect_version=0)) for n in range(30)))
    won = [ok(answer)["blocks"][0]["value"]["name"] for answer in answers if answer.status_code == 200]
    lost = [answer.json()["error"] for answer in answers if answer.status_code == 409]
    assert len(won) == 1
    assert len(lost) == 29
    assert {error["current"]["value"]["name"] for error in lost} == set(won)


async def test_who_waits_for_a_block_that_others_hold_holds_up_nobody(
    control: ControlPlane, database: DatabaseUrls
) -> None:
    agent = new_agent(control)
    async with client(control) as http:
        for user in ("held", "free"):
            ok(await send(http, agent, user, name("first")))
        with psycopg.connect(database.admin_url) as admin:
            admin.execute(
                "select from trunkline.memories m join trunkline.memory_stores s on s.id = m.store_id "
                "where s.subject = 'held' for update of m"
            )
            held = [asyncio.create_task(send(http, agent, "held", bought(f"kettle {n}"))) for n in range(4)]
            others = await asyncio.gather(*(send(http, agent, "free", bought(f"item {n}")) for n in range(20)))
            assert [answer.status_code for answer in others] == [200] * 20
            assert not any(task.done() for task in held)
        assert [answer.status_code for answer in await asyncio.gather(*held)] == [200] * 4
    assert len(history(control, agent, "held")) == 5
    assert len(history(control, agent, "free")) == 21


async def test_keys_are_asked_for_each_and_see_their_own_tenant(control: ControlPlane) -> None:
    agent = new_agent(control, "mine")
    stranger = control.another_tenant("stranger")
    async with client(control) as mine, client(control, stranger) as theirs, client(control, "sk-tl-nobody") as nobody:
        answers = await asyncio.gather(
            *(send(mine, agent, "one", bought(f"item {n}")) for n in range(10)),
            *(send(theirs, agent, "one", bought("theirs")) for _ in range(10)),
            *(send(nobody, agent, "one", bought("nobody's")) for _ in range(10)),
        )
    assert [answer.status_code for answer in answers] == [200] * 10 + [404] * 10 + [401] * 10
    values = [version["value"]["recent_purchases"] for version in history(control, agent, "one")]
    assert len(values[-1]) == 10
    assert not {"theirs", "nobody's"} & set(values[-1])


async def test_what_keys_are_granted_holds_for_each_write_of_many(control: ControlPlane) -> None:
    """Keys of one agent with different grants, one of a single user, and sound and bad writes of each at one moment."""
    agent = new_agent(control)
    users = control.new_key(scopes=["memory"], stores=[{"scope": "user", "access": "read_write"}, {"scope": "agent"}])
    team = control.new_key(scopes=["memory"], stores=[{"scope": "agent", "access": "read_write"}])
    anns = control.new_key(scopes=["memory"], user_id="ann")
    calls = control.new_key(scopes=["inference"])
    join = {"op": "append", "block": "team", "field": "members"}
    async with (
        client(control, users) as a,
        client(control, team) as b,
        client(control, anns) as c,
        client(control, calls) as d,
    ):
        answers = await asyncio.gather(
            *(send(a, agent, "bob", bought(f"bob's {n}")) for n in range(10)),
            *(send(a, agent, "bob", join | {"value": f"a {n}"}) for n in range(5)),
            *(send(a, agent, "bob", bought("half"), join | {"value": "half"}) for _ in range(5)),
            *(send(a, agent, "bob", name(7)) for _ in range(5)),
            *(send(a, agent, "bob", name("x", expect_version=99)) for _ in range(5)),
            *(send(b, agent, "bob", join | {"value": f"b {n}"}) for n in range(10)),
            *(send(b, agent, "bob", bought("b's")) for _ in range(5)),
            *(send(c, agent, "bob", bought(f"ann's {n}")) for n in range(10)),
            *(send(d, agent, "bob", bought("d's")) for _ in range(5)),
        )
    expected = [200] * 10 + [403] * 10 + [400] * 5 + [409] * 5 + [200] * 10 + [403] * 5 + [200] * 10 + [403] * 5
    assert [answer.status_code for answer in answers] == expected
    codes = [answer.json()["error"].get("code") for answer in answers if answer.status_code == 403]
    assert codes == ["store_not_granted"] * 15 + ["missing_scope"] * 5
    bobs, anns_own = history(control, agent, "bob"), history(control, agent, "ann")
    assert sorted(bobs[-1]["value"]["recent_purchases"]) == sorted(f"bob's {n}" for n in range(10))
    assert sorted(anns_own[-1]["value"]["recent_purchases"]) == sorted(f"ann's {n}" for n in range(10))
    with control.http() as http:
        keys = {key["id"]: key for key in ok(http.get("/v1/keys"))["data"]}
        members = ok(http.get(f"/v1/agents/{agent}/memory/team/history"))["data"]
        told = ok(http.get(f"/v1/agents/{agent}/memory/team"))["value"]["members"]
    assert sorted(told) == sorted(f"b {n}" for n in range(10))
    for versions, text in ((bobs, users), (members, team), (anns_own, anns)):
        by = {version["actor"]["id"] for version in versions}
        assert [keys[one]["hint"] for one in by] == [text[-4:]]


async def test_tenants_with_agents_of_one_name_write_their_own(control: ControlPlane) -> None:
    stranger = control.another_tenant("stranger")
    new_agent(control, "twin")
    new_agent(control, "twin", key=stranger)
    async with client(control) as mine, client(control, stranger) as theirs:
        answers = await asyncio.gather(
            *(send(mine, "twin", "u", bought(f"my {n}")) for n in range(20)),
            *(send(theirs, "twin", "u", bought(f"their {n}")) for n in range(20)),
            *(send(theirs, "twin", "u", name("x", expect_version=99)) for _ in range(5)),
        )
    assert [answer.status_code for answer in answers] == [200] * 40 + [409] * 5
    for key, who in ((control.key, "my"), (stranger, "their")):
        with control.http(key) as http:
            kept = ok(http.get("/v1/agents/twin/memory/customer", params={"user_id": "u"}))
        assert kept["version"] == 20
        assert sorted(kept["value"]["recent_purchases"]) == sorted(f"{who} {n}" for n in range(20))
    others = [answer.json()["error"]["current"]["value"] for answer in answers[40:]]
    assert not any("my" in item for value in others for item in value.get("recent_purchases", ()))


async def test_a_key_that_is_revoked_meanwhile_writes_nothing_more(control: ControlPlane) -> None:
    agent = new_agent(control)
    text = control.new_key(scopes=["memory"])
    async with client(control, text) as http, client(control) as admin:
        keys = ok(await admin.get("/v1/keys"))["data"]
        (key,) = (key["id"] for key in keys if key["hint"] == text[-4:])
        before = [asyncio.create_task(send(http, agent, "u", bought(f"before {n}"))) for n in range(10)]
        ok(await admin.delete(f"/v1/keys/{key}"))
        after = await asyncio.gather(*(send(http, agent, "u", bought(f"after {n}")) for n in range(10)))
        acknowledged = sum(answer.status_code == 200 for answer in await asyncio.gather(*before))
    assert [answer.status_code for answer in after] == [401] * 10
    assert len(history(control, agent, "u")) == acknowledged


async def test_writes_of_blocks_are_in_the_audit_log_neither_alone_nor_together(control: ControlPlane) -> None:
    """Versions say who wrote; and no change is told as another request's."""
    agent = new_agent(control)
    with control.http() as http:
        before = ok(http.get("/v1/audit_log"))["data"]
    async with client(control) as one:
        for answer in await asyncio.gather(*(send(one, agent, f"u {n}", bought("x")) for n in range(20))):
            ok(answer)
    with control.http() as http:
        assert ok(http.get("/v1/audit_log"))["data"] == before


def test_what_was_acknowledged_outlives_a_killed_database() -> None:
    """Writers without idempotency keys, the server killed under them: nothing told is lost, nothing there twice."""
    items = {"scope": "user", "fields": {"recent_purchases": {"type": "array"}}}
    with temporary_home() as home:
        server = EmbeddedPostgres(home)
        info = server.start()
        try:
            migrate(info.url(), embedded=True)
            urls = DatabaseUrls("trunkline", info.url(), info.url("trunkline_control"), info.url("trunkline_gateway"))
            with running(urls) as control:
                agent = new_agent(control, memory={"blocks": {"customer": items}})
                told = asyncio.run(write_while_killing(control, agent, server))
                for user in range(3):
                    kept = [version["operations"][0]["value"] for version in history(control, agent, f"user {user}")]
                    assert len(kept) == len(set(kept))
                    assert {item for item in told if int(item.split(".")[0]) % 3 == user} <= set(kept)
        finally:
            server.destroy()


async def write_while_killing(control: ControlPlane, agent: str, server: EmbeddedPostgres) -> list[str]:
    """Write with 20 writers, until each has written after the second recovery; return what was acknowledged."""
    told: list[str] = []
    recovered = asyncio.Event()

    async def writer(http: httpx.AsyncClient, number: int) -> None:
        turn = after = 0
        while after < 3:
            item = f"{number}.{turn}"
            answer = await send(http, agent, f"user {number % 3}", bought(item))
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == 200:
                told.append(item)
                after += recovered.is_set()
            turn += 1

    async def kill() -> None:
        for _ in range(2):
            enough = len(told) + 60
            while len(told) < enough:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.001)
            postmaster = read_postmaster(server.data)
            assert postmaster is not None
            os.kill(postmaster.pid, signal.SIGKILL)
            await asyncio.to_thread(server.start)
        recovered.set()

    async with client(control) as http:
        await asyncio.gather(kill(), *(writer(http, number) for number in range(20)))
    return told
