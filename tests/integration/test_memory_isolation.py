"""Nobody reaches another tenant's memory: by its ids, by its names, or by a query that forgets to filter."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from support.control_plane import ControlPlane
from support.memory import SESSION, new_agent, ok, tool, write
from support.postgres import DatabaseUrls

ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/v1/memory_stores/{store}", None),
    ("POST", "/v1/memory_stores/{store}", {"name": "taken"}),
    ("PATCH", "/v1/memory_stores/{store}", {"name": "taken"}),
    ("POST", "/v1/memory_stores/{store}/archive", None),
    ("DELETE", "/v1/memory_stores/{store}", None),
    ("GET", "/v1/memory_stores/{store}/memories", None),
    ("POST", "/v1/memory_stores/{store}/memories", {"path": "/x", "content": "taken"}),
    ("GET", "/v1/memory_stores/{store}/memories/{memory}", None),
    ("POST", "/v1/memory_stores/{store}/memories/{memory}", {"content": '{"name":"taken"}'}),
    ("PATCH", "/v1/memory_stores/{store}/memories/{memory}", {"content": '{"name":"taken"}'}),
    ("DELETE", "/v1/memory_stores/{store}/memories/{memory}", None),
    ("GET", "/v1/memory_stores/{store}/memory_versions", None),
    ("GET", "/v1/memory_stores/{store}/memory_versions/{version}", None),
    ("POST", "/v1/memory_stores/{store}/memory_versions/{version}/restore", None),
    ("GET", "/v1/memory_stores/{store}/memory_versions/{version}/diff?since={version}", None),
    ("GET", "/v1/agents/{agent}/memory?user_id=cus_42&as_of=2999-01-01T00:00:00Z", None),
    ("GET", "/v1/agents/{agent}/memory/customer/diff?user_id=cus_42&from_version=2", None),
    ("POST", "/v1/agents/{agent}/memory/customer/restore", {"user_id": "cus_42", "version": 2}),
    ("POST", "/v1/memory_stores/{store}/memory_versions/{version}/redact", None),
    ("GET", "/v1/agents/{agent}/memory?user_id=cus_42", None),
    ("GET", "/v1/agents/{agent}/memory/customer?user_id=cus_42", None),
    ("GET", "/v1/agents/{agent}/memory/customer/history?user_id=cus_42", None),
    (
        "POST",
        "/v1/agents/{agent}/memory",
        {"user_id": "cus_42", "operations": [{"op": "set", "block": "customer", "field": "name", "value": "taken"}]},
    ),
    (
        "POST",
        "/v1/agents/{agent}/memory/customer",
        {"user_id": "cus_42", "operations": [{"op": "set", "field": "name", "value": "taken"}]},
    ),
    (
        "POST",
        "/v1/agents/{agent}/memory/customer/operations",
        {"user_id": "cus_42", "operations": [{"op": "set", "field": "name", "value": "taken"}]},
    ),
    (
        "POST",
        "/v1/agents/{agent}/memory_tools",
        {"name": "memory_read", "input": {}, "user_id": "cus_42", "session_id": SESSION},
    ),
]
UNBOUND: list[tuple[str, str, Any]] = [("GET", "/v1/memory_stores", None), ("POST", "/v1/memory_stores", {"name": "n"})]


def victim(control: ControlPlane) -> dict[str, str]:
    """An agent with a block of two versions in the default tenant."""
    agent = new_agent(control, "victim")
    with control.http() as http:
        ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Secret"}, user_id="cus_42"))
        state = ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Ada"}, user_id="cus_42"))
        history = ok(http.get(f"/v1/agents/{agent}/memory/customer/history?user_id=cus_42"))["data"]
    return {
        "agent": agent,
        "store": state["store_id"],
        "memory": state["memory_id"],
        "version": history[-1]["id"],
    }


def everything(database: DatabaseUrls) -> list[Any]:
    tables = ("memory_stores", "memories", "memory_versions", "passages")
    with psycopg.connect(database.admin_url) as connection:
        return [connection.execute(f"select t::text from trunkline.{name} t order by 1").fetchall() for name in tables]


def ask(http: httpx.Client, route: tuple[str, str, Any], there: dict[str, str]) -> httpx.Response:
    method, path, body = route
    return http.request(method, path.format(**there), json=body)


def test_every_route_hides_another_tenants_memory(control: ControlPlane, database: DatabaseUrls) -> None:
    there = victim(control)
    before = everything(database)
    with control.http(control.another_tenant()) as http:
        for route in ROUTES:
            answer = ask(http, route, there)
            assert answer.status_code == 404, route
            assert "Secret" not in answer.text
            assert "Ada" not in answer.text
        by_name = [ask(http, route, {**there, "agent": "victim"}) for route in ROUTES if "{agent}" in route[1]]
        assert {answer.status_code for answer in by_name} == {404}
        assert ok(http.get("/v1/memory_stores?include_archived=true"))["data"] == []
    assert everything(database) == before


def test_the_same_routes_serve_the_owner(control: ControlPlane) -> None:
    """So that the 404s above are not those of wrong paths."""
    there = victim(control)
    last = {"POST /v1/memory_stores/{store}/archive", "DELETE /v1/memory_stores/{store}"}
    with control.http() as http:
        for route in sorted(ROUTES, key=lambda route: (f"{route[0]} {route[1]}" in last, route[0] == "DELETE")):
            answer = ask(http, route, there)
            assert answer.status_code == 200, (route, answer.text)


def test_ids_of_one_store_do_not_open_another(control: ControlPlane) -> None:
    there = victim(control)
    with control.http() as http:
        other = ok(http.post("/v1/memory_stores", json={"name": "other"}))["id"]
        for route in ROUTES:
            if "{memory}" in route[1] or "{version}" in route[1]:
                assert ask(http, route, {**there, "store": other}).status_code == 404, route


def test_a_key_without_the_scope_is_refused(control: ControlPlane, database: DatabaseUrls) -> None:
    there = victim(control)
    before = everything(database)
    with control.http(control.new_key(scopes=["inference", "manage"])) as http:
        for route in [*ROUTES, *UNBOUND]:
            if not route[1].endswith("memory_tools"):
                answer = ask(http, route, there)
                assert answer.status_code == 403, route
                assert "'memory'" in answer.json()["error"]["message"]
    with control.http(control.new_key(scopes=["memory", "manage"])) as http:
        assert tool(http, there["agent"], "memory_read", {}).status_code == 403
    with control.anonymous() as http:
        assert {ask(http, route, there).status_code for route in [*ROUTES, *UNBOUND]} == {401}
    assert everything(database) == before


def test_the_agents_users_do_not_see_each_other(control: ControlPlane) -> None:
    there = victim(control)
    with control.http() as http:
        read = ok(tool(http, there["agent"], "memory_read", {}, user_id="cus_43"))["content"]
    assert "Ada" not in read


@pytest.mark.parametrize("table", ["memory_stores", "memories", "memory_versions", "passages", "agent_blocks"])
def test_row_level_security_needs_no_filter(control: ControlPlane, database: DatabaseUrls, table: str) -> None:
    victim(control)
    other = control.another_tenant()
    agent = new_agent(control, "mine", key=other)
    with control.http(other) as http:
        ok(write(http, agent, "customer", {"op": "set", "field": "name", "value": "Mine"}, user_id="u"))
    with psycopg.connect(database.admin_url) as admin:
        admin.execute(
            "insert into trunkline.passages (tenant_id, store_id, id, role, content, tokens, created_at) "
            "select tenant_id, id, gen_random_uuid(), 'user', 'x', 1, now() from trunkline.memory_stores"
        )
        tenants: dict[str, UUID] = dict(admin.execute("select name, id from trunkline.tenants").fetchall())
    select = f"select distinct tenant_id from trunkline.{table}"
    with psycopg.connect(database.control_url) as connection:
        assert connection.execute(select).fetchall() == [], "no tenant set, no rows"
        connection.execute("select set_config('trunkline.tenant', %s, true)", (str(tenants["other"]),))
        assert connection.execute(select).fetchall() == [(tenants["other"],)]
        changed = connection.execute(f"delete from trunkline.{table} where tenant_id = %s", (tenants["default"],))
        assert changed.rowcount == 0
    with psycopg.connect(database.gateway_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(select)


def test_a_row_cannot_be_written_into_another_tenant(control: ControlPlane, database: DatabaseUrls) -> None:
    control.another_tenant()
    with psycopg.connect(database.admin_url) as admin:
        tenants: dict[str, UUID] = dict(admin.execute("select name, id from trunkline.tenants").fetchall())
    with psycopg.connect(database.control_url) as connection:
        connection.execute("select set_config('trunkline.tenant', %s, true)", (str(tenants["other"]),))
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            connection.execute(
                "insert into trunkline.memory_stores (tenant_id, id, name, scope, created_at, updated_at) "
                "values (%s, gen_random_uuid(), 'n', 'org', now(), now())",
                (tenants["default"],),
            )
