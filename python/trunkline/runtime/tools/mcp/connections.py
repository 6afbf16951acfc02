"""Connections to MCP servers: one a session and server, as servers keep state by connection, and ended when idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar
from uuid import UUID

import httpx2
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST, Implementation
from pydantic import ValidationError

from trunkline.public_hosts import NotAllowed
from trunkline.runtime.tools.mcp.credentials import Bearer
from trunkline.runtime.tools.mcp.guard import MAX_BYTES, GuardedTransport
from trunkline.runtime.tools.output import cut
from trunkline.tool_settings import McpSettings

_logger = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 15.0
IDLE_SECONDS: Final = 300.0
"""A model may think for minutes between two calls, and a server forgets what it kept for the connection."""
MOST_OPEN: Final = 256
MOST_PROCESSES: Final = 32
"""Of one worker at one time."""
_READ_SECONDS: Final = 120.0
_LONGEST_REASON: Final = 500
_STOP_SECONDS: Final = 8.0
"""What the package takes at most to end a program that does not want to."""
STDIO: Final = "stdio://"
Done = TypeVar("Done")


class ServerFailed(Exception):
    """A server cannot be used, and why, for users and models. `is_refusal`: it does not take the credential."""

    def __init__(self, message: str, *, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.is_refusal = is_refusal


class _Forgotten(Exception):
    """The server does not know the connection any more."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server as one session uses it."""

    tenant_id: UUID
    session_id: UUID
    url: str
    bearer: Bearer = field(default_factory=Bearer, repr=False)

    def without_token(self, words: str) -> str:
        """Return what a server said without the token, should it repeat that."""
        return self.bearer.without_tokens(words)


class Connections:
    """The connections of one worker. Used on one event loop."""

    def __init__(self, settings: McpSettings) -> None:
        self._settings = settings
        self._open: dict[Target, _Connection] = {}

    async def use(self, target: Target, work: Callable[[Client], Awaitable[Done]]) -> Done:
        """Do something with a connection to a server. Raises ServerFailed, MCPError, and what `work` raises."""
        try:
            return await self._connection(target).use(work)
        except _Forgotten:  # the server was restarted, and did nothing
            return await self._connection(target).use(work)

    async def close(self) -> None:
        """End all connections."""
        owners = [connection.end() for connection in self._open.values()]
        if owners:
            await asyncio.wait(owners, timeout=_STOP_SECONDS)

    def _connection(self, target: Target) -> _Connection:
        connection = self._open.get(target)
        if connection is None or connection.is_ending:
            self._make_room(target)
            connection = self._open[target] = _Connection(target, self._settings)
        connection.show(target.bearer)
        return connection

    def _make_room(self, target: Target) -> None:
        """Forget what has ended, and end what nobody uses where there are too many. Raises ServerFailed."""
        self._open = {at: one for at, one in self._open.items() if not one.has_ended}
        is_program = target.url.startswith(STDIO)
        alike = [one for at, one in self._open.items() if at.url.startswith(STDIO) == is_program]
        if len(alike) < (MOST_PROCESSES if is_program else MOST_OPEN):
            return
        unused = [one for one in alike if not one.users and not one.is_ending]
        if not unused:
            raise ServerFailed("This worker has as many connections to MCP servers as it may; try again later.")
        min(unused, key=lambda one: one.used_at).end()


