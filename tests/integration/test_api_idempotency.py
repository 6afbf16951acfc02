"""`Idempotency-Key`: sent twice, carried out once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg

from support.control_plane import ControlPlane, events_of
from support.postgres import DatabaseUrls

KEY = {"idempotency-key": "order-66"}


def test_a_request_sent_twice_is_carried_out_once(control: ControlPlane, database: DatabaseUrls) -> None:
    message = {"events": [{"type": "user.message", "content": [{"type": "text", "text": "Once."}]}]}
    with control.http() as http:
        first = http.post("/v1/agents", json={"name": "a"}, headers=KEY)
        again = http.post("/v1/agents", json={"name": "a"}, headers=KEY)
        assert (first.status_code, again.json()) == (200, first.json())
        session = http.post("/v1/sessions", json={"agent": "a"}, headers={"idempotency-key": "s"}).json()
        repeated = http.post("/v1/sessions", json={"agent": "a"}, headers={"idempotency-key": "s"}).json()
        assert (repeated["id"], repeated["created_at"]) == (session["id"], session["created_at"])
        assert len(http.get("/v1/sessions").json()["data"]) == 1
        path = f"/v1/sessions/{session['id']}/events"
        with ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(lambda _: http.post(path, json=message, headers={"idempotency-key": "e"}).json(), range(16))
            )
    assert all(answer == answers[0] for answer in answers)
    log = events_of(database.admin_url, session["id"])
    assert [event["type"] for event in log] == ["user.message", "session.status_running"]
    assert [event["content"] for event in answers[0]["data"]] == [message["events"][0]["content"]]


def test_what_users_said_is_not_kept_with_a_key(control: ControlPlane, database: DatabaseUrls) -> None:
    message = {"events": [{"type": "user.message", "content": [{"type": "text", "text": "My secret."}]}]}
    with control.http() as http:
        http.post("/v1/agents", json={"name": "a"})
        made = http.post("/v1/sessions", json={"agent": "a", "title": "My secret."}, headers={"idempotency-key": "s"})
        path = f"/v1/sessions/{made.json()['id']}"
        assert http.post(f"{path}/events", json=message, headers={"idempotency-key": "e"}).status_code == 200
        http.delete(path)
        assert http.post(f"{path}/events", json=message, headers={"idempotency-key": "e"}).status_code == 404
    with psycopg.connect(database.admin_url) as connection:
        kept = connection.execute("select response::text from trunkline.idempotency_keys").fetchall()
    assert len(kept) == 2
    assert not [text for (text,) in kept if "secret" in text]


def test_a_key_used_for_another_request_is_refused(control: ControlPlane) -> None:
    other = control.new_key(scopes=["manage"])
    with control.http() as http:
        assert http.post("/v1/agents", json={"name": "a"}, headers=KEY).status_code == 200
        for path, body in (("/v1/agents", {"name": "b"}), ("/v1/agents/a/archive", {"name": "a"})):
            refused = http.post(path, json=body, headers=KEY)
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_key_reused")
        assert http.post("/v1/agents", json={"name": "c"}, headers={"idempotency-key": "x" * 256}).status_code == 400
    with control.http(other) as http:
        assert http.post("/v1/agents", json={"name": "a"}, headers=KEY).status_code == 409
    with control.http(control.another_tenant()) as http:
        assert http.post("/v1/agents", json={"name": "a"}, headers=KEY).status_code == 200, (
            "each tenant has its own keys"
        )


def test_a_refused_request_may_be_sent_again(control: ControlPlane) -> None:
    with control.http() as http:
        assert http.post("/v1/sessions", json={"agent": "later"}, headers=KEY).status_code == 404
        http.post("/v1/agents", json={"name": "later"})
        assert http.post("/v1/sessions", json={"agent": "later"}, headers=KEY).status_code == 200


def test_after_a_day_a_key_is_free(control: ControlPlane, database: DatabaseUrls) -> None:
    with control.http() as http:
        assert http.post("/v1/agents", json={"name": "a"}, headers=KEY).status_code == 200
        with psycopg.connect(database.admin_url) as connection:
            connection.execute("update trunkline.idempotency_keys set created_at = now() - interval '25 hours'")
        assert http.post("/v1/agents", json={"name": "b"}, headers=KEY).json()["name"] == "b"
        assert http.post("/v1/agents", json={"name": "b"}, headers=KEY).json()["name"] == "b"


def test_the_text_of_a_new_key_is_not_kept(control: ControlPlane, database: DatabaseUrls) -> None:
    with control.http() as http:
        made = http.post("/v1/keys", json={"name": "k"}, headers=KEY).json()
        again = http.post("/v1/keys", json={"name": "k"}, headers=KEY)
        assert (again.status_code, again.json()["error"]["key_id"]) == (409, made["id"])
    with psycopg.connect(database.admin_url) as connection:
        kept = connection.execute("select response::text from trunkline.idempotency_keys").fetchall()
    assert len(kept) == 1
    assert made["key"] not in kept[0][0]
