"""Usage added up: by anything that a call's row says, over time, in pages, and of one's own tenant alone."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from support.control_plane import ControlPlane
from support.postgres import DatabaseUrls
from trunkline.client import Trunkline

INSERT = """
insert into trunkline.usage (tenant_id, id, created_at, key_id, user_id, model, provider, wire, stream, status,
                             input_tokens, output_tokens, cached_tokens, reasoning_tokens, estimated, cost_usd, rounds,
                             retries, first_byte_us, total_us, overhead_us)
select k.tenant_id, gen_random_uuid(), '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 hour', k.id,
       'cus_' || n %% 3, case when n %% 2 = 0 then 'big' else 'small' end, 'oai', 'openai_chat', n %% 4 = 0,
       case when n %% 10 = 0 then 429 else 200 end, 10, n, 4, 0, false, case when n %% 2 = 0 then 0.5 else 0.25 end, 1,
       0, 100, 200, 1
  from trunkline.api_keys k, generate_series(0, 47) as n
 where k.tenant_id = (select tenant_id from trunkline.api_keys where hash = sha256(convert_to(%s, 'utf8')))
"""


@pytest.fixture
def http(control: ControlPlane, database: DatabaseUrls) -> httpx.Client:
    fill(database, control.key)
    return control.http()


def fill(database: DatabaseUrls, key: str) -> None:
    with psycopg.connect(database.admin_url) as connection:
        connection.execute(INSERT, (key,))


def groups(http: httpx.Client, **params: Any) -> list[dict[str, Any]]:
    answer = http.get("/v1/usage", params=params)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def test_groups_come_by_cost(http: httpx.Client) -> None:
    with http:
        key = http.get("/v1/keys").json()["data"][0]["id"]
        rows = groups(http, group_by="model,key")
        assert [(row["model"], row["key_id"], row["requests"], row["cost_usd"]) for row in rows] == [
            ("big", key, 24, 12.0),
            ("small", key, 24, 6.0),
        ]
        assert [(row["errors"], row["output_tokens"], row["first_byte_us"]) for row in rows] == [
            (5, sum(range(0, 48, 2)), 100),
            (0, sum(range(1, 48, 2)), 100),
        ]
        users = groups(http, group_by="user", sort="-output_tokens")
        assert [row["user_id"] for row in users] == ["cus_2", "cus_1", "cus_0"]
        assert {row["stream"]: row["requests"] for row in groups(http, group_by="stream")} == {True: 12, False: 36}


def test_time_is_cut_into_buckets_in_utc(http: httpx.Client) -> None:
    with http:
        days = groups(http, bucket="day")
        assert [(row["time"], row["requests"]) for row in days] == [
            ("2026-01-01T00:00:00Z", 24),
            ("2026-01-02T00:00:00Z", 24),
        ]
        assert [row["time"] for row in groups(http, bucket="month")] == ["2026-01-01T00:00:00Z"]
        assert len(groups(http, bucket="hour", model="big")) == 24
        half = {"from": "2026-01-01T12:00:00+02:00", "to": "2026-01-01T11:00:00Z"}
        assert [row["time"] for row in groups(http, bucket="minute", **half)] == ["2026-01-01T10:00:00Z"]


def test_filters_allow_one_value_or_several(http: httpx.Client) -> None:
    with http:
        assert http.get("/v1/usage", params={"user_id": "cus_1"}).json()["requests"] == 16
        assert http.get("/v1/usage", params={"user_id": ["cus_1", "cus_2"]}).json()["requests"] == 32
        assert http.get("/v1/usage", params={"status": 429, "model": "big"}).json()["requests"] == 5
        assert http.get("/v1/usage", params={"stream": "true", "estimated": "false"}).json()["requests"] == 12
        assert http.get("/v1/usage", params={"source": "cache"}).json()["requests"] == 0


def test_pages_hold_each_group_once(http: httpx.Client) -> None:
    with http:
        seen: list[str] = []
        page = None
        while True:
            params: dict[str, Any] = {"bucket": "hour", "limit": 7, "sort": "requests"} | (
                {"page": page} if page else {}
            )
            answer = http.get("/v1/usage", params=params).json()
            seen += [row["time"] for row in answer["data"]]
            page = answer["next_page"]
            if page is None:
                break
        assert len(seen) == len(set(seen)) == 48


@pytest.mark.parametrize(
    "params",
    [
        {"group_by": "model,tenant"},
        {"bucket": "week"},
        {"bucket": "day", "sort": "tokens"},
        {"limit": 0, "bucket": "day"},
    ],
)
def test_what_cannot_be_asked_is_said(http: httpx.Client, params: dict[str, Any]) -> None:
    with http:
        answer = http.get("/v1/usage", params=params)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.json()["error"]["param"] in params


def test_a_tenant_sees_its_own_calls_alone(control: ControlPlane, database: DatabaseUrls) -> None:
    fill(database, control.key)
    stranger = control.another_tenant()
    with control.http(stranger) as http:
        assert http.get("/v1/usage").json()["requests"] == 0
        assert groups(http, group_by="model,key,user", bucket="day") == []
        assert groups(http, group_by="team") == []
        assert http.get("/v1/usage", params={"team_id": f"team_{uuid4().hex}"}).json()["requests"] == 0
    fill(database, stranger)
    with control.http(stranger) as http:
        assert http.get("/v1/usage").json()["requests"] == 48


def test_a_key_of_an_agent_sees_that_agents_calls_alone(control: ControlPlane, database: DatabaseUrls) -> None:
    fill(database, control.key)
    with control.http() as http:
        assert http.post("/v1/agents", json={"name": "mine"}).status_code == 200
    with control.http(control.new_key(scopes=["manage"], agent_id="mine")) as http:
        assert http.get("/v1/usage").json()["requests"] == 0
        assert groups(http, group_by="model") == []


def test_the_client_reads_all_pages(control: ControlPlane, database: DatabaseUrls) -> None:
    fill(database, control.key)
    with Trunkline(control.base_url, control.key) as client:
        assert client.usage(model=["big", "small"], stream=True).requests == 12
        rows = list(client.usage_by("model", bucket="hour", sort="-output_tokens"))
        assert [row.output_tokens for row in rows] == list(range(47, -1, -1))
        assert rows[0].model_extra == {"model": "small", "time": "2026-01-02T23:00:00Z"}
