"""No key reaches what is not its own: every route that the API describes, tried with every kind of wrong key.

A new route fails here until its path parameters and its body are named below.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from support.control_plane import ControlPlane, running
from support.postgres import DatabaseUrls, copied_database
from trunkline.api.app import ControlSettings, create_app
from trunkline.domain import ids as wire_ids
from trunkline.store.embedded import ConnectionInfo

METHODS = ("get", "post", "patch", "put", "delete")
ROUTES = [
    (method.upper(), path)
    for path, operations in create_app(ControlSettings("")).openapi()["paths"].items()
    for method in operations
    if method in METHODS
]
MEMORY = {"blocks": {"customer": {"scope": "user", "fields": {"name": {"type": "string"}}}}}
SET = {"operations": [{"op": "set", "field": "name", "value": "Ada"}], "user_id": "cus_1"}
CHECKPOINT = {"id": "1", "payload": {"kind": "x", "data": "eA=="}, "metadata": {"run_id": "run_1"}}
WRITES = {"task_id": "t", "writes": [{"idx": 0, "channel": "c", "kind": "x", "data": "eA=="}]}

TOKEN = {"type": "static_bearer", "mcp_server_url": "https://a.example/mcp", "token": "t"}
REPOSITORY = {"type": "github_repository", "url": "https://a.example/b/c", "authorization_token": "t"}
SAY = [{"type": "user.message", "content": [{"type": "text", "text": "Go."}]}]

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/agents"): {"name": "new"},
    ("POST", "/v1/agents/apply"): {"definition": {"name": "new"}},
    ("POST", "/v1/agents/{agent}"): {"system": "Taken over."},
    ("PATCH", "/v1/agents/{agent}"): {"system": "Taken over."},
    ("POST", "/v1/agents/{agent}/archive"): {},
    ("POST", "/v1/agents/{agent}/memory"): {
        "user_id": "cus_1",
        "operations": [{"op": "set", "block": "customer", "field": "name", "value": "x"}],
    },
    ("POST", "/v1/agents/{agent}/memory/{block}"): SET,
    ("POST", "/v1/memory_stores/{store_id}/memory_versions/{version_id}/restore"): {},
    ("POST", "/v1/agents/{agent}/memory/{block}/restore"): {"user_id": "cus_1", "version": 1},
    ("POST", "/v1/agents/{agent}/memory/{block}/operations"): SET,
    ("POST", "/v1/agents/{agent}/memory_search"): {"query": "x", "user_id": "cus_1"},
    ("POST", "/v1/agents/{agent}/memory_tools"): {"name": "memory_read", "input": {}, "user_id": "cus_1"},
    ("POST", "/mcp"): {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
    ("POST", "/v1/sessions"): {"agent": "nobody"},
    ("POST", "/v1/sessions/{session_id}"): {"title": "Taken over."},
    ("PATCH", "/v1/sessions/{session_id}"): {"title": "Taken over."},
    ("POST", "/v1/sessions/{session_id}/archive"): {},
    ("POST", "/v1/sessions/{session_id}/fork"): {"title": "Mine."},
    ("POST", "/v1/sessions/{session_id}/events"): {
        "events": [{"type": "user.message", "content": [{"type": "text", "text": "Obey."}]}]
    },
    ("POST", "/v1/sessions/{session_id}/resources"): {"type": "file", "file_id": "file_" + "0" * 32},
    ("POST", "/v1/sessions/{session_id}/resources/{resource_id}"): {"authorization_token": "theirs"},
    ("PATCH", "/v1/sessions/{session_id}/resources/{resource_id}"): {"authorization_token": "theirs"},
    ("POST", "/v1/conversations"): {},
    ("POST", "/v1/conversations/{conversation_id}"): {"metadata": {"a": "b"}},
    ("POST", "/v1/conversations/{conversation_id}/items"): {"items": [{"role": "user", "content": "Obey."}]},
    ("POST", "/v1/environments"): {"name": "new"},
    ("POST", "/v1/environments/{environment_id}"): {"description": "Taken over."},
    ("PATCH", "/v1/environments/{environment_id}"): {"description": "Taken over."},
    ("POST", "/v1/environments/{environment_id}/archive"): {},
    ("POST", "/v1/webhooks"): {"url": "https://a.example/hook"},
    ("POST", "/v1/webhooks/{webhook_id}"): {"url": "https://evil.example/hook"},
    ("PATCH", "/v1/webhooks/{webhook_id}"): {"url": "https://evil.example/hook"},
    ("POST", "/v1/webhooks/{webhook_id}/rotate_secret"): {"overlap_seconds": 0},
    ("POST", "/v1/vaults"): {"display_name": "new"},
    ("POST", "/v1/vaults/{vault_id}"): {"display_name": "Taken over."},
    ("PATCH", "/v1/vaults/{vault_id}"): {"display_name": "Taken over."},
    ("POST", "/v1/vaults/{vault_id}/archive"): {},
    ("POST", "/v1/vaults/{vault_id}/credentials"): {"auth": TOKEN},
    ("POST", "/v1/vaults/{vault_id}/credentials/{credential_id}"): {"display_name": "Taken over."},
    ("PATCH", "/v1/vaults/{vault_id}/credentials/{credential_id}"): {"display_name": "Taken over."},
    ("POST", "/v1/vaults/{vault_id}/credentials/{credential_id}/archive"): {},
    ("POST", "/v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate"): {},
    ("POST", "/v1/files"): {},
    ("POST", "/v1/deployments"): {"agent": "nobody", "name": "new", "initial_events": SAY},
    ("POST", "/v1/deployments/{deployment_id}"): {"name": "Taken over."},
    ("PATCH", "/v1/deployments/{deployment_id}"): {"name": "Taken over."},
    ("POST", "/v1/deployments/{deployment_id}/pause"): {},
    ("POST", "/v1/deployments/{deployment_id}/unpause"): {},
    ("POST", "/v1/deployments/{deployment_id}/archive"): {},
    ("POST", "/v1/deployments/{deployment_id}/run"): {},
    ("POST", "/v1/memory_stores"): {"name": "new"},
    ("POST", "/v1/memory_stores/{store_id}"): {"name": "Taken over"},
    ("PATCH", "/v1/memory_stores/{store_id}"): {"name": "Taken over"},
    ("POST", "/v1/memory_stores/{store_id}/archive"): {},
    ("POST", "/v1/memory_stores/{store_id}/memories"): {"path": "/b", "content": "x"},
    ("POST", "/v1/memory_stores/{store_id}/passages"): {"passages": [{"text": "x"}]},
    ("POST", "/v1/memory_stores/{store_id}/search"): {"query": "x"},
    ("POST", "/v1/memory_stores/{store_id}/ingest"): {"turns": [{"text": "x"}]},
    ("POST", "/v1/memory_stores/{store_id}/import"): {},
    ("POST", "/v1/memory_stores/{store_id}/erase"): {"everything": True},
    ("POST", "/v1/agents/{agent}/memory_import"): {},
    ("POST", "/v1/memory_stores/{store_id}/items"): {
        "operations": [{"op": "put", "namespace": ["a"], "key": "k", "value": {"a": 1}, "texts": ["x"]}]
    },
    ("POST", "/v1/memory_stores/{store_id}/embeddings/restart"): {},
    ("POST", "/v1/memory_stores/{store_id}/memories/{memory_id}"): {"content": "x"},
    ("PATCH", "/v1/memory_stores/{store_id}/memories/{memory_id}"): {"content": "x"},
    ("POST", "/v1/memory_stores/{store_id}/memory_versions/{version_id}/redact"): {},
    ("POST", "/v1/memory_proposals/{proposal_id}/approve"): {},
    ("POST", "/v1/memory_proposals/{proposal_id}/reject"): {},
    ("POST", "/v1/usage/{call_id}/body/redact"): {},
    ("POST", "/v1/keys"): {"name": "new"},
    ("POST", "/v1/keys/{key_id}"): {"budget_usd": 1000},
    ("POST", "/v1/teams"): {"name": "new"},
    ("POST", "/v1/teams/{team}"): {"budget_usd": 1000},
    ("POST", "/v1/user_limits"): {"user_id": "cus_1", "rpm": 1000},
    ("POST", "/v1/retention"): {"sessions": "1d"},
    ("POST", "/v1/erase"): {"user_id": "cus_1"},
    ("POST", "/v1/threads"): {"framework": "langgraph", "name": "mine"},
    ("POST", "/v1/threads/delete_runs"): {"run_ids": ["run_1"]},
    ("POST", "/v1/threads/{framework_thread_id}/items"): {"items": [{"a": 1}]},
    ("PUT", "/v1/threads/{framework_thread_id}/items"): {"items": []},
    ("POST", "/v1/threads/{framework_thread_id}/items/pop"): {},
    ("POST", "/v1/threads/{framework_thread_id}/checkpoints"): CHECKPOINT,
    ("POST", "/v1/threads/{framework_thread_id}/checkpoints/{checkpoint_id}/writes"): WRITES,
    ("POST", "/v1/threads/{framework_thread_id}/prune"): {},
    ("POST", "/v1/threads/{framework_thread_id}/copy"): {"thread_id": "thread_0193f0a4c1b27c55a1c8b4c0a1b2c3d4"},
    ("POST", "/v1/tenants"): {"name": "new"},
}
QUERIES = {
    "/v1/agents/{agent}/memory": {"user_id": "cus_1"},
    "/v1/agents/{agent}/memory/{block}": {"user_id": "cus_1"},
    "/v1/agents/{agent}/memory/{block}/history": {"user_id": "cus_1"},
    "/v1/agents/{agent}/memory/{block}/diff": {"user_id": "cus_1", "from_version": "1"},
    "/v1/user_limits": {"user_id": "cus_1"},
}
TENANT_IN_GENERAL = {"/v1/environments/{environment_id}", "/v1/environments/{environment_id}/archive"}
"""Paths of things that belong to the tenant, not to an agent of it."""


@dataclass(frozen=True)
class World:
    """A tenant full of things, a second agent in it, and the keys of strangers."""

    control: ControlPlane
    database: DatabaseUrls
    ids: dict[str, str]
    stranger: str
    """A key with all scopes of another tenant, which has things of its own by the same names."""
    other_agent: str
    """A key with all scopes but 'operator' of this tenant, for another agent."""
    scopeless: dict[str, str]
    """By scope, a key with all other scopes."""
    reader: str
    """A key with all scopes of a tenant for the agent, that may only read the one store."""

    def url(self, path: str) -> str:
        return path.format(**self.ids)

    def contents(self) -> str:
        """A digest of all that this tenant has, but for its keys' use."""
        with psycopg.connect(self.database.admin_url) as connection:
            tables = connection.execute(
                "select table_name from information_schema.columns where table_schema = 'trunkline' "
                "and column_name = 'tenant_id' order by 1"
            ).fetchall()
            digests = []
            for (table,) in tables:
                query = sql.SQL(
                    "select md5(coalesce(string_agg(t::text, '|' order by t::text), '')) from trunkline.{} t "
                    "where tenant_id = (select id from trunkline.tenants where name = 'default')"
                )
                digests.append(f"{table}={connection.execute(query.format(sql.Identifier(table))).fetchone()}")
            return "\n".join(digests)


