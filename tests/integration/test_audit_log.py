"""The audit log: every change is there, with who made it, and nothing of what is secret or remembered."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg
import pytest

from support.control_plane import ControlPlane
from support.memory import ok
from support.postgres import DatabaseUrls
from trunkline.domain.keys import digest
from trunkline.scheduling.retention import forget_audit
from trunkline.store.pool import open_database

SAY = [{"type": "user.message", "content": [{"type": "text", "text": "Go."}]}]
SECRET = "tok-very-secret-1"


def of(http: httpx.Client, resource_id: str) -> list[tuple[str, list[str]]]:
    """What was done to a resource, oldest first."""
    found = ok(http.get("/v1/audit_log", params={"resource_id": resource_id, "limit": 100}))["data"]
    return [(entry["action"], entry["changed"]) for entry in reversed(found)]


def test_every_change_is_logged_with_the_fields_that_changed(plane: ControlPlane, http: httpx.Client) -> None:
    def made(path: str, /, **body: Any) -> str:
        return str(ok(http.post(path, json=body))["id"])

    def changed(path: str, /, **body: Any) -> httpx.Response:
        answer = http.post(path, json=body)
        ok(answer)
        return answer

    agent = made("/v1/agents", name="audited", model="m", system="Be kind.")
    answer = changed(f"/v1/agents/{agent}", system="Be terse.")
    changed(f"/v1/agents/{agent}", system="Be terse.")
    newest = ok(http.get("/v1/audit_log", params={"resource_id": agent, "limit": 1}))["data"][0]
    with plane.http() as same:
        own = next(key for key in ok(same.get("/v1/keys"))["data"] if plane.key.endswith(key["hint"]))["id"]
    assert newest["resource"] == {"type": "agent", "id": agent, "name": "audited"}
    assert newest["key_id"] == own
    assert newest["request_id"] == answer.headers["request-id"]

    key = made("/v1/keys", name="audited", budget_usd=1)
    changed(f"/v1/keys/{key}", rpm=5)
    changed(f"/v1/keys/{key}", tools=["read"])
    ok(http.delete(f"/v1/keys/{key}"))
    team = made("/v1/teams", name="audited")
    changed(f"/v1/teams/{team}", budget_usd=3)
    vault = made("/v1/vaults", display_name="audited")
    auth = {"type": "static_bearer", "mcp_server_url": "https://a.example/mcp", "token": SECRET}
    credential = made(f"/v1/vaults/{vault}/credentials", auth=auth)
    ok(http.delete(f"/v1/vaults/{vault}"))
    environment = made("/v1/environments", name="audited")
    changed(f"/v1/environments/{environment}", description="A box.")
    deployment = made("/v1/deployments", agent=agent, name="audited", initial_events=SAY)
    changed(f"/v1/deployments/{deployment}/pause")
    changed(f"/v1/deployments/{deployment}/unpause")
    store = made("/v1/memory_stores", name="audited")
    changed(f"/v1/memory_stores/{store}", expire_after_days=3)
    changed(f"/v1/memory_stores/{store}/memories", path="/a", content="what nobody should log")
    ok(http.delete(f"/v1/memory_stores/{store}"))
    changed("/v1/user_limits", user_id="cus_audited", rpm=5)
    changed("/v1/erase", user_id="cus_audited")
    changed(f"/v1/agents/{agent}/archive")

    assert of(http, agent) == [("created", []), ("updated", ["system"]), ("archived", ["archived_at"])]
    assert of(http, key) == [
        ("created", []),
        ("updated", ["rpm"]),
        ("updated", ["tools"]),
        ("revoked", ["revoked_at"]),
    ]
    assert of(http, team) == [("created", []), ("updated", ["budget_period", "budget_usd"])]
    assert of(http, vault) == [("created", []), ("deleted", [])]
    assert of(http, credential) == [("created", []), ("deleted", [])]
    assert of(http, environment) == [("created", []), ("updated", ["description"])]
    assert [action for action, _ in of(http, deployment)] == ["created", "paused", "unpaused"]
    assert of(http, store) == [("created", []), ("updated", ["expire_after_days"]), ("deleted", [])]
    users = ok(http.get("/v1/audit_log", params={"user_id": "cus_audited"}))["data"]
    assert users[-1]["resource"]["type"] == "user"
    (erasure,) = ok(http.get("/v1/audit_log", params={"resource_type": "erasure"}))["data"]
    assert (erasure["action"], erasure["key_id"]) == ("created", own)

    everything = "".join(http.get("/v1/audit_log", params={"limit": 100}).text)
    for hidden in (SECRET, "what nobody should log", "cus_audited", "Be terse.", plane.key, digest(plane.key).hex()):
        assert hidden not in everything


def test_the_log_is_read_by_page_key_and_time(plane: ControlPlane, http: httpx.Client) -> None:
    text = plane.new_key(scopes=["manage"], name="lister")
    with plane.http(text) as other:
        for number in range(3):
            ok(other.post("/v1/teams", json={"name": f"paged-{number}"}))
    keys = ok(http.get("/v1/keys", params={"limit": 100}))["data"]
    key = next(key["id"] for key in keys if text.endswith(key["hint"]))
    first = ok(http.get("/v1/audit_log", params={"key_id": key, "limit": 2}))
    second = ok(http.get("/v1/audit_log", params={"key_id": key, "limit": 2, "page": first["next_page"]}))
    assert [entry["resource"]["name"] for entry in first["data"] + second["data"]] == ["paged-2", "paged-1", "paged-0"]
    assert second["next_page"] is None
    middle = first["data"][1]["created_at"]
    since = ok(http.get("/v1/audit_log", params={"key_id": key, "created_at[gte]": middle}))["data"]
    until = ok(http.get("/v1/audit_log", params={"key_id": key, "created_at[lt]": middle}))["data"]
    assert (len(since), len(until)) == (2, 1)


def test_a_key_of_one_agent_does_not_read_it(plane: ControlPlane, http: httpx.Client) -> None:
    ok(http.post("/v1/agents", json={"name": "curious", "model": "m"}))
    with plane.http(plane.new_key(scopes=["manage"], agent_id="curious")) as mine:
        answer = mine.get("/v1/audit_log")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "bound_key")


def test_nobody_changes_what_was_logged(urls: DatabaseUrls, http: httpx.Client) -> None:
    ok(http.post("/v1/teams", json={"name": "indelible"}))
    with psycopg.connect(urls.control_url, autocommit=True) as connection:
        for statement in (
            "update trunkline.audit_log set name = 'x'",
            "delete from trunkline.audit_log",
            "truncate trunkline.audit_log",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


async def test_what_is_older_than_its_days_is_forgotten(database: DatabaseUrls) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        tenant = connection.execute(
            "insert into trunkline.tenants (id, name, created_at) values (gen_random_uuid(), 'aged', now()) "
            "returning id"
        ).fetchone()
        assert tenant is not None
        for age in (1, 50, 400, 800):
            connection.execute(
                "insert into trunkline.audit_log (tenant_id, created_at, action, resource_type, resource_id, name) "
                "values (%s, now() - make_interval(days => %s), 'created', 'team', 'team_x', %s)",
                (tenant[0], age, str(age)),
            )
        async with open_database(database.control_url) as opened:
            await forget_audit(opened, days=60)
            await forget_audit(opened, days=60)
        kept = connection.execute("select name from trunkline.audit_log order by created_at desc").fetchall()
    assert [name for (name,) in kept] == ["1", "50"]
