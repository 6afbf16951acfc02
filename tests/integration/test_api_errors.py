"""Bad input: the right status, the envelope, words on what to do, nothing written, the process unharmed."""

from __future__ import annotations

import logging
import re
import socket
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from support.control_plane import ControlPlane
from support.postgres import DatabaseUrls
from trunkline.store.embedded import ConnectionInfo


def error_of(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Check an error's envelope and return its `error`."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert re.fullmatch(r"req_[0-9a-f]{32}", body["request_id"])
    assert answer.headers["request-id"] == body["request_id"]
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.tenant
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is missing"),
        (b"{", "line 1, column 2"),
        (b"[1, 2", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "the body"),
        (b'"name"', "must be a JSON object"),
        (b'{"name": NaN}', "NaN is not a JSON number"),
        (b'{"name": Infinity}', "not a JSON number"),
        (b'{"name": "a", "metadata": {"n": ' + b"9" * 5000 + b"}}", "not JSON"),
        (b"[" * 100_000, "nested deeper than 100"),
        (b'{"a":' * 100_000, "nested deeper than 100"),
        (b'{"name": "a", "memory": ' + b"[" * 300 + b"]" * 300 + b"}", "nested deeper than 100"),
        (b'{"name": "\xff"}', "not UTF-8"),
        (b'{"name": "a\\u0000b"}', "NUL"),
        (b'{"name": "a", "memory": {"\\u0000": 1}}', "NUL"),
        (b'{"name": "\\ud800"}', "surrogate"),
        (b'{"name": "\\udc00\\ud800"}', "surrogate"),
        (b'{"name": "a", "metadata": {"k": {"deep": "\\uDFFF"}}}', "surrogate"),
    ],
)
def test_bodies_that_are_not_json_that_can_be_stored(
    control: ControlPlane, database: DatabaseUrls, body: bytes, words: str
) -> None:
    with control.http() as http:
        answer = http.post("/v1/agents", content=body, headers={"content-type": "application/json"})
        error = error_of(answer, 400, "invalid_request_error")
        assert words in error["message"]
        assert http.get("/v1/agents").json()["data"] == []


