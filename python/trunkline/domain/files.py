"""Files: bytes with a name and a type, which sessions may be given and may make."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from trunkline.domain import ids
from trunkline.domain.times import to_wire


@dataclass(frozen=True, slots=True)
class File:
    """What there is to tell of a file beside its bytes. `size_bytes` is their number."""

    id: UUID
    agent_id: UUID | None
    """The only agent that it is for; None: any."""
    session_id: UUID | None
    """The session that made it; None: a client uploaded it."""
    filename: str
    mime_type: str
    size_bytes: int
    created_at: datetime
    expires_at: datetime | None

    def to_wire(self) -> dict[str, Any]:
        """Return the wire's `file`."""
        scope = None if self.session_id is None else {"type": "session", "id": ids.encode("sesn", self.session_id)}
        return {
            "id": ids.encode("file", self.id),
            "type": "file",
            "filename": self.filename,
            "mime_type": self.mime_type,
            "size_bytes": self.size_bytes,
            "downloadable": True,
            "scope": scope,
            "created_at": to_wire(self.created_at),
            "expires_at": to_wire(self.expires_at),
        }
