"""A control plane on a port of its own, in a thread, and keys to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import psycopg
import uvloop
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from support.postgres import DatabaseUrls
from trunkline.api.app import ControlSettings, OpenEmbedding, OpenRerank, serve
from trunkline.public_hosts import Allowed
from trunkline.runtime.next_prompt import next_prompt
from trunkline.store.keys import bootstrap
from trunkline.store.leases import Wake

VAULT_KEY = b"the key of these tests' vaults.."


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane; `key` has all scopes in the tenant `default`."""

    base_url: str
    key: str

    def http(self, key: str | None = None) -> httpx.Client:
        """A plain client with a key, the admin's unless told otherwise."""
        return httpx.Client(base_url=self.base_url, headers={"x-api-key": key or self.key}, timeout=20)

    def anonymous(self) -> httpx.Client:
        """A plain client without a key."""
        return httpx.Client(base_url=self.base_url, timeout=20)

    def sdk(self, key: str | None = None) -> anthropic.Anthropic:
        """The unmodified SDK, pointed here; no retries, so that an error is seen at once."""
        return anthropic.Anthropic(base_url=self.base_url, api_key=key or self.key, max_retries=0, timeout=20)

    def another_tenant(self, name: str = "other") -> str:
        """Make a tenant and return its first key."""
        with self.http() as http:
            answer = http.post("/v1/tenants", json={"name": name})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["key"])

    def new_key(self, **what: Any) -> str:
        """Make a key in the default tenant and return its text."""
        with self.http() as http:
            answer = http.post("/v1/keys", json={"name": "test", **what})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["key"])


def first_key(admin_url: str, tenant: str = "default") -> str:
    """Do what the first start does."""

    async def make() -> str:
        async with await AsyncConnection.connect(admin_url, row_factory=dict_row) as connection:
            return await bootstrap(connection, tenant)

    return asyncio.run(make())


@contextmanager
def running(
    database: DatabaseUrls,
    *,
    wake: Wake | None = None,
    max_body_bytes: int = 2 * 1024 * 1024,
    open_embedding: OpenEmbedding | None = None,
    open_rerank: OpenRerank | None = None,
    mcp_allow: tuple[Allowed, ...] = (),
) -> Iterator[ControlPlane]:
    """Serve the database until the block ends, and drain."""
    key = first_key(database.admin_url)
    settings = ControlSettings(
        database.control_url, max_body_bytes=max_body_bytes, vault_keys=(VAULT_KEY,), mcp_allow=mcp_allow
    )
    listening = threading.Event()
    port = 0
    stop: asyncio.Event | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def on_listening(bound: int) -> None:
        nonlocal port
        port = bound
        listening.set()

    async def main() -> None:
        nonlocal stop, loop
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        await serve(
            settings,
            "127.0.0.1",
            0,
            wake=wake,
            next_prompt=next_prompt,
            open_embedding=open_embedding,
            open_rerank=open_rerank,
            on_listening=on_listening,
            stop=stop,
            drain_seconds=5,
        )

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run, name="control plane")
    thread.start()
    try:
        assert listening.wait(20), "the control plane did not start"
        yield ControlPlane(f"http://127.0.0.1:{port}", key)
    finally:
        if loop is not None and stop is not None:
            loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive(), "the control plane did not drain"


def events_of(url: str, session_id: str) -> list[dict[str, Any]]:
    """Read a session's events from the database itself."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(
            "select seq, type, payload from trunkline.events where session_id = %s order by seq",
            (session_id.removeprefix("sesn_"),),
        ).fetchall()
