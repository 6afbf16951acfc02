"""Vaults: named sets of credentials that sessions may be started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trunkline.domain import ids
from trunkline.domain.agents import Metadata, MetadataPatch
from trunkline.domain.times import to_wire

DisplayName = Annotated[str, Field(min_length=1, max_length=255)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class VaultRequest(_Frozen):
    """A new vault."""

    display_name: DisplayName
    metadata: Metadata = {}


class VaultUpdate(_Frozen):
    """A change: what is absent or null stays; `metadata` is a patch key by key."""

    display_name: DisplayName | None = None
    metadata: MetadataPatch | None = None


@dataclass(frozen=True, slots=True)
class Vault:
    """A vault, without what is in it."""

    id: UUID
    agent_id: UUID | None
    """The only agent that may use it; None: any."""
    display_name: str
    metadata: Mapping[str, str]
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None

    def to_wire(self) -> dict[str, Any]:
        """Return the Managed Agents `vault`."""
        return {
            "id": ids.encode("vlt", self.id),
            "type": "vault",
            "display_name": self.display_name,
            "metadata": self.metadata,
            "created_at": to_wire(self.created_at),
            "updated_at": to_wire(self.updated_at),
            "archived_at": to_wire(self.archived_at),
        }
