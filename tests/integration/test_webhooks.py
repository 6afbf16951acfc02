"""Webhooks: signed so that Anthropic's SDK takes them, tried again, and never sent where they must not go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any

import anthropic
import httpx
import psycopg
import pytest
from standardwebhooks import WebhookVerificationError

from support.control_plane import VAULT_KEY, ControlPlane
from support.postgres import DatabaseUrls
from trunkline.scheduling.webhooks import PAUSES, Webhooks
from trunkline.store.pool import open_database
from trunkline.store.sealing import Sealing

LOCAL = (ip_network("127.0.0.0/8"),)
SAY = {"events": [{"type": "user.message", "content": [{"type": "text", "text": "My secret."}]}]}


class Receiver:
    """Keeps what it is told, and answers with `status`."""

    def __init__(self) -> None:
        self.told: list[tuple[dict[str, str], str]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                receiver.told.append(({name.lower(): text for name, text in self.headers.items()}, body))
                self.send_response(receiver.status)
                self.send_header("location", receiver.url + "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base's name)
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self.server.server_address[1]}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()


@pytest.fixture
def deliver(urls: DatabaseUrls) -> Callable[..., None]:
    """Attempt all that is waiting, whenever it is due."""

    def act(allow: Any = LOCAL) -> None:
        with psycopg.connect(urls.admin_url) as connection:
            connection.execute("update trunkline.webhook_deliveries set next_at = now() where next_at is not null")

        async def once() -> None:
            async with open_database(urls.control_url, max_size=4) as database:
                while await Webhooks(Sealing((VAULT_KEY,)), allow).deliver_due(database):
                    pass

        asyncio.run(once())

    return act


@pytest.fixture
def webhook(http: httpx.Client, receiver: Receiver) -> Iterator[dict[str, Any]]:
    answer = http.post("/v1/webhooks", json={"url": receiver.url})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    yield made
    http.delete(f"/v1/webhooks/{made['id']}")


def run(http: httpx.Client) -> str:
    """Set a session to work."""
    http.post("/v1/agents/apply", json={"definition": {"name": "told", "model": "m"}})
    session = str(http.post("/v1/sessions", json={"agent": "told"}).json()["id"])
    assert http.post(f"/v1/sessions/{session}/events", json=SAY).status_code == 200
    return session


def delivery(http: httpx.Client, webhook: dict[str, Any]) -> dict[str, Any]:
    (only,) = http.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()["data"]
    found: dict[str, Any] = only
    return found


def test_the_sdk_takes_what_is_sent_and_nothing_else(
    http: httpx.Client, webhook: dict[str, Any], receiver: Receiver, deliver: Callable[..., None]
) -> None:
    session = run(http)
    deliver()
    ((headers, body),) = receiver.told
    webhooks = anthropic.Anthropic(api_key="x").beta.webhooks
    event = webhooks.unwrap(body, headers=headers, key=webhook["secret"])
    assert (event.data.type, event.data.id) == ("session.status_run_started", session)
    assert "My secret." not in body
    said = delivery(http, webhook)
    assert (said["status"], said["attempts"], said["response_status"]) == ("delivered", 1, 200)
    assert said["event_id"] == event.id == headers["webhook-id"]
    with pytest.raises(WebhookVerificationError):
        webhooks.unwrap(body + " ", headers=headers, key=webhook["secret"])
    old = headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 3600)}
    with pytest.raises(WebhookVerificationError):
        webhooks.unwrap(body, headers=old, key=webhook["secret"])
    deliver()
    assert len(receiver.told) == 1


def test_a_secret_is_rotated_while_receivers_know_either(
    http: httpx.Client, webhook: dict[str, Any], receiver: Receiver, deliver: Callable[..., None], urls: DatabaseUrls
) -> None:
    webhooks = anthropic.Anthropic(api_key="x").beta.webhooks
    path = f"/v1/webhooks/{webhook['id']}/rotate_secret"

    def taken_with(*secrets: str) -> list[bool]:
        receiver.told.clear()
        run(http)
        deliver()
        ((headers, body),) = receiver.told
        found = []
        for secret in secrets:
            try:
                webhooks.unwrap(body, headers=headers, key=secret)
                found.append(True)
            except WebhookVerificationError:
                found.append(False)
        return found

    first = webhook["secret"]
    answer = http.post(path, headers={"idempotency-key": "r"})
    second = answer.json()["secret"]
    assert answer.json() | {"secret": None, "updated_at": None} == webhook | {
        "secret": None,
        "updated_at": None,
        "previous_secret_expires_at": answer.json()["previous_secret_expires_at"],
    }
    assert taken_with(first, second) == [True, True]
    again = http.post(path, headers={"idempotency-key": "r"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "shown_once")
    assert second not in again.text
    third = http.post(path, json={"overlap_seconds": 3600}).json()["secret"]
    assert taken_with(first, second, third) == [False, True, True]
    fourth = http.post(path, json={"overlap_seconds": 0}).json()["secret"]
    assert taken_with(second, third, fourth) == [False, False, True]
    for wrong in ({"overlap_seconds": -1}, {"overlap_seconds": 604_801}, {"overlap_seconds": "1"}, {"seconds": 1}):
        assert http.post(path, json=wrong).status_code == 400
    with psycopg.connect(urls.admin_url) as connection:
        kept = str(connection.execute("select w::text from trunkline.webhooks w").fetchall())
        kept += str(connection.execute("select response::text from trunkline.idempotency_keys").fetchall())
    assert not any(secret in kept for secret in (first, second, third, fourth))


def test_what_is_not_taken_is_told_again_and_a_dead_webhook_is_paused(
    http: httpx.Client, webhook: dict[str, Any], receiver: Receiver, deliver: Callable[..., None]
) -> None:
    run(http)
    receiver.status = 302
    deliver()
    assert len(receiver.told) == 1, "a redirect was followed"
    waiting = delivery(http, webhook)
    assert (waiting["status"], waiting["error"]) == ("pending", "It answered with status 302.")
    receiver.status = 503
    for _ in PAUSES:
        deliver()
    assert len({headers["webhook-id"] for headers, _ in receiver.told}) == 1
    assert delivery(http, webhook)["status"] == "failed"
    paused = http.get(f"/v1/webhooks/{webhook['id']}").json()
    assert (paused["status"], paused["paused_reason"]["type"]) == ("paused", "failing")
    attempts = len(receiver.told)
    assert attempts == len(PAUSES) + 1
    run(http)
    deliver()
    assert len(receiver.told) == attempts
    enabled = http.post(f"/v1/webhooks/{webhook['id']}", json={"status": "enabled"}).json()
    assert (enabled["status"], enabled["paused_reason"], enabled["failures"]) == ("enabled", None, 0)
    receiver.status = 410
    run(http)
    deliver()
    assert http.get(f"/v1/webhooks/{webhook['id']}").json()["paused_reason"]["type"] == "gone"


def test_addresses_inside_are_not_reached(
    http: httpx.Client, webhook: dict[str, Any], receiver: Receiver, deliver: Callable[..., None]
) -> None:
    run(http)
    deliver(allow=())
    assert receiver.told == []
    assert "is not public" in delivery(http, webhook)["error"]


def test_a_webhook_is_made_read_changed_and_deleted(http: httpx.Client, plane: ControlPlane) -> None:
    made = http.post("/v1/webhooks", json={"url": "https://a.example/hook", "events": ["session.requires_action"]})
    webhook = made.json()
    path = f"/v1/webhooks/{webhook['id']}"
    assert webhook.pop("secret").startswith("whsec_")
    assert http.get(path).json() == webhook
    assert webhook in http.get("/v1/webhooks").json()["data"]
    changed = http.patch(path, json={"url": "https://b.example/", "events": None}).json()
    assert (changed["url"], changed["events"]) == ("https://b.example/", None)
    for url in ("ftp://a.example", "https://user:pass@a.example", "https://", "https://a b", "javascript:alert(1)"):
        assert http.post("/v1/webhooks", json={"url": url}).status_code == 400, url
    unknown = {"url": "https://a.example", "events": ["session.made_up"]}
    assert http.post("/v1/webhooks", json=unknown).status_code == 400
    assert http.delete(path).status_code == 200
    assert http.get(path).status_code == 404


def test_a_key_for_one_agent_is_told_of_its_sessions_alone(
    http: httpx.Client, plane: ControlPlane, receiver: Receiver, deliver: Callable[..., None]
) -> None:
    http.post("/v1/agents/apply", json={"definition": {"name": "other", "model": "m"}})
    with plane.http(plane.new_key(scopes=["manage"], agent_id="other")) as bound:
        webhook = bound.post("/v1/webhooks", json={"url": receiver.url}).json()
        assert http.get("/v1/agents/other").json()["id"] == webhook["agent_id"]
        run(http)
        deliver()
        assert receiver.told == []
        assert bound.delete(f"/v1/webhooks/{webhook['id']}").status_code == 200
