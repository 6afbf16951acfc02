"""Leases: one worker at a time works on a session, and what it appends is checked against its claim."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import AsyncConnection

from trunkline.domain.budgets import Used
from trunkline.domain.events import Event
from trunkline.domain.redaction import Wanted
from trunkline.domain.sessions import Status
from trunkline.domain.toolsets import granted
from trunkline.errors import Unavailable
from trunkline.store.pool import Connection
from trunkline.store.queries import queries
from trunkline.store.sessions import USED

Wake = Callable[[Connection], Awaitable[None]]
"""Called in the transaction that gave a session something to do."""


class LeaseLost(Exception):
    """Another worker has claimed the session, or it was deleted: its former holder must not touch it any more."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A claim of a session. `fence` is greater than that of every earlier claim."""

    tenant_id: UUID
    session_id: UUID
    fence: int


@dataclass(frozen=True, slots=True)
class Task:
    """What there is to know of a session beside its log. `definition` is that of the pinned agent version, as JSON.

    `redact` is looked for in what is kept for recall, and with `redact_log` in the log too.
    """

    agent_id: UUID
    agent_version: int
    user_id: str | None
    definition: Mapping[str, Any]
    """Its tools are those that may be carried out for the key."""
    remembers: bool
    key_id: UUID | None
    """The key in whose name the session works; None: the tenant's."""
    resources: Sequence[Mapping[str, Any]]
    vault_ids: Sequence[UUID]
    environment: Mapping[str, Any] | None
    """The `config` of its environment; None: the default one's."""
    redact: Sequence[Wanted] | None
    redact_log: bool

    @property
    def self_hosted(self) -> bool:
        """Whether the owner of the environment carries out the tools in it."""
        return self.environment is not None and self.environment["type"] == "self_hosted"

    @property
    def network(self) -> str:
        """What may be reached from the environment: `unrestricted` or `limited`."""
        if self.environment is None:
            return "unrestricted"
        return str(self.environment.get("networking", {}).get("type", "limited"))


