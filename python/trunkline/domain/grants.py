"""What a key's `stores` and `tools` grant: memory by store or by scope, and tools by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trunkline.domain import ids
from trunkline.domain.memory import Scope

Access = Literal["read_only", "read_write"]

ToolNames = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,255}$")], ...] | None, Field(max_length=500)
]
"""Names of tools; None: any."""


class StoreGrant(BaseModel):
    """One store by its id, or what agents keep of one scope: their blocks, files and turns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_store_id: str | None = None
    scope: Scope | None = None
    access: Access = "read_only"

    @model_validator(mode="after")
    def _one_of_both(self) -> StoreGrant:
        if (self.memory_store_id is None) == (self.scope is None):
            raise ValueError("give `memory_store_id`, or the `scope` of what agents keep")
        return self


Grants = Annotated[tuple[StoreGrant, ...] | None, Field(max_length=100)]
"""None: all that the key's agent, or for a key of no agent the tenant, has."""


@dataclass(frozen=True, slots=True)
class Stores:
    """The memory that a key reaches, and how."""

    by_id: Mapping[UUID, Access] = field(default_factory=dict)
    by_scope: Mapping[str, Access] = field(default_factory=dict)

    @classmethod
    def of(cls, grants: Iterable[StoreGrant]) -> Stores:
        """Return what grants add up to; of two for one store, the wider. Raises NotFound for an id that is none."""
        by_id: dict[UUID, Access] = {}
        by_scope: dict[str, Access] = {}
        for grant in grants:
            if grant.memory_store_id is not None:
                store_id = ids.decode("memstore", grant.memory_store_id)
                by_id[store_id] = _wider(by_id.get(store_id), grant.access)
            elif grant.scope is not None:
                by_scope[grant.scope] = _wider(by_scope.get(grant.scope), grant.access)
        return cls(by_id, by_scope)

    @classmethod
    def from_json(cls, found: Iterable[Mapping[str, Any]] | None) -> Stores | None:
        """Return what `to_wire` wrote."""
        return None if found is None else cls.of(StoreGrant.model_validate(grant) for grant in found)

    def to_wire(self) -> list[dict[str, Any]]:
        """Return the grants as the API shows them and the store keeps them."""
        return [
            *({"memory_store_id": ids.encode("memstore", one), "access": access} for one, access in self.by_id.items()),
            *({"scope": scope, "access": access} for scope, access in self.by_scope.items()),
        ]

    def access(self, store_id: UUID, managed_scope: str | None) -> Access | None:
        """Return how a store may be used, None not at all; `managed_scope` is that of a store which an agent keeps."""
        scoped = None if managed_scope is None else self.by_scope.get(managed_scope)
        found = self.by_id.get(store_id)
        return "read_write" if "read_write" in (found, scoped) else found or scoped

    def within(self, other: Stores) -> bool:
        """Tell whether all of it is granted by `other` too."""
        return _covers(other.by_id, self.by_id) and _covers(other.by_scope, self.by_scope)


def _wider(one: Access | None, other: Access) -> Access:
    return "read_write" if "read_write" in (one, other) else "read_only"


def _covers(wide: Mapping[Any, Access], narrow: Mapping[Any, Access]) -> bool:
    return all(wide.get(key) in ("read_write", access) for key, access in narrow.items())
