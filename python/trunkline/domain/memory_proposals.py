"""Proposals for memory: what consolidation would write, or has written, and where it found that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.times import to_wire

ProposalStatus = Literal["pending", "applied", "refused", "rejected"]
"""It waits for somebody; it is written; it could not be, and `error` says why; somebody did not want it."""


@dataclass(frozen=True, slots=True)
class MemoryProposal:
    """Operations on one field of a block of a session's user, or of the session, and the events they come from."""

    id: UUID
    agent_id: UUID
    session_id: UUID
    user_id: str | None
    run_id: UUID
    block: str
    scope: str
    """The block's; empty where the agent has no such block."""
    operations: Sequence[Mapping[str, Any]]
    """With their preconditions, as the API takes them; empty where what the model wrote is none."""
    events: Sequence[UUID]
    reason: str
    status: ProposalStatus
    error: str | None
    version_id: UUID | None
    created_at: datetime
    decided_at: datetime | None
    decided_by: UUID | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the proposal as the API tells it."""
        return {
            "id": ids.encode("mprop", self.id),
            "type": "memory_proposal",
            "agent_id": ids.encode("agent", self.agent_id),
            "session_id": ids.encode("sesn", self.session_id),
            "user_id": self.user_id,
            "block": self.block,
            "scope": self.scope or None,
            "operations": list(self.operations),
            "event_ids": [ids.encode("sevt", event) for event in self.events],
            "reason": self.reason,
            "status": self.status,
            "error": self.error,
            "version_id": None if self.version_id is None else ids.encode("memver", self.version_id),
            "created_at": to_wire(self.created_at),
            "decided_at": None if self.decided_at is None else to_wire(self.decided_at),
            "decided_by": None if self.decided_by is None else ids.encode("key", self.decided_by),
        }
