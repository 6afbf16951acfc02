"""OAuth tokens of vaults: renewed once whoever needs them, tried out over the API, and told to nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import anthropic
import psycopg
import pytest

from support import mcp_server, token_endpoint
from support.control_plane import VAULT_KEY, ControlPlane, running
from support.mcp_server import Listening
from support.postgres import DatabaseUrls
from support.token_endpoint import TokenEndpoint
from trunkline.domain import ids
from trunkline.oauth import token_endpoint as asking
from trunkline.oauth.renewals import Access, RenewalFailed, TokenRenewals
from trunkline.store.pool import open_database
from trunkline.store.sealing import Sealing

LOCAL = (ip_network("127.0.0.0/8"),)
FIRST = "at-verysecret-0"


class Kept:
    """A credential in a vault of the default tenant."""

    def __init__(self, plane: ControlPlane, database: DatabaseUrls, auth: Any) -> None:
        self.plane = plane
        self.database = database
        self.sdk = plane.sdk().with_options(timeout=60)
        self.vault = self.sdk.beta.vaults.create(display_name="v").id
        self.id = self.sdk.beta.vaults.credentials.create(self.vault, auth=auth).id
        self.tenant: UUID = self.row["tenant_id"]

    @property
    def row(self) -> dict[str, Any]:
        with psycopg.connect(self.database.admin_url, row_factory=psycopg.rows.dict_row) as connection:
            found = connection.execute(
                "select * from trunkline.vault_credentials where id = %s", (ids.decode("vcrd", self.id),)
            ).fetchone()
        assert found is not None
        return found

    @property
    def secrets(self) -> dict[str, str]:
        row = self.row
        return Sealing((VAULT_KEY,)).open(bytes(row["sealed"]), row["tenant_id"].bytes, row["id"].bytes)

    def update(self, **auth: Any) -> None:
        change: Any = {"type": "mcp_oauth", **auth}
        self.sdk.beta.vaults.credentials.update(self.id, vault_id=self.vault, auth=change)

    def validate(self, sdk: anthropic.Anthropic | None = None) -> Any:
        return (sdk or self.sdk).beta.vaults.credentials.mcp_oauth_validate(self.id, vault_id=self.vault)

    async def renewed(self, by: TokenRenewals, stale: str = FIRST, **how: bool) -> Access:
        return await by.renewed(self.tenant, ids.decode("vcrd", self.id), stale, **how)


@pytest.fixture
def plane(database: DatabaseUrls) -> Iterator[ControlPlane]:
    with running(database, mcp_allow=LOCAL) as found:
        yield found


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    with token_endpoint.listening() as found:
        yield found


@pytest.fixture
def kept(plane: ControlPlane, database: DatabaseUrls, endpoint: TokenEndpoint) -> Kept:
    return Kept(plane, database, endpoint.auth("https://crm.example.com/mcp"))


@pytest.fixture
def server(tmp_path: Path, endpoint: TokenEndpoint) -> Iterator[Listening]:
    with mcp_server.listening(tmp_path, token="at-verysecret-none") as found:
        endpoint.on_given = lambda token: setattr(found, "token", token)
        yield found


@asynccontextmanager
async def worker(database: DatabaseUrls, allow: Any = LOCAL) -> AsyncIterator[TokenRenewals]:
    """What a worker renews by, with connections of its own."""
    async with open_database(database.control_url, max_size=2) as opened:
        found = TokenRenewals(opened, Sealing((VAULT_KEY,)), allow)
        try:
            yield found
        finally:
            await found.close()


async def test_many_workers_spend_a_refresh_token_once(
    kept: Kept, database: DatabaseUrls, endpoint: TokenEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with worker(database) as one, worker(database) as other, worker(database) as third:
        found = await asyncio.gather(*(kept.renewed(by) for by in (one, other, third) for _ in range(10)))
        assert {access.token for access in found} == {"at-verysecret-1"}
        assert len(endpoint.asked) == 1
        assert kept.secrets["refresh_token"] == "rt-verysecret-1"
        assert kept.secrets["access_token"] == "at-verysecret-1"
        again = await asyncio.gather(*(kept.renewed(by, "at-verysecret-1") for by in (one, other, third)))
        assert {access.token for access in again} == {"at-verysecret-2"}
    assert len(endpoint.asked) == 2
    assert not endpoint.is_over
    told = kept.sdk.beta.vaults.credentials.retrieve(kept.id, vault_id=kept.vault)
    assert told.auth.type == "mcp_oauth"
    assert told.auth.expires_at is not None
    assert timedelta(minutes=59) < told.auth.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    with psycopg.connect(database.admin_url) as connection:
        assert connection.execute("select count(*) from trunkline.credential_renewals").fetchone() == (0,)
    assert "verysecret" not in caplog.text


async def test_no_connection_is_held_while_the_endpoint_is_asked(
    kept: Kept, database: DatabaseUrls, endpoint: TokenEndpoint
) -> None:
    held: list[Any] = []

    def look() -> None:
        with psycopg.connect(database.admin_url) as connection:
            held.append(
                connection.execute(
                    "select count(*) from pg_stat_activity where datname = current_database() and xact_start is not "
                    "null and pid <> pg_backend_pid() and usename = 'trunkline_control'"
                ).fetchone()
            )

    endpoint.before = look
    async with worker(database) as one:
        await kept.renewed(one)
    assert held == [(0,)]


@pytest.mark.parametrize("how", ["none", "client_secret_basic", "client_secret_post"])
async def test_the_client_proves_itself_as_the_credential_says(
    plane: ControlPlane, database: DatabaseUrls, endpoint: TokenEndpoint, how: str
) -> None:
    kept = Kept(plane, database, endpoint.auth("https://crm.example.com/mcp", how))
    async with worker(database) as one:
        await kept.renewed(one)
    proof = {
        "none": {"client_id": "a client"},
        "client_secret_post": {"client_id": "a client", "client_secret": "cs:verysecret +%"},
        "client_secret_basic": {"basic": "a client:cs:verysecret +%"},
    }[how]
    assert endpoint.asked == [
        {
            "grant_type": "refresh_token",
            "refresh_token": "rt-verysecret-0",
            "scope": "tools read",
            "resource": "https://crm.example.com/mcp",
            **proof,
        }
    ]


async def test_whoever_stops_waiting_does_not_lose_what_was_given(
    kept: Kept, database: DatabaseUrls, endpoint: TokenEndpoint
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait() -> None:
        loop.call_soon_threadsafe(asked.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(20)

    endpoint.before = wait
    async with worker(database) as one:
        waiting = asyncio.create_task(kept.renewed(one))
        await asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go_on.set()
    assert kept.secrets["refresh_token"] == "rt-verysecret-1"


async def test_a_worker_that_died_is_followed_by_another(
    kept: Kept, database: DatabaseUrls, endpoint: TokenEndpoint
) -> None:
    with psycopg.connect(database.admin_url) as connection:
        connection.execute(
            "insert into trunkline.credential_renewals values (%s, %s, clock_timestamp() + interval '1 second')",
            (kept.tenant, ids.decode("vcrd", kept.id)),
        )
    async with worker(database) as one:
        started = datetime.now(UTC)
        assert (await kept.renewed(one)).token == "at-verysecret-1"
        assert datetime.now(UTC) - started > timedelta(seconds=0.5)
    assert len(endpoint.asked) == 1


async def test_a_worker_that_was_frozen_stores_what_it_got_and_leaves_the_others_renewal(
    kept: Kept, database: DatabaseUrls, endpoint: TokenEndpoint
) -> None:
    def take_over() -> None:
        with psycopg.connect(database.admin_url) as connection:
            connection.execute("update trunkline.credential_renewals set until = until + interval '1 minute'")

    endpoint.before = take_over
    async with worker(database) as one:
        assert (await kept.renewed(one)).token == "at-verysecret-1"
    assert kept.secrets["refresh_token"] == "rt-verysecret-1"
    with psycopg.connect(database.admin_url) as connection:
        assert connection.execute("select count(*) from trunkline.credential_renewals").fetchone() == (1,)


async def test_what_is_put_in_meanwhile_is_not_overwritten(
    kept: Kept, database: DatabaseUrls, endpoint: TokenEndpoint
) -> None:
    def change() -> None:
        endpoint.before = lambda: None
        kept.update(access_token="at-verysecret-mine", refresh={"refresh_token": "rt-verysecret-mine"})

    endpoint.before = change
    async with worker(database) as one:
        assert (await kept.renewed(one)).token == "at-verysecret-mine"
        assert kept.secrets["refresh_token"] == "rt-verysecret-mine"
        # A change of anything else loses no refresh token.
        kept.update(access_token=FIRST, refresh={"refresh_token": "rt-verysecret-1"})

        def rescope() -> None:
            endpoint.before = lambda: None
            kept.update(refresh={"scope": "less"})

        endpoint.before = rescope
        assert (await kept.renewed(one)).token == "at-verysecret-2"
    assert kept.secrets["refresh_token"] == "rt-verysecret-2"
    assert kept.row["auth"]["refresh"]["scope"] == "less"


async def test_a_refusal_is_told_without_secrets_and_not_asked_for_at_once(
    kept: Kept, database: DatabaseUrls, endpoint: TokenEndpoint
) -> None:
    endpoint.is_over = True
    async with worker(database) as one, worker(database) as other:
        with pytest.raises(RenewalFailed, match=r"status 400 \(invalid_grant\)") as refused:
            await kept.renewed(one)
        assert "verysecret" not in str(refused.value)
        with pytest.raises(RenewalFailed, match="invalid_grant"):
            await kept.renewed(other)
        assert len(endpoint.asked) == 1
        endpoint.is_over = False
        kept.update(refresh={"refresh_token": "rt-verysecret-0"})
        assert (await kept.renewed(other)).token == "at-verysecret-1"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, "application/json", b"[]"), "something else than an object"),
        ((200, "text/html", b"<p>at-verysecret-9"), "something else than an object"),
        ((200, "application/json", b'{"access_token": ""}'), "without an access token"),
        ((200, "application/json", b'{"access_token": "at-verysecret-9", "token_type": "mac"}'), "another type"),
        ((200, "application/json", b'{"access_token": "' + b"x" * 300_000 + b'"}'), "something else than an object"),
        ((302, "text/html", b""), "status 302"),
        ((400, "application/json", b'{"error": "rt-verysecret-0"}'), "status 400."),
        ((503, "text/plain", b"rt-verysecret-0 later"), "status 503."),
    ],
)
async def test_answers_that_are_none_are_failures(
    kept: Kept, database: DatabaseUrls, endpoint: TokenEndpoint, answer: Any, words: str
) -> None:
    endpoint.answer, endpoint.moved_to = answer, endpoint.url
    async with worker(database) as one:
        with pytest.raises(RenewalFailed, match="could not be renewed") as failed:
            await kept.renewed(one)
    assert words in str(failed.value)
    said = failed.value.said
    assert said is not None
    assert "verysecret" not in str(failed.value) + said.body
    assert len(endpoint.asked) == 1, "a redirect was followed"


async def test_addresses_inside_are_not_asked_and_time_is_bounded(
    kept: Kept, database: DatabaseUrls, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worker(database, allow=()) as one:
        with pytest.raises(RenewalFailed, match="is not public"):
            await kept.renewed(one)
    assert endpoint.asked == []
    kept.update(refresh={"scope": "all"})
    monkeypatch.setattr(asking, "SECONDS", 0.2)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait() -> None:
        asyncio.run_coroutine_threadsafe(ended.wait(), loop).result(20)

    endpoint.before = wait
    async with worker(database) as one:
        with pytest.raises(RenewalFailed, match="did not answer"):
            await kept.renewed(one)
    ended.set()


async def test_another_tenant_renews_nothing(kept: Kept, database: DatabaseUrls, endpoint: TokenEndpoint) -> None:
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("insert into trunkline.tenants (id, name) values (%s, 'thieves')", (UUID(int=7),))
    async with worker(database) as one:
        with pytest.raises(RenewalFailed, match="archived or deleted"):
            await one.renewed(UUID(int=7), ids.decode("vcrd", kept.id), FIRST)
    assert endpoint.asked == []


def test_a_credential_is_tried_out(
    plane: ControlPlane, database: DatabaseUrls, endpoint: TokenEndpoint, server: Listening
) -> None:
    server.token = FIRST
    kept = Kept(plane, database, endpoint.auth(server.url))
    strict = anthropic.Anthropic(
        base_url=plane.base_url, api_key=plane.key, max_retries=0, _strict_response_validation=True
    )
    good = kept.validate(strict)
    assert (good.status, good.mcp_probe, good.refresh, good.has_refresh_token) == ("valid", None, None, True)
    assert (good.credential_id, good.vault_id) == (kept.id, kept.vault)
    assert endpoint.asked == []

    server.token = "at-verysecret-none"
    renewed = kept.validate(strict)
    assert (renewed.status, renewed.mcp_probe, renewed.refresh.status) == ("valid", None, "succeeded")
    assert kept.secrets["access_token"] == server.token == "at-verysecret-1"

    server.token, endpoint.is_over = "at-verysecret-none", True
    refused = kept.validate(strict)
    assert (refused.status, refused.mcp_probe.method, refused.refresh.status) == ("invalid", "initialize", "failed")
    assert refused.mcp_probe.http_response.status_code == 401
    assert refused.mcp_probe.http_response.body == "not with Bearer [credential]"
    assert refused.refresh.http_response.status_code == 400
    assert "invalid_grant" in refused.refresh.http_response.body
    assert "verysecret" not in refused.to_json()

    endpoint.answer = (503, "text/plain", b"later")
    later = kept.validate(strict)
    assert (later.status, later.refresh.status, later.refresh.http_response.body) == ("unknown", "failed", "later")
    endpoint.server.shutdown()
    endpoint.server.server_close()
    away = kept.validate(strict)
    assert (away.status, away.refresh.status, away.refresh.http_response) == ("unknown", "connect_error", None)


def test_credentials_that_cannot_be_renewed_or_tried_out(
    plane: ControlPlane, database: DatabaseUrls, endpoint: TokenEndpoint, server: Listening
) -> None:
    auth = endpoint.auth(server.url) | {"refresh": None}
    kept = Kept(plane, database, auth)
    found = kept.validate()
    assert (found.status, found.has_refresh_token, found.refresh.status) == ("invalid", False, "no_refresh_token")
    gone = Kept(plane, database, endpoint.auth("http://127.0.0.1:1/mcp"))
    away = gone.validate()
    assert (away.status, away.mcp_probe.method, away.mcp_probe.http_response) == ("unknown", "initialize", None)
    inside = Kept(plane, database, endpoint.auth("http://169.254.169.254/latest/meta-data"))
    assert inside.validate().status == "unknown"
    other = Kept(plane, database, {"type": "static_bearer", "mcp_server_url": server.url, "token": "t"})
    with pytest.raises(anthropic.BadRequestError, match="static_bearer"):
        other.validate()
    asked = server.requests
    with pytest.raises(anthropic.NotFoundError):
        kept.validate(plane.sdk(plane.another_tenant()))
    with pytest.raises(anthropic.PermissionDeniedError):
        kept.validate(plane.sdk(plane.new_key(scopes=["inference"])))
    kept.sdk.beta.vaults.credentials.archive(kept.id, vault_id=kept.vault)
    with pytest.raises(anthropic.ConflictError):
        kept.validate()
    assert server.requests == asked
