"""Writes that go together in one transaction: nobody is to notice, but by the time that they take."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import psycopg

from support.control_plane import ControlPlane
from support.memory import new_agent, ok
from support.postgres import DatabaseUrls

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
        found = ok(http.get(f"/v1/agents/{agent}/memory/customer/history", params={"user_id": user}))["data"]
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