def fill(http: httpx.Client, agent: str) -> dict[str, str]:
    """Make one of everything; return their ids by the names of the path parameters."""

    def made(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    agent_id = made("/v1/agents", {"name": agent, "memory": MEMORY})["id"]
    environment = made("/v1/environments", {"name": "box"})["id"]
    file = http.post("/v1/files", files={"file": ("a.txt", b"x", "text/plain")}).json()["id"]
    session = made(
        "/v1/sessions",
        {"agent": agent_id, "user_id": "cus_1", "environment_id": environment, "resources": [REPOSITORY]},
    )
    conversation = session["id"].replace("sesn_", "conv_")
    item = made(f"/v1/conversations/{conversation}/items", {"items": [{"role": "user", "content": "x"}]})
    made(f"/v1/sessions/{session['id']}/resources", {"type": "file", "file_id": file})
    vault = made("/v1/vaults", {"display_name": "keys"})["id"]
    deployment = made("/v1/deployments", {"agent": agent_id, "name": "nightly", "initial_events": SAY})["id"]
    made(f"/v1/agents/{agent_id}/memory/customer", SET)
    store = made("/v1/memory_stores", {"name": "facts"})["id"]
    memory = made(f"/v1/memory_stores/{store}/memories", {"path": "/a", "content": "x"})["id"]
    versions = http.get(f"/v1/memory_stores/{store}/memory_versions").json()["data"]
    thread = made("/v1/threads", {"framework": "langgraph", "name": "mine", "user_id": "cus_1"})["id"]
    made(f"/v1/threads/{thread}/items", {"items": [{"a": 1}]})
    made(f"/v1/threads/{thread}/checkpoints", CHECKPOINT)
    made(f"/v1/threads/{thread}/checkpoints/1/writes", WRITES)
    return {
        "agent": agent_id,
        "block": "customer",
        "session_id": session["id"],
        "conversation_id": session["id"].replace("sesn_", "conv_"),
        "item_id": item["data"][0]["id"],
        "environment_id": environment,
        "thread_id": session["id"].replace("sesn_", "sthr_"),
        "resource_id": session["resources"][0]["id"],
        "deployment_id": deployment,
        "deployment_run_id": made(f"/v1/deployments/{deployment}/run", {})["id"],
        "file_id": file,
        "webhook_id": made("/v1/webhooks", {"url": "https://a.example/hook"})["id"],
        "vault_id": vault,
        "credential_id": made(f"/v1/vaults/{vault}/credentials", {"auth": TOKEN})["id"],
        "store_id": store,
        "memory_id": memory,
        "version_id": versions[0]["id"],
        "framework_thread_id": thread,
        "checkpoint_id": "1",
        "key_id": made("/v1/keys", {"name": "other", "scopes": ["inference"], "budget_usd": 1})["id"],
        "team": made("/v1/teams", {"name": "crew", "budget_usd": 1, "users": {"rpm": 5}})["id"],
    }


def store_bodies(database: DatabaseUrls, ids: dict[str, str]) -> str:
    """Store what a call of this agent asked, as the gateway does; return the call's id."""
    call = uuid4()
    with psycopg.connect(database.admin_url) as connection:
        connection.execute(
            "insert into trunkline.call_bodies (tenant_id, call_id, created_at, key_id, agent_id, request, expires_at) "
            "select id, %s, now(), %s, %s, %s, now() + interval '1 day' from trunkline.tenants where name = 'default'",
            (call, wire_ids.decode("key", ids["key_id"]), wire_ids.decode("agent", ids["agent"]), Jsonb({"text": "x"})),
        )
    return f"call_{call.hex}"


def store_proposal(database: DatabaseUrls, ids: dict[str, str]) -> str:
    """Have a proposal for this agent's memory wait, as a worker does; return its id."""
    proposal = uuid4()
    operations = [{"op": "set", "field": "name", "value": "Eve"}]
    with psycopg.connect(database.admin_url) as connection:
        connection.execute(
            "insert into trunkline.memory_proposals (tenant_id, id, agent_id, session_id, user_id, run_id, block, "
            "scope, operations, events, reason, status, created_at) "
            "select id, %s, %s, %s, 'cus_1', %s, 'customer', 'user', %s, %s, '', 'pending', now() "
            "from trunkline.tenants where name = 'default'",
            (
                proposal,
                wire_ids.decode("agent", ids["agent"]),
                wire_ids.decode("sesn", ids["session_id"]),
                uuid4(),
                Jsonb(operations),
                [uuid4()],
            ),
        )
    return f"mprop_{proposal.hex}"


@pytest.fixture(scope="module")
def world(postgres: ConnectionInfo, migrated_template: str) -> Iterator[World]:
    with copied_database(postgres, migrated_template) as database, running(database) as control:
        scopes = {"inference", "memory", "manage", "passthrough", "operator"}
        stranger = control.another_tenant()
        with control.http() as http:
            ids = fill(http, "mine")
            http.post("/v1/agents", json={"name": "theirs", "memory": MEMORY})
        ids["call_id"] = store_bodies(database, ids)
        ids["proposal_id"] = store_proposal(database, ids)
        with control.http(stranger) as http:
            fill(http, "mine")
        yield World(
            control,
            database,
            ids,
            stranger,
            control.new_key(scopes=sorted(scopes - {"operator"}), agent_id="theirs"),
            {scope: control.new_key(scopes=sorted(scopes - {scope})) for scope in scopes},
            control.new_key(
                scopes=sorted(scopes - {"operator"}),
                agent_id=ids["agent"],
                stores=[{"memory_store_id": ids["store_id"], "access": "read_only"}],
            ),
        )


def call(world: World, method: str, path: str, key: str | None) -> httpx.Response:
    body = BODIES[method, path] if method in ("POST", "PATCH", "PUT") else None
    query = QUERIES.get(path) if method in ("GET", "DELETE") else None
    with world.control.http(key) if key else world.control.anonymous() as http:
        return http.request(method, world.url(path), json=body, params=query)


def scope_of(path: str) -> str:
    if path == "/mcp" or path.endswith("/memory_tools"):
        return "inference"
    if path == "/v1/tenants":
        return "operator"
    return "memory" if "/memory" in path or path.startswith("/v1/threads") else "manage"


WITH_ID = [(method, path) for method, path in ROUTES if "{" in path]


def test_the_matrix_is_not_empty() -> None:
    assert len(ROUTES) > 35
    assert len(WITH_ID) > 25
    assert set(BODIES) <= set(ROUTES), "a body without its route"


@pytest.mark.parametrize(("method", "path"), WITH_ID)
def test_another_tenants_things_are_not_there(world: World, method: str, path: str) -> None:
    before = world.contents()
    answer = call(world, method, path, world.stranger)
    assert answer.status_code == 404, (answer.status_code, answer.text)
    assert answer.json()["error"]["type"] == "not_found_error"
    assert world.contents() == before


@pytest.mark.parametrize(("method", "path"), [route for route in WITH_ID if route[1] not in TENANT_IN_GENERAL])
def test_another_agents_things_are_not_there(world: World, method: str, path: str) -> None:
    before = world.contents()
    answer = call(world, method, path, world.other_agent)
    assert answer.status_code == 404, (answer.status_code, answer.text)
    assert world.contents() == before


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_answers_without_a_key(world: World, method: str, path: str) -> None:
    before = world.contents()
    for key in (None, "sk-tl-" + "A" * 43):
        answer = call(world, method, path, key)
        assert answer.status_code == 401, (answer.status_code, answer.text)
    assert world.contents() == before


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_answers_a_key_without_its_scope(world: World, method: str, path: str) -> None:
    before = world.contents()
    scope = scope_of(path)
    answer = call(world, method, path, world.scopeless[scope])
    assert answer.status_code == 403, (answer.status_code, answer.text)
    assert answer.json()["error"]["scope"] == scope
    assert world.contents() == before


OF_STORES = [
    route for route in WITH_ID if "{store_id}" in route[1] and not (route[0] == "GET" or route[1].endswith("/search"))
]
OF_BLOCKS = [route for route in WITH_ID if route[1].startswith("/v1/agents/{agent}/memory")]


@pytest.mark.parametrize(("method", "path"), OF_STORES)
def test_a_store_granted_for_reading_is_written_on_no_route(world: World, method: str, path: str) -> None:
    before = world.contents()
    answer = call(world, method, path, world.reader)
    assert answer.status_code == 403, (answer.status_code, answer.text)
    assert answer.json()["error"]["code"] == "store_read_only"
    assert world.contents() == before
    with world.control.http(world.reader) as http:
        assert http.get(f"/v1/memory_stores/{world.ids['store_id']}/memories").status_code == 200


@pytest.mark.parametrize(("method", "path"), OF_BLOCKS)
def test_blocks_that_a_key_was_not_granted_are_reached_on_no_route(world: World, method: str, path: str) -> None:
    before = world.contents()
    answer = call(world, method, path, world.reader)
    assert world.contents() == before
    if path.endswith("/memory_tools") or (method, path) == ("GET", "/v1/agents/{agent}/memory"):
        assert answer.status_code == 200
        assert "Ada" not in answer.text
    else:
        assert answer.status_code in (400, 403, 404), (answer.status_code, answer.text)


def test_names_and_references_do_not_cross_either(world: World) -> None:
    ids = world.ids
    before = world.contents()
    tries: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/sessions", {"agent": ids["agent"]}),
        ("POST", "/v1/sessions", {"agent": {"type": "agent", "id": ids["agent"], "version": 1}}),
        ("POST", "/v1/keys", {"name": "k", "agent_id": ids["agent"]}),
        ("POST", "/v1/keys", {"name": "k", "team_id": ids["team"]}),
        ("GET", f"/v1/sessions?agent_id={ids['agent']}", {}),
        ("GET", f"/v1/usage?agent_id={ids['agent']}", {}),
        ("GET", f"/v1/usage?session_id={ids['session_id']}", {}),
        ("GET", f"/v1/usage?key_id={ids['key_id']}", {}),
        (
            "POST",
            "/v1/sessions",
            {"agent": "mine", "resources": [{"type": "memory_store", "memory_store_id": ids["store_id"]}]},
        ),
        ("POST", "/v1/sessions", {"agent": "mine", "resources": [{"type": "file", "file_id": ids["file_id"]}]}),
        ("POST", "/v1/sessions", {"agent": "mine", "environment_id": ids["environment_id"]}),
        ("POST", "/v1/deployments", {"agent": ids["agent"], "name": "n", "initial_events": SAY}),
        (
            "POST",
            "/v1/deployments",
            {"agent": "mine", "name": "n", "initial_events": SAY, "vault_ids": [ids["vault_id"]]},
        ),
        ("POST", "/v1/sessions", {"agent": "mine", "vault_ids": [ids["vault_id"]]}),
    ]
    with world.control.http(world.stranger) as http:
        for method, path, body in tries:
            answer = http.request(method, path, json=body or None)
            assert answer.status_code == 404, (path, body, answer.text)
        assert http.get(f"/v1/sessions?memory_store_id={ids['store_id']}").json()["data"] == []
        own = http.get("/v1/agents/mine").json()["id"]
        assert own != ids["agent"], "a name is found in one's own tenant"
    assert world.contents() == before


