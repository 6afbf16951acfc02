"""Schedules fire: each time once, whoever looks, and what is missed is made up for or said."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from support.control_plane import ControlPlane
from support.postgres import DatabaseUrls
from trunkline.domain import ids
from trunkline.scheduling.deployments import fire_due
from trunkline.store.pool import open_database

SAY = [{"type": "user.message", "content": [{"type": "text", "text": "Report."}]}]
NOON = datetime(2030, 6, 3, 12, tzinfo=UTC)


def deployed(http: httpx.Client, name: str, schedule: dict[str, Any], **more: Any) -> str:
    http.post("/v1/agents", json={"name": name})
    schedule = {"type": "cron", "expression": "* * * * *", "timezone": "UTC"} | schedule
    body = {"agent": name, "name": name, "initial_events": SAY, "schedule": schedule, **more}
    answer = http.post("/v1/deployments", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def due(urls: DatabaseUrls, deployment: str, at: datetime) -> None:
    """Have a deployment be due at a time, as if it had been asleep until then."""
    with psycopg.connect(urls.admin_url) as connection:
        connection.execute(
            "update trunkline.deployments set next_run_at = %s, due_at = %s where id = %s",
            (at, at, ids.decode("depl", deployment)),
        )


def fire(urls: DatabaseUrls, at: datetime, workers: int = 1) -> None:
    async def all_at_once() -> None:
        async with open_database(urls.control_url, max_size=workers) as database:
            await asyncio.gather(*(fire_due(database, at) for _ in range(workers)))

    asyncio.run(all_at_once())


def runs(http: httpx.Client, deployment: str) -> list[dict[str, Any]]:
    """Return a deployment's runs, oldest first."""
    found: list[dict[str, Any]] = http.get(
        "/v1/deployment_runs", params={"deployment_id": deployment, "limit": 1000}
    ).json()["data"]
    return sorted(found, key=lambda run: run["trigger_context"].get("scheduled_at", ""))


def told(run: dict[str, Any]) -> str:
    return str(run["trigger_context"]["scheduled_at"])[11:16]


def end_work(urls: DatabaseUrls, deployment: str) -> None:
    """Let the sessions of a deployment end their work."""
    with psycopg.connect(urls.admin_url) as connection:
        connection.execute(
            "update trunkline.sessions set status = 'idle' where deployment_id = %s", (ids.decode("depl", deployment),)
        )


def test_a_time_is_run_once_however_many_workers_look(http: httpx.Client, urls: DatabaseUrls) -> None:
    made = [deployed(http, f"many-{number}", {}) for number in range(5)]
    for deployment in made:
        due(urls, deployment, NOON)
    for _ in range(2):
        fire(urls, NOON + timedelta(seconds=1), workers=8)
    for deployment in made:
        (run,) = runs(http, deployment)
        assert (told(run), run["error"]) == ("12:00", None)
        session = http.get(f"/v1/sessions/{run['session_id']}").json()
        assert (session["deployment_id"], session["status"]) == (deployment, "running")
        events = http.get(f"/v1/sessions/{run['session_id']}/events").json()["data"]
        assert events[0]["content"][0]["text"] == "Report."
        assert http.get(f"/v1/deployments/{deployment}").json()["schedule"]["last_run_at"] is not None


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"catch_up": "skip"}, [("12:09", True), ("12:10", False)]),
        ({"catch_up": "latest"}, [("12:09", True), ("12:10", False)]),
        ({"catch_up": "all", "catch_up_limit": 2}, [("12:08", True), ("12:09", False), ("12:10", False)]),
    ],
)
def test_what_was_missed_is_made_up_for_or_said(
    http: httpx.Client, urls: DatabaseUrls, schedule: dict[str, Any], expected: list[tuple[str, bool]]
) -> None:
    deployment = deployed(http, f"missed-{schedule['catch_up']}", schedule)
    due(urls, deployment, NOON)
    fire(urls, NOON + timedelta(minutes=10, seconds=30))
    found = runs(http, deployment)
    assert [(told(run), run["error"] is not None) for run in found] == expected
    assert "missed" in found[0]["error"]["message"]


def test_the_latest_is_made_up_for_long_after(http: httpx.Client, urls: DatabaseUrls) -> None:
    deployment = deployed(http, "late", {"expression": "0 * * * *", "catch_up": "latest"})
    due(urls, deployment, NOON)
    fire(urls, NOON + timedelta(hours=2, minutes=30))
    assert [(told(run), run["error"] is None) for run in runs(http, deployment)] == [("13:00", False), ("14:00", True)]


def test_a_run_waits_for_the_one_before_or_is_left_out(http: httpx.Client, urls: DatabaseUrls) -> None:
    queued = deployed(http, "queued", {"overlap": "queue"})
    skipped = deployed(http, "skipped", {"overlap": "skip"})
    for deployment in (queued, skipped):
        due(urls, deployment, NOON)
    fire(urls, NOON)
    fire(urls, NOON + timedelta(minutes=1))
    assert [told(run) for run in runs(http, queued)] == ["12:00"]
    assert [(told(run), run["error"] is None) for run in runs(http, skipped)] == [("12:00", True), ("12:01", False)]
    end_work(urls, queued)
    fire(urls, NOON + timedelta(minutes=1, seconds=10))
    assert [told(run) for run in runs(http, queued)] == ["12:00", "12:01"]


