"""The audit log: who changed what, when, and in which request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.times import to_wire

ResourceType = Literal[
    "agent",
    "key",
    "team",
    "user",
    "vault",
    "credential",
    "environment",
    "deployment",
    "memory_store",
    "retention",
    "erasure",
]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change. `changed` names fields, and never says what they hold; of an end user the id is a digest."""

    id: UUID
    created_at: datetime
    action: str
    resource_type: ResourceType
    resource_id: str
    name: str | None
    changed: tuple[str, ...]
    key_id: UUID | None
    """None: no request of a client's changed it."""
    request_id: str | None

    def to_wire(self) -> dict[str, Any]:
        """Return the entry as the API shows it."""
        return {
            "id": f"audit_{self.id.hex}",
            "type": "audit_entry",
            "created_at": to_wire(self.created_at),
            "action": self.action,
            "resource": {"type": self.resource_type, "id": self.resource_id, "name": self.name},
            "changed": list(self.changed),
            "key_id": None if self.key_id is None else ids.encode("key", self.key_id),
            "request_id": self.request_id,
        }