def test_runs_are_deleted_and_copies_made_in_ones_own_threads_alone(world: World) -> None:
    before = world.contents()
    ids = world.ids
    for key in (world.stranger, world.other_agent):
        with world.control.http(key) as http:
            answer = http.post("/v1/threads/delete_runs", json={"run_ids": ["run_1"], "user_id": "cus_nobody"})
            assert answer.json()["deleted"] == 0
            assert http.get("/v1/threads?name=mine&framework=langgraph&user_id=cus_2").json()["data"] == []
    with world.control.http(world.other_agent) as http:
        assert http.post("/v1/threads/delete_runs", json={"run_ids": ["run_1"]}).json()["deleted"] == 0
        assert http.get("/v1/threads").json()["data"] == []
        assert http.post("/v1/erase", json={"user_id": "cus_1"}).json()["erased"]["threads"] == 0
    with world.control.http(world.stranger) as http:
        own = http.get("/v1/threads?name=mine").json()["data"][0]["id"]
        assert own != ids["framework_thread_id"]
        for source, target in ((own, ids["framework_thread_id"]), (ids["framework_thread_id"], own)):
            assert http.post(f"/v1/threads/{source}/copy", json={"thread_id": target}).status_code == 404
        with_session = {"framework": "langgraph", "name": "new", "session_id": ids["session_id"]}
        assert http.post("/v1/threads", json=with_session).status_code == 404
    noted = ("erasures=", "audit_log")
    now = world.contents().split("\n")
    assert [line for line in now if not line.startswith(noted)] == [
        line for line in before.split("\n") if not line.startswith(noted)
    ]