def test_what_cannot_run_is_paused_with_its_reason(http: httpx.Client, urls: DatabaseUrls) -> None:
    deployment = deployed(http, "doomed", {})
    http.post("/v1/agents/doomed/archive")
    due(urls, deployment, NOON)
    fire(urls, NOON)
    (run,) = runs(http, deployment)
    assert (run["session_id"], run["error"]["type"]) == (None, "agent_archived_error")
    shown = http.get(f"/v1/deployments/{deployment}").json()
    assert (shown["status"], shown["paused_reason"]) == (
        "paused",
        {"type": "error", "error": {"type": "agent_archived_error"}},
    )
    fire(urls, NOON + timedelta(minutes=5))
    assert len(runs(http, deployment)) == 1


def test_a_paused_or_archived_one_does_not_run(http: httpx.Client, urls: DatabaseUrls) -> None:
    deployment = deployed(http, "paused", {})
    http.post(f"/v1/deployments/{deployment}/pause")
    fire(urls, NOON)
    assert runs(http, deployment) == []
    assert http.post(f"/v1/deployments/{deployment}/run").json()["trigger_context"] == {"type": "manual"}
    http.post(f"/v1/deployments/{deployment}/unpause")
    http.post(f"/v1/deployments/{deployment}/archive")
    fire(urls, NOON)
    assert len(runs(http, deployment)) == 1


def test_one_moment_runs_once(http: httpx.Client, urls: DatabaseUrls) -> None:
    http.post("/v1/agents", json={"name": "once"})
    once = {"type": "once", "at": NOON.isoformat()}
    body = {"agent": "once", "name": "once", "initial_events": SAY, "schedule": once}
    deployment = http.post("/v1/deployments", json=body).json()["id"]
    for seconds in (-1, 0, 1):
        fire(urls, NOON + timedelta(seconds=seconds))
    assert [told(run) for run in runs(http, deployment)] == ["12:00"]
    past = body | {"schedule": {"type": "once", "at": "2020-01-01T00:00:00Z"}}
    assert http.post("/v1/deployments", json=past).status_code == 400


def cents(amount: int) -> dict[str, Any]:
    return {"type": "limit", "max_list_cost": {"amount": str(amount), "currency": "USD"}}


def started(http: httpx.Client, deployment: str) -> Any:
    """Return the budget of a session that a run by hand starts."""
    run = http.post(f"/v1/deployments/{deployment}/run").json()
    return http.get(f"/v1/sessions/{run['session_id']}").json()["budget"]


def test_each_session_begins_with_the_budget(http: httpx.Client, urls: DatabaseUrls) -> None:
    limits = {"max_list_cost": cents(100)["max_list_cost"], "max_turns": 7}
    http.post("/v1/agents", json={"name": "spender", "limits": limits}).raise_for_status()
    made = deployed(http, "spender", {}, budget=cents(250))
    path = f"/v1/deployments/{made}"
    due(urls, made, NOON)
    fire(urls, NOON + timedelta(seconds=1))
    (run,) = runs(http, made)
    session = http.get(f"/v1/sessions/{run['session_id']}").json()
    assert (session["budget"], session["limits"]) == (cents(250), {"max_turns": 7})
    assert http.post(path, json={"name": "spender 2"}).json()["budget"] == cents(250)
    assert http.post(path, json={"budget": cents(300)}).json()["budget"] == cents(300)
    assert started(http, made) == cents(300)
    assert http.get(f"/v1/sessions/{run['session_id']}").json()["budget"] == cents(250)
    assert http.post(path, json={"budget": None}).json()["budget"] is None
    assert started(http, made) == cents(100)


@pytest.mark.parametrize(
    "budget", [cents(0), {"type": "limit"}, {**cents(5), "more": 1}, {**cents(5), "type": "other"}, "5"]
)
def test_a_budget_that_is_none_is_refused(http: httpx.Client, budget: Any) -> None:
    made = deployed(http, f"refuses-{len(str(budget))}", {}, budget=cents(5))
    answer = http.post(f"/v1/deployments/{made}", json={"budget": budget})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), answer.text
    assert http.get(f"/v1/deployments/{made}").json()["budget"] == cents(5)


def test_another_tenant_neither_sees_nor_raises_a_budget(plane: ControlPlane, http: httpx.Client) -> None:
    made = deployed(http, "thrifty", {}, budget=cents(5))
    with plane.http(plane.another_tenant("budgets")) as other:
        assert other.get(f"/v1/deployments/{made}").status_code == 404
        assert other.post(f"/v1/deployments/{made}", json={"budget": cents(500)}).status_code == 404
    assert http.get(f"/v1/deployments/{made}").json()["budget"] == cents(5)
