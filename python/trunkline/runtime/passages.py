"""Keeping what was said for recall, as the gateway does for the turns that it records itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from trunkline.domain.events import Event
from trunkline.domain.memory import Passage, Source, StoreOwner
from trunkline.domain.redaction import redactor
from trunkline.errors import InvalidRequest
from trunkline.memory.render import estimate_tokens
from trunkline.store import memory_stores, passages
from trunkline.store.events import NewEvent
from trunkline.store.leases import Lease, Task
from trunkline.store.pool import Connection

_ROLES = {"user.message": "user", "agent.message": "assistant"}


async def keep(
    connection: Connection, lease: Lease, task: Task, said: Sequence[Event | NewEvent], at: datetime
) -> None:
    """Keep the texts among these events in the store of the session's user, or of the session where it has none."""
    texts = [(event, _text(event)) for event in said if event.type in _ROLES]
    texts = [(event, text) for event, text in texts if text]
    if not texts:
        return
    if task.user_id is None:
        owner = StoreOwner("session", task.agent_id, str(lease.session_id))
    else:
        owner = StoreOwner("user", task.agent_id, task.user_id)
    try:
        store_id = await memory_stores.managed(connection, lease.tenant_id, owner, at)
    except InvalidRequest:  # archived: nothing is to be added to it
        return
    redact = redactor(task.redact)
    for event, said_text in texts:
        text = said_text if redact is None else redact.text(said_text)
        passage = Passage(event.id, lease.session_id, _ROLES[event.type], text, estimate_tokens(text), at, score=0.0)
        await passages.insert(connection, lease.tenant_id, store_id, passage, Source(lease.session_id, event.id))


def _text(event: Event | NewEvent) -> str:
    return "".join(block["text"] for block in event.payload["content"] if block["type"] == "text")
