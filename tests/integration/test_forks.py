"""Forks: a session that goes on from a point of another."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg
from psycopg.types.json import Jsonb

from support.control_plane import ControlPlane, events_of
from support.postgres import DatabaseUrls

MEMORY = {"blocks": {"plan": {"scope": "session", "fields": {"step": {"type": "string"}}}}}


def said(text: str) -> dict[str, Any]:
    return {"type": "user.message", "content": [{"type": "text", "text": text}]}


def new_session(http: httpx.Client, agent: str, **more: Any) -> str:
    http.post("/v1/agents/apply", json={"definition": {"name": agent, "model": "m", "memory": MEMORY}})
    answer = http.post("/v1/sessions", json={"agent": agent, **more})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def send(http: httpx.Client, session: str, *events: dict[str, Any]) -> None:
    answer = http.post(f"/v1/sessions/{session}/events", json={"events": list(events)})
    assert answer.status_code == 200, answer.text


def plan(http: httpx.Client, agent: str, session: str, step: str | None = None) -> Any:
    if step is not None:
        body = {"operations": [{"op": "set", "field": "step", "value": step}], "session_id": session}
        answer = http.post(f"/v1/agents/{agent}/memory/plan", json=body)
        assert answer.status_code == 200, answer.text
    return http.get(f"/v1/agents/{agent}/memory/plan", params={"session_id": session}).json()["value"]


def forked(http: httpx.Client, session: str, **what: Any) -> dict[str, Any]:
    answer = http.post(f"/v1/sessions/{session}/fork", json=what)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def log(http: httpx.Client, session: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get(f"/v1/sessions/{session}/events").json()["data"]
    return found


def test_a_fork_has_the_log_the_blocks_and_the_version_and_goes_its_own_way(http: httpx.Client) -> None:
    session = new_session(http, "planner", user_id="ada", title="First", metadata={"a": "1", "b": "2"})
    plan(http, "planner", session, "begin")
    send(http, session, {"type": "user.interrupt"})
    send(http, session, said("one"), said("two"))
    plan(http, "planner", session, "later")
    changed = {"name": "planner", "model": "m", "instructions": "Changed.", "memory": MEMORY}
    assert http.post("/v1/agents/apply", json={"definition": changed}).status_code == 200

    fork = forked(http, session, metadata={"b": None, "c": "3"})
    assert fork["id"] != session
    assert (fork["parent_id"], fork["user_id"], fork["title"]) == (session, "ada", "First")
    assert fork["metadata"] == {"a": "1", "c": "3"}
    assert fork["agent"]["version"] == http.get(f"/v1/sessions/{session}").json()["agent"]["version"]
    origin, copy = log(http, session), log(http, fork["id"])
    told = [(event["seq"], event["type"], event.get("content")) for event in origin]
    assert [(event["seq"], event["type"], event.get("content")) for event in copy[: len(told)]] == told
    assert not {event["id"] for event in origin} & {event["id"] for event in copy}
    assert plan(http, "planner", fork["id"]) == {"step": "later"}

    plan(http, "planner", fork["id"], "elsewhere")
    send(http, fork["id"], said("three"))
    assert plan(http, "planner", session) == {"step": "later"}
    assert log(http, session) == origin


def test_a_fork_from_an_earlier_event_ends_there_with_the_blocks_of_then(http: httpx.Client) -> None:
    session = new_session(http, "earlier")
    send(http, session, {"type": "user.interrupt"})
    plan(http, "earlier", session, "then")
    send(http, session, {"type": "user.interrupt"})
    plan(http, "earlier", session, "now")
    fork = forked(http, session, at=1, title=None)
    assert (fork["last_seq"], fork["status"], fork["title"]) == (1, "idle", None)
    assert [event["type"] for event in log(http, fork["id"])] == ["user.interrupt"]
    assert plan(http, "earlier", fork["id"]) == {"step": "then"}
    assert forked(http, session, at=0)["last_seq"] == 0
    beyond = http.post(f"/v1/sessions/{session}/fork", json={"at": 99})
    assert (beyond.status_code, "last event has the number 2" in beyond.text) == (400, True)


def test_a_fork_within_a_turn_carries_it_out_itself(http: httpx.Client) -> None:
    session = new_session(http, "within")
    send(http, session, said("What now?"))
    fork = forked(http, session, at=1)
    assert (fork["status"], fork["last_seq"]) == ("running", 2)
    assert [event["type"] for event in log(http, fork["id"])] == ["user.message", "session.status_running"]


def test_what_refers_to_an_event_refers_to_its_copy_in_a_fork(control: ControlPlane, database: DatabaseUrls) -> None:
    """A worker's events, written by hand: the call of a tool that waits for its result."""
    with control.http() as http:
        session = new_session(http, "caller")
        call = "0193f0a4c1b27c55a1c8b4c0a1b2c3d4"
        waits = {"stop_reason": {"type": "requires_action", "event_ids": [f"sevt_{call}"]}}
        with psycopg.connect(database.admin_url) as connection:
            tenant = connection.execute("select id from trunkline.tenants where name = 'default'").fetchone()
            assert tenant is not None
            for seq, (kind, event, payload) in enumerate(
                [
                    ("agent.custom_tool_use", call, {"name": "weather", "input": {"said": f"sevt_{call}"}}),
                    ("session.status_idle", "0193f0a4c1b27c55a1c8b4c0a1b2c3d5", waits),
                ],
                start=1,
            ):
                connection.execute(
                    "insert into trunkline.events (tenant_id, session_id, seq, id, type, payload, created_at) "
                    "values (%s, %s, %s, %s, %s, %s, now())",
                    (tenant[0], session.removeprefix("sesn_"), seq, event, kind, Jsonb(payload)),
                )
            connection.execute(
                "update trunkline.sessions set last_seq = 2 where id = %s", (session.removeprefix("sesn_"),)
            )
        fork = forked(http, session)
        assert fork["status"] == "idle"
        use, idle = log(http, fork["id"])
        assert use["id"] != f"sevt_{call}"
        assert idle["stop_reason"]["event_ids"] == [use["id"]]
        assert use["input"] == {"said": f"sevt_{call}"}
        result = {"type": "user.custom_tool_result", "custom_tool_use_id": use["id"], "content": []}
        send(http, fork["id"], result)
    assert [event["type"] for event in events_of(database.admin_url, session)] == [
        "agent.custom_tool_use",
        "session.status_idle",
    ]


def test_a_fork_asked_for_twice_with_one_key_is_made_once(http: httpx.Client) -> None:
    session = new_session(http, "twice")
    answers = [
        http.post(f"/v1/sessions/{session}/fork", headers={"idempotency-key": "fork-once"}).json() for _ in range(2)
    ]
    assert answers[0]["id"] == answers[1]["id"]
    assert http.post(f"/v1/agents/{answers[0]['agent']['id']}/archive").status_code == 200
    refused = http.post(f"/v1/sessions/{session}/fork", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "agent_archived")
