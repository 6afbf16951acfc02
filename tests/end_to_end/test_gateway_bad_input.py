"""What is wrong with a call is told in the wire its client speaks; nothing is written, and nothing breaks."""

from __future__ import annotations

import json
import socket
from typing import Any
from uuid import uuid4

import anthropic
import httpx
import openai
import pytest

from support.memory import ok
from support.stack import Stack, eventually

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
EACH_WIRE = pytest.mark.parametrize("path", [CHAT, MESSAGES], ids=["openai", "anthropic"])
LIMIT = 4 * 1024 * 1024
GOOD: dict[str, Any] = {"model": "gpt", "max_tokens": 20, "messages": [{"role": "user", "content": "say fine"}]}


@pytest.fixture(scope="module")
def agent(stack: Stack) -> str:
    name = f"picky-{uuid4().hex[:8]}"
    with stack.http() as http:
        ok(http.post("/v1/agents", json={"name": name, "model": "gpt", "memory": {"blocks": {}}}))
    return name


def check(path: str, answer: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """Check that an error has the shape of the wire of `path` and says what these words say; return its inside."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    error: dict[str, Any] = body["error"]
    if path == CHAT:
        assert body.keys() == {"error"}
        assert error.keys() == {"message", "type", "param", "code"}
    else:
        assert body.keys() == {"type", "error", "request_id"}
        assert body["type"] == "error"
        assert error.keys() >= {"type", "message"}
        assert isinstance(body["request_id"], str), "an id that support can look for"
        assert body["request_id"]
    assert error["message"].endswith((".", ")", "…")), error["message"]
    for word in words:
        assert word in error["message"], error["message"]
    return error


class Watched:
    """Sees whether anything of a tenant is written, and whether the gateway is still the same process and well."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.key, self.key_id = stack.inference_key()
        self.before = self.written()

    def written(self) -> list[Any]:
        tables = ["events", "sessions", "passages", "memories", "memory_versions"]
        counts = [self.stack.rows(f"select count(*) from trunkline.{table}")[0]["count"] for table in tables]
        usage = "select count(*) from trunkline.usage where key_id = %s"
        return [*counts, self.stack.rows(usage, self.key_id.removeprefix("key_"))[0]["count"]]

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        with self.stack.http(self.key) as http:
            return http.post(path, content=content, headers={"content-type": "application/json", **headers})

    def unharmed(self) -> None:
        assert self.written() == self.before
        good = self.post(CHAT, GOOD)
        assert good.status_code == 200, good.text
        assert self.stack.gateway.alive()


@pytest.fixture
def watched(stack: Stack) -> Watched:
    return Watched(stack)


@EACH_WIRE
def test_an_unknown_model(watched: Watched, path: str) -> None:
    error = check(path, watched.post(path, GOOD | {"model": "gpt-99-imaginary"}), 404, "gpt-99-imaginary", "/v1/models")
    if path == CHAT:
        assert (error["code"], error["param"]) == ("model_not_found", "model")
    else:
        assert error["type"] == "not_found_error"
    watched.unharmed()


@EACH_WIRE
def test_an_unknown_agent(watched: Watched, path: str) -> None:
    check(path, watched.post(path, GOOD | {"model": "agent/nobody"}), 404, "nobody", "trunkline agent")
    check(path, watched.post(path, GOOD, **{"x-trunkline-agent": "nobody"}), 404, "nobody")
    nobody = "agent_" + 32 * "0"
    check(path, watched.post(path, GOOD, **{"x-trunkline-agent": nobody}), 404, nobody)
    check(path, watched.post(path, GOOD | {"model": "agent/"}), 404)
    watched.unharmed()


@EACH_WIRE
def test_a_key_that_is_missing_wrong_or_of_no_use(stack: Stack, watched: Watched, path: str) -> None:
    with httpx.Client(base_url=stack.base_url, timeout=20) as http:
        check(path, http.post(path, json=GOOD), 401, "No API key", "x-api-key")
        for headers in (
            {"authorization": "Bearer sk-tl-wrong"},
            {"x-api-key": "sk-tl-wrong"},
            {"api-key": stack.key + "x"},
            {"x-goog-api-key": stack.key[:-1]},
            {"authorization": "Bearer " + 3000 * "x"},
        ):
            check(path, http.post(path, json=GOOD, headers=headers), 401, "not known", "trunkline keys create")
        for headers in ({"authorization": f"Basic {stack.key}"}, {"authorization": "Bearer"}, {"x-api-key": ""}):
            check(path, http.post(path, json=GOOD, headers=headers), 401)
    no_inference = stack.new_key(scopes=["memory"])
    with stack.http(no_inference) as http:
        check(path, http.post(path, json=GOOD), 403, "scope 'inference'")
    watched.unharmed()


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key", "x-goog-api-key"])
def test_a_key_in_each_header(stack: Stack, header: str) -> None:
    value = f"Bearer {stack.key}" if header == "authorization" else stack.key
    answer = httpx.post(f"{stack.base_url}{CHAT}", json=GOOD, headers={header: value})
    assert answer.status_code == 200, answer.text


def test_keys_that_end_and_keys_with_limits(stack: Stack) -> None:
    few, _ = stack.inference_key(rpm=2)
    client = stack.openai(few)
    for _ in range(2):
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.RateLimitError, match="2 requests a minute") as limited:
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "hi"}])
    assert int(limited.value.response.headers["retry-after"]) > 0
    one_model, _ = stack.inference_key(models=["gpt"])
    with pytest.raises(openai.PermissionDeniedError, match="may not use the model 'claude'"):
        stack.openai(one_model).chat.completions.create(model="claude", messages=[{"role": "user", "content": "hi"}])
    assert [model.id for model in stack.openai(one_model).models.list() if "/" not in model.id] == ["gpt"]
    poor, _ = stack.inference_key(budget_usd=0)
    with pytest.raises(openai.RateLimitError, match="budget") as spent:
        stack.openai(poor).chat.completions.create(model="gpt", messages=[{"role": "user", "content": "hi"}])
    assert spent.value.code == "insufficient_quota"

    ends, ends_id = stack.inference_key()
    assert stack.openai(ends).models.list().data
    with stack.http() as http:
        assert http.delete(f"/v1/keys/{ends_id}").status_code == 200

    def refused() -> bool:
        try:
            stack.openai(ends).models.list()
        except openai.AuthenticationError:
            return True
        return False

    assert eventually(refused)