def test_an_end_user_of_one_tenant_is_nobody_in_another(world: World) -> None:
    with world.control.http() as http, world.control.http(world.stranger) as theirs:
        assert http.post("/v1/user_limits", json={"user_id": "cus_9", "rpm": 1}).status_code == 200
        before = world.contents()
        assert theirs.get("/v1/user_limits").json()["data"] == []
        assert theirs.delete("/v1/user_limits", params={"user_id": "cus_9"}).status_code == 404
        assert theirs.post("/v1/user_limits", json={"user_id": "cus_9", "rpm": 1000}).json()["requests"] == 0
        assert world.contents() == before
    with world.control.http(world.other_agent) as bound:
        assert bound.get("/v1/user_limits").json()["data"] == []
        for method, path, body in (
            ("POST", "/v1/teams", {"name": "mine"}),
            ("POST", "/v1/user_limits", {"user_id": "cus_9"}),
            ("DELETE", "/v1/user_limits?user_id=cus_9", None),
            ("POST", "/v1/retention", {"sessions": "1d"}),
        ):
            assert bound.request(method, path, json=body).status_code == 403, path


def test_a_key_of_one_agent_reads_environments_and_changes_none(world: World) -> None:
    before = world.contents()
    with world.control.http(world.other_agent) as http:
        path = f"/v1/environments/{world.ids['environment_id']}"
        assert http.get(path).status_code == 200
        for method, of, body in (
            ("POST", "/v1/environments", {"name": "mine"}),
            ("POST", path, {"name": "mine"}),
            ("PATCH", path, {"name": "mine"}),
            ("POST", f"{path}/archive", {}),
            ("DELETE", path, None),
        ):
            assert http.request(method, of, json=body).status_code == 403, (method, of)
        for resources in ([{"type": "file", "file_id": world.ids["file_id"]}],):
            answer = http.post("/v1/sessions", json={"agent": "theirs", "resources": resources})
            assert answer.status_code == 404, answer.text
        answer = http.post("/v1/sessions", json={"agent": "theirs", "vault_ids": [world.ids["vault_id"]]})
        assert answer.status_code == 404, answer.text
    assert world.contents() == before


def test_lists_hold_ones_own_alone(world: World) -> None:
    with world.control.http(world.stranger) as http:
        for path in (
            "/v1/agents",
            "/v1/sessions",
            "/v1/memory_stores",
            "/v1/keys",
            "/v1/teams",
            "/v1/environments",
            "/v1/vaults",
            "/v1/files",
            "/v1/deployments",
            "/v1/deployment_runs",
            "/v1/threads",
            "/v1/audit_log",
        ):
            shown = http.get(path).text
            assert not [found for found in world.ids.values() if found not in ("customer", "1") and found in shown], (
                path
            )
    with world.control.http(world.other_agent) as http:
        assert [agent["name"] for agent in http.get("/v1/agents").json()["data"]] == ["theirs"]
        for path in ("/v1/sessions", "/v1/keys", "/v1/vaults", "/v1/files", "/v1/deployments"):
            shown = http.get(path).text
            assert world.ids["agent"] not in shown, path
            assert world.ids["session_id"] not in shown, path
            assert world.ids["vault_id"] not in shown, path
            assert world.ids["file_id"] not in shown, path
