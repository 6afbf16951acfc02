"""Threads: conversations as an agent framework keeps them, under its own name for each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.times import to_wire


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread. `name` is the framework's own; `session_id`, the session that it goes with."""

    id: UUID
    agent_id: UUID | None
    framework: str
    name: str
    user_id: str | None
    session_id: UUID | None
    created_at: datetime

    def to_wire(self) -> dict[str, Any]:
        """Return the thread as the wire tells it."""
        return {
            "id": ids.encode("thread", self.id),
            "type": "thread",
            "framework": self.framework,
            "name": self.name,
            "agent_id": None if self.agent_id is None else ids.encode("agent", self.agent_id),
            "user_id": self.user_id,
            "session_id": None if self.session_id is None else ids.encode("sesn", self.session_id),
            "created_at": to_wire(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class ThreadItem:
    """One item of a thread's conversation; `seq` grows, with gaps where items were taken back."""

    seq: int
    item: dict[str, Any]
    created_at: datetime

    def to_wire(self) -> dict[str, Any]:
        """Return the item, as it was given, in an envelope."""
        return {"seq": self.seq, "item": self.item, "created_at": to_wire(self.created_at)}
