"""Teams: keys that share limits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from trunkline.domain import ids
from trunkline.domain.limits import UNLIMITED, UNUSED, Limits, LimitsRequest, Used
from trunkline.domain.times import to_wire

Name = Annotated[str, Field(min_length=1, max_length=256)]


class TeamRequest(LimitsRequest):
    """What a new team is to be; `users` limits each end user who comes with one of its keys."""

    name: Name
    users: LimitsRequest | None = None


class TeamChange(LimitsRequest):
    """What of a team is to change; what is left out stays, null takes a limit away."""

    name: Name = ""
    users: LimitsRequest | None = None


@dataclass(frozen=True, slots=True)
class Team:
    """A team, and what its keys have used together."""

    id: UUID
    name: str
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None
    limits: Limits = UNLIMITED
    users: Limits | None = None
    used: Used = UNUSED

    def to_wire(self) -> dict[str, Any]:
        """Return the team as the API shows it; amounts of money are numbers of US dollars."""
        return {
            "id": ids.encode("team", self.id),
            "type": "team",
            "name": self.name,
            **self.limits.to_wire(),
            "users": None if self.users is None else self.users.to_wire(),
            **self.used.to_wire(),
            "created_at": to_wire(self.created_at),
            "updated_at": to_wire(self.updated_at),
            "archived_at": to_wire(self.archived_at),
        }
