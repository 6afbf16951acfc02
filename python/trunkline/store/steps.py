"""Steps of turns, as their worker saves them: one statement, which checks that each session is still its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from trunkline.domain import ids
from trunkline.domain.memory import StoreOwner
from trunkline.domain.sessions import Status
from trunkline.store.events import NewEvent
from trunkline.store.leases import Head, Lease, Tokens
from trunkline.store.pool import Connection
from trunkline.store.queries import queries


@dataclass(frozen=True, slots=True)
class Said:
    """A text of a session that is kept for recall."""

    event_id: UUID
    role: str
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a step changes in a session. `taken_up`: numbers of the client's events that the agent takes up with it."""

    events: Sequence[NewEvent]
    status: Status
    tokens: Tokens
    taken_up: Sequence[int]
    said: Sequence[Said]
    """Kept in the store that `store_of` has by itself, unless that is archived."""
    store_of: StoreOwner
    is_last: bool
    """The session is let go with it."""
    at: datetime


@dataclass(frozen=True, slots=True)
class Append:
    """A step to be saved of a session whose head is `head`, as the holder of its lease knows it."""

    lease: Lease
    head: Head
    step: Step


class Outcome(StrEnum):
    """What became of a step that was to be saved."""

    SAVED = "saved"
    CHANGED = "changed"
    """The session's head is another by now."""
    BUSY = "busy"
    """Somebody is writing to the session, and that was not to be waited for."""
    LOST = "lost"
    """Another has claimed the session, or it is gone."""


async def append(connection: Connection, appends: Sequence[Append], *, wait: bool) -> list[Outcome]:
    """Save steps of any sessions, and tell what became of each; unless it is SAVED, it has changed nothing.

    It is one statement, which may be a transaction by itself.
    """
    wanted = Jsonb([_row(one) for one in appends])
    cursor = await connection.execute(queries("steps")["append_steps"], (wanted, wait))
    found = {row["nth"]: Outcome(row["outcome"]) for row in await cursor.fetchall()}
    return [found[nth] for nth in range(1, len(appends) + 1)]


def _row(append: Append) -> dict[str, Any]:
    lease, head, step = append.lease, append.head, append.step
    owner, used = step.store_of, step.tokens
    return {
        "tenant": str(lease.tenant_id),
        "session": str(lease.session_id),
        "fence": lease.fence,
        "status": head.status,
        "last_seq": head.last_seq,
        "key": None if head.key_id is None else str(head.key_id),
        "budget": head.budget,
        "limits": head.limits,
        "at": step.at.isoformat(),
        "events": [(str(event.id), event.type, event.payload) for event in step.events],
        "new_status": step.status,
        "tokens": (used.input, used.output, used.cached, used.turns, used.cost_nano),
        "taken_up": list(step.taken_up),
        "is_last": step.is_last,
        "said": [(str(one.event_id), one.role, one.text, one.tokens) for one in step.said],
        "store": str(ids.new()),
        "owner": owner.key,
        "scope": owner.scope,
        "agent": None if owner.agent_id is None else str(owner.agent_id),
        "subject": owner.subject,
    }