DEEP = 100_000
NOT_JSON = [
    b"",
    b"{",
    b"nonsense",
    b'{"model": "gpt", "messages": [}',
    b'{"model": "gpt", "messages": []} trailing',
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"model": "gpt", "messages": [{"role": "user", "content": "hi", "x": ' + b'{"a":' * DEEP,
    b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    b'{"model": "gpt", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    b'{"model": "gpt", "messages": [{"role": "user", "content": "a\x00b"}]}',
    b'{"model": "gpt", "messages": [{"role": "user", "content": "hi"}], "x": 01}',
    b'\xef\xbb\xbf{"model": "gpt", "messages": []}',
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
]


@EACH_WIRE
@pytest.mark.parametrize("body", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_no_json(watched: Watched, path: str, body: bytes) -> None:
    check(path, watched.post(path, body), 400)
    watched.unharmed()


@EACH_WIRE
@pytest.mark.parametrize("model", ["gpt", "claude"])
def test_depth_in_a_field_that_nobody_knows(watched: Watched, path: str, model: str) -> None:
    head = json.dumps(GOOD | {"model": model})[:-1].encode()
    check(path, watched.post(path, head + b', "x": ' + b"[" * DEEP + b"]" * DEEP + b"}"), 400, "nested", "deep")
    watched.unharmed()


WRONG_TYPES: list[tuple[dict[str, Any], str]] = [
    ({"model": 7}, "model"),
    ({"model": None}, "model"),
    ({"model": ["gpt"]}, "model"),
    ({"messages": "hi"}, "messages"),
    ({"messages": {}}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"stream": "yes"}, "stream"),
    ({"tools": {}}, "tools"),
]


@EACH_WIRE
@pytest.mark.parametrize(("wrong", "where"), WRONG_TYPES, ids=[str(wrong) for wrong, _ in WRONG_TYPES])
def test_wrong_types_are_named(watched: Watched, path: str, wrong: dict[str, Any], where: str) -> None:
    error = check(path, watched.post(path, GOOD | wrong), 400, where)
    assert error["type"] == "invalid_request_error"
    if path == CHAT:
        assert error["param"] == where
    watched.unharmed()


@EACH_WIRE
def test_what_is_missing_or_twice_or_no_object(watched: Watched, path: str) -> None:
    check(path, watched.post(path, {"model": "gpt", "max_tokens": 9}), 400, "messages", "required")
    check(path, watched.post(path, []), 400, "object")
    check(path, watched.post(path, b'"gpt"'), 400, "object")
    twice = b'{"model": "gpt", "model": "claude", "messages": []}'
    check(path, watched.post(path, twice), 400, "model", "twice")
    watched.unharmed()


@EACH_WIRE
def test_nul_and_length_in_names(watched: Watched, agent: str, path: str) -> None:
    user: dict[str, Any] = {"user": "a\0b"} if path == CHAT else {"metadata": {"user_id": "a\0b"}}
    check(path, watched.post(path, GOOD | user | {"model": f"agent/{agent}"}), 400, "NUL")
    check(path, watched.post(path, GOOD | {"model": "gpt\0"}), 400, "NUL")
    check(path, watched.post(path, GOOD | {"model": "agent/\0"}), 400, "NUL")
    check(path, watched.post(path, GOOD | {"model": 600 * "m"}), 400, "512 bytes")
    user = {"user": 300 * "u"} if path == CHAT else {"metadata": {"user_id": 300 * "u"}}
    check(path, watched.post(path, GOOD | user), 400, "256 bytes")
    user = {"user": 7} if path == CHAT else {"metadata": {"user_id": 7}}
    check(path, watched.post(path, GOOD | user), 400, "user")
    check(path, watched.post(path, GOOD, **{"x-trunkline-session": "sesn_7"}), 400, "sesn_7", "session")
    check(path, watched.post(path, GOOD, **{"x-trunkline-session": "nonsense"}), 400, "nonsense")
    watched.unharmed()


@EACH_WIRE
def test_half_a_surrogate_pair_is_no_text(watched: Watched, path: str) -> None:
    half = b'{"model": "gpt", "max_tokens": 9, "messages": [{"role": "user", "content": "say \\ud800 c"}]}'
    check(path, watched.post(path, half), 400, "surrogates")
    watched.unharmed()


def test_text_that_postgres_cannot_hold_is_kept_as_well_as_can_be(stack: Stack, agent: str) -> None:
    """NUL is valid in a JSON string: the call goes on, and the log marks the place."""
    body = b'{"model": "agent/%s", "user": "cus_1", "messages": [{"role": "user", "content": "say a\\u0000b c"}]}'
    with stack.http() as http:
        answer = http.post(CHAT, content=body % agent.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    events = stack.events(answer.headers["x-trunkline-session"])
    assert events[0].content[0].text == "say a\ufffdb c"
    assert [event.type for event in events] == ["user.message", "agent.message", "session.status_idle"]


@EACH_WIRE
@pytest.mark.parametrize("known", [True, False], ids=["length-told", "chunked"])
def test_a_body_over_the_limit(watched: Watched, path: str, known: bool) -> None:
    body = json.dumps(GOOD | {"padding": (LIMIT + 1_000_000) * "x"}).encode()
    with watched.stack.http(watched.key) as http:
        content = body if known else (body[start : start + 65536] for start in range(0, len(body), 65536))
        answer = http.post(path, content=content, headers={"content-type": "application/json"})
    error = check(path, answer, 413, str(LIMIT), "max_body_bytes")
    if path == MESSAGES:
        assert error["type"] == "request_too_large"
    watched.unharmed()


def test_a_body_just_below_the_limit_is_taken(stack: Stack) -> None:
    padding = LIMIT - len(json.dumps(GOOD | {"padding": ""}).encode())
    with stack.http() as http:
        assert http.post(CHAT, json=GOOD | {"padding": ""}).status_code == 200
        content = json.dumps(GOOD | {"padding": padding * "x"}).encode()
        assert len(content) == LIMIT
        assert http.post(CHAT, content=content, headers={"content-type": "application/json"}).status_code == 200


def test_a_body_over_the_limit_for_the_control_plane(stack: Stack) -> None:
    with stack.http() as http:
        answer = http.post("/v1/agents", json={"name": "big", "metadata": {"x": (LIMIT + 10) * "x"}})
    check(MESSAGES, answer, 413, str(LIMIT))


@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_a_large_body_with_a_wrong_key_gets_its_answer(stack: Stack, size: int) -> None:
    """The body is not read, and still the client must be able to read why."""
    for client in (stack.openai("sk-tl-wrong"), stack.openai("sk-tl-wrong")):
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": size * "x"}])
    with pytest.raises(anthropic.AuthenticationError):
        stack.anthropic("sk-tl-wrong").messages.create(
            model="gpt", max_tokens=9, messages=[{"role": "user", "content": size * "x"}]
        )


@EACH_WIRE
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_a_wrong_method(watched: Watched, path: str, method: str) -> None:
    with watched.stack.http(watched.key) as http:
        answer = http.request(method, path)
    check(path, answer, 405, "POST")
    assert answer.headers["allow"] == "POST"
    watched.unharmed()


def test_an_unknown_path(watched: Watched) -> None:
    for path in ("/v1/nothing", "/", "/v1/chat/completions/", "/v1/messages/extra", "/v1//messages", "/%00"):
        with watched.stack.http(watched.key) as http:
            answer = http.post(path, json=GOOD)
        assert answer.status_code in {404, 405}, (path, answer.text)
        assert answer.json()["error"]["message"]
    watched.unharmed()


def test_huge_headers_are_refused(stack: Stack, watched: Watched) -> None:
    with stack.http() as http:
        answer = http.post(CHAT, json=GOOD, headers={"x-padding": 2_000_000 * "x"})
    assert answer.status_code == 431
    with stack.http() as http:
        answer = http.post(CHAT, json=GOOD, headers={f"x-{number}": "x" for number in range(500)})
    assert answer.status_code == 431
    watched.unharmed()


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcde",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_http(stack: Stack, watched: Watched, sent: bytes) -> None:
    host, port = stack.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        received = b""
        while piece := connection.recv(4096):
            received += piece
    assert not received or received.split(b" ")[1][:1] == b"4", received
    watched.unharmed()


def test_a_body_that_breaks_off_is_no_call(stack: Stack, watched: Watched) -> None:
    host, port = stack.base_url.removeprefix("http://").split(":")
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-api-key: {watched.key}\r\ncontent-length: 1000\r\n\r\n"
    for _ in range(3):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head.encode() + b'{"model": "gpt"')
    watched.unharmed()


def test_an_agent_bound_key_and_a_model_it_cannot_reach(stack: Stack, agent: str) -> None:
    bound, _ = stack.inference_key(agent_id=agent)
    other = f"other-{uuid4().hex[:8]}"
    with stack.http() as http:
        ok(http.post("/v1/agents", json={"name": other, "model": "gpt", "memory": {"blocks": {}}}))
    for model, headers in ((f"agent/{other}", {}), ("gpt", {"x-trunkline-agent": other})):
        with pytest.raises(openai.NotFoundError, match="no agent"):
            stack.openai(bound).chat.completions.create(
                model=model, messages=[{"role": "user", "content": "hi"}], extra_headers=headers
            )
