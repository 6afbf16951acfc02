"""What routes ask for: who calls, and a transaction of that caller's tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request

from trunkline.api.event_feed import EventFeed
from trunkline.domain.keys import digest
from trunkline.domain.principal import Principal
from trunkline.errors import Unauthenticated
from trunkline.memory.embedders.local import LocalEmbedder
from trunkline.memory.embedders.queries import QueryVectors
from trunkline.memory.rerank import Rerank
from trunkline.oauth.renewals import TokenRenewals
from trunkline.store import keys
from trunkline.store.leases import Wake
from trunkline.store.pool import Connection, Database
from trunkline.store.sealing import Sealing

MAX_EXPORTS = 2
"""At once in one process: each holds a connection for as long as its reader takes."""

_KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and a transaction that sees and writes that tenant's rows.

    It is committed when the route has returned, before the answer is sent.
    """

    principal: Principal
    connection: Connection


@dataclass(frozen=True, slots=True)
class Served:
    """A model that this process runs for gateways, and the key that they show."""

    embedder: LocalEmbedder
    key: str


@dataclass(frozen=True, slots=True)
class Embedding:
    """What makes vectors of queries, if anything, and the model that runs here for gateways, if one does."""

    queries: QueryVectors = field(default_factory=lambda: QueryVectors(None, 0.0))
    served: Served | None = None


NextPrompt = Callable[[Connection, UUID, UUID], Awaitable[bytes]]
"""Returns, of (connection, tenant, session), the JSON that tells the session's next prompt."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the app is made of, for its routes."""

    database: Database
    feed: EventFeed
    wake: Wake | None
    next_prompt: NextPrompt | None
    renewals: TokenRenewals
    embedding: Embedding = field(default_factory=Embedding)
    rerank: Rerank | None = None
    sealing: Sealing = field(default_factory=lambda: Sealing(()))
    exports: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_EXPORTS))


async def parts(request: Request) -> Parts:  # async: FastAPI sends plain functions to a thread
    """Return the running app's parts."""
    state: Any = request.app.state
    found = state.parts
    if not isinstance(found, Parts):
        raise TypeError("the app has not been started")
    return found


async def _database(request: Request) -> Database:
    return (await parts(request)).database


def key_text(request: Request) -> str:
    """Return the key that a request came with. Raises Unauthenticated when it came with none."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        return text.strip()
    for header in _KEY_HEADERS:
        if value := request.headers.get(header, "").strip():
            return value
    raise Unauthenticated(
        "The request has no API key. Send it as 'Authorization: Bearer sk-tl-…' or 'x-api-key: sk-tl-…'; `trunkline "
        "up` shows where the first key is kept.",
        code="missing_key",
    )


async def authenticate(connection: Connection, text: str, request_id: str | None = None) -> Principal:
    """Return whom a key stands for and bind the transaction to that tenant. Raises Unauthenticated."""
    found = await keys.authenticate(connection, digest(text), request_id)
    if found is None:
        raise Unauthenticated(
            "The API key is not known, has expired or was revoked. Check that all of it was copied; `trunkline keys "
            "list` shows the keys there are.",
            code="invalid_key",
        )
    return found


async def _principal(request: Request, database: Annotated[Database, Depends(_database)]) -> Principal:
    text = key_text(request)
    async with database.transaction() as connection:
        return await authenticate(connection, text)


@asynccontextmanager
async def calling(
    database: Database, text: str, scope: str, request_id: str | None, *, pipelined: bool = False
) -> AsyncIterator[Caller]:
    """Open a transaction for the caller with this key; `pipelined` as in `Database.transaction`.

    What is changed in it is that request's in the audit log; no request's where `request_id` is None. Raises
    Unauthenticated, and Forbidden for a key without the scope.
    """
    async with database.transaction(pipelined=pipelined) as connection:
        principal = await authenticate(connection, text, request_id)
        principal.require(scope)
        yield Caller(principal, connection)


def calling_with(scope: str) -> Callable[..., AsyncIterator[Caller]]:
    """Return the dependency that gives a caller whose key has this scope."""

    async def caller(request: Request, database: Annotated[Database, Depends(_database)]) -> AsyncIterator[Caller]:
        async with calling(database, key_text(request), scope, request.state.request_id) as found:
            yield found

    return caller


DatabaseDependency = Annotated[Database, Depends(_database)]
PrincipalDependency = Annotated[Principal, Depends(_principal)]
PartsDependency = Annotated[Parts, Depends(parts)]
Manager = Annotated[Caller, Depends(calling_with("manage"), scope="function")]
