"""The response cache: the same request, with the same memory, is answered again and costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from support.memory import CUSTOMER, ok, write
from support.postgres import copied_database, temporary_home
from support.stack import Stack, eventually, serving
from trunkline.store.embedded import ConnectionInfo

CACHE = "x-trunkline-cache"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module", params=["memory", "postgres"])
def cached(
    request: pytest.FixtureRequest, postgres: ConnectionInfo, migrated_template: str, scripted_model: str
) -> Iterator[Stack]:
    """A stack with a cache: in memory by key, in Postgres by team."""
    namespace = {"memory": "key", "postgres": "team"}[request.param]
    more = f"cache: {{store: {request.param}, ttl_seconds: 600, namespace: {namespace}, models: ['gp*', claude]}}\n"
    with (
        temporary_home() as home,
        copied_database(postgres, migrated_template) as database,
        serving(database, scripted_model, home, more=more) as running,
    ):
        yield running


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt", "messages": [{"role": "user", "content": text}], **more}


def new_text() -> str:
    return f"say {uuid4().hex}"


def send(stack: Stack, key: str, body: Any, path: str = CHAT, **headers: str) -> httpx.Response:
    with stack.http(key) as http:
        return http.post(path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def hits(stack: Stack, key: str, body: Any, path: str = CHAT, **headers: str) -> httpx.Response:
    """Send until the answer comes from the cache: Postgres is told a moment after the first answer has ended."""
    answers: list[httpx.Response] = []

    def hit() -> bool:
        answers.append(send(stack, key, body, path, **headers))
        return answers[-1].headers[CACHE] == "hit"

    assert eventually(hit), answers[-1].headers
    return answers[-1]


def asked(stack: Stack, text: str) -> int:
    return sum(text in str(request["body"]) for request in stack.asked())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, said("?")),
        (CHAT, said("?", stream=True)),
        (CHAT, said("?", model="claude", stream=True, stream_options={"include_usage": True})),
        ("/v1/messages", said("?", model="claude", max_tokens=50)),
        ("/v1/responses", {"model": "gpt", "input": "?"}),
        ("/v1beta/models/gpt:generateContent", {"contents": [{"role": "user", "parts": [{"text": "?"}]}]}),
        ("/v1/embeddings", {"model": "gpt", "input": "?"}),
    ],
)
def test_the_same_request_gets_the_same_answer_and_costs_nothing(cached: Stack, path: str, body: Any) -> None:
    key, key_id = cached.inference_key()
    text = new_text()
    what = _with(body, text)
    first = send(cached, key, what, path)
    assert (first.status_code, first.headers[CACHE]) == (200, "miss"), first.text
    before = asked(cached, text)
    again = hits(cached, key, what, path)
    assert again.status_code == 200
    assert first.headers["content-type"] == again.headers["content-type"]
    assert first.headers["x-trunkline-upstream"] == again.headers["x-trunkline-upstream"]
    assert first.headers["x-trunkline-call"] != again.headers["x-trunkline-call"]
    counted = asked(cached, text)
    # Postgres may have been told of the first answer only after the second was asked for.
    assert counted > before or first.content == again.content
    assert send(cached, key, what, path).headers[CACHE] == "hit"
    assert asked(cached, text) == counted
    assert send(cached, key, _with(body, new_text()), path).headers[CACHE] == "miss"
    assert eventually(lambda: cached.usage(key_id=key_id, source="cache")["requests"] == 2)
    spent = cached.usage(key_id=key_id, source="cache")
    assert (spent["cost_usd"], spent["input_tokens"], spent["output_tokens"]) == (0, 0, 0)


def _with(body: Any, text: str) -> Any:
    """The body with its question marks replaced."""
    if isinstance(body, dict):
        return {name: _with(value, text) for name, value in body.items()}
    if isinstance(body, list):
        return [_with(value, text) for value in body]
    return text if body == "?" else body


def test_without_a_cache_nothing_is_said_of_one(stack: Stack) -> None:
    body = said(new_text())
    answers = [send(stack, stack.key, body) for _ in range(2)]
    assert all(CACHE not in answer.headers for answer in answers)
    assert asked(stack, body["messages"][0]["content"]) == 2


def test_answers_are_shared_as_far_as_configured_and_never_among_tenants(cached: Stack) -> None:
    with cached.http() as http:
        teams = [ok(http.post("/v1/teams", json={"name": f"t-{uuid4().hex[:8]}"}))["id"] for _ in range(2)]
        stranger = ok(http.post("/v1/tenants", json={"name": f"cache-{uuid4().hex[:8]}"}))["key"]
    body = said(new_text())
    first, _ = cached.inference_key(team_id=teams[0])
    mate, _ = cached.inference_key(team_id=teams[0])
    rival, _ = cached.inference_key(team_id=teams[1])
    alone, _ = cached.inference_key()
    assert send(cached, first, body).headers[CACHE] == "miss"
    hits(cached, first, body)
    assert [send(cached, key, body).headers[CACHE] for key in (rival, alone, stranger)] == ["miss"] * 3
    by_team = cached.rows("select count(*) as kept from trunkline.cached_answers")[0]["kept"] > 0
    assert send(cached, mate, body).headers[CACHE] == ("hit" if by_team else "miss")


def test_a_request_may_go_past_the_cache(cached: Stack) -> None:
    key, _ = cached.inference_key()
    text = new_text()
    body = said(text)
    assert send(cached, key, body, Cache_Control="no-store").headers[CACHE] == "bypass"
    assert send(cached, key, body, x_trunkline_cache_ttl="0").headers[CACHE] == "bypass"
    assert send(cached, key, body, Cache_Control="max-age=1, No-Cache").headers[CACHE] == "bypass"
    assert asked(cached, text) == 3
    hits(cached, key, body)
    counted = asked(cached, text)
    assert send(cached, key, body, Cache_Control="no-cache").headers[CACHE] == "bypass"
    assert asked(cached, text) == counted + 1
    wrong = send(cached, key, body, x_trunkline_cache_ttl="soon")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-trunkline-cache-ttl")
    assert send(cached, key, said(text, model="oai/other")).headers[CACHE] == "bypass", "not one of its models"


def test_an_answer_is_kept_no_longer_than_asked(cached: Stack) -> None:
    key, _ = cached.inference_key()
    body = said(new_text())
    send(cached, key, body, x_trunkline_cache_ttl="1")
    assert eventually(lambda: send(cached, key, body, x_trunkline_cache_ttl="1").headers[CACHE] == "hit")
    assert eventually(lambda: send(cached, key, body, x_trunkline_cache_ttl="1").headers[CACHE] == "miss")


def test_limits_hold_for_what_the_cache_answers(cached: Stack) -> None:
    key, _ = cached.inference_key(rpm=3)
    body = said(new_text())
    statuses = [send(cached, key, body).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    bound, _ = cached.inference_key(models=["claude"])
    assert send(cached, bound, body).status_code == 403


def test_failures_are_not_kept(cached: Stack) -> None:
    key, _ = cached.inference_key()
    body = {"model": "gpt", "messages": [], "user": uuid4().hex}
    statuses = {(answer.status_code, answer.headers[CACHE]) for answer in (send(cached, key, body) for _ in range(3))}
    assert statuses == {(400, "miss")}


def test_a_call_of_a_session_is_in_its_log_and_sees_what_memory_holds(cached: Stack) -> None:
    name = f"cached-{uuid4().hex[:8]}"
    key, _ = cached.inference_key()
    memory = {"backends": ["postgres"], "blocks": {"customer": CUSTOMER}}
    with cached.http() as http:
        ok(http.post("/v1/agents", json={"name": name, "model": "claude", "memory": memory}))
    body, user = said(new_text(), model="claude"), {"x_trunkline_agent": name, "x_trunkline_user": "cus_1"}
    assert send(cached, key, body, **user).headers[CACHE] == "miss"
    hit = hits(cached, key, body, **user)
    assert hit.headers["x-trunkline-memory"] == "fresh"
    events = cached.events(hit.headers["x-trunkline-session"])
    assert [event.type for event in events] == ["user.message", "agent.message", "session.status_idle"]
    assert events[1].content[0].text in hit.text
    with cached.http() as http:
        operation = {"op": "set", "field": "name", "value": "Ada Lovelace"}
        ok(write(http, name, "customer", operation, user_id="cus_1"))
    assert send(cached, key, body, **user).headers[CACHE] == "miss"
    hits(cached, key, body, **user)
    # Another user has other memory, once there is any.
    with cached.http() as http:
        ok(write(http, name, "customer", {"op": "set", "field": "name", "value": "Grace Hopper"}, user_id="cus_2"))
    assert send(cached, key, body, **{**user, "x_trunkline_user": "cus_2"}).headers[CACHE] == "miss"


def test_what_memory_tools_had_a_part_in_is_not_kept(cached: Stack) -> None:
    name = f"cached-{uuid4().hex[:8]}"
    key, _ = cached.inference_key()
    memory = {"backends": ["postgres"], "blocks": {"customer": CUSTOMER}}
    with cached.http() as http:
        ok(http.post("/v1/agents", json={"name": name, "model": "claude", "memory": memory}))
    # A tool that fails leaves memory as it was, so that the request stays the same.
    body = said(f"remember something deep {uuid4().hex}", model="claude")
    for _ in range(3):
        answer = send(cached, key, body, x_trunkline_agent=name, x_trunkline_user="cus_1")
        assert (answer.status_code, answer.headers[CACHE]) == (200, "miss")


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_from_the_cache_is_gone_on_with_by_its_own_id(cached: Stack, stream: bool) -> None:
    name = f"cached-{uuid4().hex[:8]}"
    key, _ = cached.inference_key()
    with cached.http() as http:
        ok(http.post("/v1/agents", json={"name": name, "model": "claude"}))
    body = {"model": "claude", "input": new_text(), "stream": stream}
    user = {"x_trunkline_user": "cus_1", "x_trunkline_agent": name}
    assert send(cached, key, body, "/v1/responses", **user).headers[CACHE] == "miss"
    hit = hits(cached, key, body, "/v1/responses", **user)
    ours = hit.headers["x-trunkline-call"].replace("call_", "resp_")
    assert ours in hit.text
    assert stream or hit.json()["id"] == ours
    more = {"model": "claude", "input": new_text(), "previous_response_id": ours}
    onward = send(cached, key, more, "/v1/responses", **user)
    assert onward.status_code == 200, onward.text
    assert onward.headers["x-trunkline-session"] == hit.headers["x-trunkline-session"]


def test_the_metrics_tell_hits_and_misses(cached: Stack) -> None:
    def counted() -> dict[str, float]:
        lines = httpx.get(f"{cached.base_url}/metrics", timeout=20).text.splitlines()
        found = (
            line.removeprefix("trunkline_cache_total") for line in lines if line.startswith("trunkline_cache_total")
        )
        return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in found}

    before = counted()
    key, _ = cached.inference_key()
    body = said(new_text())
    send(cached, key, body)
    hits(cached, key, body)
    send(cached, key, body, Cache_Control="no-store")
    after = counted()
    assert all(after[name] > before[name] for name in ("hit", "miss", "bypass"))
    assert set(after) == {"hit", "miss", "bypass"}


def test_a_repeat_of_an_idempotent_call_that_the_cache_answered_is_answered_again(cached: Stack) -> None:
    key, _ = cached.inference_key()
    body, once = said(new_text()), uuid4().hex
    send(cached, key, body)
    hits(cached, key, body)
    first = send(cached, key, body, Idempotency_Key=once)
    again = send(cached, key, body, Idempotency_Key=once)
    assert (first.headers[CACHE], first.content) == ("hit", again.content)
    assert again.headers["x-trunkline-replayed"] == first.headers["x-trunkline-call"]


def test_a_cache_that_cannot_be_read_is_a_miss(cached: Stack) -> None:
    key, _ = cached.inference_key()
    body = said(new_text())
    send(cached, key, body)
    hits(cached, key, body)
    kept = cached.rows("select count(*) as kept from trunkline.cached_answers")[0]["kept"]
    if not kept:
        return
    rename = "alter function trunkline.{}(uuid, bytea) rename to {}"
    with psycopg.connect(cached.admin_url, autocommit=True) as connection:
        connection.execute(rename.format("gateway_cache_get", "elsewhere"))
        try:
            answer = send(cached, key, body)
        finally:
            connection.execute(rename.format("elsewhere", "gateway_cache_get"))
    assert (answer.status_code, answer.headers[CACHE]) == (200, "miss")
    with psycopg.connect(cached.admin_url, autocommit=True) as connection:
        connection.execute("update trunkline.cached_answers set expires_at = now() - interval '1 hour'")
        assert send(cached, key, body).headers[CACHE] == "miss"
        # Each answer that is kept sweeps a few that are past their time.
        assert eventually(
            lambda: (
                cached.rows("select count(*) as old from trunkline.cached_answers where expires_at < now()")[0]["old"]
                < kept
            )
        )
