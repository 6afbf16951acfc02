"""Files: bounded, whole, once a key, and gone with what they belong to."""

from __future__ import annotations

import asyncio

import httpx
import psycopg

from support.postgres import DatabaseUrls
from trunkline.domain import ids
from trunkline.scheduling.retention import expire_files
from trunkline.store.pool import open_database


def upload(http: httpx.Client, content: bytes, name: str = "a.txt", **headers: str) -> httpx.Response:
    return http.post("/v1/files", files={"file": (name, content, "text/plain")}, headers=headers)


def test_a_repeated_upload_is_one_file(http: httpx.Client) -> None:
    first = upload(http, b"same", **{"idempotency-key": "up-1"})
    again = upload(http, b"same", **{"idempotency-key": "up-1"})
    assert first.headers["request-id"] != again.headers["request-id"]
    assert first.json() == again.json()
    other = upload(http, b"not the same", **{"idempotency-key": "up-1"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")


def test_an_upload_over_the_limit_is_refused(http: httpx.Client) -> None:
    assert upload(http, b"x" * (2 * 1024 * 1024 + 1)).status_code == 413


def test_what_is_no_file_says_so(http: httpx.Client) -> None:
    for answer in (
        http.post("/v1/files", json={"file": "x"}),
        http.post("/v1/files", files={"other": ("a.txt", b"x")}),
        upload(http, b"x", name="../../etc/passwd"),
        http.post("/v1/files", files={"file": ("a.txt", b"x", "no type")}),
    ):
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), answer.text


def test_a_download_is_never_a_page_of_ours(http: httpx.Client) -> None:
    made = http.post("/v1/files", files={"file": ("ü.html", b"<script>", "text/html")}).json()
    answer = http.get(f"/v1/files/{made['id']}/content")
    assert answer.content == b"<script>"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_files_end_with_their_time_and_their_session(http: httpx.Client, urls: DatabaseUrls) -> None:
    http.post("/v1/agents", json={"name": "files"})
    session = http.post("/v1/sessions", json={"agent": "files"}).json()["id"]
    kept, past, made = (upload(http, content).json()["id"] for content in (b"1", b"2", b"3"))
    with psycopg.connect(urls.admin_url) as connection:
        connection.execute(
            "update trunkline.files set expires_at = now() - interval '1 second' where id = %s",
            (ids.decode("file", past),),
        )
        connection.execute(
            "update trunkline.files set session_id = %s where id = %s",
            (ids.decode("sesn", session), ids.decode("file", made)),
        )
    shown = http.get("/v1/files", params={"scope_id": session}).json()["data"]
    assert [(file["id"], file["scope"]) for file in shown] == [(made, {"type": "session", "id": session})]
    assert http.get(f"/v1/files/{past}").status_code == 404

    async def sweep() -> None:
        async with open_database(urls.control_url) as database:
            await expire_files(database)

    asyncio.run(sweep())
    assert http.delete(f"/v1/sessions/{session}").status_code == 200
    with psycopg.connect(urls.admin_url) as connection:
        left = connection.execute(
            "select f.id from trunkline.files f join trunkline.file_pieces p on p.file_id = f.id where f.id = any (%s)",
            ([ids.decode("file", one) for one in (kept, past, made)],),
        ).fetchall()
    assert left == [(ids.decode("file", kept),)]