class _Connection:
    """One connection, which a task of its own opens and ends, as the package wants it."""

    def __init__(self, target: Target, settings: McpSettings) -> None:
        self._target = target
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[Client] = self._loop.create_future()
        self._changed = asyncio.Event()
        self._transport: GuardedTransport | None = None
        self._reason: ServerFailed | None = None
        self._owner = asyncio.create_task(self._own())
        self.is_ending = False
        self.users = 0
        self.used_at = self._loop.time()

    @property
    def has_ended(self) -> bool:
        return self._owner.done()

    def show(self, bearer: Bearer) -> None:
        """Go on with what the credential is now."""
        self._target = replace(self._target, bearer=bearer)
        if self._transport is not None:
            self._transport.bearer = bearer

    def end(self) -> asyncio.Task[None]:
        """Have it end, and return what tells when it has; nobody can use it any more."""
        self.is_ending = True
        self._changed.set()
        if not self._ready.done():
            self._owner.cancel()
        return self._owner

    async def use(self, work: Callable[[Client], Awaitable[Done]]) -> Done:
        self.users += 1
        try:
            either: set[asyncio.Future[Any]] = {self._ready, self._owner}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._owner.done():
                raise self._failure()
            doing = asyncio.ensure_future(work(self._ready.result()))
            try:
                await asyncio.wait({doing, self._owner}, return_when=asyncio.FIRST_COMPLETED)
                if not doing.done():
                    raise self._failure()
                return await doing
            except MCPError as error:
                raise await self._explained(error) from error
            except asyncio.CancelledError:
                self.end()  # it did not answer in time, or nobody wants the answer: who knows what it is doing
                raise
            finally:
                doing.cancel()
                await asyncio.wait({doing}, timeout=1)
        finally:
            self.users -= 1
            self.used_at = self._loop.time()
            self._changed.set()

    async def _explained(self, error: MCPError) -> Exception:
        """Return why a request failed: the server's own words, unless the connection broke or it refuses us."""
        if self._transport is not None and self._transport.refused is not None:
            self.end()
            return ServerFailed(self._transport.refused, is_refusal=True)
        if error.code == INVALID_REQUEST and error.message == "Session terminated":  # the package's words for a 404
            self.end()
            return _Forgotten()
        if error.code == CONNECTION_CLOSED:
            self.end()
            await asyncio.wait({self._owner}, timeout=1)
            if self._reason is not None:
                return self._reason
        return error

    def _failure(self) -> ServerFailed:
        return self._reason or ServerFailed("The connection was ended.")

    async def _own(self) -> None:
        try:
            async with self._connected() as client:
                self._ready.set_result(client)
                while not (self._is_idle() or (self.is_ending and not self.users)):
                    self._changed.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(IDLE_SECONDS):
                            await self._changed.wait()
                self.is_ending = True
        except Exception as error:  # noqa: BLE001 (whatever a server does is the matter of the session that uses it)
            self._reason = self._explain(error)
        finally:
            self.is_ending = True

    def _is_idle(self) -> bool:
        return not self.users and self._loop.time() - self.used_at >= IDLE_SECONDS

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        async with asyncio.timeout(CONNECT_SECONDS) as limit:
            async with self._opened() as client:
                limit.reschedule(None)
                yield client

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Client]:
        us = Implementation(name="trunkline", version="1")
        url = self._target.url
        if url.startswith(STDIO):
            program = self._settings.servers.get(url.removeprefix(STDIO))
            if program is None:
                raise ServerFailed(f"This worker has no MCP server {url}; the operator adds it to `tools.mcp.servers`.")
            command, *arguments = program.command
            parameters = StdioServerParameters(command=command, args=arguments, env=program.env, cwd=program.directory)
            async with Client(parameters, client_info=us) as client:
                yield client
            return
        self._transport = GuardedTransport(url, self._target.bearer, self._settings.allow)
        async with (
            httpx2.AsyncClient(transport=self._transport, timeout=_READ_SECONDS, trust_env=False) as http,
            Client(
                streamable_http_client(url, http_client=http, max_sse_event_size=MAX_BYTES), client_info=us
            ) as client,
        ):
            yield client

    def _explain(self, error: BaseException) -> ServerFailed:
        """Return what broke a connection in words that tell nothing of the inside."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if self._transport is not None and self._transport.refused is not None:
            return ServerFailed(self._transport.refused, is_refusal=True)
        match error:
            case ServerFailed():
                return error
            case NotAllowed():
                return ServerFailed(str(error))
            case TimeoutError():
                return ServerFailed(f"It did not answer within {CONNECT_SECONDS:g} s.")
            case httpx2.HTTPError():
                words = self._target.without_token(str(error))
                return ServerFailed(f"It could not be reached: {cut(words, _LONGEST_REASON) or type(error).__name__}")
            case MCPError():
                words = cut(self._target.without_token(str(error)), _LONGEST_REASON)
                return ServerFailed(f"It answered with an error: {words}")
            case ValidationError():
                return ServerFailed("What it answered is not MCP.")
        if self._target.url.startswith(STDIO):
            _logger.warning("the program of %s could not be started, or ended", self._target.url, exc_info=error)
            return ServerFailed("Its program could not be started, or ended; the worker's log says why.")
        _logger.warning("the connection to an MCP server broke: %s", type(error).__name__)
        return ServerFailed(f"The connection broke: {type(error).__name__}.")
