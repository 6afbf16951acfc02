"""What is secret in vaults: sealed at rest, in no answer, no log, and in no other row's place."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import psycopg
import pytest

from support.control_plane import VAULT_KEY
from support.postgres import DatabaseUrls
from trunkline.domain import ids
from trunkline.errors import SetupError, Unavailable
from trunkline.store.sealing import Sealing, new_key, read_keys

SECRETS = ("at-verysecret", "rt-verysecret", "cs-verysecret", "tk-verysecret", "sv-verysecret")
OAUTH = {
    "type": "mcp_oauth",
    "mcp_server_url": "https://crm.example.com/mcp",
    "access_token": SECRETS[0],
    "refresh": {
        "client_id": "c",
        "refresh_token": SECRETS[1],
        "token_endpoint": "https://crm.example.com/token",
        "token_endpoint_auth": {"type": "client_secret_basic", "client_secret": SECRETS[2]},
    },
}
BEARER = {"type": "static_bearer", "mcp_server_url": "https://wiki.example.com/mcp", "token": SECRETS[3]}
VARIABLE = {
    "type": "environment_variable",
    "secret_name": "API_KEY",
    "secret_value": SECRETS[4],
    "networking": {"type": "unrestricted"},
}


def vault(http: httpx.Client) -> str:
    return f"/v1/vaults/{http.post('/v1/vaults', json={'display_name': 'v'}).json()['id']}"


def put(http: httpx.Client, path: str, auth: dict[str, Any], **headers: str) -> httpx.Response:
    return http.post(f"{path}/credentials", json={"auth": auth}, headers=headers)


def row(urls: DatabaseUrls, credential: str) -> dict[str, Any]:
    with psycopg.connect(urls.admin_url, row_factory=psycopg.rows.dict_row) as connection:
        found = connection.execute(
            "select * from trunkline.vault_credentials where id = %s", (ids.decode("vcrd", credential),)
        ).fetchone()
    assert found is not None
    return found


def test_no_secret_is_told_logged_or_stored_in_the_clear(
    http: httpx.Client, urls: DatabaseUrls, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = vault(http)
    answers = [put(http, path, auth, **{"idempotency-key": f"k-{auth['type']}"}) for auth in (OAUTH, BEARER, VARIABLE)]
    answers += [put(http, path, auth, **{"idempotency-key": f"k-{auth['type']}"}) for auth in (OAUTH, BEARER)]
    answers += [http.get(f"{path}/credentials"), http.get(path)]
    assert {answer.status_code for answer in answers} == {200}
    wrong = [
        put(http, path, OAUTH | {"access_token": [SECRETS[0]]}),
        put(http, path, OAUTH | {"acess_token": SECRETS[0]}),
        put(http, path, BEARER | {"type": "bearer"}),
        put(http, path, VARIABLE | {"secret_value": SECRETS[4] + "x" * 70_000}),
        put(http, path, VARIABLE),
    ]
    assert [answer.status_code for answer in wrong] == [400, 400, 400, 400, 409]
    with psycopg.connect(urls.admin_url) as connection:
        tables = connection.execute(
            "select table_name from information_schema.tables "
            "where table_schema = 'trunkline' and table_type = 'BASE TABLE'"
        ).fetchall()
        kept = "".join(
            str(connection.execute(f"select t::text from trunkline.{table} t").fetchall()) for (table,) in tables
        )
    for secret in SECRETS:
        assert secret not in "".join(answer.text for answer in answers + wrong)
        assert secret not in caplog.text
        assert secret not in kept
        assert secret.encode().hex() not in kept


def test_what_is_sealed_opens_with_the_key_and_for_its_row_alone(http: httpx.Client, urls: DatabaseUrls) -> None:
    path = vault(http)
    oauth, bearer = put(http, path, OAUTH).json()["id"], put(http, path, BEARER).json()["id"]
    change = {"type": "mcp_oauth", "access_token": "at-2", "refresh": {"scope": "all"}}
    assert http.post(f"{path}/credentials/{oauth}", json={"auth": change}).status_code == 200
    found = row(urls, oauth)
    owner = (found["tenant_id"].bytes, found["id"].bytes)
    opened = Sealing((VAULT_KEY,)).open(bytes(found["sealed"]), *owner)
    assert opened == {"access_token": "at-2", "refresh_token": SECRETS[1], "client_secret": SECRETS[2]}
    with pytest.raises(Unavailable, match="lacks the key"):
        Sealing((b"x" * 32,)).open(bytes(found["sealed"]), *owner)
    with psycopg.connect(urls.admin_url) as connection:
        connection.execute(
            "update trunkline.vault_credentials set sealed = %s where id = %s",
            (found["sealed"], ids.decode("vcrd", bearer)),
        )
    moved = http.post(f"{path}/credentials/{bearer}", json={"auth": {"type": "static_bearer", "token": "t"}})
    assert (moved.status_code, moved.json()["error"]["code"]) == (503, "damaged_secret")


@pytest.mark.parametrize("archived", ["credential", "vault"])
def test_archiving_deletes_what_is_secret(http: httpx.Client, urls: DatabaseUrls, archived: str) -> None:
    path = vault(http)
    bearer = put(http, path, BEARER).json()["id"]
    of = path if archived == "vault" else f"{path}/credentials/{bearer}"
    assert http.post(f"{of}/archive").status_code == 200
    assert row(urls, bearer)["sealed"] is None
    again = http.post(f"{path}/credentials/{bearer}", json={"display_name": "x"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "archived")
    assert put(http, path, BEARER).status_code == (409 if archived == "vault" else 200)


def test_keys_can_be_changed() -> None:
    old, new = new_key(), new_key()
    sealed = Sealing(read_keys(old)).seal({"token": "t"}, b"row")
    both = Sealing(read_keys(f"{new},{old}"))
    assert both.open(sealed, b"row") == {"token": "t"}
    with pytest.raises(Unavailable):
        Sealing(read_keys(old)).open(both.seal({"token": "t"}, b"row"), b"row")
    with pytest.raises(Unavailable, match="no key"):
        Sealing(()).seal({"token": "t"}, b"row")
    with pytest.raises(SetupError, match="32 bytes"):
        read_keys("c2hvcnQ=")
