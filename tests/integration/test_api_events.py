"""Events: appended in order, followed live, resumed after a cut."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx
import psycopg
import pytest

from support.control_plane import ControlPlane, events_of, running
from support.postgres import DatabaseUrls
from trunkline.api import event_feed, events
from trunkline.store.pool import Connection


def said(text: str) -> dict[str, Any]:
    return {"type": "user.message", "content": [{"type": "text", "text": text}]}


@pytest.fixture
def session(control: ControlPlane) -> str:
    return new_session(control)


def new_session(control: ControlPlane) -> str:
    with control.http() as http:
        http.post("/v1/agents/apply", json={"definition": {"name": "a", "model": "m"}})
        answer = http.post("/v1/sessions", json={"agent": "a"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def frames(response: httpx.Response) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield (event, id, data) of a stream, comments left out."""
    found: dict[str, str] = {}
    for line in response.iter_lines():
        if line == "" and found:
            yield found["event"], int(found.get("id", 0)), json.loads(found["data"])
            found = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            found[name] = value


def test_a_stream_shows_what_comes_and_resumes_where_it_was_cut(control: ControlPlane, session: str) -> None:
    sdk = control.sdk()
    sdk.beta.sessions.events.send(session, events=[{"type": "user.interrupt"}])
    with sdk.beta.sessions.events.stream(session) as stream:
        sdk.beta.sessions.events.send(session, events=[said("one"), said("two")])  # type: ignore[list-item]
        live = [next(stream) for _ in range(3)]
    assert [event.type for event in live] == ["user.message", "user.message", "session.status_running"]

    path = f"/v1/sessions/{session}/events/stream"
    for headers, params, expected in (
        ({"last-event-id": "2"}, {}, [3, 4]),
        ({}, {"after": "0"}, [1, 2, 3, 4]),
        ({}, {"after": sdk.beta.sessions.events.list(session).data[2].id}, [4]),
        ({"last-event-id": "2"}, {"after": "0"}, [3, 4]),
    ):
        with control.http() as http, http.stream("GET", path, headers=headers, params=params) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            seen = frames(response)
            got = [next(seen) for _ in expected]
        assert [number for _, number, _ in got] == expected
        assert [data["seq"] for _, _, data in got] == expected
        assert all(kind == data["type"] for kind, _, data in got)
    with control.http() as http:
        for wrong in ("x", "sevt_" + "0" * 32, "-1"):
            answer = http.get(path, params={"after": wrong})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")


def test_a_stream_of_a_long_session_shows_all_of_it_once(control: ControlPlane, session: str) -> None:
    with control.http() as http:
        for _ in range(5):
            http.post(f"/v1/sessions/{session}/events", json={"events": [said(str(n)) for n in range(100)]})
        with http.stream("GET", f"/v1/sessions/{session}/events/stream", params={"after": 0}) as response:
            seen = frames(response)
            assert [next(seen)[1] for _ in range(501)] == list(range(1, 502))


def test_a_stream_goes_on_when_its_listening_connection_is_cut(
    control: ControlPlane, session: str, database: DatabaseUrls
) -> None:
    sdk = control.sdk()
    with sdk.beta.sessions.events.stream(session) as stream:
        with psycopg.connect(database.admin_url) as connection:
            cut = connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where query ilike 'listen%' and datname = current_database()"
            ).fetchall()
        assert cut == [(True,)], "one connection listens for all streams"
        sdk.beta.sessions.events.send(session, events=[said("still?")])  # type: ignore[list-item]
        assert next(stream).type == "user.message"


