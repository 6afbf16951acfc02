"""Who calls: what a key proves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from trunkline.domain.grants import Stores
from trunkline.errors import Forbidden

SCOPES: Final = ("inference", "memory", "manage", "passthrough", "operator")
"""What a key may be for: model calls; memory stores and blocks; agents, sessions and keys; the providers' accounts
(files, batches, …), which all tenants share; tenants."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The tenant, rights and agent of the key that a request came with."""

    tenant_id: UUID
    key_id: UUID
    key_name: str
    scopes: frozenset[str]
    agent_id: UUID | None = None
    """The only agent that the key may act for; None: any agent of the tenant."""
    models: tuple[str, ...] | None = None
    """The only models that the key may ask for; None: any."""
    user_id: str | None = None
    """The only end user that the key speaks for, whatever a request says; None: whom the request names."""
    stores: Stores | None = None
    """The only memory that the key reaches; None: what its agent, or without one the tenant, has."""
    tools: tuple[str, ...] | None = None
    """The only tools that are carried out for the key; None: any."""
    bounded: bool = False
    """Whether work that the key starts is under limits of it, so that it is done in the key's name."""

    @property
    def started_by(self) -> UUID | None:
        """The key in whose name work goes on that this one starts; None: in the tenant's."""
        return self.key_id if self.bounded else None

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the key has this scope."""
        if scope not in self.scopes:
            raise Forbidden(
                f"The key {self.key_name!r} lacks the scope '{scope}'; use a key that has it, or create one with it "
                f"(POST /v1/keys).",
                code="missing_scope",
                details={"scope": scope},
            )

    def require_memory(self, scope: str, *, write: bool) -> None:
        """Raise Forbidden unless the key may read, or write, what agents keep of this scope."""
        access = "read_write" if self.stores is None else self.stores.by_scope.get(scope)
        if access is None or (write and access == "read_only"):
            raise Forbidden(
                f"The key {self.key_name!r} may not {'write' if write else 'read'} memory of the scope '{scope}': its "
                f"`stores` {'have no such scope' if access is None else 'say read_only'}.",
                code="store_not_granted",
            )

    def require_all_stores(self, what: str) -> None:
        """Raise Forbidden for a key with `stores` of its own: `what` reaches beyond them."""
        if self.stores is not None:
            raise Forbidden(
                f"The key {self.key_name!r} reaches only the memory that its `stores` name and cannot {what}.",
                code="store_not_granted",
            )

    def may_use(self, tool: str) -> bool:
        """Tell whether a tool may be carried out for the key."""
        return self.tools is None or tool in self.tools

    def require_whole_tenant(self, what: str) -> None:
        """Raise Forbidden for a key that may act for one agent only: `what` touches what all agents share."""
        if self.agent_id is not None:
            raise Forbidden(
                f"The key {self.key_name!r} may act for one agent only and cannot {what}; use a key of no agent.",
                code="bound_key",
            )
