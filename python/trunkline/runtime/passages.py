"""What was said, for recall: kept as the gateway keeps it for the turns that it records itself."""

from __future__ import annotations

from collections.abc import Iterable

from trunkline.domain.events import Event
from trunkline.domain.memory import StoreOwner
from trunkline.domain.redaction import redactor
from trunkline.memory.render import estimate_tokens
from trunkline.store.events import NewEvent
from trunkline.store.leases import Lease, Task
from trunkline.store.steps import Said

_ROLES = {"user.message": "user", "agent.message": "assistant"}


def store_of(lease: Lease, task: Task) -> StoreOwner:
    """Return whose store a session's texts are kept in: its user's, or its own where it has none."""
    if task.user_id is None:
        return StoreOwner("session", task.agent_id, str(lease.session_id))
    return StoreOwner("user", task.agent_id, task.user_id)


def said(task: Task, events: Iterable[Event | NewEvent]) -> list[Said]:
    """Return the texts among these events as they are kept."""
    if not task.remembers:
        return []
    redact = redactor(task.redact)
    kept = []
    for event in events:
        if event.type not in _ROLES:
            continue
        text = "".join(block["text"] for block in event.payload["content"] if block["type"] == "text")
        if text:
            text = text if redact is None else redact.text(text)
            kept.append(Said(event.id, _ROLES[event.type], text, estimate_tokens(text)))
    return kept
