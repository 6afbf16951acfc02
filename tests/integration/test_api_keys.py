"""Keys: shown once, kept as a hash, never reaching further than the key that made them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from support.control_plane import ControlPlane, first_key
from support.postgres import DatabaseUrls
from trunkline.domain.keys import digest


def test_a_key_is_made_used_listed_and_revoked(control: ControlPlane, database: DatabaseUrls) -> None:
    with control.http() as http:
        made = http.post(
            "/v1/keys",
            json={
                "name": "shop",
                "scopes": ["manage", "inference"],
                "models": ["claude-*"],
                "budget_usd": 12.5,
                "rpm": 60,
                "expires_at": "2999-01-01T00:00:00Z",
            },
        ).json()
        text = made["key"]
        assert text.startswith("sk-tl-")
        assert len(text) == 49
        assert made["hint"] == text[-4:]
        assert (made["budget_usd"], made["rpm"], made["models"]) == (12.5, 60, ["claude-*"])
        assert made["scopes"] == ["inference", "manage"]

        with control.http(text) as mine:
            assert mine.get("/v1/agents").status_code == 200
        listed = http.get("/v1/keys", params={"limit": 1}).json()
        assert listed["data"][0]["id"] == made["id"]
        assert listed["next_page"]
        everything = http.get("/v1/keys").text
        assert text not in everything
        assert digest(text).hex() not in everything
        shown = http.get(f"/v1/keys/{made['id']}").json()
        assert "key" not in shown

        revoked = http.delete(f"/v1/keys/{made['id']}").json()
        assert revoked["revoked_at"] is not None
        assert http.delete(f"/v1/keys/{made['id']}").json()["revoked_at"] == revoked["revoked_at"]
        with control.http(text) as mine:
            refused = mine.get("/v1/agents")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_key")
    with psycopg.connect(database.admin_url) as connection:
        kept = connection.execute("select hash from trunkline.api_keys where name = 'shop'").fetchone()
    assert kept == (digest(text),)


def test_an_expired_key_opens_nothing(control: ControlPlane) -> None:
    text = control.new_key(scopes=["manage"], expires_at="2020-01-01T00:00:00Z")
    with control.http(text) as http:
        assert http.get("/v1/agents").status_code == 401


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key", "x-goog-api-key"])
def test_a_key_comes_in_any_of_the_usual_headers(control: ControlPlane, header: str) -> None:
    with control.anonymous() as http:
        value = f"Bearer {control.key}" if header == "authorization" else control.key
        assert http.get("/v1/agents", headers={header: value}).status_code == 200
        missing = http.get("/v1/agents", headers={header: ""})
        assert (missing.status_code, missing.json()["error"]["type"]) == (401, "authentication_error")
        assert "x-api-key" in missing.json()["error"]["message"]


def test_a_key_cannot_make_one_that_reaches_further(control: ControlPlane) -> None:
    with control.http() as http:
        agent = http.post("/v1/agents", json={"name": "a"}).json()["id"]
        other = http.post("/v1/agents", json={"name": "b"}).json()["id"]
    limited = control.new_key(scopes=["manage"], budget_usd=5, rpm=10, models=["m"], expires_at="2999-01-01T00:00:00Z")
    bound = control.new_key(scopes=["manage"], agent_id="a")
    within: dict[str, Any] = {
        "name": "k",
        "scopes": ["manage"],
        "budget_usd": 5,
        "rpm": 10,
        "models": ["m"],
        "expires_at": "2998-01-01T00:00:00Z",
    }
    with control.http(limited) as http:
        assert http.post("/v1/keys", json=within).status_code == 200
        for change in (
            {"scopes": ["manage", "inference"]},
            {"budget_usd": 5.01},
            {"budget_usd": None},
            {"rpm": 11},
            {"models": ["m", "n"]},
            {"models": None},
            {"expires_at": None},
        ):
            answer = http.post("/v1/keys", json=within | change)
            assert answer.status_code == 403, (change, answer.text)
    with control.http(bound) as http:
        assert http.post("/v1/keys", json={"name": "k", "scopes": ["manage"], "agent_id": agent}).status_code == 200
        assert http.post("/v1/keys", json={"name": "k", "scopes": ["manage"]}).status_code == 403
        assert http.post("/v1/keys", json={"name": "k", "scopes": ["manage"], "agent_id": other}).status_code == 404
        assert http.post("/v1/agents", json={"name": "c"}).status_code == 403
        assert {key["agent_id"] for key in http.get("/v1/keys").json()["data"]} == {agent}


def test_a_key_says_whether_its_calls_are_stored_and_so_do_those_that_it_makes(control: ControlPlane) -> None:
    private = control.new_key(scopes=["manage"], store_bodies=False)
    with control.http(private) as http:
        made = http.post("/v1/keys", json={"name": "k", "scopes": ["manage"]}).json()
        assert made["store_bodies"] is False
        refused = http.post("/v1/keys", json={"name": "k", "scopes": ["manage"], "store_bodies": True})
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "store_bodies")
        for more in (True, None):
            changed = http.post(f"/v1/keys/{made['id']}", json={"store_bodies": more})
            assert (changed.status_code, changed.json()["error"]["param"]) == (403, "store_bodies")
    with control.http() as http:
        assert http.post(f"/v1/keys/{made['id']}", json={"store_bodies": True}).json()["store_bodies"] is True
        assert http.post(f"/v1/keys/{made['id']}", json={"name": "renamed"}).json()["store_bodies"] is True
        assert http.post(f"/v1/keys/{made['id']}", json={"store_bodies": None}).json()["store_bodies"] is None
        assert http.post("/v1/keys", json={"name": "k", "store_bodies": "no"}).status_code == 400


def test_wrong_keys_are_refused(control: ControlPlane) -> None:
    with control.http() as http:
        for body, words in (
            ({}, "name"),
            ({"name": "k", "scopes": ["root"]}, "scopes"),
            ({"name": "k", "scopes": []}, "scopes"),
            ({"name": "k", "budget_usd": -1}, "budget_usd"),
            ({"name": "k", "rpm": 0}, "rpm"),
            ({"name": "k", "expires_at": "soon"}, "expires_at"),
            ({"name": "k", "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ):
            answer = http.post("/v1/keys", json=body)
            assert answer.status_code == 400, answer.text
            assert words in answer.json()["error"]["message"]
        assert http.post("/v1/keys", json={"name": "k", "agent_id": "nobody"}).status_code == 404
        own = next(key["id"] for key in http.get("/v1/keys").json()["data"] if key["name"] == "admin")
        assert http.delete(f"/v1/keys/{own}").status_code == 409


def test_a_tenant_is_made_with_its_first_key(control: ControlPlane) -> None:
    with control.http() as http:
        made = http.post("/v1/tenants", json={"name": "acme"}).json()
        assert made["id"].startswith("tnt_")
        assert http.post("/v1/tenants", json={"name": "acme"}).status_code == 409
        assert http.post("/v1/tenants", json={"name": "Not OK"}).status_code == 400
    with control.http(made["key"]) as theirs:
        assert theirs.post("/v1/agents", json={"name": "a"}).status_code == 200
        (key,) = theirs.get("/v1/keys").json()["data"]
        assert key["scopes"] == ["inference", "memory", "manage"]
        assert theirs.post("/v1/tenants", json={"name": "more"}).status_code == 403


def test_the_first_start_can_be_repeated(control: ControlPlane, database: DatabaseUrls) -> None:
    again = first_key(database.admin_url)
    assert again != control.key
    with control.http(again) as http:
        assert [key["name"] for key in http.get("/v1/keys").json()["data"]] == ["admin", "admin"]


def test_usage_is_added_up(control: ControlPlane, database: DatabaseUrls) -> None:
    with control.http() as http:
        nothing = http.get("/v1/usage").json()
        assert (nothing["requests"], nothing["input_tokens"], nothing["output_tokens"]) == (0, 0, 0)
        assert (nothing["cost_usd"], nothing["unpriced_requests"]) == (0.0, 0)
        key = http.get("/v1/keys").json()["data"][0]["id"]
        with psycopg.connect(database.admin_url) as connection:
            connection.execute(
                """insert into trunkline.usage (tenant_id, id, created_at, key_id, model, wire, stream, status,
                       input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, cost_usd, rounds,
                       retries, total_us, overhead_us)
                   select k.tenant_id, gen_random_uuid(), '2026-01-01T00:00Z'::timestamptz + make_interval(days => n),
                          k.id, 'm', 'openai_chat', false, 200, 10, 3, 4, 0, false, case when n < 2 then 0.25 end,
                          1, 0, 1, 1
                     from trunkline.api_keys k, generate_series(0, 2) as n"""
            )
        total = http.get("/v1/usage").json()
        tokens = (total["input_tokens"], total["output_tokens"], total["cached_tokens"])
        assert (total["requests"], tokens) == (3, (30, 9, 12))
        assert (total["cost_usd"], total["unpriced_requests"]) == (0.5, 1)
        day = {"from": "2026-01-02T00:00:00Z", "to": "2026-01-03T00:00:00Z"}
        assert http.get("/v1/usage", params=day).json()["requests"] == 1
        assert http.get("/v1/usage", params={"key_id": key}).json()["requests"] == 3
        late = http.get("/v1/usage", params={"from": "2026-01-03T00:00:00Z"}).json()
        assert (late["requests"], late["cost_usd"]) == (1, None)