def test_an_event_whose_notification_is_lost_is_found(
    control: ControlPlane, session: str, database: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("alter table trunkline.events disable trigger appended")
    sdk = control.sdk()
    with sdk.beta.sessions.events.stream(session) as stream:
        sdk.beta.sessions.events.send(session, events=[said("unheard")])  # type: ignore[list-item]
        assert next(stream).type == "user.message"
    assert event_feed.LOOK_SECONDS < events.HEARTBEAT_SECONDS


def test_streams_hold_no_connection(control: ControlPlane, session: str) -> None:
    with control.http() as http, httpx.Client(limits=httpx.Limits(max_connections=200)) as many:
        open_streams = []
        for _ in range(40):  # the pool has 8
            request = many.build_request(
                "GET",
                f"{control.base_url}/v1/sessions/{session}/events/stream",
                headers={"x-api-key": control.key},
            )
            open_streams.append(many.send(request, stream=True))
        try:
            http.post(f"/v1/sessions/{session}/events", json={"events": [said("to all")]})
            for response in open_streams:
                assert next(frames(response))[2]["content"][0]["text"] == "to all"
        finally:
            for response in open_streams:
                response.close()


def test_a_stream_ends_with_its_session_and_with_its_key(control: ControlPlane, session: str) -> None:
    sdk = control.sdk()
    with sdk.beta.sessions.events.stream(session) as stream:
        sdk.beta.sessions.delete(session)
        assert [event.type for event in stream] == ["session.deleted"]

    session = new_session(control)
    with control.http() as http:
        made = http.post("/v1/keys", json={"name": "short", "scopes": ["manage"]}).json()
        with control.sdk(made["key"]).beta.sessions.events.stream(session) as stream:
            http.delete(f"/v1/keys/{made['id']}")
            http.post(f"/v1/sessions/{session}/events", json={"events": [said("secret")]})
            with pytest.raises(anthropic.APIStatusError, match="not known, has expired or was revoked"):
                list(stream)


def test_streams_end_when_the_control_plane_stops(database: DatabaseUrls) -> None:
    with running(database) as control:
        session = new_session(control)
        http = control.http()
        stream = http.send(http.build_request("GET", f"/v1/sessions/{session}/events/stream"), stream=True)
        begun = time.monotonic()
    assert list(frames(stream)) == [], "ended in order, not cut"
    http.close()
    assert time.monotonic() - begun < 5, "the drain did not wait for the stream to time out"


def test_many_writers_leave_no_gap_and_no_double(control: ControlPlane, session: str, database: DatabaseUrls) -> None:
    def write(writer: int) -> None:
        with control.http() as http:
            for number in range(10):
                body = {"events": [said(f"{writer}-{number}-a"), said(f"{writer}-{number}-b")]}
                assert http.post(f"/v1/sessions/{session}/events", json=body).status_code == 200

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    log = events_of(database.admin_url, session)
    assert [event["seq"] for event in log] == list(range(1, 162))
    texts = [event["payload"]["content"][0]["text"] for event in log if event["type"] == "user.message"]
    assert len(set(texts)) == 160
    for first in range(0, 160, 2):
        assert texts[first][:-1] == texts[first + 1][:-1], "events sent together stay together"
    assert [event["type"] for event in log].count("session.status_running") == 1


def test_a_session_with_something_to_do_is_woken_in_the_same_transaction(database: DatabaseUrls) -> None:
    woken: list[str] = []
    fail = threading.Event()

    async def wake(connection: Connection) -> None:
        cursor = await connection.execute("select session_id::text from trunkline.events where type = 'user.message'")
        row = await cursor.fetchone()
        assert row is not None, "the events are there when the wake is sent"
        if fail.is_set():
            raise RuntimeError("the queue is away: sk-tl-secret")
        woken.append(row["session_id"].replace("-", ""))

    with running(database, wake=wake) as control:
        session = new_session(control)
        assert woken == []
        with control.http() as http:
            path = f"/v1/sessions/{session}/events"
            assert http.post(path, json={"events": [said("go")]}).status_code == 200
            assert woken == [session.removeprefix("sesn_")]
            fail.set()
            refused = http.post(path, json={"events": [said("lost?")]})
            assert refused.status_code == 500
            assert "secret" not in refused.text
            assert len(http.get(path).json()["data"]) == 2, "not woken, not appended"


def test_a_tool_result_belongs_to_a_call_that_waits_for_it(
    control: ControlPlane, session: str, database: DatabaseUrls
) -> None:
    use = "sevt_" + "1" * 32
    with psycopg.connect(database.admin_url) as connection:
        connection.execute(
            """insert into trunkline.events (tenant_id, session_id, seq, id, type, payload, created_at)
               select tenant_id, id, 1, '11111111-1111-1111-1111-111111111111', 'agent.custom_tool_use',
                      '{"name": "refund", "input": {}}', now() from trunkline.sessions"""
        )
        connection.execute("update trunkline.sessions set last_seq = 1")
    result = {
        "type": "user.custom_tool_result",
        "custom_tool_use_id": use,
        "content": [{"type": "text", "text": "done"}],
    }
    path = f"/v1/sessions/{session}/events"
    with control.http() as http:
        for wrong, words in (
            (result | {"custom_tool_use_id": "sevt_" + "2" * 32}, "no agent.custom_tool_use of that id"),
            (result | {"custom_tool_use_id": "toolu_1"}, "is not the id of an event"),
            ({"type": "user.tool_confirmation", "tool_use_id": use, "result": "allow"}, "no agent.tool_use"),
        ):
            answer = http.post(path, json={"events": [wrong]})
            assert answer.status_code == 400, answer.text
            assert words in answer.json()["error"]["message"]
            assert answer.json()["error"]["param"].startswith("events[0]")
        assert http.post(path, json={"events": [result, result]}).status_code == 409
        assert http.post(path, json={"events": [result]}).status_code == 200
        again = http.post(path, json={"events": [result]})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "already_answered")
        assert [event["type"] for event in http.get(path).json()["data"]] == [
            "agent.custom_tool_use",
            "user.custom_tool_result",
            "session.status_running",
        ]


