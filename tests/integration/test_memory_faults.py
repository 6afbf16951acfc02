"""Blocks and what goes wrong: bad values and definitions, other tenants, a database that goes away."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from support.control_plane import ControlPlane, running
from support.memory import new_agent, ok, write
from support.postgres import DatabaseUrls, temporary_home
from trunkline.store.embedded import EmbeddedPostgres
from trunkline.store.migrate import migrate

BAD_VALUES: list[Any] = [
    "x" * 10_000_000,
    [0] * 20_000,
    {f"k{number}": 0 for number in range(10_001)},
    "a\0b",
]


@pytest.mark.parametrize("value", BAD_VALUES, ids=["10 MB", "20,000 items", "10,001 fields", "NUL"])
def test_values_that_cannot_be_kept_are_refused(plane: ControlPlane, http: httpx.Client, value: Any) -> None:
    agent = ok(http.post("/v1/agents/apply", json={"definition": {"name": "bad", "memory": BAD_MEMORY}}))["agent"]["id"]
    answer = write(http, agent, "any", {"op": "set", "field": "value", "value": value})
    assert answer.status_code in (400, 413), answer.text[:200]
    assert len(answer.text) < 2_000
    assert ok(http.get(f"/v1/agents/{agent}/memory/any"))["version"] == 0


BAD_MEMORY: dict[str, Any] = {"blocks": {"any": {"scope": "agent", "fields": {"value": {}}}}}
BOMBS: list[Any] = [
    {"fields": {f"f{number}": {} for number in range(10_000)}},
    {"fields": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
    {
        "fields": {"a": {"$ref": "#/$defs/d0"}},
        "$defs": {
            f"d{level}": {"prefixItems": [{"$ref": f"#/$defs/d{level + 1}"}] * 10} if level < 9 else {}
            for level in range(10)
        },
    },
    {"fields": {"a": {"type": "string", "pattern": "(a+)+(?=b)"}}},
    {"fields": {"a": {"type": "string", "pattern": "(a{1000}){1000}"}}},
    {"fields": {"a": {"$ref": "http://127.0.0.1:1/schema"}}},
    {"fields": {"a": {"stale_after": "1 fortnight"}}},
    {"fields": {"a": {"priority": 1e9}}},
    {"fields": {"a": {}}, "token_budget": -1},
    {"fields": {"a": {}}, "migrate": [{"rename": "a"}]},
    {"fields": {"a": {}}, "shared_with": ["x"]},
    {"from": "../../etc"},
]


@pytest.mark.parametrize("block", BOMBS)
def test_definitions_that_would_harm_are_refused(http: httpx.Client, block: Any) -> None:
    began = time.monotonic()
    answer = http.post("/v1/agents", json={"name": "bomb", "memory": {"blocks": {"b": block}}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("memory")
    assert time.monotonic() - began < 60, "not a measure: a bomb would take for ever"


def test_a_pattern_is_matched_in_linear_time(plane: ControlPlane, http: httpx.Client) -> None:
    fields = {"a": {"type": "string", "pattern": "^(a+)+$"}}
    agent = new_agent(plane, "pattern", {"blocks": {"b": {"scope": "agent", "fields": fields}}})
    refused = write(http, agent, "b", {"op": "set", "field": "a", "value": "a" * 50_000 + "b"})
    assert refused.status_code == 400
    assert "must match the regular expression" in refused.text


def test_the_applications_role_sees_one_tenant_without_any_filter(plane: ControlPlane, urls: DatabaseUrls) -> None:
    """Row level security, by the role that the control plane logs in with, on all that blocks are made of."""
    agent = new_agent(plane, "isolated")
    with plane.http() as http:
        ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Secret"}, user_id="cus_42"))
    other = plane.another_tenant("stranger")
    with plane.http(other) as http:
        theirs = ok(http.post("/v1/agents", json={"name": "theirs", "memory": BAD_MEMORY}))["id"]
        ok(write(http, theirs, "any", {"op": "set", "field": "value", "value": 1}))
    with psycopg.connect(urls.admin_url) as admin:
        ids = admin.execute("select name, id from trunkline.tenants where name in ('default', 'stranger')").fetchall()
        tenant: dict[str, Any] = dict(ids)
        agent_id = agent.removeprefix("agent_")
    lock = (
        "select count(*) from trunkline.lock_blocks(%s, null, %s, null, jsonb_build_array(jsonb_build_object("
        "'nth', 0, 'block', 'customer', 'user_id', 'cus_42', 'store_id', gen_random_uuid())), now())"
    )
    with psycopg.connect(urls.control_url) as control:
        for table in ("agent_blocks", "memory_stores", "memories", "memory_versions"):
            control.execute("select set_config('trunkline.tenant', '', true)")
            assert control.execute(f"select count(*) from trunkline.{table}").fetchone() == (0,)
            control.execute("select set_config('trunkline.tenant', %s, true)", (str(tenant["stranger"]),))
            seen = control.execute(f"select distinct tenant_id from trunkline.{table}").fetchall()
            assert seen == [(tenant["stranger"],)], table
        assert control.execute(lock, (tenant["default"], agent_id)).fetchone() == (0,)
        blocks = control.execute(
            "select trunkline.rendered_blocks(%s, %s, 1, 'cus_42', null)", (tenant["default"], agent_id)
        ).fetchone()
        assert not blocks or not blocks[0]
    with psycopg.connect(urls.gateway_url) as gateway, pytest.raises(psycopg.errors.InsufficientPrivilege):
        gateway.execute(lock, (tenant["default"], agent_id))


def test_a_database_that_restarts_loses_no_write_and_doubles_none() -> None:
    """Writers go on through a restart, with a key each; what they were told was written is there, once."""
    with temporary_home() as home:
        server = EmbeddedPostgres(home)
        info = server.start()
        try:
            migrate(info.url(), embedded=True)
            urls = DatabaseUrls("trunkline", info.url(), info.url("trunkline_control"), info.url("trunkline_gateway"))
            with running(urls) as plane:
                agent = new_agent(
                    plane, "restarted", {"blocks": {"b": {"scope": "agent", "fields": {"n": {}, "l": {}}}}}
                )
                begun = threading.Barrier(5)

                def writer(number: int) -> list[int]:
                    seen = []
                    with plane.http() as http:
                        for turn in range(8):
                            operations = (
                                {"op": "increment", "field": "n", "value": 1},
                                {"op": "append", "field": "l", "value": f"{number}.{turn}"},
                            )
                            status = 0
                            while status != 200:
                                key = f"{number}.{turn}"
                                status = write(http, agent, "b", *operations, idempotency_key=key).status_code
                                assert status in (200, 503)
                                seen.append(status)
                            if turn == 1:
                                begun.wait(30)
                    return seen

                with ThreadPoolExecutor(4) as threads:
                    writers = [threads.submit(writer, number) for number in range(4)]
                    begun.wait(30)
                    server.stop()
                    server.start()
                    for one in writers:
                        assert one.result(60).count(200) == 8
                with plane.http() as http:
                    state = ok(http.get(f"/v1/agents/{agent}/memory/b"))
                assert state["value"]["n"] == state["version"] == 32
                assert sorted(state["value"]["l"]) == sorted(f"{a}.{b}" for a in range(4) for b in range(8))
        finally:
            server.destroy()