@dataclass(frozen=True, slots=True)
class Head:
    """A session's head as the holder of its lease sees it."""

    status: Status
    last_seq: int
    key_id: UUID | None
    """As in Task."""
    budget: Mapping[str, Any] | None
    limits: Mapping[str, Any] | None
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    used: Used
    """`tokens` are the three kinds together."""

    def advanced(self, status: Status, last_seq: int, tokens: Tokens) -> Head:
        """Return the head as its holder leaves it with a step, as long as the session runs on."""
        return replace(
            self,
            status=status,
            last_seq=last_seq,
            input_tokens=self.input_tokens + tokens.input,
            output_tokens=self.output_tokens + tokens.output,
            cached_tokens=self.cached_tokens + tokens.cached,
            used=self.after(tokens),
        )

    def after(self, tokens: Tokens) -> Used:
        """Return what was used, a step that is not counted yet among it."""
        used, cost = self.used, tokens.cost_nano
        return replace(
            used,
            turns=used.turns + tokens.turns,
            tokens=used.tokens + tokens.input + tokens.output + tokens.cached,
            cost_nano=used.cost_nano + (cost or 0),
            unpriced=used.unpriced or cost is None,
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """A session just taken, and what its turn begins with: its head, its log if that is no long one, and its task."""

    lease: Lease
    head: Head
    log: Sequence[Event]
    task: Task


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a step used; `input` without the `cached` ones, as the Anthropic wire counts."""

    input: int = 0
    output: int = 0
    cached: int = 0
    turns: int = 0
    """Answers of the model."""
    cost_nano: int | None = 0
    """In billionths of a US dollar; None: the model has no price."""
    paid_as: UUID | None = None
    """The call that was paid for, where the answer is that call's, given again for nothing."""


_HEAD: Final = tuple(field.name for field in fields(Head) if field.name != "used") + USED
"""The columns of a head."""


async def wake(connection: Connection) -> None:
    """Have workers look for what there is to do once the transaction commits; the control plane's `Wake`."""
    await connection.execute(queries("leases")["wake"])


async def wakings(conninfo: str) -> AsyncGenerator[None]:
    """Yield as soon as one can be told, and whenever there may be something to do. Raises Unavailable: lost."""
    try:
        async with await AsyncConnection.connect(
            conninfo, autocommit=True, fallback_application_name="trunkline worker"
        ) as connection:
            await connection.execute(queries("leases")["listen"])
            yield
            async for _ in connection.notifies():
                yield
    except psycopg.OperationalError as error:
        raise Unavailable("The connection that hears of work was lost.") from error


async def claim(connection: Connection, *, owner: str, seconds: float, limit: int, log: int) -> list[Claim]:
    """Take up to `limit` sessions of any tenants that run while nobody holds them, for some seconds.

    They come with their logs where these have up to `log` events. It is one statement, which may be a transaction by
    itself.
    """
    cursor = await connection.execute(queries("leases")["claim"], (owner, seconds, limit, log))
    claims = []
    for row in await cursor.fetchall():
        lease = Lease(row.pop("tenant_id"), row.pop("session_id"), row.pop("fence"))
        head = _head({name: row[name] if name == "key_id" else row.pop(name) for name in _HEAD})
        claims.append(Claim(lease, head, _events(row.pop("log")), _task(row)))
    return claims


async def renew_all(connection: Connection, since: Mapping[Lease, int], *, seconds: float) -> dict[Lease, bool]:
    """Hold sessions, of any tenants, some seconds more.

    Returns those that no other has claimed, each with whether the user has interrupted it after event number `since`.
    """
    held = list(since)
    cursor = await connection.execute(
        queries("leases")["renew"],
        (
            [lease.tenant_id for lease in held],
            [lease.session_id for lease in held],
            [lease.fence for lease in held],
            list(since.values()),
            seconds,
        ),
    )
    found = {(row["session_id"], row["fence"]): bool(row["interrupted"]) for row in await cursor.fetchall()}
    return {lease: found[at] for lease in held if (at := (lease.session_id, lease.fence)) in found}


async def lock(connection: Connection, lease: Lease) -> Head:
    """Return the session's head, and keep all others from it in this transaction. Raises LeaseLost."""
    cursor = await connection.execute(queries("leases")["lock"], (*_key(lease), lease.fence))
    row = await cursor.fetchone()
    if row is None:
        raise LeaseLost
    return _head(row)


async def priced(connection: Connection, lease: Lease, tokens: Tokens) -> Tokens:
    """Return what a step used with what was paid for it, where another call than its own was."""
    if tokens.paid_as is None:
        return tokens
    cursor = await connection.execute(queries("leases")["select_cost"], (lease.tenant_id, tokens.paid_as))
    row = await cursor.fetchone()
    return replace(tokens, cost_nano=None if row is None else row["cost_nano"], paid_as=None)


async def release(connection: Connection, lease: Lease) -> None:
    """Let the session go; nothing happens if another has it already."""
    await connection.execute(queries("leases")["release"], (*_key(lease), lease.fence))


async def task(connection: Connection, lease: Lease) -> Task:
    """Return what there is to know of the session beside its log. Raises LeaseLost when it is gone."""
    cursor = await connection.execute(queries("leases")["select_task"], _key(lease))
    row = await cursor.fetchone()
    if row is None:
        raise LeaseLost
    return _task(row)


async def log(connection: Connection, lease: Lease, *, after: int, limit: int) -> list[Event]:
    """Return up to `limit` of the session's events after number `after`, oldest first."""
    cursor = await connection.execute(queries("leases")["select_log"], (*_key(lease), after, limit))
    row = await cursor.fetchone()
    return [] if row is None else _events(row["log"])


async def alive(connection: Connection, tenant_id: UUID, session_ids: Sequence[UUID]) -> set[UUID]:
    """Return those of these sessions that are there and have not ended."""
    cursor = await connection.execute(queries("leases")["select_alive"], (tenant_id, list(session_ids)))
    return {row["id"] for row in await cursor.fetchall()}


def _key(lease: Lease) -> tuple[UUID, UUID]:
    return lease.tenant_id, lease.session_id


def _head(row: dict[str, Any]) -> Head:
    used = Used(**{name: row.pop(name) for name in USED})
    return Head(**row, used=used)


def _task(row: dict[str, Any]) -> Task:
    tools = row.pop("tools")
    return Task(**{**row, "definition": granted(row["definition"], tools)})


def _events(log: list[list[Any]] | None) -> list[Event]:
    """Read events that came as one value: a row each costs several times as much."""
    read = datetime.fromisoformat
    return [
        Event(UUID(name), seq, kind, payload, read(created), None if processed is None else read(processed))
        for name, seq, kind, payload, created, processed in log or ()
    ]
