"""The control plane's app and its server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final

import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.responses import JSONResponse

from trunkline.api import (
    agent_search,
    agents,
    audit,
    blocks,
    call_bodies,
    checkpoints,
    conversations,
    credentials,
    deployment_runs,
    deployments,
    embedding_status,
    embeddings,
    environments,
    erasures,
    errors,
    events,
    exports,
    files,
    framework_threads,
    imports,
    ingest,
    keys,
    mcp,
    memories,
    memory_proposals,
    memory_stores,
    memory_tools,
    memory_versions,
    passages,
    retention,
    session_context,
    session_resources,
    sessions,
    store_items,
    teams,
    tenants,
    threads,
    usage,
    user_limits,
    vaults,
    webhooks,
)
from trunkline.api.block_writes import BlockWrites
from trunkline.api.bodies import Bodies
from trunkline.api.deps import Embedding, NextPrompt, Parts
from trunkline.api.event_feed import EventFeed
from trunkline.api.unserved import unserved
from trunkline.errors import SetupError
from trunkline.memory.rerank import Rerank
from trunkline.oauth.renewals import TokenRenewals
from trunkline.public_hosts import Allowed
from trunkline.store.leases import Wake
from trunkline.store.pool import Database, open_database
from trunkline.store.sealing import Sealing

KEEP_ALIVE_SECONDS: Final = 120
"""Longer than the gateway keeps an idle connection (90 s), so that it never sends on one that is being closed."""

_DESCRIPTION: Final = (
    "Agents, sessions, events, memory, keys and usage. Agents, sessions, events and memory stores follow the Managed "
    "Agents wire, so that the `anthropic` SDK's `client.beta` works against this API. Send the key as "
    "`Authorization: Bearer …` or `x-api-key`."
)


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """What the control plane needs to run. `database_url` logs in as, or sets, the role `trunkline_control`."""

    database_url: str
    max_body_bytes: int = 32 * 1024 * 1024
    connections: int = 8
    """At most so many to Postgres, and one more that listens."""
    vault_keys: tuple[bytes, ...] = field(default=(), repr=False)
    """What secrets in vaults are sealed with, the newest first; without one, vaults take none."""
    mcp_allow: tuple[Allowed, ...] = ()
    """Where MCP servers and token endpoints may be, beside public addresses, when a credential is tried out."""


OpenEmbedding = Callable[[Database], AbstractAsyncContextManager[Embedding]]
"""Opens what makes vectors of queries, for as long as the app runs."""
OpenRerank = Callable[[], AbstractAsyncContextManager[Rerank]]
"""Opens what reranks what searches found, for as long as the app runs."""


def create_app(
    settings: ControlSettings,
    *,
    wake: Wake | None = None,
    next_prompt: NextPrompt | None = None,
    open_embedding: OpenEmbedding | None = None,
    open_rerank: OpenRerank | None = None,
) -> FastAPI:
    """Return the app. `wake` is called in the transaction that gave a session something to do; None: nobody is told.

    Without a `next_prompt`, none is shown.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_database(settings.database_url, max_size=settings.connections) as database:
            feed = EventFeed(settings.database_url, database)
            opened = open_embedding(database) if open_embedding else contextlib.nullcontext(Embedding())
            reranking = open_rerank() if open_rerank else contextlib.nullcontext()
            async with opened as embedding, reranking as rerank, feed.running():
                sealing = Sealing(settings.vault_keys)
                renewals = TokenRenewals(database, sealing, settings.mcp_allow)
                app.state.parts = Parts(database, feed, wake, next_prompt, renewals, embedding, rerank, sealing)
                app.state.block_writes = BlockWrites(database)
                yield
                await renewals.close()

    app = FastAPI(
        title="Trunkline", description=_DESCRIPTION, lifespan=lifespan, redoc_url=None, redirect_slashes=False
    )
    for noun in (
        agents,
        blocks,
        agent_search,
        memory_tools,
        mcp,
        sessions,
        session_resources,
        session_context,
        events,
        threads,
        conversations,
    ):
        app.include_router(noun.router)
    for noun in (environments, vaults, credentials, files, deployments, deployment_runs):
        app.include_router(noun.router)
    for noun in (memory_stores, passages, ingest, store_items, exports, imports, embeddings, embedding_status):
        app.include_router(noun.router)
    for noun in (memories, memory_versions, memory_proposals, framework_threads, checkpoints):
        app.include_router(noun.router)
    for noun in (webhooks, keys, teams, user_limits, tenants, usage, call_bodies, erasures, retention, audit):
        app.include_router(noun.router)
    app.include_router(unserved())

    @app.get("/internal/healthz", include_in_schema=False)
    async def healthz() -> JSONResponse:
        """Tell that the process serves; the database may be away."""
        return JSONResponse({"status": "ok"})

    errors.install(app)
    app.add_middleware(Bodies, max_bytes=settings.max_body_bytes)
    app.add_middleware(errors.Answers)
    return app


class _Server(uvicorn.Server):
    """Uvicorn, with streams that end when it is told to stop, and the signals left to `serve`."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell who waits for it."""
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then wait for what is being answered."""
        parts = getattr(self._app.state, "parts", None)
        if isinstance(parts, Parts):
            parts.feed.close()
        await super().shutdown(sockets)


async def serve(
    settings: ControlSettings,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    listener: socket.socket | None = None,
    wake: Wake | None = None,
    next_prompt: NextPrompt | None = None,
    open_embedding: OpenEmbedding | None = None,
    open_rerank: OpenRerank | None = None,
    on_listening: Callable[[int], None] | None = None,
    stop: asyncio.Event | None = None,
    drain_seconds: int = 10,
) -> None:
    """Serve until `stop` is set, or SIGTERM or SIGINT comes (in a main thread); then answer what is under way.

    `listener`, a bound socket, takes the place of `host` and `port`. `on_listening` is called with the port (of
    interest for port 0) once requests are taken. Raises SetupError when the address cannot be bound.
    """
    bound = listener or _bind(host, port)
    app = create_app(
        settings, wake=wake, next_prompt=next_prompt, open_embedding=open_embedding, open_rerank=open_rerank
    )
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain_seconds,
    )
    server = _Server(config, app)
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    stopping = asyncio.create_task(stop.wait())
    try:
        starting = asyncio.create_task(server.ready.wait())
        await asyncio.wait((serving, starting), return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        if server.started and on_listening is not None:
            on_listening(bound.getsockname()[1])
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        stopping.cancel()
    if not server.started:
        raise SetupError("The control plane did not start; the log above says why.")


def run_control(
    settings: ControlSettings,
    host: str,
    port: int,
    *,
    wake: Wake | None = None,
    on_listening: Callable[[int], None] | None = None,
) -> None:
    """Run the control plane in this process until SIGTERM or SIGINT; both drain and return."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, host, port, wake=wake, on_listening=on_listening))


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SetupError(
            f"The control plane cannot listen on {host}:{port}: {error.strerror or error}. Choose another address, or "
            "end what listens there."
        ) from error