def test_escaped_text_that_only_looks_dangerous_is_kept(control: ControlPlane) -> None:
    body = b'{"name": "a", "system": "\\\\u0000 \\ud83d\\ude00 \\\\ud800"}'
    with control.http() as http:
        answer = http.post("/v1/agents", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["system"] == "\\u0000 😀 \\ud800"


def test_a_body_without_its_content_type_is_told_what_is_missing(control: ControlPlane) -> None:
    with control.http() as http:
        answer = http.post("/v1/agents", content=b'{"name": "a"}', headers={"content-type": "text/plain"})
        assert "application/json" in error_of(answer, 400, "invalid_request_error")["message"]


def test_a_body_over_the_limit_is_refused_before_and_while_it_comes(control: ControlPlane) -> None:
    def pieces() -> Any:
        for _ in range(40):
            yield b"x" * 100_000

    with control.http() as http:
        declared = http.post("/v1/agents", content=b"x" * 3_000_000)
        streamed = http.post("/v1/agents", content=pieces())
        for answer in (declared, streamed):
            error = error_of(answer, 413, "request_too_large")
            assert error["limit_bytes"] == 2 * 1024 * 1024
            assert "max_body_bytes" in error["message"]
        fits = http.post("/v1/agents", json={"name": "a", "memory": {}, "system": "x" * 90_000})
        assert fits.status_code == 200


def test_unknown_paths_name_those_nearby(control: ControlPlane) -> None:
    with control.http() as http:
        error = error_of(http.get("/v1/agent"), 404, "not_found_error")
        assert "/v1/agents" in error["message"]
        error = error_of(http.get(f"/v1/sessions/sesn_{'0' * 32}/event"), 404, "not_found_error")
        assert "/v1/sessions/{session_id}/events" in error["message"]
        error_of(http.get("/v1/agents/"), 404, "not_found_error")
        error_of(http.get("/" + "x" * 5000), 404, "not_found_error")
        error_of(http.get("/v1/agents/%00"), 400, "invalid_request_error")
        error_of(http.get("/v1/agents/%ff%fe"), 404, "not_found_error")


def test_a_wrong_method_names_the_right_ones(control: ControlPlane) -> None:
    with control.http() as http:
        answer = http.put("/v1/agents", json={})
        assert "it takes GET and POST" in error_of(answer, 405, "invalid_request_error")["message"]
        assert answer.headers["allow"] == "GET, POST"


@pytest.mark.tenant
@pytest.mark.parametrize(
    "path",
    [
        "/v1/agents/agent_1",
        "/v1/agents/agent_{0}",
        "/v1/agents/nobody",
        "/v1/sessions/sesn_1",
        "/v1/sessions/agent_{0}",
        "/v1/sessions/sesn_{0}",
        "/v1/sessions/SESN_{0}",
        "/v1/sessions/sesn_{0}/events",
        "/v1/sessions/sesn_{0}/events/stream",
        "/v1/keys/key_{0}",
        "/v1/keys/..",
        "/v1/environments/env_{0}",
    ],
)
def test_ids_that_are_malformed_or_unknown(control: ControlPlane, path: str) -> None:
    with control.http() as http:
        error_of(http.get(path.replace("{0}", "0" * 32)), 404, "not_found_error")


def test_queries_that_are_wrong(control: ControlPlane) -> None:
    with control.http() as http:
        for query, param in (
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=ten", "limit"),
            ("page=x", "page"),
            ("page=page_%00", "page"),
            ("page=page_" + "A" * 300, "page"),
            ("created_at[gte]=yesterday", "created_at[gte]"),
            ("created_at[gte]=2026-01-01T00:00:00", "created_at[gte]"),
            ("include_archived=maybe", "include_archived"),
        ):
            error = error_of(http.get(f"/v1/agents?{query}"), 400, "invalid_request_error")
            assert error["param"] == param, error
        error_of(http.get("/v1/agents?name=%00"), 400, "invalid_request_error")
        error_of(http.get("/v1/sessions?statuses=asleep"), 400, "invalid_request_error")
        error_of(http.get("/v1/sessions?user_id=%00"), 400, "invalid_request_error")


def test_a_fault_of_ours_is_logged_without_the_request_and_told_without_the_cause(
    control: ControlPlane, database: DatabaseUrls, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("alter table trunkline.agents rename column name to title")
    with control.http() as http, caplog.at_level(logging.ERROR):
        answer = http.post("/v1/agents", json={"name": "my secret name"})
        error = error_of(answer, 500, "api_error")
        assert "request_id" in error["message"]
        assert "column" not in answer.text
        request_id = answer.json()["request_id"]
        assert http.get("/internal/healthz").status_code == 200
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert request_id in logged
    assert "UndefinedColumn" in logged
    assert "my secret name" not in logged
    assert control.key not in logged


def test_a_database_that_is_away_is_503_and_comes_back(
    control: ControlPlane, database: DatabaseUrls, postgres: ConnectionInfo
) -> None:
    allow = sql.SQL("alter database {} allow_connections {}")
    name = sql.Identifier(database.name)
    with (
        control.http() as http,
        psycopg.connect(postgres.url(database="postgres"), autocommit=True) as connection,
    ):
        assert http.get("/v1/agents").status_code == 200
        connection.execute(allow.format(name, sql.SQL("false")))
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (database.name,)
        )
        away = http.get("/v1/agents")
        error_of(away, 503, "overloaded_error")
        assert away.headers["retry-after"] == "1"
        connection.execute(allow.format(name, sql.SQL("true")))
        for _ in range(20):
            if (answer := http.get("/v1/agents")).status_code == 200:
                break
        assert answer.status_code == 200


def test_bytes_that_are_not_http_harm_nobody(control: ControlPlane) -> None:
    host, port = control.base_url.removeprefix("http://").split(":")
    for junk in (
        b"\x00\xff\xfe\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/agents HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(junk)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(65536)
    with control.http() as http:
        assert http.get("/v1/agents").status_code == 200


def test_the_api_describes_itself(control: ControlPlane) -> None:
    with control.anonymous() as http:
        assert "swagger" in http.get("/docs").text
        document = http.get("/openapi.json").json()
        assert http.get("/internal/healthz").json() == {"status": "ok"}
    assert {"/v1/agents", "/v1/sessions/{session_id}/events/stream", "/v1/keys", "/v1/usage"} <= set(document["paths"])
