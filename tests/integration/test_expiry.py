"""Retention of memory stores: what is past its time goes, and what stood within it can still be read."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from support.control_plane import ControlPlane
from support.memory import ok
from support.postgres import DatabaseUrls
from trunkline.scheduling import retention
from trunkline.store.pool import open_database


def expire(database: DatabaseUrls) -> None:
    """Do what a worker does once a day."""

    async def once() -> None:
        async with open_database(database.control_url) as pool:
            await retention.expire_memory(pool)
            await retention.expire_prompts(pool)

    asyncio.run(once())


def older(database: DatabaseUrls, days: int) -> None:
    """Let days go by over all that is stored, and for the worker too."""
    with psycopg.connect(database.admin_url) as admin:
        for table in ("passages", "memory_versions", "memories"):
            admin.execute(f"update trunkline.{table} set created_at = created_at - make_interval(days => %s)", (days,))
        admin.execute("update trunkline.memories set updated_at = updated_at - make_interval(days => %s)", (days,))
        admin.execute("update trunkline.memory_stores set expired_at = expired_at - make_interval(days => %s)", (days,))


def count(database: DatabaseUrls, table: str) -> int:
    with psycopg.connect(database.admin_url) as admin:
        row = admin.execute(f"select count(*) from trunkline.{table}").fetchone()
        assert row is not None
        return int(row[0])


def test_what_is_past_its_time_goes_and_history_within_it_stays(control: ControlPlane, database: DatabaseUrls) -> None:
    with control.http() as http:
        kept = ok(http.post("/v1/memory_stores", json={"name": "for ever"}))["id"]
        store = ok(http.post("/v1/memory_stores", json={"name": "a month", "expire_after_days": 30}))["id"]
        for each in (kept, store):
            ok(http.post(f"/v1/memory_stores/{each}/passages", json={"passages": [{"text": "an old zebrafax"}]}))
            ok(http.post(f"/v1/memory_stores/{each}/memories", json={"path": "/idle", "content": "idle"}))
        path = f"/v1/memory_stores/{store}/memories"
        busy = ok(http.post(path, json={"path": "/busy", "content": "1"}))["id"]
        dropped = ok(http.post(path, json={"path": "/dropped", "content": "1"}))["id"]
        ok(http.post(f"{path}/{busy}", json={"content": "2"}))
        ok(http.delete(f"{path}/{dropped}"))
        older(database, 29)
        expire(database)
        assert (count(database, "passages"), count(database, "memories")) == (2, 3), "nothing is past its time"
        older(database, 2)
        ok(http.post(f"{path}/{busy}", json={"content": "3"}))
        ok(http.post(f"/v1/memory_stores/{store}/passages", json={"passages": [{"text": "a new zebrafax"}]}))
        expire(database)

        def found(where: str) -> list[str]:
            answer = http.post(f"/v1/memory_stores/{where}/search", json={"query": "zebrafax"})
            return [passage["text"] for passage in ok(answer)["data"]]

        assert (found(store), found(kept)) == (["a new zebrafax"], ["an old zebrafax"])
        assert [memory["path"] for memory in ok(http.get(path))["data"]] == ["/busy"]
        versions = ok(http.get(f"/v1/memory_stores/{store}/memory_versions?view=full"))["data"]
        told = {(version["memory_id"], version["content"]) for version in versions}
        assert told == {(busy, "3"), (busy, "2")}, "what stood a month ago, and since"
        assert len(ok(http.get(f"/v1/memory_stores/{kept}/memories"))["data"]) == 1


def test_many_rows_go_in_batches(
    control: ControlPlane, database: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_ROWS_AT_ONCE", 7)
    with control.http() as http:
        for name in ("a", "b"):
            store = ok(http.post("/v1/memory_stores", json={"name": name, "expire_after_days": 1}))["id"]
            texts: list[dict[str, Any]] = [{"text": f"number {number}"} for number in range(40)]
            ok(http.post(f"/v1/memory_stores/{store}/passages", json={"passages": texts}))
            for number in range(10):
                given = {"path": f"/{number}", "content": "x"}
                ok(http.post(f"/v1/memory_stores/{store}/memories", json=given))
    older(database, 2)
    expire(database)
    tables = ("passages", "passage_tail", "memories", "memory_versions")
    assert {table: count(database, table) for table in tables} == dict.fromkeys(tables, 0)


def prompts(database: DatabaseUrls) -> set[str]:
    with psycopg.connect(database.admin_url) as admin:
        return {f"sesn_{row[0].hex}" for row in admin.execute("select session_id from trunkline.session_prompts")}


def test_beginnings_of_prompts_go_when_they_are_of_no_use_and_when_a_store_that_they_tell_of_forgets(
    control: ControlPlane, database: DatabaseUrls
) -> None:
    with control.http() as http:
        agent = ok(http.post("/v1/agents", json={"name": "clerk", "model": "gpt"}))["id"]
        store = ok(http.post("/v1/memory_stores", json={"name": "handbook"}))["id"]
        memory = ok(http.post(f"/v1/memory_stores/{store}/memories", json={"path": "/a", "content": "old"}))["id"]
        attached: list[dict[str, Any]] = [{"type": "memory_store", "memory_store_id": store, "access": "read_only"}]
        idle, reader, plain = (
            ok(http.post("/v1/sessions", json={"agent": agent, "resources": resources}))["id"]
            for resources in ([], attached, [])
        )
        with psycopg.connect(database.admin_url) as admin:
            admin.execute(
                "insert into trunkline.session_prompts (tenant_id, session_id, agent_version, prefix, deltas)"
                " select tenant_id, id, 1, 'old', '[]' from trunkline.sessions"
            )
            admin.execute(
                "insert into trunkline.prompt_prefixes (tenant_id, agent_id, user_id, hash, prefix, said_at)"
                " select tenant_id, agent_id, 'ada', hash, 'old', now() - age from trunkline.sessions,"
                " (values ('a'::bytea, interval '25 h'), ('b', '23 h')) as text (hash, age) where id = %s::uuid",
                (idle.removeprefix("sesn_"),),
            )
            admin.execute(
                "update trunkline.sessions set updated_at = updated_at - interval '25 hours' where id = %s::uuid",
                (idle.removeprefix("sesn_"),),
            )
        expire(database)
        assert prompts(database) == {reader, plain}
        assert count(database, "prompt_prefixes") == 1
        ok(http.post(f"/v1/memory_stores/{store}/memories/{memory}", json={"content": "new"}))
        versions = ok(http.get(f"/v1/memory_stores/{store}/memory_versions"))["data"]
        oldest = min(versions, key=lambda version: version["created_at"])["id"]
        ok(http.post(f"/v1/memory_stores/{store}/memory_versions/{oldest}/redact"))
        assert prompts(database) == {plain}


def test_a_store_tells_and_changes_for_how_long_it_keeps(control: ControlPlane) -> None:
    with control.http() as http:
        made = ok(http.post("/v1/memory_stores", json={"name": "n"}))
        assert made["expire_after_days"] is None
        path = f"/v1/memory_stores/{made['id']}"
        assert ok(http.post(path, json={"expire_after_days": 90}))["expire_after_days"] == 90
        assert ok(http.post(path, json={"name": "m"}))["expire_after_days"] == 90
        assert ok(http.get(path))["expire_after_days"] == 90
        assert ok(http.post(path, json={"expire_after_days": 0}))["expire_after_days"] is None
        for bad in (-1, 36_501, 1.5, "7", True):
            assert http.post(path, json={"expire_after_days": bad}).status_code == 400, bad
        assert http.post("/v1/memory_stores", json={"name": "n", "expire_after_days": 0}).status_code == 400
    with control.http(control.another_tenant()) as http:
        assert http.post(path, json={"expire_after_days": 1}).status_code == 404