def test_wrong_events_are_refused_and_nothing_is_appended(
    control: ControlPlane, session: str, database: DatabaseUrls
) -> None:
    system = {"type": "system.message", "content": [{"type": "text", "text": "s"}]}
    cases: list[tuple[Any, str]] = [
        ({}, "`events`: is missing"),
        ({"events": []}, "`events`"),
        ({"events": [said("x")] * 101}, "`events`"),
        ({"events": "x"}, "`events`"),
        ({"events": [1]}, "`events[0]`"),
        ({"events": [{}]}, "`events[0]`: has no `type`"),
        ({"events": [{"type": "user.shout"}]}, "unknown type 'user.shout'"),
        ({"events": [{"type": "agent.message", "content": []}]}, "written by Trunkline"),
        ({"events": [{"type": "session.status_idle"}]}, "written by Trunkline"),
        ({"events": [{"type": "user.message"}]}, "`events[0].content`: is missing"),
        ({"events": [{"type": "user.message", "content": []}]}, "`events[0].content`"),
        ({"events": [{"type": "user.message", "content": "hello"}]}, "`events[0].content`"),
        (
            {"events": [{"type": "user.message", "content": [{"type": "text"}]}]},
            "`events[0].content[0].text`: is missing",
        ),
        ({"events": [{"type": "user.message", "content": [{"type": "audio"}]}]}, "unknown type 'audio'"),
        ({"events": [said("x") | {"seq": 7}]}, "`events[0].seq`: is not a known field"),
        ({"events": [system]}, "last event of its request"),
        ({"events": [said("x"), system, said("y")]}, "last event of its request"),
        ({"events": [said("fine"), {"type": "user.shout"}]}, "`events[1]`"),
    ]
    with control.http() as http:
        for body, words in cases:
            answer = http.post(f"/v1/sessions/{session}/events", json=body)
            assert answer.status_code == 400, (body, answer.text)
            assert words in answer.json()["error"]["message"], (body, answer.json()["error"]["message"])
        for params in ({"limit": 0}, {"limit": 1001}, {"order": "up"}, {"page": "nonsense"}, {"page": "page_e30"}):
            assert http.get(f"/v1/sessions/{session}/events", params=params).status_code == 400
    assert events_of(database.admin_url, session) == []
