from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """A value as the control plane sent it; members this version does not name are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> dict[str, Any]:
        """Return all members, those without a name here included, as plain JSON values."""
        return self.model_dump(mode="json")


def given(**members: Any) -> dict[str, Any]:
    """Return the members that are not None: of a request, what it says."""
    return {name: value for name, value in members.items() if value is not None}
